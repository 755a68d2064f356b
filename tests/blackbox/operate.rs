//! Start, check, reload, drain, restart.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tungstenite::Message;

use crate::skip;
use crate::support::{KEY, Server, on_epoll, wait_for};

pub fn ringmain(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringmain")).args(arguments).output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

pub fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

#[test]
fn a_bad_configuration_is_refused_with_its_place() {
    if skip::without("uring") {
        return;
    }
    let bad = file("[server]\nlisen = []\n");
    let (status, _, error) = ringmain(&["check", "--config", bad.path().to_str().unwrap()]);
    assert_eq!(status, 2, "{error}");
    assert!(error.contains(":2:1") && error.contains("listen"), "{error}");
}

#[test]
fn the_printed_default_is_a_good_configuration() {
    if skip::without("uring") {
        return;
    }
    let (status, text, _) = ringmain(&["config", "default"]);
    assert_eq!(status, 0);
    let good = file(&text);
    assert_eq!(ringmain(&["check", "--config", good.path().to_str().unwrap()]).0, 0);
}

#[test]
fn a_second_server_on_the_same_port_is_refused() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let (status, _, error) = ringmain(&["serve", "--listen", &server.address.to_string()]);
    assert_ne!(status, 0);
    assert!(error.contains("already in use"), "{error}");
}

#[test]
fn a_drain_says_goodbye_on_every_transport_and_ends() {
    if skip::without("uring") {
        return;
    }
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
    if skip::without("uring") {
        return;
    }
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
    if skip::without("uring") {
        return;
    }
    let config = file("[namespaces.default]\nallow_subscribe = []\n");
    let path = config.path().to_str().unwrap().to_owned();
    let server = Server::start_with(&["--listen", "127.0.0.1:0", "--workers", "2", "--config", &path], &[]);
    assert_eq!(server.get("/channels/news").status, 403);
    std::fs::write(&path, "[namespaces.default]\nallow_subscribe = [\"anyone\"]\n").unwrap();
    server.signal(Signal::HUP);
    wait_for("the new rule", || (server.get("/channels/news").status == 200).then_some(()));
}

#[test]
fn the_host_makes_none_of_its_pages_huge() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    assert!(status.lines().any(|line| line.split_ascii_whitespace().eq(["THP_enabled:", "0"])), "{status}");
}

#[test]
fn health_and_metrics_answer() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    assert_eq!((server.get("/health/live").status, server.get("/health/ready").status), (200, 200));
    server.publish("news", "1");
    let text = server.get("/metrics").body;
    for line in
        ["ringmain_publications_total{door=\"channels\",namespace=\"default\"} 1", "ringmain_draining 0", "ringmain_channels 1"]
    {
        assert!(text.lines().any(|known| known == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn of_servers_started_at_once_on_one_port_one_serves() {
    if skip::without("uring") {
        return;
    }
    for round in 0..2 {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let start = || {
            Command::new(env!("CARGO_BIN_EXE_ringmain"))
                .args(["serve", "--workers", "2", "--listen", &format!("127.0.0.1:{port}")])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the binary starts")
        };
        let mut servers: Vec<_> = (0..3).map(|_| Some(start())).collect();
        let mut refused = 0;
        wait_for("all but one to give up", || {
            for server in &mut servers {
                if server.as_mut().is_some_and(|server| server.try_wait().expect("a child").is_some()) {
                    let output = server.take().expect("it has ended").wait_with_output().expect("its last words");
                    let error = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert!(error.contains("already in use"), "round {round}: {error}");
                    refused += 1;
                }
            }
            (refused == 2).then_some(())
        });
        for mut server in servers.into_iter().flatten() {
            wait_for("the last one to serve", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
            server.kill().expect("it runs");
            server.wait().expect("a child");
        }
    }
}

/// Both ends of a terminal: the one to keep and the one to give to a process.
fn terminal() -> (OwnedFd, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).expect("ours to give");
    unlockpt(&ours).expect("ours to open");
    let name = ptsname(&ours, Vec::new()).expect("its name");
    let theirs = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its other end");
    (ours, theirs)
}

#[test]
fn ctrl_c_on_a_terminal_is_quick_and_still_says_goodbye_to_everybody() {
    if skip::without("uring") {
        return;
    }
    let (_ours, theirs) = terminal();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmain"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--workers", "2"]).stdin(theirs);
    let mut server = Server::spawn(command);
    let mut sockets: Vec<_> = (0..200).map(|_| server.websocket("/channels/news")).collect();
    for socket in &mut sockets {
        socket.read().expect("the subscription");
    }
    let begin = Instant::now();
    server.signal(Signal::INT);
    for socket in &mut sockets {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => assert_eq!(u16::from(frame.code), 1001),
            other => panic!("{other:?}"),
        }
    }
    assert!(server.ended().success());
    // The configured time is thirty seconds.
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn a_second_signal_ends_a_drain_that_waits_for_somebody() {
    if skip::without("uring") {
        return;
    }
    let mut server = Server::start(&[("RINGMAIN_SERVER__DRAIN_TIMEOUT", "1h"), ("RINGMAIN_HTTP__BODY_TIMEOUT", "1h")]);
    let mut slow = server.connect();
    slow.send("POST /channels/a HTTP/1.1\r\nHost: h\r\nX-API-Key: test-key\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    slow.read_until("100 Continue");
    server.signal(Signal::INT);
    wait_for("the listener to close", || std::net::TcpStream::connect(server.address).err());
    server.signal(Signal::INT);
    assert!(server.ended().success());
}

/// Every family of the documentation, which is the promise.
fn promised() -> Vec<(String, String)> {
    let rows = include_str!("../../docs/metrics.md").lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let family = row.split('`').next().expect("a name");
        let (name, labels) = family.split_once('{').unwrap_or((family, ""));
        (format!("ringmain_{name}"), labels.trim_end_matches('}').to_owned())
    })
    .collect()
}

