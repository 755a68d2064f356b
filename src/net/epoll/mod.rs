//! The sockets of one worker on epoll: for hosts where io_uring is refused. Same shard, same promises, other kernel interface.
//!
//! ```text
//! mod.rs          the worker's sockets, what happened to them, deadlines        table.rs      connections by slot
//! accepting.rs    listener ─► open, here or at another worker; drain            receiving.rs  reads, so many per turn; pausing
//! sending.rs      one send per flush; refusals, writability                     ending.rs     upstreams, lingering, close
//! ```
//! Every connection is registered once, edge-triggered, for all that can happen to it: so the kernel tells of each change once, and
//! what it told stands in the connection's flags until a call says that it is over. What a turn leaves undone waits in [`Todo`] for
//! the next round. A round is one question to the kernel, all that it answers, and what was undone before: so nobody is read from
//! twice before everybody else has been once, and who sends without end keeps nobody else waiting.
//!
//! Invariant: a slot is free as soon as its descriptor is closed; an event for an older generation is dropped.

mod accepting;
mod ending;
mod receiving;
mod sending;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

pub use self::accepting::Listener;
use self::sending::Outgoing;
use self::table::{Flags, Stage, Table};
use super::deadlines::{Deadlines, Due, EXPIRED_MAX};
use super::line::Line;
use super::lingering::Discarded;
use super::loads::Loads;
use super::shell::{Handed, Shell, ShellError, Times};
use super::worker::Bells;
use crate::base::{ConnId, Nanos, Now, ShardId};
use crate::metrics::LoopFacts;
use crate::ring::{Refused, Wait};
use crate::shard::{ConnectCause, Input, Output, Shard};

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
/// Bytes of a worker's one receive buffer. Of what is proxied to a reader that has stopped, as much is held.
const BUFFER_BYTES: usize = 32 << 10;
/// The slot that no connection has: events of listeners and of the bell, told apart by what is a generation elsewhere.
const NO_SLOT: u32 = u32::MAX;
const BELL: u32 = u32::MAX;

/// Descriptors that the process's table has room for from the start, at most: eight bytes of kernel memory for each.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// Has the kernel make the process's table of descriptors as large as the limit on them allows, now. By itself it doubles the table
/// whenever that is full, and where threads share it, it waits each time until no processor can be looking at the old one: 5 to 20
/// milliseconds in which a worker serves nobody. To be called before there are threads, with any descriptor.
pub fn grow_descriptor_table(any: BorrowedFd<'_>) {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).min(DESCRIPTORS_MAX);
    let last = i32::try_from(descriptors).unwrap_or(i32::MAX) - 1;
    // Where that is refused, it grows as it fills. The duplicate is not needed any more; the table stays as it is.
    if let Err(error) = rustix::io::fcntl_dupfd_cloexec(any, last) {
        tracing::debug!(%error, descriptors, "the table of descriptors grows as it fills");
    }
}

/// An epoll instance for one worker.
pub fn create() -> Result<OwnedFd, Errno> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    // Tried now rather than at the first wait: old kernels lack the call that waits for less than a millisecond.
    let mut events = Vec::with_capacity(1);
    epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(epoll)
}

/// A worker's place among the others.
pub struct Place {
    pub me: usize,
    /// Connections that it may have.
    pub connections: u32,
    pub loads: Loads,
}

/// Something to do that no event announces any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Todo {
    Read(ConnId),
    Accept(usize),
}

/// All sockets of a worker.
pub struct Sockets {
    epoll: OwnedFd,
    /// What the kernel has told, up to `event_next` seen already.
    events: Vec<Event>,
    event_next: usize,
    /// For this round.
    todo: VecDeque<Todo>,
    /// For the next one.
    later: Vec<Todo>,
    line: Line,
    /// Upstreams with more to read, read from in this turn: what was passed on leaves with the next enter.
    behind: Vec<ConnId>,
    /// Those of the turn before: by the end of this one the shard knows what the kernel did not take.
    caught_up: Vec<ConnId>,
    facts: LoopFacts,
    table: Table,
    listeners: Vec<Listener>,
    place: Place,
    deadlines: Deadlines,
    /// Connections to upstreams.
    upstreams: u32,
    outgoing: VecDeque<Outgoing>,
    refused: Vec<Refused>,
    /// Sends made by connections that had stalled.
    proving: Vec<ConnId>,
    discarded: Discarded,
    /// Upstream sockets being connected, by slot: the shard's token.
    connecting: HashMap<u32, u32>,
    /// Upstream sockets that could not be made, by the shard's token; it is told in the next turn.
    unmade: Vec<(u32, ConnectCause)>,
    /// Fresh connections for other workers.
    handing: VecDeque<(ShardId, Handed)>,
    buffer: Box<[u8]>,
    times: Times,
    draining: bool,
}

