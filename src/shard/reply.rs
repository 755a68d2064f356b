//! Answering a request: response bytes out, the connection back to its next request or closed.

use super::Shard;
use super::stage::Stage;
use crate::base::{Blob, ConnId, Now};
use crate::http::cors::Cors;
use crate::http::head::{Head, Method, Version};
use crate::http::problem::Problem;
use crate::http::response::Response;

/// What of a request decides how it is answered.
#[derive(Clone, Debug)]
pub struct Facts {
    pub keep_alive: bool,
    pub http11: bool,
    /// HEAD: the head only.
    pub head_only: bool,
    pub cors: Cors,
    pub door: &'static str,
    pub method: &'static str,
}

impl Facts {
    /// The facts of a request whose body, if it has one, nobody has read: the connection closes behind the answer, or the body
    /// would be taken for the next request.
    #[must_use]
    pub fn new(head: &Head, door: &'static str, cors: Cors) -> Self {
        Self {
            keep_alive: head.keep_alive() && !head.has_body(),
            http11: head.version() == Version::Http11,
            head_only: head.method() == Method::Head,
            cors,
            door,
            method: head.method().label(),
        }
    }

    /// The same for who reads the body to its end before the answer.
    #[must_use]
    pub fn with_body_read(self, head: &Head) -> Self {
        Self { keep_alive: head.keep_alive(), ..self }
    }
}

impl Shard {
    /// Sends a whole response; the connection goes on to the next request if both sides keep it.
    pub(super) fn respond(&mut self, conn: ConnId, facts: &Facts, response: Response, now: Now) {
        self.count_request(facts, response.status());
        let keep = facts.keep_alive && self.draining.is_none();
        let date = self.date.at(now.wall);
        let bytes = response.with("Date", date).cors(&facts.cors).into_bytes(facts.http11, keep, facts.head_only);
        self.finish_response(conn, bytes, keep, now);
    }

    /// Refuses a request that could be read.
    pub(super) fn refuse(&mut self, conn: ConnId, facts: &Facts, problem: &Problem, now: Now) {
        self.respond(conn, facts, problem.response(), now);
    }

    /// Sends bytes that are a whole response already.
    pub(super) fn finish_response(&mut self, conn: ConnId, bytes: impl Into<Blob>, keep: bool, now: Now) {
        self.say(conn, bytes);
        self.next_request(conn, keep, now);
    }

    /// The response is queued: read the next request, or close.
    pub(super) fn next_request(&mut self, conn: ConnId, keep: bool, now: Now) {
        // A drain may have begun since the response said otherwise, and has passed this connection by.
        if keep && self.draining.is_none() {
            self.set_stage(conn, Stage::Head(None));
            if let Some(cell) = self.connections.get_mut(conn) {
                cell.opened_us = 0;
                self.timers.set(conn.slot, now.monotonic + self.options.http.keep_alive_timeout);
            }
            self.ready_for_held(conn);
        } else {
            self.end(conn, now);
        }
    }

    pub(super) fn count_request(&mut self, facts: &Facts, status: u16) {
        self.metrics.http_requests.add([facts.door.into(), facts.method.into(), status.into()], 1);
    }
}
