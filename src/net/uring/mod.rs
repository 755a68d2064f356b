//! The sockets of one worker on io_uring: completions in, shard inputs out; shard outputs in, submissions out.
//!
//! This is the shell's whole state. It decides nothing about channels or requests; it keeps the promises that `shard::io`
//! makes, on the kernel that there is. Its acts are grouped by file:
//!
//! ```text
//! accepting.rs   listener ─► fresh ─► open
//! handing.rs     fresh ─► another worker
//! receiving.rs   multishot receive while busy ◄─► multishot poll while quiet; buffers; half-close
//! sending.rs     one silent send per flush; refusals, writability
//! connecting.rs  upstream sockets
//! closing.rs     shut down ─► discard ─► cancel ─► count completions ─► close ─► free
//! ```
//! Invariant: a slot is free only when no completion that could name it is outstanding.

mod accepting;
mod cells;
mod closing;
mod connecting;
mod handing;
mod receiving;
mod sending;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use self::accepting::Adopting;
pub use self::accepting::Listener;
use self::cells::{Cell, Cells, Flags, Stage};
use self::connecting::Attempt;
use self::handing::Passing;
use self::receiving::{Following, Sweep};
use super::deadlines::{Deadlines, Due, EXPIRED_MAX};
use super::errno::gone_cause;
use super::line::Line;
use super::lingering::Discarded;
use super::loads::Loads;
use super::shell::{Handed, Shell, ShellError, Times};
use super::worker::Bells;
use crate::base::{ConnId, Nanos, Now, ShardId};
use crate::metrics::LoopFacts;
use crate::ring::{Completion, Kind, Ring, Token, Wait};
use crate::shard::{ConnectCause, Input, Output, Shard};

/// What workers can see of each other.
pub struct Peers {
    /// This worker's place in the lists.
    pub me: usize,
    pub rings: Arc<[OwnedFd]>,
    pub loads: Loads,
}

/// All sockets of a worker.
pub struct Sockets {
    pub ring: Ring,
    pub facts: LoopFacts,
    cells: Cells,
    listeners: Vec<Listener>,
    peers: Peers,
    deadlines: Deadlines,
    /// Slots in use.
    live: u32,
    /// Those of them that go to upstreams.
    upstreams: u32,
    /// Receives that found no buffer.
    starved: VecDeque<ConnId>,
    following: Following,
    line: Line,
    /// Sends made by connections that had stalled.
    proving: Vec<ConnId>,
    discarded: Discarded,
    /// Connections that have no slot yet, by the number of their adoption.
    adopting: HashMap<u32, Adopting>,
    attempts: HashMap<u32, Attempt>,
    /// Upstream sockets that could not be made, by the shard's token; it is told in the next turn.
    unmade: Vec<(u32, ConnectCause)>,
    next_attempt: u32,
    /// Upstream sockets being connected, by slot: the shard's token.
    connecting: HashMap<u32, u32>,
    /// Connections on their way to another worker: its number, and the peer address in case it fails.
    handing: HashMap<u32, (usize, SocketAddr)>,
    passing: Passing,
    sweep: Sweep,
    times: Times,
    draining: bool,
}

impl Sockets {
    pub fn new(ring: Ring, listeners: Vec<Listener>, peers: Peers, times: Times) -> Self {
        Self {
            ring,
            facts: LoopFacts::default(),
            cells: Cells::default(),
            listeners,
            peers,
            deadlines: Deadlines::default(),
            live: 0,
            upstreams: 0,
            starved: VecDeque::new(),
            following: Following::default(),
            line: Line::default(),
            proving: Vec::new(),
            discarded: Discarded::default(),
            adopting: HashMap::new(),
            attempts: HashMap::new(),
            unmade: Vec::new(),
            next_attempt: 0,
            connecting: HashMap::new(),
            handing: HashMap::new(),
            passing: Passing::default(),
            sweep: Sweep::default(),
            times,
            draining: false,
        }
    }

    /// Turns one completion into what the shard must know of it.
    pub fn interpret(&mut self, mut completion: Completion, shard: &mut Shard, now: Now) {
        match completion.token.kind {
            Kind::Accept => self.accepted(&completion, shard, now),
            Kind::Adopt => self.adopted(&completion, shard, now),
            Kind::HandedOver => self.handed_over(&completion),
            Kind::Socket => self.socket_made(&completion, shard, now),
            Kind::Receive | Kind::ReceiveOnce | Kind::ReceiveBulk => self.received(&mut completion, shard, now),
            Kind::PollIn
            | Kind::PollOut
            | Kind::Shutdown
            | Kind::Cancel
            | Kind::Close
            | Kind::Connect
            | Kind::PeerName
            | Kind::HandOver => self.completed(&completion, shard, now),
            Kind::Send | Kind::Doorbell | Kind::DoorbellFailed | Kind::Wake | Kind::None => {}
        }
        if let Some(lease) = completion.lease.take() {
            self.ring.give_back(lease);
        }
    }

