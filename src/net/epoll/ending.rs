//! Connections that we make, and the end of all of them.
//!
//! ```text
//! close(Linger): shut down writing: Lingering ─ end of input, 64 KiB or 2 s ─┐
//! close(Abort), reset, dead: ────────────────────────────────────────────────┴─► closed, slot free
//! ```
//! Closing with unread input would send a reset, which can destroy the last response on its way: hence the discarding.

use std::net::SocketAddr;

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown, sockopt};

use super::Sockets;
use super::table::{Flags, Stage};
use crate::base::{ConnId, Now};
use crate::net::deadlines::Due;
use crate::net::errno::{connect_cause, gone_cause};
use crate::net::listen::upstream_socket;
use crate::shard::{CloseHow, ConnectCause, Input, Shard};

impl Sockets {
    // ---- upstreams ----

    pub(super) fn connect(&mut self, token: u32, address: SocketAddr, now: Now) {
        if !self.place.loads.book_connection(self.place.me) {
            return self.unmade.push((token, ConnectCause::Local));
        }
        if let Err(error) = self.start_connecting(token, address, now) {
            self.place.loads.remove_connection(self.place.me);
            self.unmade.push((token, connect_cause(error.raw_os_error().unwrap_or(0))));
        }
    }

    fn start_connecting(&mut self, token: u32, address: SocketAddr, now: Now) -> std::io::Result<()> {
        let socket = upstream_socket(address)?;
        socket.set_nonblocking(true)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let conn = self.table.claim(socket.into(), Stage::Connecting);
        if let Some(cell) = self.table.of(conn) {
            cell.flags.set(Flags::UPSTREAM);
        }
        // Not before the connect: a socket that is not connected looks hung up.
        if let Err(error) = self.register(conn) {
            self.table.release(conn);
            return Err(error.into());
        }
        self.upstreams += 1;
        self.connecting.insert(conn.slot, token);
        self.deadlines.set(now.monotonic + self.times.connect_timeout, Due::Connect(conn));
        Ok(())
    }

    /// A connect has succeeded or failed.
    pub(super) fn connected(&mut self, conn: ConnId, shard: &mut Shard, now: Now) {
        let Some(socket) = self.table.socket(conn) else { return };
        let result = sockopt::socket_error(socket).and_then(|result| result);
        match result {
            Ok(()) => {
                let Some(token) = self.connecting.remove(&conn.slot) else { return };
                if let Some(cell) = self.table.of(conn) {
                    cell.stage = Stage::Open;
                }
                shard.handle(Input::Connected { conn, token }, now);
            }
            Err(error) => self.connect_failed(conn, connect_cause(error.raw_os_error()), shard, now),
        }
    }

    pub(super) fn connect_expired(&mut self, conn: ConnId, shard: &mut Shard, now: Now) {
        if self.table.in_stage(conn, Stage::Connecting).is_some() {
            self.connect_failed(conn, ConnectCause::TimedOut, shard, now);
        }
    }

    fn connect_failed(&mut self, conn: ConnId, cause: ConnectCause, shard: &mut Shard, now: Now) {
        let token = self.connecting.remove(&conn.slot);
        self.release(conn);
        if let Some(token) = token {
            shard.handle(Input::ConnectFailed { token, cause }, now);
        }
    }

    // ---- the end ----

    pub(super) fn close(&mut self, conn: ConnId, how: CloseHow, now: Now) {
        let Some(cell) = self.table.in_stage(conn, Stage::Open) else { return };
        // Behind the peer's end there is nothing to wait for: it has read or will read to our end, as we have to its.
        if how == CloseHow::Abort || cell.flags.has(Flags::EOF) {
            return self.release(conn);
        }
        cell.stage = Stage::Lingering;
        cell.flags.clear(Flags::PAUSED);
        if let Some(socket) = self.table.socket(conn) {
            // It fails only where the connection is broken already, which the next read will tell.
            let _ = shutdown(socket, Shutdown::Write);
        }
        self.deadlines.linger(now.monotonic, conn);
        self.read_on(conn);
    }

    pub(super) fn discard(&mut self, conn: ConnId, bytes: usize) {
        if !self.discarded.add(conn.slot, bytes) {
            self.release(conn);
        }
    }

    pub(super) fn linger_expired(&mut self, conn: ConnId) {
        if self.table.in_stage(conn, Stage::Lingering).is_some() {
            self.release(conn);
        }
    }

    /// The connection can serve no more.
    pub(super) fn fail(&mut self, conn: ConnId, error: Errno, shard: &mut Shard, now: Now) {
        let Some(cell) = self.table.of(conn) else { return };
        let stage = cell.stage;
        self.release(conn);
        if stage == Stage::Open {
            shard.handle(Input::Gone { conn, cause: gone_cause(error.raw_os_error()) }, now);
        }
    }

    /// Closes the descriptor and frees the slot.
    pub(super) fn release(&mut self, conn: ConnId) {
        let Some(cell) = self.table.release(conn) else { return };
        self.upstreams -= u32::from(cell.flags.has(Flags::UPSTREAM));
        drop(cell);
        self.discarded.forget(conn.slot);
        self.place.loads.remove_connection(self.place.me);
        self.accept_if_room();
    }
}
