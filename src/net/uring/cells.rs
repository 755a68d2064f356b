//! The shell's side of connections: a small cell per slot, in chunks that never move.

use crate::base::ConnId;
use crate::net::room::Room;

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stage {
    /// The slot is the kernel's to give out.
    #[default]
    Free,
    /// Accepted; its peer address is being read.
    Fresh,
    /// On its way to another worker.
    HandingOver,
    /// An upstream connection that is being made.
    Connecting,
    /// The shard knows it.
    Open,
    /// Its sending side is shut down; input is discarded until the peer is done too.
    Lingering,
    /// Cancelled; its operations are coming to their ends.
    Closing,
    /// Nothing is in flight but the close of its descriptor.
    Closed,
}

/// What can be true of a connection on a ring.
#[derive(Debug)]
pub enum Fact {}

pub type Flags = crate::net::flags::Flags<Fact>;

impl Flags {
    /// A multishot receive is armed.
    pub const RECEIVING: Self = Self::only(0);
    /// One receive is on its way.
    pub const READING: Self = Self::only(1);
    /// Something arrived while that receive was on its way: read once more.
    pub const AGAIN: Self = Self::only(2);
    /// A multishot poll is armed: parked.
    pub const POLLING: Self = Self::only(3);
    /// The shard wants no input.
    pub const PAUSED: Self = Self::only(4);
    /// The peer has finished sending.
    pub const EOF: Self = Self::only(5);
    /// On the list of receives that found no buffer.
    pub const STARVED: Self = Self::only(6);
    /// Something arrived since the last sweep.
    pub const ACTIVE: Self = Self::only(7);
    /// The multishot receive is being cancelled.
    pub const STOPPING: Self = Self::only(8);
    /// Came from another worker: not to be handed on.
    pub const HANDED: Self = Self::only(9);
    /// Made by us to an upstream.
    pub const UPSTREAM: Self = Self::only(10);
    /// The poll of a parked connection is being cancelled.
    pub const UNPARKING: Self = Self::only(11);
    /// Nothing has been read of it yet.
    pub const NEW: Self = Self::only(12);
    /// New, and in the line of those that have something to say.
    pub const IN_LINE: Self = Self::only(13);
}

/// What the shell keeps per slot.
#[derive(Clone, Copy, Default)]
pub struct Cell {
    pub generation: u32,
    pub flags: Flags,
    pub stage: Stage,
    /// Operations whose last completion has not come.
    pub in_flight: u8,
    /// The listener it came in by.
    pub listener: u8,
    /// Whether it takes what it is sent; while that is awaited a poll for it is armed, or a back-off runs.
    pub room: Room,
}

const _: () = assert!(size_of::<Cell>() <= 12, "an idle connection is a small cell");

const CHUNK: usize = 1024;

/// All cells of a worker, by slot.
#[derive(Default)]
pub struct Cells {
    chunks: Vec<Box<[Cell]>>,
}

impl Cells {
    /// Slots that have a cell.
    pub fn len(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).unwrap_or(u32::MAX)
    }

    pub fn at_mut(&mut self, slot: u32) -> Option<&mut Cell> {
        self.chunks.get_mut(slot as usize / CHUNK).map(|chunk| &mut chunk[slot as usize % CHUNK])
    }

    /// The cell of a connection that still exists.
    pub fn of(&mut self, conn: ConnId) -> Option<&mut Cell> {
        self.at_mut(conn.slot).filter(|cell| cell.generation == conn.generation && cell.stage != Stage::Free)
    }

    /// The slot's cell, made if need be.
    pub fn reach(&mut self, slot: u32) -> &mut Cell {
        let chunk = slot as usize / CHUNK;
        while self.chunks.len() <= chunk {
            self.chunks.push(vec![Cell::default(); CHUNK].into());
        }
        &mut self.chunks[chunk][slot as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_generation_finds_nothing() {
        let mut cells = Cells::default();
        *cells.reach(1500) = Cell { generation: 3, stage: Stage::Open, ..Cell::default() };
        assert!(cells.of(ConnId { slot: 1500, generation: 3 }).is_some());
        assert!(cells.of(ConnId { slot: 1500, generation: 2 }).is_none());
        assert!(cells.of(ConnId { slot: 1501, generation: 0 }).is_none(), "free");
        assert!(cells.of(ConnId { slot: 9999, generation: 0 }).is_none(), "never used");
        assert_eq!(cells.len(), 2048);
    }
}
