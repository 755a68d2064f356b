//! Connections to upstreams: got from a pool or opened for a request, given back, given up.

use std::net::SocketAddr;

use super::Link;
use crate::base::{ConnId, Key, Now};
use crate::proxy::{Acquire, ProxyError, PutBack, ServerId, Turn};
use crate::shard::Shard;
use crate::shard::connections::Pause;
use crate::shard::io::{ConnectCause, ListenerId, Output};
use crate::shard::stage::Stage;

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
    pub(in crate::shard) fn reload_upstreams(&mut self, options: &crate::proxy::Options) {
        let idle = self.upstreams.reload(options);
        self.end_idle(idle);
    }

    /// No connection is kept for later any more.
    pub(in crate::shard) fn close_pools(&mut self) {
        let idle = self.upstreams.retire_all();
        self.end_idle(idle);
    }

    pub(super) fn end_idle(&mut self, idle: Vec<ConnId>) {
        for up in idle {
            self.retire(up);
            self.end(up, self.now);
        }
    }

    /// Acts on what a pool gave to a request.
    pub(super) fn acquired(&mut self, conn: ConnId, upstream: usize, acquired: Acquire, now: Now) {
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
    pub(in crate::shard) fn upstream_connected(&mut self, up: ConnId, token: u32, now: Now) {
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
    pub(in crate::shard) fn upstream_failed(&mut self, token: u32, cause: ConnectCause, now: Now) {
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

    /// Gives a connection whose exchange ended well to the next request, or to its pool.
    pub(super) fn put_back(&mut self, up: ConnId, upstream: usize, server: ServerId, now: Now) {
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

    /// Tells the pool that a connection is closed, which may give a place to a waiting request.
    pub(super) fn give_up_place(&mut self, upstream: usize, server: ServerId, up: ConnId, now: Now) {
        let turn = self.upstreams.pool(upstream).closed(server, up);
        self.take_turn(upstream, turn, now);
    }

    /// The pool has been told of the connection's end, or need not be.
    pub(super) fn retire(&mut self, up: ConnId) {
        if let Some(Stage::Upstream(conn)) = self.connections.get_mut(up).map(|cell| &mut cell.stage) {
            (conn.retired, conn.downstream) = (true, None);
        }
    }

    pub(super) fn take_turn(&mut self, upstream: usize, turn: Option<Turn>, now: Now) {
        if let Some(turn) = turn {
            self.acquired(turn.waiter, upstream, turn.acquired, now);
        }
    }

    pub(super) fn detach(&mut self, up: ConnId) {
        if let Some(Stage::Upstream(conn)) = self.connections.get_mut(up).map(|cell| &mut cell.stage) {
            conn.downstream = None;
        }
    }

    pub(super) fn served_by(&self, up: ConnId) -> Option<ConnId> {
        match self.connections.get(up).map(|cell| &cell.stage) {
            Some(Stage::Upstream(conn)) => conn.downstream,
            _ => None,
        }
    }

    pub(super) fn link_of(&self, conn: ConnId) -> Option<Link> {
        match self.connections.get(conn).map(|cell| &cell.stage) {
            Some(Stage::Exchange(exchanging)) => Some(exchanging.link),
            _ => None,
        }
    }

    pub(super) fn set_link(&mut self, conn: ConnId, link: Link) {
        if let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) {
            exchanging.link = link;
        }
    }

    pub(super) fn take_connecting(&mut self, token: u32) -> Option<Connecting> {
        let key: Key = self.upstreams.connecting.key_at(token)?;
        self.upstreams.connecting.remove(key)
    }

    /// Closes the upstream side of an exchange.
    pub(super) fn drop_upstream(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Exchange(exchanging)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return };
        let Link::Open { conn: up, server, .. } = std::mem::replace(&mut exchanging.link, Link::Waiting) else { return };
        let upstream = exchanging.upstream;
        self.retire(up);
        self.give_up_place(upstream, server, up, now);
        self.abort(up);
    }

    /// An idle connection has been idle for long enough.
    pub(in crate::shard) fn upstream_expired(&mut self, up: ConnId, now: Now) {
        if self.served_by(up).is_none() {
            self.end(up, now);
        }
    }

    /// A connection to an upstream is going: its pool gets the place back, and whom it served is told.
    pub(in crate::shard) fn release_upstream(&mut self, up: ConnId, now: Now) {
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

    /// An upstream's socket is dead, and the shell is closing it: its exchange fails.
    pub(in crate::shard) fn upstream_gone(&mut self, up: ConnId, now: Now) {
        let Some(conn) = self.served_by(up) else { return };
        self.retire(up);
        self.connections.vacate(up);
        self.exchange_failed(conn, ProxyError::ClosedEarly, now);
    }
}
