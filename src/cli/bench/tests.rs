//! Whole loads against a stock WebSocket server on a thread: one that does right, and some that each do one thing wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::Parser;
use serde_json::Value;
use tungstenite::handshake::server::{Request as Upgrade, Response as UpgradeAnswer};
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{Message, WebSocket};

use super::*;

const SUBSCRIBERS: usize = 3;
/// A server that waits for longer than this never gets it.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

/// What the server does to the publication with offset 4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Nothing,
    Lose,
    Repeat,
    Swap,
    Change,
    Close,
    /// Says again where the subscriber is, which would forgive it what it lost.
    Resubscribe,
    /// Answers with a position that no subscriber got.
    AnswerElsewhere,
    /// Delivers, but never answers the publisher.
    Unanswered,
    /// Answers, but delivers nothing.
    Withhold,
    /// Neither delivers nor answers.
    Silent,
}

/// What the server makes of an offer of compression. (There is none where it is not asked about.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Compression {
    Unasked,
    Declined,
    /// Every copy is the same.
    Shared,
    /// Copies differ: each subscriber has a level of its own.
    Apart,
    /// Granted, and not used.
    Unused,
}

impl Compression {
    fn message(self, subscriber: usize, text: String) -> Message {
        let level = match self {
            Self::Unasked | Self::Declined | Self::Unused => return Message::text(text),
            Self::Shared => 6,
            Self::Apart => subscriber as u32,
        };
        let mut frame = Frame::message(deflate::compressed(text.as_bytes(), level), OpCode::Data(Data::Text), true);
        frame.header_mut().rsv1 = true;
        Message::Frame(frame)
    }
}

#[track_caller]
fn load(line: &str, address: SocketAddr) -> (Value, bool) {
    let line = format!("bench {line} --addr {address} --stall 1");
    let parsed = Line::try_parse_from(line.split(' ')).expect("good flags");
    let outcome = parsed.bench.load.run().expect("a load");
    (serde_json::from_str(&outcome.report.json()).expect("JSON"), outcome.sound)
}

/// Serves one fan-out: so many subscribers, then one publisher.
fn channel_server(wrong: Wrong, compression: Compression) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = thread::spawn(move || {
        let mut subscribers: Vec<_> = (0..SUBSCRIBERS).map(|_| subscriber(&listener, compression)).collect();
        let (mut publisher, _) = listener.accept().expect("a publisher");
        let mut received = Vec::new();
        for offset in 1.. {
            let Some((_, payload)) = publication(&mut publisher, &mut received) else { return };
            let answered = if wrong == Wrong::AnswerElsewhere && offset == 4 { 5 } else { offset };
            if ![Wrong::Unanswered, Wrong::Silent].contains(&wrong) {
                publisher.write_all(reply("bench", &format!("E:{answered}")).as_bytes()).expect("a publisher");
            }
            if ![Wrong::Withhold, Wrong::Silent].contains(&wrong) {
                deliver(&mut subscribers, wrong, compression, offset, &payload);
            }
        }
    });
    (address, server)
}

