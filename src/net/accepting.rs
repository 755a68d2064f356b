//! Listener to open connection: accept into a slot, learn the peer's address, perhaps hand over, tell the shard.
//!
//! A worker never stops accepting while another has room: its listener goes on getting its share of connections, and nobody
//! would serve them. So it passes fresh ones on, and stops only when every table is full.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cells::{Flags, Stage};
use super::deadlines::Due;
use super::sockets::Sockets;
use crate::base::{ConnId, Now};
use crate::metrics::Label;
use crate::ring::{Completion, Kind, Token};
use crate::shard::{Input, ListenerId, Shard};

/// Free slots below which connections are accepted one at a time: an armed multishot accept may take a whole backlog in one
/// enter, and the kernel drops what finds no slot.
const MULTISHOT_ROOM_MIN: u32 = 4096;
/// Shares of the descriptor table, in percent: above the first fresh connections go elsewhere, above the second none is accepted.
const CROWDED_PERCENT: u64 = 95;
const FULL_PERCENT: u64 = 98;
/// Load above the mean, in percent and with some slack for small numbers, from which fresh connections go elsewhere.
const UNEVEN_PERCENT: u64 = 125;
const UNEVEN_SLACK: u64 = 64;
/// First and longest pause after the kernel refused to accept for want of something.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A listening socket of this worker.
pub struct Listener {
    pub socket: OwnedFd,
    pub id: ListenerId,
    /// An address of the family of its peers.
    pub like: IpAddr,
    pub state: Accepting,
    pub backoff: Duration,
}

/// What a listener is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepting {
    /// Not armed, and nobody has said why not.
    Idle,
    Armed {
        multishot: bool,
    },
    /// Being cancelled, to be closed or armed anew.
    Stopping,
    /// The kernel refused; waits for its deadline or for a connection to close.
    BackingOff,
    /// Every table is full; waits for a connection to close.
    Full,
    /// Closed for good.
    Closed,
}

impl Listener {
    pub fn new(socket: OwnedFd, id: ListenerId, like: IpAddr) -> Self {
        Self { socket, id, like, state: Accepting::Idle, backoff: BACKOFF_MIN }
    }

    /// Health and metrics are asked for until the end: only so can a balancer see that this server is not ready any more.
    fn stays_in_drain(&self) -> bool {
        self.id == ListenerId::Internal
    }
}

impl Sockets {
    /// Starts accepting.
    pub fn listen(&mut self) {
        for index in 0..self.listeners.len() {
            self.arm_accept(index);
        }
    }

    fn arm_accept(&mut self, index: usize) {
        let (full, multishot) = (self.is_full(), self.may_accept_multishot());
        let Some(listener) = self.listeners.get_mut(index) else { return };
        if matches!(listener.state, Accepting::Armed { .. } | Accepting::Stopping | Accepting::Closed) {
            return;
        }
        if full {
            listener.state = Accepting::Full;
            return;
        }
        listener.state = Accepting::Armed { multishot };
        let token = accept_token(index);
        if multishot {
            self.ring.accept_multishot(listener.socket.as_fd(), token);
        } else {
            self.ring.accept_once(listener.socket.as_fd(), token);
        }
    }

    fn may_accept_multishot(&self) -> bool {
        let features = self.ring.features();
        features.peer_name && features.files.saturating_sub(self.live) > MULTISHOT_ROOM_MIN
    }

    pub(super) fn accepted(&mut self, completion: &Completion, shard: &mut Shard, now: Now) {
        let index = completion.token.slot as usize;
        if let Ok(slot) = u32::try_from(completion.result) {
            if let Some(listener) = self.listeners.get_mut(index) {
                listener.backoff = BACKOFF_MIN;
            }
            self.fresh(slot, index, completion.address, shard, now);
        }
        if !completion.more {
            self.accept_ended(index, completion.result, now);
        }
    }

    /// A slot has been filled by the kernel.
    fn fresh(&mut self, slot: u32, listener: usize, address: Option<SocketAddr>, shard: &mut Shard, now: Now) {
        let conn = self.claim(slot, Stage::Fresh);
        self.facts.accepted += 1;
        self.count_load(self.peers.me, true);
        self.note_listener(conn, listener);
        match address {
            Some(address) => self.named(conn, Some(address), shard, now),
            None => self.ask_name(conn, listener),
        }
        self.limit_accepting();
    }

    fn note_listener(&mut self, conn: ConnId, listener: usize) {
        if let Some(cell) = self.cells.of(conn) {
            cell.listener = u8::try_from(listener).unwrap_or(u8::MAX);
        }
    }

