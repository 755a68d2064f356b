//! nginx behind it.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command};

use crate::skip;
use crate::support::{Server, wait_for};

struct Nginx {
    child: Child,
    home: tempfile::TempDir,
    port: u16,
}

impl Nginx {
    fn start() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let at = home.path().display();
        let temp: String =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {at}/{name}; ")).concat();
        let config = format!(
            "daemon off; pid {at}/pid; error_log {at}/error.log; worker_processes 1; events {{ worker_connections 256; }}\n\
             http {{ access_log off; {temp} server {{ listen 127.0.0.1:{port};\n\
             location /file {{ root {at}; }}\n\
             location / {{ return 200 \"$request_method $request_uri $http_host $http_x_forwarded_for $http_connection\\n\"; }} }} }}\n"
        );
        std::fs::write(home.path().join("nginx.conf"), config).expect("written");
        let child =
            Command::new("nginx").arg("-c").arg(home.path().join("nginx.conf")).spawn().expect("nginx runs: apt-get install nginx");
        wait_for("nginx", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, home, port }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.child.wait();
    }
}

fn behind(port: u16) -> (Server, tempfile::NamedTempFile) {
    let mut config = tempfile::NamedTempFile::new().expect("a file");
    write!(config, "[namespaces.default]\nallow_subscribe = [\"anyone\"]\n[upstreams.app]\nservers = [\"127.0.0.1:{port}\"]\n[[routes]]\npath = \"/\"\nto = \"app\"\n").expect("written");
    let server =
        Server::start_with(&["--listen", "127.0.0.1:0", "--workers", "1", "--config", config.path().to_str().unwrap()], &[]);
    (server, config)
}

#[test]
fn what_no_door_takes_reaches_the_backend() {
    if skip::without("uring") || skip::without("nginx") {
        return;
    }
    let nginx = Nginx::start();
    let (server, _config) = behind(nginx.port);
    let mut client = server.connect();
    for target in ["/api/orders?x=1", "/a/../b"] {
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"));
    }
    assert_eq!(client.answer().body, "GET /api/orders?x=1 shop.example 127.0.0.1 \n");
    assert_eq!(client.answer().body, "GET /b shop.example 127.0.0.1 \n");
    assert_eq!(server.post("/form", "", "hello").status, 200);
    let content = vec![b'z'; 3 << 20];
    std::fs::write(nginx.home.path().join("file"), &content).unwrap();
    assert_eq!(server.get("/file").body.len(), content.len());
    assert_eq!(server.get("/channels/a").status, 200, "doors stay ours");
    drop(nginx);
    let refused = server.get("/gone");
    assert_eq!(refused.status, 502);
    assert!(refused.json()["detail"].as_str().is_some_and(|detail| detail.contains("upstream app")));
}

#[test]
fn answers_asked_for_in_a_row_arrive_whole_however_slowly_they_are_read() {
    if skip::without("uring") || skip::without("nginx") {
        return;
    }
    let nginx = Nginx::start();
    let (server, _config) = behind(nginx.port);
    // Around what the sockets hold, so that answers also end while their reader is behind.
    for size in (1..=24).map(|step| step * 333_333) {
        let content: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
        std::fs::write(nginx.home.path().join("file"), &content).unwrap();
        let mut client = server.connect();
        (0..3).for_each(|_| client.send("GET /file HTTP/1.1\r\nHost: h\r\n\r\n"));
        wait_for("a full queue", || server.metric("ringmain_send_queue_bytes").filter(|&bytes| bytes > 0 || size < 4_000_000));
        for _ in 0..3 {
            client.read_until("\r\n\r\n");
            assert!(client.read_bytes(content.len()) == content, "{size} bytes");
        }
    }
}

#[test]
fn a_raw_websocket_passes_through() {
    if skip::without("uring") {
        return;
    }
    let backend = Server::start(&[("RINGMAIN_ECHO__ENABLED", "true")]);
    let (server, _config) = behind(backend.address.port());
    let mut socket = server.websocket("/echo");
    for message in ["hello", &"x".repeat(60_000)] {
        socket.send(tungstenite::Message::Text(message.into())).unwrap();
        assert_eq!(socket.read().unwrap(), tungstenite::Message::Text(message.into()));
    }
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
}

