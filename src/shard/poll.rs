//! Polls: a request that is answered with what is there, or waits until something comes.

use std::time::Duration;

use super::Shard;
use super::replay::page_bytes;
use super::reply::Facts;
use super::stage::Stage;
use crate::base::{Blob, ConnId, Nanos, Now, StreamPosition};
use crate::http::problem::Problem;
use crate::hub::home::PAGE_BYTES_MAX;
use crate::hub::{Answer, ChannelName, Gap, Outcome, Publication, token};
use crate::metrics::TransportKind;
use crate::protocol::plain::item;
use crate::protocol::plain::request::SubscribeRequest;
use crate::transport::poll;

/// How long a poll that need not wait is given for its homes' answers.
pub const HOME_TIMEOUT: Duration = Duration::from_secs(5);

/// Content up to this is copied behind each head, which costs less than what the kernel does for a second piece.
const COPIED_BYTES_MAX: usize = 1 << 10;

/// A poll that has not been answered.
#[derive(Debug)]
pub struct Poll {
    pub facts: Facts,
    /// When it is answered at the latest.
    deadline: Nanos,
    /// Channels whose home has not answered.
    owed: usize,
    /// Items so far, each one JSON.
    items: Vec<Vec<u8>>,
    /// Where each channel's next poll goes on; in request order.
    positions: Vec<(ChannelName, Option<StreamPosition>)>,
    /// Whether "nothing new" is said by 304: the position came from `If-None-Match`.
    not_modified: bool,
    /// The client will send nothing more, which may mean that it is gone.
    finished: bool,
}

impl Poll {
    #[must_use]
    pub fn new(facts: Facts, request: &SubscribeRequest, deadline: Nanos) -> Self {
        Self {
            facts,
            deadline,
            owed: request.channels.len(),
            items: Vec::new(),
            positions: request.channels.iter().map(|channel| (channel.clone(), None)).collect(),
            not_modified: request.if_none_match,
            finished: false,
        }
    }

    /// Whether a page fits into the answer; what does not is what the next poll begins with.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.items.is_empty() || self.items.iter().map(Vec::len).sum::<usize>() + bytes <= PAGE_BYTES_MAX
    }

    fn advance(&mut self, channel: &ChannelName, position: StreamPosition) {
        if let Some((_, place)) = self.positions.iter_mut().find(|(name, _)| name == channel) {
            *place = Some(position);
        }
    }

    fn gap(&mut self, channel: &ChannelName, gap: &Gap) {
        let mut text = Vec::new();
        item::gap(&mut text, channel, gap);
        self.items.push(text);
    }

    fn publication(&mut self, publication: &Publication) {
        let mut text = Vec::new();
        item::publication(&mut text, publication);
        self.items.push(text);
        self.advance(&publication.channel, publication.position);
    }
}

