//! What a worker's connections wait to send, and which of them the next flush has to look at.
//!
//! ```text
//!   nothing ── first frame ──▶ lone, in the list itself ── a second one, a refusal ──▶ a queue
//!      ▲                              │ flush                                            │ all of it was taken
//!      └──────────────────────────────┴──────────────────────────────────────────────────┘
//! ```
//! Between two flushes most connections get one frame, and the kernel takes it whole: those never have a queue.
//!
//! Invariants:
//! - A lone frame stands in the list of the next flush, where its connection's [`Waits`] says.
//! - A queue exists only while something waits or the socket is blocked; an idle connection holds nothing.

use super::queue::SendQueue;
use crate::base::{ConnId, Frame, FrameTag, Frames};

/// Empty queues kept with their memory, and the frames each has room for.
const SPARE_QUEUES_MAX: usize = 2048;
const SPARE_FRAMES_MAX: usize = 4;

/// Where one connection's waiting frames are. Its cell keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waits(u32);

impl Waits {
    /// Nothing waits, and nothing was refused.
    pub const NOTHING: Self = Self(u32::MAX);
    const LONE: u32 = 1 << 31;

    fn lone(index: usize) -> Self {
        Self(Self::LONE | u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn queue(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX) & !Self::LONE)
    }

    const fn place(self) -> Place {
        match self {
            Self::NOTHING => Place::Nothing,
            Self(bits) if bits & Self::LONE != 0 => Place::Lone((bits & !Self::LONE) as usize),
            Self(bits) => Place::Queue(bits as usize),
        }
    }
}

/// A [`Waits`], taken apart.
enum Place {
    Nothing,
    /// Index in the list.
    Lone(usize),
    /// Index among the queues.
    Queue(usize),
}

/// A connection that the next flush looks at.
#[derive(Debug)]
pub struct Due {
    pub conn: ConnId,
    /// What it gets, where that is one frame; else it has a queue, or nothing any more.
    pub lone: Option<Frame>,
}

/// The frames of all connections.
#[derive(Debug, Default)]
pub struct Backlog {
    queues: Vec<SendQueue>,
    free: Vec<u32>,
    due: Vec<Due>,
    bytes: usize,
}

impl Backlog {
    /// Bytes waiting on all connections.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a flush would send something.
    #[must_use]
    pub const fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The connection's queue, where it has one.
    #[must_use]
    pub fn queue(&self, waits: Waits) -> Option<&SendQueue> {
        match waits.place() {
            Place::Queue(index) => self.queues.get(index),
            Place::Nothing | Place::Lone(_) => None,
        }
    }

    /// Bytes of replies that wait; one that has begun counts whole.
    #[must_use]
    pub fn reply_bytes(&self, waits: Waits) -> usize {
        self.queue(waits).map_or_else(|| self.lone_bytes(waits, FrameTag::Reply), SendQueue::reply_bytes)
    }

    /// Bytes of replay that wait; a page that has begun counts whole.
    #[must_use]
    pub fn page_bytes(&self, waits: Waits) -> usize {
        self.queue(waits).map_or_else(|| self.lone_bytes(waits, FrameTag::Page), SendQueue::page_bytes)
    }

    /// Bytes of the connection's lone frame, if it is of this kind.
    fn lone_bytes(&self, waits: Waits, tag: FrameTag) -> usize {
        let Place::Lone(at) = waits.place() else { return 0 };
        let lone = self.due.get(at).and_then(|due| due.lone.as_ref());
        lone.filter(|frame| frame.tag == tag).map_or(0, |frame| frame.blob.len())
    }

    /// Puts a frame behind what waits, and the connection on the list where it is not blocked.
    pub fn push(&mut self, conn: ConnId, waits: &mut Waits, frame: Frame) {
        if *waits == Waits::NOTHING {
            self.bytes += frame.blob.len();
            *waits = Waits::lone(self.due.len());
            self.due.push(Due { conn, lone: Some(frame) });
        } else {
            self.change(conn, waits, |queue| queue.push(frame));
        }
    }

    /// Changes a connection's queue, made where there is none; whoever is not blocked then is on the list.
    pub fn change<R>(&mut self, conn: ConnId, waits: &mut Waits, change: impl FnOnce(&mut SendQueue) -> R) -> Option<R> {
        let index = self.queue_index(waits);
        let queue = self.queues.get_mut(index)?;
        let before = queue.bytes();
        let result = change(queue);
        self.bytes = self.bytes + queue.bytes() - before;
        if !queue.blocked && !std::mem::replace(&mut queue.dirty, true) {
            self.due.push(Due { conn, lone: None });
        }
        Some(result)
    }

    /// Where the connection's queue is: made where there is none, a lone frame put into it.
    fn queue_index(&mut self, waits: &mut Waits) -> usize {
        let lone = match waits.place() {
            Place::Queue(index) => return index,
            Place::Lone(at) => self.due.get_mut(at).and_then(|due| due.lone.take()),
            Place::Nothing => None,
        };
        let index = self.free.pop().map_or(self.queues.len(), |index| index as usize);
        if index == self.queues.len() {
            self.queues.push(SendQueue::default());
        }
        if let Some(frame) = lone {
            let queue = &mut self.queues[index];
            queue.push(frame);
            // It stands on the list still.
            queue.dirty = true;
        }
        *waits = Waits::queue(index);
        index
    }

