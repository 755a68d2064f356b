//! The dense array of a worker's connections: what each is doing, what it waits to send, when it is read and when it ends.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::backlog::{Backlog, Due, Waits};
use super::io::{CloseHow, ListenerId, Output};
use super::queue::{SendQueue, WriteGap};
use super::stage::Stage;
use super::stall::Stalls;
use crate::base::{Blob, ConnId, Extent, Frame, FrameTag, Frames, Mutant, Nanos, Slots, mutated};
use crate::hub::home::PAGE_BYTES_MAX;
use crate::hub::local::NO_SUBSCRIPTION;
use crate::metrics::{ConnectionKind, Sizes};

/// Bytes of replies, pings and closes that may wait on one connection. What a peer asks for stops short of this, since it is not
/// read while it is behind; what comes to more by itself is for a peer that reads nothing.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// One connection.
#[derive(Debug)]
pub struct Cell {
    generation: u32,
    waits: Waits,
    /// First of the connection's subscriptions, or [`NO_SUBSCRIPTION`].
    pub subscriptions: u32,
    /// Wheel tick at which bytes last arrived.
    pub heard: u32,
    /// When it was accepted, in microseconds that wrap; 0 once its first request has been answered.
    pub opened_us: u32,
    peer: Peer,
    pub listener: ListenerId,
    paused: Pause,
    pub stage: Stage,
}

impl Default for Cell {
    fn default() -> Self {
        Self {
            generation: 0,
            waits: Waits::NOTHING,
            subscriptions: NO_SUBSCRIPTION,
            heard: 0,
            opened_us: 0,
            peer: Peer::default(),
            listener: ListenerId::Public,
            paused: Pause::default(),
            stage: Stage::Vacant,
        }
    }
}

/// A peer's address in 18 bytes; IPv4 as its IPv6-mapped form.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    address: [u8; 16],
    port: [u8; 2],
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { address: ip.octets(), port: address.port().to_be_bytes() }
    }
}

impl Cell {
    /// Whether the connection in it is this one.
    fn is(&self, conn: ConnId) -> bool {
        self.generation == conn.generation && !matches!(self.stage, Stage::Vacant)
    }

    /// The other end's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::from(self.peer.address).to_canonical(), u16::from_be_bytes(self.peer.port))
    }
}

/// Why a connection is not read. It is read when nothing speaks against it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pause(u8);

impl Pause {
    /// Bytes of it are held. By itself no reason: a few more may come.
    pub const HELD: Self = Self(1);
    /// Enough bytes of it are held.
    pub const FULL: Self = Self(1 << 1);
    /// It does not take its answers as fast as it asks for them.
    pub const BEHIND: Self = Self(1 << 2);
    /// The other side of its exchange does not take its bytes as fast as they come.
    pub const COUNTERPART: Self = Self(1 << 3);
    /// What it publishes is not taken as fast as it comes. By itself no reason: it may be in a moment, and pongs are welcome.
    pub const PUBLISHING: Self = Self(1 << 4);
    /// Whatever keeps its next request from being acted on.
    pub const REQUESTS: Self = Self(Self::BEHIND.0 | Self::PUBLISHING.0);

    const fn stops_reading(self) -> bool {
        self.0 & !(Self::HELD.0 | Self::PUBLISHING.0) != 0
    }
}

/// Whether a frame was queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queued {
    Yes,
    /// The queue is full; the frame was not queued.
    Full,
}

/// All connections of a worker.
#[derive(Debug, Default)]
pub struct Connections {
    cells: Slots<Cell>,
    backlog: Backlog,
    stalls: Stalls,
    /// Connections to close when their last frame has been taken.
    ending: Vec<ConnId>,
    outputs: VecDeque<Output>,
    kinds: [u64; ConnectionKind::ALL.len()],
    /// Bytes that the kernel took, by transport.
    pub sent_bytes: [u64; 5],
    pub publications_per_send: Sizes,
}

