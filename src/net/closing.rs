//! The end of a connection, in the only order in which the peer gets everything and no completion finds a stranger.
//!
//! ```text
//! close(Linger): Flushing ─ all sent ─► shut down writing: Lingering ─ end of input, 64 KiB or 2 s ─┐
//! close(Abort), reset, dead: ───────────────────────────────────────────────────────────────────────┤
//!                                                                                                   ▼
//!          Free ◄─ close completes: Closed ◄─ nothing in flight: close ◄─ shut down, cancel: Closing
//! ```
//! Closing with unread input would send a reset, which can destroy the last response on its way: hence the discarding.

use std::time::Duration;

use super::cells::{Flags, Stage};
use super::deadlines::Due;
use super::sockets::Sockets;
use crate::base::{ConnId, Frames, Now};
use crate::ring::ShutdownHow;
use crate::shard::CloseHow;

/// Input discarded from a closed connection at most, in bytes and time.
const LINGER_BYTES_MAX: u32 = 64 << 10;
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the peer to take the rest of a closed connection's output.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the completions of a closing connection; later ones are a bug.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a closed connection still has to send.
pub struct Rest {
    frames: Frames,
    skip: u32,
}

impl Sockets {
    pub(super) fn close(&mut self, conn: ConnId, how: CloseHow, now: Now) {
        if self.in_stage(conn, Stage::Open).is_none() {
            return;
        }
        match how {
            CloseHow::Abort => self.tear_down(conn, now),
            CloseHow::Linger => self.start_linger(conn, now),
        }
    }

    fn start_linger(&mut self, conn: ConnId, now: Now) {
        if let Some(cell) = self.cells.of(conn) {
            cell.stage = Stage::Flushing;
            cell.flags.clear(Flags::PAUSED);
        }
        if self.ring.is_sending(conn) {
            self.deadlines.set(now.monotonic + FLUSH_TIMEOUT, Due::Flush(conn));
            self.ending.push(conn);
        } else {
            self.shut_down_writing(conn, now);
        }
    }

    /// Shuts down the closed connections whose last send went through.
    pub(super) fn end_what_is_sent(&mut self, now: Now) {
        for conn in std::mem::take(&mut self.ending) {
            if self.ring.is_sending(conn) {
                self.ending.push(conn);
            } else if !self.rests.contains_key(&conn.slot) {
                self.shut_down_writing(conn, now);
            }
        }
    }

    fn shut_down_writing(&mut self, conn: ConnId, now: Now) {
        let Some(cell) = self.in_stage(conn, Stage::Flushing) else { return };
        cell.stage = Stage::Lingering;
        let ended = cell.flags.has(Flags::EOF);
        self.begin(conn, Flags::default());
        self.ring.shutdown(conn, ShutdownHow::Write);
        if ended {
            return self.tear_down(conn, now);
        }
        self.deadlines.set(now.monotonic + LINGER_TIMEOUT, Due::Linger(conn));
        self.unpark(conn);
    }

    // ---- the rest of the output ----

    /// A closed connection's last send was refused: its rest is ours to send.
    pub(super) fn keep_rest(&mut self, conn: ConnId, frames: Frames, skip: u32, taken: u32) {
        if let Some(rest) = rest_of(frames, skip, taken) {
            self.rests.insert(conn.slot, rest);
        }
    }

    pub(super) fn send_rest(&mut self, conn: ConnId) {
        let Some(Rest { frames, skip }) = self.rests.remove(&conn.slot) else { return };
        self.ring.push_send(conn, frames, skip);
        self.ending.push(conn);
    }

    pub(super) fn flush_expired(&mut self, conn: ConnId, now: Now) {
        if self.in_stage(conn, Stage::Flushing).is_some() {
            self.tear_down(conn, now);
        }
    }

    // ---- the rest of the input ----

