//! Connections that we make: a socket with our options, into a slot of the kernel's choice, then the connect, then as any other.

use std::net::SocketAddr;

use super::Sockets;
use super::cells::{Flags, Stage};
use crate::base::{ConnId, Now};
use crate::net::deadlines::Due;
use crate::net::errno::connect_cause;
use crate::net::listen::upstream_socket;
use crate::ring::{Completion, Kind, Token};
use crate::shard::{ConnectCause, Input, Shard};

/// Upstream connections on their way to a slot.
pub struct Attempt {
    /// The shard's name for it.
    token: u32,
    address: SocketAddr,
}

impl Sockets {
    /// Connections to upstreams are pooled, so making their sockets may cost a few system calls.
    pub(super) fn connect(&mut self, token: u32, address: SocketAddr) {
        if !self.peers.loads.book_connection(self.peers.me) {
            return self.unmade.push((token, ConnectCause::Local));
        }
        match upstream_socket(address) {
            Ok(socket) => {
                let attempt = self.next_attempt;
                self.next_attempt = attempt.wrapping_add(1);
                self.attempts.insert(attempt, Attempt { token, address });
                self.ring.adopt(socket.into(), Token::numbered(Kind::Socket, attempt));
            }
            Err(error) => {
                self.peers.loads.remove_connection(self.peers.me);
                self.unmade.push((token, connect_cause(error.raw_os_error().unwrap_or(0))));
            }
        }
    }

    /// Tells the shard of the sockets that could not be made.
    pub fn report_unmade(&mut self, shard: &mut Shard, now: Now) {
        for (token, cause) in std::mem::take(&mut self.unmade) {
            shard.handle(Input::ConnectFailed { token, cause }, now);
        }
    }

    pub(super) fn socket_made(&mut self, completion: &Completion, shard: &mut Shard, now: Now) {
        let Some(Attempt { token, address }) = self.attempts.remove(&completion.token.slot) else { return };
        let Ok(slot) = u32::try_from(completion.result) else {
            self.peers.loads.remove_connection(self.peers.me);
            let cause = connect_cause(-completion.result);
            return shard.handle(Input::ConnectFailed { token, cause }, now);
        };
        let conn = self.claim(slot, Stage::Connecting);
        self.upstreams += 1;
        self.begin(conn, Flags::UPSTREAM);
        self.connecting.insert(slot, token);
        self.ring.connect(conn, address);
        self.deadlines.set(now.monotonic + self.times.connect_timeout, Due::Connect(conn));
    }

    pub(super) fn connected(&mut self, conn: ConnId, result: i32, shard: &mut Shard, now: Now) {
        if self.in_stage(conn, Stage::Connecting).is_none() {
            return;
        }
        let Some(token) = self.connecting.remove(&conn.slot) else { return };
        if result < 0 {
            self.tear_down(conn, now);
            return shard.handle(Input::ConnectFailed { token, cause: connect_cause(-result) }, now);
        }
        if let Some(cell) = self.cells.of(conn) {
            cell.stage = Stage::Open;
        }
        shard.handle(Input::Connected { conn, token }, now);
        self.arm_receive(conn);
        self.note_activity(conn, now);
    }

    /// The cancelled connect completes by itself, and fails as timed out.
    pub(super) fn connect_expired(&mut self, conn: ConnId) {
        let Some(cell) = self.in_stage(conn, Stage::Connecting) else { return };
        cell.in_flight += 1;
        self.ring.cancel(conn, Kind::Connect);
    }
}
