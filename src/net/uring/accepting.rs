//! Listener to open connection: accept into a slot, learn the peer's address, perhaps hand over, tell the shard.
//!
//! A worker never stops accepting while another has room: its listener goes on getting its share of connections, and nobody
//! would serve them. So it passes fresh ones on, and stops only when every table is full.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use super::Sockets;
use super::cells::{Cell, Flags, Stage};
use crate::net::deadlines::Due;
use crate::net::errno::concerns_one_connection;
use crate::net::listen::stays_in_drain;
use crate::net::loads::is_full;
use crate::net::retry::{BACKOFF_MIN, FULL_RETRY, Retry};
use rustix::io::Errno;

use crate::base::{ConnId, Nanos, Now};
use crate::ring::{Completion, Kind, Token};
use crate::shard::{Input, ListenerId, Shard};

/// Free slots per listener below which connections are accepted one by one: an armed multishot accept may take a whole backlog
/// in one enter, and the kernel drops what finds no slot.
const MULTISHOT_ROOM_MIN: u32 = 4096;
/// Single accepts armed at once on a listener.
const LANES: u32 = 8;
/// Free slots for each of them.
const SLOTS_PER_LANE: u32 = 8;

/// A listening socket of this worker.
pub struct Listener {
    pub socket: OwnedFd,
    pub id: ListenerId,
    /// An address of the family of its peers.
    pub like: IpAddr,
    pub state: Accepting,
    /// Accepts that are armed, one bit each; bit 0 alone where it is a multishot one.
    lanes: u32,
    /// Whether what is armed is a multishot accept, for which no slot is booked.
    is_multishot: bool,
    retry: Retry,
}

/// A connection that has no slot yet: accepted in a drain, or come from another worker as a descriptor.
pub struct Adopting {
    /// Its listener's place in the list.
    pub listener: usize,
    pub peer: Option<SocketAddr>,
    /// From another worker, which has counted it here already.
    pub handed: bool,
}

/// What a listener is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepting {
    /// Not armed, and nobody has said why not.
    Idle,
    Multishot,
    /// Up to [`LANES`] single accepts are armed.
    OneByOne,
    /// Being cancelled, to be emptied or armed anew.
    Stopping,
    /// The kernel refused; waits for its deadline or for a connection to close.
    BackingOff,
    /// This table is full, or every table is; waits for a connection to close here, or for room elsewhere to pass on to.
    Full,
    /// A drain takes over what had connected; waits for a slot or a descriptor.
    Emptying,
    /// Closed for good.
    Closed,
}

impl Listener {
    pub fn new(socket: OwnedFd, id: ListenerId, like: IpAddr) -> Self {
        Self { socket, id, like, state: Accepting::Idle, lanes: 0, is_multishot: false, retry: Retry::default() }
    }

    fn stays_in_drain(&self) -> bool {
        stays_in_drain(self.id)
    }
}

impl Sockets {
    /// Starts accepting.
    pub fn start_accepting(&mut self) {
        for index in 0..self.listeners.len() {
            self.arm_accept(index);
        }
    }

    fn arm_accept(&mut self, index: usize) {
        let (multishot, lanes_max) = (self.has_multishot_room(1), self.lanes_max());
        let closed = self.is_full() && self.roomier().is_none();
        let Some(listener) = self.listeners.get_mut(index) else { return };
        match listener.state {
            Accepting::Idle | Accepting::OneByOne | Accepting::BackingOff | Accepting::Full => {}
            Accepting::Multishot | Accepting::Stopping | Accepting::Emptying | Accepting::Closed => return,
        }
        if multishot && listener.lanes == 0 {
            (listener.state, listener.lanes, listener.is_multishot) = (Accepting::Multishot, 1, true);
            return self.ring.accept_multishot(listener.socket.as_fd(), accept_token(index, 0));
        }
        listener.is_multishot = false;
        for lane in (0..LANES).filter(|_| !closed) {
            // An accept that finds no slot loses its connection.
            let wanted = listener.lanes & (1 << lane) == 0 && listener.lanes.count_ones() < lanes_max;
            if wanted && self.peers.loads.book_accept(self.peers.me) {
                listener.lanes |= 1 << lane;
                self.ring.accept_once(listener.socket.as_fd(), accept_token(index, lane));
            }
        }
        listener.state = if listener.lanes == 0 { Accepting::Full } else { Accepting::OneByOne };
    }

