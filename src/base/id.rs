//! Names for connections and workers.

use std::fmt;

/// One socket of one worker: a slot and the generation that is using it.
///
/// The shell gives slots out (under io_uring a slot is the direct-descriptor index) and both halves keep a dense array
/// over them. A completion or message for an older generation is stale and must be dropped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId {
    /// Its place in the worker's tables.
    pub slot: u32,
    /// How often the place had been given out before.
    pub generation: u32,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// A worker, by number; `workers` itself names the control thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The worker's place in arrays with one element per worker.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
