//! The mailboxes between the workers of a world, and which channels make them write to whom.

use std::collections::{BTreeMap, VecDeque};

use super::World;
use crate::base::ShardId;
use crate::hub::{ChannelName, Message, home_of};
use crate::shard::Input;

/// Messages that a mailbox takes: few, so that it is easily full.
pub const MAILBOX_ENTRIES: usize = 8;

/// One mailbox for each ordered pair of workers.
#[derive(Default)]
pub struct Mailboxes {
    waiting: BTreeMap<(ShardId, ShardId), VecDeque<Message>>,
    /// A worker that reads none of its mailboxes.
    deaf: Option<ShardId>,
}

impl World {
    /// From now on the worker reads no mail.
    pub fn hold_mail(&mut self, worker: u16) {
        self.mail.deaf = Some(ShardId(worker));
    }

    /// All mail is read again.
    pub fn deliver_mail(&mut self) {
        self.mail.deaf = None;
        self.settle();
    }

    /// A channel whose home is the given worker.
    pub fn channel_at(&self, home: u16) -> String {
        self.channels_at::<1>(home).concat()
    }

    /// Channels whose home is the given worker.
    pub fn channels_at<const COUNT: usize>(&self, home: u16) -> [String; COUNT] {
        let names = (0..).map(|number| ChannelName::parse(&format!("c{number}")).expect("a name"));
        let mut names = names.filter(|name| home_of(name, self.shards[0].shards) == ShardId(home));
        [(); COUNT].map(|()| names.next().expect("there are enough").as_str().to_owned())
    }

    /// Reads a worker's mailboxes empty. True if there was anything.
    pub(super) fn read_mail(&mut self, to: ShardId) -> bool {
        if self.mail.deaf == Some(to) {
            return false;
        }
        let mut read = false;
        for from in self.workers() {
            while let Some(message) = self.mail.waiting.get_mut(&(from, to)).and_then(VecDeque::pop_front) {
                self.tell(to, Input::Message { from, message });
                read = true;
            }
        }
        read
    }

    /// Moves what a worker has for others into their mailboxes, as far as there is room. True if there was anything.
    pub(super) fn write_mail(&mut self, from: ShardId) -> bool {
        let mut written = false;
        for to in self.workers().filter(|to| *to != from) {
            let mailbox = self.mail.waiting.entry((from, to)).or_default();
            while mailbox.len() < MAILBOX_ENTRIES {
                let Some(message) = self.shards[from.index()].poll_message(to) else { break };
                mailbox.push_back(message);
                written = true;
            }
        }
        written
    }
}
