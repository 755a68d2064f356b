//! Bytes in. A busy connection has a multishot receive armed (864 B of kernel memory), a quiet one only a poll (256 B).
//!
//! ```text
//!            nothing for a sweep: cancel the receive, poll
//!   RECEIVING ───────────────────────────────────────────► POLLING ── readable: receive once, again while there is more
//!       ▲                                                     │
//!       └───────── readable twice between two sweeps ─────────┘
//! ```
//! A new connection begins as a quiet one, and stands in [line](crate::net::line) with the first that it has to say.
//!
//! What we connect to ourselves sends much at a time and is to be stopped at once when its reader is behind: it gets one receive
//! after another, each with a large buffer.
//!
//! Data comes before the end of data: a hang-up seen by poll is acted on only when a receive has returned nothing.

use std::time::Duration;

use super::Sockets;
use super::cells::{Cell, Flags, Stage};
use crate::base::{ConnId, Now};
use crate::net::deadlines::{Due, NO_MEMORY_PAUSE};
use crate::ring::{Completion, Kind};
use crate::shard::{Input, Shard};

/// Steps in which all connections are looked at once per [`Times::quiet_after`](crate::net::shell::Times).
const SWEEP_STEPS: u32 = 20;
/// Receives cancelled per step of a sweep; after an accept storm a whole share of the cells goes quiet at once.
const SWEEP_CANCELS_MAX: u32 = 64;
/// How soon a step that was cut short goes on.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);
/// What an end of the peer's side looks like to poll.
const HANG_UP: i32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as i32;

/// The round over all cells that finds quiet connections.
#[derive(Default)]
pub struct Sweep {
    running: bool,
    next_slot: u32,
    /// This round has found something to come back for.
    found: bool,
}

/// Large receives that are to be followed by another, once the kernel has decided on what the shard sends of them, however little
/// that is: its reader may be behind, and nothing more is wanted then.
#[derive(Default)]
pub struct Following {
    /// Through in this turn: what the shard sends of them leaves with the next enter.
    fresh: Vec<ConnId>,
    /// Through in the turn before: by the end of this one the shard knows what the kernel did not take.
    due: Vec<ConnId>,
}

impl Following {
    /// Whether the next turn has some to arm.
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }
}

impl Sockets {
    /// Arms a receive that waits, unless something speaks against it.
    pub(super) fn arm_receive(&mut self, conn: ConnId) {
        let Some(cell) = self.cells.of(conn) else { return };
        let reads = matches!(cell.stage, Stage::Open | Stage::Lingering);
        if !reads || cell.flags.has(Flags::RECEIVING | Flags::EOF | Flags::PAUSED | Flags::STARVED) {
            return;
        }
        let kind = receive_kind(cell);
        self.begin(conn, Flags::RECEIVING);
        match kind {
            Kind::ReceiveBulk => self.ring.receive_bulk(conn),
            _ => self.ring.receive_multishot(conn),
        }
    }

    /// A receive has something to say: bytes, the end, or an error.
    pub(super) fn received(&mut self, completion: &mut Completion, shard: &mut Shard, now: Now) {
        let Some(conn) = self.finish_operation(completion) else { return };
        if !completion.more
            && let Some(cell) = self.cells.of(conn)
        {
            cell.flags.clear(if completion.token.kind == Kind::ReceiveOnce { Flags::READING } else { Flags::RECEIVING });
        }
        match completion.result {
            0 => self.ended(conn, shard, now),
            1.. => self.bytes(conn, completion, shard, now),
            errno => self.receive_failed(conn, completion.token.kind, -errno, shard, now),
        }
        self.close_if_done(conn);
    }

