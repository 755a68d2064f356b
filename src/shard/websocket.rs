//! WebSocket connections: frames become messages, messages become what their door makes of them.

use std::time::Duration;

use super::Shard;
use super::connections::Pause;
use super::publishes::Publishes;
use super::stage::Stage;
use crate::base::{ConnId, Now};
use crate::hub::local::NO_SUBSCRIPTION;
use crate::hub::{Access, ChannelName, Draft, Stored};
use crate::metrics::TransportKind;
use crate::protocol::codes::{Disconnect, ErrorCode};
use crate::protocol::plain::{inbound, item};
use crate::ws::{self, CloseCode, Decoder, DeflateParams, Event, FrameError, Opcode};

/// How long the peer's close frame is awaited.
const CLOSE_REPLY_WAIT: Duration = Duration::from_secs(5);

/// One WebSocket; lives in the connection's cell.
#[derive(Debug)]
pub struct WebSocket {
    pub decoder: Decoder,
    pub door: Door,
    /// What was agreed on, where permessage-deflate was.
    pub deflate: Option<DeflateParams>,
    /// A ping is out and nothing has been heard since.
    pub awaiting_pong: bool,
    /// Our close frame is out; only the peer's is awaited.
    pub close_sent: bool,
    /// Whether the client showed the API key.
    pub key: bool,
    /// Boxed, since most connections never publish.
    pub publishes: Option<Box<Publishes>>,
}

/// What a WebSocket's messages mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    Echo,
    /// Items and publish requests in JSON.
    PlainJson,
    /// Each message is a payload.
    PlainRaw,
}

/// How reading a WebSocket ended.
enum Ended {
    /// Say why, then close.
    Close(Disconnect),
    /// The peer broke the protocol.
    Broken(FrameError),
    /// The peer has closed with this code: say it back, then close.
    Answer(Option<CloseCode>),
    /// Both close frames have been exchanged.
    Over,
    /// The connection was cut off: it takes no answers. What it still asked is nobody's any more.
    Gone,
}

impl From<Disconnect> for Ended {
    fn from(disconnect: Disconnect) -> Self {
        Self::Close(disconnect)
    }
}

impl Shard {
    /// Decodes what arrived and acts on every message in it.
    pub(super) fn websocket_bytes(&mut self, conn: ConnId, bytes: &mut [u8], now: Now) -> usize {
        let Some(Stage::WebSocket(mut socket)) = self.take_stage(conn) else { return bytes.len() };
        socket.awaiting_pong = false;
        let length = bytes.len();
        let (used, ended) = self.websocket_messages(conn, &mut socket, bytes);
        self.set_stage(conn, Stage::WebSocket(socket));
        match ended {
            Ok(()) => return used,
            Err(Ended::Close(disconnect)) => self.close_websocket(conn, disconnect, now),
            Err(Ended::Answer(code)) => {
                self.disconnected(conn, code.map_or(1005, CloseCode::number));
                self.say(conn, ws::encode::close_reply(code));
                self.end(conn, now);
            }
            Err(Ended::Broken(error)) => {
                // What the peer says after this cannot be read, its close frame included.
                self.disconnected(conn, error.close_code().number());
                self.say(conn, ws::encode::close(error.close_code(), error.reason()));
                self.end(conn, now);
            }
            Err(Ended::Over) => self.end(conn, now),
            // The stage was here when that happened, so it has not been counted.
            Err(Ended::Gone) => self.metrics.disconnects.two(TransportKind::WebSocket.label(), Disconnect::Slow.number()),
        }
        length
    }

