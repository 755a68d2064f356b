//! The bridge: what the kernel says → shard inputs, shard outputs → what the kernel is asked; listeners, threads, signals.
//!
//! ```text
//! start.rs     probe, bind, one pinned thread per worker, listen        control.rs   signals, drain, reload
//! worker.rs    the turn: enter, inputs, mail, fan-out, flush            shell.rs     what a turn needs of its sockets
//! sockets.rs   the worker's connections on io_uring, and with it accepting, receiving, sending, connecting, closing, cells
//! epoll/       the worker's connections on epoll
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
mod epoll;
mod interface;
mod listen;
mod loads;
mod receiving;
mod sending;
mod shell;
mod sockets;
mod start;
mod worker;

pub use control::serve;
pub use cpu::default_workers;
pub use interface::{Interface, Io};
pub use listen::BACKLOG as LISTEN_BACKLOG;
pub use shell::ShellError;
pub use start::{Bound, Running, ServeError, ServeOptions, start};
