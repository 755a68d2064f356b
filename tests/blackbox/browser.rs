//! Chromium's own EventSource and WebSocket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

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

/// A client of several channels as the documentation has it. It comes back twice: with less than all in its token, and after a gap.
const RESUMING_PAGE: &str = r#"<script>
CLIENT
const publish = (channel, data) => fetch(`http://ADDRESS/channels/${channel}`, { method: "POST", headers: { "X-API-Key": "test-key" }, body: data });
const connect = (done) => new Promise((resolve) => {
  const since = Object.keys(positions).length ? "&since=" + token() : "";
  const socket = new WebSocket("ws://ADDRESS/channels?channel=news&channel=chat:1&channel=none:1" + since);
  const told = [];
  socket.onmessage = async ({ data }) => {
    const item = JSON.parse(data);
    note(item);
    const { recovered } = item.subscribed ?? {};
    told.push(item.data ?? (item.gap ? "gap " + item.gap.missed : recovered ? "recovered" : "fresh"));
    if (!done(told)) return;
    socket.onmessage = null;
    socket.onclose = () => resolve(told.sort().join());
    socket.close();
  };
});
(async () => {
  console.log("FIRST " + await connect((told) => told.length == 3));
  for (const [channel, data] of [["news", "one"], ["news", "two"], ["chat:1", "three"], ["none:1", "lost"]]) await publish(channel, data);
  delete positions["chat:1"];
  console.log("SECOND " + await connect((told) => told.length == 6));
  await publish("chat:1", "four");
  console.log("THIRD " + await connect((told) => told.length == 4));
})();
</script>"#;

#[test]
fn chromium_hears_a_publication_by_event_stream_and_websocket() {
    if skip::without("uring") || skip::without("chromium") {
        return;
    }
    let server = Server::start(&[]);
    let mut browser = Browser::open(PAGE.replace("ADDRESS", &server.address.to_string()));
    let (mut streamed, mut framed) = (false, false);
    while !(streamed && framed) {
        let Some(line) = browser.says() else { break };
        streamed |= line.contains("EVENT-STREAM") && line.contains("browser");
        framed |= line.contains("WEBSOCKET") && line.contains("browser");
    }
    assert!(streamed && framed, "event stream {streamed}, WebSocket {framed}");
}

#[test]
fn the_documented_client_of_several_channels_resumes_each() {
    if skip::without("uring") || skip::without("chromium") {
        return;
    }
    let docs = include_str!("../../docs/plain.md");
    let (_, client) = docs.split_once("```js\nconst positions").expect("the example");
    let (client, _) = client.split_once("```").expect("its end");
    let server = Server::start(&[("RINGMAIN_NAMESPACES__NONE__HISTORY_SIZE", "0")]);
    let page = RESUMING_PAGE.replace("CLIENT", &format!("const positions{client}")).replace("ADDRESS", &server.address.to_string());
    let mut browser = Browser::open(page);
    for told in
        ["FIRST fresh,fresh,fresh", "SECOND fresh,fresh,gap 1,one,recovered,two", "THIRD four,recovered,recovered,recovered"]
    {
        let line = browser.says().unwrap_or_else(|| panic!("nothing where {told:?} is due"));
        assert!(line.contains(told), "{line} where {told:?} is due");
    }
}

/// A browser with one page, ended when dropped.
struct Browser {
    process: Child,
    log: mpsc::Receiver<String>,
    _home: tempfile::TempDir,
}

impl Browser {
    fn open(page: String) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let page = serve_page(page);
        let mut process = Command::new("chromium")
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
        let stderr = BufReader::new(process.stderr.take().expect("its log"));
        let (tell, log) = mpsc::channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { process, log, _home: home }
    }

    /// The next line that the page has logged, if there is one in time.
    fn says(&mut self) -> Option<String> {
        let until = Instant::now() + SOON + SOON;
        loop {
            let line = self.log.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
            if line.contains("CONSOLE") {
                return Some(line);
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
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
