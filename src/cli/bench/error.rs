//! Why a load could not be run. (What the load finds wrong with the server is counted, not an error.)

use std::fmt;
use std::io;

use super::session::Fault;
use crate::ring::RingError;

#[derive(Debug)]
pub enum BenchError {
    /// A system call of the load itself.
    Io(io::Error),
    /// A connection could not be opened.
    Connect(io::Error),
    /// A connection failed before the load started.
    Opening(Fault),
    /// The server closed a connection before the load started.
    ClosedWhileOpening,
    /// The publishing connection.
    Publish(PublishFault),
    /// Nothing came for so long that the load gave up.
    Stalled { doing: &'static str, seconds: u64 },
    /// The run's own time limit.
    OutOfTime { seconds: u64 },
    /// `/proc` has no such process, or will not say.
    Process { pid: u32, error: io::Error },
    /// There is no io_uring, or no more.
    Ring(RingError),
    /// More connections than this process may have.
    Descriptors { needed: u64, limit: u64 },
    /// A process of the load has ended by itself; it has said why.
    Part,
    /// A flag's value that cannot be served.
    Flag { flag: &'static str, rule: &'static str },
}

/// What went wrong with publishing over HTTP.
#[derive(Debug)]
pub enum PublishFault {
    Wire(super::wire::WireError),
    Refused {
        status: u16,
        detail: String,
    },
    /// A reply to nothing.
    Unasked,
    /// A 200 whose body names no channel and position.
    Body,
    Closed,
}

impl From<io::Error> for BenchError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustix::io::Errno> for BenchError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Connect(error) => write!(f, "connecting: {error}"),
            Self::Opening(Fault::Refused { status }) => write!(f, "the server answered a subscriber with {status}"),
            Self::Opening(Fault::ComeBack { millis }) => {
                write!(f, "the server has too much to do: it told a subscriber to come back in {millis} ms")
            }
            Self::Opening(Fault::Deflate(refusal)) => write!(f, "the server {}", refusal.text()),
            Self::Opening(fault) => write!(f, "opening a connection: {fault:?}"),
            Self::ClosedWhileOpening => write!(f, "the server closed a connection that was being opened"),
            Self::Publish(PublishFault::Refused { status, detail }) => {
                write!(f, "the server answered a publication with {status} (is --api-key right?): {detail}")
            }
            Self::Publish(PublishFault::Wire(error)) => write!(f, "publishing: the reply is not HTTP as expected: {error:?}"),
            Self::Publish(PublishFault::Unasked) => write!(f, "publishing: a reply came that nothing had asked for"),
            Self::Publish(PublishFault::Body) => write!(f, "publishing: a reply without channel and position"),
            Self::Publish(PublishFault::Closed) => write!(f, "publishing: the server closed the connection"),
            Self::Stalled { doing, seconds } => write!(f, "{doing}: nothing came for {seconds} s"),
            Self::OutOfTime { seconds } => write!(f, "the run took longer than --time-max {seconds} s"),
            Self::Process { pid, error } => write!(f, "reading /proc/{pid}: {error}"),
            Self::Descriptors { needed, limit } => {
                write!(f, "{needed} connections need more descriptors than the limit of {limit}: raise it with `ulimit -n`")
            }
            Self::Ring(error) => write!(f, "{error} (or `--io epoll`)"),
            Self::Part => write!(f, "a process of the load has ended: see what it said above"),
            Self::Flag { flag, rule } => write!(f, "{flag} {rule}"),
        }
    }
}
