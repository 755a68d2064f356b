//! One publication on every transport, and every way to come back.

use std::time::Instant;

use tungstenite::Message;

use crate::skip;
use crate::support::{Client, Server};

fn open(server: &Server, target: &str, version: &str, headers: &str) -> Client {
    let mut client = server.connect();
    client.send(&format!("GET {target} HTTP/{version}\r\nHost: h\r\n{headers}\r\n"));
    client
}

fn text(socket: &mut tungstenite::WebSocket<std::net::TcpStream>) -> serde_json::Value {
    match socket.read().expect("a message") {
        Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("{other:?}"),
    }
}

fn close_code(socket: &mut tungstenite::WebSocket<std::net::TcpStream>) -> u16 {
    loop {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => return frame.code.into(),
            Ok(_) => {}
            Err(error) => panic!("no close frame: {error}"),
        }
    }
}

#[test]
fn one_publication_arrives_by_every_transport() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let mut events = open(&server, "/channels/news?via=sse", "1.1", "");
    let mut old_events = open(&server, "/channels/news?via=sse", "1.0", "");
    let mut lines = open(&server, "/channels/news?via=stream", "1.1", "");
    let mut poll = open(&server, "/channels/news?wait=50", "1.1", "");
    let mut socket = server.websocket("/channels/news");
    let mut raw = server.websocket("/channels/news?format=raw");
    events.read_until("id: ");
    old_events.read_until("id: ");
    lines.read_until("\"subscribed\"");
    assert!(text(&mut socket)["subscribed"]["position"].is_string());
    // The raw socket and the poll are not told that they are subscribed; a publication of their own channel tells them.
    crate::support::wait_for("six subscriptions", || {
        server.get("/metrics").body.lines().any(|line| line == "ringmain_subscriptions{namespace=\"default\"} 6").then_some(())
    });
    let position = server.publish("news", "{\"a\":1}");
    let item = format!("{{\"channel\":\"news\",\"position\":\"{position}\",\"data\":{{\"a\":1}}}}");
    events.read_until(&format!("id: {position}\ndata: {{\"a\":1}}\n\n"));
    let bare = old_events.read_until(&format!("id: {position}\ndata: {{\"a\":1}}\n\n"));
    assert!(!bare.contains("\r\n"), "HTTP/1.0 has no chunks: {bare:?}");
    lines.read_until(&format!("{item}\n"));
    assert_eq!(text(&mut socket).to_string(), serde_json::from_str::<serde_json::Value>(&item).unwrap().to_string());
    assert_eq!(raw.read().unwrap(), Message::Text("{\"a\":1}".into()));
    let answer = poll.answer();
    assert_eq!(answer.body, format!("{{\"messages\":[{item}],\"position\":\"{position}\"}}"));
    assert_eq!(answer.header("ETag"), Some(format!("\"{position}\"").as_str()));
}

#[test]
fn the_same_token_resumes_on_every_transport() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let first = server.publish("news", "one");
    let second = server.publish("news", "two");
    let mut events = open(&server, "/channels/news?via=sse&since=start", "1.1", &format!("Last-Event-ID: {first}\r\n"));
    let said = events.read_until(&format!("id: {second}\ndata: two\n\n"));
    assert!(!said.contains("data: one"), "{said}");
    let polled = server.get(&format!("/channels/news?since={first}")).json();
    assert_eq!((polled["messages"].as_array().map(Vec::len), polled["messages"][0]["data"].as_str()), (Some(1), Some("two")));
    let mut socket = server.websocket(&format!("/channels/news?since={first}"));
    assert_eq!(text(&mut socket)["subscribed"]["recovered"], true);
    assert_eq!(text(&mut socket)["data"], "two");
    let current =
        server.ask(&format!("GET /channels/news HTTP/1.1\r\nHost: h\r\nConnection: close\r\nIf-None-Match: \"{second}\"\r\n\r\n"));
    assert_eq!(current.status, 304);
}

#[test]
fn what_cannot_be_served_is_a_gap() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[("RINGMAIN_NAMESPACES__DEFAULT__HISTORY_SIZE", "2")]);
    let first = server.publish("news", "1");
    for body in ["2", "3", "4"] {
        server.publish("news", body);
    }
    let messages = server.get(&format!("/channels/news?since={first}")).json()["messages"].clone();
    assert_eq!((messages[0]["gap"]["missed"].as_u64(), messages[0]["gap"]["reason"].as_str()), (Some(1), Some("expired")));
    assert_eq!((messages[1]["data"].as_str(), messages[2]["data"].as_str()), (Some("3"), Some("4")));
    let other = server.get("/channels/news?since=zzzz:1").json()["messages"].clone();
    assert_eq!(other[0]["gap"]["reason"], "epoch");
    let mut events = open(&server, "/channels/news?via=sse", "1.1", "Last-Event-ID: nonsense\r\n");
    events.read_until("event: gap\n");
}

#[test]
fn several_channels_share_one_token() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    server.publish("a", "1");
    let mut events = open(&server, "/channels?channel=a&channel=b&via=sse", "1.1", "");
    // Two homes answer, in whichever order.
    events.read_until("\"recovered\"");
    events.read_until("\"recovered\"");
    server.publish("b", "2");
    events.read_until("\"data\":\"2\"");
    events.read_until("id: ");
    let token = events.read_until("\n").trim().to_owned();
    assert!(token.starts_with("m1."), "{token}");
    server.publish("a", "3");
    let messages = server.get(&format!("/channels?channel=a&channel=b&since={token}")).json()["messages"].clone();
    assert_eq!((messages.as_array().map(Vec::len), messages[0]["data"].as_str()), (Some(1), Some("3")));
}

