//! Pages of other sites: whom the doors let in, and what they tell whom.

use super::harness::{KEY, UPGRADE, World, post};
use crate::shard::Options;

fn listed(options: &mut Options) {
    options.http.allowed_origins = vec!["https://*.example.com".to_owned()];
    options.server.echo = true;
    options.server.development = true;
}

#[test]
fn a_foreign_origin_is_refused_on_every_door() {
    for target in ["/channels/a", "/channels?channel=a", "/api/publish", "/echo", "/metrics", "/health/live", "/health/ready", "/"]
    {
        let mut world = World::with(listed);
        let ask = |origin: &str| format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{origin}\r\n");
        let refused = world.ask(&ask("Origin: https://evil.org\r\n"));
        assert_eq!((refused.status, refused.json()["code"].as_u64()), (403, Some(103)), "{target}");
        let plain = world.ask(&ask("")).status;
        assert_ne!(plain, 403, "{target}");
        assert_eq!(world.ask(&ask("Origin: https://a.example.com\r\n")).status, plain, "{target}");
        assert_eq!(world.ask(&ask("Origin: http://127.0.0.1:80\r\n")).status, plain, "{target}");
    }
    // A WebSocket's page is let in or not before the handshake: nothing is told to a foreign one.
    assert_eq!(World::with(listed).get("/channels/a", &format!("{UPGRADE}Origin: https://evil.org\r\n")).status, 403);
}

#[test]
fn what_is_not_for_pages_is_not_readable_by_them() {
    let mut world = World::with(|options| {
        options.http.allowed_origins = vec!["*".to_owned()];
        options.server.development = true;
    });
    for (target, readable) in [("/channels/a", true), ("/metrics", false), ("/health/live", false), ("/", false)] {
        let answer = world.ask(&format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.org\r\n\r\n"));
        assert_eq!((answer.status, answer.header("Access-Control-Allow-Origin").is_some()), (200, readable), "{target}");
    }
}

#[test]
fn the_page_with_the_key_goes_only_to_who_names_the_server_by_address() {
    let mut world = World::with(|options| options.server.development = true);
    let ask = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for host in ["127.0.0.1:8000", "localhost", "[::1]:8000", "192.168.1.5:8000"] {
        let page = world.ask(&ask(host));
        assert!(page.status == 200 && page.body.contains(KEY), "{host}");
    }
    for host in ["rebound.evil.org:8000", "localhost.evil.org", ""] {
        let refused = world.ask(&ask(host));
        assert_eq!(refused.status, 403, "{host}");
        assert!(!refused.body.contains(KEY) && refused.body.contains("http://127.0.0.1"), "{}", refused.body);
    }
}

#[test]
fn a_preflight_says_what_a_page_may_send_and_for_how_long() {
    let mut world = World::with(listed);
    for (target, allow) in [
        ("/channels/a", "GET, HEAD, POST, OPTIONS"),
        ("/channels", "GET, HEAD, POST, OPTIONS"),
        ("/api/publish", "POST, OPTIONS"),
        ("/api/broadcast", "POST, OPTIONS"),
    ] {
        let answer = world.ask(&format!("OPTIONS {target} HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example.com\r\n\r\n"));
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{target}");
        for (name, value) in [
            ("Allow", allow),
            ("Access-Control-Allow-Methods", allow),
            ("Access-Control-Allow-Origin", "https://a.example.com"),
            (
                "Access-Control-Allow-Headers",
                "Authorization, Content-Type, X-API-Key, Last-Event-ID, If-None-Match, Idempotency-Key",
            ),
            ("Access-Control-Expose-Headers", "ETag, Retry-After"),
            ("Access-Control-Max-Age", "300"),
            ("Vary", "Origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{target} {name}");
        }
        assert_eq!(answer.header("Access-Control-Allow-Credentials"), None);
    }
}

#[test]
fn a_page_that_is_let_in_can_read_what_is_wrong_with_its_request() {
    let mut world = World::with(listed);
    let refused = world.ask(&post("/channels/a?event=gap", "Origin: https://a.example.com\r\n", "x"));
    assert_eq!((refused.status, refused.header("Access-Control-Allow-Origin")), (400, Some("https://a.example.com")));
}
