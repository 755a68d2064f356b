//! Connections by slot. Slots are ours to give out, the last freed first, so that few cells are touched.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::base::{ConnId, Slots};
use crate::net::room::Room;

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stage {
    #[default]
    Free,
    /// An upstream connection that is being made.
    Connecting,
    /// The shard knows it.
    Open,
    /// Its sending side is shut down; input is discarded until the peer is done too.
    Lingering,
}

/// What can be true of a connection on epoll.
#[derive(Debug)]
pub enum Fact {}

pub type Flags = crate::net::flags::Flags<Fact>;

impl Flags {
    /// There may be something to read: the kernel said so, and no read has found nothing since.
    pub const READABLE: Self = Self::only(0);
    /// The peer's half is closed, or the connection is broken: only a read that finds nothing left says which.
    pub const HANG_UP: Self = Self::only(1);
    /// The shard wants no input.
    pub const PAUSED: Self = Self::only(2);
    /// The peer has finished sending.
    pub const EOF: Self = Self::only(3);
    /// Its back-off runs, and the kernel's word of room is not believed.
    pub const RESTING: Self = Self::only(4);
    /// A read of it is among what is to be done.
    pub const QUEUED: Self = Self::only(5);
    /// Made by us to an upstream.
    pub const UPSTREAM: Self = Self::only(6);
    /// Nothing has been read of it yet.
    pub const NEW: Self = Self::only(7);
}

/// What is kept per slot.
#[derive(Default)]
pub struct Cell {
    pub socket: Option<OwnedFd>,
    generation: u32,
    pub flags: Flags,
    pub stage: Stage,
    /// Whether it takes what it is sent.
    pub room: Room,
}

const _: () = assert!(size_of::<Cell>() <= 12, "an idle connection is a small cell");

/// All connections of a worker.
#[derive(Default)]
pub struct Table {
    cells: Slots<Cell>,
    free: Vec<u32>,
    /// Slots that were ever given out.
    used: u32,
}

impl Table {
    /// Gives a connection a slot.
    pub fn claim(&mut self, socket: OwnedFd, stage: Stage) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        });
        let cell = self.cells.entry(slot);
        *cell = Cell { socket: Some(socket), generation: cell.generation, stage, ..Cell::default() };
        ConnId { slot, generation: cell.generation }
    }

    /// Closes the connection, whose slot is free from here on. Returns what was known of it.
    pub fn release(&mut self, conn: ConnId) -> Option<Cell> {
        let cell = self.of(conn)?;
        let generation = cell.generation.wrapping_add(1);
        let cell = std::mem::replace(cell, Cell { generation, ..Cell::default() });
        self.free.push(conn.slot);
        Some(cell)
    }

    /// The cell of a connection that still exists.
    pub fn of(&mut self, conn: ConnId) -> Option<&mut Cell> {
        self.cells.get_mut(conn.slot).filter(|cell| cell.generation == conn.generation && cell.stage != Stage::Free)
    }

    /// The connection's cell, if it is in this stage.
    pub fn in_stage(&mut self, conn: ConnId, stage: Stage) -> Option<&mut Cell> {
        self.of(conn).filter(|cell| cell.stage == stage)
    }

    pub fn socket(&self, conn: ConnId) -> Option<BorrowedFd<'_>> {
        let cell = self.cells.get(conn.slot).filter(|cell| cell.generation == conn.generation)?;
        cell.socket.as_ref().map(AsFd::as_fd)
    }

    /// Connections there are.
    pub fn len(&self) -> u32 {
        self.used - u32::try_from(self.free.len()).unwrap_or(self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_given_out_again_under_another_generation() {
        let socket = || rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("a descriptor");
        let mut table = Table::default();
        let [first, second] = [table.claim(socket(), Stage::Open), table.claim(socket(), Stage::Connecting)];
        assert_eq!((first.slot, second.slot, table.len()), (0, 1, 2));
        assert!(table.release(first).is_some() && table.release(first).is_none());
        let third = table.claim(socket(), Stage::Open);
        assert_eq!((third.slot, table.len()), (0, 2));
        assert!(table.of(first).is_none() && table.socket(first).is_none(), "an event for who had the slot before");
        assert!(table.in_stage(third, Stage::Open).is_some() && table.in_stage(second, Stage::Open).is_none());
    }
}
