//! Requests that an upstream answers: the client's connection and the upstream's, tied together for one exchange.
//!
//! ```text
//!   client ── Exchanging ──────── link ──────── UpstreamConn ── upstream
//!               │ Exchange (what to pass on)        │ Pool (who may have the connection next)
//! ```
//!
//! Either side is read only while the other takes what it is sent: a refused send pauses the counterpart.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Shard;
use super::connections::Pause;
use super::io::{ConnectCause, ListenerId, Output};
use super::reply::Facts;
use super::stage::Stage;
use crate::base::{ConnId, Key, Nanos, Now};
use crate::http::HttpError;
use crate::http::body::Pace;
use crate::http::cors::Cors;
use crate::http::head::Head;
use crate::http::problem::Problem;
use crate::protocol::codes::Disconnect;
use crate::proxy::{Acquire, Downstream, Ended, Exchange, Failure, ProxyError, PutBack, ResponseState, ServerId, Turn};
use crate::ws::{self, CloseCode, Opcode};

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

/// A connection to an upstream.
#[derive(Debug)]
pub struct UpstreamConn {
    upstream: usize,
    server: ServerId,
    /// Whom it serves; nobody while it is idle in its pool.
    downstream: Option<ConnId>,
    /// The pool has it no more: its end is nobody's business.
    retired: bool,
}

/// A connection being opened.
#[derive(Clone, Copy, Debug)]
pub struct Connecting {
    upstream: usize,
    server: ServerId,
    downstream: ConnId,
    address: SocketAddr,
}

impl Shard {
    /// New routes and upstreams: requests from now on go by them, what is under way ends where it is.
    pub(super) fn reload_upstreams(&mut self, options: &crate::proxy::Options) {
        let idle = self.upstreams.reload(options);
        self.end_idle(idle);
    }

    /// No connection is kept for later any more.
    pub(super) fn close_pools(&mut self) {
        let idle = self.upstreams.retire_all();
        self.end_idle(idle);
    }

    fn end_idle(&mut self, idle: Vec<ConnId>) {
        for up in idle {
            self.retire(up);
            self.end(up, self.now);
        }
    }
}

/// The status as a label: no upstream may make more of them than there are.
const fn known_status(status: u16) -> u16 {
    if matches!(status, 100..600) { status } else { 999 }
}

