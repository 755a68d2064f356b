//! The end of a connection, in the only order in which the peer gets everything and no completion finds a stranger.
//!
//! ```text
//! close(Linger): shut down writing: Lingering ─ end of input, 64 KiB or 2 s ─┐
//! close(Abort), reset, dead: ────────────────────────────────────────────────┤
//!                                                                            ▼
//!          Free ◄─ close completes: Closed ◄─ nothing in flight: close ◄─ cancel: Closing
//! ```
//! The shard asks for a lingering close only when all it had to say has been taken. Closing with unread input would send a
//! reset, which can destroy the last response on its way: hence the discarding. A close while a receive is armed would leave
//! the peer waiting: hence the cancelling first.

use std::time::Duration;

use super::Sockets;
use super::cells::{Flags, Stage};
use super::receiving::receive_kind;
use crate::base::{ConnId, Nanos, Now, STOOD_STILL};
use crate::ring::Kind;
use crate::shard::CloseHow;

/// Time for the completions of a closing connection; later ones are a bug.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

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
        debug_assert!(!self.ring.is_sending(conn), "what is not sent yet would be lost");
        let Some(cell) = self.cells.of(conn) else { return };
        if cell.flags.has(Flags::EOF) {
            // Nothing to wait for: the peer has read or will read to our end, as we have to its.
            return self.tear_down(conn, now);
        }
        cell.stage = Stage::Lingering;
        cell.flags.clear(Flags::PAUSED);
        self.begin(conn, Flags::default());
        self.ring.shutdown_writing(conn);
        self.deadlines.linger(now.monotonic, conn);
        self.unpark(conn);
    }

    // ---- the rest of the input ----

    pub(super) fn discard(&mut self, conn: ConnId, bytes: usize, now: Now) {
        if !self.discarded.add(conn.slot, bytes) {
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
        self.discarded.forget(conn.slot);
        let Some(cell) = self.cells.of(conn) else { return };
        let armed = [
            (cell.flags.has(Flags::RECEIVING), receive_kind(cell)),
            (cell.flags.has(Flags::POLLING), Kind::PollIn),
            (cell.room.is_awaited(), Kind::PollOut),
        ];
        // Each by its name: to find all of a descriptor's the kernel would look at every poll that is armed on the ring.
        for (_, kind) in armed.into_iter().filter(|(is_armed, _)| *is_armed) {
            self.begin(conn, Flags::default());
            self.ring.cancel(conn, kind);
        }
        self.deadlines.close(now.monotonic, CLOSE_TIMEOUT, conn);
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
    pub(super) fn freed(&mut self, conn: ConnId, now: Now) {
        let Some(cell) = self.in_stage(conn, Stage::Closed) else { return };
        cell.stage = Stage::Free;
        cell.generation = cell.generation.wrapping_add(1);
        let was_upstream = cell.flags.has(Flags::UPSTREAM);
        self.upstreams -= u32::from(was_upstream);
        self.live -= 1;
        self.peers.loads.remove_connection(self.peers.me);
        self.accept_if_room(now);
    }

    pub(super) fn close_expired(&mut self, conn: ConnId, due: Nanos, now: Now) {
        if let Some(cell) = self.cells.of(conn).filter(|cell| matches!(cell.stage, Stage::Closing | Stage::Closed)) {
            if may_be_unseen(due, now.monotonic, self.ring.has_completions()) {
                return self.deadlines.close(now.monotonic, CLOSE_TIMEOUT, conn);
            }
            let in_flight = cell.in_flight;
            self.facts.lost_completions += 1;
            tracing::error!(%conn, in_flight, "completions of a closing connection are missing");
        }
    }
}

/// Whether completions that are missing at `due` may have come all the same: not all of them were read, or the worker had no turns in
/// which to ask for the next step of a close.
fn may_be_unseen(due: Nanos, now: Nanos, unread: bool) -> bool {
    unread || now.since(due) > STOOD_STILL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stood_still_or_is_behind_misses_no_completion() {
        let due = Nanos::default() + CLOSE_TIMEOUT;
        assert!(may_be_unseen(due, due, true));
        assert!(may_be_unseen(due, due + STOOD_STILL * 2, false));
        assert!(!may_be_unseen(due, due + STOOD_STILL, false));
    }
}
