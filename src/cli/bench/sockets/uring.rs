//! The load's sockets on io_uring: direct descriptors, and a poll for each, so that one that is quiet costs no more than on epoll.
//!
//! ```text
//! free ──place──► connecting ──► open: poll ──► receive what is there ──► … ──► ending: cancel ──► closing ──► free
//! ```
//! A slot is free again when nothing that could name it is in flight; the load's numbers are mapped to slots, as a number may be
//! opened again before that.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Event, Opening, Received, Sockets};
use crate::base::{ConnId, Frame, Frames};
use crate::cli::bench::error::BenchError;
use crate::ring::{Completion, Kind, Options, Refused, Ring, Token, Wait};

/// Slots beyond the load's connections: those that were ended a moment ago.
const SLOTS_CLOSING: usize = 1024;
/// How long an opening waits for one of those.
const SLOT_WAIT: Duration = Duration::from_millis(100);
const SLOT_WAITS_MAX: u32 = 50;
/// How long the end of the load waits for those that are left.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// Completions between two enters: few, so that what is due waits for at most so many. What they lead to is also what one enter does,
/// and a kernel without preemption lets no other thread of the load have the core until it has done that.
const COMPLETIONS_MAX: u32 = 64;
/// For the same reason, connections that are opened between two enters: each is a whole handshake on loopback.
const OPENED_MAX: u32 = 8;
/// And sends: each is the receiver's half of TCP too.
const SENDS_MAX: u32 = 16;
const BUFFERS: u16 = 512;
/// Room for a window's worth of a stream in each.
const BUFFER_BYTES: u32 = 8 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    #[default]
    Free,
    Connecting,
    Open,
    /// Operations that name it are being cancelled.
    Ending,
    /// The last operation is the close.
    Closing,
}

#[derive(Default)]
struct Cell {
    stage: Stage,
    generation: u32,
    /// Operations that will still complete.
    in_flight: u32,
    /// The connection's number in the load.
    index: usize,
    paused: bool,
    receiving: bool,
    /// The server has ended its half: nothing will tell of more.
    to_the_end: bool,
    /// There is no room in the socket; a poll tells when there is.
    full: bool,
    /// Not yet taken by the socket.
    outbox: Vec<u8>,
    /// Kept of connections that were opened aside.
    aside: Option<OwnedFd>,
}

pub struct RingSockets {
    ring: Ring,
    cells: Vec<Cell>,
    free: Vec<u32>,
    /// The slot of each of the load's numbers.
    slots: Vec<Option<u32>>,
    /// Slots with something to send, some more than once.
    unsent: Vec<u32>,
    /// What happened while an opening waited for a slot.
    queued: VecDeque<Event>,
    /// Completions that were read since the last wait.
    read: u32,
    /// Connections that were opened since the last enter.
    opened: u32,
    /// How often a descriptor was watched: completions of an earlier one are nobody's.
    watches: u32,
    watching: Option<OwnedFd>,
}

impl RingSockets {
    pub fn new(count: usize) -> Result<Self, BenchError> {
        let wanted = u32::try_from(count + SLOTS_CLOSING).unwrap_or(u32::MAX);
        let options = Options { files_max: wanted, buffers: BUFFERS, buffer_bytes: BUFFER_BYTES, ..Options::default() };
        let ring = Ring::new(&options).map_err(BenchError::Ring)?;
        let slots = ring.features().files;
        if (slots as usize) < count {
            return Err(BenchError::Descriptors { needed: count as u64, limit: slots.into() });
        }
        Ok(Self {
            ring,
            cells: std::iter::repeat_with(Cell::default).take(slots as usize).collect(),
            free: (0..slots).rev().collect(),
            slots: Vec::new(),
            unsent: Vec::new(),
            queued: VecDeque::new(),
            read: 0,
            opened: 0,
            watches: 0,
            watching: None,
        })
    }

    fn conn(&self, slot: u32) -> ConnId {
        ConnId { slot, generation: self.cells[slot as usize].generation }
    }

