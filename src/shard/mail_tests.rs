//! What is promised between workers, with mailboxes that fill up and homes that do not answer.

use std::time::Duration;

use super::workers_tests::{At, Workers, channel_of, handshake, options};
use crate::ws;

#[test]
fn a_large_broadcast_reaches_a_healthy_subscriber_whole() {
    for workers in [1, 2] {
        let mut bench = Workers::new(workers, options());
        let names: Vec<String> = (0..100).map(|at| format!("c{at}")).collect();
        let query: Vec<String> = names.iter().map(|name| format!("channel={name}")).collect();
        let subscribers: Vec<_> = query
            .chunks(25)
            .map(|channels| {
                bench.request(0, &format!("GET /channels?via=stream&{} HTTP/1.1\r\nHost: h\r\n\r\n", channels.join("&")))
            })
            .collect();
        let body = format!("{{\"channels\":{names:?},\"data\":\"{}\"}}", "x".repeat(200 << 10));
        let publisher = bench.publish(0, "/api/broadcast", "", &body);
        assert!(bench.got(publisher).starts_with("HTTP/1.1 200"));
        let seen: Vec<String> = subscribers.into_iter().map(|at| bench.got(at)).collect();
        let gaps: usize = seen.iter().map(|text| text.matches("\"gap\"").count()).sum();
        let publications: usize = seen.iter().map(|text| text.matches("\"data\"").count()).sum();
        assert_eq!((publications, gaps), (100, 0), "{workers} workers");
    }
}

#[test]
fn what_a_full_mailbox_keeps_waiting_is_counted() {
    let mut bench = Workers::new(2, options());
    bench.deaf = vec![1];
    let channel = channel_of(1, 2);
    for _ in 0..20 {
        bench.publish(0, &format!("/channels/{channel}"), "", "hi");
    }
    bench.deaf.clear();
    bench.settle();
    assert_eq!(bench.metric("mailbox_spilled_total{worker=\"0\"}"), 12, "eight fit");
    assert_eq!(bench.metric("mailbox_spilled_total{worker=\"1\"}"), 0);
}

/// The token of a poll's answer.
fn position(answer: &str) -> String {
    answer.split("\"position\":\"").last().unwrap().split('"').next().unwrap().to_owned()
}

#[test]
fn a_poll_at_the_head_asks_no_home() {
    let mut bench = Workers::new(2, options());
    let channel = channel_of(1, 2);
    let poll = |since: &str, wait: u32| format!("GET /channels/{channel}?since={since}&wait={wait} HTTP/1.1\r\nHost: h\r\n\r\n");
    let first = bench.request(0, &poll("start", 0));
    let token = position(&bench.got(first));
    bench.deaf = vec![1];
    let again = bench.request(0, &poll(&token, 0));
    let answer = bench.got(again);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"messages\":[]"), "{answer}");
    assert_eq!(position(&answer), token);
    let waiting = bench.request(0, &poll(&token, 20));
    assert_eq!(bench.got(waiting), "", "it waits");
    bench.deaf.clear();
    bench.publish(1, &format!("/channels/{channel}"), "", "hi");
    let answer = bench.got(waiting);
    assert!(answer.contains("\"data\":\"hi\""), "{answer}");
}

#[test]
fn a_broadcast_answers_in_time_with_what_is_known_and_a_retry_completes_it() {
    let mut bench = Workers::new(2, options());
    let (here, there) = (channel_of(0, 2), channel_of(1, 2));
    bench.deaf = vec![1];
    let body = format!("{{\"channels\":[\"{there}\",\"{here}\"],\"data\":1,\"idempotency_key\":\"k\"}}");
    let first = bench.publish(0, "/api/broadcast", "", &body);
    bench.advance(Duration::from_millis(4999));
    assert_eq!(bench.got(first), "", "the home has five seconds");
    bench.advance(Duration::from_millis(1));
    let partial = bench.got(first);
    let ok = partial.find("{\"result\":{\"offset\":1,").unwrap();
    assert!(partial.find("{\"error\":{\"code\":100,").unwrap() < ok, "in request order: {partial}");
    // The request that was not answered is still on its way: the retry finds it stored, or stores it.
    bench.deaf.clear();
    bench.settle();
    let retry = bench.publish(0, "/api/broadcast", "", &body);
    let complete = bench.got(retry);
    assert_eq!(complete.matches("{\"result\":{\"offset\":1,").count(), 2, "{complete}");
    assert_eq!(bench.metric("publish_duplicates_total"), 2);
}