fn reply(channel: &str, position: &str) -> String {
    let body = format!("{{\"channel\":\"{channel}\",\"position\":\"{position}\"}}");
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn subscriber(listener: &TcpListener, compression: Compression) -> WebSocket<TcpStream> {
    let (mut socket, _) = upgraded(listener, compression);
    socket.send(Message::text(hello(0))).expect("a subscriber");
    socket.send(Message::Ping(b"hi"[..].into())).expect("a subscriber");
    assert_eq!(socket.read().expect("a pong"), Message::Pong(b"hi"[..].into()));
    socket
}

fn subscribed(listener: &TcpListener) -> WebSocket<TcpStream> {
    let (mut socket, _) = upgraded(listener, Compression::Unasked);
    socket.send(Message::text(hello(0))).expect("a subscriber");
    socket
}

/// The next WebSocket, and the path that it asked for.
fn upgraded(listener: &TcpListener, compression: Compression) -> (WebSocket<TcpStream>, String) {
    let (stream, _) = listener.accept().expect("a subscriber");
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
    let grant = |request: &Upgrade, mut answer: UpgradeAnswer| {
        assert_eq!(request.headers().contains_key(deflate::ANSWER_NAME), compression != Compression::Unasked);
        path = request.uri().path().to_owned();
        if ![Compression::Unasked, Compression::Declined].contains(&compression) {
            let granted = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
            answer.headers_mut().insert(deflate::ANSWER_NAME, granted.parse().expect("a value"));
        }
        Ok(answer)
    };
    let socket = tungstenite::accept_hdr(stream, grant).expect("an upgrade");
    (socket, path)
}

fn hello(offset: u64) -> String {
    format!("{{\"subscribed\":{{\"channel\":\"bench\",\"position\":\"E:{offset}\",\"recovered\":true}}}}")
}

/// The path that the next publication goes to, and its payload; `None` when the publisher has gone.
fn publication(publisher: &mut TcpStream, received: &mut Vec<u8>) -> Option<(String, String)> {
    loop {
        let text = String::from_utf8_lossy(received).into_owned();
        if let Some(head) = text.find("\r\n\r\n") {
            let length = text[..head].split("Content-Length: ").nth(1)?.lines().next()?.parse::<usize>().ok()?;
            if text.len() >= head + 4 + length {
                received.drain(..head + 4 + length);
                return Some((text.split(' ').nth(1)?.to_owned(), text[head + 4..head + 4 + length].to_owned()));
            }
        }
        let mut bytes = [0; 4096];
        match publisher.read(&mut bytes) {
            Ok(0) | Err(_) => return None,
            Ok(count) => received.extend(&bytes[..count]),
        }
    }
}

fn deliver(subscribers: &mut [WebSocket<TcpStream>], wrong: Wrong, compression: Compression, offset: u64, payload: &str) {
    let item = |offset, payload: &str| format!("{{\"channel\":\"bench\",\"position\":\"E:{offset}\",\"data\":{payload}}}");
    for (index, subscriber) in subscribers.iter_mut().enumerate() {
        let mut items = vec![item(offset, payload)];
        if (index, offset) == (1, 4) {
            match wrong {
                Wrong::Nothing | Wrong::AnswerElsewhere | Wrong::Unanswered | Wrong::Withhold | Wrong::Silent => {}
                Wrong::Resubscribe => items = vec![hello(offset)],
                Wrong::Lose | Wrong::Swap => items.clear(),
                Wrong::Repeat => items.push(item(offset, payload)),
                Wrong::Change => items = vec![item(offset, &payload.replace("\"fill\":\"", "\"fill\":\"~").replace("\"}", "}"))],
                Wrong::Close => {
                    _ = subscriber.close(None);
                    items.clear();
                }
            }
        } else if (index, offset, wrong) == (1, 5, Wrong::Swap) {
            items.push(item(4, payload_of(3)));
        }
        items.into_iter().for_each(|item| _ = subscriber.send(compression.message(index, item)));
    }
}

/// The payload of a publication by its number.
fn payload_of(number: u64) -> &'static str {
    let mut bytes = Vec::new();
    payload::write(&mut bytes, number, 64);
    String::from_utf8(bytes).expect("text").leak()
}

const SEVEN: &str = "fan-out --subscribers 3 --publications 6 --warmup 1 --payload 64 --rate 1000 --api-key k";

/// Seven publications, in flight together, to three subscribers.
#[track_caller]
fn check(wrong: Wrong, sound: bool, faults: [u64; 6]) -> Value {
    check_over(Compression::Unasked, wrong, sound, faults)
}

#[track_caller]
fn check_over(compression: Compression, wrong: Wrong, sound: bool, faults: [u64; 6]) -> Value {
    let (address, server) = channel_server(wrong, compression);
    let line = if compression == Compression::Unasked { SEVEN.to_owned() } else { format!("{SEVEN} --deflate") };
    let (report, is_sound) = load(&line, address);
    server.join().expect("no panic");
    let got = ["lost", "repeated", "disordered", "corrupt", "closed_by_server", "unanswered"].map(|name| report[name].as_u64());
    assert_eq!((got, is_sound), (faults.map(Some), sound), "{wrong:?} {compression:?}: {report}");
    assert_eq!(report["sound"], sound);
    assert_eq!(report["reasons"].as_array().is_some_and(Vec::is_empty), sound, "{report}");
    report
}

