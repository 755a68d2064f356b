//! What is promised between workers, with mailboxes that fill up and homes that do not answer.

use std::time::Duration;

use super::harness::{MAILBOX_ENTRIES, World, frame, get, post};
use crate::base::ConnId;
use crate::ws::Opcode;

#[test]
fn a_large_broadcast_reaches_a_healthy_subscriber_whole() {
    for workers in [1, 2] {
        let mut world = World::of(workers, |_| {});
        let names: Vec<String> = (0..100).map(|at| format!("c{at}")).collect();
        let query: Vec<String> = names.iter().map(|name| format!("channel={name}")).collect();
        let subscribers: Vec<_> =
            query.chunks(25).map(|channels| world.open(&format!("/channels?via=stream&{}", channels.join("&")), "")).collect();
        let body = format!("{{\"channels\":{names:?},\"data\":\"{}\"}}", "x".repeat(200 << 10));
        assert_eq!(world.post("/api/broadcast", "", &body).status, 200);
        let seen: Vec<String> = subscribers.into_iter().map(|at| world.read(at)).collect();
        let gaps: usize = seen.iter().map(|text| text.matches("\"gap\"").count()).sum();
        let publications: usize = seen.iter().map(|text| text.matches("\"data\"").count()).sum();
        assert_eq!((publications, gaps), (100, 0), "{workers} workers");
    }
}

#[test]
fn what_a_full_mailbox_keeps_waiting_is_counted() {
    let mut world = World::of(2, |_| {});
    world.hold_mail(1);
    let channel = world.channel_at(1);
    for _ in 0..20 {
        world.request(&post(&format!("/channels/{channel}"), "", "hi"));
    }
    world.deliver_mail();
    assert_eq!(world.metric("mailbox_spilled_total{worker=\"0\"}"), 20 - MAILBOX_ENTRIES as u64, "the others fit");
    assert_eq!(world.metric("mailbox_spilled_total{worker=\"1\"}"), 0);
}

#[test]
fn what_a_full_mailbox_gives_up_is_a_gap_for_each_channel() {
    let mut world = World::of(2, |options| options.spill.delivery_bytes_max = 10_000);
    let channels: [String; 2] = world.channels_at(0);
    let reader = world.connect_on(1);
    world.send(reader, get(&format!("/channels?channel={}&channel={}&via=stream", channels[0], channels[1]), ""));
    world.read(reader);
    world.hold_mail(1);
    let mut published = [0, 0];
    while world.shards[0].spill_collapsed() == 0 {
        let next = usize::from(published[0] > published[1]);
        world.publish(&channels[next], &"x".repeat(1000));
        published[next] += 1;
        assert!(published[0] < 100, "10 KB may wait behind the mailbox");
    }
    world.deliver_mail();
    let told = world.read(reader).replace('x', "");
    for (channel, published) in channels.iter().zip(published) {
        let items: Vec<&str> = told.lines().filter(|line| line.contains(&format!("\"channel\":\"{channel}\""))).collect();
        let (gap, got) = items.split_last().expect("something was told");
        assert_eq!(got.len(), MAILBOX_ENTRIES / 2, "{told}");
        let extent = format!(":{}\",\"missed\":{},\"reason\":\"slow\"}}}}", published + 1, published - got.len());
        assert!(gap.starts_with("{\"gap\":") && gap.ends_with(&extent), "nothing has come since: {told}");
        world.publish(channel, "later");
        let later = world.read(reader);
        assert!(later.contains("later") && !later.contains("\"gap\""), "it follows on the gap: {later}");
    }
}

#[test]
fn a_poll_at_the_head_asks_no_home() {
    let mut world = World::of(2, |_| {});
    let channel = world.channel_at(1);
    let poll = |since: &str, wait: u32| format!("/channels/{channel}?since={since}&wait={wait}");
    let first = world.get(&poll("start", 0), "").json();
    let token = first["position"].as_str().unwrap();
    world.hold_mail(1);
    let again = world.get(&poll(token, 0), "");
    assert_eq!((again.status, again.json()["messages"].as_array().map(Vec::len)), (200, Some(0)));
    assert_eq!(again.json()["position"], token);
    let waiting = world.open(&poll(token, 20), "");
    assert_eq!(world.read(waiting), "", "it waits");
    world.deliver_mail();
    let publisher = world.connect_on(1);
    world.send(publisher, post(&format!("/channels/{channel}"), "", "hi"));
    assert_eq!(world.answer(waiting).json()["messages"][0]["data"], "hi");
}