/// A backend that a test speaks for itself.
struct Backend {
    listener: TcpListener,
    stream: Option<std::net::TcpStream>,
}

impl Backend {
    fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").expect("a port"), stream: None }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().expect("an address").port()
    }

    /// The next request's head, on the connection there is or a new one.
    fn request(&mut self) -> String {
        let stream = self.stream.get_or_insert_with(|| self.listener.accept().expect("a connection").0);
        stream.set_read_timeout(Some(crate::support::SOON)).expect("a timeout");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            std::io::Read::read_exact(stream, &mut byte).expect("a request");
            head.push(byte[0]);
        }
        String::from_utf8_lossy(&head).into_owned()
    }

    fn answer(&mut self, body: &str) {
        let stream = self.stream.as_mut().expect("a request");
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("written");
    }
}

fn config(routes: &[(&str, u16)]) -> String {
    let one = |(path, port): &(&str, u16)| {
        format!(
            "[upstreams.app{port}]\nservers = [\"127.0.0.1:{port}\"]\nconnections_max = 1\n[[routes]]\npath = \"{path}\"\nto = \"app{port}\"\n"
        )
    };
    "[namespaces.default]\nallow_subscribe = [\"anyone\"]\n".to_owned() + &routes.iter().map(one).collect::<String>()
}

fn serve(text: &str, flags: &[(&str, &str)]) -> (Server, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    let server =
        Server::start_with(&["--listen", "127.0.0.1:0", "--workers", "1", "--config", file.path().to_str().unwrap()], flags);
    (server, file)
}

#[test]
fn a_reload_changes_routes_and_servers_and_lets_requests_under_way_end() {
    let (mut old, mut new) = (Backend::start(), Backend::start());
    let (server, file) = serve(&config(&[("/", old.port())]), &[]);
    let mut client = server.connect();
    client.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(old.request().starts_with("GET /a "));
    std::fs::write(file.path(), config(&[("/b", new.port())])).unwrap();
    server.signal(rustix::process::Signal::HUP);
    wait_for("the reload", || (server.metric_sum("ringmain_reloads_total{result=\"applied\"}") == 1.0).then_some(()));
    let mut other = server.connect();
    other.send("GET /b HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(new.request().starts_with("GET /b "));
    new.answer("new");
    assert_eq!(other.answer().body, "new");
    old.answer("old");
    assert_eq!(client.answer().body, "old");
    client.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().status, 404, "on the same connection");
}

#[test]
fn a_drain_ends_with_the_last_request_and_is_not_ready_until_then() {
    let mut backend = Backend::start();
    let internal = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let text = format!("[server]\ndrain_timeout = \"60s\"\ninternal_listen = \"{internal}\"\n{}", config(&[("/", backend.port())]));
    let (mut server, _file) = serve(&text, &[]);
    let mut client = server.connect();
    client.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    backend.request();
    let ready = || {
        let mut check = crate::support::Client::connect(internal);
        check.send("GET /health/ready HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        check.answer().status
    };
    assert_eq!(ready(), 200);
    let begun = std::time::Instant::now();
    server.signal(rustix::process::Signal::TERM);
    wait_for("not being ready", || (ready() == 503).then_some(()));
    assert!(std::net::TcpStream::connect(server.address).is_err(), "nobody new is let in");
    backend.answer("done");
    assert_eq!(client.answer().body, "done");
    assert!(server.ended().success());
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "it waited for its whole time");
}

#[test]
fn a_client_that_stalls_its_upload_is_told_that_it_did() {
    let mut backend = Backend::start();
    let (server, _file) = serve(&config(&[("/", backend.port())]), &[("RINGMAIN_HTTP__BODY_TIMEOUT", "300ms")]);
    let mut client = server.connect();
    client.send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc");
    backend.request();
    assert_eq!(client.answer().status, 408);
    assert!(client.closes().is_empty());
}
