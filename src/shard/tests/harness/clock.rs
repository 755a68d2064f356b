//! Time of a world.

use std::time::Duration;

use super::World;
use crate::base::{Nanos, Now, WallMs};
use crate::shard::Shard;

/// Tue, 14 Nov 2023 22:13:20 GMT.
pub const START: Now = Now { monotonic: Nanos(1_000_000_000), wall: WallMs(1_700_000_000_000) };

impl World {
    /// Time passes, and every deadline in it at its instant.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now.monotonic + time;
        while let Some(next) = self.next_deadline().filter(|next| *next <= end) {
            self.jump(next.since(self.now.monotonic));
            self.settle();
        }
        self.jump(end.since(self.now.monotonic));
        self.settle();
    }

    /// Time passes without a turn: whatever falls due in it is late.
    pub fn jump(&mut self, time: Duration) {
        let monotonic = self.now.monotonic + time;
        let passed = u64::try_from(monotonic.since(START.monotonic).as_millis()).expect("short");
        self.now = Now { monotonic, wall: WallMs(START.wall.0 + passed) };
    }

    /// The first instant at which a worker has something to do.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.shards.iter().filter_map(Shard::poll_timeout).min()
    }
}
