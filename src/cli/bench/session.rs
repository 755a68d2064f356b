//! One connection of the load, without its socket: bytes in, checked; answers out.
//!
//! ```text
//! head ──► web socket (items or echoes)      upgrade answered with 101
//!      ├─► stream (events or lines)          200, chunked
//!      └─► poll ──► poll ──► …               each response is whole; the next request carries its position
//! ```

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use super::checker::{Checker, Ledger};
use super::deflate;
use super::dialect::{self, Dialect, PollBody};
use super::payload;
use super::wire::{self, Chunks, Opcode, ServerFrame, WireError};

/// How long a poll of the load may wait, in seconds.
const POLL_WAIT_SECONDS: u32 = 30;
/// The close code of a server that has too much to do.
const OVERLOAD: u16 = 1013;
/// When to come back to a server that turns away and does not say when.
const COME_BACK_MILLIS: u64 = 1000;
/// An event or a line that has not ended by then never will.
const STREAM_UNIT_BYTES_MAX: usize = wire::UNIT_BYTES_MAX;

/// How a subscriber is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Transport {
    Ws,
    Sse,
    Ndjson,
    Poll,
}

impl Transport {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Sse => "sse",
            Self::Ndjson => "ndjson",
            Self::Poll => "poll",
        }
    }
}

/// Why a connection is no use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Wire(WireError),
    /// The request was answered with this status.
    Refused {
        status: u16,
    },
    /// Turned away for now: come back after this time.
    ComeBack {
        millis: u64,
    },
    /// The upgrade's answer is not the one to our key.
    Accept,
    /// It does not let messages be compressed as the load needs them.
    Deflate(deflate::Refusal),
    /// A close frame with this code (0: none).
    Closed {
        code: u16,
    },
    /// The stream ended.
    Ended,
    /// An echo that is not what was sent.
    Echo,
    /// A poll's body is not the JSON it should be.
    Body,
}

impl From<deflate::Refusal> for Fault {
    fn from(refusal: deflate::Refusal) -> Self {
        Self::Deflate(refusal)
    }
}

impl From<WireError> for Fault {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// What a connection asks for.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    /// There are so many channels: the paths of connections end with numbers, which go round.
    pub channels: Option<usize>,
    /// WebSockets ask for compressed messages, and must be granted them.
    pub deflate: bool,
    pub host: String,
    pub authorization: Option<String>,
    pub doing: Doing,
    pub dialect: Dialect,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    Subscribe(Transport),
    Echo { payload_bytes: usize },
}

impl Request {
    /// The bytes that open connection `index`, of a WebSocket that goes on after the position `since`, where it has one.
    pub fn write(&self, out: &mut Vec<u8>, index: usize, since: Option<&str>) {
        let number = self.channels.map_or_else(String::new, |count| (index % count).to_string());
        match self.doing {
            Doing::Subscribe(Transport::Sse) => {
                self.write_get(out, self.query("?via=sse&format=json"), "Accept: text/event-stream\r\n");
            }
            Doing::Subscribe(Transport::Ndjson) => {
                self.write_get(out, self.query("?via=stream"), "Accept: application/x-ndjson\r\n");
            }
            Doing::Subscribe(Transport::Poll) => self.write_get(out, self.query("?via=poll"), ""),
            Doing::Subscribe(Transport::Ws) | Doing::Echo { .. } => {
                let since = since.map_or_else(String::new, |since| format!("?since={since}"));
                out.extend_from_slice(
                    format!(
                        "GET {}{number}{since} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n{}{}\r\n",
                        self.path,
                        self.host,
                        wire::KEY,
                        if self.deflate { deflate::OFFER_LINE } else { "" },
                        self.authorization_line()
                    )
                    .as_bytes(),
                );
            }
        }
    }

    fn write_poll(&self, out: &mut Vec<u8>, since: &str) {
        self.write_get(out, &format!("?via=poll&wait={POLL_WAIT_SECONDS}&since={since}"), "");
    }

