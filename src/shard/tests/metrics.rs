//! Each counter moves when what it counts happens, and only then.

use std::time::Duration;

use super::harness::{UPGRADE, World, frame, get, namespace, proxied};
use crate::hub::{Access, Namespace, SlowConsumer};
use crate::ws::Opcode;

#[track_caller]
fn check(world: &mut World, expected: &[(&str, u64)]) {
    for &(sample, count) in expected {
        assert_eq!(world.try_metric(sample).unwrap_or(0), count, "{sample}");
    }
}

#[test]
fn connections_are_counted_by_what_they_are() {
    let mut world = World::with(proxied);
    let socket = world.websocket("/channels/a", "");
    world.websocket("/echo", "");
    let stream = world.open("/channels/a?via=sse", "");
    let poll = world.open("/channels/a?wait=50", "");
    let proxied = world.open("/app", "");
    world.connected();
    check(
        &mut world,
        &[
            ("connections{transport=\"ws\",protocol=\"plain\"}", 1),
            ("connections{transport=\"ws\",protocol=\"echo\"}", 1),
            ("connections{transport=\"sse\",protocol=\"plain\"}", 1),
            ("connections{transport=\"poll\",protocol=\"plain\"}", 1),
            ("connections{transport=\"http\",protocol=\"proxy\"}", 1),
            ("subscriptions{namespace=\"default\"}", 3),
            ("handshake_duration_seconds_count", 3),
        ],
    );
    world.send(socket, frame(Opcode::Close, [3, 232]));
    world.reset(stream);
    world.reset(poll);
    world.reset(proxied);
    check(
        &mut world,
        &[
            ("connections{transport=\"ws\",protocol=\"plain\"}", 0),
            ("connections{transport=\"sse\",protocol=\"plain\"}", 0),
            ("connections{transport=\"http\",protocol=\"proxy\"}", 0),
            ("subscriptions{namespace=\"default\"}", 0),
            ("disconnects_total{transport=\"ws\",code=\"1000\"}", 1),
            ("disconnects_total{transport=\"sse\",code=\"1006\"}", 1),
            ("disconnects_total{transport=\"poll\",code=\"1006\"}", 1),
            ("ws_messages_received_total{opcode=\"close\"}", 1),
        ],
    );
    assert!(world.metric("connections_accepted_total") > 10);
}

#[test]
fn whoever_is_turned_away_is_counted_with_the_reason() {
    let mut world = World::with(|options| {
        let private = Namespace { allow_subscribe: Namespace::default().allow_subscribe, ..namespace("private") };
        options.hub.namespaces.push(private);
    });
    world.get("/channels/a", "Origin: http://evil.example\r\n");
    world.get("/channels/private:a", "");
    world.get("/channels/a", &UPGRADE.replace("Version: 13", "Version: 8"));
    world.ask("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n");
    check(
        &mut world,
        &[
            ("connections_refused_total{reason=\"origin\"}", 1),
            ("connections_refused_total{reason=\"denied\"}", 1),
            ("connections_refused_total{reason=\"handshake\"}", 1),
            ("http_requests_total{door=\"channels\",method=\"GET\",status=\"403\"}", 2),
            ("http_requests_total{door=\"none\",method=\"other\",status=\"400\"}", 1),
            ("http_parse_errors_total{reason=\"content_length\"}", 1),
        ],
    );
}

#[test]
fn a_publication_is_counted_once_it_is_stored_and_delivered_once_it_is_queued() {
    let mut world = World::with(proxied);
    let socket = world.websocket("/channels/a", "");
    for _ in 0..2 {
        world.post("/channels/a", "Idempotency-Key: 1\r\n", "{\"n\":1}");
    }
    world.send_text(socket, "{\"id\":1,\"publish\":{\"data\":2}}");
    check(
        &mut world,
        &[
            ("publications_total{door=\"channels\",namespace=\"default\"}", 1),
            ("publications_total{door=\"ws\",namespace=\"default\"}", 1),
            ("publish_duplicates_total", 1),
            ("deliveries_total{transport=\"ws\"}", 2),
            ("publish_to_last_write_seconds_count{worker=\"0\"}", 2),
            ("publications_per_send_count", 2),
            ("publications_per_send_sum", 2),
            ("channels", 1),
            ("ws_messages_received_total{opcode=\"text\"}", 1),
        ],
    );
    let got = world.read_bytes(socket).len() as u64;
    // The head of the handshake was taken before.
    assert!(world.metric("sent_bytes_total{transport=\"ws\"}") >= got && got > 0);
    assert!(world.metric("history_bytes") > 0 && world.metric("sends_total") > 0 && world.metric("received_bytes_total") > 0);
}

