//! The sockets of a world: whoever a worker is connected to, by either side's wish.

use std::net::SocketAddr;

use super::World;
use crate::base::{ConnId, Frames, ShardId};
use crate::shard::{ConnectCause, GoneCause, Input, ListenerId};

/// Bytes of one receive, as the ring's buffers have it.
const RECEIVE_BYTES: usize = 2048;

/// The other end of a connection.
pub struct Peer {
    worker: ShardId,
    unread: Vec<u8>,
    /// Bytes that its socket still takes.
    room: usize,
    /// It has taken less than it was sent, and the shard is not told yet that there is room again.
    blocked: bool,
    paused: bool,
    /// Times that reading was stopped.
    pauses: usize,
    pub(super) closed: bool,
}

impl Peer {
    pub(super) fn pause(&mut self, paused: bool) {
        assert_ne!(self.paused, paused, "said twice");
        self.paused = paused;
        self.pauses += usize::from(paused);
    }
}

/// A send that was not taken whole, of which the shard is told in the next turn.
pub struct Refusal {
    conn: ConnId,
    frames: Frames,
    skip: u32,
    taken: u32,
}

/// A connection to an upstream that a worker has asked for.
pub struct Connect {
    pub worker: ShardId,
    pub token: u32,
    pub address: SocketAddr,
}

impl World {
    // ---- who is connected ----

    /// A client connects.
    pub fn connect(&mut self) -> ConnId {
        self.connect_by(ListenerId::Public)
    }

    pub fn connect_by(&mut self, listener: ListenerId) -> ConnId {
        self.accept(ShardId(0), listener)
    }

    pub fn connect_on(&mut self, worker: u16) -> ConnId {
        self.accept(ShardId(worker), ListenerId::Public)
    }

    fn accept(&mut self, worker: ShardId, listener: ListenerId) -> ConnId {
        let (conn, peer) = (self.seat(worker), SocketAddr::from(([192, 0, 2, 1], 4000)));
        self.tell(worker, Input::Accepted { conn, listener, peer });
        self.settle();
        conn
    }

    /// The oldest connection that was asked for is made.
    pub fn connected(&mut self) -> ConnId {
        let Connect { worker, token, .. } = self.connects.remove(0);
        let conn = self.seat(worker);
        self.tell(worker, Input::Connected { conn, token });
        self.settle();
        conn
    }

    /// The oldest connection that was asked for cannot be made.
    pub fn connect_fails(&mut self, cause: ConnectCause) {
        let Connect { worker, token, .. } = self.connects.remove(0);
        self.tell(worker, Input::ConnectFailed { token, cause });
        self.settle();
    }

    fn seat(&mut self, worker: ShardId) -> ConnId {
        let conn = ConnId { slot: u32::try_from(self.peers.len()).expect("few"), generation: 1 };
        let (unread, room) = (Vec::new(), usize::MAX);
        self.peers.push(Peer { worker, unread, room, blocked: false, paused: false, pauses: 0, closed: false });
        conn
    }

    fn peer(&mut self, conn: ConnId) -> &mut Peer {
        &mut self.peers[conn.slot as usize]
    }

    /// A peer that something happens to: what is closed is not spoken of any more, by either side.
    pub(super) fn open_peer(&mut self, conn: ConnId) -> &mut Peer {
        let peer = self.peer(conn);
        assert!(!peer.closed, "{conn:?} was closed before");
        peer
    }

    pub fn is_closed(&self, conn: ConnId) -> bool {
        self.peers[conn.slot as usize].closed
    }

    /// The peer's socket is reset.
    pub fn reset(&mut self, conn: ConnId) {
        self.tell_of(conn, Input::Gone { conn, cause: GoneCause::Reset });
        self.peer(conn).closed = true;
        self.settle();
    }

    // ---- what peers send ----

