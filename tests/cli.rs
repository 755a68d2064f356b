//! The built binary as a user meets it: verbs, exit statuses, the lines it prints, signals.

#[path = "support/skip.rs"]
mod skip;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long anything may take before the test has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// The binary, without what the environment of the tests would tell it.
fn ringmain(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmain"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGMAIN_")) {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the binary runs")
}

#[track_caller]
fn check(mut command: Command, status: i32, said: &str, complained: &str) {
    let output = run(&mut command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{out}\n{err}");
    assert!(out.contains(said), "{said} is not in\n{out}");
    assert!(err.contains(complained), "{complained} is not in\n{err}");
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

#[test]
fn verbs_are_explained_where_none_is_given() {
    check(ringmain(&[]), 2, "", "Usage: ringmain <COMMAND>");
    check(ringmain(&["--help"]), 0, "doctor", "");
    check(ringmain(&["version"]), 0, &format!("ringmain {}\n", env!("CARGO_PKG_VERSION")), "");
    check(ringmain(&["config", "default"]), 0, "[namespaces.default]", "");
}

#[test]
fn a_configuration_is_checked() {
    let good = file("[api]\nkey = 'abc'\n");
    let path = good.path().to_str().expect("a path");
    check(ringmain(&["check", "--config", path]), 0, &format!("the configuration is good ({path})"), "");
    check(ringmain(&["check", "--config", path]), 0, "warning: api.key has only 3 characters", "");
    let bad = file("[server]\nworkres = 2\n[websocket]\ndeflate = 'yes'\n");
    let path = bad.path().to_str().expect("a path");
    check(
        ringmain(&["check", "--config", path]),
        2,
        "",
        &format!("{path}:2:1: server.workres: unknown key; did you mean `workers`?"),
    );
    check(ringmain(&["check", "--config", path]), 2, "", &format!("{path}:4:11: websocket.deflate: "));
    let mut by_environment = ringmain(&["check"]);
    by_environment.env("RINGMAIN_CONFIG", path);
    check(by_environment, 2, "", ":2:1: ");
    check(ringmain(&["check", "--config", "/no/such/file"]), 2, "", "/no/such/file:1:1: cannot be read: ");
    check(ringmain(&["serve", "--workers", "many"]), 2, "", "flag --workers: server.workers: \"many\" is not a whole number");
}

#[test]
fn a_development_server_is_not_shown_to_everybody() {
    check(ringmain(&["serve", "--listen", "0.0.0.0:0"]), 2, "", "--mode development");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child =
        ringmain(&["config", "default"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    drop(child.stdout.take());
    let mut complaint = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut complaint).expect("text");
    assert_eq!((child.wait().expect("an end").code(), complaint.as_str()), (Some(0), ""));
}

/// The doctor's JSON line and its exit status, under a limit of 4,096 open files.
fn doctor(arguments: &[&str]) -> (serde_json::Value, Option<i32>) {
    let mut command = ringmain(&[]);
    let binary = command.get_program().to_owned();
    command = Command::new("sh");
    command.args(["-c", "ulimit -n 4096 && exec \"$0\" doctor --json \"$@\""]).arg(binary).args(arguments);
    let output = run(&mut command);
    (serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}")), output.status.code())
}

#[test]
fn the_doctor_compares_this_host_with_a_load() {
    let file = file("[server]\nlisten = ['127.0.0.1:0']\nworkers = 3\n[upstreams.app]\nservers = ['127.0.0.1:1']\n");
    let load = ["--config", file.path().to_str().expect("a path"), "--connections", "1000000", "--listen", "127.0.0.1:1"];
    let (report, status) = doctor(&load);
    assert_eq!((&report["connections"], &report["workers"]), (&1_000_000.into(), &3.into()), "{report}");
    let finding = |what: &str| {
        let findings = report["findings"].as_array().expect("a list");
        findings.iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("nothing about {what}: {report:#}"))
    };
    for what in ["kernel", "io_uring", "memory", "workers", "RLIMIT_MEMLOCK", "fs.file-max", "net.core.somaxconn", "softnet drops"]
    {
        finding(what);
    }
    finding("net.ipv4.ip_local_port_range");
    let files = finding("RLIMIT_NOFILE");
    assert_eq!((&files["verdict"], &files["found"]), (&"improve".into(), &"4096 per worker".into()));
    assert!(files["remedy"].as_str().expect("a remedy").contains("[server] workers = 258"), "{files}");
    assert_eq!(status, Some(1), "{report:#}");
}

#[test]
fn the_doctor_speaks_to_people_and_by_its_exit_status() {
    let output = run(&mut ringmain(&["doctor", "--connections", "1", "--workers", "1"]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["for 1 connections on 1 workers:", "RLIMIT_NOFILE: ", "needed: 2 per worker", "to fix first"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    // What there is to find here is this host's; that the status says the same as the text is ours.
    let fine = text.contains(" 0 to improve, 0 to fix first");
    let unseen = text.contains("not to be seen\n");
    let expected = if !fine {
        1
    } else if unseen {
        2
    } else {
        0
    };
    assert_eq!(output.status.code(), Some(expected), "{text}");
    check(ringmain(&["doctor", "--workers", "many"]), 2, "", "flag --workers");
    check(ringmain(&["doctor", "--connections", "many"]), 2, "", "--connections");
}

// Running servers -----------------------------------------------------------------------------------------------------------

/// A child process whose lines can be waited for; killed when it goes out of scope.
struct Running {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn start(mut command: Command) -> Running {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let (out, err) = (lines(child.stdout.take().expect("piped")), lines(child.stderr.take().expect("piped")));
    Running { child, out, err }
}

/// Lines up to the first that contains the text.
#[track_caller]
fn until(lines: &Receiver<String>, text: &str) -> Vec<String> {
    let end = Instant::now() + DEADLINE;
    let mut seen = Vec::new();
    while let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
        seen.push(line);
        if seen.last().is_some_and(|line| line.contains(text)) {
            return seen;
        }
    }
    panic!("no line with {text} in {seen:#?}");
}

fn signal(running: &Running, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(&running.child);
    rustix::process::kill_process(pid, signal).expect("it is there");
}

fn end(running: &mut Running) -> ExitStatus {
    // The end of its output is the end of the process, or as good as.
    while running.out.recv_timeout(DEADLINE).is_ok() {}
    running.child.wait().expect("an end")
}

/// What follows a word in the printed lines.
fn printed<'a>(lines: &'a [String], word: &str) -> &'a str {
    let line = lines.iter().find_map(|line| line.trim().strip_prefix(word));
    line.unwrap_or_else(|| panic!("no {word} in {lines:#?}")).trim()
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {line}")]);
    command
}

#[test]
fn the_lines_to_paste_work() {
    if skip::without("uring") {
        return;
    }
    let mut server = start(ringmain(&["serve", "--listen", "127.0.0.1:0", "--workers", "2"]));
    let said = until(&server.out, "publish ");
    for part in ["development mode", "2 workers", "kernel: io_uring", "open files: "] {
        assert!(said.iter().any(|line| line.contains(part)), "{part} is not in {said:#?}");
    }
    let stream = start(shell(printed(&said, "event stream")));
    until(&stream.out, "id: ");
    let published = run(&mut shell(printed(&said, "publish")));
    assert!(String::from_utf8_lossy(&published.stdout).contains("\"position\""), "{published:?}");
    until(&stream.out, "data: {\"hello\":\"world\"}");
    let polled = run(&mut shell(printed(&said, "poll")));
    assert!(String::from_utf8_lossy(&polled.stdout).contains("\"data\":{\"hello\":\"world\"}"), "{polled:?}");
    let page = run(Command::new("curl").args(["-sf", printed(&said, "playground")]));
    assert!(String::from_utf8_lossy(&page.stdout).contains("<title>ringmain playground</title>"), "{page:?}");
    let address = printed(&said, "listening on http://");
    check(ringmain(&["serve", "--listen", address]), 1, "", &format!("{address} is already in use"));
    signal(&server, rustix::process::Signal::TERM);
    assert!(end(&mut server).success());
}

#[test]
fn a_reload_says_what_it_has_done() {
    if skip::without("uring") {
        return;
    }
    let file = file("[server]\nlisten = ['127.0.0.1:0']\nworkers = 1\n");
    let write = |text: &str| std::fs::write(file.path(), text).expect("written");
    let mut server = start(ringmain(&["serve", "--config", file.path().to_str().expect("a path")]));
    until(&server.err, "\"serving\"");
    write("[server]\nlisten = ['127.0.0.1:0']\nworkers = 2\n[http]\nheaders_max = 7\n");
    signal(&server, rustix::process::Signal::HUP);
    let logged = until(&server.err, "configuration reloaded");
    assert!(logged.iter().any(|line| line.contains("server.workers has changed and needs a restart")), "{logged:#?}");
    assert!(logged.last().is_some_and(|line| line.contains("http.headers_max")), "{logged:#?}");
    write("[http]\nheaders_max = 'x'\n");
    signal(&server, rustix::process::Signal::HUP);
    until(&server.err, "not reloaded: ");
    signal(&server, rustix::process::Signal::TERM);
    assert!(end(&mut server).success());
}
