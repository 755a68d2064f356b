//! Which paths are doors, on which listener.

use super::harness::{KEY, World, post};
use crate::shard::ListenerId;

/// Whether a door answers there: without a route, what is no door is a 404 that names its path.
fn is_door(world: &mut World, listener: ListenerId, path: &str) -> bool {
    let conn = world.connect_by(listener);
    world.send(conn, format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\n\r\n"));
    let answer = world.answer(conn);
    assert!(matches!(answer.status, 200 | 404 | 405 | 426), "{path}: {answer:?}");
    answer.status != 404
}

const INTERNAL: [&str; 5] = ["/api/publish", "/api/broadcast", "/metrics", "/health/live", "/health/ready"];
const PUBLIC: [&str; 4] = ["/channels/a", "/channels?channel=a", "/echo", "/"];

#[test]
fn doors_are_exact_paths() {
    let mut world = World::with(|options| (options.server.echo, options.server.development) = (true, true));
    for path in INTERNAL.iter().chain(&PUBLIC) {
        assert!(is_door(&mut world, ListenerId::Public, path), "{path}");
    }
    for path in
        ["/api", "/api/", "/api/publish/", "/api/other", "/channel/a", "/channelsx", "/health", "/metrics/x", "/echo/x", "/x"]
    {
        assert!(!is_door(&mut world, ListenerId::Public, path), "{path} is a backend's");
    }
    let mut world = World::new();
    for path in ["/echo", "/"] {
        assert!(!is_door(&mut world, ListenerId::Public, path), "{path} is not asked for");
    }
}

#[test]
fn a_prefix_moves_every_door() {
    let mut world = World::with(|options| {
        (options.server.echo, options.server.development) = (true, true);
        options.server.door_prefix = "/_rt".to_owned();
    });
    for path in INTERNAL.iter().chain(&PUBLIC) {
        assert!(is_door(&mut world, ListenerId::Public, &format!("/_rt{path}")), "{path}");
        assert!(!is_door(&mut world, ListenerId::Public, path), "{path}");
    }
    for path in ["/_rtx/channels/a", "/_rtchannels/a", "/x/_rt/channels/a"] {
        assert!(!is_door(&mut world, ListenerId::Public, path), "{path}");
    }
    let page = world.ask("GET /_rt/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    assert!(page.body.contains(r#"content="/_rt""#), "the page asks where the doors are");
}

#[test]
fn an_internal_listener_takes_what_is_for_the_servers_own_people() {
    let mut world = World::with(|options| {
        (options.server.echo, options.server.development) = (true, true);
        options.server.internal_listener = true;
    });
    for (paths, listener) in [(INTERNAL.as_slice(), ListenerId::Internal), (&PUBLIC, ListenerId::Public)] {
        let other = if listener == ListenerId::Internal { ListenerId::Public } else { ListenerId::Internal };
        for path in paths {
            assert!(is_door(&mut world, listener, path), "{path}");
            assert!(!is_door(&mut world, other, path), "{path}");
        }
    }
    // What is published inside is seen outside.
    let internal = world.connect_by(ListenerId::Internal);
    let body = r#"{"channel":"a","data":1}"#;
    world.send(internal, post("/api/publish", "", body));
    assert_eq!(world.answer(internal).json()["result"]["offset"], 1);
    assert_eq!(world.get("/channels/a?since=start", "").json()["messages"][0]["data"], 1);
}

#[test]
fn metrics_need_the_key_where_strangers_could_ask_for_them() {
    for (loopback, internal, key, status) in
        [(true, false, false, 200), (false, false, false, 401), (false, false, true, 200), (false, true, false, 200)]
    {
        let mut world = World::with(|options| (options.server.loopback, options.server.internal_listener) = (loopback, internal));
        let conn = world.connect_by(if internal { ListenerId::Internal } else { ListenerId::Public });
        let key = if key { format!("X-API-Key: {KEY}\r\n") } else { String::new() };
        world.send(conn, format!("GET /metrics HTTP/1.1\r\nHost: h\r\n{key}\r\n"));
        assert_eq!(world.answer(conn).status, status, "loopback {loopback}, internal {internal}, {key:?}");
    }
}
