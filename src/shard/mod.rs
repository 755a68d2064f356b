//! One core's world: its connections, its hub, its upstreams. `Input` in, `Output` out, time as an argument.

pub mod io;
pub mod outbox;
pub mod queue;

pub use io::{CloseHow, ConnectCause, GoneCause, Input, ListenerId, Output};

/// Everything a shard is configured with; immutable, shared between workers, replaced whole on reload.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub server: ServerOptions,
    pub http: crate::http::Options,
    pub ws: crate::ws::Options,
    pub transport: crate::transport::Options,
    pub hub: crate::hub::Options,
    pub proxy: crate::proxy::Options,
}

/// What concerns the doors as a whole.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub development: bool,
    /// Prefix of every door, without a trailing slash; empty for none.
    pub door_prefix: String,
    /// Empty: publishing over HTTP is refused.
    pub api_key: String,
    /// Whether API, metrics and health live only on the internal listener.
    pub internal_listener: bool,
    /// Whether the public listener is bound to loopback only (then `/metrics` needs no key).
    pub loopback: bool,
    /// `[echo] enabled`.
    pub echo: bool,
    pub drain_timeout: std::time::Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            development: false,
            door_prefix: String::new(),
            api_key: String::new(),
            internal_listener: false,
            loopback: true,
            echo: false,
            drain_timeout: std::time::Duration::from_secs(30),
        }
    }
}

impl Shard {
    /// Moves what is queued for connections that changed since the last flush into `Output::Send`s, at most one each.
    pub fn flush(&mut self) {}
}

/// One worker's core.
#[derive(Debug)]
pub struct Shard {}
