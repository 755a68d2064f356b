//! Each counter moves when what it counts happens, and only then.

use std::time::Duration;

use super::harness::{MAILBOX_ENTRIES, UPGRADE, World, frame, get, namespace, proxied};
use crate::hub::{Access, Namespace, SlowConsumer, UnknownNamespace};
use crate::ws::Opcode;

#[track_caller]
fn check(world: &mut World, expected: &[(&str, u64)]) {
    for &(sample, count) in expected {
        assert_eq!(world.try_metric(sample).unwrap_or(0), count, "{sample}");
    }
}

/// How far an act moves a counter. Looking at it moves some, by the same each time.
#[track_caller]
fn moved(world: &mut World, sample: &str, act: impl FnOnce(&mut World)) -> u64 {
    let [first, before] = [(); 2].map(|()| world.try_metric(sample).unwrap_or(0));
    act(world);
    world.try_metric(sample).unwrap_or(0) - before - (before - first)
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
    let accepted = moved(&mut world, "connections_accepted_total", |world| (0..3).for_each(|_| _ = world.connect()));
    assert_eq!(accepted, 3);
    let timers = moved(&mut world, "timers{worker=\"0\"}", |world| (0..3).for_each(|_| _ = world.websocket("/channels/a", "")));
    assert_eq!(timers, 3);
    let idle = world.metric("connections{transport=\"http\",protocol=\"http\"}");
    world.connect();
    assert_eq!(world.metric("connections{transport=\"http\",protocol=\"http\"}"), idle + 1);
    world.open("/channels/a?via=stream", "");
    check(&mut world, &[("connections{transport=\"stream\",protocol=\"plain\"}", 1)]);
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
}

#[test]
fn bytes_and_sends_are_counted_one_by_one() {
    let mut world = World::new();
    let socket = world.websocket("/channels/a", "");
    world.told(socket);
    let ping = frame(Opcode::Ping, b"1234567");
    let pings = |world: &mut World| (0..2).for_each(|_| world.send(socket, &ping));
    assert_eq!(moved(&mut world, "received_bytes_total", pings), 2 * ping.len() as u64);
    assert_eq!(moved(&mut world, "sends_total", pings), 2, "a pong each");
    world.read_bytes(socket);
    assert_eq!(moved(&mut world, "sent_bytes_total{transport=\"ws\"}", pings), world.read_bytes(socket).len() as u64);
    world.stall(socket);
    pings(&mut world);
    let waiting = world.metric("send_queue_bytes");
    world.unstall(socket);
    assert_eq!((waiting, world.metric("send_queue_bytes")), (world.read_bytes(socket).len() as u64, 0));
}

#[test]
fn bytes_are_sent_when_the_socket_has_taken_them() {
    const SENT: &str = "sent_bytes_total{transport=\"ws\"}";
    let mut world = World::new();
    let socket = world.websocket("/channels/a", "");
    world.told(socket);
    let ping = frame(Opcode::Ping, b"1234567");
    // Three pongs of nine bytes, of which the socket takes nothing, then five bytes, then two.
    for (room, taken) in [(0, 0), (5, 5), (2, 2)] {
        let sent = moved(&mut world, SENT, |world| {
            world.give_room(socket, room);
            world.send(socket, &ping);
        });
        assert_eq!((sent, world.read_bytes(socket).len()), (taken, taken as usize), "with room for {room}");
    }
    let sent = moved(&mut world, SENT, |world| world.unstall(socket));
    assert_eq!((sent, world.read_bytes(socket).len()), (3 * 9 - 7, 3 * 9 - 7), "each byte once");
}

