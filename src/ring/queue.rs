//! The ring itself: safe constructors of submissions, the one enter, and the drain after it.

use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode};

use super::buffers::{Buffers, Group, Lease};
use super::gather::Gather;
use super::options::{BULK_BUFFER_BYTES, BULK_BUFFERS, Features, Options, RingError};
use super::sends::{Refused, Sends};
use super::setup;
use super::sockaddr::{self, AddressBuffer};
use super::sys::{self, RingFd};
use super::token::{Kind, Token};
use crate::base::{ConnId, Frames};
use crate::metrics::RingCounters;

/// Flags of every send: never waits, takes all or says how much, raises no signal.
pub(super) const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
/// Bytes of a send from which on the next one must not be joined to it in the socket's queue (MSG_EOR). The kernel looks at the
/// limit of unsent bytes only when it begins a new buffer, so joined sends to a reader that has stopped fill one of 64 KiB; buffers
/// of their own for small ones would cost more than they hold.
pub const UNJOINED_BYTES_MIN: usize = 1 << 10;
/// What a parked connection waits for.
const POLL_IN: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;
/// Enters in a row that may consume nothing before a waiting loop gets its turn.
const STUCK_ENTERS_MAX: u32 = 8;
/// Operations in flight up to which a ring that goes away cancels them. The kernel looks at all of them for each, on a core that it gives
/// to nobody else meanwhile: eighteen thousand parked connections took seven seconds.
const CANCELLED_MAX: usize = 1024;
/// Enters per turn beside the first one, for work that the kernel has put off.
const DEFERRED_ENTERS_MAX: u32 = 64;

/// What happened to an operation.
#[derive(Debug)]
pub struct Completion {
    /// As it was submitted; of doorbells and of sockets handed over, as the other ring submitted it.
    pub token: Token,
    /// As the system call would return it: negative is an errno.
    pub result: i32,
    /// The operation goes on and will complete again.
    pub more: bool,
    /// The socket holds more unread bytes.
    pub nonempty: bool,
    /// Received bytes. Must be given back.
    pub lease: Option<Lease>,
    /// The address that an accept or [`Ring::peer_name`] was asked for.
    pub address: Option<SocketAddr>,
}

/// How long an enter may wait for completions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// There is more to do in this turn already.
    No,
    /// Until there are so many, or for so long: nothing may have come when it returns.
    Gather {
        /// Those of sends that were refused among them.
        completions: u32,
        /// Not longer than until the next deadline.
        at_most: Duration,
    },
    /// Until the first one. A deadline is near; nothing may have come when it returns.
    AtMost(Duration),
    /// Nothing is due: only a completion or a signal ends it.
    Unbounded,
}

/// Memory that the kernel reads or writes for one operation, kept until its last completion.
enum Kept {
    Address(Box<AddressBuffer>),
    Descriptor(Box<RawFd>, OwnedFd),
}

/// The large receive buffers, which exist from their first use on.
enum Bulk {
    Unmade,
    Made(Buffers),
    /// There was no memory for them. Asked for once only: which group a receive took from must stay known.
    Refused,
}

/// One thread's io_uring. See the [module](super) for what it guarantees.
pub struct Ring {
    io: IoUring,
    fd: RingFd,
    buffers: Buffers,
    bulk: Bulk,
    features: Features,
    sends: Sends,
    gather: Gather,
    /// Submissions that found the queue full and the kernel unwilling; they go first.
    backlog: VecDeque<Entry>,
    /// Submissions made so far, the backlog included; wraps.
    submissions: u32,
    refused: VecDeque<Refused>,
    completions: VecDeque<Completion>,
    kept: HashMap<u64, Kept>,
    /// Operations that will complete here, silent ones not counted.
    in_flight: usize,
    counters: RingCounters,
    /// An enter inside a push failed for good; the next [`Self::enter`] says so.
    broken: Option<RingError>,
    /// The kernel accepts submissions from this thread only.
    _this_thread: PhantomData<*const ()>,
}

impl Ring {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses; the error says why and what to do.
    pub fn new(options: &Options) -> Result<Self, RingError> {
        let setup::Parts { io, fd, buffers, features } = setup::build(options)?;
        Ok(Self {
            io,
            fd,
            buffers,
            bulk: Bulk::Unmade,
            features,
            sends: Sends::default(),
            gather: Gather::default(),
            backlog: VecDeque::new(),
            submissions: 0,
            refused: VecDeque::new(),
            completions: VecDeque::new(),
            kept: HashMap::new(),
            in_flight: 0,
            counters: RingCounters::default(),
            broken: None,
            _this_thread: PhantomData,
        })
    }

