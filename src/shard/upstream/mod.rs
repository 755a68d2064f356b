//! Requests that an upstream answers: the client's connection and the upstream's, tied together for one exchange.
//!
//! ```text
//!   client ── Exchanging ──────── link ──────── UpstreamConn ── upstream
//!               │ Exchange (what to pass on)        │ Pool (who may have the connection next)
//! ```
//!
//! `links` gets and gives back the upstream's connections, `flow` holds either side back while the other is behind, `tunnel`
//! ends what has no end of its own.

mod flow;
mod links;
mod tunnel;

pub use links::{Connecting, UpstreamConn};

use std::sync::Arc;

use super::Shard;
use super::connections::Pause;
use super::reply::Facts;
use super::stage::Stage;
use crate::base::{ConnId, Nanos, Now};
use crate::http::HttpError;
use crate::http::body::Pace;
use crate::http::cors::Cors;
use crate::http::head::Head;
use crate::http::problem::Problem;
use crate::proxy::{Downstream, Ended, Exchange, Failure, ProxyError, ResponseState, ServerId};

/// A client's connection during an exchange.
#[derive(Debug)]
pub struct Exchanging {
    exchange: Exchange,
    facts: Facts,
    upstream: usize,
    link: Link,
    /// When its head had come.
    started: Nanos,
    /// How fast its body comes.
    pace: Pace,
    /// A drain has told it to go: it ends with the frame under way.
    leaving: bool,
}

/// Whom an exchange waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaited {
    /// The client, for its body.
    Request,
    /// The upstream, for its response.
    Response,
    /// Either, for more of what has begun.
    More,
}

impl Exchanging {
    /// `paused`: the client's body is not read, since the upstream does not take what came of it.
    fn awaited(&self, paused: bool) -> Awaited {
        if self.exchange.response_is_begun() {
            Awaited::More
        } else if self.exchange.request_is_complete() || self.exchange.awaits_continue() || paused {
            Awaited::Response
        } else {
            Awaited::Request
        }
    }
}

/// What carries an exchange to its upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    /// Every connection is in use.
    Waiting,
    /// By this token.
    Connecting(u32),
    Open {
        conn: ConnId,
        server: ServerId,
        /// It has served another request before.
        reused: bool,
    },
}

/// The status as a label: no upstream may make more of them than there are.
const fn known_status(status: u16) -> u16 {
    if matches!(status, 100..600) { status } else { 999 }
}

impl Shard {
    /// What no door takes goes to an upstream.
    pub(in crate::shard) fn pass_on(&mut self, conn: ConnId, head: &Head, now: Now) {
        let facts = Facts::new(head, "proxy", Cors::None);
        let Some((upstream, server)) = self.upstreams.find(head.host(), head.path()) else {
            return self.refuse(conn, &facts, &Problem::not_found(head.path()), now);
        };
        let Some(peer) = self.connections.get(conn).map(super::connections::Cell::peer) else { return };
        let exchange = Exchange::new(head, Downstream { peer, secure: false, trusted: false }, server);
        let facts = facts.with_body_read(head);
        let exchanging = Exchanging {
            exchange,
            facts,
            upstream,
            link: Link::Waiting,
            started: now.monotonic,
            pace: Pace::from(now.monotonic),
            leaving: false,
        };
        self.set_stage(conn, Stage::Exchange(Box::new(exchanging)));
        let acquired = self.upstreams.pool(upstream).take(conn);
        self.acquired(conn, upstream, acquired, now);
    }

    /// Sends the request's head and what has come of its body over a connection it has just got.
    fn open_link(&mut self, conn: ConnId, link: Link, now: Now) {
        let Link::Open { conn: up, .. } = link else { return };
        self.set_link(conn, link);
        let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        let head = exchanging.exchange.request_head().to_vec();
        exchanging.pace = Pace::from(now.monotonic);
        self.say(up, head);
        self.connections.resume(conn, Pause::COUNTERPART);
        self.await_more(conn, now);
        self.ready_for_held(conn);
    }

