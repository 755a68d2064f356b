//! What becomes of a request that goes to an upstream, whichever side fails, stalls or leaves.

use std::sync::Arc;
use std::time::Duration;

use super::Options;
use super::held_tests::options;
use super::rig_tests::Rig;
use crate::base::ConnId;
use crate::proxy::{Route, Upstream};
use crate::shard::{ConnectCause, GoneCause};

const GET: &str = "GET /app HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const UPGRADE: &str = "GET /app HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: z\r\n\r\n";

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn with(change: impl FnOnce(&mut Upstream)) -> Options {
    let mut options = options();
    change(&mut options.proxy.upstreams[0]);
    options
}

fn request(rig: &mut Rig) -> ConnId {
    let conn = rig.accept();
    rig.send(conn, GET);
    conn
}

#[track_caller]
fn check_error(rig: &mut Rig, conn: ConnId, status: u16, words: &str, reason: &str) {
    let answer = rig.got(conn);
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(words), "{answer}");
    assert_eq!(rig.metric(&format!("upstream_errors_total{{upstream=\"app\",reason=\"{reason}\"}}")), 1);
}

#[test]
fn what_cannot_be_connected_to_is_told_with_the_reason() {
    for (cause, status, words, reason) in [
        (ConnectCause::Refused, 502, "refused the connection", "connect_refused"),
        (ConnectCause::Unreachable, 502, "cannot be reached", "connect_unreachable"),
        (ConnectCause::TimedOut, 504, "did not accept the connection in time", "connect_timed_out"),
        (ConnectCause::Local, 503, "raise the descriptor limit", "connect_local"),
    ] {
        let mut rig = Rig::new(options());
        let conn = request(&mut rig);
        rig.connect_fails(cause);
        check_error(&mut rig, conn, status, words, reason);
        assert_eq!(rig.closed(conn), None, "the client may ask again");
    }
}