impl Sockets {
    pub fn new(epoll: OwnedFd, listeners: Vec<Listener>, place: Place, times: Times) -> Self {
        Self {
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
            event_next: 0,
            todo: VecDeque::new(),
            later: Vec::new(),
            line: Line::default(),
            behind: Vec::new(),
            caught_up: Vec::new(),
            facts: LoopFacts::default(),
            table: Table::default(),
            listeners,
            place,
            deadlines: Deadlines::default(),
            upstreams: 0,
            outgoing: VecDeque::new(),
            refused: Vec::new(),
            proving: Vec::new(),
            discarded: Discarded::default(),
            connecting: HashMap::new(),
            unmade: Vec::new(),
            handing: VecDeque::new(),
            buffer: vec![0; BUFFER_BYTES].into(),
            times,
            draining: false,
        }
    }

    /// Registers a connection for all that can happen to it, for as long as it lives.
    fn register(&self, conn: ConnId) -> Result<(), Errno> {
        let Some(socket) = self.table.socket(conn) else { return Ok(()) };
        epoll::add(&self.epoll, socket, data(conn.slot, conn.generation), everything())
    }

    /// Has the kernel tell what can happen now, though nothing changes.
    fn ask_again(&self, conn: ConnId) -> Result<(), Errno> {
        let Some(socket) = self.table.socket(conn) else { return Ok(()) };
        epoll::modify(&self.epoll, socket, data(conn.slot, conn.generation), everything())
    }

    /// Asks the kernel what has happened.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), Errno> {
        self.events.clear();
        self.event_next = 0;
        let timeout = timeout.map(timespec);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn interpret(&mut self, event: Event, bells: &Bells, shard: &mut Shard, now: Now) {
        let (slot, generation) = ((event.data.u64() >> 32) as u32, event.data.u64() as u32);
        match (slot, generation) {
            (NO_SLOT, BELL) => {
                let _ = rustix::io::read(&bells.eventfds[self.place.me], &mut [0; 8]);
            }
            (NO_SLOT, listener) => self.knocked(listener as usize, shard, now),
            _ => self.happened(ConnId { slot, generation }, event.flags, shard, now),
        }
    }

    /// Something has happened to a connection.
    fn happened(&mut self, conn: ConnId, what: EventFlags, shard: &mut Shard, now: Now) {
        let Some(cell) = self.table.of(conn) else { return };
        let ends = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        if what.intersects(ends) {
            cell.flags.set(Flags::HANG_UP);
        }
        if what.intersects(ends | EventFlags::IN) {
            cell.flags.set(Flags::READABLE);
        }
        let writable = what.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
        if writable && cell.stage == Stage::Connecting {
            self.connected(conn, shard, now);
        } else if writable && !cell.flags.has(Flags::RESTING) {
            self.write_again(conn, shard, now);
        }
        if self.table.of(conn).is_some_and(|cell| !cell.flags.has(Flags::QUEUED)) && !self.stands_in_line(conn) {
            self.read(conn, shard, now);
        }
    }
}

impl Shell for Sockets {
    /// It returns with the first event.
    const GATHERS: bool = false;

    fn listen(&mut self, bell: BorrowedFd<'_>) -> Result<(), ShellError> {
        epoll::add(&self.epoll, bell, data(NO_SLOT, BELL), EventFlags::IN | EventFlags::ET)?;
        for (index, listener) in self.listeners.iter().enumerate() {
            let Some(socket) = listener.socket() else { continue };
            rustix::io::ioctl_fionbio(socket, true)?;
            epoll::add(&self.epoll, socket, data(NO_SLOT, index as u32), EventFlags::IN | EventFlags::ET)?;
        }
        Ok(())
    }

    fn enter(&mut self, wait: Wait) -> Result<(), ShellError> {
        self.send_all();
        if self.has_inputs() {
            return Ok(());
        }
        // Not before the kernel is asked, or what is always left over would keep everybody else out.
        self.todo.extend(self.later.drain(..));
        self.facts.ring.enters += 1;
        let timeout = match wait {
            _ if !self.refused.is_empty() || !self.todo.is_empty() => Some(Duration::ZERO),
            Wait::No => Some(Duration::ZERO),
            Wait::AtMost(time) | Wait::Gather { at_most: time, .. } => Some(time),
            Wait::Unbounded => None,
        };
        Ok(self.wait(timeout)?)
    }

    fn sends_due(&self) -> usize {
        self.outgoing.len()
    }

    fn sends(&self) -> u64 {
        self.facts.ring.sends
    }

