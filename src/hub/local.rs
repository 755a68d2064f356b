//! The subscribers' side of channels on one worker: who is here, and what is on its way to them.
//!
//! ```text
//!   Publication ─▶ [fan-out queue of the channel] ─▶ run ─▶ cursor over the groups' entries ─▶ connections
//! ```
//!
//! Invariants:
//! - One cursor per channel. The next run starts behind it, so every subscriber sees the channel's order.
//! - An entry's `live_after` is the offset up to which its subscriber has been served; a run skips what it already has.
//! - While a cursor is open an entry is never moved: removal leaves a tombstone, joins append.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::fan::{Fan, Item};
use super::home::LINGER;
use super::message::{Answer, Start};
use super::publication::{ChannelName, Publication};
use super::recent::Recent;
use super::{Map, NamespaceId, Options};
use crate::base::{Arena, ConnId, Epoch, Key, Mutant, Nanos, StreamPosition, mutated};

pub use super::fan::{Cursor, RUN_PUBLICATIONS_MAX, Run};

/// A kind of receiver that gets the same bytes as every other of its kind; the shard gives the numbers out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AudienceId(pub u16);

/// Polled channels looked at again per call.
const LINGERING_STEPS_MAX: usize = 1024;

/// End of a connection's list of subscriptions.
pub const NO_SUBSCRIPTION: u32 = u32::MAX;

/// One connection's subscription to one channel.
#[derive(Debug)]
pub struct Subscription {
    /// A connection of this worker: those of others are known to their own only.
    pub conn: ConnId,
    /// The connection's next subscription, or [`NO_SUBSCRIPTION`].
    pub next: u32,
    /// The group that it is in once it is live; it never changes.
    pub audience: AudienceId,
    /// The epoch of the position that the connection came with, if it came with one.
    pub resumes: Option<Epoch>,
    channel: Key,
    phase: Phase,
}

/// How far a subscription has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The home has been asked and has not answered.
    Asked,
    /// Catching up by pages, one at a time; the one that reaches the head makes it live.
    CatchingUp {
        /// Everything up to this offset has been queued.
        after: u64,
        /// A page is on its way, so no other is asked for.
        asked: bool,
        /// Pages that have come behind the first one; wraps.
        pages: u32,
    },
    /// In the channel's fan-out: it gets what comes.
    Live {
        /// Index into its group's entries; another one's leaving may change it.
        place: u32,
    },
}

/// One live subscriber in a group.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The connection's slot.
    pub slot: u32,
    /// The subscription's index, or [`NO_SUBSCRIPTION`] for a tombstone.
    pub subscription: u32,
    /// Everything up to this offset has been queued for it.
    pub live_after: u64,
}

/// Live subscribers that get the same bytes.
#[derive(Debug)]
pub struct Group {
    /// What they have in common; a channel has one group of each.
    pub audience: AudienceId,
    /// In no order, and with tombstones while a cursor is open.
    pub entries: Vec<Entry>,
    tombstones: u32,
}

#[derive(Debug)]
struct Channel {
    name: ChannelName,
    groups: Vec<Group>,
    fan: Option<Box<Fan>>,
    recent: Option<Box<Recent>>,
    /// The epoch and the last offset seen in the home's FIFO; `None` before the first answer.
    seen: Option<StreamPosition>,
    subscriptions: u32,
    namespace: Option<NamespaceId>,
}

/// What must be told after a subscription has gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Left {
    /// Others are still here, or the channel lingers.
    Wanted,
    /// The home is to be told with `Leave`.
    Unwanted(ChannelName),
}

/// All channels with subscribers on this worker.
#[derive(Debug, Default)]
pub struct Local {
    names: Map<ChannelName, Key>,
    channels: Arena<Channel>,
    subscriptions: Arena<Subscription>,
    active: VecDeque<Key>,
    windows: BinaryHeap<Reverse<(Nanos, Key)>>,
    lingering: VecDeque<(Nanos, Key)>,
    collapsed: u64,
}

