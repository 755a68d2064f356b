//! Requests and the connection behind them: what is read, what is answered, when it closes.

use super::harness::{KEY, World, post};
use crate::shard::ListenerId;

/// A body that would be a request of its own if it were read as one.
const SMUGGLED: &str = "GET /health/ready HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn the_body_of_a_refused_request_is_never_read_as_a_request() {
    let key = format!("X-API-Key: {KEY}\r\n");
    for (listener, request, headers, status) in [
        (ListenerId::Public, "POST /health/live", "", 405),
        (ListenerId::Public, "POST /metrics", "", 405),
        (ListenerId::Public, "POST /channels", "", 401),
        (ListenerId::Public, "POST /channels", key.as_str(), 400),
        (ListenerId::Public, "POST /", "", 405),
        (ListenerId::Public, "POST /echo", "", 405),
        (ListenerId::Public, "POST /nowhere", "", 404),
        (ListenerId::Public, "POST /channels/a", "", 401),
        (ListenerId::Public, "POST /channels/a", "Origin: https://evil.org\r\n", 403),
        (ListenerId::Public, "POST /channels/a?event=gap", key.as_str(), 400),
        (ListenerId::Public, "OPTIONS /channels/a", "", 204),
        (ListenerId::Public, "GET /channels/a", "", 200),
        (ListenerId::Public, "GET /health/live", "", 200),
        (ListenerId::Internal, "POST /nowhere", "", 404),
        (ListenerId::Internal, "POST /channels/a", key.as_str(), 404),
    ] {
        let mut world = World::with(|options| {
            options.server.echo = true;
            options.server.development = true;
        });
        for framing in [
            format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len()),
        ] {
            let conn = world.connect_by(listener);
            world.send(conn, format!("{request} HTTP/1.1\r\nHost: h\r\n{headers}{framing}"));
            let answer = world.answer(conn);
            assert_eq!((answer.status, answer.header("Connection")), (status, Some("close")), "{request} {headers:?}");
            assert_eq!((world.read(conn).as_str(), world.is_closed(conn)), ("", true), "{request} {headers:?}");
        }
    }
}

#[test]
fn a_body_that_comes_too_large_closes_before_its_end() {
    let mut world = World::with(|options| options.hub.publication_bytes_max = 10);
    let conn = world.connect();
    world.send(conn, format!("POST /channels/a HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n"));
    world.send(conn, format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len()));
    assert_eq!(world.answer(conn).status, 413);
    assert_eq!((world.read(conn).as_str(), world.is_closed(conn)), ("", true));
}

#[test]
fn a_request_whose_body_was_read_or_is_none_leaves_the_connection_open() {
    let mut world = World::new();
    let conn = world.connect();
    for (request, status) in [
        (post("/channels/a", "", "x"), 200),
        (post("/channels/a", "", ""), 400),
        (post("/channels/a", "Content-Type: application/json\r\n", "{oops"), 400),
        (post("/api/publish", "", "{oops"), 400),
        (post("/api/publish", "", "{}"), 200),
        ("POST /health/live HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".to_owned(), 405),
        ("GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 404),
        ("GET /channels/a HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 200),
    ] {
        world.send(conn, &request);
        let answer = world.answer(conn);
        assert_eq!((answer.status, answer.header("Connection"), world.is_closed(conn)), (status, None, false), "{request}");
    }
}

#[test]
fn a_half_closed_client_is_answered_what_it_is_owed_and_then_closed() {
    for request in [
        "GET /channels/a HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /channels/a?since=start&wait=50 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "HEAD /channels/a HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        post("/channels/a", "", "x"),
    ] {
        let mut world = World::new();
        world.publish("a", "one");
        let conn = world.connect();
        // All before the shard gets to do anything.
        world.receive(conn, &request);
        world.finish_sending(conn);
        assert_eq!((world.answer(conn).status, world.is_closed(conn)), (200, true), "{request}");
    }
}

#[test]
fn a_half_closed_client_is_answered_all_that_it_asked_ahead() {
    let mut world = World::new();
    let conn = world.connect();
    let poll = "GET /channels/a?history=9 HTTP/1.1\r\nHost: h\r\n\r\n";
    world.receive(conn, [post("/channels/a", "", "x").as_str(), poll, &post("/channels/a", "", "y"), poll].concat());
    world.finish_sending(conn);
    let counts: Vec<Option<usize>> = (0..4).map(|_| world.answer(conn).json()["messages"].as_array().map(Vec::len)).collect();
    assert_eq!((counts.as_slice(), world.is_closed(conn)), (&[None, Some(1), None, Some(2)][..], true));
}

#[test]
fn whoever_waits_for_what_may_come_and_hangs_up_is_gone() {
    for target in ["/channels/a?wait=50", "/channels/a?via=sse", "/channels/a?via=stream"] {
        let mut world = World::new();
        let conn = world.open(target, "");
        world.read(conn);
        world.finish_sending(conn);
        assert_eq!((world.read(conn).as_str(), world.is_closed(conn)), ("", true), "{target}");
        assert_eq!(world.shards[0].local.subscriptions(), 0, "{target}");
    }
    // Half a request is none.
    let mut world = World::new();
    for half in ["GET / HTTP/1.1\r\nHo".to_owned(), post("/channels/a", "", "xyz").replace("xyz", "x")] {
        let conn = world.connect();
        world.send(conn, half);
        world.finish_sending(conn);
        assert_eq!((world.read(conn).as_str(), world.is_closed(conn)), ("", true));
    }
}
