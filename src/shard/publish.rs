//! Publishing: drafts out to their home workers, replies back in the order of the request.

use std::sync::Arc;
use std::time::Duration;

use super::Shard;
use super::reply::Facts;
use super::stage::Stage;
use crate::base::{ConnId, Now, ShardId};
use crate::http::problem::Problem;
use crate::hub::{ChannelName, Draft, Message, PublishError, PublishRef, Stored, home_of};
use crate::metrics::Label;
use crate::protocol::plain::{api, publish};

/// How long a request waits for the home workers.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// A request whose answer other workers owe.
#[derive(Debug)]
pub struct Waiting {
    pub facts: Facts,
    pub door: PublishDoor,
    /// Not empty.
    channels: Vec<ChannelName>,
    /// As many as channels.
    results: Vec<Option<Result<Stored, PublishError>>>,
    owed: usize,
    /// Tells this request's replies from an earlier one's on the same connection.
    request: u32,
}

/// Which door the answer is written for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PublishDoor {
    Channel,
    ApiPublish,
    ApiBroadcast,
}

impl PublishDoor {
    /// The value of the `door` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::ApiPublish => "api_publish",
            Self::ApiBroadcast => "api_broadcast",
        }
    }
}

impl Shard {
    /// Sends the drafts of a request to their homes; the connection waits for the answers.
    pub(super) fn publish_all(&mut self, conn: ConnId, facts: Facts, door: PublishDoor, drafts: Vec<Draft>, now: Now) {
        if drafts.iter().any(|draft| self.outbox.congested(home_of(&draft.channel, self.shards))) {
            return self.refuse(conn, &facts, &Problem::unavailable("another worker is behind; try again", 1), now);
        }
        self.requests = self.requests.wrapping_add(1);
        let request = self.requests;
        let waiting = Waiting {
            facts,
            door,
            channels: drafts.iter().map(|draft| draft.channel.clone()).collect(),
            results: drafts.iter().map(|_| None).collect(),
            owed: drafts.len(),
            request,
        };
        self.set_stage(conn, Stage::Waiting(Box::new(waiting)));
        self.timers.set(conn.slot, now.monotonic + REPLY_TIMEOUT);
        for (place, draft) in drafts.into_iter().enumerate() {
            let place = u32::try_from(place).unwrap_or(u32::MAX);
            self.send_draft(PublishRef { conn, request, place }, draft, door.label());
        }
    }

    /// Sends one draft to its home.
    pub(super) fn send_draft(&mut self, request: PublishRef, draft: Draft, door: &'static str) {
        let namespace = self.options.hub.namespace(draft.channel.as_str()).map_or("", |namespace| namespace.name.as_str());
        self.metrics.publications.add([door.into(), Label::Name(namespace.into()), Label::None], 1);
        let home = home_of(&draft.channel, self.shards);
        self.outbox.push(home, Message::Publish { request, draft: Box::new(draft) });
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
                let place = reference.place as usize;
                if waiting.results.get(place).is_some_and(Option::is_none) {
                    waiting.results[place] = Some(result);
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
        let Waiting { facts, door, channels, results, .. } = *waiting;
        let response = match door {
            PublishDoor::Channel => publish::reply(&channels[0], results[0]),
            PublishDoor::ApiPublish => api::publish_reply(results[0]),
            PublishDoor::ApiBroadcast => api::broadcast_reply(&results),
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
                for worker in workers.iter() {
                    self.outbox.push(worker, Message::Publication(Arc::clone(&publication)));
                }
            }
            broadcast.stored
        });
        self.outbox.push(from, Message::Published { request, result });
    }
}