impl Connections {
    /// Takes a fresh connection in.
    pub fn open(&mut self, conn: ConnId, listener: ListenerId, peer: SocketAddr, stage: Stage) {
        let cell = self.cells.entry(conn.slot);
        debug_assert!(matches!(cell.stage, Stage::Vacant), "the shell reuses a slot only after the shard let go of it");
        *cell = Cell { generation: conn.generation, listener, peer: peer.into(), ..Cell::default() };
        self.replace_stage(conn.slot, stage);
    }

    /// The connection, unless it is gone.
    #[must_use]
    pub fn get(&self, conn: ConnId) -> Option<&Cell> {
        self.cells.get(conn.slot).filter(|cell| cell.is(conn))
    }

    #[must_use]
    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut Cell> {
        self.cells.get_mut(conn.slot).filter(|cell| cell.is(conn))
    }

    /// The connection now in a slot.
    #[must_use]
    pub fn at(&self, slot: u32) -> Option<ConnId> {
        let cell = self.cells.get(slot)?;
        (!matches!(cell.stage, Stage::Vacant)).then_some(ConnId { slot, generation: cell.generation })
    }

    /// Slots there have ever been.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.cells.len()
    }

    /// Connections of clients open now; those to upstreams do not count.
    #[must_use]
    pub fn clients(&self) -> u64 {
        self.kinds.iter().sum()
    }

    /// Bytes waiting on all connections.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.backlog.bytes()
    }

    /// Connections by kind.
    #[must_use]
    pub const fn kinds(&self) -> [u64; ConnectionKind::ALL.len()] {
        self.kinds
    }

    /// Takes the stage out to work on it; the connection counts as being between requests until it is put back.
    pub fn take_stage(&mut self, conn: ConnId) -> Option<Stage> {
        self.get(conn)?;
        self.replace_stage(conn.slot, Stage::Head(None))
    }

    /// Puts a stage (back) unless the connection has ended meanwhile.
    pub fn set_stage(&mut self, conn: ConnId, stage: Stage) {
        if self.get(conn).is_some_and(|cell| !matches!(cell.stage, Stage::Closing)) {
            self.replace_stage(conn.slot, stage);
        }
    }

    fn replace_stage(&mut self, slot: u32, stage: Stage) -> Option<Stage> {
        let cell = self.cells.get_mut(slot)?;
        if let Some(kind) = stage.connection_kind() {
            self.kinds[kind as usize] += 1;
        }
        let before = std::mem::replace(&mut cell.stage, stage);
        if let Some(kind) = before.connection_kind() {
            self.kinds[kind as usize] -= 1;
        }
        Some(before)
    }

    /// Queues a reply, which no policy may drop: all of its parts, some of which may be shared, or nothing. `Full` means that the
    /// peer reads nothing and keeps asking: close it.
    pub fn reply<const PARTS: usize>(&mut self, conn: ConnId, parts: [Blob; PARTS]) -> Queued {
        if self.get(conn).is_none() {
            return Queued::Yes;
        }
        let waiting = self.reply_bytes(conn.slot);
        if waiting > 0 && waiting + parts.iter().map(|part| part.len()).sum::<usize>() > REPLY_BYTES_MAX {
            return Queued::Full;
        }
        for part in parts {
            self.deliver(conn.slot, Frame::reply(part));
        }
        Queued::Yes
    }

    /// Queues a publication's frame, or hands it back where it does not fit. While the socket takes bytes any does, since frames only
    /// gather until the flush; a blocked one has a bound.
    ///
    /// # Errors
    /// The frame, for which room has to be made.
    pub fn offer(&mut self, slot: u32, frame: Frame, bytes_max: usize) -> Result<(), Frame> {
        let Some((backlog, conn, waits)) = self.backlog_of(slot) else { return Ok(()) };
        let queue = backlog.queue(*waits).filter(|queue| queue.blocked);
        if queue.is_some_and(|queue| !queue.admits(frame.blob.len(), bytes_max)) {
            return Err(frame);
        }
        backlog.push(conn, waits, frame);
        Ok(())
    }

    /// Queues a frame whatever waits already.
    pub fn deliver(&mut self, slot: u32, frame: Frame) {
        let Some((backlog, conn, waits)) = self.backlog_of(slot) else { return };
        backlog.push(conn, waits, frame);
    }

    /// Queues a page of replay. The caller has looked at [`Connections::has_room_for_page`].
    pub fn deliver_page(&mut self, conn: ConnId, bytes: impl Into<Blob>) {
        if self.get(conn).is_some() {
            self.deliver(conn.slot, Frame { blob: bytes.into(), tag: FrameTag::Page });
        }
    }

    /// Queues where a connection with several channels is by now.
    pub fn deliver_position(&mut self, conn: ConnId, bytes: impl Into<Blob>) {
        if self.get(conn).is_some() {
            self.change(conn.slot, |queue| queue.put_position(bytes.into()));
        }
    }

    /// Queues a gap behind all that waits for a subscription.
    pub fn lose(&mut self, slot: u32, subscription: u32, extent: Extent, gap: WriteGap<'_>) {
        self.change(slot, |queue| queue.lose(subscription, extent, gap));
    }

    /// Whether a page of replay is read by somebody: nothing was refused, and no more than one page's worth waits.
    #[must_use]
    pub fn has_room_for_page(&self, slot: u32, bytes: usize) -> bool {
        let waiting = self.backlog.page_bytes(self.waits(slot));
        !self.blocked(slot) && (waiting == 0 || waiting + bytes <= PAGE_BYTES_MAX)
    }

    /// Whether the kernel has refused bytes of the connection and not taken more since.
    #[must_use]
    pub fn blocked(&self, slot: u32) -> bool {
        self.backlog.queue(self.waits(slot)).is_some_and(|queue| queue.blocked)
    }

    /// Bytes of replies that wait on a connection.
    #[must_use]
    pub fn reply_bytes(&self, slot: u32) -> usize {
        self.backlog.reply_bytes(self.waits(slot))
    }

    /// Stops reading from a connection, if it was still read.
    pub fn pause(&mut self, conn: ConnId, why: Pause) {
        self.set_paused(conn, |paused| Pause(paused.0 | why.0));
    }

    /// A reason not to read has gone.
    pub fn resume(&mut self, conn: ConnId, why: Pause) {
        self.set_paused(conn, |paused| Pause(paused.0 & !why.0));
    }

    #[must_use]
    pub fn is_paused_by(&self, conn: ConnId, why: Pause) -> bool {
        self.get(conn).is_some_and(|cell| cell.paused.0 & why.0 != 0)
    }

    fn set_paused(&mut self, conn: ConnId, change: impl FnOnce(Pause) -> Pause) {
        let Some(cell) = self.get_mut(conn) else { return };
        let before = cell.paused;
        cell.paused = change(before);
        let paused = cell.paused.stops_reading();
        if before.stops_reading() != paused {
            self.outputs.push_back(Output::PauseReading { conn, paused });
        }
    }

    fn waits(&self, slot: u32) -> Waits {
        self.cells.get(slot).map_or(Waits::NOTHING, |cell| cell.waits)
    }

    /// What all wait for, and where in it the connection in a slot is.
    fn backlog_of(&mut self, slot: u32) -> Option<(&mut Backlog, ConnId, &mut Waits)> {
        let cell = self.cells.get_mut(slot)?;
        debug_assert!(!matches!(cell.stage, Stage::Vacant), "nothing is queued for nobody");
        Some((&mut self.backlog, ConnId { slot, generation: cell.generation }, &mut cell.waits))
    }

    /// Changes a connection's queue, made where there is none, and lists it for the next flush where it is not blocked.
    fn change<R>(&mut self, slot: u32, change: impl FnOnce(&mut SendQueue) -> R) -> Option<R> {
        let (backlog, conn, waits) = self.backlog_of(slot)?;
        backlog.change(conn, waits, change)
    }

    /// Changes what waits on a connection, if anything does.
    pub fn change_queue<R>(&mut self, slot: u32, change: impl FnOnce(&mut SendQueue) -> R) -> Option<R> {
        if self.is_flushed(slot) { None } else { self.change(slot, change) }
    }

    /// The kernel took only part of the last send.
    pub fn taken(&mut self, conn: ConnId, frames: Frames, skip: u32, taken: u32, now: Nanos) {
        if self.get(conn).is_none() {
            return;
        }
        self.stalls.refused(conn, taken > 0, now);
        let sent = frames.bytes() - skip as usize;
        if let Some(cell) = self.cells.get(conn.slot) {
            let total = &mut self.sent_bytes[cell.stage.kind().index()];
            *total = total.saturating_sub((sent - taken as usize) as u64);
        }
        self.change(conn.slot, |queue| {
            if !mutated(Mutant::RefusalIgnored) {
                queue.put_back(frames, skip, taken);
            }
            (queue.blocked, queue.behind) = (true, true);
        });
    }

    /// There is room again: what waits goes out with the next flush.
    pub fn writable(&mut self, conn: ConnId) {
        if self.get(conn).is_none() {
            return;
        }
        self.change_queue(conn.slot, |queue| queue.blocked = false);
    }

    /// Connections that have taken nothing of what waits for them for so long.
    pub fn stalled(&mut self, limit: Duration, now: Nanos) -> Vec<ConnId> {
        let mut stalls = std::mem::take(&mut self.stalls);
        let overdue = stalls.overdue(limit, now, |conn| self.get(conn).is_some() && !self.is_flushed(conn.slot));
        self.stalls = stalls;
        overdue
    }

    /// Asks the shell to close the connection now; what waits is lost.
    pub fn abort(&mut self, conn: ConnId) {
        self.close(conn, CloseHow::Abort);
    }

    /// Closes the connection when everything queued for it has been taken by the kernel.
    pub fn end(&mut self, conn: ConnId) {
        if self.get(conn).is_some_and(|cell| !matches!(cell.stage, Stage::Closing)) {
            self.replace_stage(conn.slot, Stage::Closing);
            self.ending.push(conn);
        }
    }

    /// Whether a connection can be closed at the next flush.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ending.iter().any(|conn| self.is_flushed(conn.slot))
    }

    fn close(&mut self, conn: ConnId, how: CloseHow) {
        if self.get(conn).is_some() {
            self.outputs.push_back(Output::Close { conn, how });
            self.vacate(conn);
        }
    }

    /// Forgets a connection that the shell is closing by itself.
    pub fn vacate(&mut self, conn: ConnId) {
        if self.get(conn).is_none() {
            return;
        }
        if let Some((backlog, _, waits)) = self.backlog_of(conn.slot) {
            backlog.release(waits);
        }
        self.replace_stage(conn.slot, Stage::Vacant);
    }

    /// Whether nothing waits and nothing was refused: a close now would lose nothing.
    #[must_use]
    pub fn is_flushed(&self, slot: u32) -> bool {
        self.waits(slot) == Waits::NOTHING
    }

    pub fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// One send for every connection with something to send and no refusal pending. Returns the number of sends.
    pub fn flush(&mut self, now: Nanos) -> usize {
        self.close_ended();
        let mut sends = 0;
        let mut list = self.backlog.take_due();
        for due in list.drain(..) {
            sends += usize::from(self.flush_one(due, now));
        }
        self.backlog.give_back(list);
        sends
    }

    /// Whether somebody has refused bytes and was not found to have taken them since.
    #[must_use]
    pub fn has_stalled(&self) -> bool {
        !self.stalls.is_empty()
    }

    /// Whether a flush would send something.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.backlog.has_due()
    }

    /// A connection without a queue before this flush had its last frame taken: a refusal would have come back by now.
    fn close_ended(&mut self) {
        let mut ending = std::mem::take(&mut self.ending);
        ending.retain(|&conn| {
            let flushed = self.is_flushed(conn.slot);
            if flushed {
                self.close(conn, CloseHow::Linger);
            }
            !flushed && self.get(conn).is_some()
        });
        self.ending = ending;
    }

    fn flush_one(&mut self, due: Due, now: Nanos) -> bool {
        let conn = due.conn;
        // Gone since it was listed, and its slot perhaps another's.
        let Some(cell) = self.cells.get_mut(conn.slot).filter(|cell| cell.is(conn)) else { return false };
        let Some((frames, skip)) = self.backlog.take(due, &mut cell.waits) else { return false };
        self.sent_bytes[cell.stage.kind().index()] += (frames.bytes() - skip as usize) as u64;
        self.publications_per_send.record(frames.as_slice().iter().map(|frame| frame.tag.publications()).sum());
        self.stalls.sent(conn, now);
        self.outputs.push_back(Output::Send { conn, frames, skip });
        true
    }
}