    /// The peer sends bytes, all of which are read unless the connection is closed over them.
    #[track_caller]
    pub fn send(&mut self, conn: ConnId, bytes: impl AsRef<[u8]>) {
        let read = self.offer(conn, bytes.as_ref());
        assert!(read == bytes.as_ref().len() || self.is_closed(conn), "only {read} bytes were read");
    }

    /// The peer sends as long as it is read. Returns how many bytes were; it keeps the rest.
    pub fn offer(&mut self, conn: ConnId, bytes: impl AsRef<[u8]>) -> usize {
        self.open_peer(conn);
        let mut read = 0;
        for piece in bytes.as_ref().chunks(RECEIVE_BYTES) {
            if self.is_paused(conn) {
                self.settle();
            }
            if self.is_paused(conn) || self.is_closed(conn) {
                break;
            }
            read += piece.len();
            self.receive(conn, piece);
            self.turn();
        }
        self.settle();
        read
    }

    /// Bytes arrive, wanted or not: they were on their way. No turn follows yet.
    pub fn receive(&mut self, conn: ConnId, bytes: impl AsRef<[u8]>) {
        self.tell_of(conn, Input::Bytes { conn, bytes: &mut bytes.as_ref().to_vec() });
    }

    /// The peer will send nothing more.
    pub fn finish_sending(&mut self, conn: ConnId) {
        self.tell_of(conn, Input::Eof { conn });
        self.settle();
    }

    pub fn is_paused(&self, conn: ConnId) -> bool {
        self.peers[conn.slot as usize].paused
    }

    /// Times that reading was stopped.
    pub fn pauses(&self, conn: ConnId) -> usize {
        self.peers[conn.slot as usize].pauses
    }

    fn tell_of(&mut self, conn: ConnId, input: Input<'_>) {
        self.hand_in_refusals();
        let worker = self.open_peer(conn).worker;
        self.tell(worker, input);
    }

    // ---- what peers take ----

    /// The peer's socket takes nothing from now on.
    pub fn stall(&mut self, conn: ConnId) {
        self.peer(conn).room = 0;
    }

    /// It takes everything again.
    pub fn unstall(&mut self, conn: ConnId) {
        self.give_room(conn, usize::MAX);
    }

    /// It takes so many bytes, and then nothing. A peer that was behind is reported to have room, be it for 0 bytes.
    pub fn give_room(&mut self, conn: ConnId, room: usize) {
        let peer = self.peer(conn);
        peer.room = room;
        if std::mem::take(&mut peer.blocked) && !peer.closed {
            self.tell_of(conn, Input::Writable { conn });
        }
        self.settle();
    }

    pub(super) fn take(&mut self, conn: ConnId, frames: Frames, skip: u32) {
        let peer = self.open_peer(conn);
        assert!(!peer.blocked, "a send out of turn");
        let bytes: Vec<u8> = frames.as_slice().iter().flat_map(|frame| frame.blob.iter().copied()).skip(skip as usize).collect();
        let taken = bytes.len().min(peer.room);
        peer.room -= taken;
        peer.unread.extend_from_slice(&bytes[..taken]);
        if taken < bytes.len() {
            peer.blocked = true;
            self.refusals.push(Refusal { conn, frames, skip, taken: u32::try_from(taken).expect("fits") });
        }
    }

    pub(super) fn hand_in_refusals(&mut self) {
        for Refusal { conn, frames, skip, taken } in std::mem::take(&mut self.refusals) {
            self.tell(self.peers[conn.slot as usize].worker, Input::Taken { conn, frames, skip, taken });
        }
    }

    /// Everything that has come and not been read, which is text.
    #[track_caller]
    pub fn read(&mut self, conn: ConnId) -> String {
        String::from_utf8(self.read_bytes(conn)).expect("text")
    }

    pub fn read_bytes(&mut self, conn: ConnId) -> Vec<u8> {
        std::mem::take(self.unread(conn))
    }

    /// What has come and not been read, to read it.
    pub(super) fn unread(&mut self, conn: ConnId) -> &mut Vec<u8> {
        &mut self.peer(conn).unread
    }
}
