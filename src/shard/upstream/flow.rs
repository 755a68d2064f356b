//! Either side of an exchange is read only while the other takes what it is sent.

use super::Link;
use crate::base::ConnId;
use crate::http::body::Pace;
use crate::shard::Shard;
use crate::shard::connections::Pause;
use crate::shard::stage::Stage;

impl Shard {
    /// Queues bytes of one side for the other. One that is behind, perhaps with an earlier response, holds the writer back.
    pub(super) fn pass(&mut self, from: ConnId, to: ConnId, bytes: Vec<u8>) {
        self.say(to, bytes);
        let blocked = self.connections.blocked(to.slot);
        let much = self.connections.reply_bytes(to.slot) > self.options.http.queue_bytes_max / 2;
        if (blocked || much) && !self.connections.is_paused_by(from, Pause::COUNTERPART) {
            self.connections.pause(from, Pause::COUNTERPART);
            if !blocked {
                self.resuming.push(to);
            }
        }
    }

    /// A send to one side was refused, or that side has room again: the other side is read accordingly.
    pub(in crate::shard) fn hold_back(&mut self, conn: ConnId, paused: bool) {
        let counterpart = match self.connections.get(conn).map(|cell| &cell.stage) {
            Some(Stage::Exchange(exchanging)) => match exchanging.link {
                Link::Open { conn: up, .. } => Some(up),
                Link::Waiting | Link::Connecting(_) => None,
            },
            Some(Stage::Upstream(_)) => self.served_by(conn),
            _ => None,
        };
        match counterpart {
            Some(conn) if paused => self.connections.pause(conn, Pause::COUNTERPART),
            Some(conn) if self.connections.is_paused_by(conn, Pause::COUNTERPART) => {
                self.connections.resume(conn, Pause::COUNTERPART);
                if let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) {
                    // What it could not send meanwhile is not its fault.
                    exchanging.pace = Pace::from(self.now.monotonic);
                }
            }
            Some(_) | None => return,
        }
        if let Some(conn) = counterpart {
            self.await_more(conn, self.now);
        }
    }

    /// Reads those again who have taken all that waited for them, and the other side of their exchange. Sooner, and a slow
    /// reader's queue would grow by what a fast writer sends in the time of each small step.
    pub(in crate::shard) fn read_again(&mut self) {
        let mut resuming = std::mem::take(&mut self.resuming);
        resuming.retain(|&conn| {
            let flushed = self.connections.is_flushed(conn.slot);
            if flushed {
                self.hold_back(conn, false);
                self.connections.resume(conn, Pause::BEHIND);
                self.ready_for_held(conn);
            }
            // A blocked one becomes writable again and comes back here.
            !flushed && !self.connections.blocked(conn.slot) && self.connections.get(conn).is_some()
        });
        self.resuming = resuming;
    }
}