    /// The cell of a connection of the load's.
    fn cell_of(&mut self, index: usize) -> Option<(u32, &mut Cell)> {
        let slot = self.slots.get(index).copied().flatten()?;
        Some((slot, &mut self.cells[slot as usize]))
    }

    /// A free slot; waits for one that is closing where there is none.
    fn take_slot(&mut self) -> Result<u32, BenchError> {
        for _ in 0..SLOT_WAITS_MAX {
            if let Some(slot) = self.free.pop() {
                return Ok(slot);
            }
            self.enter(Wait::AtMost(SLOT_WAIT))?;
            while let Some(completion) = self.ring.pop() {
                let event = self.interpret(completion);
                self.queued.extend(event);
            }
        }
        Err(BenchError::Descriptors { needed: self.cells.len() as u64 + 1, limit: self.cells.len() as u64 })
    }

    /// Submits what is to be sent and enters; what a socket did not take goes back to its outbox.
    fn enter(&mut self, wait: Wait) -> Result<(), BenchError> {
        let mut pushed = 0;
        for slot in std::mem::take(&mut self.unsent) {
            let conn = self.conn(slot);
            let cell = &mut self.cells[slot as usize];
            if cell.stage != Stage::Open || cell.full || cell.outbox.is_empty() {
                continue;
            }
            if self.ring.is_sending(conn) {
                self.unsent.push(slot);
                continue;
            }
            self.ring.push_send(conn, Frames::One(Frame::reply(std::mem::take(&mut cell.outbox))), 0);
            pushed += 1;
            if pushed % SENDS_MAX == 0 {
                self.submit(Wait::No)?;
            }
        }
        self.opened = 0;
        self.submit(wait)
    }

    fn submit(&mut self, wait: Wait) -> Result<(), BenchError> {
        self.ring.enter(wait).map_err(BenchError::Ring)?;
        while let Some(refused) = self.ring.pop_refused() {
            self.refused(&refused);
        }
        Ok(())
    }

    fn refused(&mut self, refused: &Refused) {
        let Refused { conn, frames, skip, outcome, .. } = refused;
        let cell = &mut self.cells[conn.slot as usize];
        // Where the connection is broken, its poll says so.
        let (true, Stage::Open, &Ok(taken)) = (cell.generation == conn.generation, cell.stage, outcome) else { return };
        let mut rest: Vec<u8> = frames.as_slice().iter().flat_map(|frame| frame.blob.iter().copied()).collect();
        rest.drain(..(*skip + taken) as usize);
        rest.append(&mut cell.outbox);
        cell.outbox = rest;
        cell.full = true;
        cell.in_flight += 1;
        self.ring.poll_out(*conn);
    }

    /// Reads what is there, without waiting for more.
    fn receive(&mut self, slot: u32) {
        let conn = self.conn(slot);
        let cell = &mut self.cells[slot as usize];
        if !cell.receiving && !cell.paused && cell.stage == Stage::Open {
            cell.receiving = true;
            cell.in_flight += 1;
            self.ring.receive_once(conn);
        }
    }

    fn poll(&mut self, slot: u32) {
        self.cells[slot as usize].in_flight += 1;
        self.ring.poll_in(self.conn(slot));
    }

    /// What a completion means to the load.
    fn interpret(&mut self, completion: Completion) -> Option<Event> {
        let Token { kind, slot, .. } = completion.token;
        match kind {
            Kind::Wake => return self.watched(slot, completion.more),
            // A cancel of that.
            Kind::None => return None,
            _ => {}
        }
        let cell = self.cells.get_mut(slot as usize).filter(|cell| completion.token.is_of(cell.generation))?;
        cell.in_flight -= u32::from(!completion.more);
        if kind == Kind::ReceiveOnce {
            cell.receiving = false;
        }
        match cell.stage {
            Stage::Closing if kind == Kind::Close => {
                *cell = Cell { generation: cell.generation.wrapping_add(1), ..Cell::default() };
                self.free.push(slot);
                None
            }
            Stage::Connecting if kind == Kind::Connect => Some(self.connected(slot, completion.result)),
            Stage::Open => self.happened(slot, completion),
            Stage::Free | Stage::Connecting | Stage::Ending | Stage::Closing => {
                if let Some(lease) = completion.lease {
                    self.ring.give_back(lease);
                }
                self.close_if_done(slot);
                None
            }
        }
    }

