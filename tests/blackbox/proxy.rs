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
