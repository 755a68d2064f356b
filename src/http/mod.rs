//! HTTP/1.1 (RFC 9112): heads, bodies, routing of paths, responses. Pure.

pub mod body;
pub mod cors;
pub mod date;
mod error;
pub mod head;
mod lines;
pub mod path;
pub mod problem;
pub mod response;
pub mod response_head;

pub use error::HttpError;

use std::time::Duration;

/// Limits and deadlines of the HTTP side (`[http]`).
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of a request head, request line included.
    pub head_bytes_max: usize,
    /// Header fields in a request head.
    pub headers_max: usize,
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// Without a single body byte arriving, and what a body is given before its rate counts.
    pub body_timeout: Duration,
    /// Bytes per second that a body has to come at in the long run; 0 asks for none.
    pub body_rate_min: usize,
    /// Answers that wait for a client to take them, above which it is asked for no more requests.
    pub queue_bytes_max: usize,
    /// Idle between requests.
    pub keep_alive_timeout: Duration,
    /// Without a byte being taken of what waits to be sent, on any connection but one to or through an upstream.
    pub send_timeout: Duration,
    /// Origin globs allowed on the browser doors; `"*"` allows all (the default in development mode).
    pub allowed_origins: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            head_bytes_max: 16 << 10,
            headers_max: 100,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            body_rate_min: 1 << 10,
            queue_bytes_max: 64 << 10,
            keep_alive_timeout: Duration::from_secs(75),
            send_timeout: Duration::from_secs(60),
            allowed_origins: Vec::new(),
        }
    }
}
