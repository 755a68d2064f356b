//! Fresh connections on their way to another worker: from table to table, or as descriptors where this table has no slot left.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use super::Sockets;
use super::accepting::{Accepting, Adopting, Listener};
use super::cells::{Flags, Stage};
use crate::base::{ConnId, Now, ShardId};
use crate::net::errno::concerns_one_connection;
use crate::net::shell::Handed;
use crate::ring::Completion;
use crate::shard::{ListenerId, Shard};

/// Connections passed on by mail in one go.
const PASSED_MAX: usize = 256;

/// Connections that go by mail. Each is booked where it goes.
#[derive(Default)]
pub struct Passing {
    ready: VecDeque<(ShardId, Handed)>,
    /// What found its mailbox full in this turn.
    back: Vec<(ShardId, Handed)>,
}

impl Passing {
    /// Whether the next turn has some to send.
    pub fn is_due(&self) -> bool {
        !self.ready.is_empty()
    }

    pub fn next(&mut self) -> Option<(ShardId, Handed)> {
        self.ready.pop_front()
    }

    /// The mailbox was full: tried again in the next turn.
    pub fn take_back(&mut self, to: ShardId, handed: Handed) {
        self.back.push((to, handed));
    }

    /// To be called at the end of each turn.
    pub fn end_turn(&mut self) {
        self.ready.extend(self.back.drain(..));
    }
}

impl Sockets {
    /// Takes a slot into use for a connection that its former worker has counted here.
    pub(super) fn claim_handed(&mut self, slot: u32, listener: usize) -> ConnId {
        let conn = self.claim(slot, Stage::Fresh);
        if let Some(cell) = self.cells.of(conn) {
            cell.flags.set(Flags::HANDED);
        }
        self.note_listener(conn, listener);
        self.limit_accepting();
        conn
    }

    // ---- from table to table ----

    /// The worker that should have a fresh connection instead of this one.
    pub(super) fn roomier(&self) -> Option<usize> {
        if self.draining || !self.ring.features().peer_name {
            return None;
        }
        self.peers.loads.roomier(self.peers.me)
    }

    pub(super) fn hand_to(&mut self, conn: ConnId, worker: usize, address: SocketAddr) {
        let Some(cell) = self.cells.of(conn) else { return };
        cell.stage = Stage::HandingOver;
        let listener = u32::from(cell.listener);
        self.begin(conn, Flags::default());
        self.handing.insert(conn.slot, (worker, address));
        let rings = self.peers.rings.clone();
        self.ring.hand_over(conn, rings[worker].as_fd(), listener);
    }

    /// A hand-over from here is decided.
    pub(super) fn handed_away(&mut self, conn: ConnId, result: i32, shard: &mut Shard, now: Now) {
        let Some((worker, address)) = self.handing.remove(&conn.slot) else { return };
        if result < 0 {
            self.peers.loads.remove_connection(worker);
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
        let conn = self.claim_handed(slot, listener);
        self.ask_name(conn);
    }

    // ---- by mail ----

    /// Accepts for others while this table is full: who comes to this listener would wait for a slot here, before others with room.
    pub(super) fn pass_on(&mut self, index: usize, now: Now) {
        let Some(Listener { socket, state: Accepting::Full, .. }) = self.listeners.get(index) else { return };
        // No accept is armed on a full listener; one on the ring would not wait on a socket that does not block.
        let _ = rustix::io::ioctl_fionbio(socket, true);
        for _ in 0..PASSED_MAX {
            let Some(worker) = self.roomier().filter(|&worker| self.peers.loads.book_hand_over(worker)) else { break };
            match acceptfrom_with(&self.listeners[index].socket, SocketFlags::CLOEXEC) {
                Ok((socket, peer)) => self.pass(index, worker, socket, peer.and_then(|peer| SocketAddr::try_from(peer).ok())),
                Err(error) => {
                    self.peers.loads.remove_connection(worker);
                    match error {
                        Errno::AGAIN => break,
                        error if concerns_one_connection(error.raw_os_error()) => {}
                        error => {
                            self.back_off(index, error.raw_os_error(), now);
                            break;
                        }
                    }
                }
            }
        }
        let _ = rustix::io::ioctl_fionbio(&self.listeners[index].socket, false);
    }

    /// Puts a connection on its way to a worker where it is booked.
    fn pass(&mut self, index: usize, worker: usize, socket: OwnedFd, peer: Option<SocketAddr>) {
        self.facts.accepted += 1;
        let Some(peer) = peer else { return self.peers.loads.remove_connection(worker) };
        self.facts.handed_over += 1;
        let to = ShardId(u16::try_from(worker).unwrap_or(u16::MAX));
        self.passing.ready.push_back((to, Handed { socket, listener: self.listeners[index].id, peer }));
    }

    /// A connection has come as a descriptor; a slot is booked for it.
    pub(super) fn adopt_handed(&mut self, Handed { socket, listener, peer }: Handed) {
        let listener = self.place_of(listener);
        self.adopt(socket, Adopting { listener, peer: Some(peer), handed: true });
    }

    fn place_of(&self, listener: ListenerId) -> usize {
        self.listeners.iter().position(|known| known.id == listener).unwrap_or(0)
    }
}