#[test]
fn a_broadcast_answers_in_time_with_what_is_known_and_a_retry_completes_it() {
    let mut world = World::of(2, |_| {});
    let (here, there) = (world.channel_at(0), world.channel_at(1));
    world.hold_mail(1);
    let body = format!("{{\"channels\":[\"{there}\",\"{here}\"],\"data\":1,\"idempotency_key\":\"k\"}}");
    let first = world.request(&post("/api/broadcast", "", &body));
    world.pass(Duration::from_millis(4999));
    assert_eq!(world.read(first), "", "the home has five seconds");
    world.pass(Duration::from_millis(1));
    let partial = world.answer(first).body;
    let ok = partial.find("{\"result\":{\"offset\":1,").unwrap();
    assert!(partial.find("{\"error\":{\"code\":100,").unwrap() < ok, "in request order: {partial}");
    // The request that was not answered is still on its way: the retry finds it stored, or stores it.
    world.deliver_mail();
    let complete = world.post("/api/broadcast", "", &body).body;
    assert_eq!(complete.matches("{\"result\":{\"offset\":1,").count(), 2, "{complete}");
    assert_eq!(world.metric("publish_duplicates_total"), 2);
}

#[test]
fn a_retry_stores_what_never_reached_its_home() {
    let mut world = World::of(2, |_| {});
    let (here, there) = (world.channel_at(0), world.channel_at(1));
    let body = |channels: &[&str]| format!("{{\"channels\":{channels:?},\"data\":1,\"idempotency_key\":\"k\"}}");
    world.post("/api/broadcast", "", &body(&[&here]));
    world.publish(&there, "something else");
    let retry = world.connect_on(1);
    world.send(retry, post("/api/broadcast", "", &body(&[&here, &there])));
    let answer = world.answer(retry).body;
    let (first, second) = (answer.find("\"offset\":1,").unwrap(), answer.find("\"offset\":2,").unwrap());
    assert!(first < second, "the first position again, and the one that was missing: {answer}");
    assert_eq!(world.metric("publish_duplicates_total"), 1);
}

/// Sends messages until one is not read any more; returns how many were.
fn publish_until_paused(world: &mut World, conn: ConnId, text: &str, limit: usize) -> usize {
    for sent in 0..limit {
        if world.is_paused(conn) {
            return sent;
        }
        // Each is on its way as a whole.
        world.receive(conn, frame(Opcode::Text, text));
        world.settle();
    }
    limit
}

#[test]
fn a_websocket_is_not_read_while_too_much_of_it_is_on_its_way() {
    for (target, text) in [
        ("?format=json", format!("{{\"id\":1,\"publish\":{{\"data\":\"{}\"}}}}", "x".repeat(4000))),
        ("?format=raw", "x".repeat(4000)),
    ] {
        let mut world = World::of(2, |_| {});
        let channel = world.channel_at(1);
        let publisher = world.websocket(&format!("/channels/{channel}{target}"), "");
        world.hold_mail(1);
        let sent = publish_until_paused(&mut world, publisher, &text, 1000);
        assert!((60..=70).contains(&sent), "{target}: {sent} of 4,000 bytes were read where 256 KiB may be on their way");
        world.pass(Duration::from_secs(120));
        world.deliver_mail();
        assert!(!world.is_paused(publisher), "{target}: its home has answered");
        let got = world.texts(publisher);
        assert_eq!(
            got.concat().matches("xxxx").count() / 1000,
            sent,
            "{target}: none is refused or lost, and silence was not its fault"
        );
        assert!(!got.iter().any(|text| text.contains("\"error\"")), "{target}");
        world.send_text(publisher, &text);
        assert!(world.texts(publisher).concat().contains("xxxx"), "{target}: it is read again");
    }
}

#[test]
fn many_small_publications_are_bounded_in_number() {
    let mut world = World::of(2, |_| {});
    let publisher = world.websocket(&format!("/channels/{}?format=raw", world.channel_at(1)), "");
    world.hold_mail(1);
    let messages = frame(Opcode::Text, "x").repeat(10);
    let mut sent = 0;
    while !world.is_paused(publisher) && sent < 10_000 {
        world.receive(publisher, &messages);
        world.turn();
        sent += 10;
    }
    // Behind the bound it is read for a few more bytes, which are held.
    assert!((1024..2048).contains(&sent), "{sent} were read");
    world.deliver_mail();
    assert_eq!((world.is_paused(publisher), world.texts(publisher).concat().matches('x').count()), (false, sent));
}

