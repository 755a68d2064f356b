//! Publications to subscribers: encoded once per audience, handed out in slices.
//!
//! This loop is the product. A slice walks the channel's groups; every subscriber of a group gets a count of the same bytes,
//! unless it already has part of the run. What a subscriber's full queue or finished poll asks for is done after the slice, so
//! that no entry moves under the cursor.

use std::sync::Arc;
use std::time::Duration;

use super::Shard;
use super::audience::{Audience, Shape};
use super::connections::Connections;
use super::encode::Encoder;
use crate::base::{Blob, Extent, Frame, FrameTag, Key, Now};
use crate::hub::local::{Cursor, Entry, NO_SUBSCRIPTION, RUN_PUBLICATIONS_MAX, Run};
use crate::hub::{ChannelName, Publication, SlowConsumer};

/// What a call of [`Shard::fan_out`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FanOut {
    /// Frames handed to connections.
    pub sends: u32,
    /// Whether there is more to hand out now.
    pub more: bool,
}

/// What a slice leaves to do.
#[derive(Debug, Default)]
pub(super) struct Aftermath {
    /// Connections whose queue refused the frame.
    full: Vec<(u32, Frame)>,
    /// Subscriptions that get bytes of their own: losses, and items of polls of several channels.
    apart: Vec<u32>,
    /// Connections whose poll the run has answered, and with what.
    answered: Vec<(u32, Blob)>,
    /// Connections with several channels, which are somewhere else now.
    moved: Vec<u32>,
}

impl Shard {
    /// Hands out queued publications, at most `sends_max` frames.
    pub fn fan_out(&mut self, sends_max: u32, now: Now) -> FanOut {
        self.now = now;
        for stored in self.leaving.drain(..) {
            self.publish_to_last_write.record(now.monotonic.since(stored));
        }
        self.run_loopback(now);
        let mut left = sends_max;
        while left > 0 {
            let Some(channel) = self.local.next_active(now.monotonic) else { break };
            left = left.saturating_sub(self.fan_out_channel(channel, left, now).max(1));
            self.run_loopback(now);
        }
        FanOut { sends: sends_max - left, more: self.local.has_active() }
    }

    fn fan_out_channel(&mut self, channel: Key, sends_max: u32, now: Now) -> u32 {
        let namespace = self.options.hub.policy(self.local.namespace_of(channel));
        // A queue gives up whole frames, and which publication has a newer one of its key is for each to say.
        let conflates = namespace.is_some_and(|namespace| namespace.slow_consumer == SlowConsumer::Conflate);
        let publications_max = if conflates { 1 } else { RUN_PUBLICATIONS_MAX };
        let Some(mut cursor) = self.local.open(channel, publications_max, now.monotonic) else { return 0 };
        let name = self.local.channel_of(channel).clone();
        let (bytes_max, window) =
            namespace.map_or((0, Duration::ZERO), |namespace| (namespace.queue_bytes_max, namespace.coalesce));
        let mut aftermath = std::mem::take(&mut self.aftermath);
        let sends = self.advance(channel, bytes_max, &mut cursor, sends_max, &mut aftermath);
        let run = cursor.run.clone();
        if cursor.group < self.local.groups(channel).len() {
            self.local.suspend(channel, cursor);
        } else {
            if let Run::Publications(publications) = &run {
                self.leaving.extend(publications.first().map(|publication| publication.stored));
            }
            self.local.finish(channel, window, now.monotonic);
        }
        self.settle(&name, &run, &mut aftermath, now);
        self.aftermath = aftermath;
        sends
    }

