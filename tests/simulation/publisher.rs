//! Publishers over HTTP: what they ask for, and whether they are answered as they must be.

use std::collections::VecDeque;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringmain::base::{Epoch, Nanos, Random, StreamPosition};
use ringmain::hub::PayloadKind;
use serde_json::{Value, json};

use crate::client::{Surroundings, escaped};
use crate::settings::{CHANNELS, KEY};
use crate::track::position;
use crate::truth::{Content, KEY_LIFE, Truth};
use crate::verdict::{Breach, Judged, condemn, demand};
use crate::wire;

/// How long a request may wait for the homes.
const REPLY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Which door a publication goes in by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    Channel,
    Api,
    Broadcast,
}

/// A request that has not been answered.
#[derive(Clone, Debug)]
pub struct Request {
    pub door: Door,
    pub number: u64,
    pub channels: Vec<usize>,
    pub key: Option<String>,
    pub kept: bool,
    pub asked_at: Nanos,
    /// When it was asked for the first time, for one that is sent again.
    pub first_at: Nanos,
}

/// One connection of a publisher.
#[derive(Debug)]
pub struct Publisher {
    pub requests: VecDeque<Request>,
    /// Whether the connection is kept after the last answer.
    pub keep: bool,
    pub half_closed: bool,
    /// When it last asked for something: an idle connection may be closed on it.
    pub used_at: Nanos,
    wire: Vec<u8>,
}

impl Request {
    /// Its bytes on the wire.
    pub fn bytes(&self, content: &Content, close: bool) -> Vec<u8> {
        let (path, kind, body) = match self.door {
            Door::Channel => (format!("/channels/{}", escaped(self.channels[0])), content_type(content), content.bytes.clone()),
            Door::Api => ("/api/publish".to_owned(), "application/json", self.call(content).to_string().into_bytes()),
            Door::Broadcast => ("/api/broadcast".to_owned(), "application/json", self.call(content).to_string().into_bytes()),
        };
        let mut query = Vec::new();
        if let Some(event) = content.event {
            query.push(format!("event={event}"));
        }
        if let Some(key) = content.key {
            query.push(format!("key=k{key}"));
        }
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let mut fields = format!("Content-Type: {kind}\r\nX-API-Key: {KEY}\r\nContent-Length: {}\r\n", body.len());
        if let Some(key) = self.key.as_ref().filter(|_| self.door == Door::Channel) {
            fields.push_str(&format!("Idempotency-Key: \"{key}\"\r\n"));
        }
        if close {
            fields.push_str("Connection: close\r\n");
        }
        let mut bytes = format!("POST {path}{query} HTTP/1.1\r\nHost: h\r\n{fields}\r\n").into_bytes();
        bytes.extend_from_slice(&body);
        bytes
    }

    fn call(&self, content: &Content) -> Value {
        let mut call = match self.door {
            Door::Broadcast => json!({"channels": self.channels.iter().map(|&channel| CHANNELS[channel]).collect::<Vec<_>>()}),
            Door::Channel | Door::Api => json!({"channel": CHANNELS[self.channels[0]]}),
        };
        match content.kind {
            PayloadKind::Json => call["data"] = serde_json::from_slice(&content.bytes).unwrap_or_default(),
            PayloadKind::Text | PayloadKind::Binary => call["b64data"] = STANDARD.encode(&content.bytes).into(),
        }
        if let Some(key) = &self.key {
            call["idempotency_key"] = key.as_str().into();
        }
        if !self.kept {
            call["skip_history"] = true.into();
        }
        call
    }
}

const fn content_type(content: &Content) -> &'static str {
    match content.kind {
        PayloadKind::Json => "application/json",
        PayloadKind::Text => "text/plain; charset=utf-8",
        PayloadKind::Binary => "application/octet-stream",
    }
}

