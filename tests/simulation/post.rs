//! Mailboxes between the workers, what spills in front of them, and who has something to do.

use ringmain::base::{Nanos, ShardId};
use ringmain::hub::Message;
use ringmain::shard::Input;

use crate::settings::CHANNELS;
use crate::verdict::{Breach, demand};
use crate::world::World;

/// Places of a mailbox.
const MAILBOX: usize = 4;

impl World {
    pub fn read_mail(&mut self, at: usize) {
        for from in 0..self.workers.len() {
            if !self.settling && self.stuck[from][at] > 0 {
                self.stuck[from][at] -= 1;
                continue;
            }
            let delayed = !self.settling && self.random.chance(self.settings.faults.mailbox_delay);
            let take = if delayed { self.pick(3) } else { usize::MAX };
            for _ in 0..take {
                let Some(message) = self.mail[from][at].pop_front() else { break };
                self.count_message(at, &message);
                let from = ShardId(u16::try_from(from).unwrap_or(0));
                self.workers[at].shard.handle(Input::Message { from, message }, self.now);
                self.watch_spill(at);
            }
        }
    }

    fn count_message(&mut self, at: usize, message: &Message) {
        match message {
            Message::Lost { channel, .. } => {
                if let Some(channel) = CHANNELS.iter().position(|name| *name == channel.as_str()) {
                    self.workers[at].collapsed_at[channel] = self.now.monotonic;
                }
                self.totals.one("collapse told");
            }
            Message::Page { answer, .. } => {
                self.totals.one("page");
                self.totals.add("page before the last", u64::from(!answer.head));
            }
            Message::Subscribed { answer, .. } => {
                self.totals.add("answer of several pages", u64::from(!answer.head));
            }
            _ => {}
        }
    }

    pub fn send_mail(&mut self, at: usize) {
        self.workers[at].was_full = false;
        for to in (0..self.workers.len()).filter(|&to| to != at) {
            let id = ShardId(u16::try_from(to).unwrap_or(0));
            while self.mail[at][to].len() < MAILBOX {
                let Some(message) = self.workers[at].shard.poll_message(id) else { break };
                self.mail[at][to].push_back(message);
            }
            let spilled = self.workers[at].shard.has_message(id);
            self.workers[at].was_full |= spilled;
            self.totals.add("spill", u64::from(spilled));
        }
    }

    /// Notes congestion and collapse as they happen.
    pub fn watch_spill(&mut self, at: usize) {
        if (0..self.settings.shards).any(|to| self.workers[at].shard.congested(ShardId(to))) {
            self.workers[at].congested_at = self.now.monotonic;
            self.totals.one("congestion");
        }
        let collapsed = self.workers[at].shard.spill_collapsed();
        let fresh = collapsed - std::mem::replace(&mut self.workers[at].collapsed, collapsed);
        if fresh > 0 {
            self.totals.add("publications collapsed", fresh);
            let full = self.workers[at].was_full;
            let judged = demand(full, Breach::NeedlessCollapse, || {
                format!("worker {at} gave up {fresh} publications with room in every mailbox")
            });
            self.judge(judged);
        }
    }

    // ---- rest ----

    /// Whether a worker has something to do now, by what the shell would know.
    pub fn is_due(&self, at: usize) -> bool {
        let worker = &self.workers[at];
        let unread = worker.inbox.iter().any(|(conn, _)| !worker.paused.contains(conn));
        let pending = unread || worker.unflushed || !worker.refusals.is_empty() || !worker.writable.is_empty();
        let mail = self.mail.iter().any(|from| !from[at].is_empty());
        let ids = (0..self.workers.len()).filter(|&to| to != at);
        let post = ids
            .into_iter()
            .any(|to| worker.shard.has_message(ShardId(u16::try_from(to).unwrap_or(0))) && self.mail[at][to].len() < MAILBOX);
        let timeout = worker.shard.poll_timeout().is_some_and(|at| at <= self.now.monotonic);
        pending || mail || post || (timeout && !worker.shard.is_drained(self.now))
    }

    /// The same, for a report.
    pub fn why_due(&self, at: usize) -> String {
        let worker = &self.workers[at];
        let mail: Vec<usize> = self.mail.iter().map(|from| from[at].len()).collect();
        format!(
            "{} inbox, {} refusals, {} writable, mail {mail:?}, deadline {:?} at {:?}",
            worker.inbox.len(),
            worker.refusals.len(),
            worker.writable.len(),
            worker.shard.poll_timeout(),
            self.now.monotonic
        )
    }

    /// When the first worker has something to do by itself.
    pub fn next_deadline(&self) -> Nanos {
        let working = self.workers.iter().filter(|worker| !worker.shard.is_drained(self.now));
        working.filter_map(|worker| worker.shard.poll_timeout()).min().unwrap_or(self.now.monotonic)
    }
}