    fn bytes(&mut self, conn: ConnId, completion: &mut Completion, shard: &mut Shard, now: Now) {
        let Some(lease) = completion.lease.as_mut() else { return };
        match self.cells.of(conn).map(|cell| cell.stage) {
            Some(Stage::Open) => shard.handle(Input::Bytes { conn, bytes: self.ring.bytes(lease) }, now),
            Some(Stage::Lingering) => {
                let bytes = lease.len();
                self.discard(conn, bytes, now);
            }
            _ => return,
        }
        self.note_activity(conn, now);
        if completion.token.kind == Kind::ReceiveOnce {
            self.read_again(conn, completion.nonempty);
        } else if completion.token.kind == Kind::ReceiveBulk {
            self.following.fresh.push(conn);
        } else if !completion.more {
            self.restart_receive(conn);
        }
    }

    /// The multishot receive has ended without an error of its own.
    fn restart_receive(&mut self, conn: ConnId) {
        let Some(cell) = self.cells.of(conn) else { return };
        let quiet = cell.flags.take(Flags::STOPPING) && !cell.flags.has(Flags::PAUSED | Flags::ACTIVE);
        if quiet && cell.stage == Stage::Open {
            self.park(conn);
        } else {
            self.arm_receive(conn);
        }
    }

    /// The peer will send no more.
    fn ended(&mut self, conn: ConnId, shard: &mut Shard, now: Now) {
        let Some(cell) = self.cells.of(conn) else { return };
        cell.flags.set(Flags::EOF);
        match cell.stage {
            Stage::Open => shard.handle(Input::Eof { conn }, now),
            Stage::Lingering => self.tear_down(conn, now),
            _ => {}
        }
    }

    fn receive_failed(&mut self, conn: ConnId, kind: Kind, errno: i32, shard: &mut Shard, now: Now) {
        match errno {
            libc::ENOBUFS => self.starve(conn),
            // Cancelled by ourselves, to be parked, paused or closed.
            libc::ECANCELED => self.restart_receive(conn),
            libc::EAGAIN | libc::EINTR if kind == Kind::ReceiveOnce => self.read_again(conn, errno == libc::EINTR),
            libc::EAGAIN | libc::EINTR => self.restart_receive(conn),
            libc::ENOMEM => self.receive_later(conn, now),
            _ => self.fail(conn, errno, shard, now),
        }
    }

    // ---- new connections ----

    /// Waits for the first word of a connection, which is parked until then: most say nothing but who they are.
    /// In a drain nobody stands in line: who has not been read when the shard begins with it is taken to have nothing to say.
    pub(super) fn expect(&mut self, conn: ConnId, now: Now) {
        if self.draining {
            self.arm_receive(conn);
            return self.note_activity(conn, now);
        }
        if let Some(cell) = self.cells.of(conn) {
            cell.flags.set(Flags::NEW);
        }
        self.park(conn);
    }

    /// Reads the first words of so many that have something to say. To be called at the end of each turn.
    pub fn welcome_next(&mut self, newcomers: usize, now: Now) {
        let mut line = std::mem::take(&mut self.line);
        line.next(newcomers).for_each(|conn| self.welcome(conn, now));
        self.line = line;
    }

    /// Reads the first words of all that have something to say.
    pub(super) fn welcome_all(&mut self, now: Now) {
        std::mem::take(&mut self.line).all().for_each(|conn| self.welcome(conn, now));
    }

    fn welcome(&mut self, conn: ConnId, now: Now) {
        let Some(cell) = self.cells.of(conn) else { return };
        cell.flags.clear(Flags::NEW | Flags::IN_LINE);
        if cell.stage == Stage::Open {
            self.note_activity(conn, now);
            self.read_once(conn);
        } else {
            self.unpark(conn);
        }
    }

    // ---- parked connections ----

    fn park(&mut self, conn: ConnId) {
        self.facts.parked += 1;
        self.begin(conn, Flags::POLLING);
        self.ring.poll_in(conn);
    }