#[test]
fn a_websocket_publishes_and_is_answered() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let mut socket = server.websocket("/channels/news");
    text(&mut socket);
    socket.send(Message::Text(r#"{"id":7,"publish":{"data":{"n":1}}}"#.into())).unwrap();
    let (first, second) = (text(&mut socket), text(&mut socket));
    let (item, ok) = if first.get("ok").is_some() { (second, first) } else { (first, second) };
    assert_eq!((ok["id"].as_u64(), ok["ok"]["position"].clone()), (Some(7), item["position"].clone()));
    socket.send(Message::Text(r#"{"id":8,"publish":{"channel":"other","data":1}}"#.into())).unwrap();
    assert_eq!(text(&mut socket)["error"]["code"], 103);
    socket.send(Message::Text("{".into())).unwrap();
    assert_eq!(close_code(&mut socket), 3501);
}

#[test]
fn a_websocket_is_closed_with_the_right_code() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[("RINGMAIN_WEBSOCKET__PING_INTERVAL", "2s"), ("RINGMAIN_WEBSOCKET__PONG_TIMEOUT", "1s")]);
    let mut big = server.websocket("/channels/news");
    text(&mut big);
    big.send(Message::Binary(vec![0; 65 << 10].into())).unwrap();
    assert_eq!(close_code(&mut big), 1009);
    // Nobody answers the ping: the handshake is made by hand and nothing is sent after it.
    let mut silent = open(
        &server,
        "/channels/news",
        "1.1",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    );
    assert!(silent.closes().ends_with("no pong"));
}

#[test]
fn compressed_and_plain_receivers_get_the_same_message() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[("RINGMAIN_WEBSOCKET__DEFLATE", "true")]);
    let upgrade =
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut packed =
        open(&server, "/channels/news?format=raw", "1.1", &format!("{upgrade}Sec-WebSocket-Extensions: permessage-deflate\r\n"));
    assert!(packed.read_until("\r\n\r\n").contains("permessage-deflate"));
    let mut plain = server.websocket("/channels/news");
    text(&mut plain);
    crate::support::wait_for("two subscriptions", || {
        server.get("/metrics").body.lines().any(|line| line == "ringmain_subscriptions{namespace=\"default\"} 2").then_some(())
    });
    server.publish("news", &"ringmain ".repeat(100));
    assert_eq!(text(&mut plain)["data"], "ringmain ".repeat(100));
    // RSV1 and text in the first byte, and far fewer than nine hundred bytes in the second.
    let frame = packed.read_bytes(2);
    assert_eq!(frame[0], 0xc1);
    assert!(frame[1] < 120, "{}", frame[1]);
}

#[test]
fn a_state_channel_tells_its_latest_value() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[("RINGMAIN_NAMESPACES__TICKER__KIND", "state")]);
    server.publish("ticker:x", "1");
    server.publish("ticker:x", "2");
    let messages = server.get("/channels/ticker:x").json()["messages"].clone();
    assert_eq!(
        (messages.as_array().map(Vec::len), messages[0]["data"].as_str(), messages[0]["state"].as_bool()),
        (Some(1), Some("2"), Some(true))
    );
}

#[test]
fn a_slow_reader_keeps_what_nothing_of_its_key_replaced() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[("RINGMAIN_NAMESPACES__PRICES__SLOW_CONSUMER", "conflate")]);
    let mut slow = Client::connect_narrow(server.address);
    slow.send("GET /channels/prices:all?via=stream HTTP/1.0\r\nHost: h\r\n\r\n");
    slow.read_until("\"subscribed\"");
    let dropped = || server.metric_sum("ringmain_publications_dropped_total{policy=\"conflate\"}");
    let fill = || {
        let body = format!(r#"{{"channel":"prices:all","data":"{}","key":"often"}}"#, "x".repeat(30_000));
        assert!(server.post("/api/publish", "", &body).json()["result"]["offset"].is_u64());
    };
    crate::support::wait_for("a full queue", || {
        fill();
        (dropped() > 0.0).then_some(())
    });
    for (target, body) in [
        ("/channels/prices:all?key=a", "by the door"),
        ("/api/publish", r#"{"channel":"prices:all","data":"by publish","key":"b"}"#),
        ("/api/broadcast", r#"{"channels":["prices:all"],"data":"by broadcast","key":"c"}"#),
    ] {
        assert_eq!(server.post(target, "", body).status, 200);
    }
    let before = dropped();
    (0..10).for_each(|_| fill());
    assert!(dropped() >= before + 8.0, "the queue is full all the while");
    server.publish("prices:all", "the end");
    let told = slow.read_until("the end");
    for kept in ["by the door", "by publish", "by broadcast", "\"gap\""] {
        assert!(told.contains(kept), "{kept} was dropped");
    }
}

#[test]
fn a_poll_waits_as_long_as_it_was_asked_to() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let begin = Instant::now();
    let answer = server.get("/channels/quiet?wait=1");
    let took = begin.elapsed().as_secs_f64();
    assert_eq!(answer.json()["messages"].as_array().map(Vec::len), Some(0));
    assert!((0.9..4.0).contains(&took), "{took}");
}