    /// What this kernel gave.
    #[must_use]
    pub const fn features(&self) -> &Features {
        &self.features
    }

    /// The descriptor by which other rings send messages here. Valid as long as the ring.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self.io`, which the borrow keeps alive.
        unsafe { BorrowedFd::borrow_raw(self.io.as_raw_fd()) }
    }

    /// Operations that will complete here, silent ones not counted.
    #[cfg(test)]
    pub(super) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What was counted since the ring was made.
    #[must_use]
    pub const fn counters(&self) -> &RingCounters {
        &self.counters
    }

    // ---- what came in ----

    /// The next send that was not taken whole. To be applied before any completion is and before the next send is pushed.
    pub fn pop_refused(&mut self) -> Option<Refused> {
        self.refused.pop_front()
    }

    /// The next completion, in the kernel's order.
    pub fn pop(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// Whether completions wait to be popped.
    #[must_use]
    pub fn has_completions(&self) -> bool {
        !self.completions.is_empty() || !self.refused.is_empty()
    }

    /// The bytes of a lease of this ring.
    pub fn bytes<'a>(&'a mut self, lease: &'a mut Lease) -> &'a mut [u8] {
        self.buffers_of(lease).bytes(lease)
    }

    /// Takes a buffer back, for the kernel to use again from the next enter on.
    pub fn give_back(&mut self, lease: Lease) {
        self.buffers_of(&lease).give_back(lease);
    }

    /// Hands the kernel as many buffers as it may need in the next enter.
    fn publish_buffers(&mut self) {
        self.buffers.publish();
        if let Bulk::Made(bulk) = &mut self.bulk {
            bulk.publish();
        }
    }

    fn buffers_of(&mut self, lease: &Lease) -> &mut Buffers {
        match &mut self.bulk {
            Bulk::Made(bulk) if bulk.owns(lease) => bulk,
            _ => &mut self.buffers,
        }
    }

    /// Receive buffers that are not leased.
    #[must_use]
    pub fn buffers_free(&self) -> u16 {
        self.buffers.free()
    }

    /// Large buffers of which the same is true; `None` before there are any.
    #[must_use]
    pub fn bulk_buffers_free(&self) -> Option<u16> {
        if let Bulk::Made(bulk) = &self.bulk { Some(bulk.free()) } else { None }
    }

    // ---- enter ----

    /// Submits everything, waits for a first completion as told, and reads the completion queue to its end.
    ///
    /// Afterwards every send pushed before has been decided: refused ones are in [`Self::pop_refused`], all others are done.
    ///
    /// # Errors
    /// Only when the ring is unusable.
    pub fn enter(&mut self, wait: Wait) -> Result<(), RingError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let mut wait = if self.has_completions() || self.sends.any_cut() { Wait::No } else { wait };
        let mut stuck = 0;
        loop {
            self.fill();
            if !self.backlog.is_empty() {
                // Silent sends may be all that is ahead of it: nothing would end the wait.
                wait = Wait::No;
            }
            let before = self.waiting();
            self.enter_once(wait)?;
            self.drain()?;
            let left = self.waiting();
            if left == 0 {
                return self.enter_for_the_rest();
            }
            // The kernel took fewer than offered (out of memory, or its own limits): offer the rest again, without waiting.
            stuck = if left < before { 0 } else { stuck + 1 };
            if stuck == STUCK_ENTERS_MAX {
                return Ok(());
            }
            wait = Wait::No;
        }
    }

    /// The kernel runs few pieces of deferred work in one enter (20, since Linux 6.13) and says when there are more. Left for the
    /// next turn, a thousand of them would keep everybody behind them waiting for as many turns as that takes.
    fn enter_for_the_rest(&mut self) -> Result<(), RingError> {
        for _ in 0..DEFERRED_ENTERS_MAX {
            if !self.io.submission().taskrun() {
                break;
            }
            self.enter_once(Wait::No)?;
            self.drain()?;
        }
        Ok(())
    }

    /// Submissions that the kernel has not consumed.
    fn waiting(&mut self) -> usize {
        self.io.submission().len() + self.backlog.len()
    }

    /// Moves the backlog into the submission queue, as far as there is room.
    fn fill(&mut self) {
        let mut queue = self.io.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: as in `push`, through which every entry of the backlog came.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }

    fn enter_once(&mut self, wait: Wait) -> Result<(), RingError> {
        let to_submit = u32::try_from(self.io.submission().len()).unwrap_or(u32::MAX);
        let (min_complete, timeout) = match wait {
            Wait::No => (0, Some(Duration::ZERO)),
            Wait::Gather { completions, at_most } => (completions, Some(at_most)),
            Wait::AtMost(limit) => (1, Some(limit)),
            Wait::Unbounded => (1, None),
        };
        self.counters.enters += 1;
        self.publish_buffers();
        match sys::enter(self.fd, to_submit, min_complete, timeout) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error().unwrap_or(0) {
                // Timeouts and signals are ordinary ends of a wait; the rest are passing shortages: drain, then offer again.
                libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM => Ok(()),
                // Completions were dropped for want of memory: nothing can be trusted any more.
                errno => Err(RingError::Enter { errno }),
            },
        }
    }

    /// Reads the completion queue to its end, the kernel's overflow list included, then releases what was consumed.
    fn drain(&mut self) -> Result<(), RingError> {
        loop {
            self.read_completions();
            if !self.io.submission().cq_overflow() {
                break;
            }
            self.counters.cq_overflows += 1;
            self.flush_overflow()?;
        }
        let consumed = self.submissions.wrapping_sub(u32::try_from(self.waiting()).unwrap_or(u32::MAX));
        let (sends, bytes) = self.sends.release(consumed, &mut self.refused);
        self.counters.sends += sends;
        self.counters.sent_bytes += bytes;
        if self.sends.is_empty() {
            self.gather.reset();
        }
        Ok(())
    }

    /// Lets the kernel move its overflow list into the completion queue, without submitting anything.
    fn flush_overflow(&mut self) -> Result<(), RingError> {
        match sys::enter(self.fd, 0, 0, Some(Duration::ZERO)) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error().unwrap_or(0) {
                libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM => Ok(()),
                errno => Err(RingError::Enter { errno }),
            },
        }
    }

    fn read_completions(&mut self) {
        let Self { io, sends, buffers, bulk, kept, completions, in_flight, counters, .. } = self;
        for entry in io.completion() {
            let token = Token::from_bits(entry.user_data());
            let (result, flags) = (entry.result(), entry.flags());
            if token.kind == Kind::Send {
                let known = sends.heard(token.slot, |conn| token.is_of(conn.generation), result);
                debug_assert!(known, "a completion for a send that was already released");
                continue;
            }
            let more = cqueue::more(flags);
            let is_ours = !matches!(token.kind, Kind::Doorbell | Kind::HandedOver | Kind::DoorbellFailed);
            *in_flight = in_flight.saturating_sub(usize::from(is_ours && !more));
            let length = u32::try_from(result).unwrap_or(0);
            let group = match bulk {
                Bulk::Made(bulk) if token.kind == Kind::ReceiveBulk => bulk,
                _ => &mut *buffers,
            };
            let lease = cqueue::buffer_select(flags).and_then(|buffer| group.lease(buffer, length));
            if result == -libc::ENOBUFS {
                group.ran_out();
            }
            counters.received_bytes += lease.as_ref().map_or(0, |lease| lease.len() as u64);
            let mut completion = Completion { token, result, more, nonempty: cqueue::sock_nonempty(flags), lease, address: None };
            if !kept.is_empty() && !more {
                finish(kept.remove(&entry.user_data()), &mut completion);
            }
            completions.push_back(completion);
        }
    }

    // ---- sends ----

    /// Sends `frames` without the first `skip` bytes. Silent when all is taken; else a [`Refused`] follows the next enter.
    ///
    /// # Panics
    /// When the connection already has a send that was not decided by an enter: two could tear its stream.
    pub fn push_send(&mut self, conn: ConnId, frames: Frames, skip: u32) {
        let number = self.sends.next_number();
        let token = Token::of(Kind::Send, ConnId { slot: number, generation: conn.generation });
        self.make_room();
        self.sends.add(conn, frames, skip, self.submissions);
        let parts = self.sends.newest_parts();
        let extra = if self.sends.newest_bytes() < UNJOINED_BYTES_MIN { 0 } else { libc::MSG_EOR };
        // Every silent send waits for all: without WAITALL a short one would be silent too.
        let entry = match parts.len() {
            1 => {
                let mut parts = parts;
                let part = parts.next().unwrap_or_default();
                let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
                opcode::Send::new(Fixed(conn.slot), part.as_ptr(), length).flags(SEND_FLAGS | extra).build()
            }
            _ => {
                let header = self.gather.header(parts);
                opcode::SendMsg::new(Fixed(conn.slot), header).flags((SEND_FLAGS | extra) as u32).build()
            }
        };
        self.push_silent(entry, token);
    }

    /// Whether the connection has a send that no enter has decided yet.
    #[must_use]
    pub fn is_sending(&self, conn: ConnId) -> bool {
        self.sends.is_busy(conn)
    }

    /// Sends that no enter has decided yet: behind an enter, only when the kernel consumed less than offered.
    #[must_use]
    pub fn undecided_sends(&self) -> usize {
        self.sends.len()
    }

    // ---- everything else ----

    /// Accepts connections into direct descriptors until told otherwise; each completion's result is a slot.
    pub fn accept_multishot(&mut self, listener: BorrowedFd<'_>, token: Token) {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true).build();
        self.push(entry, token);
    }

    /// Accepts one connection into a direct descriptor, together with its peer address.
    pub fn accept_once(&mut self, listener: BorrowedFd<'_>, token: Token) {
        let mut buffer = AddressBuffer::empty();
        let length = std::ptr::from_mut(&mut buffer.length);
        let entry = opcode::Accept::new(Fd(listener.as_raw_fd()), buffer.as_mut_ptr(), length)
            .file_index(Some(DestinationSlot::auto_target()))
            .build();
        self.keep(token, Kept::Address(buffer));
        self.push(entry, token);
    }

    /// Reads the peer address of a direct descriptor whose listener has an address like `like`.
    pub fn peer_name(&mut self, conn: ConnId, like: IpAddr) {
        const SO_PEERNAME: u32 = 28;
        let token = Token::of(Kind::PeerName, conn);
        let mut buffer = AddressBuffer::empty();
        let pointer = buffer.as_mut_ptr().cast();
        // The kernel refuses a length that is larger than the address.
        let length = sockaddr::length_of(like);
        let entry = opcode::GetSockOpt::new(Fixed(conn.slot), libc::SOL_SOCKET as u32, SO_PEERNAME, pointer, length).build();
        self.keep(token, Kept::Address(buffer));
        self.push(entry, token);
    }

    /// Receives into buffers of the ring until told otherwise.
    pub fn receive_multishot(&mut self, conn: ConnId) {
        let entry = opcode::RecvMulti::new(Fixed(conn.slot), Group::Small.id()).build();
        self.buffers.ask();
        self.push(entry, Token::of(Kind::Receive, conn));
    }

    /// Receives what is there now, into a buffer of the ring.
    pub fn receive_once(&mut self, conn: ConnId) {
        let entry = opcode::Recv::new(Fixed(conn.slot), std::ptr::null_mut(), 0)
            .buf_group(Group::Small.id())
            .flags(libc::MSG_DONTWAIT)
            .build()
            .flags(Flags::BUFFER_SELECT);
        self.buffers.ask();
        self.push(entry, Token::of(Kind::ReceiveOnce, conn));
    }

    /// Receives once what is there or comes, into a large buffer; into a small one where there was no memory for large ones.
    pub fn receive_bulk(&mut self, conn: ConnId) {
        if matches!(self.bulk, Bulk::Unmade) {
            let made = Buffers::register(&self.io.submitter(), Group::Bulk, BULK_BUFFERS, BULK_BUFFER_BYTES);
            self.bulk = made.map_or(Bulk::Refused, Bulk::Made);
        }
        let group = if matches!(self.bulk, Bulk::Made(_)) { Group::Bulk } else { Group::Small };
        let entry =
            opcode::Recv::new(Fixed(conn.slot), std::ptr::null_mut(), 0).buf_group(group.id()).build().flags(Flags::BUFFER_SELECT);
        self.push(entry, Token::of(Kind::ReceiveBulk, conn));
    }

    /// Says each time that something arrives at a parked connection.
    pub fn poll_in(&mut self, conn: ConnId) {
        let entry = opcode::PollAdd::new(Fixed(conn.slot), POLL_IN).multi(true).build();
        self.push(entry, Token::of(Kind::PollIn, conn));
    }

    /// Says once when the connection has room for sending.
    pub fn poll_out(&mut self, conn: ConnId) {
        let entry = opcode::PollAdd::new(Fixed(conn.slot), libc::POLLOUT as u32).build();
        self.push(entry, Token::of(Kind::PollOut, conn));
    }

    /// Says each time that an ordinary descriptor (an eventfd) becomes readable.
    pub fn poll_descriptor(&mut self, descriptor: BorrowedFd<'_>, token: Token) {
        let entry = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        self.push(entry, token);
    }

    /// Ends the sending side of a connection: the peer reads to an end, and may go on sending.
    pub fn shutdown_writing(&mut self, conn: ConnId) {
        self.push(opcode::Shutdown::new(Fixed(conn.slot), libc::SHUT_WR).build(), Token::of(Kind::Shutdown, conn));
    }

    /// Cancels one operation of a connection; it still completes by itself, before or after the cancel does.
    ///
    /// By name, which the kernel finds at once. To cancel by descriptor it looks at every poll that is armed on the ring, and ten
    /// thousand parked connections that end together take seconds.
    pub fn cancel(&mut self, conn: ConnId, kind: Kind) {
        let entry = opcode::AsyncCancel::new(Token::of(kind, conn).bits()).build();
        self.push(entry, Token::of(Kind::Cancel, conn));
    }

    /// Cancels an operation that is not a connection's; the cancel's own completion is nobody's.
    pub fn cancel_token(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(token.bits()).build();
        self.push(entry, Token::numbered(Kind::None, 0));
    }

    /// Frees a direct descriptor. Nothing may be in flight on it: an armed receive would keep the socket open.
    pub fn close(&mut self, conn: ConnId) {
        self.push(opcode::Close::new(Fixed(conn.slot)).build(), Token::of(Kind::Close, conn));
    }

    /// Connects a socket that was put into its slot by [`Self::adopt`].
    pub fn connect(&mut self, conn: ConnId, address: SocketAddr) {
        let token = Token::of(Kind::Connect, conn);
        let buffer = AddressBuffer::of(address);
        let entry = opcode::Connect::new(Fixed(conn.slot), buffer.as_ptr(), buffer.length).build();
        self.keep(token, Kept::Address(buffer));
        self.push(entry, token);
    }

    /// Puts an ordinary descriptor into a slot of the caller's choice, which must be empty. It may then be closed: the slot holds the
    /// socket. For tables in which the kernel chooses no slot.
    ///
    /// # Errors
    /// When the table has no such slot, or the kernel no memory.
    pub fn place(&mut self, slot: u32, descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
        self.io.submitter().register_files_update(slot, &[descriptor.as_raw_fd()]).map(drop)
    }

    /// Puts an ordinary descriptor into a slot of the kernel's choice, which is the completion's result.
    pub fn adopt(&mut self, descriptor: OwnedFd, token: Token) {
        let mut number = Box::new(descriptor.as_raw_fd());
        let entry = opcode::FilesUpdate::new(std::ptr::from_mut(number.as_mut()), 1).offset(-1).build();
        self.keep(token, Kept::Descriptor(number, descriptor));
        self.push(entry, token);
    }

    /// Wakes another ring: it gets a [`Kind::Doorbell`]. Silent on success; else a [`Kind::DoorbellFailed`] with `number` here.
    pub fn ring_doorbell(&mut self, ring: BorrowedFd<'_>, number: u32) {
        let remote = Token::numbered(Kind::Doorbell, number).bits();
        let entry = opcode::MsgRingData::new(Fd(ring.as_raw_fd()), 0, remote, None).build();
        self.push_silent(entry, Token::numbered(Kind::DoorbellFailed, number));
    }

    /// Copies a direct descriptor into another ring's table, in a slot of its kernel's choice: there a [`Kind::HandedOver`]
    /// whose result is the slot and whose number is `number`; here a [`Kind::HandOver`]. The slot here stays to be closed.
    pub fn hand_over(&mut self, conn: ConnId, ring: BorrowedFd<'_>, number: u32) {
        let remote = Token::numbered(Kind::HandedOver, number).bits();
        let target = DestinationSlot::auto_target();
        let entry = opcode::MsgRingSendFd::new(Fd(ring.as_raw_fd()), Fixed(conn.slot), target, remote).build();
        self.push(entry, Token::of(Kind::HandOver, conn));
    }

    // ---- the one way in ----

    /// Keeps memory for the operation that is pushed next.
    ///
    /// # Panics
    /// When an operation under the same token is in flight.
    fn keep(&mut self, token: Token, kept: Kept) {
        // Checked in release too: the first of two completions would free the memory that the second still needs.
        assert!(self.kept.insert(token.bits(), kept).is_none(), "{token:?} is already in flight");
    }

    /// Submits what is queued when the queue is full, so that the next push finds room.
    fn make_room(&mut self) {
        if !self.io.submission().is_full() {
            return;
        }
        self.counters.sq_full += 1;
        if let Err(error) = self.enter_once(Wait::No).and_then(|()| self.drain()) {
            self.broken = Some(error);
        }
        self.fill();
    }

    /// Pushes what completes here.
    fn push(&mut self, entry: Entry, token: Token) {
        self.in_flight += 1;
        self.submit(entry, token);
    }

    /// Pushes what completes here only when it fails.
    fn push_silent(&mut self, entry: Entry, token: Token) {
        self.submit(entry.flags(Flags::SKIP_SUCCESS), token);
    }

    fn submit(&mut self, entry: Entry, token: Token) {
        self.make_room();
        let entry = entry.user_data(token.bits());
        self.submissions = self.submissions.wrapping_add(1);
        // SAFETY: every pointer in an entry is to memory in `sends`, `gather` or `kept`, or to nothing; none of them moves its
        // contents. `kept` is released only at the operation's last completion. `sends` and `gather` are released once the
        // queue was drained behind the enter that consumed the entry: a send with MSG_DONTWAIT is never punted or retried, so
        // the kernel is done with it when that enter returns.
        if !self.backlog.is_empty() || unsafe { self.io.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }
}

