//! The channel doors: what is admitted, by which transport, and what is told to whom it is not.

use std::time::Duration;

use super::harness::{KEY, Told, UPGRADE, World, frame, namespace};
use crate::hub::{Access, Namespace, UnknownNamespace};
use crate::shard::Options;
use crate::ws::Opcode;

/// `chat:` is for key holders, `closed:` for nobody, and what is not configured is refused.
fn guarded(options: &mut Options) {
    options.hub.unknown_namespace = UnknownNamespace::Refuse;
    options.hub.namespaces.extend([
        Namespace { allow_subscribe: Access::Key, allow_publish: Access::Key, ..namespace("chat") },
        Namespace { allow_subscribe: Access::Nobody, allow_publish: Access::Nobody, ..namespace("closed") },
    ]);
}

#[test]
fn one_denied_channel_of_several_is_named_and_none_is_subscribed_to() {
    let mut world = World::with(guarded);
    for via in ["sse", "stream", "poll"] {
        let refused = world.get(&format!("/channels?channel=a&channel=closed:1&channel=b&via={via}&wait=9"), "");
        assert_eq!((refused.status, refused.json()["code"].as_u64()), (403, Some(103)));
        assert!(refused.json()["detail"].as_str().is_some_and(|detail| detail.contains("closed:1")), "{}", refused.body);
    }
    let socket = world.websocket("/channels?channel=a&channel=closed:1&channel=b", "");
    assert_eq!(world.close_frame(socket), (3507, "permission denied: closed:1".to_owned()));
    assert_eq!(world.shards[0].local.subscriptions(), 0);
}

#[test]
fn a_key_opens_what_is_for_key_holders_and_only_as_a_header() {
    let mut world = World::with(guarded);
    for (target, headers, status) in [
        ("/channels/chat:1".to_owned(), String::new(), 403),
        ("/channels/chat:1".to_owned(), "X-API-Key: wrong\r\n".to_owned(), 403),
        ("/channels/chat:1".to_owned(), format!("X-API-Key: {KEY}\r\n"), 200),
        ("/channels/chat:1".to_owned(), format!("Authorization: apikey {KEY}\r\n"), 200),
        (format!("/channels/chat:1?api_key={KEY}&key={KEY}&x-api-key={KEY}"), String::new(), 403),
    ] {
        assert_eq!(world.get(&target, &headers).status, status, "{target} {headers}");
    }
    let refused = world.ask(&format!("POST /api/publish?api_key={KEY} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"));
    assert_eq!(refused.status, 401);
}

#[test]
fn a_namespace_that_is_not_configured_is_not_denied_but_unknown() {
    let mut world = World::with(guarded);
    let refused = world.get("/channels?channel=a&channel=nope:1", "");
    assert_eq!((refused.status, refused.json()["code"].as_u64()), (404, Some(102)));
    assert!(refused.body.contains("nope:1") && !refused.body.contains("allow_subscribe"), "{}", refused.body);
    let socket = world.websocket("/channels/nope:1", "");
    assert_eq!(world.close_frame(socket), (3501, "unknown namespace: nope:1".to_owned()));
    assert_eq!(world.post("/channels/nope:1", "", "x").status, 404);
}

#[test]
fn what_is_wrong_with_a_websockets_request_is_told_after_the_upgrade() {
    for (target, reason) in [
        ("/channels/a?since=garbage", "since is a position, `start` or `now`"),
        ("/channels/a%20b", "a channel name is printable ASCII, this one has byte 0x20"),
        ("/channels", "no channel is named: use /channels/NAME or /channels?channel=NAME"),
        ("/channels/a?format=xml", "format=xml is unknown: json or raw"),
        ("/channels/a?channel=b&format=raw", "format=raw needs an event stream or a WebSocket of exactly one channel"),
    ] {
        let mut world = World::new();
        let socket = world.websocket(target, "");
        assert_eq!(world.close_frame(socket), (3501, reason.to_owned()), "{target}");
        assert_eq!(world.shards[0].local.subscriptions(), 0, "{target}");
        // The same without an upgrade is a plain refusal.
        assert_eq!(world.get(target, "").status, 400, "{target}");
    }
}

