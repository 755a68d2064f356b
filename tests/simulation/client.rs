//! One subscriber: what it asks for, what it has read, and whether that makes sense.

use std::collections::VecDeque;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringmain::base::{ConnId, Nanos, Random, StreamPosition};
use ringmain::hub::token::{self, Token};
use ringmain::hub::{ChannelName, PayloadKind, Start};
use ringmain::ws::{self, Opcode, Scratch};
use serde_json::Value;

use crate::settings::{CHANNELS, SPREAD_MAX};
use crate::track::{Excuses, FOREIGN, Presented, Track, position};
use crate::truth::{Claim, Content, First, Truth};
use crate::verdict::{Breach, Judged, condemn, demand};
use crate::wire::{Heard, Reader, Way, json};

/// What a client wants; the same for all its connections, as an EventSource's URL is.
#[derive(Clone, Debug)]
pub struct Wish {
    pub way: Way,
    pub channels: Vec<usize>,
    pub raw: bool,
    pub deflate: bool,
    pub first: First,
    /// A poll that shows its position as a tag.
    pub tagged: bool,
}

/// A publication asked for over the client's own WebSocket.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub number: u64,
    pub channel: usize,
    pub at: Nanos,
}

/// What a client does about what it has heard.
#[derive(Debug)]
pub enum Reaction {
    /// Bytes to send.
    Say(Vec<u8>),
    /// The next poll.
    PollAgain,
    Count(String),
}

/// What only the world knows.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    pub now: Nanos,
    pub draining: bool,
    /// Few may come in at once.
    pub limited: bool,
    /// When publishing towards some home was last congested on this worker.
    pub congested_at: Nanos,
    /// When deliveries to this worker last collapsed, by channel.
    pub collapsed_at: [Nanos; CHANNELS.len()],
}

pub struct Client {
    pub wish: Wish,
    pub tracks: Vec<Track>,
    /// Where it is now, if connected.
    pub at: Option<(usize, ConnId)>,
    /// Bytes the fake socket still takes.
    pub room: usize,
    /// The socket has refused and not said that there is room again.
    pub blocked: bool,
    /// It has refused since the connection was made.
    pub slow: bool,
    pub half_closed: bool,
    /// What the server has said about the end: an `end` item, a close frame.
    pub told_end: Option<u16>,
    pub asked: VecDeque<Asked>,
    pub asked_at: Nanos,
    /// It was told not to come before.
    pub back_at: Nanos,
    /// A poll has been answered on this connection.
    polled: bool,
    last_event_id: Option<String>,
    reader: Reader,
    /// What a raw WebSocket's connection has read.
    run: Vec<u64>,
}

impl Client {
    pub fn new(wish: Wish, truth: &Truth) -> Self {
        Self {
            tracks: wish.channels.iter().map(|&channel| Track::new(channel, truth)).collect(),
            reader: Reader::new(wish.way, wish.raw, wish.deflate),
            wish,
            at: None,
            room: 0,
            blocked: false,
            slow: false,
            half_closed: false,
            told_end: None,
            asked: VecDeque::new(),
            asked_at: Nanos(0),
            back_at: Nanos(0),
            polled: false,
            last_event_id: None,
            run: Vec::new(),
        }
    }

    /// A raw WebSocket gets no positions, so each of its connections is a new beginning.
    pub fn is_blind(&self) -> bool {
        self.wish.raw && self.wish.way == Way::WebSocket
    }

    /// Of a conflating channel whose reader has got all that waited, the newest publication of each key must have come. Returns how
    /// many keys show it. With several channels the queue has to serve them all, and then the bound goes before the keys.
    pub fn kept_newest(&mut self, truth: &Truth) -> Judged<u64> {
        let [track] = self.tracks.as_mut_slice() else { return Ok(0) };
        if self.at.is_none() || self.blocked || self.told_end.is_some() { Ok(0) } else { track.kept_newest(truth) }
    }

