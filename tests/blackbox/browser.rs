//! Chromium's own EventSource and WebSocket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use crate::skip;
use crate::support::{SOON, Server};

/// Opens both, waits for their first signs of life, and says in the log what each of them got.
const PAGE: &str = r#"<script>
const at = "ADDRESS";
const events = new EventSource(`http://${at}/channels/news`);
const socket = new WebSocket(`ws://${at}/channels/news`);
let ready = 0;
const open = () => { if (++ready == 2) fetch(`http://${at}/channels/news`, { method: "POST", headers: { "X-API-Key": "test-key" }, body: '{"hello":"browser"}' }); };
events.onopen = open;
events.onmessage = (event) => console.log("EVENT-STREAM " + event.data);
socket.onmessage = (message) => { const item = JSON.parse(message.data); if (item.subscribed) open(); else console.log("WEBSOCKET " + JSON.stringify(item.data)); };
</script>"#;

#[test]
fn chromium_hears_a_publication_by_event_stream_and_websocket() {
    if skip::without("uring") || skip::without("chromium") {
        return;
    }
    let server = Server::start(&[]);
    let home = tempfile::tempdir().expect("a directory");
    let page = serve_page(PAGE.replace("ADDRESS", &server.address.to_string()));
    let mut browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--enable-logging=stderr",
            "--remote-debugging-port=0",
        ])
        .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
        .arg(format!("http://{page}/"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("chromium runs: apt-get install chromium");
    let stderr = BufReader::new(browser.stderr.take().expect("its log"));
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let (mut streamed, mut framed) = (false, false);
    while !(streamed && framed) {
        let Ok(line) = told.recv_timeout(SOON + SOON) else { break };
        streamed |= line.contains("EVENT-STREAM") && line.contains("browser");
        framed |= line.contains("WEBSOCKET") && line.contains("browser");
    }
    let _ = browser.kill();
    let _ = browser.wait();
    assert!(streamed && framed, "event stream {streamed}, WebSocket {framed}");
}

/// A page of another origin, as a backend would serve it.
fn serve_page(page: String) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 4096]);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                page.len()
            );
            let _ = stream.write_all(format!("{head}{page}").as_bytes());
        }
    });
    address
}
