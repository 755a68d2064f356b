//! Counters owned per shard, merged when read.

/// One worker's counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {}
