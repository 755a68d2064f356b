//! Deliveries that are not the same for everybody: losses, items of polls, full queues.

use super::Shard;
use super::encode::Encoder;
use super::fanout::unseen;
use super::stage::Stage;
use crate::base::{ConnId, Epoch, Extent, Frame, FrameTag, Key, Now, StreamPosition};
use crate::hub::local::Run;
use crate::hub::{ChannelName, Gap, GapReason, SlowConsumer};
use crate::metrics::Label;
use crate::protocol::codes::Disconnect;
use crate::protocol::plain::item;

impl Shard {
    /// Hands a run to one subscription.
    pub(super) fn deliver_apart(&mut self, subscription: Key, run: &Run, now: Now) {
        let Some(entry) = self.local.subscription(subscription) else { return };
        let conn = entry.conn;
        let Some(served) = self.local.served(entry).filter(|served| served.offset < run.last()) else { return };
        let name = self.local.channel_name(entry).clone();
        self.local.mark_served(subscription, run.last());
        let is_poll = matches!(self.connections.get(conn).map(|cell| &cell.stage), Some(Stage::Poll(_)));
        match run {
            Run::Publications(publications) => self.poll_live(conn, unseen(publications, served.offset), None),
            Run::Lost(to) => {
                let extent = Extent::between(served.offset, to.offset);
                self.metrics.gaps.one(item::reason(GapReason::Slow));
                if is_poll {
                    self.poll_live(conn, &[], Some((&name, &slow_gap(served.epoch, extent))));
                } else {
                    self.lose(subscription, &name, served.epoch, extent, now);
                }
            }
        }
        if is_poll {
            self.poll_answered(conn, now);
        }
    }

    /// Publications have been lost on their way here: their subscriber is told.
    fn lose(&mut self, subscription: Key, name: &ChannelName, epoch: Epoch, extent: Extent, now: Now) {
        let Some(entry) = self.local.subscription(subscription) else { return };
        let (conn, audience) = (entry.conn, self.audiences.get(entry.audience).clone());
        // Of a state channel only the latest value matters, and that has not been lost.
        if self.options.hub.is_state(name.as_str()) {
            return;
        }
        if !audience.can_say_gaps() {
            return self.close_for_loss(conn, now);
        }
        let mut encoder = Encoder::new(&mut self.deflater, &self.options);
        let mut gap = |extent| encoder.gap(&audience, name, &slow_gap(epoch, extent)).map(Into::into);
        self.connections.lose(conn.slot, subscription.index, extent, &mut gap);
        self.moved(conn);
    }

    /// Publications did not fit: the namespace's policy decides.
    pub(super) fn slow_consumer(&mut self, slot: u32, frame: Frame, name: &ChannelName, now: Now) {
        let FrameTag::Publications { subscription, .. } = frame.tag else { return };
        let Some(conn) = self.connections.at(slot) else { return };
        let Some((_, entry)) = self.local.subscription_at(subscription) else { return };
        let audience = self.audiences.get(entry.audience).clone();
        let Some(epoch) = self.local.served(entry).map(|served| served.epoch) else { return };
        let (bytes_max, policy) = self.policy(name);
        self.metrics.slow_consumer.one(policy.label());
        let state = self.options.hub.is_state(name.as_str());
        let bytes = frame.blob.len();
        let mut encoder = Encoder::new(&mut self.deflater, &self.options);
        let mut gap = |extent| {
            let gap = slow_gap(epoch, extent);
            if state { None } else { encoder.gap(&audience, name, &gap).map(Into::into) }
        };
        let made = self.connections.change_queue(slot, |queue| queue.make_room(policy, frame.tag, bytes, bytes_max, &mut gap));
        match made.flatten() {
            None => self.close_with(conn, Disconnect::Slow, now),
            Some(dropped) if dropped > 0 && !state && !audience.can_say_gaps() => self.close_for_loss(conn, now),
            Some(dropped) => {
                self.metrics.publications_dropped.add([policy.label().into(), Label::None, Label::None], dropped);
                if dropped > 0 && !state {
                    self.metrics.gaps.one(item::reason(GapReason::Slow));
                }
                self.metrics.deliveries[audience.kind().index()] += frame.tag.publications();
                // The newest is kept whatever else waits: a policy that drops never disconnects.
                self.connections.deliver(slot, frame);
            }
        }
    }

    /// What passes by on a state channel did not fit: it is not kept for anybody.
    pub(super) fn give_up_passing(&mut self, frame: Frame) {
        let FrameTag::Publications { extent, .. } = frame.tag else { return };
        self.metrics.publications_dropped.add([SlowConsumer::Latest.label().into(), Label::None, Label::None], extent.count());
    }

    /// State channels conflate whatever their policy says: their latest value is all that matters.
    fn policy(&self, name: &ChannelName) -> (usize, SlowConsumer) {
        let (bytes_max, policy) = self.options.slow_consumer(name);
        if self.options.hub.is_state(name.as_str()) && policy == SlowConsumer::Disconnect {
            (bytes_max, SlowConsumer::Latest)
        } else {
            (bytes_max, policy)
        }
    }

    /// A gap that cannot be said on this connection.
    pub(super) fn close_for_loss(&mut self, conn: ConnId, now: Now) {
        self.close_with(conn, Disconnect::InsufficientState, now);
    }

    /// Ends a subscriber's connection in its transport's own way: what has not begun to leave is given up, the rest is finished.
    pub(super) fn close_with(&mut self, conn: ConnId, disconnect: Disconnect, now: Now) {
        self.leave_all(conn);
        self.connections.change_queue(conn.slot, super::queue::SendQueue::drop_publications);
        match self.connections.get(conn).map(|cell| &cell.stage) {
            Some(Stage::WebSocket(_)) => self.close_websocket(conn, disconnect, now),
            Some(Stage::Stream(stream)) => {
                let audience = self.audiences.get(stream.audience).clone();
                let retry = self.comes_back_in(disconnect);
                let bytes = self.encoder().end(&audience, disconnect, retry);
                self.disconnected(conn, disconnect.item_number());
                self.say(conn, bytes);
                self.end(conn, now);
            }
            Some(_) => self.abort(conn),
            None => {}
        }
    }

    pub(super) fn encoder(&mut self) -> Encoder<'_> {
        Encoder::new(&mut self.deflater, &self.options)
    }
}

/// The gap in the place of publications that a reader did not get.
fn slow_gap(epoch: Epoch, extent: Extent) -> Gap {
    let at = |offset| StreamPosition { epoch, offset };
    Gap { reason: GapReason::Slow, after: Some(at(extent.after()).into()), next: at(extent.to() + 1), missed: Some(extent.count()) }
}
