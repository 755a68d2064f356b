//! Each counter moves when what it counts happens, and only then.

use std::time::Duration;

use super::held_tests::options;
use super::rig_tests::Rig;
use crate::hub::{Access, Namespace, SlowConsumer};

#[track_caller]
fn check(rig: &mut Rig, expected: &[(&str, u64)]) {
    for &(sample, count) in expected {
        assert_eq!(rig.metric(sample), count, "{sample}");
    }
}

#[test]
fn connections_are_counted_by_what_they_are() {
    let mut rig = Rig::new(options());
    let socket = rig.websocket("/channels/a");
    rig.websocket("/echo");
    let stream = rig.accept();
    rig.send(stream, "GET /channels/a?via=sse HTTP/1.1\r\nHost: h\r\n\r\n");
    let poll = rig.accept();
    rig.send(poll, "GET /channels/a?wait=50 HTTP/1.1\r\nHost: h\r\n\r\n");
    let proxied = rig.accept();
    rig.send(proxied, "GET /app HTTP/1.1\r\nHost: h\r\n\r\n");
    rig.connected();
    check(
        &mut rig,
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
    rig.send_frame(socket, 8, &[3, 232]);
    rig.reset(stream);
    rig.reset(poll);
    rig.reset(proxied);
    check(
        &mut rig,
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
    assert!(rig.metric("connections_accepted_total") > 10);
}

#[test]
fn whoever_is_turned_away_is_counted_with_the_reason() {
    let mut options = options();
    options.hub.namespaces.push(Namespace {
        name: "private".to_owned(),
        prefixes: vec!["private:".to_owned()],
        ..Namespace::default()
    });
    let mut rig = Rig::new(options);
    rig.ask("GET /channels/a HTTP/1.1\r\nHost: h\r\nOrigin: http://evil.example\r\n\r\n");
    rig.ask("GET /channels/private:a HTTP/1.1\r\nHost: h\r\n\r\n");
    rig.ask("GET /channels/a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    rig.ask("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n");
    check(
        &mut rig,
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
    let mut rig = Rig::new(options());
    let socket = rig.websocket("/channels/a");
    for _ in 0..2 {
        rig.publish("a", "Idempotency-Key: 1\r\n", "{\"n\":1}");
    }
    rig.send_frame(socket, 1, b"{\"id\":1,\"publish\":{\"data\":2}}");
    check(
        &mut rig,
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
    let got = rig.got(socket).len() as u64;
    // The head of the handshake was taken before.
    assert!(rig.metric("sent_bytes_total{transport=\"ws\"}") >= got && got > 0);
    assert!(rig.metric("history_bytes") > 0 && rig.metric("sends_total") > 0 && rig.metric("received_bytes_total") > 0);
}

#[test]
fn every_refused_publication_is_counted() {
    let mut options = options();
    options.hub.publication_bytes_max = 10;
    options.hub.namespaces[0].allow_publish = Access::Nobody;
    let mut rig = Rig::new(options);
    rig.ask("POST /channels/a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n1");
    rig.publish("a", "Content-Type: application/json\r\n", "{");
    rig.publish("a", "", "");
    rig.publish("a", "", &"x".repeat(11));
    rig.ask("POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: k\r\nContent-Length: 2\r\n\r\n{}");
    let socket = rig.websocket("/channels/a");
    rig.send_frame(socket, 1, b"{\"id\":1,\"publish\":{\"data\":2}}");
    check(
        &mut rig,
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
    let mut options = options();
    options.hub.namespaces[0].slow_consumer = SlowConsumer::DropOldest;
    options.hub.namespaces[0].queue_bytes_max = 2000;
    let mut rig = Rig::new(options);
    let socket = rig.websocket("/channels/a");
    rig.give_room(socket, 0);
    let body = format!("\"{}\"", "x".repeat(700));
    for _ in 0..4 {
        rig.publish("a", "", &body);
    }
    assert!(rig.metric("send_queue_bytes") > 0);
    assert!(rig.metric("slow_consumer_total{policy=\"drop_oldest\"}") > 0);
    let dropped = rig.metric("publications_dropped_total{policy=\"drop_oldest\"}");
    assert!(dropped > 0 && rig.metric("gaps_total{reason=\"slow\"}") > 0);
    let bytes = rig.metric("sent_bytes_total{transport=\"ws\"}");
    assert!(bytes < 1000, "{bytes} were not sent");
    rig.give_room(socket, usize::MAX);
    assert_eq!(rig.got(socket).matches("\"data\"").count() as u64, 4 - dropped);
}

#[test]
fn resumes_pongs_and_broken_frames_are_counted() {
    let mut rig = Rig::new(options());
    rig.publish("a", "", "1");
    rig.ask("GET /channels/a?since=old:1 HTTP/1.1\r\nHost: h\r\n\r\n");
    let broken = rig.websocket("/channels/a");
    rig.send(broken, [0x81, 0x01, b'x']);
    let silent = rig.websocket("/channels/a");
    rig.advance(Duration::from_secs(26));
    rig.advance(Duration::from_secs(9));
    assert!(rig.got(silent).len() > 2);
    check(
        &mut rig,
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
    let mut rig = Rig::new(options());
    let conn = rig.accept();
    rig.send(conn, "GET /app HTTP/1.1\r\nHost: h\r\n\r\n");
    check(&mut rig, &[("upstream_connections{upstream=\"app\",state=\"connecting\"}", 1)]);
    let up = rig.connected();
    check(&mut rig, &[("upstream_connections{upstream=\"app\",state=\"in_use\"}", 1)]);
    rig.send(up, "HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n");
    rig.send(conn, "GET /app HTTP/1.1\r\nHost: h\r\n\r\n");
    rig.send(up, "nonsense\r\n\r\n");
    assert!(rig.got(conn).contains("HTTP/1.1 502"));
    check(
        &mut rig,
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