    /// Bytes of the client: its body or its side of a tunnel. What belongs to its next request, or comes before a connection is
    /// open, has to wait.
    pub(in crate::shard) fn exchange_bytes(&mut self, conn: ConnId, bytes: &[u8], now: Now) -> usize {
        let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else {
            return bytes.len();
        };
        let Link::Open { conn: up, .. } = exchanging.link else { return 0 };
        let mut out = Vec::new();
        match exchanging.exchange.request_bytes(bytes, &mut out) {
            Ok(step) => {
                exchanging.pace.add(step.consumed);
                if !out.is_empty() {
                    self.pass(conn, up, out);
                }
                if step.consumed > 0 {
                    self.await_more(conn, now);
                }
                step.consumed
            }
            Err(error) => {
                self.metrics.http_parse_errors.one(error.label());
                self.drop_upstream(conn, now);
                self.bad_request(conn, error, now);
                bytes.len()
            }
        }
    }

    /// Bytes of an upstream.
    pub(in crate::shard) fn upstream_bytes(&mut self, up: ConnId, bytes: &[u8], now: Now) -> usize {
        let Some(conn) = self.served_by(up) else {
            // An idle connection has nothing to say: what it sends answers no request.
            self.abort(up);
            return bytes.len();
        };
        let options = Arc::clone(&self.options);
        let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else {
            return bytes.len();
        };
        let upstream = exchanging.upstream;
        let mut out = Vec::new();
        let begun = exchanging.exchange.response_is_begun();
        let step = exchanging.exchange.response_bytes(bytes, &options.http, &mut out);
        let status = exchanging.exchange.status();
        if !begun && status > 0 {
            let facts = exchanging.facts.clone();
            self.count_proxied(&facts, upstream, status);
        }
        if !out.is_empty() {
            self.pass(up, conn, out);
        }
        match step.map(|step| step.state) {
            Ok(ResponseState::Waiting) => {}
            Ok(ResponseState::Streaming) => self.await_more(conn, now),
            Ok(ResponseState::Tunnel) => {
                self.await_more(conn, now);
                self.ready_for_held(conn);
                self.leave_tunnel(conn, now);
            }
            Ok(ResponseState::Ended(ended)) => self.exchange_ended(conn, ended, now),
            Err(error) => self.exchange_failed(conn, error, now),
        }
        bytes.len()
    }

    /// An upstream will send nothing more.
    pub(in crate::shard) fn upstream_eof(&mut self, up: ConnId, now: Now) {
        let Some(conn) = self.served_by(up) else {
            return self.end(up, now);
        };
        let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        let mut out = Vec::new();
        let ended = exchanging.exchange.upstream_eof(&mut out);
        if !out.is_empty() {
            self.say(conn, out);
        }
        match ended {
            Ok(ended) => self.exchange_ended(conn, ended, now),
            Err(error) => self.exchange_failed(conn, error, now),
        }
    }

    /// The client has finished sending. Its complete request is still answered; a tunnel or half a request is not.
    pub(in crate::shard) fn exchange_eof(&mut self, conn: ConnId) {
        let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        exchanging.facts.keep_alive = false;
        if exchanging.exchange.is_tunnel() || !exchanging.exchange.request_is_complete() {
            self.abort(conn);
        }
    }

