//! Items of the plain protocol in the framing of each transport: the one place where the two meet.

use std::sync::Arc;

use super::Options;
use super::audience::{Audience, Shape};
use crate::base::Epoch;
use crate::hub::{Answer, ChannelName, Gap, Outcome, PayloadKind, Publication, token};
use crate::protocol::codes::Disconnect;
use crate::protocol::plain::item;
use crate::protocol::plain::request::Format;
use crate::transport::stream::{self, StreamKind};
use crate::transport::{event_stream, poll};
use crate::ws::{self, DeflateParams, Deflater, Opcode};

/// What encoding needs besides the item: the worker's compressor, and when to use it.
pub struct Encoder<'a> {
    deflater: &'a mut Deflater,
    options: &'a ws::Options,
}

impl<'a> Encoder<'a> {
    pub const fn new(deflater: &'a mut Deflater, options: &'a Options) -> Self {
        Self { deflater, options: &options.ws }
    }

    /// A run of one channel's publications for one audience, as it goes on the wire. Of a poll's response, all but the beginning
    /// of its head.
    pub fn run(&mut self, audience: &Audience, run: &[Arc<Publication>]) -> Vec<u8> {
        if audience.transport == Shape::Poll {
            let items: Vec<Vec<u8>> = run.iter().map(|publication| item_of(publication)).collect();
            let token = run.last().map_or_else(String::new, |last| last.position.to_string());
            return poll::content(poll::Answer { items: &items, token: &token, not_modified: false }, false);
        }
        let mut out = Vec::new();
        for publication in run {
            self.publication(&mut out, audience, publication);
        }
        wrap(audience, out)
    }

    /// What a subscriber is told first, before any publication: where it starts, and the gap if there is one. `None` where that
    /// cannot be said.
    pub fn opening(
        &mut self,
        audience: &Audience,
        channel: &ChannelName,
        resumes: Option<Epoch>,
        answer: &Answer,
    ) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.opening_into(&mut out, audience, channel, answer, is_recovered(resumes, answer));
        if let Outcome::Gap(gap) = &answer.outcome {
            self.gap_into(&mut out, audience, channel, gap).then_some(())?;
        }
        Some(wrap(audience, out))
    }

    /// A page of replay behind what was lost on the way to it. `None` where that cannot be said.
    pub fn page(
        &mut self,
        audience: &Audience,
        channel: &ChannelName,
        lost: Option<&Gap>,
        page: &[Arc<Publication>],
    ) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        if let Some(gap) = lost {
            self.gap_into(&mut out, audience, channel, gap).then_some(())?;
        }
        for publication in page {
            self.publication(&mut out, audience, publication);
        }
        Some(wrap(audience, out))
    }

    /// A gap as a frame of its own; `None` where it cannot be said.
    pub fn gap(&mut self, audience: &Audience, channel: &ChannelName, gap: &Gap) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.gap_into(&mut out, audience, channel, gap).then(|| wrap(audience, out))
    }

    /// The last word on a stream. WebSockets have their close frame instead.
    pub fn end(&mut self, audience: &Audience, disconnect: Disconnect, retry_ms: u64) -> Vec<u8> {
        let (mut text, mut out) = (Vec::new(), Vec::new());
        let Shape::Stream { kind, chunked } = audience.transport else { return out };
        match kind {
            StreamKind::EventStream => {
                item::end_object(&mut text, disconnect, retry_ms);
                event_stream::retry(&mut out, retry_ms);
                event_stream::event(&mut out, None, Some("end"), &text);
            }
            StreamKind::NdJson => {
                item::end(&mut out, disconnect, retry_ms);
                out.push(b'\n');
            }
        }
        let mut out = stream::content(out, chunked);
        if chunked {
            out.extend_from_slice(crate::http::body::LAST_CHUNK);
        }
        out
    }

    /// A WebSocket message, compressed where that was agreed on and is worth it.
    pub fn message(&mut self, out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], deflate: Option<DeflateParams>) {
        match deflate {
            Some(params) => out.extend_from_slice(&self.deflater.frame(opcode, payload, params, self.options)),
            None => {
                ws::encode::header(opcode, payload.len(), false, out);
                out.extend_from_slice(payload);
            }
        }
    }

    fn publication(&mut self, out: &mut Vec<u8>, audience: &Audience, publication: &Publication) {
        let payload = &publication.payload;
        match (&audience.transport, audience.format) {
            (Shape::WebSocket { deflate }, Format::Json) => self.message(out, Opcode::Text, &item_of(publication), *deflate),
            (Shape::WebSocket { deflate }, Format::Raw) => {
                let opcode = if payload.kind == PayloadKind::Binary { Opcode::Binary } else { Opcode::Text };
                self.message(out, opcode, &payload.bytes, *deflate);
            }
            (Shape::Stream { kind: StreamKind::EventStream, .. }, format) => event(out, audience, format, publication),
            (Shape::Stream { kind: StreamKind::NdJson, .. } | Shape::Poll, _) => {
                item::publication(out, publication);
                out.push(b'\n');
            }
        }
    }

    fn opening_into(&mut self, out: &mut Vec<u8>, audience: &Audience, channel: &ChannelName, answer: &Answer, recovered: bool) {
        // An event stream's reader that is told a position resumes there, also if it is cut off before it has read of the gap in
        // front of it. The gap tells the position then; that of several channels is told apart.
        let position = (answer.outcome == Outcome::Exact && !audience.several).then(|| answer.from.to_string());
        let mut text = Vec::new();
        match (&audience.transport, audience.format) {
            (Shape::WebSocket { .. }, Format::Raw) | (Shape::Poll, _) => {}
            (Shape::Stream { kind: StreamKind::EventStream, .. }, Format::Raw) => {
                if let Some(position) = position {
                    event_stream::position(out, &position);
                }
            }
            (Shape::Stream { kind: StreamKind::EventStream, .. }, Format::Json) => {
                item::subscribed(&mut text, channel, answer.from, recovered);
                event_stream::event(out, position.as_deref(), None, &text);
            }
            (Shape::WebSocket { deflate }, Format::Json) => {
                item::subscribed(&mut text, channel, answer.from, recovered);
                self.message(out, Opcode::Text, &text, *deflate);
            }
            (Shape::Stream { kind: StreamKind::NdJson, .. }, _) => {
                item::subscribed(out, channel, answer.from, recovered);
                out.push(b'\n');
            }
        }
    }

    fn gap_into(&mut self, out: &mut Vec<u8>, audience: &Audience, channel: &ChannelName, gap: &Gap) -> bool {
        let mut text = Vec::new();
        match (&audience.transport, audience.format) {
            (Shape::WebSocket { .. }, Format::Raw) => return false,
            (Shape::Stream { kind: StreamKind::EventStream, .. }, _) => {
                item::gap_object(&mut text, channel, gap);
                // The position just before what comes next, or every reconnect would be told of the same gap again.
                let before = crate::base::StreamPosition { offset: gap.next.offset.saturating_sub(1), ..gap.next };
                let position = (!audience.several).then(|| before.to_string());
                event_stream::event(out, position.as_deref(), Some("gap"), &text);
            }
            (Shape::WebSocket { deflate }, Format::Json) => {
                item::gap(&mut text, channel, gap);
                self.message(out, Opcode::Text, &text, *deflate);
            }
            (Shape::Stream { kind: StreamKind::NdJson, .. } | Shape::Poll, _) => {
                item::gap(out, channel, gap);
                out.push(b'\n');
            }
        }
        true
    }
}