    /// Single accepts a listener may have armed: what they have booked cannot be given to connections from other workers.
    fn lanes_max(&self) -> u32 {
        (self.ring.features().files.saturating_sub(self.live) / SLOTS_PER_LANE).clamp(1, LANES)
    }

    /// Whether there is room for the backlogs of all listeners, `times` over.
    fn has_multishot_room(&self, times: u32) -> bool {
        let features = self.ring.features();
        let listeners = u32::try_from(self.listeners.len()).unwrap_or(u32::MAX);
        let room = MULTISHOT_ROOM_MIN.saturating_mul(listeners).saturating_mul(times);
        features.peer_name && features.files.saturating_sub(self.live) > room
    }

    pub(super) fn accepted(&mut self, completion: &Completion, shard: &mut Shard, now: Now) {
        let (index, lane) = lane_of(completion.token);
        if let Ok(slot) = u32::try_from(completion.result) {
            if let Some(listener) = self.listeners.get_mut(index) {
                listener.retry.accepted();
            }
            self.fresh(slot, index, completion.address, shard, now);
        }
        if !completion.more {
            self.accept_ended(index, lane, completion.result, now);
        }
    }

    /// A slot has been filled by the kernel.
    fn fresh(&mut self, slot: u32, listener: usize, address: Option<SocketAddr>, shard: &mut Shard, now: Now) {
        let conn = self.claim(slot, Stage::Fresh);
        self.facts.accepted += 1;
        self.peers.loads.add_connection(self.peers.me);
        self.note_listener(conn, listener);
        match address {
            Some(address) => self.named(conn, Some(address), shard, now),
            None => self.ask_name(conn),
        }
        self.limit_accepting();
    }

    pub(super) fn note_listener(&mut self, conn: ConnId, listener: usize) {
        if let Some(cell) = self.cells.of(conn) {
            cell.listener = u8::try_from(listener).unwrap_or(u8::MAX);
        }
    }

    pub(super) fn ask_name(&mut self, conn: ConnId) {
        let Some(&mut Cell { listener, .. }) = self.in_stage(conn, Stage::Fresh) else { return };
        let Some(&Listener { like, .. }) = self.listeners.get(usize::from(listener)) else { return };
        self.begin(conn, Flags::default());
        self.ring.peer_name(conn, like);
    }

    /// The kernel has said who the peer is, or why it cannot.
    pub(super) fn name_told(&mut self, conn: ConnId, completion: &Completion, shard: &mut Shard, now: Now) {
        if matches!(-completion.result, libc::ENOMEM | libc::EAGAIN | libc::EINTR) {
            return self.deadlines.set(now.monotonic + BACKOFF_MIN, Due::Name(conn));
        }
        self.named(conn, completion.address, shard, now);
    }

    /// An accept is over, for the reason that its result gives.
    fn accept_ended(&mut self, index: usize, lane: u32, result: i32, now: Now) {
        let Some(listener) = self.listeners.get_mut(index) else { return };
        listener.lanes &= !(1 << lane);
        if !listener.is_multishot {
            self.peers.loads.end_accept(self.peers.me);
        }
        match listener.state {
            Accepting::Closed | Accepting::Emptying => {}
            Accepting::Stopping if listener.lanes > 0 => {}
            Accepting::Stopping if self.draining && !listener.stays_in_drain() => self.empty_listener(index, now),
            Accepting::Stopping => {
                listener.state = Accepting::Idle;
                self.accept_more(index, now);
            }
            _ if result >= 0 || concerns_one_connection(-result) => {
                if listener.state == Accepting::Multishot {
                    listener.state = Accepting::Idle;
                }
                self.accept_more(index, now);
            }
            // The other lanes will hear the same.
            Accepting::BackingOff => {}
            _ => self.back_off(index, -result, now),
        }
    }

