//! What is promised between workers, with mailboxes that fill up and homes that do not answer.

use std::time::Duration;

use super::workers_tests::{Workers, channel_of, options};

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