    pub(super) fn discard(&mut self, conn: ConnId, bytes: u32, now: Now) {
        let discarded = self.discarded.entry(conn.slot).or_default();
        *discarded += bytes;
        if *discarded > LINGER_BYTES_MAX {
            self.tear_down(conn, now);
        }
    }

    pub(super) fn linger_expired(&mut self, conn: ConnId, now: Now) {
        if self.in_stage(conn, Stage::Lingering).is_some() {
            self.tear_down(conn, now);
        }
    }

    // ---- the end ----

    /// Ends everything on the connection and closes it when the last operation has completed.
    pub(super) fn tear_down(&mut self, conn: ConnId, now: Now) {
        let Some(cell) = self.cells.of(conn) else { return };
        if matches!(cell.stage, Stage::Closing | Stage::Closed) {
            return;
        }
        cell.stage = Stage::Closing;
        let flags = cell.flags;
        self.rests.remove(&conn.slot);
        self.discarded.remove(&conn.slot);
        if flags.has(Flags::RECEIVING | Flags::POLLING | Flags::BLOCKED) {
            // A close would leave the peer waiting as long as a receive is armed; shutting down ends it, cancelling the polls.
            self.begin(conn, Flags::default());
            self.ring.shutdown(conn, ShutdownHow::Both);
            self.begin(conn, Flags::default());
            self.ring.cancel_all(conn);
            self.deadlines.set(now.monotonic + CLOSE_TIMEOUT, Due::Close(conn));
        }
        self.close_if_done(conn);
    }

    /// Closes the descriptor once nothing is in flight on it.
    pub(super) fn close_if_done(&mut self, conn: ConnId) {
        let Some(cell) = self.in_stage(conn, Stage::Closing) else { return };
        if cell.in_flight > 0 {
            return;
        }
        cell.stage = Stage::Closed;
        cell.in_flight = 1;
        self.ring.close(conn);
    }

    /// The slot is the kernel's again.
    pub(super) fn freed(&mut self, conn: ConnId) {
        let Some(cell) = self.in_stage(conn, Stage::Closed) else { return };
        cell.stage = Stage::Free;
        cell.generation = cell.generation.wrapping_add(1);
        self.live -= 1;
        self.count_load(self.peers.me, false);
        self.accept_if_room();
    }

    pub(super) fn close_expired(&mut self, conn: ConnId) {
        if let Some(cell) = self.in_stage(conn, Stage::Closing) {
            let in_flight = cell.in_flight;
            self.facts.lost_completions += 1;
            tracing::error!(%conn, in_flight, "completions of a closing connection are missing");
        }
    }
}

/// What is left of a send after `taken` bytes. `None` when that is nothing.
fn rest_of(frames: Frames, skip: u32, taken: u32) -> Option<Rest> {
    let mut gone = skip as usize + taken as usize;
    let mut left = match frames {
        Frames::One(frame) => vec![frame],
        Frames::Many(frames) => frames,
    };
    let whole = left
        .iter()
        .take_while(|frame| {
            let passed = gone >= frame.blob.len();
            gone -= if passed { frame.blob.len() } else { 0 };
            passed
        })
        .count();
    left.drain(..whole);
    (!left.is_empty()).then(|| Rest { frames: Frames::Many(left), skip: u32::try_from(gone).unwrap_or(u32::MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Frame;

    #[track_caller]
    fn check(skip: u32, taken: u32, expected: &[u8]) {
        let frames = Frames::Many(["abc", "de", "f"].map(|text| Frame::reply(text.as_bytes())).to_vec());
        let left: Vec<u8> = rest_of(frames, skip, taken).map_or(Vec::new(), |rest| {
            let bytes = rest.frames.as_slice().iter().flat_map(|frame| frame.blob.iter().copied());
            bytes.skip(rest.skip as usize).collect()
        });
        assert_eq!(left, expected);
    }

    #[test]
    fn the_rest_is_what_was_not_taken() {
        for taken in 0..=5 {
            check(1, taken, &b"bcdef"[taken as usize..]);
        }
    }
}
