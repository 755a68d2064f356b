//! Messages on their way to other workers: first in, first out, and bounded where a mailbox is full.
//!
//! ```text
//!   push ─▶ [this turn's] ─▶ offered to the shell ─┬─▶ mailbox
//!                                                  └─▶ [spilled]: the mailbox was full, all that comes later waits behind it
//! ```
//!
//! Only what has spilled is bounded; one turn's messages are as many as the turn's requests may carry. Above
//! [`SpillOptions::publish_bytes_max`] no more is published towards that worker until a quarter of it is left. Above
//! [`SpillOptions::delivery_bytes_max`] the spilled publications are given up, leaving one `Lost` per channel where its last one
//! stood, so that no subscribe answer overtakes or falls behind what it was ordered with. What a worker tells itself never
//! passes through the shell and so never spills.

use std::collections::{HashSet, VecDeque};

use super::options::SpillOptions;
use crate::base::{Mutant, ShardId, mutated};
use crate::hub::{ChannelName, Message, Role, WorkerSet};

/// What waits for every worker.
#[derive(Debug)]
pub struct Outbox {
    pub bounds: SpillOptions,
    me: ShardId,
    queues: Vec<Queue>,
    waiting: usize,
    /// Whether some queue was offered something, or was congested, when it was last settled.
    unsettled: bool,
    /// Messages that found their mailbox full, since the start.
    spilled: u64,
    /// Publications given up, since the start.
    collapsed: u64,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    size: Size,
    /// How much of it the shell has been offered. What is left of that at the end of the next turn has spilled.
    offered: Size,
    /// Messages at the front that have been counted as spilled.
    counted: usize,
    /// Bytes of deliveries that the last collapse had to keep: there is no use in trying again before they have doubled.
    incompressible: usize,
    congested: bool,
}

/// How much a stretch of messages is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Size {
    messages: usize,
    bytes: usize,
    /// Bytes of publications to subscribers among them.
    deliveries: usize,
}

impl Size {
    fn add(&mut self, message: &Message) {
        self.messages += 1;
        self.bytes += message.bytes();
        self.deliveries += delivery_bytes(message);
    }

    /// Saturates: an unordered pop is a mutant's.
    fn remove(&mut self, message: &Message) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(message.bytes());
        self.deliveries = self.deliveries.saturating_sub(delivery_bytes(message));
    }

    fn of<'a>(messages: impl Iterator<Item = &'a Message>) -> Self {
        let mut size = Self::default();
        messages.for_each(|message| size.add(message));
        size
    }
}

fn delivery_bytes(message: &Message) -> usize {
    if matches!(message, Message::Publication(_)) { message.bytes() } else { 0 }
}

impl Outbox {
    #[must_use]
    pub fn new(me: ShardId, shards: u16, bounds: SpillOptions) -> Self {
        let queues = (0..shards).map(|_| Queue::default()).collect();
        Self { bounds, me, queues, waiting: 0, unsettled: false, spilled: 0, collapsed: 0 }
    }

    pub fn push(&mut self, to: ShardId, message: Message) {
        let queue = &mut self.queues[to.index()];
        queue.size.add(&message);
        queue.messages.push_back(message);
        self.waiting += 1;
    }

    /// The next message for a worker whose mailbox has room.
    pub fn pop(&mut self, to: ShardId) -> Option<Message> {
        let queue = &mut self.queues[to.index()];
        if mutated(Mutant::SpillReorders) && queue.messages.len() > 1 {
            queue.messages.swap(0, 1);
        }
        let message = queue.messages.pop_front()?;
        queue.size.remove(&message);
        queue.offered.remove(&message);
        queue.counted = queue.counted.saturating_sub(1);
        self.waiting -= 1;
        if queue.messages.is_empty() && queue.messages.capacity() > 1024 {
            queue.messages = VecDeque::new();
        }
        Some(message)
    }

    /// The shell is about to be offered everything: what it left of the last offer has spilled, and is held to its bounds.
    /// Returns the workers towards which publishing is welcome again.
    pub fn settle(&mut self) -> WorkerSet {
        let mut relieved = WorkerSet::default();
        if self.waiting == 0 && !self.unsettled {
            return relieved;
        }
        self.unsettled = false;
        for (worker, queue) in (0..).map(ShardId).zip(&mut self.queues).filter(|(worker, _)| *worker != self.me) {
            self.spilled += queue.offered.messages.saturating_sub(queue.counted) as u64;
            queue.counted = queue.offered.messages;
            let given_up = queue.keep_within(self.bounds.delivery_bytes_max);
            self.collapsed += given_up.publications;
            self.waiting -= given_up.messages;
            let spilled = queue.offered.bytes;
            if queue.congested && spilled <= self.bounds.publish_bytes_max / 4 {
                queue.congested = false;
                relieved.insert(worker);
            }
            queue.congested |= spilled > self.bounds.publish_bytes_max;
            queue.offered = queue.size;
            self.unsettled |= queue.congested || queue.offered.messages > 0;
        }
        relieved
    }

