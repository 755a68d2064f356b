//! Bodies of requests that our own doors answer: collected up to a limit, then read as publications.

use super::Shard;
use super::publish::PublishDoor;
use super::reply::Facts;
use super::stage::Stage;
use crate::base::{ConnId, Now};
use crate::http::HttpError;
use crate::http::body::{BodyReader, Pace};
use crate::http::head::{Framing, Head};
use crate::http::problem::Problem;
use crate::protocol::plain::api::{self, ErrorMode};
use crate::protocol::plain::publish;

/// A body being collected.
#[derive(Debug)]
pub struct Collect {
    /// The connection closes with a refusal before the body's end.
    facts: Facts,
    /// What they are once the body has been read.
    complete: Facts,
    door: PublishDoor,
    reading: Reading,
    reader: BodyReader,
    body: Vec<u8>,
    bytes_max: usize,
    pace: Pace,
}

/// What the body is to be read as.
#[derive(Debug)]
enum Reading {
    /// A payload; the head has said the rest.
    Payload(publish::Envelope),
    /// A request of the server API, which says everything.
    Publish(ErrorMode),
    Broadcast(ErrorMode),
}

impl Shard {
    /// A POST to a publishing door: checks who asks, then collects the body.
    pub(super) fn open_publish(
        &mut self,
        conn: ConnId,
        door: PublishDoor,
        name: Option<&str>,
        head: &Head,
        facts: Facts,
        now: Now,
    ) {
        if !self.shows_key(head) {
            return self.refuse_publish(conn, &facts, &Problem::unauthorized(self.options.server.api_key.is_empty()), now);
        }
        let reading = match door {
            PublishDoor::Channel | PublishDoor::Channels => {
                let (kind, key) = (head.header("content-type"), head.header("idempotency-key"));
                publish::Envelope::parse(name, head.query(), kind, key, self.channels_max()).map(Reading::Payload)
            }
            PublishDoor::ApiPublish(mode) => Ok(Reading::Publish(mode)),
            PublishDoor::ApiBroadcast(mode) => Ok(Reading::Broadcast(mode)),
        };
        let bytes_max = self.body_bytes_max(door);
        let length = match head.framing() {
            Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
            Framing::None | Framing::Chunked | Framing::UntilClose => 0,
        };
        match reading {
            Err(error) => self.refuse_publish(conn, &facts, &error.problem(), now),
            Ok(_) if length > bytes_max => self.refuse_publish(conn, &facts, &Problem::too_large(bytes_max), now),
            Ok(reading) => {
                if head.expects_continue() {
                    self.say(conn, b"HTTP/1.1 100 Continue\r\n\r\n".as_slice());
                }
                let (reader, body) = (BodyReader::new(head.framing()), Vec::with_capacity(length.min(64 << 10)));
                let complete = facts.clone().with_body_read(head);
                let pace = Pace::from(now.monotonic);
                let collect = Collect { facts, complete, door, reading, reader, body, bytes_max, pace };
                self.set_stage(conn, Stage::Body(Box::new(collect)));
                self.body_bytes(conn, &[], now);
            }
        }
    }

    /// Base64 makes four bytes of three; the API's JSON has names around it.
    fn body_bytes_max(&self, door: PublishDoor) -> usize {
        let payload = self.options.hub.publication_bytes_max;
        match door {
            PublishDoor::Channel | PublishDoor::Channels => payload,
            PublishDoor::ApiPublish(_) => payload / 3 * 4 + (16 << 10),
            PublishDoor::ApiBroadcast(_) => payload / 3 * 4 + (256 << 10),
        }
    }

    pub(super) fn body_bytes(&mut self, conn: ConnId, bytes: &[u8], now: Now) -> usize {
        let Some(Stage::Body(collect)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return bytes.len() };
        let mut consumed = 0;
        loop {
            match collect.reader.next(&bytes[consumed..]) {
                Err(error) => {
                    self.metrics.publish_errors.one(Problem::from(error).code);
                    self.bad_request(conn, error, now);
                    return bytes.len();
                }
                Ok(step) if collect.body.len() + step.data.len() > collect.bytes_max => {
                    let (facts, bytes_max) = (collect.facts.clone(), collect.bytes_max);
                    self.refuse_publish(conn, &facts, &Problem::too_large(bytes_max), now);
                    return bytes.len();
                }
                Ok(step) => {
                    collect.body.extend_from_slice(step.data);
                    consumed += step.consumed;
                    if step.done {
                        self.collected(conn, now);
                        return consumed;
                    }
                    if step.consumed == 0 || consumed == bytes.len() {
                        break;
                    }
                }
            }
        }
        collect.pace.add(bytes.len());
        let deadline = collect.pace.deadline(&self.options.http, now.monotonic);
        self.timers.set(conn.slot, deadline);
        bytes.len()
    }

    pub(super) fn body_expired(&mut self, conn: ConnId, now: Now) {
        self.metrics.publish_errors.one(Problem::from(HttpError::BodyTimeout).code);
        self.bad_request(conn, HttpError::BodyTimeout, now);
    }

    /// The body is complete: make drafts of it and send them to their homes.
    fn collected(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Body(collect)) = self.take_stage(conn) else { return };
        let Collect { complete: facts, door, reading, body, .. } = *collect;
        let drafts = match reading {
            Reading::Payload(envelope) => {
                let drafts = envelope.drafts(body).map_err(|error| error.problem());
                let drafts = drafts.map_err(|problem| (problem.code, problem.response()));
                drafts.map(|drafts| drafts.into_iter().map(Ok).collect())
            }
            Reading::Publish(mode) => {
                api::publish_request(&body).map(|draft| vec![Ok(draft)]).map_err(|error| (error.number(), error.response(mode)))
            }
            Reading::Broadcast(mode) => api::broadcast_request(&body).map_err(|error| (error.number(), error.response(mode))),
        };
        match drafts {
            Ok(drafts) => self.publish_all(conn, facts, door, drafts, now),
            Err((code, response)) => {
                self.metrics.publish_errors.one(code);
                self.respond(conn, &facts, response, now);
            }
        }
    }
}
