//! Many connections, many workers, few rights.

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use tungstenite::{Message, WebSocket};

use crate::skip;
use crate::support::{KEY, Server, wait_for};

fn subscribe(server: &Server, count: usize) -> Vec<WebSocket<TcpStream>> {
    (0..count)
        .map(|_| {
            let mut socket = server.websocket("/channels/news");
            socket.read().expect("subscribed");
            socket
        })
        .collect()
}

#[track_caller]
fn broadcast_reaches(server: &Server, sockets: &mut [WebSocket<TcpStream>]) {
    for round in 0..3 {
        server.publish("news", &format!("{{\"round\":{round}}}"));
    }
    for socket in sockets {
        for round in 0..3 {
            match socket.read().expect("a publication") {
                Message::Text(text) => assert!(text.ends_with(&format!("\"data\":{{\"round\":{round}}}}}")), "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn one_worker_two_workers_and_more_than_cores_serve_one_port() {
    if skip::without("uring") {
        return;
    }
    for workers in ["1", "2", "54"] {
        let server = Server::start_with(&["--listen", "127.0.0.1:0", "--workers", workers], &[]);
        let mut sockets = subscribe(&server, 150);
        broadcast_reaches(&server, &mut sockets);
    }
}

#[test]
fn on_epoll_the_table_of_descriptors_does_not_grow_while_somebody_waits() {
    let server = Server::start_with(&["--listen", "127.0.0.1:0", "--workers", "2", "--io", "epoll"], &[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("the kernel says");
    let size: u64 = size.trim().parse().expect("a number");
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    assert!(size >= limit.min(1 << 20), "{size} places for {limit} descriptors: the kernel would stop the workers to make more");
}

#[test]
fn nineteen_thousand_subscribers_get_everything_once() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    // The load generator checks each frame's channel, offset and content, and counts what is lost or repeated.
    let load = ["fan-out", "--closed", "--subscribers", "19000", "--publications", "5", "--warmup", "1"];
    let (line, succeeded) = bench(&server, &load);
    assert!(succeeded, "{line}");
    assert_eq!((&line["deliveries"], &line["lost"], &line["repeated"]), (&(19_000 * 5).into(), &0.into(), &0.into()), "{line}");
}

#[test]
fn a_crowd_of_several_processes_gets_what_is_published() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let load = ["crowd", "--connections", "2500", "--per-process", "1000", "--hold", "0", "--broadcasts", "2"];
    let (line, succeeded) = bench(&server, &load);
    assert!(succeeded, "{line}");
    assert_eq!((&line["processes"], &line["deliveries"], &line["lost"]), (&3.into(), &5000.into(), &0.into()), "{line}");
    // All of them leave at once; the server must soon be as if nobody had been there.
    wait_for("everybody to be gone", || (server.metric_sum("ringmain_connections") <= 1.0).then_some(()));
}

#[test]
fn a_crowd_that_loses_some_says_so_and_does_not_wait_for_them() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[("RINGMAIN_WEBSOCKET__PING_INTERVAL", "1s"), ("RINGMAIN_WEBSOCKET__PONG_TIMEOUT", "500ms")]);
    let load = ["crowd", "--connections", "300", "--per-process", "100", "--hold", "8", "--stall", "60"];
    let mut lead = load_on(&server, &load).stdout(Stdio::piped()).spawn().expect("the load generator starts");
    wait_for("two pings of each to be answered", || {
        (server.metric_sum("ringmain_ws_messages_received_total{opcode=\"pong\"}") >= 600.0).then_some(())
    });
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", lead.id())).expect("the list of its parts");
    let part = children.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?)).expect("a part");
    kill_process(part, Signal::STOP).expect("it runs");
    wait_for("its connections to be given up", || (server.metric("ringmain_pong_timeouts_total") == Some(100)).then_some(()));
    kill_process(part, Signal::CONT).expect("it is there");
    let mut text = String::new();
    lead.stdout.take().expect("its output").read_to_string(&mut text).expect("text");
    assert_eq!(lead.wait().expect("a child").code(), Some(1), "{text}");
    let line: serde_json::Value = serde_json::from_str(text.trim()).expect("one line");
    assert_eq!((&line["deliveries"], &line["lost"], &line["closed_by_server"]), (&200.into(), &100.into(), &100.into()), "{line}");
    assert!(line["reasons"].to_string().contains("3012"), "{line}");
}

/// A load on the server that is about to start.
fn load_on(server: &Server, load: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmain"));
    command.arg("bench").args(load).args(["--json", "--addr", &server.address.to_string(), "--api-key", KEY]);
    command
}

