//! What a worker's turn needs of its sockets, whichever kernel interface they are on: the seam between what is common and what is
//! one interface's own.
//!
//! ```text
//!   common:  start.rs  control.rs  worker.rs  listen.rs  loads.rs  deadlines.rs
//!                                      │
//!                                   Shell ──┬── uring/: completions, direct descriptors
//!                                           └── epoll/: readiness, descriptors of the process
//! ```
//! A worker is compiled once for each, so that no turn asks which one it is.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use super::worker::Bells;
use crate::base::{Nanos, Now, ShardId};
use crate::metrics::LoopFacts;
use crate::ring::{RingError, Wait};
use crate::shard::{ListenerId, Output, Shard};

/// All sockets of a worker on one kernel interface.
pub trait Shell {
    /// Whether an enter can wait for more than one thing to happen.
    const GATHERS: bool;

    /// Starts accepting, and hearing this worker's bell.
    ///
    /// # Errors
    /// When the kernel interface refuses what it has to do for every worker.
    fn listen(&mut self, bell: BorrowedFd<'_>) -> Result<(), ShellError>;

    /// Sends what is to be sent, and waits until something has happened. When it returns, the kernel has decided on every send.
    ///
    /// # Errors
    /// When the kernel interface becomes unusable.
    fn enter(&mut self, wait: Wait) -> Result<(), ShellError>;

    /// Sends that the next enter makes.
    fn sends_due(&self) -> usize;

    /// Sends that were decided so far.
    fn sends(&self) -> u64;

    /// Tells the shard of every send that was not taken whole. To be called after each enter, before anything else.
    fn report(&mut self, shard: &mut Shard, now: Now);

    /// Tells the shard of the next thing that has happened. False when there is none.
    fn apply_next(&mut self, bells: &Bells, shard: &mut Shard, now: Now) -> bool;

    /// Whether [`Self::apply_next`] has something left.
    fn has_inputs(&self) -> bool;

    /// Whether the next turn has work that the kernel will not announce.
    fn has_work(&self) -> bool;

    /// Whether there are sends behind which the next one of their connection would tear its stream: between an enter and the next
    /// flush, only when the kernel consumed less than offered.
    fn has_undecided_sends(&self) -> bool;

    /// Does what the shard asks.
    fn perform(&mut self, output: Output, now: Now);

    /// Fires the shell's own deadlines.
    fn handle_timeout(&mut self, shard: &mut Shard, now: Now);

    /// When that next has something to do.
    fn poll_timeout(&self) -> Option<Nanos>;

    /// Gives back what the turn has used up, and prepares what the next one goes on with, the first words of so many new connections
    /// among it.
    fn end_turn(&mut self, newcomers: usize, now: Now);

    /// Wakes a worker that sleeps, or the control thread.
    fn wake(&mut self, to: ShardId, bells: &Bells);

    /// The next fresh connection that is to go to another worker by mail; it is counted there already.
    fn poll_handed(&mut self) -> Option<(ShardId, Handed)>;

    /// A connection has come from another worker.
    fn take_over(&mut self, handed: Handed, shard: &mut Shard, now: Now);

    /// A connection could not be handed over.
    fn take_back(&mut self, from: ShardId, handed: Handed, shard: &mut Shard, now: Now);

    /// Stops listening, once everything that had already connected is accepted.
    fn start_drain(&mut self, now: Now);

    /// Whether a drain has closed every listener that it closes, and knows everybody who had connected.
    fn has_stopped_listening(&self) -> bool;

    /// Whether no client's connection is left, in whatever stage.
    fn has_no_clients(&self) -> bool;

    /// Brings the gauges among the facts up to date.
    fn take_stock(&mut self);

    /// What is counted.
    fn facts(&mut self) -> &mut LoopFacts;

    /// Times that a reload may change.
    fn times(&mut self) -> &mut Times;
}

/// Times that are configured.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// A connection that was quiet for this long is parked.
    pub quiet_after: Duration,
    /// An upstream that has not answered by then is unreachable.
    pub connect_timeout: Duration,
}

/// A fresh connection on its way to another worker.
#[derive(Debug)]
pub struct Handed {
    pub socket: OwnedFd,
    pub listener: ListenerId,
    pub peer: SocketAddr,
}

/// Why a worker's kernel interface cannot be used.
#[derive(Debug)]
pub enum ShellError {
    /// io_uring's.
    Ring(RingError),
    /// What epoll or a socket of every worker was refused with.
    Epoll(std::io::Error),
}

impl fmt::Display for ShellError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::Epoll(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                f.write_str("this kernel's epoll cannot wait for less than a millisecond (ENOSYS): Linux 5.11 or newer is needed")
            }
            Self::Epoll(error) => write!(f, "epoll: {error}"),
        }
    }
}

impl From<RingError> for ShellError {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl From<rustix::io::Errno> for ShellError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Epoll(error.into())
    }
}
