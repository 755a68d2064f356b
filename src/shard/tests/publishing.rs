//! Publishing by every door, and what becomes of it where readers are slow.

use super::{Told, World, namespace};
use crate::hub::{Access, Namespace, SlowConsumer};
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