/// Puts a load on the server; what it found, and whether it exited with success.
fn bench(server: &Server, load: &[&str]) -> (serde_json::Value, bool) {
    let output = load_on(server, load).output().expect("the load generator runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = serde_json::from_str(text.trim()).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr));
    });
    (line, output.status.success())
}

#[test]
fn every_transport_is_measured() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    for transport in ["ws", "sse", "ndjson", "poll"] {
        let load = ["fan-out", "--subscribers", "20", "--publications", "30", "--warmup", "1", "--transport", transport];
        let (line, succeeded) = bench(&server, &load);
        assert!(succeeded, "{line}");
        assert_eq!(
            (&line["transport"], &line["deliveries"], &line["sound"]),
            (&transport.into(), &600.into(), &true.into()),
            "{line}"
        );
    }
}

#[test]
fn compressed_deliveries_are_measured() {
    if skip::without("uring") {
        return;
    }
    let load = ["fan-out", "--deflate", "--subscribers", "20", "--publications", "30", "--warmup", "1", "--payload", "1024"];
    let server = Server::start(&[("RINGMAIN_WEBSOCKET__DEFLATE", "true")]);
    let (line, succeeded) = bench(&server, &load);
    assert!(succeeded, "{line}");
    assert_eq!((&line["deliveries"], &line["compressed_deliveries"]), (&600.into(), &600.into()), "{line}");
    let plain = Server::start(&[("RINGMAIN_WEBSOCKET__DEFLATE", "false")]);
    let (line, succeeded) = bench(&plain, &load);
    assert!(!succeeded, "{line}");
    assert!(line["reasons"][0].as_str().is_some_and(|reason| reason.contains("did not accept permessage-deflate")), "{line}");
}

#[test]
fn echoes_beside_a_crowd_are_measured() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[("RINGMAIN_ECHO__ENABLED", "true")]);
    let few = ["--connections", "5", "--rate", "200", "--seconds", "1", "--crowd", "300"];
    let beside = |by: &str, more: &[&str]| {
        let (line, succeeded) = bench(&server, &[&["disturb", "--by", by], &few[..], more].concat());
        assert!(succeeded, "{line}");
        assert!(line["p99_us"].as_f64() > Some(0.0) && line["p99_us_without"].as_f64() > Some(0.0), "{line}");
        line
    };
    assert_eq!(beside("broadcast", &["--publications", "20"])["crowd_count"], 300 * 20);
    assert_eq!(beside("storm", &[])["crowd_count"], 300);
    let silent = Server::start(&[("RINGMAIN_ECHO__ENABLED", "false")]);
    let (line, succeeded) = bench(&silent, &[&["disturb"], &few[..]].concat());
    assert_eq!((succeeded, &line["sound"]), (false, &false.into()), "{line}");
}

#[test]
fn a_stalled_reader_is_found_and_measured() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[("RINGMAIN_NAMESPACES__DEFAULT__SLOW_CONSUMER", "drop_oldest")]);
    let pid = server.pid();
    let load = ["stall", "--pid", &pid, "--subscribers", "30", "--stalled", "6", "--payload", "4096", "--rate", "50"];
    let (line, succeeded) = bench(&server, &[&load[..], &["--seconds", "3", "--turns", "1"]].concat());
    assert!(succeeded, "{line}");
    let number = |name: &str| line[name].as_f64().expect("a figure");
    assert_eq!(number("deliveries"), 24.0 * 150.0, "{line}");
    // One that stalled alone, then six.
    assert!(number("gaps_of_stalled") >= 7.0, "{line}");
    assert!((4096.0..262_144.0).contains(&number("kernel_queue_bytes_max")), "{line}");
}

#[test]
fn readers_that_the_server_does_not_keep_are_no_measure() {
    if skip::without("uring") {
        return;
    }
    let server = Server::start(&[]);
    let pid = server.pid();
    let load = ["stall", "--pid", &pid, "--subscribers", "30", "--stalled", "6", "--payload", "4096", "--rate", "50"];
    let (line, succeeded) = bench(&server, &[&load[..], &["--seconds", "3", "--turns", "1"]].concat());
    assert_eq!((succeeded, &line["sound"]), (false, &false.into()), "{line}");
}

#[test]
fn an_ordinary_user_with_little_locked_memory_starts_many_workers() {
    if skip::without("uring") {
        return;
    }
    let (_home, command) = as_ordinary_user(8 << 20, &["--workers", "51"]);
    let server = Server::spawn(command);
    let mut sockets = subscribe(&server, 60);
    broadcast_reaches(&server, &mut sockets);
}