    /// A parked connection has something to read, or its poll has ended.
    pub(super) fn poll_in(&mut self, conn: ConnId, completion: &Completion, now: Now) {
        let Some(cell) = self.cells.of(conn) else { return };
        if !completion.more {
            cell.flags.clear(Flags::POLLING | Flags::UNPARKING);
            self.facts.parked = self.facts.parked.saturating_sub(1);
            // A poll that ended by itself (or by promotion) is followed by a receive; one that is armed stays.
            return self.arm_receive(conn);
        }
        if cell.flags.has(Flags::RECEIVING | Flags::STARVED | Flags::PAUSED | Flags::EOF) {
            return;
        }
        if cell.flags.has(Flags::ACTIVE) || cell.stage != Stage::Open {
            return self.unpark(conn);
        }
        let hang_up = completion.result & HANG_UP != 0;
        if cell.flags.has(Flags::READING | Flags::IN_LINE) || hang_up {
            cell.flags.set(Flags::AGAIN);
        }
        if cell.flags.has(Flags::NEW) && !self.draining {
            if !cell.flags.has(Flags::IN_LINE) {
                cell.flags.set(Flags::IN_LINE);
                self.line.join(conn);
            }
            return;
        }
        self.note_activity(conn, now);
        self.read_once(conn);
    }

    /// A connection that is busy again gets its multishot receive back.
    pub(super) fn unpark(&mut self, conn: ConnId) {
        self.arm_receive(conn);
        let Some(cell) = self.cells.of(conn) else { return };
        if cell.flags.has(Flags::POLLING) && !cell.flags.has(Flags::UNPARKING) {
            cell.flags.set(Flags::UNPARKING);
            cell.in_flight += 1;
            self.ring.cancel(conn, Kind::PollIn);
        }
    }

    fn read_once(&mut self, conn: ConnId) {
        let Some(cell) = self.cells.of(conn) else { return };
        if cell.flags.has(Flags::READING | Flags::RECEIVING | Flags::EOF | Flags::PAUSED | Flags::STARVED) {
            return;
        }
        self.begin(conn, Flags::READING);
        self.ring.receive_once(conn);
    }

    /// A single receive is through: another one, if there may be more to read.
    fn read_again(&mut self, conn: ConnId, nonempty: bool) {
        let Some(cell) = self.cells.of(conn) else { return };
        if cell.flags.take(Flags::AGAIN) || nonempty {
            self.read_once(conn);
        }
    }

    // ---- pausing ----

    /// The shard wants no more bytes, or wants them again. What is already received still comes.
    pub(super) fn pause_reading(&mut self, conn: ConnId, paused: bool) {
        let Some(cell) = self.in_stage(conn, Stage::Open) else { return };
        if !paused {
            cell.flags.clear(Flags::PAUSED);
            return self.unpark(conn);
        }
        cell.flags.set(Flags::PAUSED);
        if cell.flags.has(Flags::RECEIVING) && !cell.flags.has(Flags::STOPPING) {
            cell.flags.set(Flags::STOPPING);
            cell.in_flight += 1;
            let kind = receive_kind(cell);
            self.ring.cancel(conn, kind);
        }
    }

    // ---- one after another ----

    /// Arms the large receives that may follow now. To be called at the end of each turn.
    pub fn follow_up(&mut self) {
        let mut due = std::mem::take(&mut self.following.due);
        for conn in due.drain(..) {
            self.restart_receive(conn);
        }
        self.following.due = std::mem::replace(&mut self.following.fresh, due);
    }

    // ---- no buffers ----

    /// The receive found the buffer ring empty. Arming it again before buffers come back would fail at once, in a hot loop.
    fn starve(&mut self, conn: ConnId) {
        self.facts.enobufs += 1;
        let Some(cell) = self.cells.of(conn) else { return };
        cell.flags.clear(Flags::STOPPING);
        if !matches!(cell.stage, Stage::Open | Stage::Lingering) {
            return;
        }
        cell.flags.set(Flags::STARVED);
        self.starved.push_back(conn);
    }