    /// A completion of an operation that carries no bytes.
    fn completed(&mut self, completion: &Completion, shard: &mut Shard, now: Now) {
        let Some(conn) = self.finish_operation(completion) else { return };
        match completion.token.kind {
            Kind::PollIn => self.poll_in(conn, completion, now),
            Kind::PollOut => self.poll_out(conn, completion.result, shard, now),
            Kind::Connect => self.connected(conn, completion.result, shard, now),
            Kind::PeerName => self.name_told(conn, completion, shard, now),
            Kind::HandOver => self.handed_away(conn, completion.result, shard, now),
            Kind::Close => self.freed(conn, now),
            _ => {}
        }
        self.close_if_done(conn);
    }

    /// Counts the operation down and finds its connection. `None` when that is gone: the generation says so.
    pub(super) fn finish_operation(&mut self, completion: &Completion) -> Option<ConnId> {
        let Token { slot, .. } = completion.token;
        let cell = self.cells.at_mut(slot)?;
        if !completion.token.is_of(cell.generation) || cell.stage == Stage::Free {
            // A slot is not given out while an operation could name it: this cannot be, and does no harm.
            debug_assert!(false, "{:?} names a connection that is gone", completion.token);
            self.facts.stale_completions += 1;
            return None;
        }
        if !completion.more {
            debug_assert!(cell.in_flight > 0, "{:?} was not counted", completion.token);
            cell.in_flight = cell.in_flight.saturating_sub(1);
        }
        Some(ConnId { slot, generation: cell.generation })
    }

    fn reset_bell(&mut self, bell: &OwnedFd, more: bool) {
        let _ = rustix::io::read(bell, &mut [0; 8]);
        if !more {
            self.ring.poll_descriptor(bell.as_fd(), wake_token());
        }
    }

    /// Takes a slot that the kernel has given out into use.
    pub(super) fn claim(&mut self, slot: u32, stage: Stage) -> ConnId {
        let cell = self.cells.reach(slot);
        if cell.stage != Stage::Free {
            // The kernel gives a slot out only after its close, whose completion may still be on its way to us.
            debug_assert_eq!(cell.stage, Stage::Closed);
            cell.generation = cell.generation.wrapping_add(1);
            self.upstreams -= u32::from(cell.flags.has(Flags::UPSTREAM));
            self.live -= 1;
            self.peers.loads.remove_connection(self.peers.me);
        }
        *cell = Cell { generation: cell.generation, stage, ..Cell::default() };
        self.live += 1;
        ConnId { slot, generation: cell.generation }
    }

    /// The connection's cell, if it is in this stage.
    pub(super) fn in_stage(&mut self, conn: ConnId, stage: Stage) -> Option<&mut Cell> {
        self.cells.of(conn).filter(|cell| cell.stage == stage)
    }

    /// The connection can serve no more.
    pub(super) fn fail(&mut self, conn: ConnId, errno: i32, shard: &mut Shard, now: Now) {
        let Some(cell) = self.cells.of(conn) else { return };
        match cell.stage {
            Stage::Open => {
                self.tear_down(conn, now);
                shard.handle(Input::Gone { conn, cause: gone_cause(errno) }, now);
            }
            Stage::Fresh | Stage::Lingering => self.tear_down(conn, now),
            Stage::Free | Stage::HandingOver | Stage::Connecting | Stage::Closing | Stage::Closed => {}
        }
    }

    /// Arms what is flagged as armed, counted.
    pub(super) fn begin(&mut self, conn: ConnId, flag: Flags) {
        if let Some(cell) = self.cells.of(conn) {
            cell.in_flight += 1;
            cell.flags.set(flag);
        }
    }
}

impl Shell for Sockets {
    const GATHERS: bool = true;

    fn listen(&mut self, bell: BorrowedFd<'_>) -> Result<(), ShellError> {
        self.ring.poll_descriptor(bell, wake_token());
        self.start_accepting();
        Ok(())
    }

    fn enter(&mut self, wait: Wait) -> Result<(), ShellError> {
        Ok(self.ring.enter(wait)?)
    }

    fn sends_due(&self) -> usize {
        self.ring.undecided_sends()
    }