#[test]
fn a_broken_handshake_is_refused_as_http() {
    let mut world = World::new();
    for (headers, status) in [
        (UPGRADE.replace("Version: 13", "Version: 8"), 426),
        (UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), 400),
        (UPGRADE.replace("Connection: Upgrade\r\n", ""), 400),
        (format!("{UPGRADE}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400),
        (format!("{UPGRADE}Content-Length: 3\r\n"), 400),
    ] {
        assert_eq!(world.get("/channels/a?since=garbage", &headers).status, status, "{headers}");
        assert_eq!(world.get("/channels/a", &headers).status, status, "{headers}");
    }
}

#[test]
fn pages_of_any_number_of_origins_are_served() {
    let mut world = World::with(|options| options.http.allowed_origins = vec!["https://*.example.com".to_owned()]);
    let mut kinds = None;
    for origin in 0..5000 {
        let origin = format!("https://{origin}.example.com");
        let waiting = world.open("/channels/a?wait=9", &format!("Origin: {origin}\r\n"));
        world.publish("a", "x");
        let answer = world.answer(waiting);
        assert_eq!((answer.status, answer.header("Access-Control-Allow-Origin")), (200, Some(origin.as_str())));
        assert_eq!(answer.json()["messages"][0]["data"], "x");
        // Nothing that a client chooses makes a new kind of receiver.
        assert_eq!(*kinds.get_or_insert(world.shards[0].audiences.len()), world.shards[0].audiences.len());
    }
}

#[test]
fn a_connection_holds_as_many_channels_as_the_configuration_lets_it() {
    let target = |channels: usize| {
        let names: Vec<String> = (0..channels).map(|at| format!("channel=c{at}")).collect();
        format!("/channels?{}", names.join("&"))
    };
    for (configured, most) in [(3, 3), (128, 32)] {
        let mut world = World::with(|options| options.hub.per_connection_max = configured);
        assert_eq!(world.get(&target(most), "").status, 200);
        let refused = world.get(&target(most + 1), "");
        assert_eq!(refused.status, 400);
        assert!(refused.body.contains(&format!("may name {most} channels")), "{}", refused.body);
        let socket = world.websocket(&target(most + 1), "");
        assert_eq!(world.close_frame(socket).0, 3501);
    }
}

#[test]
fn a_look_tells_where_the_channel_is_whatever_start_is_asked_for() {
    let mut world = World::new();
    let first = world.publish("a", &"x".repeat(20_000));
    world.publish("a", &"x".repeat(20_000));
    let last = world.publish("a", &"x".repeat(20_000));
    let look = |world: &mut World, query: &str, headers: &str| {
        let answer = world.ask(&format!("HEAD /channels/a{query} HTTP/1.1\r\nHost: h\r\n{headers}\r\n"));
        assert_eq!(answer.body, "");
        (answer.status, answer.header("ETag").map(|tag| tag.trim_matches('"').to_owned()))
    };
    for query in
        ["", "?since=start", "?history=1", "?since=now", "?wait=50", &format!("?since={first}"), "?via=sse", "?since=zzzz:9"]
    {
        assert_eq!(look(&mut world, query, ""), (200, Some(last.clone())), "{query}");
    }
    assert_eq!(look(&mut world, "", &format!("If-None-Match: \"{last}\"\r\n")), (304, Some(last.clone())));
    assert_eq!(look(&mut world, "", &format!("If-None-Match: \"{first}\"\r\n")), (200, Some(last.clone())));
    assert_eq!(look(&mut world, "", UPGRADE), (200, Some(last)));
    assert_eq!(world.shards[0].local.subscriptions(), 0);
}

#[test]
fn a_list_field_on_several_lines_is_one_list() {
    let mut world = World::new();
    let position = world.publish("a", "x");
    let events = world.open("/channels/a", "Accept: application/json;q=0.1\r\nAccept: text/event-stream;q=0.9\r\n");
    assert_eq!(world.answer(events).header("Content-Type"), Some("text/event-stream"));
    let unchanged = world.get("/channels/a", &format!("If-None-Match: \"other\"\r\nIf-None-Match: \"{position}\"\r\n"));
    assert_eq!(unchanged.status, 304);
}

#[test]
fn a_bad_start_in_the_url_is_refused_and_in_a_header_is_a_gap() {
    let mut world = World::new();
    world.publish("a", "x");
    for query in ["since=nonsense", "since=", "history=x", "wait=1.5", "via=tcp", "format=xml"] {
        let refused = world.get(&format!("/channels/a?{query}"), "");
        assert_eq!((refused.status, refused.json()["code"].as_u64()), (400, Some(107)), "{query}");
    }
    let gap = world.get("/channels/a", "Last-Event-ID: nonsense\r\n");
    assert_eq!((gap.status, gap.json()["messages"][0]["gap"]["reason"].as_str()), (200, Some("bad_position")));
}

#[test]
fn one_expired_channel_of_several_gives_a_gap_of_its_own_and_only_that() {
    let short = |options: &mut Options| options.hub.namespaces.push(Namespace { history_size: 1, ..namespace("short") });
    let mut world = World::with(short);
    // A look, since a poll would make the worker remember what comes next.
    let look = world.ask("HEAD /channels?channel=a&channel=short:1&channel=none HTTP/1.1\r\nHost: h\r\n\r\n");
    let token = look.header("ETag").expect("a token").trim_matches('"').to_owned();
    world.publish("a", "1");
    for body in ["1", "2", "3"] {
        world.publish("short:1", body);
    }
    let messages =
        world.get(&format!("/channels?channel=a&channel=short:1&channel=none&since={token}"), "").json()["messages"].clone();
    let messages = messages.as_array().expect("items");
    let gaps: Vec<_> = messages.iter().filter_map(|message| message.get("gap")).collect();
    assert_eq!(gaps.len(), 1, "{messages:?}");
    assert_eq!(
        (gaps[0]["channel"].as_str(), gaps[0]["reason"].as_str(), gaps[0]["missed"].as_u64()),
        (Some("short:1"), Some("expired"), Some(2))
    );
    let data: Vec<_> =
        messages.iter().filter_map(|message| Some((message["channel"].as_str()?, message["data"].as_str()?))).collect();
    assert!(data.contains(&("a", "1")) && data.contains(&("short:1", "3")) && data.len() == 2, "{messages:?}");
}

#[test]
fn a_channel_without_history_says_so_in_its_gap() {
    let mut world = World::with(|options| options.hub.namespaces.push(Namespace { history_size: 0, ..namespace("none") }));
    let first = world.publish("none:1", "1");
    world.publish("none:1", "2");
    let messages = world.get(&format!("/channels/none:1?since={first}"), "").json()["messages"].clone();
    assert_eq!(messages[0]["gap"]["reason"], "no_history");
}

#[test]
fn a_loss_that_a_raw_websocket_cannot_be_told_closes_it() {
    let mut world = World::with(|options| options.hub.namespaces.push(Namespace { history_size: 1, ..namespace("short") }));
    let first = world.publish("short:1", "1");
    world.publish("short:1", "2");
    world.publish("short:1", "3");
    let socket = world.websocket(&format!("/channels/short:1?format=raw&since={first}"), "");
    assert_eq!(world.close_frame(socket), (3010, "insufficient state".to_owned()));
}

#[test]
fn codes_that_a_client_invents_are_counted_as_one() {
    let mut world = World::new();
    for code in [4001_u16, 4002, 4003, 3008] {
        let socket = world.websocket("/channels/a", "");
        world.told(socket);
        let payload = [code.to_be_bytes().as_slice(), b"x"].concat();
        world.send(socket, frame(Opcode::Close, payload));
        assert!(matches!(world.told(socket).last(), Some(Told::Close(..))));
    }
    let text = world.get("/metrics", "").body;
    let counts: Vec<&str> = text.lines().filter(|line| line.starts_with("ringmain_disconnects_total{")).collect();
    assert_eq!(
        counts,
        [
            "ringmain_disconnects_total{transport=\"ws\",code=\"other\"} 3",
            "ringmain_disconnects_total{transport=\"ws\",code=\"3008\"} 1"
        ]
    );
}

#[test]
fn items_tell_their_time_where_the_namespace_says_so() {
    let mut world = World::with(|options| options.hub.namespaces.push(Namespace { time: true, ..namespace("timed") }));
    let stored = world.now.wall.0;
    world.publish("timed:1", "x");
    world.publish("a", "x");
    world.pass(Duration::from_secs(1));
    let socket = world.websocket("/channels?channel=timed:1&channel=a&since=start", "");
    let items = world.items(socket);
    let of = |name: &str| items.iter().find(|item| item["channel"] == name).expect("an item").get("time").cloned();
    assert_eq!((of("timed:1"), of("a")), (Some(stored.into()), None), "{items:?}");
}

#[test]
fn all_who_wait_get_small_and_large_publications_whole() {
    for bytes in [1, 900, 1100, 20_000] {
        let mut world = World::new();
        let waiting = [(); 2].map(|()| world.open("/channels/a?wait=20", ""));
        world.publish("a", &"x".repeat(bytes));
        let answers = waiting.map(|conn| world.answer(conn));
        for answer in &answers {
            assert_eq!(answer.json()["messages"][0]["data"].as_str().map(str::len), Some(bytes));
            assert!(answer.header("etag").is_some() && answer.body == answers[0].body, "{bytes}");
        }
        assert!(waiting.into_iter().all(|conn| world.read(conn).is_empty()), "nothing behind the answer of {bytes}");
    }
}
