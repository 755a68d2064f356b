//! Bytes out: one silent send per connection and flush; what the kernel refuses goes back to the shard.

use std::time::Duration;

use super::cells::{Flags, Stage};
use super::deadlines::Due;
use super::sockets::Sockets;
use crate::base::{ConnId, Frames, Now};
use crate::ring::Refused;
use crate::shard::{Input, Shard};

/// Wakes without progress in a row from which on poll is not believed (out of socket memory it says writable, send says no).
const STALLS_BEFORE_BACKOFF: u8 = 2;
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

impl Sockets {
    pub(super) fn send(&mut self, conn: ConnId, frames: Frames, skip: u32) {
        let Some(cell) = self.in_stage(conn, Stage::Open) else { return };
        debug_assert!(!cell.flags.has(Flags::BLOCKED), "a send to a connection that waits for room");
        if cell.flags.has(Flags::WOKEN) {
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
        cell.stalls = if cell.flags.take(Flags::WOKEN) && !progress { cell.stalls.saturating_add(1) } else { 0 };
        cell.flags.set(Flags::BLOCKED);
        match back_off(cell.stalls) {
            Some(pause) => self.deadlines.set(now.monotonic + pause, Due::Write(conn)),
            None => {
                self.begin(conn, Flags::BLOCKED);
                self.ring.poll_out(conn);
            }
        }
    }

    /// A send after a wake that was not refused is progress.
    fn forget_stalls(&mut self) {
        for conn in self.proving.drain(..) {
            if let Some(cell) = self.cells.of(conn).filter(|cell| !cell.flags.has(Flags::BLOCKED)) {
                cell.flags.clear(Flags::WOKEN);
                cell.stalls = 0;
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
        if !cell.flags.take(Flags::BLOCKED) {
            return;
        }
        cell.flags.set(Flags::WOKEN);
        if cell.stage == Stage::Open {
            shard.handle(Input::Writable { conn }, now);
        }
    }
}

/// The pause after so many wakes without progress. `None`: poll is still believed.
pub(super) fn back_off(stalls: u8) -> Option<Duration> {
    let doublings = u32::from(stalls.checked_sub(STALLS_BEFORE_BACKOFF)?).min(8);
    Some((BACKOFF_MIN * (1 << doublings)).min(BACKOFF_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writable_without_progress_backs_off() {
        let pauses: Vec<_> = (0..u8::MAX).map(back_off).collect();
        assert_eq!(pauses[..2], [None, None], "a refusal, and one wake for nothing");
        let millis = |pause: &Option<Duration>| pause.map_or(0, |pause| pause.as_millis());
        assert_eq!(pauses[2..9].iter().map(millis).collect::<Vec<_>>(), [10, 20, 40, 80, 160, 320, 500]);
        assert!(pauses[9..].iter().all(|pause| *pause == Some(BACKOFF_MAX)));
    }
}
