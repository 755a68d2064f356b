//! What a drain means to those who are connected, and to those who ask during it.

use std::time::Duration;

use super::harness::{Told, UPGRADE, World, post};
use crate::base::Now;

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn everybody_is_told_to_go_within_the_limit_that_the_drain_was_given() {
    let mut world = World::new();
    let sockets: Vec<_> = (0..200).map(|_| world.websocket("/channels/a", "")).collect();
    let begin = world.now;
    // Less than the configured time: Ctrl-C on a terminal is in a hurry.
    world.drain(Duration::from_secs(1));
    world.pass(Duration::from_millis(700));
    let told = sockets.iter().filter(|&&conn| matches!(world.told(conn).last(), Some(Told::Close(1001, _)))).count();
    assert_eq!(told, 200);
    assert!(!world.shards[0].is_drained(world.now), "nobody has said goodbye");
    let end = Now { monotonic: begin.monotonic + Duration::from_secs(1), ..begin };
    assert!(world.shards[0].is_drained(end));
}

#[test]
fn what_is_asked_during_a_drain_is_told_to_go_at_once() {
    let mut world = World::with(|options| options.server.echo = true);
    world.publish("a", "one");
    // Their requests are under way when the drain passes them by.
    let half = |world: &mut World, request: &str| {
        let conn = world.connect();
        world.send(conn, &request[..request.len() - 2]);
        conn
    };
    let socket = half(&mut world, &format!("GET /channels/a HTTP/1.1\r\nHost: h\r\n{UPGRADE}\r\n"));
    let echo = half(&mut world, &format!("GET /echo HTTP/1.1\r\nHost: h\r\n{UPGRADE}\r\n"));
    let poll = half(&mut world, "GET /channels/a?wait=50 HTTP/1.1\r\nHost: h\r\n\r\n");
    let full = half(&mut world, "GET /channels/a?wait=50&since=start HTTP/1.1\r\nHost: h\r\n\r\n");
    let events = half(&mut world, "GET /channels/a?via=sse HTTP/1.1\r\nHost: h\r\n\r\n");
    let lines = half(&mut world, "GET /channels/a?via=stream HTTP/1.0\r\nHost: h\r\n\r\n");
    let ready = half(&mut world, "GET /health/ready HTTP/1.1\r\nHost: h\r\n\r\n");
    world.drain(LIMIT);
    for conn in [socket, echo, poll, full, events, lines, ready] {
        world.send(conn, "\r\n");
    }
    for conn in [socket, echo] {
        assert_eq!(world.answer(conn).status, 101);
        let (code, retry_ms) = world.close_and_retry(conn);
        assert!(code == 1001 && (1000..=4001).contains(&retry_ms), "{code}, {retry_ms} ms");
    }
    let answer = world.answer(poll);
    assert_eq!((answer.json()["messages"].as_array().map(Vec::len), answer.header("Connection")), (Some(0), Some("close")));
    assert_eq!(world.answer(full).json()["messages"][0]["data"], "one");
    let answer = world.answer(events);
    let said = world.read(events);
    assert!(answer.status == 200 && said.contains("retry: ") && said.contains("event: end\n"), "{said}");
    assert_eq!(world.answer(lines).status, 200);
    let end: serde_json::Value = serde_json::from_str(&world.read(lines)).expect("one line");
    assert_eq!((end["end"]["code"].as_u64(), end["end"]["reconnect"].as_bool()), (Some(3001), Some(true)));
    assert_eq!(world.answer(ready).status, 503);
    for conn in [poll, full, events, lines, ready] {
        assert!(world.is_closed(conn));
    }
}

#[test]
fn a_waiting_poll_is_answered_by_the_drain_and_half_a_publication_is_still_taken() {
    let mut world = World::new();
    let poll = world.open("/channels/a?wait=50", "");
    let publisher = world.connect();
    let request = post("/channels/a", "", "xyz");
    world.send(publisher, &request[..request.len() - 1]);
    let idle = world.connect();
    let lines = world.open("/channels/a?via=stream", "");
    world.read(lines);
    world.drain(LIMIT);
    world.pass(LIMIT.mul_f64(0.7));
    let answer = world.answer(poll);
    assert_eq!((answer.status, answer.json()["messages"].as_array().map(Vec::len)), (200, Some(0)));
    let end = world.read(lines);
    assert!(
        end.contains(r#"{"end":{"code":3001,"reason":"shutdown","reconnect":true,"retry_ms":"#) && end.ends_with("0\r\n\r\n"),
        "{end}"
    );
    world.send(publisher, &request[request.len() - 1..]);
    assert_eq!(world.answer(publisher).status, 200);
    for conn in [poll, idle, lines, publisher] {
        assert!(world.is_closed(conn));
    }
    assert!(world.shards[0].is_drained(world.now));
}

#[test]
fn a_poll_that_a_home_still_owes_is_not_refused_by_the_drain() {
    let mut world = World::of(2, |_| {});
    world.hold_mail(1);
    let poll = world.open(&format!("/channels/{}?wait=50", world.channel_at(1)), "");
    world.drain(LIMIT);
    world.pass(Duration::from_secs(1));
    assert!(world.try_answer(poll).is_none(), "the home may answer yet");
    world.pass(Duration::from_secs(5));
    assert_eq!(world.answer(poll).status, 503);
}