    fn sends(&self) -> u64 {
        self.ring.counters().sends
    }

    fn report(&mut self, shard: &mut Shard, now: Now) {
        self.apply_refusals(shard, now);
        self.report_unmade(shard, now);
    }

    fn apply_next(&mut self, bells: &Bells, shard: &mut Shard, now: Now) -> bool {
        let Some(completion) = self.ring.pop() else { return false };
        match completion.token.kind {
            Kind::Wake => self.reset_bell(&bells.eventfds[self.peers.me], completion.more),
            // It slept through nothing yet: the bell was taken down, so somebody has to wake it.
            Kind::DoorbellFailed => bells.wake(ShardId(completion.token.slot as u16)),
            _ => self.interpret(completion, shard, now),
        }
        true
    }

    fn has_inputs(&self) -> bool {
        self.ring.has_completions()
    }

    fn has_work(&self) -> bool {
        self.ring.has_completions()
            || self.following.is_due()
            || !self.line.is_empty()
            || self.passing.is_due()
            || (!self.starved.is_empty() && self.ring.buffers_free() > 0)
    }

    fn has_undecided_sends(&self) -> bool {
        self.ring.undecided_sends() > 0
    }

    fn perform(&mut self, output: Output, now: Now) {
        match output {
            Output::Send { conn, frames, skip } => self.send(conn, frames, skip),
            Output::Close { conn, how } => self.close(conn, how, now),
            Output::Connect { token, address } => self.connect(token, address),
            Output::PauseReading { conn, paused } => self.pause_reading(conn, paused),
            // Answered by the worker, who knows more than its sockets.
            Output::AskFacts => {}
        }
    }

    fn handle_timeout(&mut self, shard: &mut Shard, now: Now) {
        let cells = &mut self.cells;
        self.deadlines.prune(|conn| cells.of(conn).is_some());
        for _ in 0..EXPIRED_MAX {
            let Some(due) = self.deadlines.expire(now.monotonic) else { return };
            match due {
                Due::Linger(conn) => self.linger_expired(conn, now),
                Due::Close(conn, due) => self.close_expired(conn, due, now),
                Due::Connect(conn) => self.connect_expired(conn),
                Due::Write(conn) => self.write_again(conn, shard, now),
                Due::Receive(conn) => self.receive_again(conn),
                Due::Name(conn) => self.ask_name(conn),
                Due::Accept(listener) => self.accept_again(listener, now),
                Due::Sweep => self.sweep(now),
            }
        }
    }

    fn poll_timeout(&self) -> Option<Nanos> {
        self.deadlines.next()
    }

    fn end_turn(&mut self, newcomers: usize, now: Now) {
        self.passing.end_turn();
        self.follow_up();
        self.welcome_next(newcomers, now);
        self.feed_starved();
    }

    fn wake(&mut self, to: ShardId, bells: &Bells) {
        match &bells.rings {
            Some(rings) if to.index() < rings.len() => {
                self.facts.doorbells += 1;
                self.ring.ring_doorbell(rings[to.index()].as_fd(), u32::from(to.0));
            }
            _ => bells.wake(to),
        }
    }

    /// From table to table a ring hands over by itself; by mail goes what a full table has no slot for.
    fn poll_handed(&mut self) -> Option<(ShardId, Handed)> {
        self.passing.next()
    }

    fn take_over(&mut self, handed: Handed, _: &mut Shard, _: Now) {
        self.adopt_handed(handed);
    }

    fn take_back(&mut self, to: ShardId, handed: Handed, _: &mut Shard, _: Now) {
        self.passing.take_back(to, handed);
    }

    fn start_drain(&mut self, now: Now) {
        self.peers.loads.retire(self.peers.me);
        self.stop_listening(now);
    }

    fn has_stopped_listening(&self) -> bool {
        self.is_done_listening()
    }

    /// Also none that the shard has never heard of or has forgotten, or that is on its way here from another worker.
    fn has_no_clients(&self) -> bool {
        self.peers.loads.connections(self.peers.me) == self.upstreams && self.adopting.is_empty()
    }

    fn take_stock(&mut self) {
        self.facts.ring = self.ring.counters().clone();
        self.facts.connections = u64::from(self.live);
        self.facts.buffers_free = u64::from(self.ring.buffers_free());
    }

    fn facts(&mut self) -> &mut LoopFacts {
        &mut self.facts
    }

    fn times(&mut self) -> &mut Times {
        &mut self.times
    }
}

fn wake_token() -> Token {
    Token::numbered(Kind::Wake, 0)
}