    /// Whether anything waits for the worker.
    #[must_use]
    pub fn holds(&self, to: ShardId) -> bool {
        !self.queues[to.index()].messages.is_empty()
    }

    /// Bytes that wait for the worker.
    #[cfg(test)]
    fn bytes(&self, to: ShardId) -> usize {
        self.queues[to.index()].size.bytes
    }

    /// Whether anything waits for anybody.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether so much has spilled for the worker that publishing to channels whose home it is must wait.
    #[must_use]
    pub fn congested(&self, to: ShardId) -> bool {
        self.queues[to.index()].congested
    }

    /// Messages that found their mailbox full, since the start.
    #[must_use]
    pub const fn spilled(&self) -> u64 {
        self.spilled
    }

    /// Publications given up, since the start.
    #[must_use]
    pub const fn collapsed(&self) -> u64 {
        self.collapsed
    }
}

/// What a collapse took away.
#[derive(Clone, Copy, Debug, Default)]
struct GivenUp {
    publications: u64,
    messages: usize,
}

impl Queue {
    fn keep_within(&mut self, delivery_bytes_max: usize) -> GivenUp {
        if self.offered.deliveries <= delivery_bytes_max {
            self.incompressible = 0;
        }
        if self.offered.deliveries <= delivery_bytes_max.max(self.incompressible.saturating_mul(2)) {
            return GivenUp::default();
        }
        let before = self.messages.len();
        let mut fresh = self.messages.split_off(self.offered.messages.min(before));
        let publications = collapse(&mut self.messages);
        self.offered = Size::of(self.messages.iter());
        self.counted = self.offered.messages;
        self.incompressible = self.offered.deliveries;
        self.messages.append(&mut fresh);
        self.size = Size::of(self.messages.iter());
        GivenUp { publications, messages: before - self.messages.len() }
    }
}