#[test]
fn each_wait_has_its_own_end() {
    let mut rig = Rig::new(options());
    let conn = request(&mut rig);
    rig.advance(seconds(6));
    check_error(&mut rig, conn, 504, "did not accept the connection in time", "connect_timed_out");

    let mut rig = Rig::new(options());
    let conn = request(&mut rig);
    let up = rig.connected();
    rig.advance(seconds(59));
    assert_eq!(rig.got(conn), "");
    rig.advance(seconds(2));
    check_error(&mut rig, conn, 504, "did not begin to answer in time", "response_timed_out");
    assert!(rig.closed(up).is_some());

    let mut rig = Rig::new(options());
    let conn = request(&mut rig);
    let up = rig.connected();
    rig.send(up, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
    rig.advance(seconds(119));
    rig.send(up, "6");
    rig.advance(seconds(119));
    assert_eq!(rig.closed(conn), None, "a byte in time is enough");
    rig.advance(seconds(2));
    assert!(rig.closed(conn).is_some() && rig.closed(up).is_some(), "the client sees that it is cut short");
    assert_eq!(rig.metric("upstream_errors_total{upstream=\"app\",reason=\"body_timed_out\"}"), 1);
}

#[test]
fn connections_and_waiting_requests_are_limited() {
    let mut rig = Rig::new(with(|upstream| (upstream.connections_max, upstream.waiting_max) = (1, 1)));
    let first = request(&mut rig);
    let up = rig.connected();
    let second = request(&mut rig);
    let third = request(&mut rig);
    check_error(&mut rig, third, 503, "too many requests wait", "busy");
    rig.send(up, OK);
    assert!(rig.got(first).ends_with("ok"));
    assert!(rig.got(up).ends_with("\r\n\r\n"), "the next one has the connection");
    rig.send(up, OK);
    assert!(rig.got(second).ends_with("ok"));
    let fourth = request(&mut rig);
    let fifth = request(&mut rig);
    rig.advance(seconds(6));
    check_error(&mut rig, fifth, 503, "no connection became free in time", "wait_timed_out");
    rig.send(up, OK);
    assert!(rig.got(fourth).ends_with("ok"));
}

#[test]
fn idle_connections_are_kept_for_a_while() {
    let mut rig = Rig::new(options());
    let conn = request(&mut rig);
    let up = rig.connected();
    rig.send(up, OK);
    rig.send(conn, GET);
    assert!(rig.connects.is_empty(), "the kept connection serves again");
    rig.send(up, OK);
    assert_eq!(rig.got(conn).matches("\r\n\r\nok").count(), 2);
    rig.advance(seconds(121));
    assert!(rig.closed(up).is_some());
    let conn = request(&mut rig);
    rig.connected();
    assert_eq!(rig.got(conn), "");
}

#[test]
fn a_request_on_a_connection_that_was_closed_meanwhile_is_sent_again_once() {
    let mut rig = Rig::new(options());
    let conn = request(&mut rig);
    let up = rig.connected();
    rig.send(up, OK);
    rig.got(conn);
    rig.send(conn, GET);
    rig.gone(up, GoneCause::Reset);
    let again = rig.connected();
    assert!(rig.got(again).starts_with("GET /app"));
    rig.gone(again, GoneCause::Reset);
    assert!(rig.got(conn).starts_with("HTTP/1.1 502"), "a fresh connection that fails is the upstream's answer");
    // What may not be repeated is not.
    let conn = request(&mut rig);
    let up = rig.connected();
    rig.send(up, OK);
    rig.got(conn);
    rig.send(conn, "POST /app HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
    rig.gone(up, GoneCause::Reset);
    assert!(rig.got(conn).starts_with("HTTP/1.1 502") && rig.connects.is_empty());
}

#[test]
fn a_client_that_waits_to_be_asked_for_its_body_is_asked_by_the_upstream() {
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    rig.send(conn, "POST /app HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    let up = rig.connected();
    assert!(rig.got(up).contains("Expect: 100-continue\r\n"));
    rig.advance(seconds(40));
    assert_eq!(rig.got(conn), "", "it is not the client that is late");
    rig.send(up, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(rig.got(conn), "HTTP/1.1 100 Continue\r\n\r\n");
    rig.send(conn, "abc");
    assert_eq!(rig.got(up), "abc");
    rig.send(up, OK);
    assert!(rig.got(conn).ends_with("ok"));
}

#[test]
fn an_early_answer_ends_both_connections() {
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    rig.send(conn, "POST /app HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nabc");
    let up = rig.connected();
    rig.send(up, "HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n");
    let answer = rig.got(conn);
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("Connection: close"), "{answer}");
    assert!(rig.closed(conn).is_some() && rig.closed(up).is_some());
}

#[test]
fn a_slow_upload_is_the_clients_fault() {
    for at_once in [0, 100] {
        let mut rig = Rig::new(options());
        let conn = rig.accept();
        let body = "x".repeat(at_once);
        rig.send(conn, format!("POST /app HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n{body}"));
        let up = rig.connected();
        let mut waited = 0;
        while rig.closed(conn).is_none() {
            rig.advance(seconds(10));
            waited += 10;
            assert!(waited <= 50, "a byte now and then holds it");
            if rig.closed(conn).is_none() && at_once > 0 {
                rig.send(conn, "x");
            }
        }
        assert!(rig.got(conn).starts_with("HTTP/1.1 408"));
        assert!(rig.closed(up).is_some());
        assert_eq!(rig.metric("upstream_errors_total{upstream=\"app\",reason=\"response_timed_out\"}"), 0);
    }
}

#[test]
fn an_upload_that_the_upstream_does_not_take_is_the_upstreams_fault() {
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    let request = format!("POST /app HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(900_000));
    rig.send(conn, &request);
    let up = rig.connected();
    rig.give_room(up, 0);
    rig.send(conn, &request);
    assert!(rig.is_paused(conn));
    rig.advance(seconds(50));
    assert_eq!(rig.closed(conn), None, "the client would send if it were read");
    rig.advance(seconds(11));
    check_error(&mut rig, conn, 504, "did not begin to answer in time", "response_timed_out");
}

#[test]
fn a_slow_body_for_a_door_is_cut_too() {
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    rig.send(conn, "POST /channels/a HTTP/1.1\r\nHost: h\r\nX-API-Key: k\r\nContent-Length: 1000\r\n\r\n");
    for _ in 0..4 {
        rig.advance(seconds(10));
        if rig.closed(conn).is_none() {
            rig.send(conn, "x");
        }
    }
    assert!(rig.got(conn).starts_with("HTTP/1.1 408"));
}

#[test]
fn a_reload_lets_exchanges_end_where_they_are() {
    let mut rig = Rig::new(options());
    let conn = request(&mut rig);
    let old = rig.connected();
    let idle = request(&mut rig);
    let idle_up = rig.connected();
    rig.send(idle_up, OK);
    rig.got(idle);
    let mut fresh = options();
    fresh.proxy.upstreams = vec![
        Upstream::new("other", vec![([127, 0, 0, 1], 3001).into()]),
        Upstream::new("app", vec![([127, 0, 0, 1], 3002).into()]),
    ];
    fresh.proxy.routes = vec![
        Route { host: None, path: "/new".to_owned(), upstream: 0 },
        Route { host: None, path: "/app".to_owned(), upstream: 1 },
    ];
    rig.shard.reload(Arc::new(fresh));
    rig.settle();
    assert!(rig.closed(idle_up).is_some(), "nobody will use it again");
    assert_eq!(rig.closed(idle), None);
    rig.send(old, OK);
    assert!(rig.got(conn).ends_with("ok"));
    assert!(rig.closed(old).is_some() && rig.closed(conn).is_none());
    rig.send(conn, GET);
    assert_eq!(rig.connects[0].1.port(), 3002);
    rig.send(idle, "GET /new HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(rig.connects[1].1.port(), 3001);
}

#[test]
fn a_drain_waits_for_exchanges_and_not_for_pools() {
    let mut rig = Rig::new(options());
    let conn = request(&mut rig);
    let up = rig.connected();
    let idle = request(&mut rig);
    let idle_up = rig.connected();
    rig.send(idle_up, OK);
    rig.got(idle);
    rig.shard.drain(seconds(10), rig.now);
    rig.settle();
    assert!(rig.closed(idle_up).is_some());
    (0..7).for_each(|_| rig.advance(seconds(1)));
    assert!(rig.closed(idle).is_some() && rig.closed(conn).is_none() && !rig.shard.is_drained(rig.now));
    rig.send(up, OK);
    let answer = rig.got(conn);
    assert!(answer.ends_with("ok"), "{answer}");
    assert!(rig.closed(up).is_some() && rig.closed(conn).is_some());
    assert!(rig.shard.is_drained(rig.now), "long before its time is up");
}

#[test]
fn a_drain_tells_both_sides_of_a_tunnel_between_two_frames() {
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    rig.send(conn, UPGRADE);
    let up = rig.connected();
    rig.send(up, SWITCHED);
    rig.send(up, [&[0x82, 10][..], b"12345"].concat());
    rig.got(conn);
    rig.got(up);
    rig.shard.drain(seconds(10), rig.now);
    rig.advance(seconds(7));
    assert_eq!(rig.closed(conn), None, "in the middle of a frame");
    rig.send(up, "67890");
    let told = rig.got_bytes(conn);
    assert_eq!(told[..9], [b"67890".as_slice(), &[0x88, 10, 3, 0xe9]].concat());
    assert_eq!(told[9..], *b"shutdown");
    assert_eq!(rig.got_bytes(up)[0], 0x88);
    assert!(rig.closed(conn).is_some() && rig.closed(up).is_some() && rig.shard.is_drained(rig.now));
}

#[test]
fn values_in_another_encoding_pass_and_mean_nothing_to_our_doors() {
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    rig.send(conn, b"GET /app HTTP/1.1\r\nHost: h\r\nCookie: a=\xe9\r\n\r\n");
    let up = rig.connected();
    let passed = rig.got_bytes(up);
    assert!(passed.windows(11).any(|window| window == b"Cookie: a=\xe9"), "{passed:?}");
    let conn = rig.accept();
    rig.send(conn, b"GET /channels/a HTTP/1.1\r\nHost: h\r\nCookie: a=\xe9\r\n\r\n");
    assert!(rig.got(conn).starts_with("HTTP/1.1 400"));
}

#[test]
fn a_field_that_must_be_single_is_not_taken_from_the_first_of_two() {
    let mut rig = Rig::new(options());
    for (fields, status) in [("Origin: http://h\r\nOrigin: http://evil.example\r\n", 403), ("Origin: http://h\r\n", 200)] {
        let answer = rig.ask(&format!("GET /channels/a HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    let answer = rig.ask("HEAD /echo HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("Allow: GET\r\n"), "{answer}");
}

#[test]
fn every_answer_of_ours_says_when_it_was_made() {
    let mut rig = Rig::new(options());
    for request in [
        "GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /channels/a HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /channels/a?via=sse HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let answer = rig.ask(request);
        assert_eq!(answer.matches("\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\n").count(), 1, "{answer}");
    }
}
