//! What is logged, and how: by a server in production whose standard error is a pipe, JSON.

use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::Value;
use tungstenite::Message;

use crate::operate::{file, ringmain};
use crate::skip;
use crate::support::{Server, wait_for};

const OPEN: &str = "[namespaces.default]\nallow_subscribe = [\"anyone\"]\n";

fn production(config: &tempfile::NamedTempFile, flags: &[&str]) -> Server {
    let path = config.path().to_str().expect("text");
    let always = ["--mode", "production", "--listen", "127.0.0.1:0", "--workers", "2", "--config", path];
    Server::start_with(&[&always, flags].concat(), &[("RINGMAIN_SERVER__DRAIN_TIMEOUT", "2s")])
}

/// Every line so far, each of which must be an object that says when, how grave and what.
#[track_caller]
fn log(server: &Server) -> Vec<Value> {
    let check = |line: &String| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text = |field: &str| value[field].as_str().unwrap_or_else(|| panic!("no {field} in {line}")).to_owned();
        let (timestamp, level) = (text("timestamp"), text("level"));
        // As in 2026-01-31T23:59:59.123456Z.
        let shape: String = timestamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert!(shape.starts_with("0000-00-00T00:00:00.") && shape.ends_with("0Z"), "{line}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level.as_str()), "{line}");
        assert!(!text("message").is_empty() && text("target").starts_with("ringmain"), "{line}");
        value
    };
    server.log().iter().map(check).collect()
}

/// Waits for a line with this message and returns it.
#[track_caller]
fn logged(server: &Server, message: &str) -> Value {
    wait_for(message, || log(server).into_iter().find(|line| line["message"].as_str().is_some_and(|text| text.contains(message))))
}

/// Whether a line names its connection: `SLOT.GENERATION`.
fn names_connection(line: &Value) -> bool {
    let parts = line["conn"].as_str().and_then(|conn| conn.split_once('.'));
    parts.is_some_and(|(slot, generation)| slot.parse::<u32>().is_ok() && generation.parse::<u32>().is_ok())
}

#[test]
fn a_server_in_production_says_in_json_what_it_does() {
    if skip::without("uring") {
        return;
    }
    let server = production(&file(OPEN), &[]);
    let serving = logged(&server, "serving");
    assert_eq!((serving["level"].as_str(), serving["mode"].as_str()), (Some("INFO"), Some("production")), "{serving}");
    assert_eq!((serving["workers"].as_u64(), serving["listen"].as_str()), (Some(2), Some(server.address.to_string().as_str())));
    // Who comes and goes by himself is no news.
    let mut socket = server.websocket("/channels/news");
    socket.read().unwrap();
    drop(socket);
    server.publish("news", "1");
    assert!(log(&server).iter().all(|line| line.get("conn").is_none()), "{:?}", server.log());
}

#[test]
fn a_line_that_concerns_a_connection_names_it() {
    if skip::without("uring") {
        return;
    }
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let config = format!("{OPEN}[upstreams.app]\nservers = [\"{nobody}\"]\n[[routes]]\npath = \"/\"\nto = \"app\"\n");
    let server = production(&file(&config), &["--log-level", "debug"]);
    assert_eq!(server.get("/nowhere").status, 502);
    let failed = logged(&server, "upstream failed");
    assert!(names_connection(&failed), "{failed}");
    assert_eq!((failed["level"].as_str(), failed["upstream"].as_str()), (Some("INFO"), Some("app")), "{failed}");

    let mut socket = server.websocket("/channels/news");
    socket.read().unwrap();
    let peer = socket.get_ref().local_addr().unwrap().to_string();
    socket.close(None).unwrap();
    let gone = wait_for("the end of the WebSocket", || log(&server).into_iter().find(|line| line["peer"] == peer.as_str()));
    assert!(names_connection(&gone), "{gone}");
    assert_eq!((gone["message"].as_str(), gone["transport"].as_str()), (Some("disconnected"), Some("ws")), "{gone}");
    assert!(gone["code"].is_u64() && gone["level"] == "DEBUG", "{gone}");
}

#[test]
fn a_configuration_that_is_refused_at_start_is_told_with_its_place() {
    if skip::without("uring") {
        return;
    }
    let bad = file("[server]\nlisen = []\ndrain_timeout = \"soon\"\n");
    let path = bad.path().to_str().unwrap();
    let (status, output, error) = ringmain(&["serve", "--config", path, "--listen", "127.0.0.1:0"]);
    assert_eq!((status, output.as_str()), (2, ""), "{error}");
    assert!(error.lines().all(|line| line.starts_with("ringmain: ")), "{error}");
    assert!(error.contains(&format!("{path}:2:1")) && error.contains(&format!("{path}:3:")), "all that is wrong: {error}");
}

#[test]
fn a_reload_logs_what_it_changes_what_needs_a_restart_and_what_is_wrong() {
    if skip::without("uring") {
        return;
    }
    let config = file(OPEN);
    let server = production(&config, &[]);
    let rewrite = |text: &str| {
        std::fs::write(config.path(), text).unwrap();
        server.signal(Signal::HUP);
    };
    rewrite(&format!("{OPEN}history_size = 7\n[io]\nbuffers = 64\n"));
    let reloaded = logged(&server, "configuration reloaded");
    let changed = reloaded["changed"].as_str().unwrap_or_default();
    assert!(changed.contains("history_size") && !changed.contains("buffers"), "{reloaded}");
    let restart = logged(&server, "needs a restart");
    assert!(restart["level"] == "WARN" && restart["message"].as_str().unwrap().contains("io.buffers"), "{restart}");

    rewrite("[nonsense]\n");
    let refused = logged(&server, "not reloaded");
    assert!(refused["level"] == "ERROR" && refused["message"].as_str().unwrap().contains(":1:"), "{refused}");
    assert_eq!(log(&server).iter().filter(|line| line["message"] == "configuration reloaded").count(), 1);
}

#[test]
fn a_drain_logs_how_many_are_to_go() {
    if skip::without("uring") {
        return;
    }
    let mut server = production(&file(OPEN), &[]);
    let mut sockets: Vec<_> = (0..3).map(|_| server.websocket("/channels/news")).collect();
    for socket in &mut sockets {
        socket.read().unwrap();
    }
    server.signal(Signal::TERM);
    let draining = logged(&server, "draining");
    assert_eq!((draining["level"].as_str(), draining["connections"].as_u64()), (Some("INFO"), Some(3)), "{draining}");
    for socket in &mut sockets {
        assert!(matches!(socket.read(), Ok(Message::Close(_))));
        let _ = socket.read();
    }
    assert!(server.ended().success());
    log(&server);
}