/// Gives up publications; returns how many.
fn collapse(messages: &mut VecDeque<Message>) -> u64 {
    let mut seen: HashSet<ChannelName, ahash::RandomState> = HashSet::default();
    let mut given_up = 0;
    let mut kept: VecDeque<Message> = VecDeque::new();
    // From the back: the last publication of each channel says up to where it is lost.
    for message in messages.drain(..).rev() {
        match message {
            // Nobody is told of what passes by, and it must not stand for the value before it.
            Message::Publication(publication) if publication.role == Role::Passing => given_up += 1,
            Message::Publication(publication) => match (seen.insert(publication.channel.clone()), publication.role) {
                // A state channel's newest value is all that matters, so it stays.
                (true, Role::Value) => kept.push_front(Message::Publication(publication)),
                (true, Role::Event | Role::Passing) => {
                    given_up += 1;
                    kept.push_front(Message::Lost { channel: publication.channel.clone(), to: publication.position });
                }
                (false, _) => given_up += 1,
            },
            Message::Lost { channel, .. } if seen.contains(&channel) => {}
            Message::Lost { channel, to } => {
                seen.insert(channel.clone());
                kept.push_front(Message::Lost { channel, to });
            }
            other => kept.push_front(other),
        }
    }
    *messages = kept;
    given_up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ConnId, Epoch, StreamPosition, WallMs};
    use crate::hub::{Draft, Payload, PayloadKind, PublishRef};
    use std::sync::Arc;

    const ME: ShardId = ShardId(1);
    const TO: ShardId = ShardId(0);
    const MIB: usize = 1 << 20;

    fn outbox() -> Outbox {
        Outbox::new(ME, 2, SpillOptions::default())
    }

    fn draft(channel: &str, bytes: usize) -> Draft {
        Draft::new(ChannelName::parse(channel).unwrap(), Payload { kind: PayloadKind::Binary, bytes: vec![0; bytes].into() })
    }

    fn publication(channel: &str, offset: u64, bytes: usize) -> Message {
        let (position, state) = (StreamPosition { epoch: Epoch(1), offset }, channel.starts_with("state"));
        let draft = Draft { store: channel != "state-passing", ..draft(channel, bytes) };
        Message::Publication(Arc::new(draft.into_publication(position, state, WallMs(0))))
    }

    fn publish(bytes: usize) -> Message {
        let request = PublishRef { conn: ConnId { slot: 0, generation: 0 }, request: 0, place: 0, via: crate::hub::Via::Channels };
        Message::Publish { request, draft: Box::new(draft("a", bytes)) }
    }

    fn scrape() -> Message {
        Message::Scrape { request: ConnId { slot: 0, generation: 0 } }
    }

    /// The shell has been offered everything and found the mailbox full.
    fn refuse(outbox: &mut Outbox) {
        outbox.settle();
        outbox.settle();
    }

    fn shape(outbox: &mut Outbox, to: ShardId) -> Vec<String> {
        std::iter::from_fn(|| outbox.pop(to))
            .map(|message| match message {
                Message::Publication(publication) => format!("{}@{}", publication.channel, publication.position.offset),
                Message::Lost { channel, to } => format!("lost {channel}<={}", to.offset),
                Message::Scrape { .. } => "other".to_owned(),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_waits_comes_out_in_order() {
        let mut outbox = outbox();
        for offset in 1..=3 {
            outbox.push(TO, publication("a", offset, 10));
        }
        refuse(&mut outbox);
        outbox.push(TO, publication("a", 4, 10));
        assert_eq!(shape(&mut outbox, TO), ["a@1", "a@2", "a@3", "a@4"]);
        assert!(outbox.is_empty());
        assert_eq!((outbox.bytes(TO), outbox.spilled()), (0, 3));
    }

    #[test]
    fn too_much_in_a_full_mailbox_becomes_one_loss_per_channel_at_its_last_place() {
        let mut outbox = outbox();
        outbox.push(TO, publication("a", 1, MIB));
        outbox.push(TO, publication("state", 1, MIB));
        outbox.push(TO, scrape());
        outbox.push(TO, publication("b", 7, MIB));
        outbox.push(TO, publication("state", 2, MIB));
        outbox.push(TO, publication("state-passing", 3, MIB));
        outbox.push(TO, publication("a", 2, 13 * MIB));
        outbox.settle();
        outbox.push(TO, publication("a", 3, MIB));
        outbox.settle();
        assert_eq!(outbox.collapsed(), 5);
        assert_eq!(shape(&mut outbox, TO), ["other", "lost b<=7", "state@2", "lost a<=2", "a@3"]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_mailbox_with_room_takes_any_number_of_bytes() {
        let mut outbox = outbox();
        for offset in 1..=100 {
            outbox.push(TO, publication("a", offset, MIB));
        }
        outbox.settle();
        assert_eq!(shape(&mut outbox, TO).len(), 100);
        outbox.settle();
        assert_eq!((outbox.collapsed(), outbox.spilled()), (0, 0));
    }

    #[test]
    fn what_a_worker_tells_itself_is_never_given_up() {
        let mut outbox = outbox();
        for offset in 1..=100 {
            outbox.push(ME, publication("a", offset, MIB));
            outbox.push(ME, publish(MIB));
        }
        refuse(&mut outbox);
        assert!(!outbox.congested(ME));
        assert_eq!((shape(&mut outbox, ME).len(), outbox.collapsed()), (200, 0));
    }

    #[test]
    fn what_is_no_delivery_is_held_back_and_never_given_up() {
        let mut outbox = outbox();
        for _ in 0..20 {
            outbox.push(TO, publish(MIB));
        }
        outbox.push(TO, publication("a", 1, 1000));
        outbox.settle();
        assert!(!outbox.congested(TO), "the mailbox may still take all of it");
        outbox.settle();
        assert!(outbox.congested(TO));
        let mut popped = 0;
        while outbox.congested(TO) {
            outbox.pop(TO).unwrap();
            popped += 1;
            assert_eq!(outbox.settle().is_empty(), outbox.congested(TO));
        }
        assert_eq!((popped, outbox.collapsed()), (20, 0), "welcome again when a quarter of the bound is left");
    }

    #[test]
    fn a_spill_that_cannot_shrink_is_not_walked_at_every_turn() {
        let mut outbox = outbox();
        for channel in 0..40 {
            outbox.push(TO, publication(&format!("state:{channel}"), 1, MIB));
        }
        refuse(&mut outbox);
        let incompressible = outbox.queues[0].incompressible;
        assert!(incompressible > 40 * MIB, "a value of each channel stays");
        for turn in 0..1000 {
            outbox.push(TO, publication("state:0", 2 + turn, 1000));
            outbox.settle();
        }
        assert_eq!((outbox.collapsed(), outbox.queues[0].incompressible), (0, incompressible), "nothing has doubled");
        assert_eq!(shape(&mut outbox, TO).len(), 1040);
    }

    #[test]
    fn a_draft_counts_with_all_that_it_carries() {
        let plain = draft("a", 10).bytes();
        let text: Box<str> = "x".repeat(1000).into();
        let tags = vec![(text.clone(), text.clone())];
        let heavy =
            Draft { tags, key: Some(text.clone()), event: Some(text.clone()), idempotency_key: Some(text), ..draft("a", 10) };
        assert!(heavy.bytes() >= plain + 5000);
    }
}