#[test]
fn publishing_to_ones_own_worker_is_never_held_back() {
    let mut world = World::new();
    let publisher = world.websocket("/channels/c?format=raw", "");
    for _ in 0..100 {
        world.send_text(publisher, &"x".repeat(60_000));
    }
    assert_eq!((world.pauses(publisher), world.read_bytes(publisher).len() / 60_000), (0, 100));
}

#[test]
fn towards_a_congested_worker_websockets_are_held_back_and_requests_refused() {
    let mut world = World::of(2, |_| {});
    let channel = world.channel_at(1);
    world.hold_mail(1);
    let body = "x".repeat(200 << 10);
    let mut requests = Vec::new();
    let refused = loop {
        let conn = world.request(&post(&format!("/channels/{channel}"), "", &body));
        if let Some(answer) = world.try_answer(conn) {
            break answer;
        }
        requests.push(conn);
        assert!(requests.len() < 100);
    };
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")));
    assert!((29..=32).contains(&requests.len()), "{} of 200 KiB: eight in the mailbox, 4 MiB behind it", requests.len());
    let subscriber = world.websocket(&format!("/channels/{channel}?format=raw"), "");
    let sent = publish_until_paused(&mut world, subscriber, &"x".repeat(3000), 10);
    assert!(sent <= 3, "the first one is taken, then it is not read: {sent}");
    world.deliver_mail();
    assert!(!world.is_paused(subscriber));
    for conn in requests {
        assert_eq!(world.answer(conn).status, 200, "what was accepted is stored");
    }
    world.publish(&channel, &body);
}

#[test]
fn a_held_back_websocket_can_still_be_closed() {
    let mut world = World::of(2, |_| {});
    let publisher = world.websocket(&format!("/channels/{}?format=raw", world.channel_at(1)), "");
    world.hold_mail(1);
    publish_until_paused(&mut world, publisher, &"x".repeat(4000), 1000);
    world.drain(Duration::from_secs(30));
    assert!(!world.is_paused(publisher), "the answer to our close frame is awaited");
    assert_eq!(world.close_frame(publisher).0, 1001);
    world.send(publisher, frame(Opcode::Close, 1001u16.to_be_bytes()));
    assert!(world.is_closed(publisher));
}

#[test]
fn without_room_for_another_channel_everybody_is_told_to_come_back() {
    let mut world = World::with(|options| options.hub.entries_max = 1);
    let first = world.open("/channels/a?via=stream", "");
    assert!(world.read(first).contains("\"subscribed\""));
    let poll = world.get("/channels/b", "");
    assert_eq!(poll.status, 503);
    assert!((1..=5).contains(&poll.retry_after_s()), "{poll:?}");
    assert!(poll.body.contains("entries_max"), "{}", poll.body);
    let stream = world.open("/channels/b?via=sse", "");
    assert_eq!(world.answer(stream).status, 200);
    let end = world.read(stream);
    assert!(end.contains("event: end\n") && end.contains("\"reconnect\":true"), "{end}");
    let socket = world.websocket("/channels/b", "");
    assert_eq!(world.close_and_retry(socket).0, 1013);
    assert_eq!(world.post("/channels/b", "", "hi").status, 503);
    assert_eq!((world.metric("channels_refused_total"), world.metric("channels")), (4, 1));
    assert_eq!(world.ask("HEAD /channels/b HTTP/1.1\r\nHost: h\r\n\r\n").status, 200);
}

#[test]
fn what_is_overdue_is_gone_on_with_in_the_next_turn() {
    let mut world = World::new();
    let feed: String = (0..2000).map(|at| get(&format!("/channels/c{at}"), "")).collect();
    world.request(&feed);
    assert_eq!(world.metric("channels"), 2000);
    for _ in 0..2 {
        // Polled channels stay for two minutes where they were polled, and then as long at their homes; time stands still while
        // they go.
        world.jump(Duration::from_secs(125));
        while world.next_deadline().is_some_and(|at| at <= world.now.monotonic) {
            world.turn();
        }
    }
    assert_eq!((world.metric("channels"), world.metric("position_records")), (0, 2000));
}

#[test]
fn a_worker_with_nothing_to_do_sleeps_for_good() {
    let mut world = World::new();
    assert_eq!(world.next_deadline(), None);
    world.get("/channels/news", "Connection: close\r\n");
    assert_ne!(world.next_deadline(), None, "the channel lingers");
}
