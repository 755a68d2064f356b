//! What becomes of a request that goes to an upstream, whichever side fails, stalls or leaves.

use std::sync::Arc;
use std::time::Duration;

use super::harness::{KEY, UPGRADE, World, get, options, proxied};
use crate::base::ConnId;
use crate::proxy::{Route, Upstream};
use crate::shard::ConnectCause;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SWITCHED: &str = "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: z\r\n\r\n";

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[track_caller]
fn check_error(world: &mut World, conn: ConnId, status: u16, words: &str, reason: &str) {
    let answer = world.read(conn);
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(words), "{answer}");
    assert_eq!(world.metric(&format!("upstream_errors_total{{upstream=\"app\",reason=\"{reason}\"}}")), 1);
}

#[test]
fn what_cannot_be_connected_to_is_told_with_the_reason() {
    for (cause, status, words, reason) in [
        (ConnectCause::Refused, 502, "refused the connection", "connect_refused"),
        (ConnectCause::Unreachable, 502, "cannot be reached", "connect_unreachable"),
        (ConnectCause::TimedOut, 504, "did not accept the connection in time", "connect_timed_out"),
        (ConnectCause::Local, 503, "raise the descriptor limit", "connect_local"),
    ] {
        let mut world = World::with(proxied);
        let conn = world.open("/app", "");
        world.connect_fails(cause);
        check_error(&mut world, conn, status, words, reason);
        assert!(!world.is_closed(conn), "the client may ask again");
    }
}

