//! Bytes in: read when the kernel has told that there are some, into the worker's one buffer, which the shard sees during the call.
//!
//! Data comes before the end of data: a hang-up is acted on only when a read has returned nothing.

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::table::{Flags, Stage};
use super::{Sockets, Todo};
use crate::base::{ConnId, Now};
use crate::net::deadlines::{Due, NO_MEMORY_PAUSE};
use crate::shard::{Input, Shard};

/// Reads of a client per turn.
const READS_MAX: usize = 2;

impl Sockets {
    /// Reads a share of what there is; the rest is left to a later turn.
    pub(super) fn read(&mut self, conn: ConnId, shard: &mut Shard, now: Now) {
        if self.table.of(conn).is_some_and(|cell| cell.flags.has(Flags::UPSTREAM)) {
            return self.read_upstream(conn, shard, now);
        }
        for _ in 0..READS_MAX {
            if !self.may_read(conn) || !self.read_once(conn, shard, now) {
                return;
            }
        }
        self.read_on(conn);
    }

    /// Reads once. What comes behind, now or meanwhile, waits until the kernel has decided on what the shard sends of this: its
    /// reader may be behind, and nothing more is wanted then.
    fn read_upstream(&mut self, conn: ConnId, shard: &mut Shard, now: Now) {
        if self.may_read(conn) {
            self.read_once(conn, shard, now);
            self.queue(conn, |sockets| sockets.behind.push(conn));
        }
    }

    fn may_read(&mut self, conn: ConnId) -> bool {
        let Some(cell) = self.table.of(conn) else { return false };
        let wants = matches!(cell.stage, Stage::Open | Stage::Lingering) && !cell.flags.has(Flags::PAUSED | Flags::EOF);
        wants && cell.flags.has(Flags::READABLE)
    }

    /// One read. False where there is nothing more for now.
    fn read_once(&mut self, conn: ConnId, shard: &mut Shard, now: Now) -> bool {
        let Some(socket) = self.table.socket(conn) else { return false };
        match recv(socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.ended(conn, shard, now),
            Ok((bytes, _)) => return self.bytes(conn, bytes, shard, now),
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => self.is_read_empty(conn),
            Err(Errno::NOMEM | Errno::NOBUFS) => {
                self.is_read_empty(conn);
                self.deadlines.set(now.monotonic + NO_MEMORY_PAUSE, Due::Receive(conn));
            }
            Err(error) => self.fail(conn, error, shard, now),
        }
        false
    }

    fn bytes(&mut self, conn: ConnId, bytes: usize, shard: &mut Shard, now: Now) -> bool {
        let Some(cell) = self.table.of(conn) else { return false };
        // A read that does not fill the buffer has emptied the socket, and the next byte will be told of. The end is told once.
        let more = bytes == self.buffer.len() || cell.flags.has(Flags::HANG_UP);
        if !more {
            cell.flags.clear(Flags::READABLE);
        }
        let stage = cell.stage;
        self.facts.ring.received_bytes += bytes as u64;
        match stage {
            Stage::Open => shard.handle(Input::Bytes { conn, bytes: &mut self.buffer[..bytes] }, now),
            Stage::Lingering => self.discard(conn, bytes),
            Stage::Free | Stage::Connecting => {}
        }
        more
    }

    fn is_read_empty(&mut self, conn: ConnId) {
        if let Some(cell) = self.table.of(conn) {
            cell.flags.clear(Flags::READABLE);
        }
    }

    /// The peer will send no more.
    fn ended(&mut self, conn: ConnId, shard: &mut Shard, now: Now) {
        let Some(cell) = self.table.of(conn) else { return };
        cell.flags.set(Flags::EOF);
        match cell.stage {
            Stage::Open => shard.handle(Input::Eof { conn }, now),
            Stage::Lingering => self.release(conn),
            Stage::Free | Stage::Connecting => {}
        }
    }

    /// The shard wants no more bytes, or wants them again.
    pub(super) fn pause_reading(&mut self, conn: ConnId, paused: bool) {
        let Some(cell) = self.table.in_stage(conn, Stage::Open) else { return };
        if paused {
            cell.flags.set(Flags::PAUSED);
        } else {
            cell.flags.clear(Flags::PAUSED);
            self.read_on(conn);
        }
    }

    /// Goes on with what was left unread, if anything was.
    pub(super) fn read_on(&mut self, conn: ConnId) {
        if self.may_read(conn) {
            self.read_later(conn);
        }
    }

    /// Lets the connection have its turn, whatever the kernel has told of it.
    pub(super) fn read_later(&mut self, conn: ConnId) {
        if let Some(cell) = self.table.of(conn) {
            cell.flags.set(Flags::READABLE);
        }
        self.queue(conn, |sockets| sockets.later.push(Todo::Read(conn)));
    }

    /// Whether a connection must stand in line with what it has to say. Of a fresh one the kernel first tells that it has room, and
    /// that is nothing to stand in line for. In a drain nobody must: who has not been read when the shard begins with it is taken to
    /// have nothing to say.
    pub(super) fn stands_in_line(&mut self, conn: ConnId) -> bool {
        let Some(cell) = self.table.in_stage(conn, Stage::Open) else { return false };
        if !cell.flags.has(Flags::READABLE) || !cell.flags.take(Flags::NEW) || self.draining {
            return false;
        }
        self.queue(conn, |sockets| sockets.line.join(conn));
        true
    }

    fn queue(&mut self, conn: ConnId, push: impl FnOnce(&mut Self)) {
        let Some(cell) = self.table.of(conn) else { return };
        if !cell.flags.has(Flags::QUEUED) {
            cell.flags.set(Flags::QUEUED);
            push(self);
        }
    }
}
