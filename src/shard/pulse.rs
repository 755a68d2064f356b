//! Pings and keep-alives: whether the other side is still there, told by saying something when nothing else is said.
//!
//! ```text
//!   comes ──▶ first, 3/4 to 1 interval ──▶ quiet? ──▶ ping, pong_timeout ──▶ heard? ──▶ what is left of the interval ──▶ quiet? …
//! ```
//! A crowd that comes together, after an outage say, would have all its pings together, again and again, if the first were not spread.

use std::time::Duration;

use super::Shard;
use super::connections::Pause;
use super::encode;
use super::stage::Stage;
use crate::base::{ConnId, Nanos, Now, STOOD_STILL, TICK};
use crate::protocol::codes::Disconnect;

/// The part of an interval after which the first ping or keep-alive may be due. A silence as long as that is enough for a ping: what was
/// said just after the handshake must not put all of a crowd off to the same instant again.
const QUIET: f64 = 0.75;

impl Shard {
    /// When the first ping or keep-alive of a connection is due.
    pub(super) fn first_pulse(&mut self, interval: Duration) -> Duration {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random.between(nanos(interval.mul_f64(QUIET)), nanos(interval)))
    }

    /// Nothing has been said for a while: say nothing, audibly.
    pub(super) fn keep_stream_alive(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Stream(stream)) = self.connections.get(conn).map(|cell| &cell.stage) else { return };
        let bytes = encode::keep_alive(self.audiences.get(stream.audience));
        // A blocked connection is not idle, only slow; it needs no more bytes.
        if !self.connections.blocked(conn.slot) {
            self.say(conn, bytes);
        }
        self.timers.set(conn.slot, now.monotonic + self.options.transport.keep_alive_interval);
    }

    /// The ping deadline or, after our close frame, the end of the wait for the peer's.
    pub(super) fn check_pulse(&mut self, conn: ConnId, now: Now) {
        let held_back = self.connections.is_paused_by(conn, Pause::PUBLISHING);
        let Some(cell) = self.connections.get_mut(conn) else { return };
        let heard = Nanos(u64::from(cell.heard) * TICK.as_nanos() as u64);
        let Stage::WebSocket(socket) = &mut cell.stage else { return };
        let ping_interval = self.options.ws.ping_interval;
        if socket.close_sent {
            // Browsers may never answer a close; without this a dead tab would pin its slot.
            self.abort(conn);
        } else if held_back {
            // Its pong may be behind what is held.
            socket.awaiting_pong = false;
            self.timers.set(conn.slot, now.monotonic + ping_interval);
        } else if socket.awaiting_pong && self.timers.late(now.monotonic) > STOOD_STILL {
            self.timers.set(conn.slot, now.monotonic + self.options.ws.pong_timeout);
        } else if socket.awaiting_pong {
            self.metrics.pong_timeouts += 1;
            self.close_websocket(conn, Disconnect::NoPong, now);
        } else if heard + ping_interval.mul_f64(QUIET) > now.monotonic {
            self.timers.set(conn.slot, heard + ping_interval);
        } else {
            socket.awaiting_pong = true;
            let ping = self.ping.clone();
            self.say(conn, ping);
            self.timers.set(conn.slot, now.monotonic + self.options.ws.pong_timeout);
        }
    }
}
