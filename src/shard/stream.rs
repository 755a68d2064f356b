//! Event streams and NDJSON streams: what they are told besides publications.

use super::stage::Stage;
use super::{Shard, encode};
use crate::base::{ConnId, Now, StreamPosition};
use crate::hub::local::NO_SUBSCRIPTION;
use crate::hub::{AudienceId, ChannelName, Start};
use crate::metrics::TransportKind;

/// One stream; lives in the connection's cell.
#[derive(Debug)]
pub struct Stream {
    pub kind: TransportKind,
    pub audience: AudienceId,
    /// Where the channels of a several-channel stream asked to start, for those whose home has not answered: a position told
    /// before all have answered must not leave them out.
    pub unanswered: Option<Box<[(ChannelName, Start)]>>,
}

impl Shard {
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

    /// The reconnect delay told to a client, in milliseconds.
    pub(super) fn retry(&mut self) -> u64 {
        let [low, high] = self.options.transport.retry.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        self.random.between(low, high)
    }

    /// A home has answered: from now on the subscription itself knows where the channel is.
    pub(super) fn forget_start(&mut self, conn: ConnId, channel: &ChannelName) {
        let Some(Stage::Stream(stream)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        if let Some(unanswered) = stream.unanswered.take() {
            let left: Box<[_]> = unanswered.into_iter().filter(|(name, _)| name != channel).collect();
            stream.unanswered = (!left.is_empty()).then_some(left);
        }
    }

    /// Where every channel of a connection is: what its token must say.
    pub(super) fn positions_of(&self, conn: ConnId) -> Vec<(ChannelName, Option<StreamPosition>)> {
        let Some(cell) = self.connections.get(conn) else { return Vec::new() };
        let unanswered = match &cell.stage {
            Stage::Stream(stream) => stream.unanswered.as_deref().unwrap_or_default(),
            _ => &[],
        };
        let mut positions = Vec::new();
        let mut index = cell.subscriptions;
        while index != NO_SUBSCRIPTION {
            let Some((_, subscription)) = self.local.subscription_at(index) else { break };
            index = subscription.next;
            let channel = self.local.channel_name(subscription);
            let asked = || {
                unanswered.iter().find(|(name, _)| name == channel).and_then(|(_, start)| match start {
                    Start::After(position) => Some(*position),
                    Start::Now | Start::Beginning | Start::Newest(_) | Start::Elsewhere | Start::Unreadable => None,
                })
            };
            positions.push((channel.clone(), self.local.served(subscription).or_else(asked)));
        }
        positions
    }
}