const _: () = assert!(size_of::<Cell>() <= 72, "an idle connection is a small cell");

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: ConnId = ConnId { slot: 0, generation: 1 };

    const NOW: Nanos = Nanos(0);

    fn connections() -> Connections {
        let mut connections = Connections::default();
        connections.open(CONN, ListenerId::Public, "127.0.0.1:9".parse().unwrap(), Stage::Head(None));
        connections
    }

    fn sent(connections: &mut Connections) -> Option<(Vec<u8>, Frames)> {
        match connections.poll_output()? {
            Output::Send { frames, skip, .. } => {
                Some((frames.as_slice().iter().flat_map(|frame| frame.blob.to_vec()).skip(skip as usize).collect(), frames))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_queued_between_a_send_and_its_refusal_leaves_when_there_is_room() {
        let mut connections = connections();
        connections.reply(CONN, [b"first ".as_slice().into()]);
        connections.flush(NOW);
        let (_, frames) = sent(&mut connections).unwrap();
        connections.reply(CONN, [b"second".as_slice().into()]);
        connections.taken(CONN, frames, 0, 0, NOW);
        assert_eq!(connections.flush(NOW), 0, "it is blocked");
        connections.writable(CONN);
        assert_eq!(connections.flush(NOW), 1);
        assert_eq!(sent(&mut connections).unwrap().0, b"first second");
        connections.flush(NOW);
        assert!(connections.is_flushed(CONN.slot), "nobody waits for it any more");
    }

    #[test]
    fn who_is_behind_gets_little_at_a_time_and_everything_in_order() {
        let mut connections = connections();
        let frames: Vec<Vec<u8>> = (0..40u8).map(|number| vec![number; 4 << 10]).collect();
        frames.iter().for_each(|frame| _ = connections.reply(CONN, [frame.as_slice().into()]));
        connections.flush(NOW);
        let (whole, frames) = sent(&mut connections).unwrap();
        assert_eq!(whole.len(), 160 << 10, "while the kernel refuses nothing all goes at once");
        connections.taken(CONN, frames, 0, 10_000, NOW);
        connections.writable(CONN);
        let mut got = whole[..10_000].to_vec();
        while connections.has_changed() {
            assert_eq!(connections.flush(NOW), 1);
            let (bytes, _) = sent(&mut connections).unwrap();
            assert!(bytes.len() <= 16 << 10, "{}", bytes.len());
            got.extend(bytes);
        }
        assert_eq!(got, whole);
        assert!(connections.is_flushed(CONN.slot));
        assert_eq!(connections.queued_bytes(), 0);
    }

    #[test]
    fn many_small_frames_leave_in_sends_that_the_kernel_takes_whole() {
        let mut connections = connections();
        (0..150u8).for_each(|number| _ = connections.reply(CONN, [vec![number].into()]));
        let mut got = Vec::new();
        for expected in [64, 64, 22] {
            assert_eq!(connections.flush(NOW), 1);
            let (bytes, _) = sent(&mut connections).unwrap();
            assert_eq!(bytes.len(), expected);
            got.extend(bytes);
        }
        assert_eq!(got, (0..150u8).collect::<Vec<_>>());
        assert!(!connections.has_changed());
    }
}
