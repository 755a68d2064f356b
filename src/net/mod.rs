//! The bridge: completions → shard inputs, shard outputs → submissions; listeners, threads, signals.
//!
//! ```text
//! start.rs     probe, bind, one pinned thread per worker with its own ring, listen     control.rs   signals, drain, reload
//! worker.rs    the turn: enter, completions, mail, fan-out, flush                      sockets.rs   the worker's connections
//! ```
//! Invariant: decides nothing about requests, channels or frames; a question about those belongs below [`shard`](crate::shard).

mod accepting;
#[cfg(test)]
mod accepting_tests;
mod cells;
mod closing;
mod connecting;
mod control;
mod cpu;
mod deadlines;
mod listen;
mod loads;
mod receiving;
mod sending;
mod sockets;
mod start;
mod worker;

pub use control::serve;
pub use cpu::default_workers;
pub use listen::BACKLOG as LISTEN_BACKLOG;
pub use start::{Bound, Running, ServeError, ServeOptions, start};