#[test]
fn each_wait_has_its_own_end() {
    let mut world = World::with(proxied);
    let conn = world.open("/app", "");
    world.pass(seconds(6));
    check_error(&mut world, conn, 504, "did not accept the connection in time", "connect_timed_out");

    let mut world = World::with(proxied);
    let conn = world.open("/app", "");
    let up = world.connected();
    world.pass(seconds(59));
    assert_eq!(world.read(conn), "");
    world.pass(seconds(2));
    check_error(&mut world, conn, 504, "did not begin to answer in time", "response_timed_out");
    assert!(world.is_closed(up));

    let mut world = World::with(proxied);
    let conn = world.open("/app", "");
    let up = world.connected();
    world.send(up, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
    world.pass(seconds(119));
    world.send(up, "6");
    world.pass(seconds(119));
    assert!(!world.is_closed(conn), "a byte in time is enough");
    world.pass(seconds(2));
    assert!(world.is_closed(conn) && world.is_closed(up), "the client sees that it is cut short");
    assert_eq!(world.metric("upstream_errors_total{upstream=\"app\",reason=\"body_timed_out\"}"), 1);
}

#[test]
fn connections_and_waiting_requests_are_limited() {
    let mut world = World::with(|options| {
        proxied(options);
        let upstream = &mut options.proxy.upstreams[0];
        (upstream.connections_max, upstream.waiting_max) = (1, 1);
    });
    let first = world.open("/app", "");
    let up = world.connected();
    let second = world.open("/app", "");
    let third = world.open("/app", "");
    check_error(&mut world, third, 503, "too many requests wait", "busy");
    world.send(up, OK);
    assert!(world.read(first).ends_with("ok"));
    assert!(world.read(up).ends_with("\r\n\r\n"), "the next one has the connection");
    world.send(up, OK);
    assert!(world.read(second).ends_with("ok"));
    let fourth = world.open("/app", "");
    let fifth = world.open("/app", "");
    world.pass(seconds(6));
    check_error(&mut world, fifth, 503, "no connection became free in time", "wait_timed_out");
    world.send(up, OK);
    assert!(world.read(fourth).ends_with("ok"));
}

#[test]
fn idle_connections_are_kept_for_a_while() {
    let mut world = World::with(proxied);
    let conn = world.open("/app", "");
    let up = world.connected();
    world.send(up, OK);
    world.send(conn, get("/app", ""));
    assert!(world.connects.is_empty(), "the kept connection serves again");
    world.send(up, OK);
    assert_eq!(world.read(conn).matches("\r\n\r\nok").count(), 2);
    world.pass(seconds(121));
    assert!(world.is_closed(up));
    let conn = world.open("/app", "");
    world.connected();
    assert_eq!(world.read(conn), "");
}

#[test]
fn a_fresh_connection_that_fails_is_the_upstreams_answer() {
    let mut world = World::with(proxied);
    let conn = world.open("/app", "");
    let up = world.connected();
    world.reset(up);
    assert!(world.connects.is_empty(), "it was not stale, and the request may have been acted on");
    check_error(&mut world, conn, 502, "closed the connection", "closed_early");
}

#[test]
fn a_request_on_a_connection_that_was_closed_meanwhile_is_sent_again_once() {
    let mut world = World::with(proxied);
    let conn = world.open("/app", "");
    let up = world.connected();
    world.send(up, OK);
    world.read(conn);
    world.send(conn, get("/app", ""));
    world.reset(up);
    let again = world.connected();
    assert!(world.read(again).starts_with("GET /app"));
    world.reset(again);
    assert!(world.read(conn).starts_with("HTTP/1.1 502"), "a fresh connection that fails is the upstream's answer");
    // What may not be repeated is not.
    let conn = world.open("/app", "");
    let up = world.connected();
    world.send(up, OK);
    world.read(conn);
    world.send(conn, "POST /app HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
    world.reset(up);
    assert!(world.read(conn).starts_with("HTTP/1.1 502") && world.connects.is_empty());
}

#[test]
fn a_client_that_waits_to_be_asked_for_its_body_is_asked_by_the_upstream() {
    let mut world = World::with(proxied);
    let conn = world.request("POST /app HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    let up = world.connected();
    assert!(world.read(up).contains("Expect: 100-continue\r\n"));
    world.pass(seconds(40));
    assert_eq!(world.read(conn), "", "it is not the client that is late");
    world.send(up, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(world.read(conn), "HTTP/1.1 100 Continue\r\n\r\n");
    world.send(conn, "abc");
    assert_eq!(world.read(up), "abc");
    world.send(up, OK);
    assert!(world.read(conn).ends_with("ok"));
}

#[test]
fn an_early_answer_ends_both_connections() {
    let mut world = World::with(proxied);
    let conn = world.request("POST /app HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nabc");
    let up = world.connected();
    world.send(up, "HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n");
    let answer = world.read(conn);
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("Connection: close"), "{answer}");
    assert!(world.is_closed(conn) && world.is_closed(up));
}

#[test]
fn a_slow_upload_is_the_clients_fault() {
    for at_once in [0, 100] {
        let mut world = World::with(proxied);
        let body = "x".repeat(at_once);
        let conn = world.request(&format!("POST /app HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n{body}"));
        let up = world.connected();
        let mut waited = 0;
        while !world.is_closed(conn) {
            world.pass(seconds(10));
            waited += 10;
            assert!(waited <= 50, "a byte now and then holds it");
            if !world.is_closed(conn) && at_once > 0 {
                world.send(conn, "x");
            }
        }
        assert!(world.read(conn).starts_with("HTTP/1.1 408"));
        assert!(world.is_closed(up));
        assert_eq!(world.try_metric("upstream_errors_total{upstream=\"app\",reason=\"response_timed_out\"}"), None);
    }
}

#[test]
fn an_upload_that_the_upstream_does_not_take_is_the_upstreams_fault() {
    let mut world = World::with(proxied);
    let conn = world.connect();
    let request = format!("POST /app HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(900_000));
    world.offer(conn, &request);
    let up = world.connected();
    world.stall(up);
    world.offer(conn, &request);
    assert!(world.is_paused(conn));
    world.pass(seconds(50));
    assert!(!world.is_closed(conn), "the client would send if it were read");
    world.pass(seconds(11));
    check_error(&mut world, conn, 504, "did not begin to answer in time", "response_timed_out");
}

#[test]
fn a_client_that_is_read_again_has_its_whole_time_to_send() {
    let mut world = World::with(proxied);
    let conn = world.request("POST /app HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
    let up = world.connected();
    world.stall(up);
    world.send(conn, "x");
    assert!(world.is_paused(conn));
    world.pass(seconds(50));
    world.unstall(up);
    assert!(!world.is_paused(conn));
    world.pass(seconds(29));
    assert!(!world.is_closed(conn), "what it could not send meanwhile is not its fault");
    world.send(conn, "x");
    world.pass(seconds(2));
    assert!(world.read(conn).starts_with("HTTP/1.1 408"), "but from there on it is held to its pace");
}

#[test]
fn a_slow_body_for_a_door_is_cut_too() {
    let mut world = World::with(proxied);
    let conn = world.request(&format!("POST /channels/a HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\nContent-Length: 1000\r\n\r\n"));
    for _ in 0..4 {
        world.pass(seconds(10));
        if !world.is_closed(conn) {
            world.send(conn, "x");
        }
    }
    assert!(world.read(conn).starts_with("HTTP/1.1 408"));
}

#[test]
fn a_reload_lets_exchanges_end_where_they_are() {
    let mut world = World::with(proxied);
    let conn = world.open("/app", "");
    let old = world.connected();
    let idle = world.open("/app", "");
    let idle_up = world.connected();
    world.send(idle_up, OK);
    world.read(idle);
    let mut fresh = options();
    proxied(&mut fresh);
    fresh.proxy.upstreams = vec![
        Upstream::new("other", vec![([127, 0, 0, 1], 3001).into()]),
        Upstream::new("app", vec![([127, 0, 0, 1], 3002).into()]),
    ];
    fresh.proxy.routes = vec![
        Route { host: None, path: "/new".to_owned(), upstream: 0 },
        Route { host: None, path: "/app".to_owned(), upstream: 1 },
    ];
    world.shards[0].reload(Arc::new(fresh));
    world.settle();
    assert!(world.is_closed(idle_up), "nobody will use it again");
    assert!(!world.is_closed(idle));
    world.send(old, OK);
    assert!(world.read(conn).ends_with("ok"));
    assert!(world.is_closed(old) && !world.is_closed(conn));
    world.send(conn, get("/app", ""));
    assert_eq!(world.connects[0].address.port(), 3002);
    world.send(idle, get("/new", ""));
    assert_eq!(world.connects[1].address.port(), 3001);
}

#[test]
fn a_drain_waits_for_exchanges_and_not_for_pools() {
    let mut world = World::with(proxied);
    let conn = world.open("/app", "");
    let up = world.connected();
    let idle = world.open("/app", "");
    let idle_up = world.connected();
    world.send(idle_up, OK);
    world.read(idle);
    world.drain(seconds(10));
    assert!(world.is_closed(idle_up));
    world.pass(seconds(7));
    assert!(world.is_closed(idle) && !world.is_closed(conn) && !world.shards[0].is_drained(world.now));
    world.send(up, OK);
    let answer = world.read(conn);
    assert!(answer.ends_with("ok"), "{answer}");
    assert!(world.is_closed(up) && world.is_closed(conn));
    assert!(world.shards[0].is_drained(world.now), "long before its time is up");
}

#[test]
fn a_drain_tells_both_sides_of_a_tunnel_between_two_frames() {
    let mut world = World::with(proxied);
    let conn = world.open("/app", UPGRADE);
    let up = world.connected();
    world.send(up, SWITCHED);
    world.send(up, [&[0x82, 10][..], b"12345"].concat());
    world.read_bytes(conn);
    world.read_bytes(up);
    world.drain(seconds(10));
    world.pass(seconds(7));
    assert!(!world.is_closed(conn), "in the middle of a frame");
    world.send(up, "67890");
    let told = world.read_bytes(conn);
    assert_eq!(told[..9], [b"67890".as_slice(), &[0x88, 10, 3, 0xe9]].concat());
    assert_eq!(told[9..], *b"shutdown");
    assert_eq!(world.read_bytes(up)[0], 0x88);
    assert!(world.is_closed(conn) && world.is_closed(up) && world.shards[0].is_drained(world.now));
}

#[test]
fn values_in_another_encoding_pass_and_mean_nothing_to_our_doors() {
    let mut world = World::with(proxied);
    let conn = world.connect();
    world.send(conn, b"GET /app HTTP/1.1\r\nHost: h\r\nCookie: a=\xe9\r\n\r\n");
    let up = world.connected();
    let passed = world.read_bytes(up);
    assert!(passed.windows(11).any(|window| window == b"Cookie: a=\xe9"), "{passed:?}");
    let conn = world.connect();
    world.send(conn, b"GET /channels/a HTTP/1.1\r\nHost: h\r\nCookie: a=\xe9\r\n\r\n");
    assert!(world.read(conn).starts_with("HTTP/1.1 400"));
}

#[test]
fn a_field_that_must_be_single_is_not_taken_from_the_first_of_two() {
    let mut world = World::with(proxied);
    for (fields, status) in [("Origin: http://h\r\nOrigin: http://evil.example\r\n", 403), ("Origin: http://h\r\n", 200)] {
        assert_eq!(world.get("/channels/a", fields).status, status, "{fields}");
    }
    let answer = world.ask("HEAD /echo HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((answer.status, answer.header("Allow")), (405, Some("GET")));
}

#[test]
fn every_answer_of_ours_says_when_it_was_made() {
    let mut world = World::with(proxied);
    for request in [
        &get("/health/live", ""),
        &get("/channels/a", ""),
        &get("/channels/a?via=sse", ""),
        &get("/nowhere", ""),
        "nonsense\r\n\r\n",
    ] {
        let answer = world.ask(request);
        assert_eq!(answer.head.matches("\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\n").count(), 1, "{answer:?}");
    }
}