    fn ask_name(&mut self, conn: ConnId, listener: usize) {
        let Some(listener) = self.listeners.get(listener) else { return };
        let like = listener.like;
        self.begin(conn, Flags::default());
        self.ring.peer_name(conn, like);
    }

    /// An accept is over, for the reason that its result gives.
    fn accept_ended(&mut self, index: usize, result: i32, now: Now) {
        let Some(listener) = self.listeners.get_mut(index) else { return };
        if listener.state == Accepting::Closed {
            return;
        }
        let was = std::mem::replace(&mut listener.state, Accepting::Idle);
        let stays = listener.stays_in_drain();
        if was == Accepting::Stopping && self.draining && !stays {
            self.close_listener(index);
        } else if result >= 0 || concerns_one_connection(-result) {
            self.arm_accept(index);
        } else {
            self.back_off(index, -result, now);
        }
    }

    /// Arming again at once would fail at once: waits for a while, or for a connection to close.
    fn back_off(&mut self, index: usize, errno: i32, now: Now) {
        let Some(listener) = self.listeners.get_mut(index) else { return };
        listener.state = Accepting::BackingOff;
        let pause = listener.backoff;
        listener.backoff = (pause * 2).min(BACKOFF_MAX);
        self.facts.accept_backoff.one(Label::Number(errno.unsigned_abs()));
        self.deadlines.set(now.monotonic + pause, Due::Accept(u32::try_from(index).unwrap_or(u32::MAX)));
        let error = std::io::Error::from_raw_os_error(errno);
        tracing::warn!(%error, "cannot accept for now");
    }

    pub(super) fn accept_again(&mut self, index: u32) {
        let index = index as usize;
        if self.listeners.get(index).is_some_and(|listener| listener.state == Accepting::BackingOff) {
            self.arm_accept(index);
        }
    }

    /// The peer's address is known, or cannot be: then the peer has already gone.
    pub(super) fn named(&mut self, conn: ConnId, address: Option<SocketAddr>, shard: &mut Shard, now: Now) {
        let Some(cell) = self.in_stage(conn, Stage::Fresh) else { return };
        let handed = cell.flags.has(Flags::HANDED);
        let Some(address) = address else { return self.tear_down(conn, now) };
        let target = if handed { None } else { self.roomier() };
        match target {
            Some(worker) => self.hand_to(conn, worker, address),
            None => self.open(conn, address, shard, now),
        }
    }

    fn open(&mut self, conn: ConnId, address: SocketAddr, shard: &mut Shard, now: Now) {
        let Some(cell) = self.cells.of(conn) else { return };
        cell.stage = Stage::Open;
        let Some(listener) = self.listeners.get(usize::from(cell.listener)) else { return };
        let (listener, peer) = (listener.id, SocketAddr::new(address.ip().to_canonical(), address.port()));
        shard.handle(Input::Accepted { conn, listener, peer }, now);
        self.arm_receive(conn);
        self.note_activity(conn, now);
    }

    // ---- handing over ----

    /// The worker that should have a fresh connection instead of this one.
    fn roomier(&self) -> Option<usize> {
        let loads = &self.peers.loads;
        if loads.len() < 2 || !self.ring.features().peer_name {
            return None;
        }
        let load = |worker: usize| u64::from(loads[worker].load(Ordering::Relaxed));
        let (mine, capacity) = (load(self.peers.me), u64::from(self.ring.features().files));
        let total: u64 = (0..loads.len()).map(load).sum();
        let uneven = mine * 100 * loads.len() as u64 > total * UNEVEN_PERCENT && mine > total / loads.len() as u64 + UNEVEN_SLACK;
        if mine * 100 < capacity * CROWDED_PERCENT && !uneven {
            return None;
        }
        let least = (0..loads.len()).min_by_key(|&worker| load(worker))?;
        (least != self.peers.me && load(least) < mine && load(least) * 100 < capacity * CROWDED_PERCENT).then_some(least)
    }

    fn hand_to(&mut self, conn: ConnId, worker: usize, address: SocketAddr) {
        let Some(cell) = self.cells.of(conn) else { return };
        cell.stage = Stage::HandingOver;
        let listener = u32::from(cell.listener);
        self.begin(conn, Flags::default());
        self.handing.insert(conn.slot, (worker, address));
        // Counted before it arrives, so that a burst does not all go to the same worker.
        self.count_load(worker, true);
        let rings = self.peers.rings.clone();
        self.ring.hand_over(conn, rings[worker].as_fd(), listener);
    }

