//! Requests and refusals, byte by byte.

use crate::skip;
use crate::support::{KEY, Server};

#[test]
fn publishing_needs_the_key_and_says_what_is_wrong() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let refused = server.ask("POST /channels/a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!((refused.status, refused.json()["code"].as_u64()), (401, Some(101)));
    assert_eq!(refused.header("WWW-Authenticate"), Some("apikey"));
    let shown =
        server.ask(&format!("POST /channels/a HTTP/1.1\r\nHost: h\r\nAuthorization: ApiKey {KEY}\r\nContent-Length: 2\r\n\r\nhi"));
    assert_eq!(shown.status, 200);
    assert_eq!(server.post("/channels/a", "", "").status, 400);
    assert_eq!(server.post("/channels/a?event=gap", "", "x").status, 400);
    assert_eq!(server.post("/channels/a", "Content-Type: application/json\r\n", "{oops").status, 400);
    assert_eq!(server.post("/channels/a", "", &"x".repeat((256 << 10) + 1)).status, 413);
}

#[test]
fn a_repeated_key_gets_the_first_position() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let first = server.post("/channels/a", "Idempotency-Key: \"k\"\r\n", "one").json();
    let again = server.post("/channels/a", "Idempotency-Key: k\r\n", "two").json();
    assert_eq!((first["position"].clone(), first.get("duplicate")), (again["position"].clone(), None));
    assert_eq!(again["duplicate"], true);
    assert_eq!(server.get("/channels/a?history=9").json()["messages"].as_array().map(Vec::len), Some(1));
}

#[test]
fn the_server_api_answers_as_its_callers_expect() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[("RINGMAIN_NAMESPACES__NONE__HISTORY_SIZE", "0")]);
    let reply = server.post("/api/publish", "", r#"{"channel":"chat:1","data":{"text":"hi"}}"#).json();
    assert_eq!(reply["result"]["offset"], 1);
    assert!(reply["result"]["epoch"].is_string());
    assert_eq!(server.post("/api/publish", "", r#"{"channel":"none:1","data":{}}"#).body, r#"{"result":{}}"#);
    let reply = server.post("/api/broadcast", "", r#"{"channels":["none:1","chat:1"],"data":{}}"#).json();
    assert_eq!(
        (
            reply["result"]["responses"][0]["result"].as_object().map(serde_json::Map::len),
            reply["result"]["responses"][1]["result"]["offset"].as_u64()
        ),
        (Some(0), Some(2))
    );
    assert_eq!(server.post("/api/publish", "", r#"{"data":1}"#).json()["error"]["code"], 107);
}

#[test]
fn requests_that_two_parsers_could_read_differently_are_refused_and_closed() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    for (rest, status) in [
        ("Host: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Host: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n", 400),
        ("Host: h\r\nTransfer-Encoding: gzip\r\n", 501),
        ("Host : h\r\n", 400),
        ("Host: h\r\nHost: h\r\n", 400),
        ("X: y\r\n", 400),
        ("Host: h\r\nX: a\r\n b\r\n", 400),
        ("Host: h\r\nExpect: magic\r\n", 417),
    ] {
        let mut client = server.connect();
        client.send(&format!("POST /channels/a HTTP/1.1\r\n{rest}\r\n"));
        assert_eq!(client.answer().status, status, "{rest:?}");
        client.closes();
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let mut client = server.connect();
    let publish = format!(
        "POST /channels/a HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    );
    client.send(&format!(
        "{publish}GET /channels/a?history=1 HTTP/1.1\r\nHost: h\r\n\r\n{publish}GET /nope HTTP/1.1\r\nHost: h\r\n\r\n"
    ));
    assert!(client.answer().json()["position"].as_str().is_some_and(|position| position.ends_with(":1")));
    assert_eq!(client.answer().json()["messages"][0]["data"], "hi");
    assert!(client.answer().json()["position"].as_str().is_some_and(|position| position.ends_with(":2")));
    assert_eq!(client.answer().status, 404);
}

#[test]
fn a_client_that_waits_is_told_to_continue() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.send(&format!(
        "POST /channels/a HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    ));
    client.read_until("HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hi");
    assert_eq!(client.answer().status, 200);
}

#[test]
fn a_slow_head_and_a_slow_body_are_cut() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[("RINGMAIN_HTTP__HEAD_TIMEOUT", "1s"), ("RINGMAIN_HTTP__BODY_TIMEOUT", "1s")]);
    let mut head = server.connect();
    head.send("GET / HTTP/1.1\r\nHo");
    let mut body = server.connect();
    body.send(&format!("POST /channels/a HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\nContent-Length: 9\r\n\r\nhi"));
    assert_eq!((head.answer().status, body.answer().status), (408, 408));
    head.closes();
    body.closes();
}

#[test]
fn a_look_tells_the_position_and_never_waits() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let position = server.publish("a", "x");
    let look = server.ask("HEAD /channels/a?wait=50 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!((look.status, look.header("ETag")), (200, Some(format!("\"{position}\"").as_str())));
}

#[test]
fn pages_are_let_in_by_the_list() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[("RINGMAIN_HTTP__ALLOWED_ORIGINS", "https://*.example.com")]);
    let ask =
        |origin: &str| server.ask(&format!("GET /channels/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nOrigin: {origin}\r\n\r\n"));
    let listed = ask("https://a.example.com");
    assert_eq!(
        (listed.status, listed.header("Access-Control-Allow-Origin"), listed.header("Vary")),
        (200, Some("https://a.example.com"), Some("Origin"))
    );
    assert_eq!(ask("https://evil.org").status, 403);
    assert_eq!(ask("http://h").status, 200);
    let preflight =
        server.ask("OPTIONS /channels/a HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example.com\r\nConnection: close\r\n\r\n");
    assert_eq!((preflight.status, preflight.header("Allow")), (204, Some("GET, HEAD, POST, OPTIONS")));
}

#[test]
fn what_no_door_takes_is_named() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    assert_eq!(server.get("/nope").status, 404);
    assert_eq!(server.get("/channels/a?via=ws").status, 426);
    assert_eq!(server.get("/channels/a?via=tcp").status, 400);
    assert_eq!(server.get("/channels/a%20b").status, 400);
    let wrong = server.ask("DELETE /channels/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!((wrong.status, wrong.header("Allow")), (405, Some("GET, HEAD, POST, OPTIONS")));
}

#[test]
fn a_client_that_has_finished_sending_is_answered_and_closed() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    server.publish("a", "one");
    for target in ["/channels/a", "/channels/a?since=start&wait=50", "/metrics"] {
        let mut client = server.connect();
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        client.finish_sending();
        assert_eq!(client.answer().status, 200, "{target}");
        assert_eq!(client.closes(), "", "{target}");
    }
    // Nothing is there and nobody may be either: it is let go, long before its time is up.
    let mut client = server.connect();
    client.send("GET /channels/quiet?wait=50 HTTP/1.1\r\nHost: h\r\n\r\n");
    client.finish_sending();
    assert_eq!(client.closes(), "");
}

#[test]
fn a_body_that_nobody_reads_is_not_the_next_request() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let smuggled = "GET /channels/a HTTP/1.1\r\nHost: h\r\n\r\n";
    for path in ["/health/live", "/metrics", "/nowhere", "/channels/a"] {
        let mut client = server.connect();
        client.send(&format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()));
        let answer = client.answer();
        assert!(answer.status >= 400 && answer.header("Connection") == Some("close"), "{path}: {answer:?}");
        assert_eq!(client.closes(), "", "{path}");
    }
}