    /// Arms what there is room for; without any, comes back when there may be.
    fn accept_more(&mut self, index: usize, now: Now) {
        self.arm_accept(index);
        self.pass_on(index, now);
        if self.listeners.get(index).is_some_and(|listener| listener.state == Accepting::Full) {
            self.try_again(index, now.monotonic + FULL_RETRY);
        }
    }

    /// Arming again at once would fail at once: waits for a while, or for a connection to close.
    pub(super) fn back_off(&mut self, index: usize, errno: i32, now: Now) {
        let Some(listener) = self.listeners.get_mut(index) else { return };
        listener.state = Accepting::BackingOff;
        let pause = listener.retry.refused(errno, &mut self.facts);
        self.try_again(index, now.monotonic + pause);
    }

    fn try_again(&mut self, index: usize, at: Nanos) {
        if self.listeners.get_mut(index).is_some_and(|listener| listener.retry.sets(at)) {
            self.deadlines.set(at, Due::Accept(u32::try_from(index).unwrap_or(u32::MAX)));
        }
    }

    /// Time to try again, unless that has been done already.
    pub(super) fn accept_again(&mut self, index: u32, now: Now) {
        let index = index as usize;
        if !self.listeners.get_mut(index).is_some_and(|listener| listener.retry.is_due(now.monotonic)) {
            return;
        }
        match self.listeners.get(index).map(|listener| listener.state) {
            Some(Accepting::BackingOff | Accepting::Full) => self.accept_more(index, now),
            Some(Accepting::Emptying) => self.empty_listener(index, now),
            _ => {}
        }
    }

    /// The peer's address is known, or cannot be: then the peer has already gone.
    pub(super) fn named(&mut self, conn: ConnId, address: Option<SocketAddr>, shard: &mut Shard, now: Now) {
        let Some(cell) = self.in_stage(conn, Stage::Fresh) else { return };
        let handed = cell.flags.has(Flags::HANDED);
        let Some(address) = address else { return self.tear_down(conn, now) };
        let target = if handed { None } else { self.roomier() };
        match target {
            // Booked before it arrives, so that a burst does not all go to the same worker and never finds it full.
            Some(worker) if self.peers.loads.book_connection(worker) => self.hand_to(conn, worker, address),
            Some(_) | None => self.open(conn, address, shard, now),
        }
    }

    pub(super) fn open(&mut self, conn: ConnId, address: SocketAddr, shard: &mut Shard, now: Now) {
        let Some(cell) = self.cells.of(conn) else { return };
        cell.stage = Stage::Open;
        let Some(listener) = self.listeners.get(usize::from(cell.listener)) else { return };
        let (listener, peer) = (listener.id, SocketAddr::new(address.ip().to_canonical(), address.port()));
        shard.handle(Input::Accepted { conn, listener, peer }, now);
        self.expect(conn, now);
    }

    // ---- full tables ----

    fn is_full(&self) -> bool {
        is_full(self.live, self.ring.features().files)
    }

    /// With little room left, a multishot accept is replaced by single ones; with much again, they by it.
    pub(super) fn limit_accepting(&mut self) {
        if !self.has_multishot_room(1) {
            let lanes_max = self.lanes_max();
            self.stop_accepting(|listener| {
                listener.state == Accepting::Multishot
                    || listener.state == Accepting::OneByOne && listener.lanes.count_ones() > 2 * lanes_max
            });
        } else if self.has_multishot_room(2) {
            // With some distance, or connections that come and go would switch back and forth.
            self.stop_accepting(|listener| listener.state == Accepting::OneByOne);
        }
    }

