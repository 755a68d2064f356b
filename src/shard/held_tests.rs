//! What one client may make a worker hold.

use std::time::Duration;

use super::Options;
use super::rig_tests::Rig;
use crate::hub::{Access, Namespace};
use crate::proxy::{Route, Upstream};

const LIVE: &str = "GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n";

pub(super) fn options() -> Options {
    let mut options = Options::default();
    options.server.api_key = "k".to_owned();
    options.server.echo = true;
    options.hub.namespaces =
        vec![Namespace { allow_subscribe: Access::Anyone, allow_publish: Access::Anyone, ..Namespace::default() }];
    options.proxy.upstreams = vec![Upstream::new("app", vec![([127, 0, 0, 1], 3000).into()])];
    options.proxy.routes = vec![Route { host: None, path: "/app".to_owned(), upstream: 0 }];
    options
}

fn publish(body: &str) -> String {
    format!("POST /channels/a HTTP/1.1\r\nHost: h\r\nX-API-Key: k\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn requests_behind_one_that_waits_are_not_read() {
    for first in ["GET /channels/a?wait=50 HTTP/1.1\r\nHost: h\r\n\r\n", "GET /app HTTP/1.1\r\nHost: h\r\n\r\n"] {
        let mut rig = Rig::new(options());
        let conn = rig.accept();
        let flood = first.repeat((1 << 20) / first.len());
        let read = rig.send(conn, &flood);
        assert!(read <= 8 << 10, "{read} bytes of {first:?}");
        // What was on its way when reading stopped is kept, and reading does not start again for it.
        rig.receive(conn, &flood.as_bytes()[read..read + 2048]);
        rig.settle();
        assert!(rig.is_paused(conn));
    }
}

#[test]
fn polls_sent_ahead_are_each_answered_and_then_read_again() {
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    let poll = "GET /channels/a?wait=1 HTTP/1.1\r\nHost: h\r\n\r\n";
    let read = rig.send(conn, poll.repeat(1000));
    // The last of them is being answered when nothing is held any more.
    for _ in 0..read / poll.len() - 1 {
        assert!(rig.is_paused(conn), "read again before all that is held was acted on");
        rig.advance(Duration::from_millis(1100));
        assert_eq!(rig.got(conn).matches("HTTP/1.1 200").count(), 1);
    }
    rig.advance(Duration::from_millis(1100));
    assert!(!rig.is_paused(conn));
}

#[test]
fn a_client_that_takes_no_answers_is_not_asked_for_more_and_not_cut() {
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    rig.give_room(conn, 0);
    let flood = LIVE.repeat(20_000);
    let read = rig.send(conn, &flood);
    assert!(read < 200 << 10, "{read} bytes were read");
    let queued = rig.shard.connections.queued_bytes();
    assert!(queued < 66 << 10, "{queued} bytes wait");
    assert_eq!(rig.closed(conn), None);
    rig.give_room(conn, usize::MAX);
    let mut rest = read;
    while rest < flood.len() {
        assert!(!rig.is_paused(conn), "not read again after {rest} bytes");
        rest += rig.send(conn, &flood[rest..]);
    }
    assert_eq!(rig.got(conn).matches("{\"live\":true}").count(), 20_000);
}

#[test]
fn one_turn_answers_no_more_than_may_wait() {
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    for piece in LIVE.repeat(20_000).as_bytes().chunks(2048) {
        rig.receive(conn, piece);
    }
    let queued = rig.shard.connections.queued_bytes();
    assert!(queued < 66 << 10, "{queued} bytes wait");
    rig.settle();
    assert_eq!(rig.got(conn).matches("{\"live\":true}").count(), 20_000, "all the same, each is answered");
}

#[test]
fn a_websocket_that_takes_no_answers_is_not_asked_for_more() {
    let mut rig = Rig::new(options());
    let conn = rig.websocket("/echo");
    rig.give_room(conn, 0);
    let message = [&[0x81, 0x80 | 100, 0, 0, 0, 0][..], &[b'x'; 100]].concat();
    let flood = message.repeat(10_000);
    let read = rig.send(conn, &flood);
    assert!(read < 80 << 10, "{read} bytes were read");
    assert!(rig.shard.connections.queued_bytes() < 66 << 10);
    rig.give_room(conn, usize::MAX);
    let mut rest = read;
    while rest < flood.len() {
        assert!(!rig.is_paused(conn) && rig.closed(conn).is_none(), "not read again after {rest} bytes");
        rest += rig.send(conn, &flood[rest..]);
    }
    assert_eq!(rig.got(conn).matches('x').count(), 1_000_000);
}

#[test]
fn what_was_asked_before_the_end_of_input_is_answered() {
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    rig.receive(conn, format!("{}{LIVE}", publish("1")).as_bytes());
    rig.eof(conn);
    let answers = rig.got(conn);
    assert!(answers.contains("\"position\"") && answers.ends_with("{\"live\":true}"), "{answers}");
    assert!(rig.closed(conn).is_some());
}

#[test]
fn an_upload_waits_for_its_connection_and_then_passes() {
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    let body = "x".repeat(50_000);
    let request = format!("POST /app HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}{LIVE}", body.len());
    let read = rig.send(conn, &request);
    assert!(read <= 8 << 10, "{read} bytes were read");
    let up = rig.connected();
    assert!(!rig.is_paused(conn));
    assert_eq!(rig.send(conn, &request[read..]), request.len() - read);
    let passed = rig.got(up);
    assert!(passed.ends_with(&format!("\r\n\r\n{body}")));
    rig.send(up, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let answers = rig.got(conn);
    assert!(answers.contains("\r\n\r\nokHTTP/1.1 200") && answers.ends_with("{\"live\":true}"), "{answers}");
}

#[test]
fn a_backend_is_not_read_for_a_client_that_is_behind() {
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    rig.send(conn, "GET /app HTTP/1.1\r\nHost: h\r\n\r\n");
    let up = rig.connected();
    rig.receive(up, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
    let body = vec![b'y'; 1_000_000];
    // All in one turn, in which no refusal can come back.
    let mut sent = 0;
    while !rig.shard.connections.is_paused_by(up, super::connections::Pause::COUNTERPART) {
        rig.receive(up, &body[sent..sent + 2000]);
        sent += 2000;
    }
    assert!(sent <= 36 << 10, "{sent} bytes were read in one turn");
    rig.give_room(conn, 0);
    rig.settle();
    assert!(rig.is_paused(up));
    rig.give_room(conn, usize::MAX);
    while sent < body.len() {
        let read = rig.send(up, &body[sent..]);
        assert!(read > 0, "not read again after {sent} bytes");
        sent += read;
    }
    assert_eq!(rig.got(conn).matches('y').count(), 1_000_000);
}
