//! What a shard is configured with.

use std::time::Duration;

use crate::hub::{ChannelName, SlowConsumer};

/// Everything a shard is configured with; immutable, shared between workers, replaced whole on reload.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Doors, key and drain: what belongs to no module below.
    pub server: ServerOptions,
    /// `[http]`, for clients and for what upstreams answer.
    pub http: crate::http::Options,
    /// `[websocket]`, for our own doors: tunnels to upstreams know none of it.
    pub ws: crate::ws::Options,
    /// `[stream]` and `[poll]`.
    pub transport: crate::transport::Options,
    /// `[channels]`, the namespaces, and `[api] idempotency_window`.
    pub hub: crate::hub::Options,
    /// `[upstreams.NAME]` and `[[routes]]`, names resolved.
    pub proxy: crate::proxy::Options,
    /// Has no keys: the defaults hold but in tests.
    pub spill: SpillOptions,
}

/// How much may wait in this worker for another one whose mailbox is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpillOptions {
    /// Waiting bytes above which no new publishing is accepted towards the worker.
    pub publish_bytes_max: usize,
    /// Waiting bytes above which deliveries collapse to gaps.
    pub delivery_bytes_max: usize,
}

impl Default for SpillOptions {
    fn default() -> Self {
        Self { publish_bytes_max: 4 << 20, delivery_bytes_max: 16 << 20 }
    }
}

/// What concerns the doors as a whole.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Whether the playground is served where no route is.
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
    /// How long connections are given to leave.
    pub drain_timeout: Duration,
    /// Handshakes of subscribers per second. 0: what the worker is measured to manage.
    pub handshakes_per_second_max: u32,
    /// Handshakes whose homes have not all answered. 0: a second's worth.
    pub handshakes_in_flight_max: u32,
    /// Over how long those who are turned away or told to go come back, beyond the reconnect delay.
    pub reconnect_spread_max: Duration,
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
            drain_timeout: Duration::from_secs(30),
            handshakes_per_second_max: 0,
            handshakes_in_flight_max: 0,
            reconnect_spread_max: Duration::from_secs(120),
        }
    }
}

impl Options {
    /// Bytes that may wait on a connection for publications of the channel, and what happens above that.
    #[must_use]
    pub fn slow_consumer(&self, channel: &ChannelName) -> (usize, SlowConsumer) {
        self.hub
            .namespace(channel.as_str())
            .map_or((0, SlowConsumer::Disconnect), |namespace| (namespace.queue_bytes_max, namespace.slow_consumer))
    }
}
