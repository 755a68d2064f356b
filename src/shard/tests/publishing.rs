//! Publishing by every door, and what becomes of it where readers are slow.

use super::harness::{KEY, MAILBOX_ENTRIES, Told, World, namespace, post};
use crate::hub::{Access, Namespace, SlowConsumer, UnknownNamespace};
use crate::shard::Options;

/// Nobody may publish to `closed:`.
fn guarded(options: &mut Options) {
    options.hub.namespaces.push(Namespace { allow_publish: Access::Nobody, ..namespace("closed") });
}

#[test]
fn a_raw_websocket_publishes_text_and_bytes_and_sees_its_own() {
    let mut world = World::new();
    let raw = world.websocket("/channels/a?format=raw", "");
    let json = world.websocket("/channels/a", "");
    world.items(json);
    world.send_text(raw, "{\"a\":1}");
    world.send_binary(raw, &[0, 1]);
    assert_eq!(world.told(raw), [Told::Text("{\"a\":1}".to_owned()), Told::Binary(vec![0, 1])]);
    let items = world.items(json);
    // A text message is text: only the JSON door says that something is JSON.
    assert_eq!((items[0]["data"].as_str(), items[1]["b64"].as_str()), (Some("{\"a\":1}"), Some("AAE=")));
}

#[test]
fn whoever_may_not_publish_is_told_so_or_closed_where_it_cannot_be_told() {
    let mut world = World::with(guarded);
    let json = world.websocket("/channels/closed:1", "");
    world.items(json);
    world.send_text(json, r#"{"id":3,"publish":{"data":1}}"#);
    let expected = serde_json::json!({"id": 3, "error": {"code": 103, "message": "permission denied"}});
    assert_eq!(world.items(json), [expected]);
    let raw = world.websocket("/channels/closed:1?format=raw", "");
    world.send_text(raw, "x");
    assert_eq!(world.close_frame(raw), (3507, "permission denied".to_owned()));
    // What is not configured is denied.
    let mut world = World::with(|options| options.hub.namespaces[0].allow_publish = Namespace::default().allow_publish);
    let socket = world.websocket("/channels/a", "");
    world.items(socket);
    world.send_text(socket, r#"{"id":4,"publish":{"data":1}}"#);
    assert_eq!(world.items(socket)[0]["error"]["code"], 103);
}

#[test]
fn a_socket_of_several_channels_says_which_one_it_publishes_to() {
    let mut world = World::new();
    let socket = world.websocket("/channels?channel=a&channel=b", "");
    world.items(socket);
    world.send_text(socket, r#"{"id":1,"publish":{"data":1}}"#);
    assert_eq!(world.items(socket), [serde_json::json!({"id": 1, "error": {"code": 107, "message": "bad request"}})]);
    world.send_text(socket, r#"{"id":2,"publish":{"channel":"b","data":1}}"#);
    let items = world.items(socket);
    assert!(items.iter().any(|item| item["channel"] == "b") && items.iter().any(|item| item["id"] == 2), "{items:?}");
    world.send_text(socket, r#"{"id":3,"publish":{"channel":"c","data":1}}"#);
    assert_eq!(world.items(socket)[0]["error"]["code"], 103);
}

#[test]
fn a_slow_reader_is_closed_or_told_of_its_gap() {
    let slow = |policy| {
        move |options: &mut Options| {
            let namespace = &mut options.hub.namespaces[0];
            (namespace.slow_consumer, namespace.queue_bytes_max) = (policy, 1024);
        }
    };
    let flood = |world: &mut World, target: &str| {
        let socket = world.websocket(target, "");
        world.told(socket);
        world.stall(socket);
        for _ in 0..8 {
            world.publish("a", &"x".repeat(300));
        }
        world.unstall(socket);
        socket
    };
    let mut world = World::with(slow(SlowConsumer::Disconnect));
    let socket = flood(&mut world, "/channels/a");
    assert_eq!(world.close_frame(socket), (3008, "slow".to_owned()));
    let mut world = World::with(slow(SlowConsumer::DropOldest));
    let socket = flood(&mut world, "/channels/a");
    let items = world.items(socket);
    assert!(items.iter().any(|item| item["gap"]["reason"] == "slow"), "{items:?}");
    // A raw WebSocket has no room for a gap.
    let mut world = World::with(slow(SlowConsumer::DropOldest));
    let socket = flood(&mut world, "/channels/a?format=raw");
    assert_eq!(world.close_frame(socket), (3010, "insufficient state".to_owned()));
}

#[test]
fn several_channels_in_one_call_are_answered_in_the_order_of_the_request() {
    let mut world = World::with(|options| {
        guarded(options);
        options.hub.unknown_namespace = UnknownNamespace::Refuse;
    });
    let socket = world.websocket("/channels/b", "");
    world.items(socket);
    let request = "/channels?channel=b&channel=nope:1&channel=closed:1&channel=b&event=up";
    let answer = world.post(request, "Idempotency-Key: k\r\n", "x");
    let results = answer.json()["results"].clone();
    assert_eq!((answer.status, results.as_array().map(Vec::len)), (200, Some(3)), "{}", answer.body);
    let channels: Vec<_> = (0..3).map(|at| results[at]["channel"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(channels, ["b", "nope:1", "closed:1"]);
    assert!(results[0]["position"].is_string() && results[2]["position"].is_string(), "{results}");
    assert_eq!(results[1]["error"], serde_json::json!({"code": 102, "message": "unknown channel"}));
    let items = world.items(socket);
    assert_eq!((items.len(), items[0]["event"].as_str()), (1, Some("up")));
    // A retry repeats nothing and gets the first positions.
    let again = world.post(request, "Idempotency-Key: k\r\n", "x").json()["results"].clone();
    assert_eq!((again[0]["position"].clone(), again[0]["duplicate"].as_bool()), (results[0]["position"].clone(), Some(true)));
    assert!(world.items(socket).is_empty());
    for (target, status) in [("/channels", 400), ("/channels/a?channel=b", 400), ("/channels?channel=a%20b", 400)] {
        assert_eq!(world.post(target, "", "x").status, status, "{target}");
    }
    let many: Vec<String> = (0..33).map(|at| format!("channel=c{at}")).collect();
    assert_eq!(world.post(&format!("/channels?{}", many.join("&")), "", "x").status, 400);
}

#[test]
fn a_slow_reader_keeps_the_newest_of_each_key_whichever_door_gave_it() {
    let mut world = World::with(|options| {
        let namespace = &mut options.hub.namespaces[0];
        (namespace.slow_consumer, namespace.queue_bytes_max) = (SlowConsumer::Conflate, 2048);
    });
    let reader = world.websocket("/channels/a", "");
    world.told(reader);
    let writer = world.websocket("/channels/a", "");
    world.stall(reader);
    let body = |number: usize| format!("[{number},\"{}\"]", "x".repeat(200));
    world.publish("a", &body(0));
    world.post("/channels/a?key=EUR%2FUSD", "", &body(1));
    world.send_text(writer, &format!(r#"{{"id":1,"publish":{{"data":{},"key":"GBP"}}}}"#, body(2)));
    world.post("/api/publish", "", &format!(r#"{{"channel":"a","data":{},"key":"JPY"}}"#, body(3)));
    world.post("/api/broadcast", "", &format!(r#"{{"channels":["a"],"data":{},"key":"CHF"}}"#, body(4)));
    for number in 5..20 {
        world.post("/channels/a?key=often", "", &body(number));
    }
    world.unstall(reader);
    let items = world.items(reader);
    let told: Vec<_> = items.iter().filter_map(|item| item["data"][0].as_u64()).collect();
    // What has begun to leave is told whatever comes.
    assert_eq!(told, [0, 1, 2, 3, 4, 19], "the newest of every key");
    assert!(items.iter().any(|item| item["gap"]["reason"] == "slow"), "{items:?}");
}

#[test]
fn a_payload_that_strict_readers_refuse_is_refused_by_every_door() {
    let mut world = World::new();
    let bad = r#"{"a":"\ud800"}"#;
    let refused = world.post("/channels/a", "Content-Type: application/json\r\n", bad);
    assert_eq!((refused.status, refused.json()["code"].as_u64()), (400, Some(107)));
    let api = world.post("/api/publish", "", &format!(r#"{{"channel":"a","data":{bad}}}"#));
    assert_eq!((api.status, api.json()["error"]["code"].as_u64()), (200, Some(107)));
    let socket = world.websocket("/channels/a", "");
    world.items(socket);
    world.send_text(socket, &format!(r#"{{"id":1,"publish":{{"data":{bad}}}}}"#));
    assert_eq!(world.items(socket)[0]["error"]["code"], 107);
    assert_eq!(world.get("/channels/a?since=start", "").json()["messages"].as_array().map(Vec::len), Some(0));
}

#[test]
fn the_server_api_answers_in_its_own_shape_whatever_goes_wrong() {
    let mut world = World::with(|options| options.hub.unknown_namespace = UnknownNamespace::Refuse);
    let transport = "X-Centrifugo-Error-Mode: transport\r\n";
    for (body, code, status) in [(r#"{"channel":"nope:1","data":1}"#, 102, 404), (r#"{"channel":"a b","data":1}"#, 107, 400)] {
        let object = world.post("/api/publish", "", body);
        assert_eq!((object.status, object.json()["error"]["code"].as_u64()), (200, Some(code)), "{body}");
        let bare = world.post("/api/publish", transport, body);
        assert_eq!((bare.status, bare.json()["code"].as_u64(), bare.json().get("error")), (status, Some(code), None), "{body}");
    }
    let broadcast = r#"{"channels":["a","b c","nope:1"],"data":1}"#;
    for headers in ["", transport] {
        let answer = world.post("/api/broadcast", headers, broadcast);
        let responses = answer.json()["result"]["responses"].clone();
        assert_eq!((answer.status, responses.as_array().map(Vec::len)), (200, Some(3)), "{}", answer.body);
        assert!(responses[0]["result"]["offset"].is_u64(), "{responses}");
        assert_eq!((responses[1]["error"]["code"].as_u64(), responses[2]["error"]["code"].as_u64()), (Some(107), Some(102)));
    }
    assert_eq!(world.post("/api/broadcast", "", r#"{"channels":[],"data":1}"#).json()["error"]["code"], 107);
}

#[test]
fn the_server_api_refuses_as_http_what_is_no_call() {
    let mut world = World::with(|options| options.hub.publication_bytes_max = 1000);
    let unauthorized = world.ask("POST /api/publish HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!((unauthorized.status, unauthorized.header("WWW-Authenticate")), (401, Some("apikey")));
    assert_eq!(unauthorized.json()["code"], 101);
    let method = world.get("/api/publish", &format!("X-API-Key: {KEY}\r\n"));
    assert_eq!((method.status, method.header("Allow"), method.json()["code"].as_u64()), (405, Some("POST, OPTIONS"), Some(104)));
    let large = format!(r#"{{"channel":"a","data":"{}"}}"#, "x".repeat(20_000));
    let refused = world.post("/api/publish", "", &large);
    assert_eq!((refused.status, refused.json()["code"].as_u64()), (413, Some(106)));
    // What fits the call and not the channel is the channel's error.
    let large = format!(r#"{{"channel":"a","data":"{}"}}"#, "x".repeat(2000));
    assert_eq!(world.post("/api/publish", "", &large).json()["error"]["code"], 106);
    let broken = world.post("/api/publish", "X-Centrifugo-Error-Mode: transport\r\n", "{oops");
    assert_eq!((broken.status, broken.body.as_str()), (400, "Bad Request"));
    // Without a configured key none is right.
    let mut world = World::with(|options| options.server.api_key.clear());
    assert_eq!(world.ask("POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: \r\nContent-Length: 2\r\n\r\n{}").status, 401);
}

#[test]
fn a_worker_that_is_behind_is_said_by_each_door_in_its_own_way() {
    let mut world = World::of(2, |options| options.spill.publish_bytes_max = 100);
    let (ours, theirs) = (world.channel_at(0), world.channel_at(1));
    world.hold_mail(1);
    for _ in 0..MAILBOX_ENTRIES + 3 {
        world.request(&post(&format!("/channels/{theirs}"), "", &"x".repeat(1000)));
    }
    let refused = world.post(&format!("/channels/{theirs}"), "", "x");
    assert_eq!(
        (refused.status, refused.json()["temporary"].as_bool(), refused.header("Retry-After")),
        (503, Some(true), Some("1"))
    );
    let api = world.post("/api/publish", "", &format!(r#"{{"channel":"{theirs}","data":1}}"#));
    assert_eq!((api.status, api.json()["error"]["code"].as_u64()), (200, Some(100)));
    let broadcast = world.post("/api/broadcast", "", &format!(r#"{{"channels":["{theirs}","{ours}"],"data":1}}"#)).json();
    let responses = &broadcast["result"]["responses"];
    assert_eq!((responses[0]["error"]["code"].as_u64(), responses[1]["result"]["offset"].as_u64()), (Some(100), Some(1)));
    let several = world.post(&format!("/channels?channel={theirs}&channel={ours}"), "", "x").json();
    assert_eq!(several["results"][0]["error"]["temporary"], true);
    assert!(several["results"][1]["position"].is_string(), "{several}");
}

#[test]
fn a_version_that_history_tells_already_is_skipped() {
    let mut world = World::with(|options| options.hub.namespaces.push(Namespace { history_size: 0, ..namespace("none") }));
    let mut publish = |channel: &str, fields: &str| {
        let answer = world.post("/api/publish", "", &format!(r#"{{"channel":"{channel}","data":1{fields}}}"#));
        answer.json()["result"]["offset"].as_u64()
    };
    for (fields, offset) in [
        (r#","version":5"#, 1),
        (r#","version":5"#, 1),
        (r#","version":4"#, 1),
        (r#","version":6,"version_epoch":"x""#, 2),
        (r#","version":6,"version_epoch":"x""#, 2),
        (r#","version":6"#, 2),
        ("", 3),
        (r#","version":6"#, 3),
        (r#","version":1,"version_epoch":"y""#, 4),
        (r#","version":2"#, 5),
        // What is not kept is not history's.
        (r#","version":2,"skip_history":true"#, 0),
        (r#","version":3"#, 7),
    ] {
        assert_eq!(publish("a", fields).unwrap_or_default(), offset, "{fields}");
    }
    assert_eq!((publish("none:1", r#","version":5"#), publish("none:1", r#","version":5"#)), (None, None));
    assert_eq!(world.get("/channels/none:1?since=start", "").json()["position"].as_str().map(|at| at.ends_with(":2")), Some(true));
    // Told until the history is gone.
    let age = world.shards[0].options.hub.namespaces[0].history_ttl;
    world.pass(age);
    let answer = world.post("/api/publish", "", r#"{"channel":"a","data":1,"version":1}"#);
    assert_eq!(answer.json()["result"]["offset"], 8);
}