/// Gives the kernel's answer out of the memory that was kept for it.
fn finish(kept: Option<Kept>, completion: &mut Completion) {
    match kept {
        Some(Kept::Address(buffer)) => {
            completion.address = if completion.result >= 0 { buffer.address() } else { None };
        }
        Some(Kept::Descriptor(number, descriptor)) => {
            drop(descriptor);
            if completion.result >= 0 {
                completion.result = *number;
            }
        }
        None => {}
    }
}

impl Ring {
    /// Whether nothing is in flight any more.
    fn cancel_all(&self) -> bool {
        let patience = io_uring::types::Timespec::new().sec(1);
        let cancelled = self.io.submitter().register_sync_cancel(Some(patience), CancelBuilder::any());
        cancelled.is_ok() || cancelled.is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Nothing may read or write our memory after this. A synchronous cancel of everything returns success (or finds nothing)
        // only when no request is left that could: then the buffers may be unmapped and what is kept freed. Otherwise, and where
        // there are too many to cancel, both are left to the kernel for ever, which ends the requests by itself.
        if self.in_flight <= CANCELLED_MAX && self.cancel_all() {
            let submitter = self.io.submitter();
            self.buffers.unregister(&submitter);
            if let Bulk::Made(bulk) = &mut self.bulk {
                bulk.unregister(&submitter);
            }
        } else {
            std::mem::forget(std::mem::take(&mut self.kept));
        }
        if let Some(index) = self.fd.registered {
            sys::unregister_ring_fd(self.fd.fd, index);
        }
    }
}

#[cfg(test)]
impl Ring {
    /// Completions in the queue that the kernel shares with us (tests of when they come).
    pub(super) fn unread_completions(&mut self) -> usize {
        self.io.completion().len()
    }

    /// Lets the next enter have every buffer there is, as after a burst.
    pub(super) fn offer_all_buffers(&mut self) {
        self.buffers.ran_out();
    }

    /// Lets what is pushed from here on go the way of what found the queue full and the kernel unwilling.
    pub(super) fn begin_backlog(&mut self) {
        self.submissions = self.submissions.wrapping_add(1);
        self.backlog.push_back(opcode::Nop::new().build().flags(Flags::SKIP_SUCCESS));
    }

    /// Offers the kernel only the first `count` submissions, as if it had consumed no more (tests of partial consumption).
    pub(super) fn enter_partly(&mut self, count: u32) -> Result<(), RingError> {
        self.fill();
        sys::enter(self.fd, count, 0, Some(Duration::ZERO)).map_err(|_| RingError::Enter { errno: 0 })?;
        self.drain()
    }
}