    /// A hand-over from here is decided.
    pub(super) fn handed_away(&mut self, conn: ConnId, result: i32, shard: &mut Shard, now: Now) {
        let Some((worker, address)) = self.handing.remove(&conn.slot) else { return };
        if result < 0 {
            self.count_load(worker, false);
            return self.open(conn, address, shard, now);
        }
        self.facts.handed_over += 1;
        // The socket lives on in the other table: only the slot here is given up.
        if let Some(cell) = self.cells.of(conn) {
            cell.stage = Stage::Closing;
        }
    }

    /// A socket has come from another worker, which has counted it here already.
    pub(super) fn handed_over(&mut self, completion: &Completion) {
        let Ok(slot) = u32::try_from(completion.result) else { return };
        let listener = completion.token.slot as usize;
        let conn = self.claim(slot, Stage::Fresh);
        if let Some(cell) = self.cells.of(conn) {
            cell.flags.set(Flags::HANDED);
        }
        self.note_listener(conn, listener);
        self.ask_name(conn, listener);
    }

    // ---- full tables ----

    fn is_full(&self) -> bool {
        u64::from(self.live) * 100 >= u64::from(self.ring.features().files) * FULL_PERCENT
    }

    /// With little room left, a multishot accept is replaced by single ones.
    fn limit_accepting(&mut self) {
        if !self.may_accept_multishot() {
            self.stop_accepting(|state| state == Accepting::Armed { multishot: true });
        }
    }

    fn stop_accepting(&mut self, which: impl Fn(Accepting) -> bool) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if which(listener.state) {
                listener.state = Accepting::Stopping;
                self.ring.cancel_token(accept_token(index));
            }
        }
    }

    /// A slot has become free.
    pub(super) fn accept_if_room(&mut self) {
        if self.draining || self.is_full() {
            return;
        }
        for index in 0..self.listeners.len() {
            if matches!(self.listeners[index].state, Accepting::Full | Accepting::BackingOff) {
                self.arm_accept(index);
            }
        }
    }

    // ---- draining ----

    /// Stops listening, once everything that had already connected is accepted: a closed listener resets its queue.
    pub fn start_drain(&mut self) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            match listener.state {
                _ if listener.stays_in_drain() => {}
                Accepting::Armed { .. } => {
                    listener.state = Accepting::Stopping;
                    self.ring.cancel_token(accept_token(index));
                }
                Accepting::Stopping | Accepting::Closed => {}
                Accepting::Idle | Accepting::BackingOff | Accepting::Full => self.close_listener(index),
            }
        }
    }

    /// Whether a drain has closed every listener that it closes.
    pub fn has_stopped_listening(&self) -> bool {
        self.listeners.iter().all(|listener| listener.state == Accepting::Closed || listener.stays_in_drain())
    }

    /// Accepts what is left in the listener's queue, then closes it.
    fn close_listener(&mut self, index: usize) {
        let Some(listener) = self.listeners.get_mut(index) else { return };
        listener.state = Accepting::Closed;
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let _ = rustix::io::ioctl_fionbio(&listener.socket, true);
        while let Ok(socket) = rustix::net::accept_with(&listener.socket, flags) {
            self.ring.adopt(socket, Token::numbered(Kind::Adopt, adoption(index, self.next_attempt)));
            self.next_attempt = self.next_attempt.wrapping_add(1);
        }
        if let Some(listener) = self.listeners.get_mut(index) {
            let _ = rustix::net::shutdown(&listener.socket, rustix::net::Shutdown::Both);
        }
    }

    /// A connection accepted during a drain has a slot now.
    pub(super) fn adopted(&mut self, completion: &Completion) {
        let Ok(slot) = u32::try_from(completion.result) else { return };
        let listener = (completion.token.slot >> ADOPTION_BITS) as usize;
        let conn = self.claim(slot, Stage::Fresh);
        self.facts.accepted += 1;
        self.count_load(self.peers.me, true);
        if let Some(cell) = self.cells.of(conn) {
            cell.flags.set(Flags::HANDED);
        }
        self.note_listener(conn, listener);
        self.ask_name(conn, listener);
    }
}

/// Errors of accept that say nothing about the next one (accept(2): errors of the new connection are passed on), and our own
/// cancelling.
fn concerns_one_connection(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECANCELED
            | libc::ECONNABORTED
            | libc::EINTR
            | libc::EAGAIN
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
    )
}

fn accept_token(index: usize) -> Token {
    Token::numbered(Kind::Accept, u32::try_from(index).unwrap_or(u32::MAX))
}

/// Adoptions are told apart by number, beside their listener.
const ADOPTION_BITS: u32 = 24;

fn adoption(listener: usize, number: u32) -> u32 {
    u32::try_from(listener).unwrap_or(0) << ADOPTION_BITS | number & ((1 << ADOPTION_BITS) - 1)
}