    /// Forgets what waits on a connection.
    pub fn release(&mut self, waits: &mut Waits) {
        match std::mem::replace(waits, Waits::NOTHING).place() {
            Place::Nothing => {}
            Place::Lone(at) => {
                let lone = self.due.get_mut(at).and_then(|due| due.lone.take());
                self.bytes -= lone.map_or(0, |frame| frame.blob.len());
            }
            Place::Queue(index) => {
                let Some(queue) = self.queues.get_mut(index) else { return };
                self.bytes -= queue.bytes();
                // A burst to everybody must not leave everybody's queue behind.
                queue.reset(if self.free.len() < SPARE_QUEUES_MAX { SPARE_FRAMES_MAX } else { 0 });
                self.free.push(u32::try_from(index).unwrap_or(u32::MAX));
            }
        }
    }

    /// Takes the list. Each of it is to be asked with [`Backlog::take`] for what it sends, and the list to be given back then.
    pub fn take_due(&mut self) -> Vec<Due> {
        std::mem::take(&mut self.due)
    }

    /// Takes the emptied list's memory back. What did not fit into one send is listed for the next flush.
    pub fn give_back(&mut self, mut list: Vec<Due>) {
        list.append(&mut self.due);
        self.due = list;
    }

    /// What a connection of the list sends now, with the bytes of the first frame to leave out, its lone frame if it has one.
    /// `None` for those that are blocked: they are listed anew when they become writable.
    pub fn take(&mut self, due: Due, waits: &mut Waits) -> Option<(Frames, u32)> {
        let Due { conn, lone } = due;
        if let Some(frame) = lone {
            *waits = Waits::NOTHING;
            self.bytes -= frame.blob.len();
            return Some((Frames::One(frame), 0));
        }
        let Place::Queue(index) = waits.place() else { return None };
        let queue = self.queues.get_mut(index)?;
        queue.dirty = false;
        if queue.blocked {
            return None;
        }
        let before = queue.bytes();
        let taken = queue.take();
        let left = queue.bytes();
        self.bytes -= before - left;
        if left > 0 {
            queue.dirty = true;
            self.due.push(Due { conn, lone: None });
        } else {
            self.release(waits);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONN: ConnId = ConnId { slot: 3, generation: 7 };

    fn reply(bytes: &[u8]) -> Frame {
        Frame::reply(bytes)
    }

    /// What a flush sends, connection by connection.
    fn flush(backlog: &mut Backlog, waits: &mut Waits) -> Vec<Vec<u8>> {
        let mut list = backlog.take_due();
        let sends = list.drain(..).filter_map(|due| backlog.take(due, waits));
        let sends = sends.map(|(frames, _)| frames.as_slice().iter().flat_map(|frame| frame.blob.to_vec()).collect()).collect();
        backlog.give_back(list);
        sends
    }

    #[test]
    fn one_frame_between_two_flushes_needs_no_queue() {
        let (mut backlog, mut waits) = (Backlog::default(), Waits::NOTHING);
        for _ in 0..3 {
            backlog.push(CONN, &mut waits, reply(b"one"));
            assert_eq!((backlog.bytes(), backlog.reply_bytes(waits), backlog.page_bytes(waits)), (3, 3, 0));
            assert_eq!(flush(&mut backlog, &mut waits), [b"one"]);
            assert_eq!((waits, backlog.bytes(), backlog.has_due()), (Waits::NOTHING, 0, false));
        }
        assert!(backlog.queues.is_empty());
    }

    #[test]
    fn a_second_frame_joins_the_first_in_one_send_and_their_order() {
        let (mut backlog, mut waits) = (Backlog::default(), Waits::NOTHING);
        backlog.push(CONN, &mut waits, Frame { blob: b"page ".as_slice().into(), tag: FrameTag::Page });
        assert_eq!((backlog.page_bytes(waits), backlog.reply_bytes(waits)), (5, 0));
        backlog.push(CONN, &mut waits, reply(b"reply"));
        assert_eq!((backlog.bytes(), backlog.reply_bytes(waits), backlog.page_bytes(waits)), (10, 5, 5));
        assert_eq!(flush(&mut backlog, &mut waits), [b"page reply"]);
        assert_eq!((waits, backlog.bytes(), backlog.has_due()), (Waits::NOTHING, 0, false));
        assert_eq!(backlog.free.len(), backlog.queues.len(), "its queue is another's now");
    }

    #[test]
    fn what_was_refused_goes_before_what_came_meanwhile() {
        let (mut backlog, mut waits) = (Backlog::default(), Waits::NOTHING);
        backlog.push(CONN, &mut waits, reply(b"first "));
        let due = backlog.take_due().pop().unwrap();
        let (frames, skip) = backlog.take(due, &mut waits).unwrap();
        backlog.push(CONN, &mut waits, reply(b"second"));
        backlog.change(CONN, &mut waits, |queue| {
            queue.put_back(frames, skip, 2);
            queue.blocked = true;
        });
        assert_eq!((flush(&mut backlog, &mut waits).len(), backlog.bytes()), (0, 10), "it is blocked");
        backlog.change(CONN, &mut waits, |queue| queue.blocked = false);
        let due = backlog.take_due().pop().unwrap();
        let (frames, skip) = backlog.take(due, &mut waits).unwrap();
        assert_eq!((frames.as_slice().len(), frames.bytes(), skip), (2, 12, 2));
    }

    #[test]
    fn who_goes_before_the_flush_leaves_nothing_for_its_successor() {
        for frames in 1..3 {
            let (mut backlog, mut gone) = (Backlog::default(), Waits::NOTHING);
            (0..frames).for_each(|_| backlog.push(CONN, &mut gone, reply(b"old")));
            backlog.release(&mut gone);
            assert_eq!((gone, backlog.bytes()), (Waits::NOTHING, 0));
            let mut waits = Waits::NOTHING;
            backlog.push(ConnId { generation: 8, ..CONN }, &mut waits, reply(b"new"));
            assert_eq!(flush(&mut backlog, &mut waits), [b"new"]);
        }
    }

    #[test]
    fn a_burst_to_everybody_leaves_few_queues_with_memory() {
        let mut backlog = Backlog::default();
        let mut everybody = vec![Waits::NOTHING; 2 * SPARE_QUEUES_MAX];
        for (slot, waits) in (0..).zip(&mut everybody) {
            (0..2).for_each(|_| backlog.push(ConnId { slot, generation: 0 }, waits, reply(b"x")));
        }
        everybody.iter_mut().for_each(|waits| backlog.release(waits));
        assert_eq!(backlog.queues.iter().filter(|queue| queue.has_memory()).count(), SPARE_QUEUES_MAX);
    }

    /// A connection as a test sees it: what was queued for it and what left.
    struct Peer {
        conn: ConnId,
        waits: Waits,
        queued: Vec<u8>,
        sent: Vec<u8>,
    }

    impl Peer {
        fn new(slot: u32, generation: u32) -> Self {
            Self { conn: ConnId { slot, generation }, waits: Waits::NOTHING, queued: Vec::new(), sent: Vec::new() }
        }
    }

    /// A flush, of which the kernel takes so many bytes of each send.
    fn flush_partly(backlog: &mut Backlog, peers: &mut [Peer], taken: usize) {
        let mut list = backlog.take_due();
        for due in list.drain(..) {
            let peer = &mut peers[due.conn.slot as usize];
            if peer.conn != due.conn {
                continue;
            }
            let Some((frames, skip)) = backlog.take(due, &mut peer.waits) else { continue };
            let wire = frames.as_slice().iter().flat_map(|frame| frame.blob.to_vec());
            let wire: Vec<u8> = wire.skip(skip as usize).collect();
            let taken = taken.min(wire.len());
            peer.sent.extend_from_slice(&wire[..taken]);
            if taken < wire.len() {
                backlog.change(peer.conn, &mut peer.waits, |queue| {
                    queue.put_back(frames, skip, u32::try_from(taken).unwrap());
                    queue.blocked = true;
                });
            }
        }
        backlog.give_back(list);
    }

    proptest! {
        /// Whatever is queued, refused and ended: each connection gets its own bytes in order, and the total is what waits.
        #[test]
        fn every_connection_gets_its_bytes_in_order(steps in prop::collection::vec((0u32..3, 0u8..6, 1usize..20), 1..80)) {
            let mut backlog = Backlog::default();
            let mut peers: Vec<Peer> = (0..3).map(|slot| Peer::new(slot, 0)).collect();
            for (number, (slot, act, amount)) in (0u8..).zip(steps) {
                let peer = &mut peers[slot as usize];
                match act {
                    0..=2 => {
                        peer.queued.extend(vec![number; amount]);
                        backlog.push(peer.conn, &mut peer.waits, reply(&vec![number; amount]));
                    }
                    3 => flush_partly(&mut backlog, &mut peers, amount),
                    4 if peer.waits != Waits::NOTHING => {
                        backlog.change(peer.conn, &mut peer.waits, |queue| queue.blocked = false);
                    }
                    4 => {}
                    _ => {
                        backlog.release(&mut peer.waits);
                        *peer = Peer::new(slot, peer.conn.generation + 1);
                    }
                }
                prop_assert_eq!(backlog.bytes(), peers.iter().map(|peer| peer.queued.len() - peer.sent.len()).sum::<usize>());
            }
            for peer in peers.iter_mut().filter(|peer| peer.waits != Waits::NOTHING) {
                backlog.change(peer.conn, &mut peer.waits, |queue| queue.blocked = false);
            }
            while backlog.has_due() {
                flush_partly(&mut backlog, &mut peers, usize::MAX);
            }
            for peer in &peers {
                prop_assert_eq!(&peer.sent, &peer.queued);
                prop_assert_eq!(peer.waits, Waits::NOTHING);
            }
        }
    }
}
