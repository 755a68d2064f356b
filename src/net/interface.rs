//! Which kernel interface the workers are on.

use std::fmt;

use crate::ring::{Features, RingError};

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Io {
    /// io_uring where every worker can have a ring, else epoll.
    Auto,
    /// io_uring, or no server.
    Uring,
    /// epoll, whatever the kernel has.
    Epoll,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Interface {
    /// A ring for each worker.
    Uring {
        /// What the kernel gives the first worker's ring; `shrunk` where any ring had to be smaller than asked for.
        features: Features,
        /// Whether sleeping workers are woken through their rings (else by eventfd).
        ring_doorbells: bool,
    },
    /// An epoll instance for each worker.
    Epoll {
        /// Connections that each worker takes: a share of the descriptors of the process.
        connections: u32,
        /// Why io_uring could not be used, where that was tried; ends with what to do about it.
        refused: Option<RingError>,
    },
}

impl Interface {
    /// Its name in configuration and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Uring { .. } => "uring",
            Self::Epoll { .. } => "epoll",
        }
    }

    /// Whether queues had to be smaller than asked for, for want of memory that may be locked.
    #[must_use]
    pub const fn is_shrunk(&self) -> bool {
        matches!(self, Self::Uring { features: Features { shrunk: true, .. }, .. })
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uring { features, .. } => features.fmt(f),
            Self::Epoll { connections, .. } => write!(f, "epoll: {connections} connections per worker"),
        }
    }
}
