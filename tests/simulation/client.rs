//! One client: what it asked for, what it has read, and whether that makes sense.

use std::collections::VecDeque;

use ringmain::base::ConnId;
use ringmain::ws;
use ringmain::ws::{Decoder, Event, Opcode, Role, Scratch};
use serde_json::Value;

use crate::model::{Model, split};

/// How a client listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    WebSocket,
    EventStream,
    NdJson,
    Poll,
}

/// What a channel's policy allows to be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// Everything, or a gap.
    Stream,
    /// The latest value; others may be skipped.
    State,
}

pub struct Client {
    pub way: Way,
    pub channel: String,
    pub promise: Promise,
    /// Where it is now, if connected.
    pub at: Option<(usize, ConnId)>,
    /// Bytes the fake socket still takes.
    pub room: usize,
    pub blocked: bool,
    pub stalled: bool,
    /// Position of the last item read.
    pub last: Option<String>,
    wire: Vec<u8>,
    head_read: bool,
    chunked: bool,
    decoder: Decoder,
    /// Publications this client has asked for over its WebSocket: id and number.
    pub asked: VecDeque<(u64, u64)>,
}

impl Client {
    pub fn new(way: Way, channel: String) -> Self {
        let promise = if channel.starts_with("state:") { Promise::State } else { Promise::Stream };
        Self {
            way,
            channel,
            promise,
            at: None,
            room: 0,
            blocked: false,
            stalled: false,
            last: None,
            wire: Vec::new(),
            head_read: false,
            chunked: false,
            decoder: Decoder::new(Role::Client, false),
            asked: VecDeque::new(),
        }
    }

    /// The request that opens (or resumes) the subscription.
    pub fn request(&self) -> Vec<u8> {
        let since = self.last.as_ref().map_or_else(String::new, |last| format!("&since={last}"));
        let via = match self.way {
            Way::WebSocket => "format=json",
            Way::EventStream => "via=sse&format=json",
            Way::NdJson => "via=stream",
            Way::Poll => "via=poll&wait=20",
        };
        let upgrade = match self.way {
            Way::WebSocket => {
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            }
            Way::EventStream | Way::NdJson | Way::Poll => "",
        };
        format!("GET /channels/{}?{via}{since} HTTP/1.1\r\nHost: h\r\n{upgrade}\r\n", self.channel.replace(':', "%3A")).into_bytes()
    }

    pub fn connected(&mut self, at: (usize, ConnId), room: usize) {
        self.at = Some(at);
        self.room = room;
        self.forget_wire();
    }

    pub fn disconnected(&mut self) {
        self.at = None;
        self.asked.clear();
        self.forget_wire();
    }

    fn forget_wire(&mut self) {
        self.wire.clear();
        self.head_read = false;
        self.blocked = false;
        self.stalled = false;
        self.decoder = Decoder::new(Role::Client, false);
    }

    /// Takes bytes off the wire and judges every item in them. `true`: a poll has been answered.
    pub fn read(&mut self, bytes: &[u8], model: &mut Model) -> Result<bool, String> {
        self.wire.extend_from_slice(bytes);
        if !self.head_read && !self.read_head()? {
            return Ok(false);
        }
        match self.way {
            Way::WebSocket => self.read_frames(model).map(|()| false),
            Way::Poll => self.read_poll(model),
            Way::EventStream | Way::NdJson => self.read_lines(model).map(|()| false),
        }
    }

    fn read_head(&mut self) -> Result<bool, String> {
        let Some(end) = find(&self.wire, b"\r\n\r\n") else { return Ok(false) };
        let head = String::from_utf8_lossy(&self.wire[..end]).into_owned();
        let busy = self.way == Way::Poll && head.starts_with("HTTP/1.1 503");
        if !busy && !head.starts_with("HTTP/1.1 200") && !head.starts_with("HTTP/1.1 101") {
            return Err(format!("unexpected answer {head:?}"));
        }
        self.chunked = head.contains("Transfer-Encoding: chunked");
        if self.way != Way::Poll {
            self.wire.drain(..end + 4);
            self.head_read = true;
        }
        Ok(true)
    }

    fn read_frames(&mut self, model: &mut Model) -> Result<(), String> {
        let mut wire = std::mem::take(&mut self.wire);
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(Role::Client, false));
        let (mut bytes, mut scratch) = (wire.as_mut_slice(), Scratch::default());
        let result = loop {
            match decoder.next(&mut bytes, &mut scratch, &ws::Options::default()) {
                Ok(Some(Event::Text(text))) => {
                    if let Err(error) = self.item(text.as_bytes(), model) {
                        break Err(error);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(format!("torn WebSocket stream: {error}")),
            }
        };
        self.decoder = decoder;
        result
    }

    fn read_lines(&mut self, model: &mut Model) -> Result<(), String> {
        let mut content = Vec::new();
        while let Some((chunk, used)) = next_chunk(&self.wire)? {
            content.extend_from_slice(&chunk);
            self.wire.drain(..used);
        }
        for line in content.split(|byte| *byte == b'\n') {
            let line = line.strip_prefix(b"data: ").unwrap_or(line);
            if line.starts_with(b"{") && line != b"{}" {
                self.item(line, model)?;
            }
        }
        Ok(())
    }

    fn read_poll(&mut self, model: &mut Model) -> Result<bool, String> {
        let Some(end) = find(&self.wire, b"\r\n\r\n") else { return Ok(false) };
        let head = String::from_utf8_lossy(&self.wire[..end]).into_owned();
        let length: usize =
            head.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok()).ok_or("no length")?;
        if self.wire.len() < end + 4 + length {
            return Ok(false);
        }
        let body: Vec<u8> = self.wire.drain(..end + 4 + length).skip(end + 4).collect();
        if head.starts_with("HTTP/1.1 503") {
            return Ok(true);
        }
        let value: Value = serde_json::from_slice(&body).map_err(|error| format!("poll body: {error}"))?;
        for item in value["messages"].as_array().ok_or("no messages")? {
            self.judge(item, model)?;
        }
        let position = value["position"].as_str().ok_or("no position")?;
        match &self.last {
            Some(last) if self.promise == Promise::Stream && last != position => Err(format!("poll says {position} after {last}")),
            _ => {
                self.last = Some(position.to_owned());
                Ok(true)
            }
        }
    }