#[test]
fn a_good_server_is_found_sound() {
    let report = check(Wrong::Nothing, true, [0; 6]);
    assert_eq!((report["latency_loop"].as_str(), report["deliveries"].as_u64()), (Some("open"), Some(18)), "{report}");
}

#[test]
fn one_wrong_delivery_of_twenty_one_is_found() {
    check(Wrong::Lose, false, [1, 0, 0, 0, 0, 0]);
    check(Wrong::Repeat, false, [0, 1, 0, 0, 0, 0]);
    check(Wrong::Swap, false, [0, 0, 1, 0, 0, 0]);
    check(Wrong::Change, false, [1, 0, 0, 1, 0, 0]);
    check(Wrong::Close, false, [4, 0, 0, 0, 1, 0]);
    check(Wrong::Resubscribe, false, [1, 0, 0, 1, 0, 0]);
    check(Wrong::AnswerElsewhere, false, [0, 0, 0, 1, 0, 0]);
}

#[test]
fn one_wrong_compressed_delivery_is_found() {
    check_over(Compression::Shared, Wrong::Lose, false, [1, 0, 0, 0, 0, 0]);
    check_over(Compression::Shared, Wrong::Repeat, false, [0, 1, 0, 0, 0, 0]);
    check_over(Compression::Shared, Wrong::Swap, false, [0, 0, 1, 0, 0, 0]);
    check_over(Compression::Shared, Wrong::Change, false, [1, 0, 0, 1, 0, 0]);
}

#[test]
fn silence_is_not_success() {
    check(Wrong::Unanswered, false, [0, 0, 0, 0, 0, 7]);
    check(Wrong::Withhold, false, [21, 0, 0, 0, 0, 0]);
    check(Wrong::Silent, false, [21, 0, 0, 0, 0, 7]);
}

#[test]
fn a_compressed_run_counts_only_with_compressed_deliveries() {
    let compressed = |compression, sound| {
        let report = check_over(compression, Wrong::Nothing, sound, [0; 6]);
        (report["deliveries"].as_u64(), report["compressed_deliveries"].as_u64())
    };
    assert_eq!(compressed(Compression::Shared, true), (Some(18), Some(18)));
    assert_eq!(compressed(Compression::Apart, true), (Some(18), Some(18)));
    assert_eq!(compressed(Compression::Unused, false), (Some(18), Some(0)));
    assert_eq!(compressed(Compression::Unasked, true), (Some(18), None));
}

#[test]
fn a_server_that_does_not_compress_cannot_be_measured() {
    let (address, server) = channel_server(Wrong::Nothing, Compression::Declined);
    let line = format!("bench {SEVEN} --deflate --addr {address}");
    let error = Line::try_parse_from(line.split(' ')).expect("good flags").bench.load.run().err().expect("no figures");
    assert!(error.to_string().starts_with("the server did not accept permessage-deflate"), "{error}");
    assert!(server.join().is_err(), "the subscribers have gone");
}

#[test]
fn a_closed_loop_finds_the_rate_of_the_open_one() {
    let (address, server) = channel_server(Wrong::Nothing, Compression::Unasked);
    let (report, sound) = load("fan-out --subscribers 3 --publications 40 --warmup 1 --payload 64 --api-key k --load 50", address);
    server.join().expect("no panic");
    assert!(sound, "{report}");
    assert_eq!((report["cost_loop"].as_str(), report["latency_loop"].as_str()), (Some("closed"), Some("open")), "{report}");
    let number = |name: &str| report[name].as_f64().expect("a figure");
    // Three deliveries to a publication; half of the closed loop's publications a second.
    assert!((number("deliveries_per_second") / 3.0 / 2.0 / number("open_rate_per_second") - 1.0).abs() < 0.01, "{report}");
}

/// What a server of two channels gives to a subscriber of the second instead of the second publication there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Astray {
    Nothing,
    /// What the other channel had at this place.
    Item,
    /// What was published to the other channel, as if it had been to this one.
    Payload,
    /// The right one, in the other channel's epoch.
    Epoch,
    /// The right one; but the publisher is told that it went to the other channel.
    Answer,
}

