//! Listener to open connection. A slot is booked before each accept, here or at a worker with more room, and none is accepted
//! without: who finds all tables full waits in the listener's queue.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use super::table::{Flags, Stage};
use super::{Sockets, Todo};
use crate::base::{Nanos, Now, ShardId};
use crate::net::deadlines::Due;
use crate::net::errno::concerns_one_connection;
use crate::net::listen::stays_in_drain;
use crate::net::loads::is_full;
use crate::net::retry::{FULL_RETRY, Retry};
use crate::net::shell::Handed;
use crate::shard::{Input, ListenerId, Shard};

/// Connections accepted per listener and turn.
const ACCEPTS_MAX: usize = 32;

/// A listening socket of this worker.
pub struct Listener {
    /// `None`: closed for good.
    socket: Option<OwnedFd>,
    id: ListenerId,
    state: Accepting,
    /// Among what is to be done.
    queued: bool,
    retry: Retry,
}

/// What a listener is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Accepting {
    /// Accepts whoever comes.
    Open,
    /// Every table is full, or the kernel refused; waits for its deadline or for a connection to close.
    Waiting,
}

impl Listener {
    pub fn new(socket: OwnedFd, id: ListenerId) -> Self {
        Self { socket: Some(socket), id, state: Accepting::Open, queued: false, retry: Retry::default() }
    }

    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    fn stays_in_drain(&self) -> bool {
        stays_in_drain(self.id)
    }

    /// Whether a drain has nothing left to do with it.
    pub fn is_drained(&self) -> bool {
        self.socket.is_none() || self.stays_in_drain()
    }
}

/// Where the next connection goes.
enum Goal {
    Here,
    To(usize),
}

impl Sockets {
    /// Somebody has come to a listener.
    pub(super) fn knocked(&mut self, index: usize, shard: &mut Shard, now: Now) {
        if self.listeners.get(index).is_some_and(|listener| listener.state == Accepting::Open && !listener.queued) {
            self.accept(index, shard, now);
        }
    }

    /// It is a listener's turn again.
    pub(super) fn accept_again(&mut self, index: usize, shard: &mut Shard, now: Now) {
        if let Some(listener) = self.listeners.get_mut(index) {
            (listener.queued, listener.state) = (false, Accepting::Open);
            self.accept(index, shard, now);
        }
    }

    /// Time to try again, unless that has been done already.
    pub(super) fn accept_due(&mut self, index: usize, now: Now) {
        let Some(listener) = self.listeners.get_mut(index) else { return };
        if listener.retry.is_due(now.monotonic) && listener.state == Accepting::Waiting {
            self.accept_later(index);
        }
    }

    /// Lets a listener have its turn.
    pub(super) fn accept_later(&mut self, index: usize) {
        let Some(listener) = self.listeners.get_mut(index) else { return };
        if listener.socket.is_some() && !std::mem::replace(&mut listener.queued, true) {
            self.later.push(Todo::Accept(index));
        }
    }

    fn accept(&mut self, index: usize, shard: &mut Shard, now: Now) {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = self.listeners.get(index) else { return };
            let Some(socket) = listener.socket() else { return };
            let Some(goal) = self.book() else { return self.wait_for_room(index, now) };
            match acceptfrom_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((socket, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    self.accepted(index, goal, socket, peer, shard, now);
                }
                Err(error) => {
                    self.unbook(&goal);
                    match error {
                        Errno::AGAIN => return self.emptied(index),
                        error if concerns_one_connection(error.raw_os_error()) => {}
                        error => return self.back_off(index, error, now),
                    }
                }
            }
        }
        self.accept_later(index);
    }

    /// Books a slot for whoever comes next. `None` while there is none anywhere.
    fn book(&self) -> Option<Goal> {
        let loads = &self.place.loads;
        let me = self.place.me;
        let roomier = if self.draining { None } else { loads.roomier(me) };
        match roomier {
            Some(worker) if loads.book_hand_over(worker) => return Some(Goal::To(worker)),
            None if !self.draining && is_full(loads.connections(me), self.place.connections) => return None,
            Some(_) | None => {}
        }
        loads.book_connection(me).then_some(Goal::Here)
    }

    fn unbook(&self, goal: &Goal) {
        match goal {
            Goal::Here => self.place.loads.remove_connection(self.place.me),
            Goal::To(worker) => self.place.loads.remove_connection(*worker),
        }
    }

    fn accepted(&mut self, index: usize, goal: Goal, socket: OwnedFd, peer: Option<SocketAddr>, shard: &mut Shard, now: Now) {
        self.facts.accepted += 1;
        let listener = &mut self.listeners[index];
        listener.retry.accepted();
        let id = listener.id;
        let Some(peer) = peer else { return self.unbook(&goal) };
        let handed = Handed { socket, listener: id, peer };
        match goal {
            Goal::Here => self.open(handed, shard, now),
            Goal::To(worker) => {
                self.facts.handed_over += 1;
                self.handing.push_back((ShardId(u16::try_from(worker).unwrap_or(u16::MAX)), handed));
            }
        }
    }

    /// A connection that is counted here already becomes the shard's.
    pub(super) fn open(&mut self, handed: Handed, shard: &mut Shard, now: Now) {
        let Handed { socket, listener, peer } = handed;
        let conn = self.table.claim(socket, Stage::Open);
        if let Err(error) = self.register(conn) {
            tracing::warn!(%error, "a connection cannot be watched, and is closed");
            return self.release(conn);
        }
        if let Some(cell) = self.table.of(conn) {
            cell.flags.set(Flags::NEW);
        }
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        shard.handle(Input::Accepted { conn, listener, peer }, now);
    }

    /// Nobody waits at the listener any more.
    fn emptied(&mut self, index: usize) {
        let Some(listener) = self.listeners.get_mut(index) else { return };
        if self.draining && !listener.stays_in_drain() {
            listener.socket = None;
        }
    }

    /// Others do not tell when they have room, so this one looks again.
    fn wait_for_room(&mut self, index: usize, now: Now) {
        self.try_again(index, now.monotonic + FULL_RETRY);
    }

    fn try_again(&mut self, index: usize, at: Nanos) {
        let listener = &mut self.listeners[index];
        listener.state = Accepting::Waiting;
        if listener.retry.sets(at) {
            self.deadlines.set(at, Due::Accept(u32::try_from(index).unwrap_or(u32::MAX)));
        }
    }

    /// Accepting again at once would fail at once.
    fn back_off(&mut self, index: usize, error: Errno, now: Now) {
        let pause = self.listeners[index].retry.refused(error.raw_os_error(), &mut self.facts);
        self.try_again(index, now.monotonic + pause);
    }

    /// A slot has become free.
    pub(super) fn accept_if_room(&mut self) {
        for index in 0..self.listeners.len() {
            if self.listeners[index].state == Accepting::Waiting {
                self.accept_later(index);
            }
        }
    }

    /// Accepts what is left in the queues of the listeners that a drain closes, then closes them.
    pub(super) fn empty_listeners(&mut self) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        for index in 0..self.listeners.len() {
            if !self.listeners[index].stays_in_drain() {
                self.accept_later(index);
            }
        }
    }
}
