//! Too many at once: who comes in, what the others are told, and that those who are here notice nothing.

use std::time::Duration;

use super::harness::{World, get, namespace};
use crate::base::ConnId;
use crate::hub::Access;
use crate::shard::{Input, Options};

/// One handshake a second, which leaves room for nobody else in the first.
fn one_a_second(options: &mut Options) {
    options.server.handshakes_per_second_max = 1;
}

/// A worker of whose second a stream has taken the only handshake, and that stream.
fn full() -> (World, ConnId) {
    let mut world = World::with(one_a_second);
    let first = world.open("/channels/news?via=stream", "");
    assert!(world.read(first).contains("\"subscribed\""));
    (world, first)
}

fn refused(world: &mut World) -> u64 {
    world.try_metric("connections_refused_total{reason=\"overload\"}").unwrap_or(0)
}

#[test]
fn a_websocket_is_accepted_and_told_by_its_close() {
    let (mut world, _) = full();
    for target in ["/channels/news", "/channels/news?format=raw"] {
        let socket = world.websocket(target, "");
        let (code, retry_ms) = world.close_and_retry(socket);
        assert!(code == 1013 && (1000..=7000).contains(&retry_ms), "{code}, {retry_ms} ms");
    }
    assert_eq!(refused(&mut world), 2);
    assert_eq!(world.metric("connections{transport=\"sse\",protocol=\"plain\"}"), 0);
}

#[test]
fn an_event_stream_is_answered_200_and_ends_with_its_delay() {
    let (mut world, _) = full();
    for headers in ["", "Last-Event-ID: x:1\r\n"] {
        let stream = world.open("/channels/news?via=sse", headers);
        assert_eq!(world.answer(stream).status, 200);
        let said = world.read(stream);
        let retry: u64 = said.lines().find_map(|line| line.strip_prefix("retry: ")?.parse().ok()).expect("a delay");
        assert!((1000..=7000).contains(&retry), "{said}");
        assert!(said.contains("event: end\n") && said.contains(&format!("\"reconnect\":true,\"retry_ms\":{retry}}}")), "{said}");
        assert!(!said.contains("id:"), "it would resume behind what it has not got: {said}");
        assert!(said.ends_with("0\r\n\r\n") && world.is_closed(stream));
    }
    assert_eq!(refused(&mut world), 2);
}

#[test]
fn a_stream_of_lines_ends_with_its_end() {
    let (mut world, _) = full();
    let lines = world.request("GET /channels/news?via=stream HTTP/1.0\r\nHost: h\r\n\r\n");
    assert_eq!(world.answer(lines).status, 200);
    let end: serde_json::Value = serde_json::from_str(&world.read(lines)).expect("one line");
    assert_eq!((end["end"]["code"].as_u64(), end["end"]["reconnect"].as_bool()), (Some(3013), Some(true)));
    assert!(end["end"]["retry_ms"].as_u64().is_some_and(|retry| retry >= 1000), "{end}");
    assert!(world.is_closed(lines));
}

#[test]
fn a_poll_is_answered_503_and_its_connection_ends() {
    let (mut world, _) = full();
    let poll = world.open("/channels/news?wait=20", "");
    let answer = world.answer(poll);
    assert_eq!((answer.status, answer.header("Connection")), (503, Some("close")));
    assert_eq!((answer.json()["temporary"].as_bool(), answer.json()["code"].as_u64()), (Some(true), Some(100)));
    assert!((1..=7).contains(&answer.retry_after_s()), "{answer:?}");
    assert!(world.is_closed(poll));
    world.pass(Duration::from_secs(1));
    let poll = world.open("/channels/news?wait=20", "");
    assert!(world.try_answer(poll).is_none(), "it is let in now");
}

#[test]
fn who_is_here_notices_nothing() {
    let mut world = World::with(|options| {
        one_a_second(options);
        options.server.echo = true;
    });
    let poller = world.open("/channels/news", "");
    assert_eq!(world.answer(poller).status, 200);
    world.websocket("/channels/news", "");
    assert_eq!(refused(&mut world), 1);
    // Polling on, publishing, looking at metrics and echoing are no handshakes of subscribers.
    for _ in 0..3 {
        world.send(poller, get("/channels/news", ""));
        assert_eq!(world.answer(poller).status, 200);
    }
    world.publish("news", "one");
    let echo = world.websocket("/echo", "");
    world.send_text(echo, "hello");
    assert_eq!(world.texts(echo), ["hello"]);
    assert_eq!(refused(&mut world), 1);
}

