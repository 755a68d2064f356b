//! Bytes out: one silent send per connection and flush; what the kernel refuses goes back to the shard.

use super::Sockets;
use super::cells::{Flags, Stage};
use crate::base::{ConnId, Frames, Now};
use crate::net::deadlines::Due;
use crate::ring::Refused;
use crate::shard::{Input, Shard};

impl Sockets {
    pub(super) fn send(&mut self, conn: ConnId, frames: Frames, skip: u32) {
        let Some(cell) = self.in_stage(conn, Stage::Open) else { return };
        debug_assert!(!cell.room.is_awaited(), "a send to a connection that waits for room");
        if cell.room.is_to_be_proven() {
            self.proving.push(conn);
        }
        self.ring.push_send(conn, frames, skip);
    }

    /// Tells the shard of every send that was not taken whole. To be called after each enter, before anything else.
    pub fn apply_refusals(&mut self, shard: &mut Shard, now: Now) {
        while let Some(refused) = self.ring.pop_refused() {
            self.refused(refused, shard, now);
        }
        self.forget_stalls();
    }

    fn refused(&mut self, refused: Refused, shard: &mut Shard, now: Now) {
        let Refused { conn, frames, skip, outcome, cut } = refused;
        let taken = match outcome {
            Ok(taken) => taken,
            Err(errno) => return self.fail(conn, errno, shard, now),
        };
        match self.cells.of(conn).map(|cell| cell.stage) {
            Some(Stage::Open) if cut => {
                shard.handle(Input::Taken { conn, frames, skip, taken }, now);
                shard.handle(Input::Writable { conn }, now);
            }
            Some(Stage::Open) => {
                self.await_room(conn, taken > 0, now);
                shard.handle(Input::Taken { conn, frames, skip, taken }, now);
            }
            _ => {}
        }
    }

    /// Arms the wake for when there is room; after wakes that brought nothing, a pause instead.
    fn await_room(&mut self, conn: ConnId, progress: bool, now: Now) {
        let Some(cell) = self.cells.of(conn) else { return };
        match cell.room.refused(progress) {
            Some(pause) => self.deadlines.set(now.monotonic + pause, Due::Write(conn)),
            None => {
                self.begin(conn, Flags::default());
                self.ring.poll_out(conn);
            }
        }
    }

    /// A send after a wake that was not refused is progress.
    fn forget_stalls(&mut self) {
        for conn in self.proving.drain(..) {
            if let Some(cell) = self.cells.of(conn) {
                cell.room.prove();
            }
        }
    }

    pub(super) fn poll_out(&mut self, conn: ConnId, result: i32, shard: &mut Shard, now: Now) {
        if result != -libc::ECANCELED {
            self.write_again(conn, shard, now);
        }
    }

    /// There is room, or it is time to try.
    pub(super) fn write_again(&mut self, conn: ConnId, shard: &mut Shard, now: Now) {
        let Some(cell) = self.cells.of(conn) else { return };
        if cell.room.wake() && cell.stage == Stage::Open {
            shard.handle(Input::Writable { conn }, now);
        }
    }
}
