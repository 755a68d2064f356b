//! The bridge: what the kernel says → shard inputs, shard outputs → what the kernel is asked; listeners, threads, signals.
//!
//! ```text
//! start.rs     probe, bind, one pinned thread per worker, listen        control.rs   signals, drain, reload
//! worker.rs    the turn: enter, inputs, mail, fan-out, flush            shell.rs     what a turn needs of its sockets
//! uring/       the worker's connections on io_uring             epoll/       the worker's connections on epoll
//!              what is the same on both: flags, room (for sending), retry (of accepts), line (of newcomers), lingering,
//!              deadlines, loads, errno, busy (whether it pays to let inputs gather)
//! ```
//! Invariant: decides nothing about requests, channels or frames; a question about those belongs below [`shard`](crate::shard).

mod busy;
mod control;
mod cpu;
mod deadlines;
mod epoll;
mod errno;
mod flags;
mod interface;
mod line;
mod lingering;
mod listen;
mod loads;
mod retry;
mod room;
mod shell;
mod start;
mod uring;
mod worker;

pub use control::serve;
pub use cpu::default_workers;
pub use interface::{Interface, Io};
pub use listen::BACKLOG as LISTEN_BACKLOG;
pub use shell::ShellError;
pub use start::{Bound, Running, ServeError, ServeOptions, start};