/// A payload that carries its number.
pub fn content(number: u64, kind: PayloadKind, event: Option<&'static str>, size: usize, random: &mut Random) -> Content {
    let padding = "x".repeat(size);
    let bytes = match kind {
        PayloadKind::Json => format!("{{\"n\":{number},\"pad\":\"{padding}\"}}").into_bytes(),
        PayloadKind::Text => {
            let end = ["", "\n", "\r\n", "\r", "\n\n", " "][usize::try_from(random.between(0, 5)).unwrap_or(0)];
            format!("n={number}{end}{padding}\r\n:{{}}\r data: é\n{end}").into_bytes()
        }
        PayloadKind::Binary => [format!("n={number}").as_bytes(), &[0, 255, 10], padding.as_bytes()].concat(),
    };
    Content { kind, bytes, event, key: None }
}

impl Publisher {
    pub const fn new(requests: VecDeque<Request>, keep: bool) -> Self {
        Self { requests, keep, half_closed: false, used_at: Nanos(0), wire: Vec::new() }
    }

    /// Takes bytes off the wire; what was counted.
    pub fn read(&mut self, bytes: &[u8], around: &Surroundings, truth: &mut Truth) -> Judged<Vec<String>> {
        self.wire.extend_from_slice(bytes);
        let mut counted = Vec::new();
        while let Some((status, _, body)) = wire::take_response(&mut self.wire)? {
            let Some(request) = self.requests.pop_front() else { return condemn(Breach::Invented, "an answer to no request") };
            if around.now.since(request.first_at) >= KEY_LIFE {
                truth.allow_twice(request.number);
            }
            counted.extend(judge(&request, status, &body, around, truth)?);
        }
        Ok(counted)
    }
}

fn judge(request: &Request, status: u16, body: &[u8], around: &Surroundings, truth: &mut Truth) -> Judged<Option<String>> {
    let text = String::from_utf8_lossy(body);
    if status == 503 {
        let late = text.contains("in time");
        let excused =
            if late { around.now.since(request.asked_at) >= REPLY_TIMEOUT } else { around.congested_at >= request.asked_at };
        demand(excused, Breach::Refused, || format!("publication {} refused without a cause: {text}", request.number))?;
        return Ok(Some(if late { "publish timed out" } else { "publish refused" }.to_owned()));
    }
    if status != 200 {
        return condemn(Breach::Refused, format!("publication {} answered {status}: {text}", request.number));
    }
    let reply = wire::json(body)?;
    match request.door {
        Door::Channel => {
            truth.witness(
                request.channels[0],
                position(reply["position"].as_str().unwrap_or_default())?,
                request.number,
                around.now,
            )?;
            Ok((reply["duplicate"] == true).then(|| "duplicate".to_owned()))
        }
        Door::Api => judge_result(request, request.channels[0], &reply, around, truth).map(|()| Some("api".to_owned())),
        Door::Broadcast => {
            let Some(responses) = reply["result"]["responses"].as_array() else {
                return condemn(Breach::Torn, format!("no responses: {reply}"));
            };
            demand(responses.len() == request.channels.len(), Breach::Unanswered, || format!("not one response each: {reply}"))?;
            for (&channel, response) in request.channels.iter().zip(responses) {
                judge_result(request, channel, response, around, truth)?;
            }
            Ok(Some("broadcast".to_owned()))
        }
    }
}

fn judge_result(request: &Request, channel: usize, reply: &Value, around: &Surroundings, truth: &mut Truth) -> Judged {
    if reply.get("error").is_some() {
        let late = around.now.since(request.asked_at) >= REPLY_TIMEOUT || around.congested_at >= request.asked_at;
        return demand(late && reply["error"]["code"] == 100, Breach::Refused, || format!("{} refused: {reply}", request.number));
    }
    let result = &reply["result"];
    let epoch = result["epoch"].as_str().and_then(Epoch::parse);
    match (result["offset"].as_u64(), epoch) {
        (Some(offset), Some(epoch)) => truth.witness(channel, StreamPosition { epoch, offset }, request.number, around.now),
        // What is not kept has no position to tell.
        _ if result.is_object() => Ok(()),
        _ => condemn(Breach::Torn, format!("no result: {reply}")),
    }
}
