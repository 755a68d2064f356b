//! The load's sockets, on either kernel interface: bytes out, events in.
//!
//! ```text
//!   fleet ──open, send, pause, end──►  Sockets ──┬── uring.rs: direct descriptors, a poll and no buffer for each connection
//!         ◄──────── events ──────────            └── epoll.rs: descriptors of the process
//! ```
//! A connection is known by its number in the load, which is its own until it was ended. On a ring the descriptors are in the
//! ring's table: a load of any size has few in the process's own, where everything that looks through `/proc` would walk them.

mod epoll;
#[cfg(test)]
mod tests;
mod uring;

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::error::BenchError;
use crate::ring::Lease;
use epoll::EpollSockets;
use uring::RingSockets;

/// What the kernel gives a fresh socket, as it counts (twice this).
const ASIDE_RECEIVE_BYTES: usize = 64 * 1024;

/// On which kernel interface the load is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Io {
    /// `uring`, where that is refused `epoll`.
    #[default]
    Auto,
    Uring,
    Epoll,
}

impl Io {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        }
    }
}

/// How a connection is opened, and how it will end.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Where to.
    pub address: SocketAddr,
    /// Where from; the kernel's choice where there is none.
    pub source: Option<SocketAddr>,
    pub ending: Ending,
    /// It may stop reading: its receive buffer does not grow, and its address can be asked for.
    pub aside: bool,
}

/// How a load ends its connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// As clients do; the kernel remembers each for a minute.
    Close,
    /// Else the kernel remembers each of them for a minute and forgets all of them in one go, which keeps a core for a microsecond
    /// each: whatever load runs there then has that as its last percentile.
    Reset,
}

/// What happened to a connection.
#[derive(Debug)]
pub enum Event {
    Connected(usize),
    /// It could not be opened.
    Failed(Errno),
    /// It has received something.
    Bytes(usize, Received),
    /// The server has closed it.
    Ended(usize),
    /// The descriptor that is watched may have something to read.
    Watched,
}

/// Bytes of one receive, which must be given back.
#[derive(Debug)]
#[must_use]
pub enum Received {
    /// In one of the ring's buffers.
    Leased(Lease),
    /// So many at the start of the one buffer.
    Buffered(usize),
}

/// All sockets of a load.
pub trait Sockets {
    /// Starts to open connection `index`, which is not open. [`Event::Connected`] or [`Event::Failed`] follows.
    fn open(&mut self, index: usize, opening: &Opening) -> Result<(), BenchError>;

    /// Sends `bytes`, behind what still waits. What a connection that is gone does not take is forgotten.
    fn send(&mut self, index: usize, bytes: &[u8]) -> Result<(), BenchError>;

    /// Whether the connection is to be read.
    fn pause(&mut self, index: usize, paused: bool) -> Result<(), BenchError>;

    /// Where a connection that was opened aside connects from.
    fn local_address(&self, index: usize) -> Result<SocketAddr, BenchError>;

    /// Ends the connection; no event of it follows.
    fn end(&mut self, index: usize);

    /// Tells when there is something to read from an ordinary descriptor. There is one at a time, until [`Sockets::unwatch`].
    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> Result<(), BenchError>;

    fn unwatch(&mut self, descriptor: BorrowedFd<'_>);

    /// Sends what is to be sent and sleeps until something happens, so long at most.
    fn wait(&mut self, limit: Duration) -> Result<(), BenchError>;

    /// The next thing that happened.
    fn next(&mut self) -> Result<Option<Event>, BenchError>;

    /// The bytes of a receive.
    fn bytes<'a>(&'a mut self, received: &'a mut Received) -> &'a [u8];

    fn give_back(&mut self, received: Received);
}

/// Sockets for `count` connections at a time, on this thread.
pub fn new(io: Io, count: usize) -> Result<Box<dyn Sockets>, BenchError> {
    match io {
        Io::Epoll => Ok(Box::new(EpollSockets::new(count)?)),
        Io::Uring => Ok(Box::new(RingSockets::new(count)?)),
        Io::Auto => match RingSockets::new(count) {
            Err(BenchError::Ring(refusal)) => {
                eprintln!("the load is on epoll: {refusal}");
                Ok(Box::new(EpollSockets::new(count)?))
            }
            sockets => Ok(Box::new(sockets?)),
        },
    }
}

/// A socket that is about to connect.
fn socket(opening: &Opening) -> Result<OwnedFd, Errno> {
    let family = if opening.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if opening.ending == Ending::Reset {
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    }
    if opening.aside {
        // Or the kernel lets it grow, and what the server sends ends up here.
        sockopt::set_socket_recv_buffer_size(&socket, ASIDE_RECEIVE_BYTES)?;
    }
    if let Some(source) = opening.source {
        rustix::net::bind(&socket, &source)?;
    }
    Ok(socket)
}

fn address_of(socket: &OwnedFd) -> Result<SocketAddr, BenchError> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(socket)?)?)
}