    fn connected(&mut self, slot: u32, result: i32) -> Event {
        if result < 0 {
            return Event::Failed(Errno::from_raw_os_error(-result));
        }
        let cell = &mut self.cells[slot as usize];
        cell.stage = Stage::Open;
        let index = cell.index;
        self.poll(slot);
        Event::Connected(index)
    }

    fn happened(&mut self, slot: u32, completion: Completion) -> Option<Event> {
        let cell = &mut self.cells[slot as usize];
        match completion.token.kind {
            Kind::PollIn => {
                let told = completion.result;
                if !completion.more {
                    self.poll(slot);
                }
                self.readable(slot, told)
            }
            Kind::PollOut => {
                cell.full = false;
                self.unsent.push(slot);
                None
            }
            Kind::ReceiveOnce => self.received(slot, completion),
            _ => None,
        }
    }

    /// A poll has told of something: events, or why it has ended.
    fn readable(&mut self, slot: u32, told: i32) -> Option<Event> {
        let cell = &mut self.cells[slot as usize];
        let told = if told < 0 { 0 } else { told as i16 };
        if cell.paused {
            return (told & (libc::POLLHUP | libc::POLLERR) != 0).then_some(Event::Ended(cell.index));
        }
        cell.to_the_end |= told & (libc::POLLHUP | libc::POLLERR | libc::POLLRDHUP) != 0;
        self.receive(slot);
        None
    }

    fn received(&mut self, slot: u32, completion: Completion) -> Option<Event> {
        let cell = &mut self.cells[slot as usize];
        let index = cell.index;
        if let Some(lease) = completion.lease {
            if !lease.is_empty() {
                // No event tells of what is there already.
                if completion.nonempty || cell.to_the_end || lease.len() == BUFFER_BYTES as usize {
                    self.receive(slot);
                }
                return Some(Event::Bytes(index, Received::Leased(lease)));
            }
            self.ring.give_back(lease);
        }
        match -completion.result {
            libc::EAGAIN => None,
            // A buffer will be free when the others have been read.
            libc::ENOBUFS | libc::EINTR | libc::ENOMEM => {
                self.receive(slot);
                None
            }
            _ => Some(Event::Ended(index)),
        }
    }

    fn watched(&mut self, number: u32, more: bool) -> Option<Event> {
        let descriptor = self.watching.as_ref().filter(|_| number == self.watches)?;
        if !more {
            self.ring.poll_descriptor(descriptor.as_fd(), watch_token(number));
        }
        Some(Event::Watched)
    }

    fn close_if_done(&mut self, slot: u32) {
        let conn = self.conn(slot);
        let cell = &mut self.cells[slot as usize];
        if cell.stage == Stage::Ending && cell.in_flight == 0 {
            cell.stage = Stage::Closing;
            cell.in_flight = 1;
            self.ring.close(conn);
        }
    }
}

impl Sockets for RingSockets {
    fn open(&mut self, index: usize, opening: &Opening) -> Result<(), BenchError> {
        let failed = |error: std::io::Error| BenchError::Connect(error);
        let socket = super::socket(opening).map_err(|error| failed(error.into()))?;
        let slot = self.take_slot()?;
        self.ring.place(slot, socket.as_fd()).map_err(failed)?;
        let conn = self.conn(slot);
        let cell = &mut self.cells[slot as usize];
        (cell.stage, cell.index, cell.in_flight) = (Stage::Connecting, index, 1);
        cell.aside = opening.aside.then_some(socket);
        if self.slots.len() <= index {
            self.slots.resize(index + 1, None);
        }
        self.slots[index] = Some(slot);
        self.ring.connect(conn, opening.address);
        self.opened += 1;
        if self.opened == OPENED_MAX { self.enter(Wait::No) } else { Ok(()) }
    }