    fn query<'a>(&self, query: &'a str) -> &'a str {
        if self.dialect == Dialect::Ringmain { query } else { "" }
    }

    pub(super) fn write_get(&self, out: &mut Vec<u8>, query: &str, header: &str) {
        let line = format!("GET {}{query} HTTP/1.1\r\nHost: {}\r\n", self.path, self.host);
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(self.authorization_line().as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    fn authorization_line(&self) -> String {
        self.authorization.as_ref().map_or(String::new(), |key| format!("Authorization: apikey {key}\r\n"))
    }
}

/// Everything outside of one session that its bytes touch.
pub struct Around<'a> {
    pub request: &'a Request,
    pub checker: &'a mut Checker,
    pub echoes: &'a mut Echoes,
    /// Nanoseconds of the load's clock.
    pub now: u64,
    /// What the session wants sent.
    pub out: &'a mut Vec<u8>,
}

/// What the echo load has seen.
pub struct Echoes {
    pub count: u64,
    pub round_trip: Histogram<u64>,
    /// Whoever gets one back sends the next: a closed loop.
    pub again: bool,
    /// Sent and not yet back.
    pub outstanding: u64,
    scratch: Vec<u8>,
}

impl Echoes {
    pub fn new() -> Self {
        Self { count: 0, round_trip: super::checker::new_histogram(), again: false, outstanding: 0, scratch: Vec::new() }
    }
}

enum Stage {
    Head,
    WebSocket,
    Stream(Box<Stream>),
    Polling,
    Echo(Echo),
}

struct Echo {
    /// The next message to be sent.
    number: u64,
    /// When those on their way were meant to be sent.
    intended: VecDeque<u64>,
}

struct Stream {
    kind: StreamKind,
    /// `None`: the body is what comes until the end.
    chunks: Option<Chunks>,
    /// The body that is not a whole event or line yet.
    text: Vec<u8>,
}

#[derive(Clone, Copy)]
enum StreamKind {
    Events,
    Lines,
}

impl Stream {
    fn new(kind: StreamKind, chunked: bool) -> Box<Self> {
        Box::new(Self { kind, chunks: chunked.then(Chunks::default), text: Vec::new() })
    }
}

/// The state of one connection of the load.
pub struct Session {
    stage: Stage,
    pub ledger: Ledger,
    /// The first number of this connection's echoes.
    first: u64,
    ready: bool,
}

impl Session {
    /// `index` makes this connection's echoes its own; `ledger` says where the subscriber is.
    pub fn new(index: usize, ledger: Ledger) -> Self {
        Self { stage: Stage::Head, ledger, first: (index as u64) << 32, ready: false }
    }

    /// Subscribed (its position is known), or upgraded where the load echoes.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Opens the connection, which is up: asks for what it is there for.
    pub fn open(&mut self, index: usize, around: &mut Around<'_>) {
        let since = around.checker.position(&self.ledger);
        around.request.write(around.out, index, since.as_deref());
        // Where no first answer comes before the first publication, the place is known without it.
        if around.request.doing == Doing::Subscribe(Transport::Poll) {
            self.start_untold(around);
        }
    }

    /// Begins where every subscriber begins, if the server does not tell.
    fn start_untold(&mut self, around: &Around<'_>) {
        if !around.request.dialect.tells_position() {
            self.ledger.start(around.request.dialect.origin());
            self.ready = true;
        }
    }

    /// Reads the whole units in `bytes` and returns how many bytes they were.
    pub fn read(&mut self, bytes: &[u8], around: &mut Around<'_>) -> Result<usize, Fault> {
        let mut used = 0;
        while let Some(step) = self.unit(&bytes[used..], around)? {
            used += step;
        }
        Ok(used)
    }

    /// Reads one unit; `None` when there is no whole one.
    fn unit(&mut self, bytes: &[u8], around: &mut Around<'_>) -> Result<Option<usize>, Fault> {
        if bytes.is_empty() {
            return Ok(None);
        }
        match &mut self.stage {
            Stage::Head => self.head(bytes, around),
            Stage::WebSocket | Stage::Echo(_) => self.frame(bytes, around),
            Stage::Stream(stream) => {
                match &mut stream.chunks {
                    Some(chunks) => chunks.read(bytes, &mut stream.text)?,
                    None => stream.text.extend_from_slice(bytes),
                }
                self.stream(around)?;
                Ok(Some(bytes.len()))
            }
            Stage::Polling => self.poll(bytes, around),
        }
    }

