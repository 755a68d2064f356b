//! Messages to other workers that their mailboxes had no room for yet: first in, first out, and bounded.
//!
//! The shell moves messages from here into the mailboxes; while a mailbox is full they wait. What waits is bounded: above
//! [`SpillOptions::delivery_bytes_max`] the publications in it are given up, leaving one `Lost` per channel where its last one stood, so that
//! no subscribe answer overtakes or falls behind what it was ordered with.

use std::collections::{HashSet, VecDeque};

use super::options::SpillOptions;
use crate::base::{Mutant, ShardId, mutated};
use crate::hub::{ChannelName, Message, Role};

/// What waits for every worker.
#[derive(Debug)]
pub struct Outbox {
    pub bounds: SpillOptions,
    queues: Vec<Queue>,
    waiting: usize,
    /// Publications given up since the start.
    pub collapsed: u64,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Outbox {
    #[must_use]
    pub fn new(shards: u16, bounds: SpillOptions) -> Self {
        Self { bounds, queues: (0..shards).map(|_| Queue::default()).collect(), waiting: 0, collapsed: 0 }
    }

    pub fn push(&mut self, to: ShardId, message: Message) {
        let queue = &mut self.queues[to.index()];
        queue.bytes += message.bytes();
        queue.messages.push_back(message);
        self.waiting += 1;
        if queue.bytes > self.bounds.delivery_bytes_max {
            let before = queue.messages.len();
            self.collapsed += queue.collapse();
            self.waiting = self.waiting + queue.messages.len() - before;
        }
    }

    /// The next message for a worker whose mailbox has room.
    pub fn pop(&mut self, to: ShardId) -> Option<Message> {
        let queue = &mut self.queues[to.index()];
        if mutated(Mutant::SpillReorders) && queue.messages.len() > 1 {
            queue.messages.swap(0, 1);
        }
        let message = queue.messages.pop_front()?;
        queue.bytes -= message.bytes();
        self.waiting -= 1;
        if queue.messages.is_empty() && queue.messages.capacity() > 1024 {
            queue.messages = VecDeque::new();
        }
        Some(message)
    }

    /// Whether anything waits for the worker.
    #[must_use]
    pub fn holds(&self, to: ShardId) -> bool {
        !self.queues[to.index()].messages.is_empty()
    }

    /// Bytes that wait for the worker.
    #[must_use]
    pub fn bytes(&self, to: ShardId) -> usize {
        self.queues[to.index()].bytes
    }

    /// Whether anything waits for anybody.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether so much waits for the worker that publishing to channels whose home it is must be refused for now.
    #[must_use]
    pub fn congested(&self, to: ShardId) -> bool {
        self.bytes(to) > self.bounds.publish_bytes_max
    }
}

impl Queue {
    /// Gives up the publications; returns how many.
    fn collapse(&mut self) -> u64 {
        let mut seen: HashSet<ChannelName, ahash::RandomState> = HashSet::default();
        let mut given_up = 0;
        let mut kept: VecDeque<Message> = VecDeque::new();
        // From the back: the last publication of each channel says up to where it is lost.
        for message in self.messages.drain(..).rev() {
            match message {
                Message::Publication(publication) => {
                    let first = seen.insert(publication.channel.clone());
                    match (first, publication.role == Role::Value) {
                        // A state channel's newest value is all that matters, so it stays.
                        (true, true) => kept.push_front(Message::Publication(publication)),
                        (true, false) => {
                            given_up += 1;
                            kept.push_front(Message::Lost { channel: publication.channel.clone(), to: publication.position });
                        }
                        (false, _) => given_up += 1,
                    }
                }
                Message::Lost { channel, .. } if seen.contains(&channel) => {}
                Message::Lost { channel, to } => {
                    seen.insert(channel.clone());
                    kept.push_front(Message::Lost { channel, to });
                }
                other => kept.push_front(other),
            }
        }
        self.messages = kept;
        self.bytes = self.messages.iter().map(Message::bytes).sum();
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ConnId, Epoch, StreamPosition, WallMs};
    use crate::hub::{Draft, Payload, PayloadKind};
    use std::sync::Arc;

    fn publication(channel: &str, offset: u64, bytes: usize) -> Message {
        let payload = Payload { kind: PayloadKind::Binary, bytes: vec![0; bytes].into() };
        let draft = Draft::new(ChannelName::parse(channel).unwrap(), payload);
        Message::Publication(Arc::new(draft.into_publication(
            StreamPosition { epoch: Epoch(1), offset },
            channel.starts_with("state"),
            WallMs(0),
        )))
    }

    fn shape(outbox: &mut Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.pop(ShardId(0)))
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
        let mut outbox = Outbox::new(1, SpillOptions::default());
        for offset in 1..=3 {
            outbox.push(ShardId(0), publication("a", offset, 10));
        }
        assert_eq!(shape(&mut outbox), ["a@1", "a@2", "a@3"]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn too_much_becomes_one_loss_per_channel_at_its_last_place() {
        let mut outbox = Outbox::new(1, SpillOptions::default());
        outbox.push(ShardId(0), publication("a", 1, 1 << 20));
        outbox.push(ShardId(0), publication("state", 1, 1 << 20));
        outbox.push(ShardId(0), Message::Scrape { request: ConnId { slot: 0, generation: 0 } });
        outbox.push(ShardId(0), publication("b", 7, 1 << 20));
        outbox.push(ShardId(0), publication("state", 2, 1 << 20));
        outbox.push(ShardId(0), publication("a", 2, 13 << 20));
        assert_eq!(shape(&mut outbox), ["other", "lost b<=7", "state@2", "lost a<=2"]);
        assert_eq!(outbox.collapsed, 4);
        assert!(!outbox.congested(ShardId(0)));
    }
}