    fn stop_accepting(&mut self, which: impl Fn(&Listener) -> bool) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if which(listener) && listener.lanes > 0 {
                listener.state = Accepting::Stopping;
                for lane in (0..LANES).filter(|lane| listener.lanes & (1 << lane) != 0) {
                    self.ring.cancel_token(accept_token(index, lane));
                }
            }
        }
    }

    /// A slot has become free.
    pub(super) fn accept_if_room(&mut self, now: Now) {
        for index in 0..self.listeners.len() {
            match self.listeners[index].state {
                Accepting::Full | Accepting::BackingOff => self.arm_accept(index),
                Accepting::Emptying => self.empty_listener(index, now),
                _ => {}
            }
        }
    }

    // ---- draining ----

    /// Stops listening, once everything that had already connected is accepted: a closed listener resets its queue.
    pub(super) fn stop_listening(&mut self, now: Now) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        self.welcome_all(now);
        self.stop_accepting(|listener| !listener.stays_in_drain() && listener.state != Accepting::Closed);
        for index in 0..self.listeners.len() {
            let listener = &self.listeners[index];
            if !listener.stays_in_drain() && !matches!(listener.state, Accepting::Stopping | Accepting::Closed) {
                self.empty_listener(index, now);
            }
        }
    }

    /// Whether a drain has closed every listener that it closes, and knows everybody who had connected.
    pub(super) fn is_done_listening(&self) -> bool {
        let mut listeners = self.listeners.iter();
        self.adopting.is_empty() && listeners.all(|listener| listener.state == Accepting::Closed || listener.stays_in_drain())
    }

    /// Accepts what is left in the listener's queue, then closes it.
    fn empty_listener(&mut self, index: usize, now: Now) {
        let free = self.ring.features().files.saturating_sub(self.live) as usize;
        let Some(listener) = self.listeners.get_mut(index) else { return };
        listener.state = Accepting::Emptying;
        let _ = rustix::io::ioctl_fionbio(&listener.socket, true);
        loop {
            if self.adopting.len() >= free {
                // A slot that is freed brings us back.
                return;
            }
            match rustix::net::acceptfrom_with(&self.listeners[index].socket, rustix::net::SocketFlags::CLOEXEC) {
                Ok((socket, address)) => {
                    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
                    self.adopt(socket, Adopting { listener: index, peer: address, handed: false });
                }
                Err(Errno::AGAIN) => break,
                Err(error) if concerns_one_connection(error.raw_os_error()) => {}
                Err(_) => return self.try_again(index, now.monotonic + BACKOFF_MIN),
            }
        }
        let listener = &mut self.listeners[index];
        listener.state = Accepting::Closed;
        let _ = rustix::net::shutdown(&listener.socket, rustix::net::Shutdown::Both);
    }

    // ---- from descriptors ----

    /// Puts an ordinary descriptor into a slot; there must be one.
    pub(super) fn adopt(&mut self, socket: OwnedFd, adopting: Adopting) {
        self.ring.adopt(socket, Token::numbered(Kind::Adopt, self.next_attempt));
        self.adopting.insert(self.next_attempt, adopting);
        self.next_attempt = self.next_attempt.wrapping_add(1);
    }

    /// A connection that was a descriptor has a slot now.
    pub(super) fn adopted(&mut self, completion: &Completion, shard: &mut Shard, now: Now) {
        let Some(Adopting { listener, peer, handed }) = self.adopting.remove(&completion.token.slot) else { return };
        match u32::try_from(completion.result) {
            Ok(slot) if handed => {
                let conn = self.claim_handed(slot, listener);
                self.named(conn, peer, shard, now);
            }
            Ok(slot) => self.fresh(slot, listener, peer, shard, now),
            Err(_) => {
                self.facts.lost_connections += 1;
                if handed {
                    self.peers.loads.remove_connection(self.peers.me);
                }
            }
        }
    }
}

/// An accept is named by its listener and its lane.
fn accept_token(index: usize, lane: u32) -> Token {
    Token::numbered(Kind::Accept, u32::try_from(index).unwrap_or(u32::MAX) * LANES + lane)
}

/// What [`accept_token`] was made of.
fn lane_of(token: Token) -> (usize, u32) {
    ((token.slot / LANES) as usize, token.slot % LANES)
}