    pub fn connected(&mut self, at: (usize, ConnId), room: usize) {
        self.at = Some(at);
        self.room = room;
        (self.blocked, self.slow, self.half_closed, self.told_end) = (false, false, false, None);
        self.polled = false;
        self.reader = Reader::new(self.wish.way, self.wish.raw, self.wish.deflate);
    }

    pub fn disconnected(&mut self, now: Nanos, truth: &mut Truth, whole: bool) {
        self.at = None;
        self.asked.clear();
        self.tracks.iter_mut().for_each(|track| track.leave(now, self.slow));
        if self.is_blind() {
            truth.claim(Claim::Run { channel: self.wish.channels[0], numbers: std::mem::take(&mut self.run), whole });
        }
    }

    // ---- asking ----

    /// The request that opens or resumes the subscription, or polls again.
    pub fn request(&mut self, random: &mut Random, bad_token: f64, now: Nanos, patient: bool) -> Judged<Vec<u8>> {
        self.asked_at = now;
        let mut query: Vec<String> = self.wish.channels.iter().map(|&channel| format!("channel={}", escaped(channel))).collect();
        let (mut path, mut fields) = ("/channels".to_owned(), String::new());
        if query.len() == 1 {
            path = format!("/channels/{}", escaped(self.wish.channels[0]));
            query.clear();
        }
        query.push(match (self.wish.way, self.wish.raw) {
            (Way::WebSocket, false) => "format=json".to_owned(),
            (Way::WebSocket, true) => "format=raw".to_owned(),
            (Way::EventStream, false) => "via=sse&format=json".to_owned(),
            (Way::EventStream, true) => "via=sse".to_owned(),
            (Way::NdJson, _) => "via=stream".to_owned(),
            (Way::Poll, _) if patient => "via=poll&wait=55".to_owned(),
            (Way::Poll, _) => format!("via=poll&wait={}", [0, 20, 55][usize::try_from(random.between(0, 2)).unwrap_or(0)]),
        });
        if self.wish.way == Way::WebSocket {
            fields.push_str("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
            fields.push_str("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
            if self.wish.deflate {
                fields.push_str("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n");
            }
        }
        let bad = random.chance(bad_token) && self.tracks.iter().all(|track| track.last.is_some()) && !self.is_blind();
        let token = if bad { self.bad_token(random)? } else { self.own_token()? };
        let first = match self.wish.first {
            First::Now => None,
            First::Beginning => Some("since=start".to_owned()),
            First::Newest(count) => Some(format!("history={count}")),
        };
        match (token, self.wish.way) {
            (Some(token), Way::EventStream) => {
                // As a browser does: the same URL again, and the last id beside it.
                query.extend(first);
                fields.push_str(&format!("Last-Event-ID: {token}\r\n"));
            }
            (Some(token), Way::Poll) if self.wish.tagged => fields.push_str(&format!("If-None-Match: W/\"{token}\"\r\n")),
            (Some(token), _) => query.push(format!("since={token}")),
            (None, _) => query.extend(first),
        }
        Ok(format!("GET {path}?{} HTTP/1.1\r\nHost: h\r\n{fields}\r\n", query.join("&")).into_bytes())
    }

    /// The token that this client would show, and what that means for each channel.
    fn own_token(&mut self) -> Judged<Option<String>> {
        let first = self.wish.first;
        let token = match self.wish.way {
            _ if self.is_blind() => None,
            Way::EventStream => self.last_event_id.clone(),
            Way::WebSocket | Way::NdJson | Way::Poll if self.tracks.iter().all(|track| track.last.is_none()) => None,
            Way::WebSocket | Way::NdJson | Way::Poll => {
                let positions: Vec<_> = self.tracks.iter().map(|track| (name_of(track.channel), track.last)).collect();
                Some(token::write(&positions))
            }
        };
        let Some(token) = token else {
            self.tracks.iter_mut().for_each(|track| track.last = None);
            self.tracks.iter_mut().try_for_each(|track| track.ask(Presented::Fresh(first)))?;
            return Ok(None);
        };
        for track in &mut self.tracks {
            match in_token(&token, track.channel)? {
                Some(position) => track.ask(Presented::Own(position))?,
                None => {
                    // Whoever writes its own token leaves out what it knows nothing of; an id covers all channels.
                    let own = self.wish.way != Way::EventStream && track.last.is_none();
                    demand(own, Breach::WrongToken, || format!("{}: {:?} is not in {token}", track.name(), track.last))?;
                    track.ask(Presented::Fresh(First::Now))?;
                }
            }
        }
        Ok(Some(token))
    }

    /// A token that nobody gave to this client.
    fn bad_token(&mut self, random: &mut Random) -> Judged<Option<String>> {
        let several = self.tracks.len() > 1;
        let by_header = self.wish.way == Way::EventStream || (self.wish.way == Way::Poll && self.wish.tagged);
        let (token, presented) = match random.between(0, 2) {
            0 if by_header => ("?!".to_owned(), Presented::Unreadable),
            1 if by_header || !several => {
                let presented = if several { Presented::Unreadable } else { Presented::Foreign };
                (FOREIGN.to_owned(), presented)
            }
            _ => {
                let ahead = |last: Option<StreamPosition>| last.map(|last| StreamPosition { offset: last.offset + 1000, ..last });
                let positions: Vec<_> = self.tracks.iter().map(|track| (name_of(track.channel), ahead(track.last))).collect();
                for track in &mut self.tracks {
                    let Some(position) = ahead(track.last) else { return condemn(Breach::Contract, "no position to be ahead of") };
                    track.ask(Presented::Ahead(position))?;
                }
                return Ok(Some(token::write(&positions)));
            }
        };
        self.tracks.iter_mut().try_for_each(|track| track.ask(presented))?;
        Ok(Some(token))
    }

    // ---- hearing ----

    /// Takes bytes off the wire and judges everything in them.
    pub fn read(&mut self, bytes: &[u8], scratch: &mut Scratch, around: &Surroundings, truth: &mut Truth) -> Judged<Vec<Reaction>> {
        let heard = self.reader.read(bytes, scratch)?;
        let mut reactions = Vec::new();
        let mut publications = 0;
        for heard in heard {
            publications += u64::from(self.hear(heard, around, truth, &mut reactions)?);
        }
        if publications > 1 {
            let window = matches!(self.wish.channels[..], [channel] if CHANNELS[channel].starts_with("window"));
            reactions.push(Reaction::Count(if window { "window run of several" } else { "run of several" }.to_owned()));
        }
        for event in self.tracks.iter_mut().flat_map(|track| track.events.drain(..)) {
            reactions.push(Reaction::Count(event));
        }
        Ok(reactions)
    }

    /// Judges one thing; true for a publication.
    fn hear(&mut self, heard: Heard, around: &Surroundings, truth: &mut Truth, reactions: &mut Vec<Reaction>) -> Judged<bool> {
        demand(self.told_end.is_none() || matches!(heard, Heard::End), Breach::Torn, || format!("{heard:?} behind the end"))?;
        match heard {
            Heard::Open(status) => {
                let expected = if self.wish.way == Way::WebSocket { 101 } else { 200 };
                demand(status == expected, Breach::Refused, || format!("{:?} answered by {status}", self.wish)).map(|()| false)
            }
            Heard::Item(item) => self.item(&item, around, truth),
            Heard::Event { id, name, text } => self.event(id, &name, &text, around, truth),
            Heard::Id { id, .. } => self.id(id, around, truth).map(|()| false),
            Heard::Message { binary, bytes } => self.message(binary, &bytes, truth).map(|()| true),
            Heard::Ping(payload) => {
                reactions.push(Reaction::Say(ws::encode::masked(Opcode::Pong, &payload, [9, 8, 7, 6])));
                Ok(false)
            }
            Heard::Close(code, reason) => {
                let code_bytes = code.to_be_bytes();
                reactions.push(Reaction::Say(ws::encode::masked(Opcode::Close, &code_bytes, [1, 1, 2, 2])));
                reactions.push(Reaction::Count(format!("close {code}")));
                if matches!(code, 1001 | 1013) {
                    let delay = reason.split_once(", retry in ").and_then(|(_, rest)| rest.strip_suffix(" ms")?.parse().ok());
                    self.delayed(delay.unwrap_or(0), around)?;
                }
                self.ended(code, around).map(|()| false)
            }
            Heard::Response { status, head, body } => self.polled(status, &head, &body, around, truth, reactions).map(|()| false),
            Heard::End => {
                demand(self.told_end.is_some(), Breach::Closed, || "the last chunk without an end item".to_owned()).map(|()| false)
            }
        }
    }

    fn excuses(&self, channel: usize, around: &Surroundings) -> Excuses {
        Excuses {
            now: around.now,
            asked_at: self.asked_at,
            slow: self.slow,
            collapsed: around.collapsed_at[channel] >= self.asked_at,
        }
    }

    /// An end that the server has announced must have a cause.
    fn ended(&mut self, code: u16, around: &Surroundings) -> Judged {
        self.told_end = Some(code);
        let collapsed = self.wish.channels.iter().any(|&channel| around.collapsed_at[channel] >= self.asked_at);
        let fits = match code {
            1001 | 3001 => around.draining,
            3008 => self.slow,
            // History may be trimmed under a reader that catches up.
            3010 => self.is_blind() && (self.slow || collapsed || self.wish.first != First::Now),
            3012 => self.slow,
            // Nobody who has come in is sent away again.
            1013 | 3013 => around.limited && self.run.is_empty() && self.tracks.iter().all(|track| !track.is_answered()),
            _ => false,
        };
        demand(fits, Breach::Closed, || format!("{:?} ended with {code}, slow: {}", self.wish, self.slow))
    }

    fn item(&mut self, item: &Value, around: &Surroundings, truth: &mut Truth) -> Judged<bool> {
        if let Some(subscribed) = item.get("subscribed") {
            let at = position(subscribed["position"].as_str().unwrap_or_default())?;
            let recovered = subscribed["recovered"].as_bool();
            let excuses = self.excuses(channel_of(subscribed)?, around);
            return self.track(subscribed)?.began(at, recovered, &excuses, truth).map(|()| false);
        }
        if let Some(gap) = item.get("gap") {
            let excuses = self.excuses(channel_of(gap)?, around);
            return self.track(gap)?.gap(gap, &excuses, truth).map(|()| false);
        }
        if let Some(end) = item.get("end") {
            return self.end_item(end, around).map(|()| false);
        }
        if item.get("id").is_some() {
            return self.answered(item, around, truth).map(|()| false);
        }
        let at = position(item["position"].as_str().unwrap_or_default())?;
        let channel = channel_of(item)?;
        let number = check_item(item, truth)?;
        let excuses = self.excuses(channel, around);
        self.track(item)?.publication(at, number, &excuses, truth).map(|()| true)
    }

    fn end_item(&mut self, end: &Value, around: &Surroundings) -> Judged {
        let code = end["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
        let retry = end["retry_ms"].as_u64().unwrap_or(0);
        demand(end["reconnect"] == true, Breach::Closed, || format!("a wrong end: {end}"))?;
        self.delayed(retry, around)?;
        self.ended(code, around)
    }

    /// It is told when to come back: not at once, and not later than it may be told.
    fn delayed(&mut self, delay_ms: u64, around: &Surroundings) -> Judged {
        // Where nobody is kept out, a place is a fraction of a millisecond.
        let spread = if around.limited { SPREAD_MAX } else { Duration::from_millis(20) };
        let most = Duration::from_secs(4) + spread;
        let delay = Duration::from_millis(delay_ms);
        demand(delay >= Duration::from_secs(1) && delay <= most, Breach::Closed, || format!("to come back in {delay:?}"))?;
        if around.limited {
            self.back_at = around.now + delay;
        }
        Ok(())
    }

    /// The answer to a publication of this connection.
    fn answered(&mut self, item: &Value, around: &Surroundings, truth: &mut Truth) -> Judged {
        let id = item["id"].as_u64().unwrap_or_default();
        let Some(at) = self.asked.iter().position(|asked| asked.number == id) else {
            return condemn(Breach::Invented, format!("an answer to nothing: {item}"));
        };
        let Some(asked) = self.asked.remove(at) else { return Ok(()) };
        if let Some(ok) = item.get("ok") {
            let position = position(ok["position"].as_str().unwrap_or_default())?;
            return truth.witness(asked.channel, position, asked.number, around.now);
        }
        let temporary = item["error"]["temporary"] == true;
        demand(temporary && around.congested_at >= asked.at, Breach::Refused, || format!("publication {id} refused: {item}"))
    }

    fn event(&mut self, id: Option<String>, name: &str, text: &str, around: &Surroundings, truth: &mut Truth) -> Judged<bool> {
        match name {
            "gap" => {
                let gap = json(text.as_bytes())?;
                let excuses = self.excuses(channel_of(&gap)?, around);
                self.track(&gap)?.gap(&gap, &excuses, truth)?;
                self.id(id, around, truth).map(|()| false)
            }
            "end" => self.end_item(&json(text.as_bytes())?, around).map(|()| false),
            _ if !self.wish.raw => {
                let item = json(text.as_bytes())?;
                let publication = self.item(&item, around, truth)?;
                let expected = item.get("event").and_then(Value::as_str).unwrap_or_default();
                demand(name == expected, Breach::Altered, || format!("event {name:?} carries {item}"))?;
                self.id(id, around, truth).map(|()| publication)
            }
            _ => {
                let Some(at) = id.as_deref() else { return condemn(Breach::WrongToken, "an event without an id") };
                let number = check_event(name, text, truth)?;
                let excuses = self.excuses(self.wish.channels[0], around);
                self.tracks[0].publication(position(at)?, number, &excuses, truth)?;
                self.id(id, around, truth).map(|()| true)
            }
        }
    }

    /// An id was set: what a browser will show when it comes back.
    fn id(&mut self, id: Option<String>, around: &Surroundings, truth: &mut Truth) -> Judged {
        let Some(id) = id else { return Ok(()) };
        if self.wish.raw && !self.tracks[0].is_answered() {
            let excuses = self.excuses(self.wish.channels[0], around);
            self.tracks[0].began(position(&id)?, None, &excuses, truth)?;
        } else {
            for at in 0..self.tracks.len() {
                let told = in_token(&id, self.tracks[at].channel)?;
                let excuses = self.excuses(self.tracks[at].channel, around);
                self.tracks[at].token(told, &excuses, truth, false)?;
            }
        }
        self.last_event_id = Some(id);
        Ok(())
    }

    fn message(&mut self, binary: bool, bytes: &[u8], truth: &Truth) -> Judged {
        let number = number_in(bytes)?;
        let Some(content) = truth.content(number) else { return condemn(Breach::Invented, format!("nobody published {number}")) };
        demand(content.bytes == bytes && binary == (content.kind == PayloadKind::Binary), Breach::Altered, || {
            format!("publication {number} came changed over a raw WebSocket")
        })?;
        self.run.push(number);
        Ok(())
    }

    fn polled(
        &mut self,
        status: u16,
        head: &str,
        body: &[u8],
        around: &Surroundings,
        truth: &mut Truth,
        reactions: &mut Vec<Reaction>,
    ) -> Judged {
        match status {
            200 => self.poll_body(head, body, around, truth)?,
            304 => {
                demand(self.wish.tagged, Breach::Torn, || "304 without a tag".to_owned())?;
                self.poll_token(tag(head)?, around, truth)?;
                reactions.push(Reaction::Count("poll 304".to_owned()));
            }
            503 => self.poll_refused(head, around, reactions)?,
            _ => return condemn(Breach::Refused, format!("a poll was answered {status}: {}", String::from_utf8_lossy(body))),
        }
        let turned_away = status == 503 && around.limited && !self.polled;
        self.polled = true;
        if head.contains("Connection: close") {
            demand(around.draining || self.half_closed || turned_away, Breach::Closed, || {
                "a poll's connection is not kept".to_owned()
            })?;
            self.told_end = Some(0);
        } else {
            reactions.push(Reaction::PollAgain);
        }
        Ok(())
    }

    fn poll_refused(&mut self, head: &str, around: &Surroundings, reactions: &mut Vec<Reaction>) -> Judged {
        let waited = around.now.since(self.asked_at) >= Duration::from_secs(5);
        if waited || around.draining {
            return Ok(());
        }
        // Who polls on is never turned away.
        demand(around.limited && !self.polled, Breach::Refused, || "a poll was answered 503 at once".to_owned())?;
        let delay = head.split("Retry-After: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        reactions.push(Reaction::Count("poll turned away".to_owned()));
        // Whole seconds, rounded up.
        self.delayed(delay.unwrap_or(0_u64) * 1000, around)
    }

    fn poll_body(&mut self, head: &str, body: &[u8], around: &Surroundings, truth: &mut Truth) -> Judged {
        let body = json(body)?;
        let Some(items) = body["messages"].as_array() else { return condemn(Breach::Torn, format!("no messages: {body}")) };
        for item in items {
            self.item(item, around, truth)?;
        }
        let token = body["position"].as_str().unwrap_or_default();
        demand(tag(head)? == token, Breach::WrongToken, || format!("ETag is not {token}"))?;
        self.poll_token(token, around, truth)
    }

    fn poll_token(&mut self, token: &str, around: &Surroundings, truth: &mut Truth) -> Judged {
        for at in 0..self.tracks.len() {
            let told = in_token(token, self.tracks[at].channel)?;
            demand(told.is_some(), Breach::WrongToken, || format!("{token} leaves out {}", self.tracks[at].name()))?;
            let excuses = self.excuses(self.tracks[at].channel, around);
            self.tracks[at].token(told, &excuses, truth, true)?;
        }
        Ok(())
    }

    fn track(&mut self, item: &Value) -> Judged<&mut Track> {
        let channel = channel_of(item)?;
        match self.tracks.iter_mut().find(|track| track.channel == channel) {
            Some(track) => Ok(track),
            None => condemn(Breach::Invented, format!("not subscribed to: {item}")),
        }
    }
}

/// A masked text message with a publish request.
pub fn publish_frame(number: u64, channel: Option<&str>, content: &Content) -> Vec<u8> {
    let channel = channel.map_or_else(String::new, |channel| format!("\"channel\":\"{channel}\","));
    let key = content.key.map_or_else(String::new, |key| format!("\"key\":\"k{key}\","));
    let data = String::from_utf8_lossy(&content.bytes);
    let text = format!("{{\"id\":{number},\"publish\":{{{channel}{key}\"data\":{data}}}}}");
    ws::encode::masked(Opcode::Text, text.as_bytes(), [1, 2, 3, 4])
}

/// A channel's name as it goes into a URL.
pub fn escaped(channel: usize) -> String {
    CHANNELS[channel].replace(':', "%3A")
}

/// A channel's name as the server has it.
pub fn name_of(channel: usize) -> ChannelName {
    ChannelName::parse(CHANNELS[channel]).expect("a channel name")
}

/// A channel's part of a token.
fn in_token(token: &str, channel: usize) -> Judged<Option<StreamPosition>> {
    let Some(parsed) = Token::parse(token) else { return condemn(Breach::Torn, format!("{token:?} is no token")) };
    match parsed.start(&name_of(channel)) {
        Start::After(position) => Ok(Some(position)),
        Start::Now => Ok(None),
        other => condemn(Breach::WrongToken, format!("{token} says {other:?}")),
    }
}

fn tag(head: &str) -> Judged<&str> {
    match head.split("ETag: \"").nth(1).and_then(|rest| rest.split('"').next()) {
        Some(tag) => Ok(tag),
        None => condemn(Breach::Torn, format!("no ETag: {head}")),
    }
}

fn channel_of(item: &Value) -> Judged<usize> {
    let name = item["channel"].as_str().unwrap_or_default();
    match CHANNELS.iter().position(|channel| *channel == name) {
        Some(channel) => Ok(channel),
        None => condemn(Breach::Invented, format!("no such channel: {item}")),
    }
}

/// The number that every payload of a run carries.
fn number_in(payload: &[u8]) -> Judged<u64> {
    let digits: Vec<u8> =
        payload.iter().copied().skip_while(|byte| !byte.is_ascii_digit()).take_while(u8::is_ascii_digit).collect();
    match String::from_utf8_lossy(&digits).parse() {
        Ok(number) => Ok(number),
        Err(_) => condemn(Breach::Altered, "a payload without a number"),
    }
}

/// An item's payload must be what was published under its number.
fn check_item(item: &Value, truth: &Truth) -> Judged<u64> {
    let bytes = match (&item["data"], item["b64"].as_str()) {
        (Value::String(text), None) => text.as_bytes().to_vec(),
        (Value::Object(_), None) => return check_json(item, truth),
        (_, Some(base64)) => STANDARD.decode(base64).unwrap_or_default(),
        _ => return condemn(Breach::Altered, format!("no payload: {item}")),
    };
    let number = number_in(&bytes)?;
    let content = truth.content(number);
    let binary = item.get("b64").is_some();
    let same = content.is_some_and(|content| content.bytes == bytes && (content.kind == PayloadKind::Binary) == binary);
    demand(same && event_fits(item, truth, number), Breach::Altered, || format!("publication {number} came changed"))
        .map(|()| number)
}

fn check_json(item: &Value, truth: &Truth) -> Judged<u64> {
    let number = item["data"]["n"].as_u64().unwrap_or_default();
    let same = truth.content(number).is_some_and(|content| {
        content.kind == PayloadKind::Json
            && serde_json::from_slice::<Value>(&content.bytes).is_ok_and(|value| value == item["data"])
    });
    demand(same && event_fits(item, truth, number), Breach::Altered, || format!("publication {number} came changed"))
        .map(|()| number)
}

fn event_fits(item: &Value, truth: &Truth, number: u64) -> bool {
    truth.content(number).is_some_and(|content| content.event == item.get("event").and_then(Value::as_str))
}

/// The same for an event of a raw event stream, whose lines have lost the kind of their ends.
fn check_event(name: &str, text: &str, truth: &Truth) -> Judged<u64> {
    let decoded = (name == "binary").then(|| STANDARD.decode(text).unwrap_or_default());
    let number = number_in(decoded.as_deref().unwrap_or(text.as_bytes()))?;
    let same = truth.content(number).is_some_and(|content| match (content.kind, &decoded) {
        (PayloadKind::Binary, Some(bytes)) => content.bytes == *bytes,
        (PayloadKind::Json | PayloadKind::Text, None) => {
            let lines = String::from_utf8_lossy(&content.bytes).replace("\r\n", "\n").replace('\r', "\n");
            lines == text && name == content.event.unwrap_or_default()
        }
        _ => false,
    });
    demand(same, Breach::Altered, || format!("publication {number} came changed as an event {name:?}")).map(|()| number)
}
