//! What one client may make a worker hold.

use std::time::Duration;

use super::harness::{World, frame, get, post, proxied};
use crate::shard::connections::Pause;
use crate::ws::Opcode;

const LIVE: &str = "GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn requests_behind_one_that_waits_are_not_read() {
    for first in [get("/channels/a?wait=50", ""), get("/app", "")] {
        let mut world = World::with(proxied);
        let conn = world.connect();
        let flood = first.repeat((1 << 20) / first.len());
        let read = world.offer(conn, &flood);
        assert!(read <= 8 << 10, "{read} bytes of {first:?}");
        // What was on its way when reading stopped is kept, and reading does not start again for it.
        world.receive(conn, &flood.as_bytes()[read..read + 2048]);
        world.settle();
        assert!(world.is_paused(conn));
    }
}

#[test]
fn polls_sent_ahead_are_each_answered_and_then_read_again() {
    let mut world = World::with(proxied);
    let conn = world.connect();
    let poll = get("/channels/a?wait=1", "");
    let read = world.offer(conn, poll.repeat(1000));
    // A turn that comes a little late answers one: the wait of the next begins with it.
    let next = |world: &mut World| {
        world.jump(Duration::from_millis(1100));
        world.settle();
    };
    // The last of them is being answered when nothing is held any more.
    for _ in 0..read / poll.len() - 1 {
        assert!(world.is_paused(conn), "read again before all that is held was acted on");
        next(&mut world);
        assert_eq!(world.read(conn).matches("HTTP/1.1 200").count(), 1);
    }
    next(&mut world);
    assert!(!world.is_paused(conn));
}

#[test]
fn a_client_that_takes_no_answers_is_not_asked_for_more_and_not_cut() {
    let mut world = World::with(proxied);
    let conn = world.connect();
    world.stall(conn);
    let flood = LIVE.repeat(20_000);
    let read = world.offer(conn, &flood);
    assert!(read < 200 << 10, "{read} bytes were read");
    let queued = world.shards[0].connections.queued_bytes();
    assert!(queued < 66 << 10, "{queued} bytes wait");
    assert!(!world.is_closed(conn));
    world.unstall(conn);
    let mut rest = read;
    while rest < flood.len() {
        assert!(!world.is_paused(conn), "not read again after {rest} bytes");
        rest += world.offer(conn, &flood[rest..]);
    }
    assert_eq!(world.read(conn).matches("{\"live\":true}").count(), 20_000);
}

#[test]
fn one_turn_answers_no_more_than_may_wait() {
    let mut world = World::with(proxied);
    let conn = world.connect();
    for piece in LIVE.repeat(20_000).as_bytes().chunks(2048) {
        world.receive(conn, piece);
    }
    let queued = world.shards[0].connections.queued_bytes();
    assert!(queued < 66 << 10, "{queued} bytes wait");
    world.settle();
    assert_eq!(world.read(conn).matches("{\"live\":true}").count(), 20_000, "all the same, each is answered");
}

#[test]
fn a_websocket_that_takes_no_answers_is_not_asked_for_more() {
    let mut world = World::with(proxied);
    let conn = world.websocket("/echo", "");
    world.stall(conn);
    let flood = frame(Opcode::Text, "x".repeat(100)).repeat(10_000);
    let read = world.offer(conn, &flood);
    assert!(read < 80 << 10, "{read} bytes were read");
    assert!(world.shards[0].connections.queued_bytes() < 66 << 10);
    world.unstall(conn);
    let mut rest = read;
    while rest < flood.len() {
        assert!(!world.is_paused(conn) && !world.is_closed(conn), "not read again after {rest} bytes");
        rest += world.offer(conn, &flood[rest..]);
    }
    assert_eq!(world.texts(conn).concat().matches('x').count(), 1_000_000);
}

#[test]
fn what_was_asked_before_the_end_of_input_is_answered() {
    let mut world = World::with(proxied);
    let conn = world.connect();
    world.receive(conn, post("/channels/a", "", "1") + LIVE);
    world.finish_sending(conn);
    let answers = world.read(conn);
    assert!(answers.contains("\"position\"") && answers.ends_with("{\"live\":true}"), "{answers}");
    assert!(world.is_closed(conn));
}

#[test]
fn an_upload_waits_for_its_connection_and_then_passes() {
    let mut world = World::with(proxied);
    let conn = world.connect();
    let body = "x".repeat(50_000);
    let request = format!("POST /app HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}{LIVE}", body.len());
    let read = world.offer(conn, &request);
    assert!(read <= 8 << 10, "{read} bytes were read");
    let up = world.connected();
    assert!(!world.is_paused(conn));
    world.send(conn, &request[read..]);
    let passed = world.read(up);
    assert!(passed.ends_with(&format!("\r\n\r\n{body}")));
    world.send(up, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let answers = world.read(conn);
    assert!(answers.contains("\r\n\r\nokHTTP/1.1 200") && answers.ends_with("{\"live\":true}"), "{answers}");
}

#[test]
fn a_backend_is_not_read_for_a_client_that_is_behind() {
    let mut world = World::with(proxied);
    let conn = world.open("/app", "");
    let up = world.connected();
    world.receive(up, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
    let body = vec![b'y'; 1_000_000];
    // All in one turn, in which no refusal can come back.
    let mut sent = 0;
    while !world.shards[0].connections.is_paused_by(up, Pause::COUNTERPART) {
        world.receive(up, &body[sent..sent + 2000]);
        sent += 2000;
    }
    assert!(sent <= 36 << 10, "{sent} bytes were read in one turn");
    world.stall(conn);
    world.settle();
    assert!(world.is_paused(up));
    world.unstall(conn);
    while sent < body.len() {
        let read = world.offer(up, &body[sent..]);
        assert!(read > 0, "not read again after {sent} bytes");
        sent += read;
    }
    assert_eq!(world.read(conn).matches('y').count(), 1_000_000);
}

#[test]
fn either_side_of_an_exchange_is_stopped_by_the_first_refusal_of_the_other() {
    let mut world = World::with(proxied);
    let conn = world.request("POST /app HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n");
    let up = world.connected();
    for (writer, reader, bytes) in [(conn, up, "12345"), (up, conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")] {
        world.stall(reader);
        world.send(writer, bytes);
        assert!(world.is_paused(writer), "the next receive would have to be held");
        world.give_room(reader, 3);
        assert!(world.is_paused(writer), "something still waits");
        world.unstall(reader);
        assert!(!world.is_paused(writer));
    }
}
