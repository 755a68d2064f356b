//! Event streams and NDJSON streams: what they are told besides publications.

use super::stage::Stage;
use super::{Shard, encode};
use crate::base::{ConnId, StreamPosition};
use crate::hub::{AudienceId, ChannelName};
use crate::metrics::TransportKind;

/// One stream; lives in the connection's cell.
#[derive(Debug)]
pub struct Stream {
    pub kind: TransportKind,
    pub audience: AudienceId,
    /// An event stream of several channels has been told more than its position says.
    pub moved: bool,
}

impl Shard {
    /// The reconnect delay told to a client, in milliseconds.
    pub(super) fn retry(&mut self) -> u64 {
        let [low, high] = self.options.transport.retry.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        self.random.between(low, high)
    }

    /// Something is queued for a connection. If it has several channels, its position is told when it is flushed: once, however
    /// many runs have been gathered, and as bytes of its own, so that the runs stay everybody's.
    pub(super) fn moved(&mut self, conn: ConnId) {
        let Some(Stage::Stream(stream)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        if self.audiences.get(stream.audience).several && !std::mem::replace(&mut stream.moved, true) {
            self.moved.push(conn);
        }
    }

    /// There is room again for a position that was not told.
    pub(super) fn moved_again(&mut self, conn: ConnId) {
        let Some(Stage::Stream(stream)) = self.connections.get(conn).map(|cell| &cell.stage) else { return };
        if stream.moved {
            self.moved.push(conn);
        }
    }

    /// Before a flush: tells the positions of those who have moved.
    pub(super) fn tell_positions(&mut self) {
        for conn in std::mem::take(&mut self.moved) {
            // A blocked one comes back when it is writable; what it is told then covers what has been queued until then.
            if self.connections.blocked(conn.slot) {
                continue;
            }
            let Some(Stage::Stream(stream)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { continue };
            if !std::mem::take(&mut stream.moved) {
                continue;
            }
            let audience = stream.audience;
            if let Some(positions) = self.positions_of(conn) {
                let bytes = encode::position(self.audiences.get(audience), &positions);
                self.connections.deliver_position(conn, bytes);
            }
        }
    }

    /// Where every channel of a connection is: what its token must say. `None` before all homes have answered: a token that left a
    /// channel out would let it start anew at the next connection, without its history or its gap.
    fn positions_of(&self, conn: ConnId) -> Option<Vec<(ChannelName, Option<StreamPosition>)>> {
        self.subscriptions_of(conn)
            .map(|(_, subscription)| {
                let position = self.local.served(subscription)?;
                Some((self.local.channel_name(subscription).clone(), Some(position)))
            })
            .collect()
    }
}