#[test]
fn every_refused_publication_is_counted() {
    let mut world = World::with(|options| {
        options.hub.publication_bytes_max = 10;
        options.hub.namespaces[0].allow_publish = Access::Nobody;
    });
    world.ask("POST /channels/a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n1");
    world.post("/channels/a", "Content-Type: application/json\r\n", "{");
    world.post("/channels/a", "", "");
    world.post("/channels/a", "", &"x".repeat(11));
    world.post("/api/publish", "", "{}");
    let socket = world.websocket("/channels/a", "");
    world.send_text(socket, "{\"id\":1,\"publish\":{\"data\":2}}");
    check(
        &mut world,
        &[
            ("publish_errors_total{code=\"101\"}", 1),
            ("publish_errors_total{code=\"107\"}", 3),
            ("publish_errors_total{code=\"106\"}", 1),
            ("publish_errors_total{code=\"103\"}", 1),
            ("publications_total{door=\"channels\",namespace=\"default\"}", 0),
        ],
    );
}

#[test]
fn what_a_slow_consumer_loses_is_counted() {
    let mut world = World::with(|options| {
        let namespace = &mut options.hub.namespaces[0];
        (namespace.slow_consumer, namespace.queue_bytes_max) = (SlowConsumer::DropOldest, 2000);
    });
    let socket = world.websocket("/channels/a", "");
    world.stall(socket);
    let body = format!("\"{}\"", "x".repeat(700));
    for _ in 0..4 {
        world.post("/channels/a", "", &body);
    }
    assert!(world.metric("send_queue_bytes") > 0);
    assert!(world.metric("slow_consumer_total{policy=\"drop_oldest\"}") > 0);
    let dropped = world.metric("publications_dropped_total{policy=\"drop_oldest\"}");
    assert!(dropped > 0 && world.metric("gaps_total{reason=\"slow\"}") > 0);
    let bytes = world.metric("sent_bytes_total{transport=\"ws\"}");
    assert!(bytes < 1000, "{bytes} were not sent");
    world.unstall(socket);
    assert_eq!(world.items(socket).iter().filter(|item| item["data"].is_string()).count() as u64, 4 - dropped);
}

#[test]
fn resumes_pongs_and_broken_frames_are_counted() {
    let mut world = World::with(proxied);
    world.post("/channels/a", "", "1");
    world.get("/channels/a?since=old:1", "");
    let broken = world.websocket("/channels/a", "");
    world.send(broken, [0x81, 0x01, b'x']);
    let silent = world.websocket("/channels/a", "");
    world.pass(Duration::from_secs(26));
    world.pass(Duration::from_secs(9));
    assert_eq!(world.close_frame(silent).0, 3012);
    check(
        &mut world,
        &[
            ("resumes_total{transport=\"poll\",outcome=\"gap\"}", 1),
            ("gaps_total{reason=\"epoch\"}", 1),
            ("ws_protocol_errors_total{code=\"1002\"}", 1),
            ("pong_timeouts_total", 1),
            ("disconnects_total{transport=\"ws\",code=\"3012\"}", 1),
        ],
    );
}

#[test]
fn proxied_requests_are_counted_by_upstream() {
    let mut world = World::with(proxied);
    let conn = world.open("/app", "");
    check(&mut world, &[("upstream_connections{upstream=\"app\",state=\"connecting\"}", 1)]);
    let up = world.connected();
    check(&mut world, &[("upstream_connections{upstream=\"app\",state=\"in_use\"}", 1)]);
    world.send(up, "HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n");
    world.send(conn, get("/app", ""));
    world.send(up, "nonsense\r\n\r\n");
    assert!(world.read(conn).contains("HTTP/1.1 502"));
    check(
        &mut world,
        &[
            ("upstream_requests_total{upstream=\"app\",status=\"418\"}", 1),
            ("upstream_requests_total{upstream=\"app\",status=\"502\"}", 1),
            ("upstream_errors_total{upstream=\"app\",reason=\"bad_response\"}", 1),
            ("upstream_duration_seconds_count{upstream=\"app\"}", 1),
            ("upstream_connections{upstream=\"app\",state=\"in_use\"}", 0),
            ("http_requests_total{door=\"proxy\",method=\"GET\",status=\"418\"}", 1),
            ("http_requests_total{door=\"proxy\",method=\"GET\",status=\"502\"}", 1),
        ],
    );
}
