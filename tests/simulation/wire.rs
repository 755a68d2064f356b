//! Bytes off the wire become what they say, by each transport's own rules.

use ringmain::ws::{self, Decoder, Event, Role, Scratch};
use serde_json::Value;

use crate::verdict::{Breach, Judged, condemn};

/// How a client listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    WebSocket,
    EventStream,
    NdJson,
    Poll,
}

/// One thing that a client has been told.
#[derive(Clone, PartialEq, Debug)]
pub enum Heard {
    /// The status of a response that has no length (or of an upgrade).
    Open(u16),
    /// An item of the JSON grammar: a message, a line.
    Item(Value),
    /// An event of an event stream, with the last id seen before its end.
    Event {
        id: Option<String>,
        name: String,
        text: String,
    },
    /// A block without data: only the id (and the delay) counts.
    Id {
        id: Option<String>,
        retry: Option<u64>,
    },
    /// A message of a raw WebSocket.
    Message {
        binary: bool,
        bytes: Vec<u8>,
    },
    Ping(Vec<u8>),
    Close(u16, String),
    /// A whole response of a poll.
    Response {
        status: u16,
        head: String,
        body: Vec<u8>,
    },
    /// The last chunk: nothing may follow.
    End,
}

/// One connection's stream of bytes.
pub struct Reader {
    way: Way,
    raw: bool,
    wire: Vec<u8>,
    head_read: bool,
    ended: bool,
    decoder: Decoder,
    content: Vec<u8>,
    block: Block,
}

/// An event being read (WHATWG HTML, 9.2.6).
#[derive(Default)]
struct Block {
    id: Option<String>,
    id_set: bool,
    name: String,
    data: String,
    has_data: bool,
    retry: Option<u64>,
}

impl Reader {
    pub fn new(way: Way, raw: bool, deflate: bool) -> Self {
        Self {
            way,
            raw,
            wire: Vec::new(),
            head_read: false,
            ended: false,
            decoder: Decoder::new(Role::Client, deflate),
            content: Vec::new(),
            block: Block::default(),
        }
    }

    /// What the bytes add.
    pub fn read(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Judged<Vec<Heard>> {
        self.wire.extend_from_slice(bytes);
        let mut heard = Vec::new();
        if self.way == Way::Poll {
            while let Some(response) = self.response()? {
                heard.push(response);
            }
            return Ok(heard);
        }
        if !self.head_read {
            let Some(end) = find(&self.wire, b"\r\n\r\n") else { return Ok(heard) };
            let head = String::from_utf8_lossy(&self.wire[..end]).into_owned();
            self.wire.drain(..end + 4);
            self.head_read = true;
            heard.push(Heard::Open(status(&head)?));
            if self.way != Way::WebSocket && !head.contains("Transfer-Encoding: chunked") {
                return condemn(Breach::Torn, format!("not a stream: {head}"));
            }
        }
        match self.way {
            Way::WebSocket => self.frames(scratch, &mut heard)?,
            Way::EventStream | Way::NdJson | Way::Poll => self.chunks(&mut heard)?,
        }
        Ok(heard)
    }

    fn response(&mut self) -> Judged<Option<Heard>> {
        let Some((status, head, body)) = take_response(&mut self.wire)? else { return Ok(None) };
        Ok(Some(Heard::Response { status, head, body }))
    }

    fn frames(&mut self, scratch: &mut Scratch, heard: &mut Vec<Heard>) -> Judged {
        let mut wire = std::mem::take(&mut self.wire);
        let mut bytes = wire.as_mut_slice();
        let options = ws::Options { message_bytes_max: 1 << 20, ..ws::Options::default() };
        // The decoder itself reads nothing behind a close frame.
        while !self.ended {
            let event = match self.decoder.next(&mut bytes, scratch, &options) {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                Err(error) => return condemn(Breach::Torn, format!("WebSocket stream: {error}")),
            };
            self.ended = matches!(event, Event::Close { .. });
            heard.push(match event {
                Event::Text(text) if !self.raw => Heard::Item(json(text.as_bytes())?),
                Event::Text(text) => Heard::Message { binary: false, bytes: text.as_bytes().to_vec() },
                Event::Binary(bytes) => Heard::Message { binary: true, bytes: bytes.to_vec() },
                Event::Ping(payload) => Heard::Ping(payload.to_vec()),
                Event::Pong(_) => continue,
                Event::Close { code, reason } => Heard::Close(code.map_or(1005, ws::CloseCode::number), reason.to_owned()),
            });
        }
        if bytes.is_empty() { Ok(()) } else { condemn(Breach::Torn, "a frame behind the close frame") }
    }

    fn chunks(&mut self, heard: &mut Vec<Heard>) -> Judged {
        while let Some((chunk, used)) = next_chunk(&self.wire)? {
            if self.ended {
                return condemn(Breach::Torn, "a chunk behind the last");
            }
            self.content.extend_from_slice(&self.wire[chunk.clone()]);
            self.wire.drain(..used);
            if chunk.is_empty() {
                self.ended = true;
                heard.push(Heard::End);
                continue;
            }
            self.lines(heard)?;
        }
        Ok(())
    }

    fn lines(&mut self, heard: &mut Vec<Heard>) -> Judged {
        let content = std::mem::take(&mut self.content);
        let mut rest = content.as_slice();
        // What is sent ends its lines by LF alone; a CR would be the payload's, and is to have been replaced.
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = std::str::from_utf8(&rest[..end]).map_err(|_| ()).or_else(|()| condemn(Breach::Torn, "not UTF-8"))?;
            rest = &rest[end + 1..];
            match self.way {
                Way::EventStream if line.contains('\r') => return condemn(Breach::Torn, "a carriage return in an event stream"),
                Way::EventStream => heard.extend(self.block.line(line)),
                Way::NdJson | Way::WebSocket | Way::Poll if line == "{}" => {}
                Way::NdJson | Way::WebSocket | Way::Poll => heard.push(Heard::Item(json(line.as_bytes())?)),
            }
        }
        self.content = rest.to_vec();
        Ok(())
    }
}

