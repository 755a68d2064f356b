//! What a connection is doing: exactly one of these at any time.
//!
//! ```text
//!            ┌────────────── keep-alive ───────────────┐
//!            ▼                                         │
//!   Head ──▶ Body ──▶ Waiting (other workers) ─────────┤
//!    │  ├──▶ Poll (until something comes) ─────────────┤
//!    │  └──▶ Exchange (an upstream answers) ───────────┘    (a raw WebSocket stays in it)
//!    ├─────▶ Stream (event stream, NDJSON) ────────────┐
//!    └─────▶ WebSocket ────────────────────────────────┴──▶ Closing ──▶ Vacant
//! ```
//!
//! An idle WebSocket or stream lives in the cell itself; what only an active connection needs is boxed.

use super::body::Collect;
use super::operate::Scrape;
use super::poll::Poll;
use super::publish::Waiting;
use super::stream::Stream;
use super::upstream::{Exchanging, UpstreamConn};
use super::websocket::{Door, WebSocket};
use crate::http::head::HeadReader;
use crate::metrics::{ConnectionKind, TransportKind};

/// The stage of a connection.
#[derive(Debug, Default)]
pub enum Stage {
    /// Nobody is here.
    #[default]
    Vacant,
    /// Between requests, or inside a request's head.
    Head(Option<Box<HeadReader>>),
    /// Inside the body of a request that one of our doors answers.
    Body(Box<Collect>),
    /// A request whose answer other workers owe.
    Waiting(Box<Waiting>),
    /// A request for metrics, which every worker owes a part of.
    Scrape(Box<Scrape>),
    /// A poll that is answered when something comes or its time is up.
    Poll(Box<Poll>),
    /// An event stream or NDJSON stream.
    Stream(Stream),
    WebSocket(WebSocket),
    /// A request that an upstream answers.
    Exchange(Box<Exchanging>),
    /// A connection to an upstream.
    Upstream(Box<UpstreamConn>),
    /// Everything is said; the connection goes when the last byte has been taken.
    Closing,
}

impl Stage {
    /// How the gauge of connections counts it; connections to upstreams are counted by their pools.
    #[must_use]
    pub fn connection_kind(&self) -> Option<ConnectionKind> {
        Some(match self {
            Self::WebSocket(socket) if socket.door == Door::Echo => ConnectionKind::Echo,
            Self::WebSocket(_) => ConnectionKind::WebSocket,
            Self::Stream(stream) if stream.kind == TransportKind::EventStream => ConnectionKind::EventStream,
            Self::Stream(_) => ConnectionKind::Stream,
            Self::Poll(_) => ConnectionKind::Poll,
            Self::Exchange(_) => ConnectionKind::Proxy,
            Self::Head(_) | Self::Body(_) | Self::Waiting(_) | Self::Scrape(_) | Self::Closing => ConnectionKind::Http,
            Self::Vacant | Self::Upstream(_) => return None,
        })
    }

    /// How metrics name the connection.
    #[must_use]
    pub fn kind(&self) -> TransportKind {
        match self {
            Self::WebSocket(_) => TransportKind::WebSocket,
            Self::Stream(stream) => stream.kind,
            Self::Poll(_) => TransportKind::Poll,
            Self::Vacant
            | Self::Head(_)
            | Self::Body(_)
            | Self::Waiting(_)
            | Self::Scrape(_)
            | Self::Exchange(_)
            | Self::Upstream(_)
            | Self::Closing => TransportKind::Http,
        }
    }
}
