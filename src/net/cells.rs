//! The shell's side of connections: a small cell per slot, in chunks that never move.

use std::ops::{BitOr, BitOrAssign};

use crate::base::ConnId;

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

/// A set of facts about a connection.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    /// A multishot receive is armed.
    pub const RECEIVING: Self = Self(1);
    /// One receive is on its way.
    pub const READING: Self = Self(1 << 1);
    /// Something arrived while that receive was on its way: read once more.
    pub const AGAIN: Self = Self(1 << 2);
    /// A multishot poll is armed: parked.
    pub const POLLING: Self = Self(1 << 3);
    /// A poll for writability is armed, or its back-off runs.
    pub const BLOCKED: Self = Self(1 << 4);
    /// The shard wants no input.
    pub const PAUSED: Self = Self(1 << 5);
    /// The peer has finished sending.
    pub const EOF: Self = Self(1 << 6);
    /// On the list of receives that found no buffer.
    pub const STARVED: Self = Self(1 << 7);
    /// Something arrived since the last sweep.
    pub const ACTIVE: Self = Self(1 << 8);
    /// The multishot receive is being cancelled.
    pub const STOPPING: Self = Self(1 << 9);
    /// Came from another worker: not to be handed on.
    pub const HANDED: Self = Self(1 << 10);
    /// Made by us to an upstream.
    pub const UPSTREAM: Self = Self(1 << 11);
    /// Its last wake for writing has not been followed by progress yet.
    pub const WOKEN: Self = Self(1 << 12);
    /// The poll of a parked connection is being cancelled.
    pub const UNPARKING: Self = Self(1 << 13);

    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub const fn clear(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// Clears, and says whether it was set.
    pub const fn take(&mut self, other: Self) -> bool {
        let had = self.has(other);
        self.clear(other);
        had
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
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
    /// Wakes for writing in a row that brought no progress.
    pub stalls: u8,
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

    #[test]
    fn flags_are_independent() {
        let mut flags = Flags::EOF | Flags::PAUSED;
        assert!(flags.take(Flags::EOF) && !flags.has(Flags::EOF) && flags.has(Flags::PAUSED));
        flags.set(Flags::WOKEN);
        assert!(flags.has(Flags::WOKEN) && !flags.has(Flags::RECEIVING));
    }
}