impl Block {
    /// One line of an event stream; the blank one ends a block.
    fn line(&mut self, line: &str) -> Option<Heard> {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" if !value.contains('\0') => (self.id, self.id_set) = (Some(value.to_owned()), true),
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
                self.has_data = true;
            }
            "retry" => self.retry = value.parse().ok(),
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Heard> {
        let (name, mut text) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
        let id_set = std::mem::take(&mut self.id_set);
        let retry = self.retry.take();
        if !std::mem::take(&mut self.has_data) {
            return (id_set || retry.is_some()).then(|| Heard::Id { id: self.id.clone().filter(|_| id_set), retry });
        }
        text.pop();
        Some(Heard::Event { id: self.id.clone().filter(|_| id_set), name, text })
    }
}

/// The first whole response with a length, taken off the wire.
pub fn take_response(wire: &mut Vec<u8>) -> Judged<Option<(u16, String, Vec<u8>)>> {
    let Some(end) = find(wire, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&wire[..end]).into_owned();
    let status = status(&head)?;
    let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let length: usize = match length {
        Some(length) => length,
        None if status == 304 || status == 204 => 0,
        None => return condemn(Breach::Torn, format!("a response without a length: {head}")),
    };
    if wire.len() < end + 4 + length {
        return Ok(None);
    }
    let body = wire.drain(..end + 4 + length).skip(end + 4).collect();
    Ok(Some((status, head, body)))
}

fn status(head: &str) -> Judged<u16> {
    match head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()) {
        Some(status) => Ok(status),
        None => condemn(Breach::Torn, format!("not a response: {head:?}")),
    }
}

pub fn json(text: &[u8]) -> Judged<Value> {
    serde_json::from_slice(text)
        .or_else(|error| condemn(Breach::Torn, format!("{error} in {:?}", String::from_utf8_lossy(&text[..text.len().min(300)]))))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Where the first whole chunk's content is, and how many bytes it takes on the wire.
fn next_chunk(wire: &[u8]) -> Judged<Option<(std::ops::Range<usize>, usize)>> {
    let Some(line) = find(&wire[..wire.len().min(20)], b"\r\n") else {
        return if wire.len() < 20 { Ok(None) } else { condemn(Breach::Torn, "no chunk") };
    };
    let size = std::str::from_utf8(&wire[..line]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
    let Some(size) = size else {
        return condemn(Breach::Torn, format!("no chunk: {:?}", String::from_utf8_lossy(&wire[..line])));
    };
    let used = line + 2 + size + 2;
    if wire.len() < used {
        return Ok(None);
    }
    if &wire[used - 2..used] != b"\r\n" {
        return condemn(Breach::Torn, "a chunk does not end where it says");
    }
    Ok(Some((line + 2..line + 2 + size, used)))
}