/// A server of an ordinary user who may lock so much; the directory holds a binary that everybody may read.
fn as_ordinary_user(locked_bytes: u32, flags: &[&str]) -> (tempfile::TempDir, Command) {
    let home = tempfile::tempdir().expect("a directory");
    let binary = home.path().join("ringmain");
    std::fs::copy(env!("CARGO_BIN_EXE_ringmain"), &binary).expect("copied");
    for path in [home.path(), &binary] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("readable");
    }
    let mut command = Command::new("prlimit");
    command.arg(format!("--memlock={locked_bytes}:{locked_bytes}"));
    command.arg(&binary).args(["serve", "--listen", "127.0.0.1:0"]).args(flags).env("RINGMAIN_API__KEY", KEY);
    // Whoever runs the tests without rights is an ordinary user already.
    if rustix::process::getuid().is_root() {
        command.uid(65534).gid(65534);
    }
    (home, command)
}

#[test]
fn where_no_ring_can_be_had_epoll_serves_and_the_log_says_why() {
    if skip::without("uring") {
        return;
    }
    let (_home, command) = as_ordinary_user(0, &["--workers", "2", "--io", "auto"]);
    let server = Server::spawn(command);
    let mut sockets = subscribe(&server, 60);
    broadcast_reaches(&server, &mut sockets);
    let tells = |line: &String| line.contains("epoll is used instead of io_uring") && line.contains("LimitMEMLOCK=infinity");
    wait_for("the reason", || server.log().iter().any(tells).then_some(()));
    let (_home, mut command) = as_ordinary_user(0, &["--workers", "2", "--io", "uring"]);
    let refused = command.output().expect("the binary starts");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("LimitMEMLOCK=infinity"), "{said}");
}

/// The binary, where the kernel refuses io_uring with this errno.
fn where_uring_is_refused(errno: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/refuse_uring.py")).arg(errno);
    command.arg(env!("CARGO_BIN_EXE_ringmain")).args(arguments).env("RINGMAIN_API__KEY", KEY);
    command
}

#[test]
fn in_a_container_that_refuses_io_uring_epoll_serves_and_the_remedy_is_said() {
    if skip::without("uring") || skip::without("python3") {
        return;
    }
    for (errno, remedy) in [("EPERM", "seccomp=tuning/seccomp.json"), ("ENOSYS", "a sandbox hides it")] {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--workers", "2", "--io"];
        let server = Server::spawn(where_uring_is_refused(errno, &[&serve[..], &["auto"]].concat()));
        let mut sockets = subscribe(&server, 20);
        broadcast_reaches(&server, &mut sockets);
        let info = format!("ringmain_build_info{{version=\"{}\",io=\"epoll\"}}", env!("CARGO_PKG_VERSION"));
        assert_eq!(server.metric(&info), Some(1));
        let tells = |line: &String| line.contains("epoll is used instead of io_uring") && line.contains(remedy);
        wait_for("the reason", || server.log().iter().any(tells).then_some(()));

        let insists = where_uring_is_refused(errno, &[&serve[..], &["uring"]].concat()).output().expect("python3 runs");
        let said = String::from_utf8_lossy(&insists.stderr).into_owned();
        assert!(!insists.status.success() && said.contains(remedy), "{said}");

        for (told, verdict) in [("auto", "improve"), ("uring", "FIX")] {
            let doctor = where_uring_is_refused(errno, &["doctor", "--io", told]).output().expect("python3 runs");
            let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
            let io = said.lines().find(|line| line.contains(&format!("io = {told}"))).unwrap_or_else(|| panic!("{said}"));
            assert!(io.starts_with(verdict) && said.contains(remedy), "{said}");
        }
        let doctor = where_uring_is_refused(errno, &["doctor", "--io", "epoll"]).output().expect("python3 runs");
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(said.contains("RLIMIT_NOFILE") && !said.contains("io_uring"), "{said}");
    }
}

#[test]
fn the_loads_connections_are_where_its_flag_says() {
    if skip::without("uring") {
        return;
    }
    for (io, in_the_process) in [("uring", false), ("auto", false), ("epoll", true)] {
        let server = Server::start(&[]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringmain"));
        command.args(["bench", "idle", "--from", "100", "--to", "300", "--settle", "20", "--churn", "0", "--io", io, "--json"]);
        command.args(["--addr", &server.address.to_string(), "--pid", &std::process::id().to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut load = Ended(command.spawn().expect("the load generator runs"));
        wait_for("the first connections", || (server.metric_sum("ringmain_connections") >= 100.0).then_some(()));
        let open = std::fs::read_dir(format!("/proc/{}/fd", load.0.id())).expect("it runs").count();
        assert_eq!(open >= 100, in_the_process, "{io}: {open} descriptors");
        assert!(load.0.try_wait().expect("a child").is_none(), "{io}: it ended early");
    }
}

/// A child that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
