//! Start, check, reload, drain, restart.

use std::io::Write;
use std::process::Command;

use rustix::process::Signal;
use tungstenite::Message;

use crate::support::{Server, wait_for};

fn ringmain(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringmain")).args(arguments).output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

#[test]
fn a_bad_configuration_is_refused_with_its_place() {
    let bad = file("[server]\nlisen = []\n");
    let (status, _, error) = ringmain(&["check", "--config", bad.path().to_str().unwrap()]);
    assert_eq!(status, 2, "{error}");
    assert!(error.contains(":2:1") && error.contains("listen"), "{error}");
}

#[test]
fn the_printed_default_is_a_good_configuration() {
    let (status, text, _) = ringmain(&["config", "default"]);
    assert_eq!(status, 0);
    let good = file(&text);
    assert_eq!(ringmain(&["check", "--config", good.path().to_str().unwrap()]).0, 0);
}

#[test]
fn a_second_server_on_the_same_port_is_refused() {
    let server = Server::start(&[]);
    let (status, _, error) = ringmain(&["serve", "--listen", &server.address.to_string()]);
    assert_ne!(status, 0);
    assert!(error.contains("already in use"), "{error}");
}

#[test]
fn a_drain_says_goodbye_on_every_transport_and_ends() {
    let mut server = Server::start(&[("RINGMAIN_SERVER__DRAIN_TIMEOUT", "2s")]);
    let mut socket = server.websocket("/channels/news");
    socket.read().unwrap();
    let mut events = server.connect();
    events.send("GET /channels/news?via=sse HTTP/1.1\r\nHost: h\r\n\r\n");
    events.read_until("id: ");
    server.signal(Signal::TERM);
    events.read_until("event: end\ndata: {\"code\":3001,\"reason\":\"shutdown\",\"reconnect\":true");
    match socket.read() {
        Ok(Message::Close(Some(frame))) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
    let _ = socket.read();
    assert!(server.ended().success());
}

#[test]
fn after_a_crash_a_subscriber_is_told_that_history_is_gone() {
    let server = Server::start(&[]);
    let position = server.publish("news", "1");
    let address = server.address.to_string();
    server.signal(Signal::KILL);
    drop(server);
    let server = wait_for("the port", || Some(Server::start_with(&["--listen", &address, "--workers", "1"], &[])));
    let messages = server.get(&format!("/channels/news?since={position}")).json()["messages"].clone();
    assert_eq!(messages[0]["gap"]["reason"], "epoch");
}

#[test]
fn a_reload_applies_what_it_can() {
    let config = file("[namespaces.default]\nallow_subscribe = []\n");
    let path = config.path().to_str().unwrap().to_owned();
    let server = Server::start_with(&["--listen", "127.0.0.1:0", "--workers", "2", "--config", &path], &[]);
    assert_eq!(server.get("/channels/news").status, 403);
    std::fs::write(&path, "[namespaces.default]\nallow_subscribe = [\"anyone\"]\n").unwrap();
    server.signal(Signal::HUP);
    wait_for("the new rule", || (server.get("/channels/news").status == 200).then_some(()));
}

#[test]
fn health_and_metrics_answer() {
    let server = Server::start(&[]);
    assert_eq!((server.get("/health/live").status, server.get("/health/ready").status), (200, 200));
    server.publish("news", "1");
    let text = server.get("/metrics").body;
    for line in
        ["ringmain_publications_total{door=\"channel\",namespace=\"default\"} 1", "ringmain_draining 0", "ringmain_channels 1"]
    {
        assert!(text.lines().any(|known| known == line), "{line} is missing in\n{text}");
    }
}
