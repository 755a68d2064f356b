//! From the homes' answers to items: what a subscriber is told first, and its way through history until it is live.
//!
//! Replay is a cursor, not a queue: nothing of it waits here but one page for a connection. A page that comes when its connection
//! has no room is dropped, and asked for again when there is some; only then is the next one asked for. The page that reaches the
//! head makes the subscription live, in the FIFO in which what follows comes.

use std::sync::Arc;

use super::Shard;
use super::encode::{self, Encoder};
use super::stage::Stage;
use crate::base::{ConnId, Epoch, Key, Now};
use crate::hub::local::{NO_SUBSCRIPTION, Phase, Subscription};
use crate::hub::{Answer, AudienceId, Message, Outcome, Publication};
use crate::protocol::plain::item;

impl Shard {
    /// The home has answered a subscribe.
    pub(super) fn subscribed(&mut self, subscription: Key, answer: Answer, now: Now) {
        self.answered(subscription, answer, true, now);
    }

    /// The home has answered a page request.
    pub(super) fn paged(&mut self, subscription: Key, answer: Answer, now: Now) {
        self.answered(subscription, answer, false, now);
    }

    fn answered(&mut self, subscription: Key, mut answer: Answer, first: bool, now: Now) {
        let Some(entry) = self.local.subscription(subscription) else { return };
        let (conn, audience, resumes) = (entry.conn, entry.audience, entry.resumes);
        if !answer.page.is_empty() && !self.has_room(conn, &answer.page) {
            // The subscription stays where the page begins.
            (answer.page, answer.head) = (Vec::new(), false);
        }
        self.local.answered(subscription, &answer);
        if first {
            self.note_answer(conn);
        }
        self.count_outcome(audience, first.then_some(resumes), &answer);
        match self.connections.get(conn).map(|cell| &cell.stage) {
            Some(Stage::Poll(poll)) => {
                let interested = !poll.facts.head_only;
                self.answered_poll(conn, subscription, &answer, interested, now);
            }
            _ => self.tell(subscription, first, &answer, now),
        }
    }

    fn has_room(&self, conn: ConnId, page: &[Arc<Publication>]) -> bool {
        match self.connections.get(conn).map(|cell| &cell.stage) {
            Some(Stage::Poll(poll)) => poll.has_room(page_bytes(page)),
            _ => self.connections.has_room_for_page(conn.slot, page_bytes(page)),
        }
    }

    fn answered_poll(&mut self, conn: ConnId, subscription: Key, answer: &Answer, interested: bool, now: Now) {
        let Some(entry) = self.local.subscription(subscription) else { return };
        let channel = self.local.channel_name(entry).clone();
        if interested {
            self.local.linger(subscription, now.monotonic);
        }
        self.poll_items(conn, &channel, answer);
        self.poll_answered(conn, now);
    }

    /// Queues what an answer means to a subscriber that stays.
    fn tell(&mut self, subscription: Key, first: bool, answer: &Answer, now: Now) {
        let Some(entry) = self.local.subscription(subscription) else { return };
        let (conn, resumes) = (entry.conn, entry.resumes);
        let audience = self.audiences.get(entry.audience).clone();
        let channel = self.local.channel_name(entry).clone();
        let mut encoder = Encoder::new(&mut self.deflater, &self.options);
        // A gap on the way goes with its page: where the page is given up, so is the news of what came before it.
        let (opening, lost) = match &answer.outcome {
            _ if first => (encoder.opening(&audience, &channel, resumes, answer), None),
            Outcome::Gap(gap) => (Some(Vec::new()), Some(gap)),
            Outcome::Exact => (Some(Vec::new()), None),
        };
        let (Some(opening), Some(page)) = (opening, encoder.page(&audience, &channel, lost, &answer.page)) else {
            return self.close_for_loss(conn, now);
        };
        self.metrics.deliveries[audience.kind().index()] += answer.page.len() as u64;
        if !opening.is_empty() {
            self.say(conn, opening);
        }
        if !page.is_empty() {
            self.connections.deliver_page(conn, page);
        }
        self.moved(conn);
        self.catching_up.push(conn);
    }

    /// `first` is the epoch that the subscriber came with, if this is the first answer to it.
    fn count_outcome(&mut self, audience: AudienceId, first: Option<Option<Epoch>>, answer: &Answer) {
        let transport = self.audiences.get(audience).kind().label();
        if let Outcome::Gap(gap) = answer.outcome {
            self.metrics.gaps.one(item::reason(gap.reason));
        }
        match (first, answer.outcome) {
            (Some(_), Outcome::Gap(_)) => self.metrics.resumes.two(transport, "gap"),
            (Some(resumes), Outcome::Exact) if encode::is_recovered(resumes, answer) => {
                self.metrics.resumes.two(transport, "exact")
            }
            (_, _) => {}
        }
    }

    /// After a flush: connections with room ask for the next page, one at a time.
    pub(super) fn ask_for_pages(&mut self) {
        for conn in std::mem::take(&mut self.catching_up) {
            // A blocked connection asks again when it becomes writable.
            if self.connections.blocked(conn.slot) {
                continue;
            }
            let next = self.next_to_catch_up(conn).and_then(|next| Some((next, self.local.next_page(next)?)));
            if let Some((subscription, (channel, after))) = next {
                self.outbox.push(self.home(&channel), Message::NextPage { channel, subscription, after });
            }
        }
    }

    /// Which of a connection's subscriptions is the next to get a page: the one that has had the fewest. None while one is on its
    /// way.
    fn next_to_catch_up(&self, conn: ConnId) -> Option<Key> {
        let mut next: Option<(u32, Key)> = None;
        for (key, _) in self.subscriptions_of(conn) {
            match self.local.phase(key)? {
                Phase::CatchingUp { asked: true, .. } => return None,
                Phase::CatchingUp { pages, .. } if next.is_none_or(|(fewest, _)| pages < fewest) => next = Some((pages, key)),
                Phase::Asked | Phase::CatchingUp { .. } | Phase::Live { .. } => {}
            }
        }
        next.map(|(_, key)| key)
    }

    /// A connection's subscriptions, newest first.
    pub(super) fn subscriptions_of(&self, conn: ConnId) -> impl Iterator<Item = (Key, &Subscription)> {
        let mut index = self.connections.get(conn).map_or(NO_SUBSCRIPTION, |cell| cell.subscriptions);
        std::iter::from_fn(move || {
            let (key, subscription) = self.local.subscription_at(index)?;
            index = subscription.next;
            Some((key, subscription))
        })
    }
}

/// Bytes of a page, as it is bounded.
pub(super) fn page_bytes(page: &[Arc<Publication>]) -> usize {
    page.iter().map(|publication| publication.bytes()).sum()
}