impl Local {
    /// Notes a subscription that its home is about to be asked for. `next` chains it into its connection's list.
    pub fn join(
        &mut self,
        channel: &ChannelName,
        conn: ConnId,
        audience: AudienceId,
        start: Start,
        next: u32,
        options: &Options,
    ) -> Key {
        let channel = match self.names.get(channel) {
            Some(&key) => key,
            None => self.add_channel(channel, options.namespace_id(channel.as_str())),
        };
        self.channels[channel].subscriptions += 1;
        let resumes = match start {
            Start::After(position) => Some(position.epoch),
            Start::Now | Start::Beginning | Start::Newest(_) | Start::Elsewhere(_) | Start::Unreadable => None,
        };
        self.subscriptions.insert(Subscription { conn, next, audience, resumes, channel, phase: Phase::Asked })
    }

    /// Forgets a subscription in whatever phase it is.
    pub fn leave(&mut self, subscription: Key) -> Left {
        let Some(Subscription { channel: key, audience, phase, .. }) = self.subscriptions.remove(subscription) else {
            return Left::Wanted;
        };
        if let Phase::Live { place } = phase {
            self.take_out(key, audience, place);
        }
        let channel = &mut self.channels[key];
        channel.subscriptions -= 1;
        if channel.subscriptions > 0 || channel.recent.is_some() { Left::Wanted } else { self.forget(key) }
    }

    /// Enters the home's answer. Returns the phase the subscription is in now, `None` if it has gone meanwhile.
    pub fn answered(&mut self, subscription: Key, answer: &Answer) -> Option<Phase> {
        let Subscription { conn, channel, audience, phase, .. } = *self.subscriptions.get(subscription)?;
        let Channel { seen, recent, .. } = &mut self.channels[channel];
        let seen = seen.get_or_insert(answer.top);
        if answer.top.offset > seen.offset {
            seen.offset = answer.top.offset;
            // The answer has overtaken publications that were given up on the way; a poll from before them is the home's to answer.
            if let Some(recent) = recent {
                recent.restart(answer.top.offset);
            }
        }
        let phase = if answer.head {
            self.put_in(
                channel,
                audience,
                Entry { slot: conn.slot, subscription: subscription.index, live_after: answer.top.offset },
            )
        } else {
            let after = answer.page.last().map_or(answer.from.offset, |last| last.position.offset);
            let pages = match phase {
                Phase::CatchingUp { pages, .. } => pages.wrapping_add(1),
                Phase::Asked | Phase::Live { .. } => 0,
            };
            Phase::CatchingUp { after, asked: false, pages }
        };
        self.subscriptions[subscription].phase = phase;
        Some(phase)
    }

    /// Where a catching-up subscription goes on, if it waits for room; notes that the page is now on its way.
    pub fn next_page(&mut self, subscription: Key) -> Option<(ChannelName, StreamPosition)> {
        let entry = self.subscriptions.get_mut(subscription)?;
        let Phase::CatchingUp { after, asked: false, pages } = entry.phase else { return None };
        entry.phase = Phase::CatchingUp { after, asked: true, pages };
        let channel = &self.channels[entry.channel];
        Some((channel.name.clone(), StreamPosition { epoch: channel.seen?.epoch, offset: after }))
    }

    /// A publication has come in the home's FIFO.
    pub fn publication(&mut self, publication: Arc<Publication>, options: &Options, now: Nanos) {
        let Some(&key) = self.names.get(&publication.channel) else { return };
        let channel = &mut self.channels[key];
        channel.seen = Some(publication.position);
        if let Some(recent) = &mut channel.recent {
            recent.push(Arc::clone(&publication));
        }
        if channel.groups.iter().any(|group| !group.entries.is_empty()) {
            let window = options.policy(channel.namespace).map_or(Duration::ZERO, |namespace| namespace.coalesce);
            self.queue(key, Item::Publication(publication), window, now);
        }
    }