/// Serves two channels of two subscribers each, then one publisher.
fn two_channels(astray: Astray) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = thread::spawn(move || {
        let mut subscribers: Vec<_> = (0..4).map(|_| upgraded(&listener, Compression::Unasked)).collect();
        for (socket, path) in &mut subscribers {
            let channel = path.strip_prefix("/channels/").expect("a channel");
            let hello =
                format!("{{\"subscribed\":{{\"channel\":\"{channel}\",\"position\":\"E{channel}:7\",\"recovered\":true}}}}");
            socket.send(Message::text(hello)).expect("a subscriber");
        }
        let (mut publisher, _) = listener.accept().expect("a publisher");
        let mut received = Vec::new();
        for turn in 0.. {
            let Some((path, payload)) = publication(&mut publisher, &mut received) else { return };
            assert_eq!(path, format!("/channels/bench{}", turn % 2));
            let (channel, position) = (format!("bench{}", turn % 2), format!("Ebench{}:{}", turn % 2, 8 + turn / 2));
            let item = |channel: &str, position: &str, payload: &str| {
                format!("{{\"channel\":\"{channel}\",\"position\":\"{position}\",\"data\":{payload}}}")
            };
            let wrong = match astray {
                _ if turn != 3 => None,
                Astray::Nothing | Astray::Answer => None,
                Astray::Item => Some(item("bench0", "Ebench0:9", payload_of(2))),
                Astray::Payload => Some(item(&channel, &position, payload_of(2))),
                Astray::Epoch => Some(item(&channel, "Ebench0:9", &payload)),
            };
            let mut wrong = wrong.into_iter();
            for (socket, _) in subscribers.iter_mut().filter(|(_, asked)| *asked == path) {
                let item = wrong.next().unwrap_or_else(|| item(&channel, &position, &payload));
                socket.send(Message::text(item)).expect("a subscriber");
            }
            let answered = if (turn, astray) == (3, Astray::Answer) { "bench0" } else { &channel };
            publisher.write_all(reply(answered, &position).as_bytes()).expect("a publisher");
        }
    });
    (address, server)
}

#[test]
fn each_channel_is_checked_for_itself() {
    for (astray, lost, corrupt) in
        [(Astray::Nothing, 0, 0), (Astray::Item, 1, 1), (Astray::Payload, 1, 1), (Astray::Epoch, 1, 1), (Astray::Answer, 0, 1)]
    {
        let (address, server) = two_channels(astray);
        let line = "channels --channels 2 --subscribers 2 --publications 7 --warmup 2 --payload 64 --rate 1000 --api-key k";
        let (report, sound) = load(line, address);
        server.join().expect("no panic");
        let got = ["channels", "deliveries", "lost", "corrupt"].map(|name| report[name].as_u64());
        let expected = [2, 14 - lost, lost, corrupt];
        assert_eq!((got, sound), (expected.map(Some), corrupt == 0), "{astray:?}: {report}");
    }
}

/// What a server does wrong to one of the subscribers that come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comeback {
    Right,
    /// It goes on after the first publication that was missed.
    Lose,
    /// It gets again what it had last.
    Repeat,
    /// It is told that it is new here.
    Anew,
    /// It is closed for good.
    Close,
}

/// A channel with history, whose server turns each subscriber away once, before and during the storm, in one way or the other.
struct Harbour {
    comeback: Comeback,
    history: Vec<String>,
    subscribers: Vec<WebSocket<TcpStream>>,
    attempts: usize,
    returned: usize,
}

impl Harbour {
    const CLIENTS: usize = 4;

    fn item(&self, offset: usize) -> String {
        format!("{{\"channel\":\"bench\",\"position\":\"E:{offset}\",\"data\":{}}}", self.history[offset - 1])
    }

    fn publish(&mut self, payload: String) -> usize {
        self.history.push(payload);
        let item = self.item(self.history.len());
        // Those of before the storm have gone.
        self.subscribers.retain_mut(|socket| socket.send(Message::text(item.clone())).is_ok());
        self.history.len()
    }

