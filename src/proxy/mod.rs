//! Upstreams: routes, pools, exchanges with backends. Pure.
//!
//! ```text
//!   request head ──► route ──► pool (balance) ──► exchange ◄──► upstream connection
//!                                                  │  ▲
//!                              rewrite (heads) ◄───┘  └── error ──► 502, 503, 504, retry
//! ```
//!
//! Invariant: nothing of one side reaches the other unread. Heads are parsed and written anew, bodies are framed anew; only
//! behind a 101 that was asked for do bytes pass as they are.

mod balance;
mod error;
mod exchange;
mod pool;
mod rewrite;
mod route;
mod tunnel;

use std::net::SocketAddr;
use std::time::Duration;

pub use balance::ServerId;
pub use error::ProxyError;
pub use exchange::{Ended, Exchange, Failure, RequestStep, ResponseState, ResponseStep};
pub use pool::{Acquire, Counts, Pool, PutBack, Turn};
pub use rewrite::{Downstream, ReplyTo};
pub use route::Router;
pub use tunnel::{FrameWalk, Tunnel};

/// `[upstreams.NAME]` and `[[routes]]`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// In the order of the file.
    pub upstreams: Vec<Upstream>,
    /// Longest path prefix wins; ties by order in the file.
    pub routes: Vec<Route>,
}

/// One backend service.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// As the configuration and metrics have it.
    pub name: String,
    /// Resolved at start. One server is used in this version.
    pub servers: Vec<SocketAddr>,
    /// To open a connection, or to get one that another request has.
    pub connect_timeout: Duration,
    /// From the last byte of the request to the first of the response.
    pub response_timeout: Duration,
    /// Without a byte in either direction while a body or a raw WebSocket is passed through.
    pub idle_timeout: Duration,
    /// Idle keep-alive connections kept per worker.
    pub idle_connections_max: usize,
    /// Connections per worker; further requests wait.
    pub connections_max: usize,
    /// Requests that may wait for a connection, per worker; more are answered 503.
    pub waiting_max: usize,
}

impl Upstream {
    /// Whether connections for this one are as good for the other: only timeouts may differ.
    #[must_use]
    pub fn shares_pool_with(&self, other: &Self) -> bool {
        let limits = |upstream: &Self| (upstream.idle_connections_max, upstream.connections_max, upstream.waiting_max);
        self.name == other.name && self.servers == other.servers && limits(self) == limits(other)
    }

    /// An upstream with the default limits.
    #[must_use]
    pub fn new(name: impl Into<String>, servers: Vec<SocketAddr>) -> Self {
        Self {
            name: name.into(),
            servers,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(120),
            idle_connections_max: 64,
            connections_max: 1024,
            waiting_max: 1024,
        }
    }
}

/// What goes where.
#[derive(Clone, Debug)]
pub struct Route {
    /// `None` matches every host; compared without case and port.
    pub host: Option<String>,
    /// Prefix of the normalised path, whole segments: `/app` matches `/app` and `/app/x`, not `/apple`.
    pub path: String,
    /// Index into [`Options::upstreams`].
    pub upstream: usize,
}