    fn report(&mut self, shard: &mut Shard, now: Now) {
        self.apply_refusals(shard, now);
        for (token, cause) in std::mem::take(&mut self.unmade) {
            shard.handle(Input::ConnectFailed { token, cause }, now);
        }
    }

    fn apply_next(&mut self, bells: &Bells, shard: &mut Shard, now: Now) -> bool {
        if let Some(&event) = self.events.get(self.event_next) {
            self.event_next += 1;
            self.interpret(event, bells, shard, now);
            return true;
        }
        match self.todo.pop_front() {
            Some(Todo::Read(conn)) => {
                if let Some(cell) = self.table.of(conn) {
                    cell.flags.clear(Flags::QUEUED);
                }
                self.read(conn, shard, now);
            }
            Some(Todo::Accept(listener)) => self.accept_again(listener, shard, now),
            None => return false,
        }
        true
    }

    fn has_inputs(&self) -> bool {
        self.event_next < self.events.len() || !self.todo.is_empty()
    }

    fn has_work(&self) -> bool {
        self.has_inputs()
            || !self.later.is_empty()
            || !self.caught_up.is_empty()
            || !self.unmade.is_empty()
            || !self.line.is_empty()
    }

    /// They are decided by the call that makes them.
    fn has_undecided_sends(&self) -> bool {
        false
    }

    fn perform(&mut self, output: Output, now: Now) {
        match output {
            Output::Send { conn, frames, skip } => self.outgoing.push_back(Outgoing { conn, frames, skip }),
            Output::Close { conn, how } => self.close(conn, how, now),
            Output::Connect { token, address } => self.connect(token, address, now),
            Output::PauseReading { conn, paused } => self.pause_reading(conn, paused),
            // Answered by the worker, who knows more than its sockets.
            Output::AskFacts => {}
        }
    }

    fn handle_timeout(&mut self, shard: &mut Shard, now: Now) {
        let table = &mut self.table;
        self.deadlines.prune(|conn| table.of(conn).is_some());
        for _ in 0..EXPIRED_MAX {
            let Some(due) = self.deadlines.expire(now.monotonic) else { return };
            match due {
                Due::Linger(conn) => self.linger_expired(conn),
                Due::Connect(conn) => self.connect_expired(conn, shard, now),
                Due::Write(conn) => self.write_again(conn, shard, now),
                Due::Receive(conn) => self.read_later(conn),
                Due::Accept(listener) => self.accept_due(listener as usize, now),
                // Closes complete in their calls, addresses come with their accepts, and nobody is parked.
                Due::Close(..) | Due::Name(_) | Due::Sweep => {}
            }
        }
    }

    fn poll_timeout(&self) -> Option<Nanos> {
        self.deadlines.next()
    }

    fn end_turn(&mut self, newcomers: usize, _: Now) {
        self.later.extend(self.line.next(newcomers).map(Todo::Read));
        self.later.extend(self.caught_up.drain(..).map(Todo::Read));
        std::mem::swap(&mut self.caught_up, &mut self.behind);
    }

    fn wake(&mut self, to: ShardId, bells: &Bells) {
        self.facts.doorbells += 1;
        bells.wake(to);
    }

    fn poll_handed(&mut self) -> Option<(ShardId, Handed)> {
        self.handing.pop_front()
    }

    fn take_over(&mut self, handed: Handed, shard: &mut Shard, now: Now) {
        self.open(handed, shard, now);
    }

    fn take_back(&mut self, from: ShardId, handed: Handed, shard: &mut Shard, now: Now) {
        self.place.loads.remove_connection(from.index());
        self.place.loads.add_connection(self.place.me);
        self.facts.handed_over -= 1;
        self.open(handed, shard, now);
    }

    fn start_drain(&mut self, _: Now) {
        self.later.extend(self.line.all().map(Todo::Read));
        self.place.loads.retire(self.place.me);
        self.empty_listeners();
    }

    fn has_stopped_listening(&self) -> bool {
        self.listeners.iter().all(Listener::is_drained)
    }

    /// Also none that is on its way here from another worker.
    fn has_no_clients(&self) -> bool {
        self.place.loads.connections(self.place.me) == self.upstreams
    }

    fn take_stock(&mut self) {
        self.facts.connections = u64::from(self.table.len());
    }

    fn facts(&mut self) -> &mut LoopFacts {
        &mut self.facts
    }

    fn times(&mut self) -> &mut Times {
        &mut self.times
    }
}

/// What a connection is registered for: once, and for as long as it lives.
fn everything() -> EventFlags {
    EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET
}

fn data(slot: u32, generation: u32) -> EventData {
    EventData::new_u64(u64::from(slot) << 32 | u64::from(generation))
}

fn timespec(time: Duration) -> Timespec {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: i64::from(time.subsec_nanos()) }
}