    /// Returns how many bytes were used: all, unless the answers to some of them have to be taken first.
    fn websocket_messages(&mut self, conn: ConnId, socket: &mut WebSocket, bytes: &mut [u8]) -> (usize, Result<(), Ended>) {
        let length = bytes.len();
        let mut rest = bytes;
        let options = self.options.ws;
        // Events may borrow from it, so it is out of the shard while they are handled.
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = loop {
            match socket.decoder.next(&mut rest, &mut scratch, &options) {
                Ok(Some(event)) => {
                    if let Err(ended) = self.websocket_event(conn, socket, event) {
                        break Err(ended);
                    }
                    if self.connections.get(conn).is_none() {
                        break Err(Ended::Gone);
                    }
                    if self.is_behind(conn) || self.publishes_too_fast(conn, socket) {
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => {
                    self.metrics.ws_protocol_errors.one(error.close_code().number());
                    break Err(Ended::Broken(error));
                }
            }
        };
        self.scratch = scratch;
        (length - rest.len(), result)
    }

    fn websocket_event(&mut self, conn: ConnId, socket: &mut WebSocket, event: Event<'_>) -> Result<(), Ended> {
        self.metrics.ws_messages_received.one(label(&event));
        match event {
            Event::Close { .. } if socket.close_sent => Err(Ended::Over),
            Event::Close { code, .. } => Err(Ended::Answer(code)),
            // After our close frame only the peer's counts (RFC 6455 section 5.5.1).
            _ if socket.close_sent => Ok(()),
            Event::Ping(payload) => {
                self.say(conn, ws::encode::frame(Opcode::Pong, payload));
                Ok(())
            }
            Event::Pong(_) => Ok(()),
            Event::Text(payload) => self.websocket_message(conn, socket, payload.as_bytes(), Opcode::Text),
            Event::Binary(payload) => self.websocket_message(conn, socket, payload, Opcode::Binary),
        }
    }

    fn websocket_message(&mut self, conn: ConnId, socket: &mut WebSocket, payload: &[u8], opcode: Opcode) -> Result<(), Ended> {
        match socket.door {
            Door::Echo => {
                let mut frame = Vec::with_capacity(payload.len() + 10);
                self.encoder().message(&mut frame, opcode, payload, socket.deflate);
                self.say(conn, frame);
            }
            Door::PlainJson => {
                let request = inbound::parse(payload).ok_or(Ended::from(Disconnect::BadRequest))?;
                self.publish_from_websocket(conn, socket, request);
            }
            Door::PlainRaw => {
                let body = inbound::raw(payload, opcode == Opcode::Binary).ok_or(Ended::from(Disconnect::BadRequest))?;
                let draft = self.own_channel(conn, None).and_then(|channel| self.allowed_draft(socket, channel, body));
                let draft = draft.map_err(|code| {
                    self.metrics.publish_errors.one(code.number());
                    Ended::from(Disconnect::PermissionDenied)
                })?;
                self.publish_for_websocket(conn, socket, None, draft);
            }
        }
        Ok(())
    }

    /// A JSON publish request; its answer comes when the channel's home has replied.
    fn publish_from_websocket(&mut self, conn: ConnId, socket: &mut WebSocket, request: inbound::Publish) {
        let id = request.id;
        let channel = self.own_channel(conn, request.channel.as_deref());
        let draft = channel.and_then(|channel| self.allowed_draft(socket, channel, request.body?));
        match draft {
            Ok(draft) => self.publish_for_websocket(conn, socket, Some(id), draft),
            Err(code) => {
                self.metrics.publish_errors.one(code.number());
                self.answer_publish_request(conn, socket.deflate, id, Err(code));
            }
        }
    }

    pub(super) fn answer_publish_request(
        &mut self,
        conn: ConnId,
        deflate: Option<DeflateParams>,
        id: u64,
        result: Result<Stored, ErrorCode>,
    ) {
        let mut text = Vec::with_capacity(96);
        match result {
            Ok(stored) => item::publish_ok(&mut text, id, stored.position),
            Err(code) => item::publish_error(&mut text, id, code),
        }
        let mut frame = Vec::with_capacity(text.len() + 10);
        self.encoder().message(&mut frame, Opcode::Text, &text, deflate);
        self.say(conn, frame);
    }

    /// The named channel if the connection holds it; its only one where none is named.
    fn own_channel(&self, conn: ConnId, named: Option<&str>) -> Result<ChannelName, ErrorCode> {
        let Some(first) = self.connections.get(conn).map(|cell| cell.subscriptions) else { return Err(ErrorCode::BadRequest) };
        let mut index = first;
        while index != NO_SUBSCRIPTION {
            let Some((_, subscription)) = self.local.subscription_at(index) else { break };
            let channel = self.local.channel_name(subscription);
            if named.is_some_and(|named| named == channel.as_str())
                || (named.is_none() && index == first && subscription.next == NO_SUBSCRIPTION)
            {
                return Ok(channel.clone());
            }
            index = subscription.next;
        }
        Err(if named.is_some() { ErrorCode::PermissionDenied } else { ErrorCode::BadRequest })
    }

    fn allowed_draft(&self, socket: &WebSocket, channel: ChannelName, body: inbound::Body) -> Result<Draft, ErrorCode> {
        let namespace = self.options.hub.namespace(channel.as_str()).ok_or(ErrorCode::UnknownChannel)?;
        match namespace.allow_publish {
            Access::Anyone => {}
            Access::Key if socket.key => {}
            Access::Key | Access::Nobody => return Err(ErrorCode::PermissionDenied),
        }
        Ok(Draft { event: body.event, key: body.key, ..Draft::new(channel, body.payload) })
    }

    /// Sends a close frame and waits for the peer's (RFC 6455 section 7.1.2). Where many are closed at once it says when to come back.
    pub(super) fn close_websocket(&mut self, conn: ConnId, disconnect: Disconnect, now: Now) {
        let said = match self.connections.get(conn).map(|cell| &cell.stage) {
            Some(Stage::WebSocket(socket)) => socket.close_sent,
            _ => true,
        };
        if said {
            return;
        }
        match disconnect {
            Disconnect::Shutdown | Disconnect::Overload => {
                let reason = format!("{}, retry in {} ms", disconnect.reason(), self.comes_back_in(disconnect));
                self.close_websocket_saying(conn, disconnect, &reason, now);
            }
            _ => self.close_websocket_saying(conn, disconnect, disconnect.reason(), now),
        }
    }

    /// The same with a reason of its own.
    pub(super) fn close_websocket_saying(&mut self, conn: ConnId, disconnect: Disconnect, reason: &str, now: Now) {
        let Some(Stage::WebSocket(socket)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        if std::mem::replace(&mut socket.close_sent, true) {
            return;
        }
        self.disconnected(conn, disconnect.number());
        self.leave_all(conn);
        // The peer's close frame may be behind what is held.
        self.connections.resume(conn, Pause::PUBLISHING);
        self.ready_for_held(conn);
        let code = CloseCode::new(disconnect.number()).unwrap_or(CloseCode::INTERNAL_ERROR);
        self.say(conn, ws::encode::close(code, reason));
        self.timers.set(conn.slot, now.monotonic + CLOSE_REPLY_WAIT);
    }
}

/// The value of the `opcode` label.
const fn label(event: &Event<'_>) -> &'static str {
    match event {
        Event::Text(_) => "text",
        Event::Binary(_) => "binary",
        Event::Ping(_) => "ping",
        Event::Pong(_) => "pong",
        Event::Close { .. } => "close",
    }
}