    /// A deadline of an exchange has passed; which one follows from how far it is.
    pub(in crate::shard) fn exchange_expired(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Exchange(exchanging)) = self.connections.get(conn).map(|cell| &cell.stage) else { return };
        let error = match exchanging.link {
            Link::Waiting => ProxyError::WaitTimedOut,
            Link::Connecting(_) => ProxyError::ConnectTimedOut,
            Link::Open { .. } => match exchanging.awaited(self.connections.is_paused_by(conn, Pause::COUNTERPART)) {
                Awaited::More => ProxyError::BodyTimedOut,
                Awaited::Response => ProxyError::ResponseTimedOut,
                Awaited::Request => {
                    // The upstream has done nothing wrong: it is the client that does not send what it announced.
                    self.drop_upstream(conn, now);
                    return self.bad_request(conn, HttpError::BodyTimeout, now);
                }
            },
        };
        self.exchange_failed(conn, error, now);
    }

    /// The client's connection is going: frees what its exchange holds.
    pub(in crate::shard) fn release_exchange(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Exchange(exchanging)) = self.connections.get(conn).map(|cell| &cell.stage) else { return };
        let (upstream, link) = (exchanging.upstream, exchanging.link);
        match link {
            Link::Waiting => {
                self.upstreams.pool(upstream).forget(conn);
            }
            // The connection goes to somebody else when it opens.
            Link::Connecting(_) => {}
            Link::Open { .. } => self.drop_upstream(conn, now),
        }
    }

    /// The exchange ended as it should.
    fn exchange_ended(&mut self, conn: ConnId, ended: Ended, now: Now) {
        let Some(Stage::Exchange(exchanging)) = self.take_stage(conn) else { return };
        let Exchanging { facts, upstream, link, started, exchange, .. } = *exchanging;
        // How long a tunnel lasts says nothing about the upstream.
        if exchange.status() != 101 {
            let name = &self.upstreams.options(upstream).name;
            self.metrics.upstream_duration.record(name, now.monotonic.since(started));
        }
        if let Link::Open { conn: up, server, .. } = link {
            if ended.upstream_reusable {
                self.put_back(up, upstream, server, now);
            } else {
                self.retire(up);
                self.give_up_place(upstream, server, up, now);
                self.end(up, now);
            }
        }
        self.connections.resume(conn, Pause::COUNTERPART);
        self.next_request(conn, ended.downstream_keep_alive && facts.keep_alive && self.draining.is_none(), now);
    }

    /// The exchange cannot go on: try again, tell the client, or cut it off where the response has begun.
    fn exchange_failed(&mut self, conn: ConnId, error: ProxyError, now: Now) {
        let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        let (upstream, link) = (exchanging.upstream, exchanging.link);
        let name = &self.upstreams.options(upstream).name;
        self.metrics.upstream_errors.name_and(name, error.label());
        tracing::info!(%conn, upstream = name.as_str(), reason = error.label(), "upstream failed");
        let reused = matches!(link, Link::Open { reused: true, .. });
        let failure = exchanging.exchange.failed(error, reused, name);
        let complete = exchanging.exchange.request_is_complete();
        match (failure, link) {
            (Failure::Retry, Link::Open { conn: up, server, .. }) => {
                let acquired = self.upstreams.pool(upstream).replace(server);
                self.retire(up);
                self.abort(up);
                match acquired {
                    Some(acquired) => self.acquired(conn, upstream, acquired, now),
                    None => self.abort(conn),
                }
            }
            (Failure::Answer(problem), _) => {
                self.release_exchange(conn, now);
                let Some(Stage::Exchange(exchanging)) = self.take_stage(conn) else { return };
                let Exchanging { mut facts, .. } = *exchanging;
                facts.keep_alive &= complete;
                self.connections.resume(conn, Pause::COUNTERPART);
                self.count_upstream_request(upstream, problem.status);
                self.refuse(conn, &facts, &problem, now);
            }
            (Failure::Abort | Failure::Retry, _) => self.abort(conn),
        }
    }

    /// Something has happened on an exchange whose connection is open: when must the next thing have happened?
    fn await_more(&mut self, conn: ConnId, now: Now) {
        let paused = self.connections.is_paused_by(conn, Pause::COUNTERPART);
        let Some(Stage::Exchange(exchanging)) = self.connections.get(conn).map(|cell| &cell.stage) else { return };
        let options = self.upstreams.options(exchanging.upstream);
        let deadline = match exchanging.awaited(paused) {
            Awaited::Request => exchanging.pace.deadline(&self.options.http, now.monotonic),
            Awaited::Response => now.monotonic + options.response_timeout,
            Awaited::More => now.monotonic + options.idle_timeout,
        };
        self.timers.set(conn.slot, deadline);
    }

    /// A response of an upstream has begun.
    fn count_proxied(&mut self, facts: &Facts, upstream: usize, status: u16) {
        self.count_upstream_request(upstream, status);
        self.count_request(facts, known_status(status));
    }

    fn count_upstream_request(&mut self, upstream: usize, status: u16) {
        let name = &self.upstreams.options(upstream).name;
        self.metrics.upstream_requests.name_and(name, known_status(status));
    }
}