impl Shard {
    /// Adds what a home (or this worker's own memory of the channel) has answered.
    pub(super) fn poll_items(&mut self, conn: ConnId, channel: &ChannelName, answer: &Answer) {
        let Some(Stage::Poll(poll)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        poll.owed = poll.owed.saturating_sub(1);
        // Behind the page if there is one; a look says where the channel is.
        poll.advance(channel, answer.from);
        let page = if poll.has_room(page_bytes(&answer.page)) { answer.page.as_slice() } else { &[] };
        if let Outcome::Gap(gap) = &answer.outcome {
            poll.gap(channel, gap);
        }
        for publication in page {
            poll.publication(publication);
        }
        if poll.facts.head_only {
            // A look is told where the channel is, not how far one page would go.
            poll.advance(channel, answer.top);
        }
        self.metrics.deliveries[TransportKind::Poll.index()] += page.len() as u64;
    }

    /// Adds a live publication or a loss to a poll of several channels.
    pub(super) fn poll_live(
        &mut self,
        conn: ConnId,
        publications: &[std::sync::Arc<Publication>],
        lost: Option<(&ChannelName, &Gap)>,
    ) {
        let Some(Stage::Poll(poll)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        for publication in publications {
            poll.publication(publication);
        }
        if let Some((channel, gap)) = lost {
            poll.gap(channel, gap);
            poll.advance(channel, StreamPosition { offset: gap.next.offset - 1, ..gap.next });
        }
    }

    /// Answers the poll if it need not wait any longer.
    pub(super) fn poll_answered(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Poll(poll)) = self.connections.get(conn).map(|cell| &cell.stage) else { return };
        let ready = !poll.items.is_empty() || poll.deadline <= now.monotonic || poll.facts.head_only;
        match (poll.owed, ready) {
            (0, true) => self.answer_poll(conn, now),
            // Nothing is owed, and a client that hangs up cannot be told from one that only has nothing more to say.
            (0, false) if poll.finished => {
                self.disconnected(conn, 1006);
                self.end(conn, now);
            }
            // Until now the homes had longer to answer than the client wants to wait.
            (0, false) => self.timers.set(conn.slot, poll.deadline),
            (_, _) => {}
        }
    }

    /// The client has finished sending. What the homes owe it is awaited, and nothing else.
    pub(super) fn poll_eof(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Poll(poll)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        (poll.finished, poll.facts.keep_alive) = (true, false);
        self.poll_expects_no_more(conn, now);
    }

    /// The poll waits no longer: it is answered as soon as no home owes it anything.
    pub(super) fn hurry_poll(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Poll(poll)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        poll.deadline = now.monotonic;
        self.poll_expects_no_more(conn, now);
    }

    /// What the homes owe is awaited, and nothing else: the poll is answered, or found to be gone.
    fn poll_expects_no_more(&mut self, conn: ConnId, now: Now) {
        self.timers.set(conn.slot, now.monotonic + HOME_TIMEOUT);
        self.poll_answered(conn, now);
    }

    /// The poll's time is up, or its homes have not answered in time: what there is goes out.
    pub(super) fn poll_expired(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Poll(poll)) = self.connections.get(conn).map(|cell| &cell.stage) else { return };
        if poll.owed == 0 {
            return self.answer_poll(conn, now);
        }
        // Without every home's answer there is no position to tell, and half of one would lose publications.
        self.leave_all(conn);
        let Some(Stage::Poll(poll)) = self.take_stage(conn) else { return };
        self.refuse(conn, &poll.facts, &Problem::unavailable("the channel's worker did not answer in time", 1), now);
    }

    fn answer_poll(&mut self, conn: ConnId, now: Now) {
        self.leave_all(conn);
        let Some(Stage::Poll(poll)) = self.take_stage(conn) else { return };
        let Poll { facts, items, positions, not_modified, .. } = *poll;
        let token = token::write(&positions);
        let answer = poll::Answer { items: &items, token: &token, not_modified };
        self.respond_to_poll(conn, &facts, answer.status(), poll::content(answer, facts.head_only).into(), now);
    }

    /// A poll of one channel is answered with what every such poll of it gets.
    pub(super) fn poll_shared(&mut self, conn: ConnId, content: Blob, now: Now) {
        self.leave_all(conn);
        let Some(Stage::Poll(poll)) = self.take_stage(conn) else { return };
        self.respond_to_poll(conn, &poll.facts, 200, content, now);
    }

    /// A response is a reply: half of it, or none, would leave the next one unreadable, so no policy may touch it.
    fn respond_to_poll(&mut self, conn: ConnId, facts: &Facts, status: u16, content: Blob, now: Now) {
        self.count_request(facts, status);
        let keep = facts.keep_alive && self.draining.is_none();
        let date = self.date.at(now.wall);
        let mut lead = poll::lead(status, date, &facts.cors, facts.http11, keep);
        if content.len() <= COPIED_BYTES_MAX {
            lead.extend_from_slice(&content);
            self.say(conn, lead);
        } else {
            self.say_in_parts(conn, [lead.into(), content]);
        }
        self.next_request(conn, keep, now);
    }
}