    /// Moves the cursor over at most `sends_max` entries.
    fn advance(&mut self, channel: Key, bytes_max: usize, cursor: &mut Cursor, sends_max: u32, aftermath: &mut Aftermath) -> u32 {
        let mut visited = 0;
        while let Some(group) = self.local.groups(channel).get_mut(cursor.group) {
            let audience = self.audiences.get(group.audience);
            let end = group.entries.len().min(cursor.index + (sends_max - visited) as usize);
            let slice = &mut group.entries[cursor.index..end];
            visited += u32::try_from(slice.len()).unwrap_or(u32::MAX);
            match &cursor.run {
                Run::Publications(run) if !(audience.several && audience.transport == Shape::Poll) => {
                    let mut encoder = Encoder::new(&mut self.deflater, &self.options);
                    let blob = cursor.blob.get_or_insert_with(|| encoder.run(audience, run).into());
                    let shared = Shared { audience, run, blob, bytes_max };
                    let delivered = shared.hand_out(slice, &mut self.connections, &mut encoder, aftermath);
                    self.metrics.deliveries[audience.kind().index()] += delivered;
                }
                Run::Publications(_) | Run::Lost(_) => aftermath.apart.extend(slice.iter().map(|entry| entry.subscription)),
            }
            cursor.index = end;
            if end == group.entries.len() {
                (cursor.group, cursor.index, cursor.blob) = (cursor.group + 1, 0, None);
            }
            if visited == sends_max {
                break;
            }
        }
        visited
    }

    /// Does what the slice could not do under the cursor.
    fn settle(&mut self, name: &ChannelName, run: &Run, aftermath: &mut Aftermath, now: Now) {
        let passing = run.is_passing();
        for (slot, frame) in aftermath.full.drain(..) {
            if passing {
                // It must not take the place of the channel's value, which nobody would send again.
                self.give_up_passing(frame);
            } else {
                self.slow_consumer(slot, frame, name, now);
            }
        }
        for index in aftermath.apart.drain(..) {
            let Some((subscription, _)) = self.local.subscription_at(index) else { continue };
            self.deliver_apart(subscription, run, now);
        }
        for (slot, content) in aftermath.answered.drain(..) {
            let Some(conn) = self.connections.at(slot) else { continue };
            self.poll_shared(conn, content, now);
        }
        for slot in aftermath.moved.drain(..) {
            let Some(conn) = self.connections.at(slot) else { continue };
            self.moved(conn);
        }
    }
}

/// One run for one audience.
struct Shared<'a> {
    audience: &'a Audience,
    run: &'a [Arc<Publication>],
    blob: &'a Blob,
    bytes_max: usize,
}

impl Shared<'_> {
    /// Queues the run for every entry that has not had it. Returns the publications delivered.
    fn hand_out(
        &self,
        entries: &mut [Entry],
        connections: &mut Connections,
        encoder: &mut Encoder<'_>,
        aftermath: &mut Aftermath,
    ) -> u64 {
        let (Some(first), Some(last)) = (self.run.first(), self.run.last()) else { return 0 };
        let (first, last) = (first.position.offset, last.position.offset);
        let is_poll = self.audience.transport == Shape::Poll;
        let key = conflation_key(self.run);
        let mut delivered = 0;
        for entry in entries {
            if entry.live_after >= last || entry.subscription == NO_SUBSCRIPTION {
                continue;
            }
            let joined_within = entry.live_after >= first;
            let news = if joined_within { unseen(self.run, entry.live_after) } else { self.run };
            let blob = if joined_within { encoder.run(self.audience, news).into() } else { self.blob.clone() };
            let extent = Extent::new(std::mem::replace(&mut entry.live_after, last), last, news.len() as u64);
            if is_poll {
                delivered += extent.count();
                aftermath.answered.push((entry.slot, blob));
                continue;
            }
            let frame = Frame { blob, tag: FrameTag::Publications { subscription: entry.subscription, key, extent } };
            match connections.offer(entry.slot, frame, self.bytes_max) {
                Ok(()) => delivered += extent.count(),
                Err(frame) => aftermath.full.push((entry.slot, frame)),
            }
            if self.audience.several {
                aftermath.moved.push(entry.slot);
            }
        }
        delivered
    }
}

/// The publications of a run that a subscriber who has everything up to an offset has not had.
pub(super) fn unseen(run: &[Arc<Publication>], after: u64) -> &[Arc<Publication>] {
    &run[run.partition_point(|publication| publication.position.offset <= after)..]
}

/// The key under which a frame of one publication may replace an older one; never 0.
fn conflation_key(run: &[Arc<Publication>]) -> u32 {
    let [publication] = run else { return 0 };
    let Some(key) = publication.extension.as_ref().and_then(|extension| extension.key.as_deref()) else { return 0 };
    let hash = ahash::RandomState::with_seeds(5, 6, 7, 8).hash_one(key);
    (hash as u32).max(1)
}