    /// The home's FIFO says that publications up to a position are not coming.
    pub fn lost(&mut self, name: &ChannelName, to: StreamPosition, now: Nanos) {
        let Some(&key) = self.names.get(name) else { return };
        let channel = &mut self.channels[key];
        channel.seen = Some(to);
        if let Some(recent) = &mut channel.recent {
            recent.restart(to.offset);
        }
        self.queue(key, Item::Lost(to), Duration::ZERO, now);
    }

    /// The next channel with something to hand out, in turn.
    pub fn next_active(&mut self, now: Nanos) -> Option<Key> {
        self.open_windows(now);
        while let Some(key) = self.active.pop_front() {
            // A channel that was forgotten while it was active leaves its name behind.
            if let Some(fan) = self.channels.get_mut(key).and_then(|channel| channel.fan.as_mut()) {
                fan.active = false;
                return Some(key);
            }
        }
        None
    }

    /// When a coalescing window ends, or something can go out at once.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        if !self.active.is_empty() {
            return Some(Nanos(0));
        }
        self.windows.peek().map(|Reverse((at, _))| *at)
    }

    /// Whether something waits to be handed out now.
    #[must_use]
    pub fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// The channel's open cursor, or a new one over what is queued. `None` if there is nothing.
    pub fn open(&mut self, key: Key, publications_max: usize, now: Nanos) -> Option<Cursor> {
        self.channels[key].fan.as_mut()?.open(publications_max, now)
    }

    /// The groups of a channel, in the order the cursor walks them.
    pub fn groups(&mut self, key: Key) -> &mut [Group] {
        &mut self.channels[key].groups
    }

    /// Puts a cursor back: its slice is over.
    pub fn suspend(&mut self, key: Key, cursor: Cursor) {
        let Some(fan) = self.channels[key].fan.as_mut() else { return };
        fan.suspend(cursor);
        if !std::mem::replace(&mut fan.active, true) {
            self.active.push_back(key);
        }
    }

    /// The cursor has passed every entry. `window` is the namespace's coalescing window.
    pub fn finish(&mut self, key: Key, window: Duration, now: Nanos) {
        let channel = &mut self.channels[key];
        for group in channel.groups.iter_mut().filter(|group| group.tombstones > 0) {
            compact(group, &mut self.subscriptions);
        }
        channel.groups.retain(|group| !group.entries.is_empty());
        let Some(fan) = channel.fan.as_mut() else { return };
        let reopens = fan.reopens(window, now);
        if !fan.is_due() && reopens > now {
            fan.not_before = reopens;
            self.windows.push(Reverse((fan.not_before, key)));
        } else if fan.is_idle() {
            channel.fan = None;
        } else if !std::mem::replace(&mut fan.active, true) {
            self.active.push_back(key);
        }
    }

    /// Answers a poll from what this worker has seen of the channel, if that reaches back to the position. `ttl` is how long the
    /// namespace serves a publication.
    pub fn answer_poll(&mut self, name: &ChannelName, start: Start, ttl: Duration, now: Nanos) -> Option<Answer> {
        let Start::After(position) = start else { return None };
        let channel = &mut self.channels[*self.names.get(name)?];
        let seen = channel.seen.filter(|seen| seen.epoch == position.epoch && position.offset <= seen.offset)?;
        let recent = channel.recent.as_mut()?;
        let page = recent.after(position.offset, ttl, now)?;
        recent.until = now + LINGER;
        Some(Answer { top: seen, from: position, outcome: super::Outcome::Exact, page, head: true })
    }

    /// Keeps the channel and what comes in it for a while after this poll, for the next one.
    pub fn linger(&mut self, subscription: Key, now: Nanos) {
        let Some(key) = self.subscriptions.get(subscription).map(|subscription| subscription.channel) else { return };
        let channel = &mut self.channels[key];
        let Some(seen) = channel.seen else { return };
        match &mut channel.recent {
            Some(recent) => recent.until = now + LINGER,
            None => {
                channel.recent = Some(Box::new(Recent::new(seen.offset, now + LINGER)));
                self.lingering.push_back((now + LINGER, key));
            }
        }
    }

    /// Whether channels are kept here that nobody subscribes to.
    #[must_use]
    pub fn has_lingering(&self) -> bool {
        !self.lingering.is_empty()
    }

    /// Lets go of channels that have lingered long enough, a bounded number per call: those that their homes are to be told
    /// about, and whether there are more.
    pub fn stop_lingering(&mut self, now: Nanos) -> (Vec<ChannelName>, bool) {
        let mut unwanted = Vec::new();
        for _ in 0..LINGERING_STEPS_MAX {
            let Some(&(_, key)) = self.lingering.front().filter(|(at, _)| *at <= now) else { return (unwanted, false) };
            self.lingering.pop_front();
            let Some(channel) = self.channels.get_mut(key) else { continue };
            let Some(until) = channel.recent.as_ref().map(|recent| recent.until) else { continue };
            if until > now {
                self.lingering.push_back((until, key));
                continue;
            }
            channel.recent = None;
            if channel.subscriptions == 0
                && let Left::Unwanted(name) = self.forget(key)
            {
                unwanted.push(name);
            }
        }
        (unwanted, true)
    }

    /// The subscription, unless it has gone.
    #[must_use]
    pub fn subscription(&self, key: Key) -> Option<&Subscription> {
        self.subscriptions.get(key)
    }

    /// The full name of a subscription that its connection still lists.
    #[must_use]
    pub fn subscription_at(&self, index: u32) -> Option<(Key, &Subscription)> {
        Some((self.subscriptions.key_at(index)?, self.subscriptions.at(index)?))
    }

    /// How far the subscription is, unless it has gone.
    #[must_use]
    pub fn phase(&self, key: Key) -> Option<Phase> {
        self.subscriptions.get(key).map(|subscription| subscription.phase)
    }

    /// The name of a subscription's channel.
    #[must_use]
    pub fn channel_name(&self, subscription: &Subscription) -> &ChannelName {
        &self.channels[subscription.channel].name
    }

    /// How far a subscription has been served: the position to resume from.
    #[must_use]
    pub fn served(&self, subscription: &Subscription) -> Option<StreamPosition> {
        let channel = &self.channels[subscription.channel];
        let epoch: Epoch = channel.seen?.epoch;
        let offset = match subscription.phase {
            Phase::Asked => return None,
            Phase::CatchingUp { after, .. } => after,
            Phase::Live { place } => {
                let group = channel.groups.iter().find(|group| group.audience == subscription.audience)?;
                group.entries.get(place as usize)?.live_after
            }
        };
        Some(StreamPosition { epoch, offset })
    }

    /// Notes that a live subscription has been served up to an offset by other means than its group's run.
    pub fn mark_served(&mut self, key: Key, offset: u64) {
        let Some(Subscription { channel, audience, phase: Phase::Live { place }, .. }) = self.subscriptions.get(key) else {
            return;
        };
        let groups = &mut self.channels[*channel].groups;
        if let Some(entry) =
            groups.iter_mut().find(|group| group.audience == *audience).and_then(|group| group.entries.get_mut(*place as usize))
        {
            entry.live_after = entry.live_after.max(offset);
        }
    }

    /// The options have been replaced: finds the namespaces of all channels anew.
    pub fn reload(&mut self, options: &Options) {
        for (name, &key) in &self.names {
            self.channels[key].namespace = options.namespace_id(name.as_str());
        }
    }

    /// A channel's namespace, for [`Options::policy`].
    #[must_use]
    pub fn namespace_of(&self, key: Key) -> Option<NamespaceId> {
        self.channels[key].namespace
    }

    /// The name of a channel.
    #[must_use]
    pub fn channel_of(&self, key: Key) -> &ChannelName {
        &self.channels[key].name
    }

    /// Publications given up because too much waited for a channel's subscribers here.
    #[must_use]
    pub const fn collapsed(&self) -> u64 {
        self.collapsed
    }

    /// Channels with their subscriptions on this worker.
    pub fn subscriptions_by_channel(&self) -> impl Iterator<Item = (&ChannelName, u32)> {
        self.names.iter().map(|(name, &key)| (name, self.channels[key].subscriptions))
    }

    /// Subscriptions on this worker.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    fn add_channel(&mut self, name: &ChannelName, namespace: Option<NamespaceId>) -> Key {
        let (name, groups) = (name.clone(), Vec::new());
        let channel = Channel { name: name.clone(), groups, fan: None, recent: None, seen: None, subscriptions: 0, namespace };
        let key = self.channels.insert(channel);
        self.names.insert(name, key);
        key
    }

    fn forget(&mut self, key: Key) -> Left {
        let Some(channel) = self.channels.remove(key) else { return Left::Wanted };
        self.names.remove(&channel.name);
        Left::Unwanted(channel.name)
    }

    fn put_in(&mut self, key: Key, audience: AudienceId, entry: Entry) -> Phase {
        let groups = &mut self.channels[key].groups;
        let at = groups.iter().position(|group| group.audience == audience).unwrap_or_else(|| {
            // Most channels have one subscriber: no slack before there is a second.
            groups.reserve_exact(1);
            groups.push(Group { audience, entries: Vec::with_capacity(1), tombstones: 0 });
            groups.len() - 1
        });
        let entries = &mut groups[at].entries;
        entries.push(entry);
        Phase::Live { place: u32::try_from(entries.len() - 1).unwrap_or(u32::MAX) }
    }

    fn take_out(&mut self, key: Key, audience: AudienceId, place: u32) {
        let channel = &mut self.channels[key];
        let open = channel.fan.as_ref().is_some_and(|fan| fan.is_open()) && !mutated(Mutant::SwapUnderCursor);
        let Some(at) = channel.groups.iter().position(|group| group.audience == audience) else { return };
        let group = &mut channel.groups[at];
        if open {
            group.entries[place as usize].subscription = NO_SUBSCRIPTION;
            group.tombstones += 1;
            return;
        }
        group.entries.swap_remove(place as usize);
        if let Some(moved) = group.entries.get(place as usize)
            && let Some(subscription) = self.subscriptions.at_mut(moved.subscription)
        {
            subscription.phase = Phase::Live { place };
        }
        if group.entries.is_empty() {
            channel.groups.swap_remove(at);
        } else if group.entries.len() * 4 < group.entries.capacity() {
            group.entries.shrink_to(group.entries.len() * 2);
        }
    }

    fn queue(&mut self, key: Key, item: Item, window: Duration, now: Nanos) {
        let fan = self.channels[key].fan.get_or_insert_default();
        self.collapsed += fan.push(item);
        // An open window or cursor brings the channel back by itself.
        let held = !window.is_zero() && fan.not_before > now;
        if !held && !std::mem::replace(&mut fan.active, true) {
            self.active.push_back(key);
        }
    }

    fn open_windows(&mut self, now: Nanos) {
        while let Some(&Reverse((at, key))) = self.windows.peek().filter(|Reverse((at, _))| *at <= now) {
            self.windows.pop();
            let Some(channel) = self.channels.get_mut(key) else { continue };
            let Some(fan) = channel.fan.as_mut().filter(|fan| fan.not_before == at) else { continue };
            if fan.is_idle() {
                channel.fan = None;
            } else if !std::mem::replace(&mut fan.active, true) {
                self.active.push_back(key);
            }
        }
    }
}

/// Removes the tombstones of a group; the entries moved into their places are told.
fn compact(group: &mut Group, subscriptions: &mut Arena<Subscription>) {
    group.tombstones = 0;
    let mut place = 0;
    while place < group.entries.len() {
        if group.entries[place].subscription != NO_SUBSCRIPTION {
            place += 1;
            continue;
        }
        group.entries.swap_remove(place);
        // What was moved here may itself be a tombstone: the loop looks at this place again.
        if let Some(subscription) = group.entries.get(place).and_then(|moved| subscriptions.at_mut(moved.subscription)) {
            subscription.phase = Phase::Live { place: u32::try_from(place).unwrap_or(u32::MAX) };
        }
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