#[test]
fn every_door_and_every_transport_is_counted() {
    let mut world = World::new();
    world.open("/channels/a?via=sse", "");
    world.open("/channels?channel=a&channel=b&via=sse", "");
    world.open("/channels/a?via=stream", "");
    world.open("/channels/a?wait=50", "");
    world.post("/api/publish", "", r#"{"channel":"a","data":1}"#);
    world.post("/api/broadcast", "", r#"{"channels":["a","b","c"],"data":1}"#);
    check(
        &mut world,
        &[
            ("publications_total{door=\"api_publish\",namespace=\"default\"}", 1),
            ("publications_total{door=\"api_broadcast\",namespace=\"default\"}", 3),
            ("deliveries_total{transport=\"sse\"}", 5),
            ("deliveries_total{transport=\"stream\"}", 2),
            ("deliveries_total{transport=\"poll\"}", 1),
        ],
    );
}

#[test]
fn what_history_lets_go_of_is_counted_by_its_reason() {
    let mut world = World::with(|options| {
        options.hub.history_bytes_max = 100_000;
        (options.hub.namespaces[0].history_size, options.hub.namespaces[0].history_ttl) = (2, Duration::from_secs(5));
    });
    (0..5).for_each(|_| _ = world.publish("a", "1"));
    let two = world.metric("history_bytes");
    world.publish("b", "1");
    assert_eq!(world.metric("history_bytes") * 2, two * 3, "three of one size");
    check(&mut world, &[("history_trimmed_total{reason=\"size\"}", 3), ("history_trimmed_total{reason=\"ttl\"}", 0)]);
    world.pass(Duration::from_secs(5));
    for channel in ["a", "b"] {
        world.get(&format!("/channels/{channel}?since=start"), "");
    }
    check(&mut world, &[("history_trimmed_total{reason=\"ttl\"}", 3), ("history_bytes", 0)]);
    for channel in ["a", "b", "c", "d"] {
        world.publish(channel, &format!("\"{}\"", "x".repeat(40_000)));
    }
    check(&mut world, &[("history_trimmed_total{reason=\"memory\"}", 2), ("history_trimmed_total{reason=\"size\"}", 3)]);
}

#[test]
fn what_collapses_in_front_of_a_channels_subscribers_is_counted() {
    let mut world = World::with(|options| {
        options.hub.namespaces[0].coalesce = Duration::from_secs(1);
        options.hub.publication_bytes_max = 2 << 20;
    });
    let lines = world.open("/channels/a?via=stream", "");
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    // The first one opens the window in which 17 MiB wait, one more than may.
    (0..18).for_each(|_| _ = world.publish("a", &large));
    check(&mut world, &[("publications_collapsed_total{at=\"fan_out\"}", 16)]);
    world.pass(Duration::from_secs(1));
    let told = world.read(lines);
    assert!(told.contains("\"missed\":16,") && told.matches("\"data\"").count() == 2, "the first and the last");
    check(&mut world, &[("gaps_total{reason=\"slow\"}", 1), ("publications_collapsed_total{at=\"mailbox\"}", 0)]);
}

#[test]
fn what_collapses_in_front_of_a_full_mailbox_is_counted() {
    let mut world = World::of(2, |options| options.spill.delivery_bytes_max = 10_000);
    let channel = world.channel_at(0);
    let lines = world.connect_on(1);
    world.send(lines, get(&format!("/channels/{channel}?via=stream"), ""));
    world.hold_mail(1);
    let published = MAILBOX_ENTRIES + 20;
    (0..published).for_each(|_| _ = world.publish(&channel, &format!("\"{}\"", "x".repeat(1000))));
    world.deliver_mail();
    let told = world.read(lines);
    let missed: usize = told.split("\"missed\":").skip(1).filter_map(|rest| rest.split(',').next()?.parse::<usize>().ok()).sum();
    assert_eq!(told.matches("\"data\"").count() + missed, published);
    assert!(missed > 1);
    check(
        &mut world,
        &[("publications_collapsed_total{at=\"mailbox\"}", missed as u64), ("publications_collapsed_total{at=\"fan_out\"}", 0)],
    );
}

#[test]
fn every_reason_of_a_gap_and_every_outcome_of_a_resume_is_counted() {
    let mut world = World::with(|options| {
        options.hub.namespaces[0].history_size = 1;
        options.hub.namespaces.push(Namespace { history_size: 0, ..namespace("none") });
    });
    let (first, _, last) = (world.publish("a", "1"), world.publish("a", "2"), world.publish("a", "3"));
    let ahead = last.replace(":3", ":9");
    let forgotten = world.publish("none:a", "1");
    world.publish("none:a", "2");
    for target in
        [format!("a?since={first}"), format!("a?since={ahead}"), format!("none:a?since={forgotten}"), format!("a?since={last}")]
    {
        world.get(&format!("/channels/{target}"), "");
    }
    world.open(&format!("/channels/a?via=sse&since={last}"), "");
    world.websocket(&format!("/channels/a?since={first}"), "");
    check(
        &mut world,
        &[
            ("gaps_total{reason=\"expired\"}", 2),
            ("gaps_total{reason=\"bad_position\"}", 1),
            ("gaps_total{reason=\"no_history\"}", 1),
            ("resumes_total{transport=\"poll\",outcome=\"gap\"}", 3),
            ("resumes_total{transport=\"poll\",outcome=\"exact\"}", 1),
            ("resumes_total{transport=\"sse\",outcome=\"exact\"}", 1),
            ("resumes_total{transport=\"ws\",outcome=\"gap\"}", 1),
        ],
    );
}

#[test]
fn a_drain_and_who_comes_too_late_for_it_are_told() {
    let mut world = World::with(|options| options.hub.unknown_namespace = UnknownNamespace::Refuse);
    check(&mut world, &[("draining", 0)]);
    world.get("/channels/nope:1", "");
    world.get("/channels/a?since=%20", "");
    let late = world.connect();
    world.drain(Duration::from_secs(10));
    world.send(late, get("/channels/a?via=sse", ""));
    check(
        &mut world,
        &[
            ("draining", 1),
            ("connections_refused_total{reason=\"unknown_namespace\"}", 1),
            ("connections_refused_total{reason=\"request\"}", 1),
            ("connections_refused_total{reason=\"draining\"}", 1),
        ],
    );
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
    check(
        &mut world,
        &[
            ("slow_consumer_total{policy=\"drop_oldest\"}", 2),
            ("publications_dropped_total{policy=\"drop_oldest\"}", 2),
            ("gaps_total{reason=\"slow\"}", 2),
        ],
    );
    world.unstall(socket);
    assert_eq!(world.items(socket).iter().filter(|item| item["data"].is_string()).count(), 2);
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

#[test]
fn idle_connections_to_an_upstream_and_who_waits_for_one_are_counted() {
    let mut world = World::with(|options| {
        proxied(options);
        options.proxy.upstreams[0].connections_max = 1;
    });
    let conn = world.open("/app", "");
    let up = world.connected();
    let waiting = [world.open("/app", ""), world.open("/app", "")];
    check(&mut world, &[("upstream_connections{upstream=\"app\",state=\"waiting\"}", 2)]);
    for conn in [conn, waiting[0], waiting[1]] {
        world.send(up, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(world.answer(conn).status, 200);
    }
    check(
        &mut world,
        &[
            ("upstream_connections{upstream=\"app\",state=\"waiting\"}", 0),
            ("upstream_connections{upstream=\"app\",state=\"idle\"}", 1),
            ("upstream_requests_total{upstream=\"app\",status=\"200\"}", 3),
        ],
    );
}