    fn send(&mut self, index: usize, bytes: &[u8]) -> Result<(), BenchError> {
        let Some((slot, cell)) = self.cell_of(index) else { return Ok(()) };
        let waited = !cell.outbox.is_empty();
        cell.outbox.extend_from_slice(bytes);
        if !waited && !bytes.is_empty() {
            self.unsent.push(slot);
        }
        Ok(())
    }

    fn pause(&mut self, index: usize, paused: bool) -> Result<(), BenchError> {
        if let Some((slot, cell)) = self.cell_of(index) {
            cell.paused = paused;
            // What came meanwhile was told of, and is told of no more.
            self.receive(slot);
        }
        Ok(())
    }

    fn local_address(&self, index: usize) -> Result<SocketAddr, BenchError> {
        let slot = self.slots.get(index).copied().flatten();
        let aside = slot.and_then(|slot| self.cells[slot as usize].aside.as_ref());
        aside.map_or(Err(Errno::NOTCONN.into()), super::address_of)
    }

    fn end(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::take) else { return };
        let conn = self.conn(slot);
        let cell = &mut self.cells[slot as usize];
        let was = std::mem::replace(&mut cell.stage, Stage::Ending);
        let full = cell.full;
        cell.aside = None;
        let armed = [(was == Stage::Connecting, Kind::Connect), (was == Stage::Open, Kind::PollIn), (full, Kind::PollOut)];
        for kind in armed.into_iter().filter_map(|(armed, kind)| armed.then_some(kind)) {
            self.cells[slot as usize].in_flight += 1;
            self.ring.cancel(conn, kind);
        }
        self.close_if_done(slot);
    }

    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> Result<(), BenchError> {
        self.watches = self.watches.wrapping_add(1);
        self.ring.poll_descriptor(descriptor, watch_token(self.watches));
        // Of our own, for when the poll has to be renewed.
        self.watching = Some(rustix::io::fcntl_dupfd_cloexec(descriptor, 0)?);
        Ok(())
    }

    fn unwatch(&mut self, _: BorrowedFd<'_>) {
        if self.watching.take().is_some() {
            // The poll holds the descriptor's file until then.
            self.ring.cancel_token(watch_token(self.watches));
        }
    }

    fn wait(&mut self, limit: Duration) -> Result<(), BenchError> {
        self.read = 0;
        self.enter(if self.queued.is_empty() { Wait::AtMost(limit) } else { Wait::No })
    }

    fn next(&mut self) -> Result<Option<Event>, BenchError> {
        if let Some(event) = self.queued.pop_front() {
            return Ok(Some(event));
        }
        while self.read < COMPLETIONS_MAX
            && let Some(completion) = self.ring.pop()
        {
            self.read += 1;
            let event = self.interpret(completion);
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn bytes<'a>(&'a mut self, received: &'a mut Received) -> &'a [u8] {
        match received {
            Received::Leased(lease) => self.ring.bytes(lease),
            Received::Buffered(_) => &[],
        }
    }

    fn give_back(&mut self, received: Received) {
        if let Received::Leased(lease) = received {
            self.ring.give_back(lease);
        }
    }
}

/// Ends what is open, each by its name. Left to the ring's own end, the kernel would look at all polls for each of them, and with
/// nineteen thousand lets nobody else have the core for seconds.
impl Drop for RingSockets {
    fn drop(&mut self) {
        (0..self.slots.len()).for_each(|index| self.end(index));
        let deadline = Instant::now() + LAST_WAIT;
        while self.free.len() < self.cells.len() && Instant::now() < deadline {
            if self.enter(Wait::AtMost(SLOT_WAIT)).is_err() {
                return;
            }
            while let Some(completion) = self.ring.pop() {
                _ = self.interpret(completion);
            }
        }
    }
}

fn watch_token(number: u32) -> Token {
    Token::numbered(Kind::Wake, number)
}