impl Shard {
    /// What no door takes goes to an upstream.
    pub(super) fn pass_on(&mut self, conn: ConnId, head: &Head, now: Now) {
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

    /// Acts on what a pool gave to a request.
    fn acquired(&mut self, conn: ConnId, upstream: usize, acquired: Acquire, now: Now) {
        let connect_timeout = self.upstreams.options(upstream).connect_timeout;
        match acquired {
            Acquire::Idle { server, conn: up } => {
                if let Some(Stage::Upstream(idle)) = self.connections.get_mut(up).map(|cell| &mut cell.stage) {
                    idle.downstream = Some(conn);
                }
                self.open_link(conn, Link::Open { conn: up, server, reused: true }, now);
            }
            Acquire::Connect { server, address } => {
                let key = self.upstreams.connecting.insert(Connecting { upstream, server, downstream: conn, address });
                self.connections.output(Output::Connect { token: key.index, address });
                self.set_link(conn, Link::Connecting(key.index));
                self.timers.set(conn.slot, now.monotonic + connect_timeout);
            }
            Acquire::Wait => {
                self.set_link(conn, Link::Waiting);
                self.timers.set(conn.slot, now.monotonic + connect_timeout);
            }
            Acquire::Refused => self.exchange_failed(conn, ProxyError::Busy, now),
        }
    }

    /// A connection that was asked for is open.
    pub(super) fn upstream_connected(&mut self, up: ConnId, token: u32, now: Now) {
        let Some(Connecting { upstream, server, downstream, address }) = self.take_connecting(token) else { return };
        self.upstreams.pool(upstream).connected();
        let wanted = self.link_of(downstream) == Some(Link::Connecting(token));
        let stage =
            Stage::Upstream(Box::new(UpstreamConn { upstream, server, downstream: wanted.then_some(downstream), retired: false }));
        self.connections.open(up, ListenerId::Public, address, stage);
        if wanted {
            self.open_link(downstream, Link::Open { conn: up, server, reused: false }, now);
        } else {
            // The client left while it was opened; somebody else may have it.
            self.put_back(up, upstream, server, now);
        }
    }

    /// A connection that was asked for could not be opened.
    pub(super) fn upstream_failed(&mut self, token: u32, cause: ConnectCause, now: Now) {
        let Some(Connecting { upstream, downstream, .. }) = self.take_connecting(token) else { return };
        let turn = self.upstreams.pool(upstream).connect_failed();
        self.take_turn(upstream, turn, now);
        if self.link_of(downstream) == Some(Link::Connecting(token)) {
            let error = match cause {
                ConnectCause::Refused => ProxyError::ConnectRefused,
                ConnectCause::Unreachable => ProxyError::ConnectUnreachable,
                ConnectCause::TimedOut => ProxyError::ConnectTimedOut,
                ConnectCause::Local => ProxyError::ConnectLocal,
            };
            self.exchange_failed(downstream, error, now);
        }
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
    pub(super) fn exchange_bytes(&mut self, conn: ConnId, bytes: &[u8], now: Now) -> usize {
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
    pub(super) fn upstream_bytes(&mut self, up: ConnId, bytes: &[u8], now: Now) -> usize {
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

    /// Queues bytes of one side for the other. One that is behind, perhaps with an earlier response, holds the writer back.
    fn pass(&mut self, from: ConnId, to: ConnId, bytes: Vec<u8>) {
        self.say(to, bytes);
        let blocked = self.connections.blocked(to.slot);
        let much = self.connections.reply_bytes(to.slot) > self.options.http.queue_bytes_max / 2;
        if (blocked || much) && !self.connections.is_paused_by(from, Pause::COUNTERPART) {
            self.connections.pause(from, Pause::COUNTERPART);
            if !blocked {
                self.resuming.push(to);
            }
        }
    }

    /// An upstream will send nothing more.
    pub(super) fn upstream_eof(&mut self, up: ConnId, now: Now) {
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
    pub(super) fn exchange_eof(&mut self, conn: ConnId) {
        let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        exchanging.facts.keep_alive = false;
        if exchanging.exchange.is_tunnel() || !exchanging.exchange.request_is_complete() {
            self.abort(conn);
        }
    }

    /// An upstream's socket is dead, and the shell is closing it: its exchange fails.
    pub(super) fn upstream_gone(&mut self, up: ConnId, now: Now) {
        let Some(conn) = self.served_by(up) else { return };
        self.retire(up);
        self.connections.vacate(up);
        self.exchange_failed(conn, ProxyError::ClosedEarly, now);
    }

    /// A connection to an upstream is going: its pool gets the place back, and whom it served is told.
    pub(super) fn release_upstream(&mut self, up: ConnId, now: Now) {
        let Some(Stage::Upstream(going)) = self.connections.get_mut(up).map(|cell| &mut cell.stage) else { return };
        if std::mem::replace(&mut going.retired, true) {
            return;
        }
        let (upstream, server, served) = (going.upstream, going.server, going.downstream.take());
        self.give_up_place(upstream, server, up, now);
        if let Some(conn) = served {
            self.set_link(conn, Link::Waiting);
            self.exchange_failed(conn, ProxyError::ClosedEarly, now);
        }
    }

    /// A deadline of an exchange has passed; which one follows from how far it is.
    pub(super) fn exchange_expired(&mut self, conn: ConnId, now: Now) {
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

    /// A send to one side was refused, or that side has room again: the other side is read accordingly.
    pub(super) fn hold_back(&mut self, conn: ConnId, paused: bool) {
        let counterpart = match self.connections.get(conn).map(|cell| &cell.stage) {
            Some(Stage::Exchange(exchanging)) => match exchanging.link {
                Link::Open { conn: up, .. } => Some(up),
                Link::Waiting | Link::Connecting(_) => None,
            },
            Some(Stage::Upstream(up)) => up.downstream,
            _ => None,
        };
        match counterpart {
            Some(conn) if paused => self.connections.pause(conn, Pause::COUNTERPART),
            Some(conn) if self.connections.is_paused_by(conn, Pause::COUNTERPART) => {
                self.connections.resume(conn, Pause::COUNTERPART);
                if let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) {
                    // What it could not send meanwhile is not its fault.
                    exchanging.pace = Pace::from(self.now.monotonic);
                }
            }
            Some(_) | None => return,
        }
        if let Some(conn) = counterpart {
            self.await_more(conn, self.now);
        }
    }

    /// Reads those again who have taken all that waited for them, and the other side of their exchange. Sooner, and a slow
    /// reader's queue would grow by what a fast writer sends in the time of each small step.
    pub(super) fn read_again(&mut self) {
        let mut resuming = std::mem::take(&mut self.resuming);
        resuming.retain(|&conn| {
            let flushed = self.connections.is_flushed(conn.slot);
            if flushed {
                self.hold_back(conn, false);
                self.connections.resume(conn, Pause::BEHIND);
                self.ready_for_held(conn);
            }
            // A blocked one becomes writable again and comes back here.
            !flushed && !self.connections.blocked(conn.slot) && self.connections.get(conn).is_some()
        });
        self.resuming = resuming;
    }

    /// The client's connection is going: frees what its exchange holds.
    pub(super) fn release_exchange(&mut self, conn: ConnId, now: Now) {
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

    /// Gives a connection whose exchange ended well to the next request, or to its pool.
    fn put_back(&mut self, up: ConnId, upstream: usize, server: ServerId, now: Now) {
        self.detach(up);
        // It may have been held back for the client it served; unread, its end would go unnoticed.
        self.connections.resume(up, Pause::COUNTERPART);
        match self.upstreams.pool(upstream).put_back(server, up) {
            PutBack::Kept => {
                let timeout = self.upstreams.options(upstream).idle_timeout;
                self.timers.set(up.slot, now.monotonic + timeout);
            }
            PutBack::Handed(turn) => self.acquired(turn.waiter, upstream, turn.acquired, now),
            PutBack::Close => {
                self.retire(up);
                self.end(up, now);
            }
        }
    }

    /// An idle connection has been idle for long enough.
    pub(super) fn upstream_expired(&mut self, up: ConnId, now: Now) {
        if self.served_by(up).is_none() {
            self.end(up, now);
        }
    }

    /// Closes the upstream side of an exchange.
    fn drop_upstream(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        let Link::Open { conn: up, server, .. } = std::mem::replace(&mut exchanging.link, Link::Waiting) else { return };
        let upstream = exchanging.upstream;
        self.retire(up);
        self.give_up_place(upstream, server, up, now);
        self.abort(up);
    }

    /// Tells the pool that a connection is closed, which may give a place to a waiting request.
    fn give_up_place(&mut self, upstream: usize, server: ServerId, up: ConnId, now: Now) {
        let turn = self.upstreams.pool(upstream).closed(server, up);
        self.take_turn(upstream, turn, now);
    }

    /// The pool has been told of the connection's end, or need not be.
    fn retire(&mut self, up: ConnId) {
        if let Some(Stage::Upstream(conn)) = self.connections.get_mut(up).map(|cell| &mut cell.stage) {
            (conn.retired, conn.downstream) = (true, None);
        }
    }

    fn take_turn(&mut self, upstream: usize, turn: Option<Turn>, now: Now) {
        if let Some(turn) = turn {
            self.acquired(turn.waiter, upstream, turn.acquired, now);
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

    /// A drain has come to a client of an upstream. Requests are answered and close then; a raw WebSocket has no such end.
    pub(super) fn tell_exchange_to_go(&mut self, conn: ConnId, now: Now) {
        if let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) {
            exchanging.leaving = true;
            self.leave_tunnel(conn, now);
        }
    }

    /// Ends a tunnel that is to go, with a Close to both sides, once that does not fall into the middle of a frame.
    fn leave_tunnel(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        let Some(tunnel) = exchanging.exchange.tunnel().filter(|_| exchanging.leaving) else { return };
        if !tunnel.down.is_at_boundary() && !tunnel.down.is_lost() {
            return;
        }
        let (tell_client, tell_upstream) = (tunnel.down.is_at_boundary(), tunnel.up.is_at_boundary());
        let upstream = exchanging.upstream;
        let Link::Open { conn: up, server, .. } = std::mem::replace(&mut exchanging.link, Link::Waiting) else { return };
        let (code, reason) = (CloseCode::GOING_AWAY, Disconnect::Shutdown.reason());
        if tell_client {
            self.say(conn, ws::encode::close(code, reason));
        }
        if tell_upstream {
            let [a, b, c, d, ..] = self.random.bits().to_ne_bytes();
            self.say(up, ws::encode::masked(Opcode::Close, &ws::encode::close_payload(code, reason), [a, b, c, d]));
        }
        self.retire(up);
        self.give_up_place(upstream, server, up, now);
        self.end(up, now);
        self.end(conn, now);
    }

    fn detach(&mut self, up: ConnId) {
        if let Some(Stage::Upstream(conn)) = self.connections.get_mut(up).map(|cell| &mut cell.stage) {
            conn.downstream = None;
        }
    }

    fn served_by(&self, up: ConnId) -> Option<ConnId> {
        match self.connections.get(up).map(|cell| &cell.stage) {
            Some(Stage::Upstream(conn)) => conn.downstream,
            _ => None,
        }
    }

    fn link_of(&self, conn: ConnId) -> Option<Link> {
        match self.connections.get(conn).map(|cell| &cell.stage) {
            Some(Stage::Exchange(exchanging)) => Some(exchanging.link),
            _ => None,
        }
    }

    fn set_link(&mut self, conn: ConnId, link: Link) {
        if let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) {
            exchanging.link = link;
        }
    }

    fn take_connecting(&mut self, token: u32) -> Option<Connecting> {
        let key: Key = self.upstreams.connecting.key_at(token)?;
        self.upstreams.connecting.remove(key)
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
