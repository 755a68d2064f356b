//! Connections that we make: a socket in a slot of the kernel's choice, then the connect, then as any other connection.

use std::net::SocketAddr;

use super::cells::{Flags, Stage};
use super::deadlines::Due;
use super::sockets::{Sockets, connect_cause};
use crate::base::{ConnId, Now};
use crate::ring::{Completion, Kind, Token};
use crate::shard::{Input, Shard};

impl Sockets {
    pub(super) fn connect(&mut self, token: u32, address: SocketAddr) {
        let attempt = self.next_attempt;
        self.next_attempt = attempt.wrapping_add(1);
        self.attempts.insert(attempt, (token, address));
        self.ring.socket(address.ip(), Token::numbered(Kind::Socket, attempt));
    }

    pub(super) fn socket_made(&mut self, completion: &Completion, shard: &mut Shard, now: Now) {
        let Some((token, address)) = self.attempts.remove(&completion.token.slot) else { return };
        let Ok(slot) = u32::try_from(completion.result) else {
            let cause = connect_cause(-completion.result);
            return shard.handle(Input::ConnectFailed { token, cause }, now);
        };
        let conn = self.claim(slot, Stage::Connecting);
        self.count_load(self.peers.me, true);
        self.begin(conn, Flags::UPSTREAM);
        self.connecting.insert(slot, token);
        self.ring.set_nodelay(conn);
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