    /// Arms as many starved receives as half of the free buffers could serve.
    pub fn feed_starved(&mut self) {
        let rounds = self.starved.len().min(usize::from(self.ring.buffers_free()).div_ceil(2));
        let mut bulk = self.ring.bulk_buffers_free().map_or(rounds, |free| usize::from(free).div_ceil(2));
        for _ in 0..rounds {
            let Some(conn) = self.starved.pop_front() else { return };
            if self.cells.of(conn).is_some_and(|cell| receive_kind(cell) == Kind::ReceiveBulk) {
                if bulk == 0 {
                    self.starved.push_back(conn);
                    continue;
                }
                bulk -= 1;
            }
            self.receive_again(conn);
        }
    }

    /// The kernel is out of memory: to ask again at once would be to ask for ever.
    fn receive_later(&mut self, conn: ConnId, now: Now) {
        let Some(cell) = self.cells.of(conn) else { return };
        cell.flags.clear(Flags::STOPPING);
        if matches!(cell.stage, Stage::Open | Stage::Lingering) {
            cell.flags.set(Flags::STARVED);
            self.deadlines.set(now.monotonic + NO_MEMORY_PAUSE, Due::Receive(conn));
        }
    }

    /// A receive that found no buffer or no memory is tried again.
    pub(super) fn receive_again(&mut self, conn: ConnId) {
        if let Some(cell) = self.cells.of(conn) {
            cell.flags.clear(Flags::STARVED);
            self.unpark(conn);
        }
    }

    // ---- going quiet ----

    pub(super) fn note_activity(&mut self, conn: ConnId, now: Now) {
        if let Some(cell) = self.cells.of(conn) {
            cell.flags.set(Flags::ACTIVE);
        }
        if !self.sweep.running {
            self.sweep = Sweep { running: true, next_slot: 0, found: false };
            self.deadlines.set(now.monotonic + self.times.quiet_after / SWEEP_STEPS, Due::Sweep);
        }
    }

    /// Looks at the next share of all cells. Ends after a round that found nobody busy: a worker at rest sleeps unbounded.
    pub(super) fn sweep(&mut self, now: Now) {
        let cells = self.cells.len();
        let end = cells.min(self.sweep.next_slot + cells.div_ceil(SWEEP_STEPS));
        let mut cancels = 0;
        while self.sweep.next_slot < end && cancels < SWEEP_CANCELS_MAX {
            cancels += u32::from(self.second_chance(self.sweep.next_slot));
            self.sweep.next_slot += 1;
        }
        let pause = if self.sweep.next_slot < end { SWEEP_PAUSE } else { self.times.quiet_after / SWEEP_STEPS };
        if self.sweep.next_slot == cells {
            if !self.sweep.found {
                self.sweep.running = false;
                return;
            }
            (self.sweep.next_slot, self.sweep.found) = (0, false);
        }
        self.deadlines.set(now.monotonic + pause, Due::Sweep);
    }

    /// Busy since the last round: spared. Quiet: parked. Returns whether a receive is being cancelled for that.
    fn second_chance(&mut self, slot: u32) -> bool {
        let Some(cell) = self.cells.at_mut(slot) else { return false };
        if cell.stage != Stage::Open {
            return false;
        }
        let (armed, active) = (cell.flags.has(Flags::RECEIVING), cell.flags.take(Flags::ACTIVE));
        self.sweep.found |= armed || active;
        let quiet = armed && !active && !cell.flags.has(Flags::STOPPING);
        if quiet {
            cell.flags.set(Flags::STOPPING);
            cell.in_flight += 1;
            let (conn, kind) = (ConnId { slot, generation: cell.generation }, receive_kind(cell));
            self.ring.cancel(conn, kind);
        }
        quiet
    }
}

/// How a connection receives while it is busy.
pub(super) const fn receive_kind(cell: &Cell) -> Kind {
    if cell.flags.has(Flags::UPSTREAM) { Kind::ReceiveBulk } else { Kind::Receive }
}