/// Whether a subscriber goes on exactly where it was: nothing is missing, and its position was of this history.
#[must_use]
pub fn is_recovered(resumes: Option<Epoch>, answer: &Answer) -> bool {
    answer.outcome == Outcome::Exact && resumes == Some(answer.top.epoch)
}

fn item_of(publication: &Publication) -> Vec<u8> {
    let mut text = Vec::with_capacity(publication.payload.bytes.len() + 96);
    item::publication(&mut text, publication);
    text
}

/// One publication as an event: the payload alone or the whole item. The position of several channels is told apart.
fn event(out: &mut Vec<u8>, audience: &Audience, format: Format, publication: &Publication) {
    let position = (!audience.several).then(|| publication.position.to_string());
    match (format, publication.payload.kind) {
        (Format::Raw, PayloadKind::Binary) => event_stream::binary(out, position.as_deref(), &publication.payload.bytes),
        (Format::Raw, PayloadKind::Json | PayloadKind::Text) => {
            event_stream::event(out, position.as_deref(), publication.event.as_deref(), &publication.payload.bytes);
        }
        (Format::Json, _) => event_stream::event(out, position.as_deref(), publication.event.as_deref(), &item_of(publication)),
    }
}

/// Streams in HTTP/1.1 go in chunks; everything else as it is.
fn wrap(audience: &Audience, bytes: Vec<u8>) -> Vec<u8> {
    match audience.transport {
        Shape::Stream { chunked, .. } if !bytes.is_empty() => stream::content(bytes, chunked),
        Shape::Stream { .. } | Shape::WebSocket { .. } | Shape::Poll => bytes,
    }
}

/// The position of an event stream with several channels, which covers all that was queued before it.
#[must_use]
pub fn position(audience: &Audience, positions: &[(ChannelName, Option<crate::base::StreamPosition>)]) -> Vec<u8> {
    let Shape::Stream { kind: StreamKind::EventStream, chunked } = audience.transport else { return Vec::new() };
    let mut position = Vec::new();
    event_stream::position(&mut position, &token::write(positions));
    stream::content(position, chunked)
}

/// What keeps a silent stream alive.
#[must_use]
pub fn keep_alive(audience: &Audience) -> Vec<u8> {
    match audience.transport {
        Shape::Stream { kind: StreamKind::EventStream, chunked } => stream::content(event_stream::KEEP_ALIVE.to_vec(), chunked),
        Shape::Stream { kind: StreamKind::NdJson, chunked } => stream::content(stream::NDJSON_KEEP_ALIVE.to_vec(), chunked),
        Shape::WebSocket { .. } | Shape::Poll => Vec::new(),
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