    fn head(&mut self, bytes: &[u8], around: &mut Around<'_>) -> Result<Option<usize>, Fault> {
        if around.request.doing == Doing::Subscribe(Transport::Poll) {
            self.stage = Stage::Polling;
            return self.poll(bytes, around);
        }
        let Some(head) = wire::response_head(bytes)? else { return Ok(None) };
        if around.request.deflate && head.accepted {
            deflate::check_answer(wire::header(&bytes[..head.head_bytes], deflate::ANSWER_NAME))?;
        }
        self.stage = match (around.request.doing, head.status) {
            (Doing::Subscribe(Transport::Sse), 200) if head.is_endless() => {
                Stage::Stream(Stream::new(StreamKind::Events, head.chunked))
            }
            (Doing::Subscribe(Transport::Ndjson), 200) if head.is_endless() => {
                Stage::Stream(Stream::new(StreamKind::Lines, head.chunked))
            }
            (Doing::Subscribe(Transport::Ws), 101) if head.accepted => Stage::WebSocket,
            (Doing::Echo { .. }, 101) if head.accepted => {
                self.ready = true;
                Stage::Echo(Echo { number: self.first, intended: VecDeque::new() })
            }
            (Doing::Subscribe(Transport::Ws) | Doing::Echo { .. }, 101) => return Err(Fault::Accept),
            (Doing::Subscribe(_), 503) => {
                let millis = retry_after_millis(&bytes[..head.head_bytes]).unwrap_or(COME_BACK_MILLIS);
                return Err(Fault::ComeBack { millis });
            }
            (Doing::Subscribe(_) | Doing::Echo { .. }, status) => return Err(Fault::Refused { status }),
        };
        if !self.ready {
            self.start_untold(around);
        }
        Ok(Some(head.head_bytes))
    }

    fn frame(&mut self, bytes: &[u8], around: &mut Around<'_>) -> Result<Option<usize>, Fault> {
        let Some(frame) = wire::server_frame(bytes, around.request.deflate)? else { return Ok(None) };
        match frame.opcode {
            Opcode::Text | Opcode::Binary => self.message(frame, around)?,
            Opcode::Ping => {
                around.checker.pings += 1;
                wire::client_frame(around.out, Opcode::Pong, frame.payload);
            }
            Opcode::Pong => {}
            Opcode::Close => {
                let code = frame.payload.first_chunk::<2>().map_or(0, |code| u16::from_be_bytes(*code));
                return Err(match code {
                    OVERLOAD => Fault::ComeBack { millis: told_millis(frame.payload).unwrap_or(COME_BACK_MILLIS) },
                    code => Fault::Closed { code },
                });
            }
        }
        Ok(Some(frame.bytes))
    }

    fn message(&mut self, frame: ServerFrame<'_>, around: &mut Around<'_>) -> Result<(), Fault> {
        match self.stage {
            Stage::Echo(_) => self.echoed(frame.payload, around),
            Stage::Head | Stage::WebSocket | Stage::Stream(_) | Stage::Polling => {
                match frame.compressed {
                    true => around.checker.compressed_item(&mut self.ledger, frame.payload, around.now),
                    false => _ = around.checker.item(&mut self.ledger, frame.payload, around.now),
                }
                self.ready = self.ledger.is_started();
                Ok(())
            }
        }
    }

    /// Sends the next echo, which was meant for `intended`.
    pub fn send_echo(&mut self, intended: u64, around: &mut Around<'_>) {
        let (Stage::Echo(echo), Doing::Echo { payload_bytes }) = (&mut self.stage, around.request.doing) else { return };
        around.echoes.outstanding += 1;
        let scratch = &mut around.echoes.scratch;
        scratch.clear();
        payload::write(scratch, echo.number, payload_bytes);
        wire::client_frame(around.out, Opcode::Text, scratch);
        echo.number += 1;
        echo.intended.push_back(intended);
    }

