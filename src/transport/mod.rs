//! How items ride on a connection: WebSocket message, event stream, NDJSON stream, poll response. Pure: bytes of items in, bytes
//! for the wire out; what an item says is its protocol's affair.

pub mod event_stream;
pub mod poll;
pub mod stream;

use std::time::Duration;

/// `[stream]` and `[poll]`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Silence after which a stream gets a keep-alive item.
    pub keep_alive_interval: Duration,
    /// Reconnect delay told to clients, drawn uniformly between the two.
    pub retry: [Duration; 2],
    /// Longest `wait` of a poll.
    pub poll_wait_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keep_alive_interval: Duration::from_secs(15),
            retry: [Duration::from_secs(1), Duration::from_secs(4)],
            poll_wait_max: Duration::from_secs(55),
        }
    }
}