#[test]
fn a_retry_stores_what_never_reached_its_home() {
    let mut bench = Workers::new(2, options());
    let (here, there) = (channel_of(0, 2), channel_of(1, 2));
    let body = |channels: &[&str]| format!("{{\"channels\":{channels:?},\"data\":1,\"idempotency_key\":\"k\"}}");
    bench.publish(0, "/api/broadcast", "", &body(&[&here]));
    bench.publish(0, &format!("/channels/{there}"), "", "something else");
    let retry = bench.publish(1, "/api/broadcast", "", &body(&[&here, &there]));
    let answer = bench.got(retry);
    let (first, second) = (answer.find("\"offset\":1,").unwrap(), answer.find("\"offset\":2,").unwrap());
    assert!(first < second, "the first position again, and the one that was missing: {answer}");
    assert_eq!(bench.metric("publish_duplicates_total"), 1);
}

/// Sends messages until one is not read any more; returns how many were.
fn publish_until_paused(bench: &mut Workers, at: At, text: &str, limit: usize) -> usize {
    for sent in 0..limit {
        if bench.is_paused(at) {
            return sent;
        }
        bench.say(at, text);
    }
    limit
}

#[test]
fn a_websocket_is_not_read_while_too_much_of_it_is_on_its_way() {
    for (target, text) in [
        ("?format=json", format!("{{\"id\":1,\"publish\":{{\"data\":\"{}\"}}}}", "x".repeat(4000))),
        ("?format=raw", "x".repeat(4000)),
    ] {
        let mut bench = Workers::new(2, options());
        let channel = channel_of(1, 2);
        let publisher = bench.websocket(0, &format!("/channels/{channel}{target}"));
        bench.deaf = vec![1];
        let sent = publish_until_paused(&mut bench, publisher, &text, 1000);
        assert!((60..=70).contains(&sent), "{target}: {sent} of 4,000 bytes were read where 256 KiB may be on their way");
        bench.advance(Duration::from_secs(120));
        bench.deaf.clear();
        bench.settle();
        assert!(!bench.is_paused(publisher), "{target}: its home has answered");
        let got = bench.got(publisher);
        assert_eq!(got.matches("xxxx").count() / 1000, sent, "{target}: none is refused or lost, and silence was not its fault");
        assert!(!got.contains("\"error\""), "{target}");
        bench.say(publisher, &text);
        assert!(bench.got(publisher).contains("xxxx"), "{target}: it is read again");
    }
}

#[test]
fn many_small_publications_are_bounded_in_number() {
    let mut bench = Workers::new(2, options());
    let publisher = bench.websocket(0, &format!("/channels/{}?format=raw", channel_of(1, 2)));
    bench.deaf = vec![1];
    let messages = ws::encode::masked(ws::Opcode::Text, b"x", [1, 2, 3, 4]).repeat(10);
    let mut sent = 0;
    while !bench.is_paused(publisher) {
        bench.hand_in(publisher, &messages);
        bench.turn(0);
        sent += 10;
    }
    // Behind the bound it is read for a few more bytes, which are held.
    assert!((1024..2048).contains(&sent), "{sent} were read");
    bench.deaf.clear();
    for _ in 0..8 {
        bench.settle();
    }
    assert_eq!((bench.is_paused(publisher), bench.got(publisher).matches('x').count()), (false, sent));
}

#[test]
fn publishing_to_ones_own_worker_is_never_held_back() {
    let mut bench = Workers::new(1, options());
    let publisher = bench.websocket(0, "/channels/c?format=raw");
    for _ in 0..100 {
        bench.say(publisher, &"x".repeat(60_000));
    }
    assert_eq!((bench.pauses(publisher), bench.got(publisher).len() / 60_000), (0, 100));
}

