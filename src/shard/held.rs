//! Bytes of a peer that cannot be acted on yet, and when it is read again.
//!
//! A connection is read unless something speaks against it ([`Pause`]); what has been received by then is held here and acted on
//! in order, once. So a client that sends requests ahead costs what a few receives can bring, however much it sends:
//!
//! - behind a request that is not answered yet, bytes are held and, from [`HELD_BYTES_MAX`] on, no more are read;
//! - a client that does not take its answers gets no further request acted on while more than
//!   [`queue_bytes_max`](crate::http::Options::queue_bytes_max) of them wait;
//! - nor does a WebSocket that publishes faster than the homes of its channels take it ([`publishes`](super::publishes)).
//!
//! Reading goes on only when everything held has been acted on.

use std::collections::{HashMap, VecDeque};

use super::Shard;
use super::connections::Pause;
use super::stage::Stage;
use crate::base::{ConnId, Now};

/// Bytes held before reading stops: for less than a request or two it is not worth stopping and starting.
const HELD_BYTES_MAX: usize = 4 << 10;

/// What all connections of a worker hold.
#[derive(Debug)]
pub struct Held {
    /// By slot. A cell's [`Pause::HELD`] says that there is an entry, so that others pay nothing.
    inputs: HashMap<u32, Input, ahash::RandomState>,
    /// Connections whose held bytes may be acted on now.
    ready: VecDeque<ConnId>,
}

/// What one connection holds.
#[derive(Debug, Default)]
struct Input {
    bytes: Vec<u8>,
    /// How many of them have been acted on.
    used: usize,
    /// The peer has sent nothing behind them and will not.
    eof: bool,
}

impl Default for Held {
    fn default() -> Self {
        Self { inputs: HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4)), ready: VecDeque::new() }
    }
}

impl Shard {
    /// Acts on bytes as far as they can be, and holds the rest.
    pub(super) fn take_in(&mut self, conn: ConnId, bytes: &mut [u8], now: Now) {
        // What came first goes first.
        let used = if self.connections.is_paused_by(conn, Pause::HELD) { 0 } else { self.consume(conn, bytes, now) };
        if used < bytes.len() {
            self.hold(conn, &bytes[used..]);
        }
    }

    /// The peer has finished sending. Whether that has to wait until what came before has been acted on.
    pub(super) fn hold_eof(&mut self, conn: ConnId) -> bool {
        let held = self.connections.is_paused_by(conn, Pause::HELD).then(|| self.held.inputs.get_mut(&conn.slot)).flatten();
        held.map(|input| input.eof = true).is_some()
    }

    /// What the connection does now may take bytes that the one before could not.
    pub(super) fn ready_for_held(&mut self, conn: ConnId) {
        if self.connections.is_paused_by(conn, Pause::HELD) {
            self.held.ready.push_back(conn);
        }
    }

    /// Acts on held bytes of connections that are ready for them.
    pub(super) fn continue_held(&mut self, now: Now) {
        while let Some(conn) = self.held.ready.pop_front() {
            if !self.connections.is_paused_by(conn, Pause::HELD) {
                continue;
            }
            let Some(mut input) = self.held.inputs.remove(&conn.slot) else { continue };
            input.used += self.consume(conn, &mut input.bytes[input.used..], now);
            if self.connections.get(conn).is_none_or(|cell| matches!(cell.stage, Stage::Closing)) {
                continue;
            }
            if input.used < input.bytes.len() {
                self.held.inputs.insert(conn.slot, input);
                continue;
            }
            self.connections.resume(conn, Pause::HELD);
            self.connections.resume(conn, Pause::FULL);
            if input.eof {
                self.eof(conn, now);
            }
        }
    }

    /// Forgets what a connection holds: it will not be acted on.
    pub(super) fn forget_held(&mut self, conn: ConnId) {
        if self.connections.is_paused_by(conn, Pause::HELD) {
            self.held.inputs.remove(&conn.slot);
            self.connections.resume(conn, Pause::HELD);
        }
    }

    /// Whether answers wait that the client has to take, or publications that their homes have to, before it is asked what else it
    /// wants.
    pub(super) fn is_behind(&mut self, conn: ConnId) -> bool {
        if self.connections.is_paused_by(conn, Pause::REQUESTS) {
            return true;
        }
        let behind = self.connections.reply_bytes(conn.slot) > self.options.http.queue_bytes_max;
        if behind {
            self.connections.pause(conn, Pause::BEHIND);
            self.resuming.push(conn);
        }
        behind
    }

    fn hold(&mut self, conn: ConnId, bytes: &[u8]) {
        if self.connections.get(conn).is_none() {
            return;
        }
        let input = self.held.inputs.entry(conn.slot).or_default();
        input.bytes.drain(..std::mem::take(&mut input.used));
        input.bytes.extend_from_slice(bytes);
        let full = input.bytes.len() > HELD_BYTES_MAX;
        self.connections.pause(conn, Pause::HELD);
        if full {
            self.connections.pause(conn, Pause::FULL);
        }
    }
}