    fn echoed(&mut self, received: &[u8], around: &mut Around<'_>) -> Result<(), Fault> {
        let (Stage::Echo(echo), Doing::Echo { payload_bytes }) = (&mut self.stage, around.request.doing) else {
            return Ok(());
        };
        let expected = echo.number - echo.intended.len() as u64;
        let intended = echo.intended.pop_front().ok_or(Fault::Echo)?;
        if payload::verify(received, payload_bytes, &mut around.echoes.scratch) != Some(expected) {
            return Err(Fault::Echo);
        }
        around.echoes.count += 1;
        around.echoes.outstanding -= 1;
        around.echoes.round_trip.saturating_record(around.now.saturating_sub(intended).max(1));
        if around.echoes.again {
            self.send_echo(around.now, around);
        }
        Ok(())
    }

    fn stream(&mut self, around: &mut Around<'_>) -> Result<(), Fault> {
        let Stage::Stream(stream) = &mut self.stage else { return Ok(()) };
        let end: &[u8] = match stream.kind {
            StreamKind::Events => b"\n\n",
            StreamKind::Lines => b"\n",
        };
        let mut used = 0;
        while let Some(length) = memchr::memmem::find(&stream.text[used..], end) {
            let unit = &stream.text[used..used + length];
            match stream.kind {
                StreamKind::Events => event(unit, &mut self.ledger, around)?,
                StreamKind::Lines if unit == b"{}" => {}
                StreamKind::Lines => _ = around.checker.item(&mut self.ledger, unit, around.now),
            }
            used += length + end.len();
        }
        stream.text.drain(..used);
        self.ready = self.ledger.is_started();
        match () {
            () if stream.chunks.as_ref().is_some_and(Chunks::ended) => Err(Fault::Ended),
            () if stream.text.len() > STREAM_UNIT_BYTES_MAX => Err(WireError::TooLarge { bytes: stream.text.len() as u64 }.into()),
            () => Ok(()),
        }
    }

    fn poll(&mut self, bytes: &[u8], around: &mut Around<'_>) -> Result<Option<usize>, Fault> {
        let Some((head, body)) = wire::response(bytes)? else { return Ok(None) };
        if head.status != 200 {
            return Err(Fault::Refused { status: head.status });
        }
        let end = body.end;
        if around.request.dialect == Dialect::Nchan {
            around.checker.item(&mut self.ledger, &bytes[body], around.now);
            dialect::write_next_poll(around.request, around.out, &bytes[..head.head_bytes]);
            return Ok(Some(end));
        }
        let body: PollBody<'_> = serde_json::from_slice(&bytes[body]).map_err(|_| Fault::Body)?;
        if !self.ready {
            self.ledger.start(around.checker.token(&self.ledger, body.position).ok_or(Fault::Body)?);
            self.ready = true;
        }
        for item in body.messages {
            around.checker.item(&mut self.ledger, item.get().as_bytes(), around.now);
        }
        around.checker.poll_position(&self.ledger, body.position);
        around.request.write_poll(around.out, body.position);
        Ok(Some(end))
    }
}

/// The delay in a close frame's reason, which ends in `retry in N ms`.
fn told_millis(close: &[u8]) -> Option<u64> {
    let reason = std::str::from_utf8(close.get(2..)?).ok()?;
    reason.rsplit_once("retry in ")?.1.strip_suffix(" ms")?.parse().ok()
}

fn retry_after_millis(head: &[u8]) -> Option<u64> {
    Some(wire::header(head, "retry-after")?.parse::<u64>().ok()?.saturating_mul(1000))
}

