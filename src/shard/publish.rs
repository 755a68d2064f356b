//! Publishing: drafts out to their home workers, replies back in the order of the request.

use std::sync::Arc;
use std::time::Duration;

use super::Shard;
use super::reply::Facts;
use super::stage::Stage;
use crate::base::{ConnId, Now, ShardId};
use crate::http::problem::Problem;
use crate::hub::{ChannelName, Draft, Message, PublishError, PublishRef, Stored, Via, home_of};
use crate::protocol::codes::ErrorCode;
use crate::protocol::plain::api::{self, ErrorMode};
use crate::protocol::plain::publish::{self, Fate};

/// How long a request waits for the home workers.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// A request whose answer other workers owe.
#[derive(Debug)]
pub struct Waiting {
    pub facts: Facts,
    pub door: PublishDoor,
    /// Those that are named well: all of them where the door's answer names them.
    channels: Vec<ChannelName>,
    /// One for each channel of the request, in its order; not empty.
    fates: Vec<Fate>,
    owed: usize,
    /// Tells this request's replies from an earlier one's on the same connection.
    request: u32,
}

/// Which door the answer is written for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PublishDoor {
    /// `/channels/NAME`
    Channel,
    /// `/channels?channel=…`
    Channels,
    ApiPublish(ErrorMode),
    ApiBroadcast(ErrorMode),
}

impl PublishDoor {
    const fn via(self) -> Via {
        match self {
            Self::Channel | Self::Channels => Via::Channels,
            Self::ApiPublish(_) => Via::ApiPublish,
            Self::ApiBroadcast(_) => Via::ApiBroadcast,
        }
    }
}

impl Shard {
    /// Sends the drafts of a request to their homes; the connection waits for the answers. What is no draft has its fate already.
    pub(super) fn publish_all(
        &mut self,
        conn: ConnId,
        facts: Facts,
        door: PublishDoor,
        drafts: Vec<Result<Draft, ErrorCode>>,
        now: Now,
    ) {
        self.requests = self.requests.wrapping_add(1);
        let request = self.requests;
        let fate = |draft: &Result<Draft, ErrorCode>| match draft {
            Err(code) => Fate::Bad(*code),
            Ok(draft) if self.outbox.congested(home_of(&draft.channel, self.shards)) => Fate::Congested,
            Ok(_) => Fate::Unknown,
        };
        let fates: Vec<Fate> = drafts.iter().map(fate).collect();
        let waiting = Waiting {
            facts,
            door,
            channels: drafts.iter().flatten().map(|draft| draft.channel.clone()).collect(),
            owed: fates.iter().filter(|fate| **fate == Fate::Unknown).count(),
            fates: fates.clone(),
            request,
        };
        let owed = waiting.owed;
        self.set_stage(conn, Stage::Waiting(Box::new(waiting)));
        if owed == 0 {
            return self.answer_publish(conn, now);
        }
        self.timers.set(conn.slot, now.monotonic + REPLY_TIMEOUT);
        for (place, (draft, fate)) in drafts.into_iter().zip(fates).enumerate() {
            if let (Ok(draft), Fate::Unknown) = (draft, fate) {
                let place = u32::try_from(place).unwrap_or(u32::MAX);
                self.send_draft(PublishRef { conn, request, place, via: door.via() }, draft);
            }
        }
    }

    /// Sends one draft to its home.
    pub(super) fn send_draft(&mut self, request: PublishRef, draft: Draft) {
        let home = home_of(&draft.channel, self.shards);
        self.outbox.push(home, Message::Publish { request, draft: Box::new(draft) });
    }

    /// Refuses a request to publish.
    pub(super) fn refuse_publish(&mut self, conn: ConnId, facts: &Facts, problem: &Problem, now: Now) {
        self.metrics.publish_errors.one(problem.code);
        self.refuse(conn, facts, problem, now);
    }

    /// A home has answered.
    pub(super) fn published(&mut self, reference: PublishRef, result: Result<Stored, PublishError>, now: Now) {
        match &result {
            Ok(stored) if stored.duplicate => self.metrics.publish_duplicates += 1,
            Ok(_) => {}
            Err(error) => self.metrics.publish_errors.one(publish::error_number(*error)),
        }
        match self.connections.get_mut(reference.conn).map(|cell| &mut cell.stage) {
            Some(Stage::Waiting(waiting)) if waiting.request == reference.request => {
                if let Some(fate @ Fate::Unknown) = waiting.fates.get_mut(reference.place as usize) {
                    *fate = result.map_or_else(Fate::Refused, Fate::Stored);
                    waiting.owed -= 1;
                }
                if waiting.owed == 0 {
                    self.answer_publish(reference.conn, now);
                }
            }
            Some(Stage::WebSocket(_)) => self.published_from_websocket(reference, result),
            _ => {}
        }
    }

    /// Writes the answer of a publishing request: all homes have replied, or the time is up.
    pub(super) fn answer_publish(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Waiting(waiting)) = self.take_stage(conn) else { return };
        let Waiting { facts, door, channels, fates, .. } = *waiting;
        for fate in &fates {
            match fate {
                Fate::Unknown | Fate::Congested => self.metrics.publish_errors.one(ErrorCode::Internal.number()),
                Fate::Bad(code) => self.metrics.publish_errors.one(code.number()),
                // Counted when its home replied.
                Fate::Stored(_) | Fate::Refused(_) => {}
            }
        }
        let response = match door {
            PublishDoor::Channel => publish::reply(&channels[0], fates[0]),
            PublishDoor::Channels => publish::replies(&channels, &fates),
            PublishDoor::ApiPublish(mode) => api::publish_reply(fates[0], mode),
            PublishDoor::ApiBroadcast(_) => api::broadcast_reply(&fates),
        };
        self.respond(conn, &facts, response, now);
    }

    /// The homes have not replied in time.
    pub(super) fn waiting_expired(&mut self, conn: ConnId, now: Now) {
        self.answer_publish(conn, now);
    }

    /// Stores a publication whose home is this worker, answers its publisher and tells the interested workers.
    pub(super) fn publish_here(&mut self, from: ShardId, request: PublishRef, draft: Draft, now: Now) {
        let result = self.home.publish(draft, &self.options.hub, now).map(|broadcast| {
            if let Some((publication, workers)) = broadcast.publication {
                let namespace = self.options.hub.policy(broadcast.namespace);
                let namespace = namespace.map_or("", |namespace| namespace.name.as_str());
                self.metrics.publications.word_and_name(request.via.label(), namespace);
                for worker in workers.iter() {
                    self.outbox.push(worker, Message::Publication(Arc::clone(&publication)));
                }
            }
            broadcast.stored
        });
        self.outbox.push(from, Message::Published { request, result });
    }
}