#[test]
fn towards_a_congested_worker_websockets_are_held_back_and_requests_refused() {
    let mut bench = Workers::new(2, options());
    let channel = channel_of(1, 2);
    bench.deaf = vec![1];
    let body = "x".repeat(200 << 10);
    let mut requests = Vec::new();
    let refused = loop {
        let at = bench.publish(0, &format!("/channels/{channel}"), "", &body);
        let answer = bench.got(at);
        if !answer.is_empty() {
            break answer;
        }
        requests.push(at);
        assert!(requests.len() < 100);
    };
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("Retry-After: 1"), "{refused}");
    assert!((29..=32).contains(&requests.len()), "{} of 200 KiB: eight in the mailbox, 4 MiB behind it", requests.len());
    let subscriber = bench.websocket(0, &format!("/channels/{channel}?format=raw"));
    let sent = publish_until_paused(&mut bench, subscriber, &"x".repeat(3000), 10);
    assert!(sent <= 3, "the first one is taken, then it is not read: {sent}");
    bench.deaf.clear();
    bench.settle();
    assert!(!bench.is_paused(subscriber));
    for at in requests {
        assert!(bench.got(at).starts_with("HTTP/1.1 200"), "what was accepted is stored");
    }
    let at = bench.publish(0, &format!("/channels/{channel}"), "", &body);
    assert!(bench.got(at).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_held_back_websocket_can_still_be_closed() {
    let mut bench = Workers::new(2, options());
    let publisher = bench.websocket(0, &format!("/channels/{}?format=raw", channel_of(1, 2)));
    bench.deaf = vec![1];
    publish_until_paused(&mut bench, publisher, &"x".repeat(4000), 1000);
    bench.shards[0].drain(Duration::from_secs(30), bench.now);
    bench.settle();
    assert!(!bench.is_paused(publisher), "the answer to our close frame is awaited");
    assert!(bench.got(publisher).contains("shutdown"));
    bench.send(publisher, &ws::encode::masked(ws::Opcode::Close, &1001u16.to_be_bytes(), [0; 4]));
    bench.settle();
    assert!(bench.is_closed(publisher));
}

#[test]
fn without_room_for_another_channel_everybody_is_told_to_come_back() {
    let mut limited = options();
    limited.hub.entries_max = 1;
    let mut bench = Workers::new(1, limited);
    let first = bench.request(0, "GET /channels/a?via=stream HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(bench.got(first).contains("\"subscribed\""));
    let poll = bench.request(0, "GET /channels/b HTTP/1.1\r\nHost: h\r\n\r\n");
    let answer = bench.got(poll);
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("Retry-After: 1") && answer.contains("entries_max"), "{answer}");
    let stream = bench.request(0, "GET /channels/b?via=sse HTTP/1.1\r\nHost: h\r\n\r\n");
    let answer = bench.got(stream);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("event: end\n"), "{answer}");
    assert!(answer.contains("\"reconnect\":true"), "{answer}");
    let socket = bench.request(0, &handshake("/channels/b"));
    assert!(bench.got(socket).ends_with("overload"));
    let publish = bench.publish(0, "/channels/b", "", "hi");
    assert!(bench.got(publish).starts_with("HTTP/1.1 503"));
    assert_eq!((bench.metric("channels_refused_total"), bench.metric("channels")), (4, 1));
    let look = bench.request(0, "HEAD /channels/b HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(bench.got(look).starts_with("HTTP/1.1 200"));
}

#[test]
fn what_is_overdue_is_gone_on_with_in_the_next_turn() {
    let mut bench = Workers::new(1, options());
    let feed: String = (0..2000).map(|at| format!("GET /channels/c{at} HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    let at = bench.accept(0);
    for request in feed.as_bytes().chunks(2000) {
        bench.send(at, request);
    }
    assert_eq!(bench.metric("channels"), 2000);
    for _ in 0..2 {
        // Polled channels stay for two minutes where they were polled, and then as long at their homes; time stands still while
        // they go.
        bench.now.monotonic = bench.now.monotonic + Duration::from_secs(125);
        while bench.shards[0].poll_timeout().is_some_and(|at| at <= bench.now.monotonic) {
            bench.turn(0);
        }
    }
    assert_eq!((bench.metric("channels"), bench.metric("position_records")), (0, 2000));
}

#[test]
fn a_worker_with_nothing_to_do_sleeps_for_good() {
    let mut bench = Workers::new(1, options());
    assert_eq!(bench.shards[0].poll_timeout(), None);
    let at = bench.accept(0);
    bench.send(at, b"GET /channels/news HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_ne!(bench.shards[0].poll_timeout(), None, "the channel lingers");
}