#[test]
fn every_family_of_the_documentation_is_there_and_nothing_else() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    server.publish("news", "1");
    let text = server.get("/metrics").body;
    let mut found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let promised = promised();
    let mut names: Vec<&str> = promised.iter().map(|(name, _)| name.as_str()).collect();
    found.sort_unstable();
    names.sort_unstable();
    assert_eq!(found, names);
    for (name, labels) in &promised {
        for line in text.lines().filter(|line| line.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('{'))) {
            let inside = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).expect("labels").0;
            let found: Vec<&str> = inside.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
            assert_eq!(&found.join(","), labels, "{line}");
        }
    }
}

#[test]
fn what_the_loops_and_the_process_count_moves() {
    if skip::without("uring") {
        return;
    }
    let config = file("[namespaces.default]\nallow_subscribe = [\"anyone\"]\n");
    let path = config.path().to_str().unwrap().to_owned();
    let server = Server::start_with(
        &["--listen", "127.0.0.1:0", "--workers", "2", "--config", &path],
        &[("RINGMAIN_IO__PARK_AFTER", "100ms")],
    );
    let mut sockets: Vec<_> = (0..8).map(|_| server.websocket("/channels/news")).collect();
    for socket in &mut sockets {
        socket.read().unwrap();
    }
    for at in 0..8 {
        server.publish(&format!("news{at}"), "1");
    }
    let sum = |name: &str| server.metric_sum(&format!("ringmain_{name}"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let started = sum("start_time_seconds");
    assert!((now - 60.0..=now).contains(&started), "{started} is not just before {now}");
    assert!(sum("open_fds") > 3.0 && sum("fd_limit") >= sum("open_fds"));
    assert!(sum("loop_duration_seconds_count") > 10.0 && sum("loop_duration_seconds_sum") > 0.0);
    assert!(sum("timers") >= 8.0 && sum("doorbells_total") > 0.0);
    // The eight, and whoever asks: a connection begins parked.
    let (buffers, parked) = if on_epoll() { (0.0, 0.0) } else { (512.0, 9.0) };
    assert!(sum("buffer_ring_free") >= buffers);
    wait_for("quiet connections to be parked", || (sum("parked_connections") == parked).then_some(()));
    server.signal(Signal::HUP);
    wait_for("a reload", || (sum("reloads_total{result=\"applied\"}") == 1.0).then_some(()));
    std::fs::write(&path, "[nonsense]\n").unwrap();
    server.signal(Signal::HUP);
    wait_for("a refused reload", || (sum("reloads_total{result=\"failed\"}") == 1.0).then_some(()));
}

#[test]
fn an_answer_leaves_with_the_wait_for_what_comes_next() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start_with(&["--listen", "127.0.0.1:0", "--workers", "1"], &[("RINGMAIN_ECHO__ENABLED", "true")]);
    let mut socket = server.websocket("/echo");
    let mut echo = |times| {
        for _ in 0..times {
            socket.send(Message::Text("again".into())).unwrap();
            assert_eq!(socket.read().unwrap(), Message::Text("again".into()));
        }
    };
    let turns = || server.metric_sum("ringmain_loop_duration_seconds_count");
    // Until then it is a quiet connection, whose bytes are asked for one by one.
    echo(20);
    let before = turns();
    echo(400);
    let turns = turns() - before;
    assert!((400.0..600.0).contains(&turns), "{turns} turns for 400 echoes and a question");
}

#[test]
fn what_the_loops_and_the_process_hold_is_told_to_the_last_one() {
    if skip::without("uring") {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 777; exec \"$0\" serve --listen 127.0.0.1:0 --workers 2", env!("CARGO_BIN_EXE_ringmain")]);
    command.env("RINGMAIN_API__KEY", KEY).env("RINGMAIN_IO__BUFFERS", "64");
    let mut server = Server::spawn(command);
    let sum = |name: &str| server.metric_sum(&format!("ringmain_{name}"));
    assert_eq!(sum("fd_limit"), 777.0);
    let buffers = if on_epoll() { 0.0 } else { 128.0 };
    assert_eq!(sum("buffer_ring_free"), buffers, "two workers' buffers: the one that held the question is given back with it");
    for name in ["enobufs_total", "cq_overflow_total", "lost_completions_total", "accept_backoff_total", "handed_over_total"] {
        assert_eq!(sum(name), 0.0, "{name}");
    }
    let before = ["open_fds", "connections_accepted_total"].map(sum);
    let mut sockets: Vec<_> = (0..8).map(|_| server.websocket("/channels/news")).collect();
    let after = ["open_fds", "connections_accepted_total"].map(sum);
    let descriptors = if on_epoll() { 8.0 } else { 0.0 };
    assert_eq!(after[0] - before[0], descriptors, "connections are descriptors of the process on epoll only");
    assert_eq!(after[1] - before[1], 8.0 + 2.0, "each look is a connection too");
    sockets.iter_mut().for_each(|socket| drop(socket.close(None)));
    server.signal(Signal::TERM);
    assert!(server.ended().success());
}

#[test]
fn the_kernel_interface_is_chosen_and_told() {
    if skip::without("uring") {
        return;
    }
    for (io, told) in [("auto", "uring"), ("uring", "uring"), ("epoll", "epoll")] {
        let server = Server::start_with(&["--listen", "127.0.0.1:0", "--workers", "2", "--io", io], &[]);
        let info = format!("ringmain_build_info{{version=\"{}\",io=\"{told}\"}}", env!("CARGO_PKG_VERSION"));
        assert_eq!(server.metric(&info), Some(1), "{io}");
    }
}