#[test]
fn what_is_wrong_for_good_is_said_also_in_a_crowd() {
    let mut world = World::with(|options| {
        one_a_second(options);
        options.hub.namespaces.push(crate::hub::Namespace { allow_subscribe: Access::Nobody, ..namespace("shut") });
    });
    for _ in 0..3 {
        let socket = world.websocket("/channels/shut:1", "");
        assert_eq!(world.close_frame(socket).0, 3507);
        assert_eq!(world.get("/channels/news?since=%00", "").status, 400);
    }
    assert_eq!(refused(&mut world), 0);
}

#[test]
fn a_handshake_is_in_flight_until_all_its_homes_have_answered() {
    let mut world = World::of(2, |options| options.server.handshakes_in_flight_max = 2);
    let (near, far) = (world.channel_at(0), world.channel_at(1));
    world.hold_mail(1);
    let both = world.websocket(&format!("/channels?channel={near}&channel={far}"), "");
    assert_eq!(world.items(both).len(), 1, "one of its homes has answered");
    let poll = world.open(&format!("/channels/{far}?wait=50"), "");
    let third = world.websocket(&format!("/channels/{near}"), "");
    assert_eq!(world.close_and_retry(third).0, 1013);
    // One that goes unanswered makes room.
    world.reset(poll);
    let fourth = world.websocket(&format!("/channels/{far}"), "");
    let fifth = world.websocket(&format!("/channels/{near}"), "");
    assert_eq!((world.told(fourth).len(), world.close_and_retry(fifth).0), (0, 1013));
    world.deliver_mail();
    assert_eq!((world.items(both).len(), world.items(fourth).len()), (1, 1));
    for worker in 0..2 {
        assert_eq!(world.metric(&format!("handshakes_in_flight{{worker=\"{worker}\"}}")), 0);
    }
    for _ in 0..5 {
        let late = world.websocket(&format!("/channels/{near}"), "");
        assert_eq!(world.items(late).len(), 1);
    }
}

#[test]
fn the_estimate_is_what_is_measured() {
    let mut world = World::new();
    assert!(!world.shards[0].wants_work_measured(), "nothing has been done");
    assert_eq!(world.metric("handshake_capacity{worker=\"0\"}"), 12_500);
    let mut used = Duration::ZERO;
    for _ in 0..3000 {
        world.open("/channels/news?via=stream", "");
        used += Duration::from_micros(100);
        if world.shards[0].wants_work_measured() {
            world.shards[0].handle(Input::Worked { thread_time: used }, world.now);
        }
    }
    let capacity = world.metric("handshake_capacity{worker=\"0\"}");
    assert!((4000..=6000).contains(&capacity), "{capacity}");
}

/// What a restart brings: everybody is cut off and comes back at once, by every transport, and obeys.
#[test]
fn an_avalanche_comes_in_by_obeying() {
    const CLIENTS: usize = 600;
    let mut world = World::with(|options| options.server.handshakes_per_second_max = 50);
    let begin = world.now.monotonic;
    let mut coming: Vec<(u64, usize)> = (0..CLIENTS).map(|client| (0, client)).collect();
    let (mut tries, mut last) = (0, 0);
    while let Some(&(at, client)) = coming.iter().min() {
        coming.retain(|&(_, other)| other != client);
        let at = begin + Duration::from_millis(at);
        world.pass(at.since(world.now.monotonic));
        (tries, last) = (tries + 1, at.since(begin).as_secs());
        if let Some(delay) = come(&mut world, client) {
            coming.push((u64::try_from(at.since(begin).as_millis()).unwrap() + delay, client));
        }
    }
    let kinds = ["ws", "sse", "stream", "poll"].map(|kind| format!("connections{{transport=\"{kind}\",protocol=\"plain\"}}"));
    let here: u64 = kinds.iter().map(|kind| world.metric(kind)).sum();
    assert_eq!(here, CLIENTS as u64);
    assert!(last < 30, "{CLIENTS} clients took {last} s at 50 a second");
    assert!(tries < CLIENTS * 2, "{CLIENTS} clients tried {tries} times");
}

/// One try of a client. Its delay in milliseconds, if it is turned away.
fn come(world: &mut World, client: usize) -> Option<u64> {
    match client % 4 {
        0 => {
            let socket = world.websocket("/channels/news", "");
            match world.told(socket).pop() {
                Some(super::harness::Told::Close(1013, reason)) => {
                    reason.split(' ').rev().nth(1).and_then(|delay| delay.parse().ok())
                }
                _ => None,
            }
        }
        1 | 2 => {
            let via = if client % 4 == 1 { "sse" } else { "stream" };
            let stream = world.open(&format!("/channels/news?via={via}"), "");
            let said = world.read(stream);
            let (_, rest) = said.split_once("\"retry_ms\":")?;
            rest.split('}').next()?.parse().ok()
        }
        _ => {
            let poll = world.open("/channels/news?wait=55", "");
            let answer = world.try_answer(poll)?;
            (answer.status == 503).then(|| answer.retry_after_s() * 1000)
        }
    }
}