/// One event: its data is an item, unless it only sets the position (the first one of a stream does).
fn event(lines: &[u8], ledger: &mut Ledger, around: &mut Around<'_>) -> Result<(), Fault> {
    let (mut id, mut data, mut kind) = (None, None, None);
    for line in lines.split(|&byte| byte == b'\n') {
        if let Some(value) = line.strip_prefix(b"data: ") {
            data = Some(value);
        } else if let Some(value) = line.strip_prefix(b"id: ") {
            id = Some(value);
        } else if let Some(value) = line.strip_prefix(b"event: ") {
            kind = Some(value);
        }
    }
    if kind.is_some_and(|kind| [&b"gap"[..], b"end"].contains(&kind)) {
        around.checker.admitted(ledger);
        return Ok(());
    }
    match (data, id) {
        (Some(item), id) if around.request.dialect.tells_position() => around.checker.event(ledger, id, item, around.now),
        (Some(item), _) => _ = around.checker.item(ledger, item, around.now),
        (None, Some(id)) if !ledger.is_started() => {
            let token = std::str::from_utf8(id).ok().and_then(|id| around.checker.token(ledger, id));
            ledger.start(token.ok_or(Fault::Body)?);
        }
        (None, _) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::checker::Tally;

    const BYTES: usize = 48;

    fn request(doing: Doing) -> Request {
        Request {
            path: "/channels/news".to_owned(),
            channels: None,
            deflate: false,
            host: "h".to_owned(),
            authorization: Some("k".to_owned()),
            doing,
            dialect: Dialect::Ringmain,
        }
    }

    fn item(number: u64) -> Vec<u8> {
        let mut item = format!("{{\"channel\":\"news\",\"position\":\"E:{}\",\"data\":", number + 8).into_bytes();
        payload::write(&mut item, number, BYTES);
        item.push(b'}');
        item
    }

    fn text_frame(payload: &[u8]) -> Vec<u8> {
        assert!((126..65_536).contains(&payload.len()) || payload.len() < 126);
        let mut frame = vec![0x81];
        if payload.len() < 126 {
            frame.push(payload.len() as u8);
        } else {
            frame.push(126);
            frame.extend((payload.len() as u16).to_be_bytes());
        }
        frame.extend(payload);
        frame
    }

    /// Feeds `wire` in every step size; returns what each run ended with, the tally and what was sent.
    #[track_caller]
    fn check(doing: Doing, wire: &[u8], result: Result<(), Fault>, tally: Tally) -> Vec<u8> {
        let mut sent = Vec::new();
        for step in 1..=wire.len() {
            let (request, mut checker, mut echoes) = (request(doing), Checker::new("news", BYTES), Echoes::new());
            (0..3).for_each(|_| _ = checker.intend(0));
            let (mut session, mut carry, mut out) = (Session::new(1, Ledger::default()), Vec::new(), Vec::new());
            let mut got = Ok(());
            for bytes in wire.chunks(step) {
                carry.extend(bytes);
                let mut around = Around { request: &request, checker: &mut checker, echoes: &mut echoes, now: 1, out: &mut out };
                match session.read(&carry, &mut around) {
                    Ok(used) => drop(carry.drain(..used)),
                    Err(fault) => {
                        got = Err(fault);
                        break;
                    }
                }
            }
            assert_eq!((got, checker.tally), (result, tally), "split every {step} bytes");
            assert!(session.is_ready());
            sent = out;
        }
        sent
    }

    const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    const SOUND: Tally = Tally { deliveries: 3, repeated: 0, disordered: 0, corrupt: 0, gaps: 0 };

    #[test]
    fn a_web_socket_is_checked_and_answers_pings() {
        let mut wire = UPGRADED.as_bytes().to_vec();
        wire.extend(text_frame(br#"{"subscribed":{"channel":"news","position":"E:7","recovered":true}}"#));
        wire.extend(text_frame(&item(0)));
        wire.extend([0x89, 2, b'h', b'i']);
        wire.extend(text_frame(&item(1)));
        wire.extend(text_frame(&item(2)));
        let sent = check(Doing::Subscribe(Transport::Ws), &wire, Ok(()), SOUND);
        assert_eq!(sent[..2], [0x8a, 0x82]);
        wire.extend([0x88, 2, 0x0b, 0xc0]);
        check(Doing::Subscribe(Transport::Ws), &wire, Err(Fault::Closed { code: 3008 }), SOUND);
    }

    /// A response that has not ended, in chunks that end anywhere.
    fn chunked(body: &[u8]) -> Vec<u8> {
        let mut wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for part in body.chunks(100) {
            wire.extend(format!("{:x}\r\n", part.len()).into_bytes());
            wire.extend(part);
            wire.extend(b"\r\n");
        }
        wire
    }

    #[test]
    fn a_stream_of_lines_is_checked() {
        let mut body = b"{\"subscribed\":{\"channel\":\"news\",\"position\":\"E:7\",\"recovered\":true}}\n{}\n".to_vec();
        for number in 0..3 {
            body.extend(item(number));
            body.push(b'\n');
        }
        let mut wire = chunked(&body);
        check(Doing::Subscribe(Transport::Ndjson), &wire, Ok(()), SOUND);
        wire.extend(b"0\r\n\r\n");
        check(Doing::Subscribe(Transport::Ndjson), &wire, Err(Fault::Ended), SOUND);
    }

    #[test]
    fn an_event_stream_is_checked() {
        let mut body = b"retry: 2417\nid: E:7\n\n:\n\n".to_vec();
        for number in 0..3 {
            body.extend(format!("id: E:{}\ndata: ", number + 8).into_bytes());
            body.extend(item(number));
            body.extend(b"\n\n");
        }
        let mut wire = chunked(&body);
        check(Doing::Subscribe(Transport::Sse), &wire, Ok(()), SOUND);
        let gap = "id: E:11\nevent: gap\ndata: {\"channel\":\"news\",\"after\":\"E:10\",\"next\":\"E:12\"}\n\n";
        wire.extend(format!("{:x}\r\n{gap}\r\n", gap.len()).into_bytes());
        check(Doing::Subscribe(Transport::Sse), &wire, Ok(()), Tally { gaps: 1, ..SOUND });
        wire.extend(b"0\r\n\r\n");
        check(Doing::Subscribe(Transport::Sse), &wire, Err(Fault::Ended), Tally { gaps: 1, ..SOUND });
    }

    #[test]
    fn polls_follow_each_other() {
        let mut wire = Vec::new();
        for (messages, position) in [(vec![], 7), (vec![item(0), item(1)], 9), (vec![item(2)], 10)] {
            let body = format!(
                "{{\"messages\":[{}],\"position\":\"E:{position}\"}}",
                messages.iter().map(|item| String::from_utf8_lossy(item).into_owned()).collect::<Vec<_>>().join(",")
            );
            wire.extend(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes());
        }
        let sent = String::from_utf8(check(Doing::Subscribe(Transport::Poll), &wire, Ok(()), SOUND)).expect("text");
        let sinces: Vec<_> = sent.lines().filter(|line| line.starts_with("GET")).collect();
        assert_eq!(
            sinces,
            ["E:7", "E:9", "E:10"].map(|since| format!("GET /channels/news?via=poll&wait=30&since={since} HTTP/1.1"))
        );
    }

    /// Two echoes are sent, meant for 3 and 5; these numbers come back at 9.
    #[track_caller]
    fn check_echo(numbers: &[u64], result: Result<(), Fault>, outstanding: u64) {
        let request = request(Doing::Echo { payload_bytes: BYTES });
        let (mut checker, mut echoes, mut out) = (Checker::new("news", BYTES), Echoes::new(), Vec::new());
        let mut around = Around { request: &request, checker: &mut checker, echoes: &mut echoes, now: 9, out: &mut out };
        let mut session = Session::new(1, Ledger::default());
        assert_eq!(session.read(UPGRADED.as_bytes(), &mut around), Ok(UPGRADED.len()));
        session.send_echo(3, &mut around);
        session.send_echo(5, &mut around);
        let wire = numbers.iter().flat_map(|&number| {
            let mut payload = Vec::new();
            payload::write(&mut payload, number, BYTES);
            text_frame(&payload)
        });
        assert_eq!(session.read(&wire.collect::<Vec<_>>(), &mut around).map(drop), result, "{numbers:?}");
        assert_eq!(echoes.outstanding, outstanding, "{numbers:?}");
        if outstanding == 0 {
            assert_eq!((echoes.round_trip.min(), echoes.round_trip.max()), (4, 6), "from the intended times");
        }
    }

    #[test]
    fn echoes_come_back_once_and_in_order() {
        let first = 1 << 32;
        check_echo(&[first, first + 1], Ok(()), 0);
        check_echo(&[first], Ok(()), 1);
        check_echo(&[first + 1], Err(Fault::Echo), 2);
        check_echo(&[first, first], Err(Fault::Echo), 1);
        check_echo(&[first, first + 1, first + 2], Err(Fault::Echo), 0);
    }

    #[test]
    fn compression_must_be_granted_before_messages_may_be_compressed() {
        let head = |extensions: &str| UPGRADED.replace("\r\n\r\n", &format!("\r\n{extensions}\r\n"));
        let granted = head("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n");
        let hello = deflate::compressed(br#"{"subscribed":{"channel":"news","position":"E:7","recovered":true}}"#, 6);
        let frame = [&[0xc1, hello.len() as u8], &hello[..]].concat();
        let read = |deflate, head: &str| {
            let request = Request { deflate, ..request(Doing::Subscribe(Transport::Ws)) };
            let (mut checker, mut echoes, mut out) = (Checker::new("news", BYTES), Echoes::new(), Vec::new());
            let mut around = Around { request: &request, checker: &mut checker, echoes: &mut echoes, now: 1, out: &mut out };
            let mut session = Session::new(0, Ledger::default());
            session.open(0, &mut around);
            let offered = String::from_utf8_lossy(around.out).contains("permessage-deflate; client_max_window_bits\r\n");
            assert_eq!(offered, deflate);
            session.read(&[head.as_bytes(), &frame].concat(), &mut around).map(|_| session.is_ready())
        };
        assert_eq!(read(true, &granted), Ok(true));
        assert_eq!(read(false, &granted), Err(Fault::Wire(WireError::ReservedBits)));
        assert_eq!(read(true, &head("")), Err(Fault::Deflate(deflate::Refusal::Declined)));
        let taking_over = head("Sec-WebSocket-Extensions: permessage-deflate\r\n");
        assert_eq!(read(true, &taking_over), Err(Fault::Deflate(deflate::Refusal::ContextTakeover)));
    }

    #[test]
    fn an_overloaded_server_says_when_to_come_back() {
        for (reason, millis) in [("overload, retry in 2417 ms", 2417), ("overload", 1000), ("retry in a while", 1000)] {
            let (request, mut checker, mut echoes) =
                (request(Doing::Subscribe(Transport::Ws)), Checker::new("news", BYTES), Echoes::new());
            let mut around = Around { request: &request, checker: &mut checker, echoes: &mut echoes, now: 1, out: &mut Vec::new() };
            let close = [&[0x88, 2 + reason.len() as u8, 0x03, 0xf5], reason.as_bytes()].concat();
            let read = Session::new(0, Ledger::default()).read(&[UPGRADED.as_bytes(), &close].concat(), &mut around);
            assert_eq!(read, Err(Fault::ComeBack { millis }), "{reason}");
        }
    }

    #[test]
    fn who_comes_back_says_where_it_was() {
        let (request, mut checker, mut echoes) =
            (request(Doing::Subscribe(Transport::Ws)), Checker::new("news", BYTES), Echoes::new());
        let mut ledger = Ledger::default();
        checker.item(&mut ledger, br#"{"subscribed":{"channel":"news","position":"E:7","recovered":true}}"#, 0);
        checker.returns(&mut ledger);
        let mut out = Vec::new();
        let mut around = Around { request: &request, checker: &mut checker, echoes: &mut echoes, now: 1, out: &mut out };
        let mut session = Session::new(0, ledger);
        session.open(0, &mut around);
        session.read(UPGRADED.as_bytes(), &mut around).expect("an upgrade");
        assert!(!session.is_ready(), "not before it is told");
        let hello = text_frame(br#"{"subscribed":{"channel":"news","position":"E:7","recovered":true}}"#);
        session.read(&hello, &mut around).expect("a hello");
        assert!(session.is_ready());
        assert!(out.starts_with(b"GET /channels/news?since=E:7 HTTP/1.1\r\n"));
    }

    #[test]
    fn a_refusal_is_a_fault() {
        let (request, mut checker, mut echoes) =
            (request(Doing::Subscribe(Transport::Ws)), Checker::new("news", BYTES), Echoes::new());
        for (wire, fault) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\n", Fault::Refused { status: 403 }),
            ("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\n\r\n", Fault::ComeBack { millis: 3000 }),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Fault::ComeBack { millis: 1000 }),
            ("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: no\r\n\r\n", Fault::Accept),
        ] {
            let mut around = Around { request: &request, checker: &mut checker, echoes: &mut echoes, now: 1, out: &mut Vec::new() };
            assert_eq!(Session::new(0, Ledger::default()).read(wire.as_bytes(), &mut around), Err(fault));
        }
    }
}