    /// The first time that a client comes it is refused.
    fn come(&mut self, mut stream: TcpStream, since: Option<usize>) {
        let turn = self.attempts % (2 * Self::CLIENTS);
        self.attempts += 1;
        if turn < Self::CLIENTS && turn.is_multiple_of(2) {
            _ = stream.read(&mut [0; 4096]);
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\n\r\n").expect("a client");
            return;
        }
        let mut socket = tungstenite::accept(stream).expect("an upgrade");
        if turn < Self::CLIENTS {
            let frame = CloseFrame { code: CloseCode::Again, reason: "overload, retry in 7 ms".into() };
            _ = socket.close(Some(frame)).and_then(|()| socket.flush());
            return;
        }
        self.welcome(&mut socket, since);
        self.subscribers.push(socket);
    }

    fn welcome(&mut self, socket: &mut WebSocket<TcpStream>, since: Option<usize>) {
        self.returned += usize::from(since.is_some());
        let comeback = if since.is_some() && self.returned == 2 { self.comeback } else { Comeback::Right };
        let top = self.history.len();
        let (hello_offset, first) = match (since, comeback) {
            (None, _) | (_, Comeback::Anew) => (top, top + 1),
            (Some(since), Comeback::Lose) => (since, since + 2),
            (Some(since), Comeback::Repeat) => (since, since),
            (Some(since), Comeback::Right | Comeback::Close) => (since, since + 1),
        };
        if comeback == Comeback::Close {
            _ = socket.close(None);
        } else {
            socket.send(Message::text(hello(hello_offset as u64))).expect("a client");
            (first..=top).for_each(|offset| socket.send(Message::text(self.item(offset))).expect("a client"));
        }
    }
}

/// Serves until the publisher has gone.
fn harbour(comeback: Comeback) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = thread::spawn(move || {
        let harbour = Harbour { comeback, history: Vec::new(), subscribers: Vec::new(), attempts: 0, returned: 0 };
        let (harbour, published) = (Mutex::new(harbour), Condvar::new());
        thread::scope(|scope| {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                let mut head = [0; 4096];
                let length = stream.peek(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..length]).into_owned();
                if head.is_empty() {
                    // The publisher's thread says that it is over.
                    return;
                }
                if head.starts_with("POST") {
                    scope.spawn(|| serve_publisher(stream, &harbour, &published, address));
                    continue;
                }
                let since = head.split_once("since=E:").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
                // Whoever comes back has missed something.
                let guard = harbour.lock().expect("no panic");
                let is_up_to_date = |harbour: &mut Harbour| since == Some(harbour.history.len());
                let (mut guard, _) = published.wait_timeout_while(guard, PATIENCE, is_up_to_date).expect("no panic");
                guard.come(stream, since);
            }
        });
    });
    (address, server)
}

fn serve_publisher(mut stream: TcpStream, harbour: &Mutex<Harbour>, published: &Condvar, address: SocketAddr) {
    let mut received = Vec::new();
    while let Some((_, payload)) = publication(&mut stream, &mut received) {
        let offset = harbour.lock().expect("no panic").publish(payload);
        published.notify_all();
        _ = stream.write_all(reply("bench", &format!("E:{offset}")).as_bytes());
    }
    TcpStream::connect(address).expect("still listening");
}

#[track_caller]
fn check_storm(comeback: Comeback, lost: bool, faults: [u64; 3]) {
    let (address, server) = harbour(comeback);
    let (report, sound) = load("storm --connections 4 --rate 20 --payload 64 --channel bench --api-key k", address);
    server.join().expect("no panic");
    let got = ["repeated", "corrupt", "closed_by_server"].map(|name| report[name].as_u64());
    assert_eq!(got, faults.map(Some), "{comeback:?}: {report}");
    assert_eq!((report["lost"].as_u64() > Some(0), sound), (lost, comeback == Comeback::Right), "{comeback:?}: {report}");
    if sound {
        let got = ["reconnected", "refused"].map(|name| report[name].as_u64());
        assert_eq!((got, report["recovered_deliveries"].as_u64() > Some(0)), ([Some(4), Some(4)], true), "{report}");
    }
}

#[test]
fn all_who_come_back_get_what_they_missed() {
    thread::scope(|scope| {
        for (comeback, lost, faults) in [
            (Comeback::Right, false, [0, 0, 0]),
            (Comeback::Lose, true, [0, 0, 0]),
            (Comeback::Repeat, false, [1, 0, 0]),
            (Comeback::Anew, true, [0, 1, 0]),
            (Comeback::Close, true, [0, 0, 1]),
        ] {
            scope.spawn(move || check_storm(comeback, lost, faults));
        }
    });
}

