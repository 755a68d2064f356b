//! Deliveries that are not the same for everybody: losses, several-channel receivers, full queues.

use std::sync::Arc;

use super::Shard;
use super::encode::{self, Encoder};
use super::queue::Dropped;
use super::stage::Stage;
use crate::base::{ConnId, Epoch, Frame, FrameTag, Key, Now, StreamPosition};
use crate::hub::local::Run;
use crate::hub::{ChannelName, Gap, GapReason, Publication, SlowConsumer};
use crate::metrics::Label;
use crate::protocol::codes::Disconnect;
use crate::protocol::plain::item;

impl Shard {
    /// Hands a run to one subscription.
    pub(super) fn deliver_single(&mut self, subscription: Key, run: &Run, now: Now) {
        let Some(entry) = self.local.subscription(subscription) else { return };
        let (conn, audience) = (entry.conn, entry.audience);
        let Some(served) = self.local.served(entry) else { return };
        if served.offset >= run.last() {
            return;
        }
        let name = self.local.channel_name(entry).clone();
        self.local.mark_served(subscription, run.last());
        if let Some(Stage::Poll(_)) = self.connections.get(conn).map(|cell| &cell.stage) {
            self.poll_run(conn, &name, served, run);
            return self.poll_answered(conn, now);
        }
        let audience = self.audiences.get(audience).clone();
        let bytes = match run {
            Run::Publications(publications) => {
                let news = unseen(publications, served.offset);
                self.metrics.deliveries[audience.kind().index()] += news.len() as u64;
                Some(self.encoder().run(&audience, news))
            }
            Run::Lost(to) => {
                self.metrics.gaps.one(item::reason(GapReason::Slow));
                self.encoder().gap(&audience, &name, &lost(served, to.offset))
            }
        };
        let Some(bytes) = bytes else { return self.close_for_loss(conn, now) };
        let bytes = if audience.single { encode::with_position(&audience, bytes, &self.positions_of(conn)) } else { bytes };
        let tag = FrameTag { subscription: subscription.index, count: 1, key: 0, offset: run.last() };
        let (bytes_max, _) = self.options.slow_consumer(&name);
        let frame = Frame { blob: bytes.into(), tag };
        if self.connections.admits(conn.slot, &frame, bytes_max) {
            self.connections.deliver(conn.slot, frame);
        } else {
            self.slow_consumer(conn.slot, frame, &name, now);
        }
    }

    fn poll_run(&mut self, conn: ConnId, name: &ChannelName, served: StreamPosition, run: &Run) {
        match run {
            Run::Publications(publications) => self.poll_live(conn, unseen(publications, served.offset), None),
            Run::Lost(to) => self.poll_live(conn, &[], Some((name, &lost(served, to.offset)))),
        }
    }

    /// A frame did not fit: the namespace's policy decides.
    pub(super) fn slow_consumer(&mut self, slot: u32, frame: Frame, name: &ChannelName, now: Now) {
        let Some(conn) = self.connections.at(slot) else { return };
        let Some((_, entry)) = self.local.subscription_at(frame.tag.subscription) else { return };
        let audience = self.audiences.get(entry.audience).clone();
        let Some(epoch) = self.local.served(entry).map(|served| served.epoch) else { return };
        let (bytes_max, policy) = self.policy(name);
        self.metrics.slow_consumer.one(policy.label());
        let state = self.options.hub.is_state(name.as_str());
        let bytes = frame.blob.len();
        let mut encoder = Encoder { deflater: &mut self.deflater, options: &self.options.ws };
        let mut gap = |dropped: Dropped| {
            let gap = dropped_gap(epoch, dropped);
            if state { None } else { encoder.gap(&audience, name, &gap).map(Into::into) }
        };
        let made = self.connections.change_queue(slot, |queue| queue.make_room(policy, frame.tag, bytes, bytes_max, &mut gap));
        match made.flatten() {
            None => self.close_with(conn, Disconnect::Slow, now),
            Some(dropped) if dropped > 0 && !state && !audience.can_say_gaps() => self.close_for_loss(conn, now),
            Some(dropped) => {
                self.metrics.publications_dropped.add([policy.label().into(), Label::None, Label::None], u64::from(dropped));
                // What other subscriptions of the connection have queued is not this policy's to drop.
                if self.connections.admits(slot, &frame, bytes_max) {
                    self.connections.deliver(slot, frame);
                } else {
                    self.close_with(conn, Disconnect::Slow, now);
                }
            }
        }
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
                let retry = self.retry();
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
        Encoder { deflater: &mut self.deflater, options: &self.options.ws }
    }
}

/// The publications of a run behind an offset.
fn unseen(publications: &[Arc<Publication>], after: u64) -> &[Arc<Publication>] {
    &publications[publications.partition_point(|publication| publication.position.offset <= after)..]
}

fn lost(served: StreamPosition, to: u64) -> Gap {
    let missed = to.saturating_sub(served.offset);
    Gap { reason: GapReason::Slow, after: Some(served), next: StreamPosition { offset: to + 1, ..served }, missed: Some(missed) }
}

fn dropped_gap(epoch: Epoch, dropped: Dropped) -> Gap {
    let at = |offset| StreamPosition { epoch, offset };
    Gap {
        reason: GapReason::Slow,
        after: Some(at(dropped.after)),
        next: at(dropped.to + 1),
        missed: Some(u64::from(dropped.count)),
    }
}