    fn item(&mut self, text: &[u8], model: &mut Model) -> Result<(), String> {
        let item: Value =
            serde_json::from_slice(text).map_err(|error| format!("{error} in {:?}", String::from_utf8_lossy(text)))?;
        self.judge(&item, model)
    }

    fn judge(&mut self, item: &Value, model: &mut Model) -> Result<(), String> {
        if let Some(subscribed) = item.get("subscribed") {
            let position = subscribed["position"].as_str().ok_or("no position")?;
            return self.subscribed(position, subscribed["recovered"] == true);
        }
        // An event stream carries the gap's object bare.
        if let Some(gap) = item.get("gap").or_else(|| item.get("missed").map(|_| item)) {
            return self.gap(gap);
        }
        if let Some(ok) = item.get("ok") {
            let id = item["id"].as_u64().ok_or("no id")?;
            let at = self.asked.iter().position(|(asked, _)| *asked == id).ok_or("an answer to nothing")?;
            let (_, number) = self.asked.remove(at).ok_or("no request")?;
            return model.witness(&self.channel, ok["position"].as_str().ok_or("no position")?, number);
        }
        if item.get("end").is_some() || item.get("error").is_some() || item.get("code").is_some() {
            return Ok(());
        }
        self.publication(item, model)
    }

    fn subscribed(&mut self, position: &str, recovered: bool) -> Result<(), String> {
        match &self.last {
            Some(last) if recovered && self.promise == Promise::Stream && last != position => {
                Err(format!("recovered at {position}, was at {last}"))
            }
            _ => {
                if self.last.is_none() || recovered || self.promise == Promise::State {
                    self.last = Some(position.to_owned());
                }
                Ok(())
            }
        }
    }

    fn gap(&mut self, gap: &Value) -> Result<(), String> {
        if self.promise == Promise::State {
            return Err("a state channel told of a gap".to_owned());
        }
        let after = gap["after"].as_str();
        if let (Some(after), Some(last)) = (after, &self.last)
            && after != last
        {
            return Err(format!("gap after {after}, but {last} was read last"));
        }
        let (epoch, next) = split(gap["next"].as_str().ok_or("a gap without next")?);
        self.last = Some(format!("{epoch}:{}", next - 1));
        Ok(())
    }

    fn publication(&mut self, item: &Value, model: &mut Model) -> Result<(), String> {
        let position = item["position"].as_str().ok_or_else(|| format!("no position in {item}"))?;
        let number = item["data"]["n"].as_u64().ok_or_else(|| format!("no number in {item}"))?;
        model.witness(&self.channel, position, number)?;
        let (epoch, offset) = split(position);
        let expected = self.last.as_ref().map(|last| format!("{}:{}", split(last).0, split(last).1 + 1));
        let fits = match (&expected, self.promise) {
            (None, _) => true,
            (Some(expected), Promise::Stream) => expected == position,
            (Some(expected), Promise::State) => split(expected).0 != epoch || split(expected).1 <= offset,
        };
        if !fits {
            return Err(format!("{:?} on {}: {position} came, {expected:?} was due", self.way, self.channel));
        }
        self.last = Some(position.to_owned());
        Ok(())
    }
}

/// A masked text message with a publish request.
pub fn publish_frame(id: u64, number: u64, padding: usize) -> Vec<u8> {
    let text = format!("{{\"id\":{id},\"publish\":{{\"data\":{{\"n\":{number},\"pad\":\"{}\"}}}}}}", "x".repeat(padding));
    ws::encode::masked(Opcode::Text, text.as_bytes(), [1, 2, 3, 4])
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// The first whole chunk's content and how many bytes it takes on the wire.
fn next_chunk(wire: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let Some(line) = find(wire, b"\r\n") else { return Ok(None) };
    let size = std::str::from_utf8(&wire[..line]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
    let size = size.ok_or_else(|| format!("torn chunk: {:?}", String::from_utf8_lossy(&wire[..line])))?;
    let used = line + 2 + size + 2;
    if wire.len() < used {
        return Ok(None);
    }
    if &wire[used - 2..used] != b"\r\n" {
        return Err("a chunk does not end where it says".to_owned());
    }
    Ok(Some((wire[line + 2..used - 2].to_vec(), used)))
}
