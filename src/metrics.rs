//! Counters owned per shard, merged when read.