/// Echoes on four connections, and changes the hundredth message of each where it `lies`.
fn echo_server(lies: bool) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = thread::spawn(move || {
        let connections: Vec<_> = (0..4).map(|_| listener.accept().expect("a connection").0).collect();
        let echoing = connections.into_iter().map(|stream| thread::spawn(move || echo(stream, lies)));
        echoing.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
    (address, server)
}

fn echo(stream: TcpStream, lies: bool) {
    let mut socket = tungstenite::accept(stream).expect("an upgrade");
    for count in 0.. {
        let Ok(Message::Text(text)) = socket.read() else { return };
        let text = if lies && count == 99 { text.replace("fill", "full") } else { text.to_string() };
        if socket.send(Message::text(text)).is_err() {
            return;
        }
    }
}

#[test]
fn echoes_are_counted_and_compared() {
    for (lies, pace) in
        [(false, "--rate 2000"), (false, "--closed"), (false, "--load 20"), (true, "--rate 2000"), (true, "--closed")]
    {
        let (address, server) = echo_server(lies);
        let (report, sound) = load(&format!("echo --connections 4 --seconds 1 {pace}"), address);
        server.join().expect("no panic");
        let loops = [&report["cost_loop"], &report["latency_loop"]].map(|name| name.as_str().unwrap_or("none"));
        match pace {
            _ if lies => {}
            "--rate 2000" => assert_eq!((loops, report["messages"].as_u64()), (["open", "open"], Some(2000)), "{report}"),
            "--closed" => assert_eq!(loops, ["closed", "closed"], "{report}"),
            _ => assert_eq!(loops, ["closed", "open"], "{report}"),
        }
        assert_eq!((sound, report["lost"] == 0), (!lies, !lies), "{report}");
        assert_eq!(report["closed_by_server"].as_u64().is_some_and(|closed| closed > 0), lies, "{report}");
    }
}

#[test]
fn connections_come_and_go() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = thread::spawn(move || (0..80).map(|_| subscribed(&listener)).collect::<Vec<_>>());
    let (report, sound) = load("connect --connections 40 --hold 8 --window 4 --channel bench", address);
    assert_eq!((report["subscribed"].as_u64(), sound), (Some(40), true), "{report}");
    assert_eq!(report["latency_loop"], "open");
    assert_eq!(server.join().expect("no panic").len(), 80);
}

/// A server that stands still for 600 ms, once: a closed loop sees one slow echo, an open one all that were due meanwhile.
#[test]
fn an_open_loop_counts_what_a_pause_delays() {
    let median = |pace: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = thread::spawn(move || {
            let mut socket = tungstenite::accept(listener.accept().expect("a connection").0).expect("an upgrade");
            let began = std::time::Instant::now();
            let mut paused = false;
            while let Ok(Message::Text(text)) = socket.read() {
                // The first second is the warm-up's.
                if !paused && began.elapsed() > Duration::from_millis(1100) {
                    paused = true;
                    thread::sleep(Duration::from_millis(600));
                }
                if socket.send(Message::text(text)).is_err() {
                    return;
                }
            }
        });
        let (report, sound) = load(&format!("echo --connections 1 --seconds 1 {pace}"), address);
        server.join().expect("no panic");
        assert!(sound, "{report}");
        report["p50_us"].as_f64().expect("a figure")
    };
    let (open, closed) = (median("--rate 1000"), median("--closed"));
    assert!(open > 50_000.0 && closed < 50_000.0, "{open} µs open, {closed} µs closed");
}

#[test]
fn flags_that_cannot_be_served_are_refused() {
    for line in [
        "echo --payload 10",
        "fan-out --deflate --transport sse",
        "stream --rate 0",
        "idle",
        "idle --pid 1 --from 5 --to 5",
        "echo --connections 100000000",
    ] {
        let parsed = Line::try_parse_from(format!("bench {line}").split(' ')).expect("good syntax");
        let refused = matches!(parsed.bench.load.run(), Err(BenchError::Flag { .. } | BenchError::Descriptors { .. }));
        assert!(refused, "{line}");
    }
}
