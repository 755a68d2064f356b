//! Every key there is. This table alone drives reading the file, the environment and the flags, "did you mean", the cross-check
//! messages and `ringmain config default`. A value in an `Options` struct without a line here fails a test.

use std::time::Duration;

use super::field::{Field, Words};
use super::{Config, LogFormat, LogLevel, Mode};
use crate::hub::{ChannelKind, Namespace, SlowConsumer, UnknownNamespace};
use crate::net::Io;
use crate::proxy;

/// A key of a table that configures a `T`.
pub struct Key<T: 'static> {
    pub name: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    pub field: for<'a> fn(&'a mut T) -> Field<'a>,
    /// Whether a reload applies it; the rest needs a restart.
    pub live: bool,
}

/// A table whose name is fixed.
pub struct Table {
    pub name: &'static str,
    pub keys: &'static [Key<Config>],
}

/// An upstream whose servers are not resolved yet.
#[derive(Clone, Debug)]
pub struct UpstreamDraft {
    pub upstream: proxy::Upstream,
    pub servers: Vec<String>,
}

/// A route whose upstream is still a name.
#[derive(Clone, Debug, Default)]
pub struct RouteDraft {
    pub host: String,
    pub path: String,
    pub to: String,
}

/// Tables that later versions will have: refused by name, so that nobody believes them to be in force.
pub const RESERVED: [&str; 8] = ["tls", "auth", "limits", "broker", "cluster", "grip", "pusher", "admin"];

/// Tables of tables, each configuring one namespace, upstream or route.
pub const NAMESPACES: &str = "namespaces";
pub const UPSTREAMS: &str = "upstreams";
pub const ROUTES: &str = "routes";

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
const ZERO: Duration = Duration::ZERO;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const DECADE: Duration = Duration::from_secs(87_600 * 3600);

pub static TABLES: [Table; 10] = [
    Table { name: "server", keys: &SERVER },
    Table { name: "api", keys: &API },
    Table { name: "http", keys: &HTTP },
    Table { name: "websocket", keys: &WEBSOCKET },
    Table { name: "stream", keys: &STREAM },
    Table { name: "poll", keys: &POLL },
    Table { name: "channels", keys: &CHANNELS },
    Table { name: "echo", keys: &ECHO },
    Table { name: "io", keys: &IO },
    Table { name: "log", keys: &LOG },
];

static SERVER: [Key<Config>; 10] = [
    Key {
        name: "mode",
        doc: "\"production\" denies what is not allowed; \"development\" allows all, and needs no config file.",
        field: |config| Field::Choice(&mut config.mode),
        live: true,
    },
    Key {
        name: "listen",
        doc: "Addresses with ports. Port 0 takes a free one and prints it.",
        field: |config| Field::Addresses(&mut config.listen),
        live: false,
    },
    Key {
        name: "internal_listen",
        doc: "Set: the server API, metrics and health move to this address, away from the public one. It stays open in a drain.",
        field: |config| Field::Address(&mut config.internal_listen),
        live: false,
    },
    Key {
        name: "workers",
        doc: "Threads, each with its own ring. 0: one per core.",
        field: |config| Field::Count(&mut config.workers, 0..=usize::from(crate::hub::WORKERS_MAX)),
        live: false,
    },
    Key {
        name: "io",
        doc: "Kernel interface: \"uring\", \"epoll\", or \"auto\": io_uring where the kernel lets us, else epoll. The start says which and why.",
        field: |config| Field::Choice(&mut config.interface),
        live: false,
    },
    Key {
        name: "door_prefix",
        doc: "\"/_rt\" moves every door: /_rt/channels/NAME, /_rt/api/publish, /_rt/metrics.",
        field: |config| Field::Prefix(&mut config.shard.server.door_prefix),
        live: true,
    },
    Key {
        name: "drain_timeout",
        doc: "How long connections are given to leave after SIGTERM.",
        field: |config| Field::Duration(&mut config.shard.server.drain_timeout, ZERO..=HOUR),
        live: true,
    },
    Key {
        name: "handshakes_per_second_max",
        doc: "Subscribers that may come in per second and worker; others are told when to come back. 0: what half of its time is good for.",
        field: |config| Field::Count32(&mut config.shard.server.handshakes_per_second_max, 0..=1_000_000),
        live: true,
    },
    Key {
        name: "handshakes_in_flight_max",
        doc: "Of them, per worker, those whose channels have not all answered. 0: a second's worth.",
        field: |config| Field::Count32(&mut config.shard.server.handshakes_in_flight_max, 0..=100_000_000),
        live: true,
    },
    Key {
        name: "reconnect_spread_max",
        doc: "Longest time over which clients that are turned away or told to go come back, beyond `retry` in [stream].",
        field: |config| Field::Duration(&mut config.shard.server.reconnect_spread_max, ZERO..=HOUR),
        live: true,
    },
];

static API: [Key<Config>; 2] = [
    Key {
        name: "key",
        doc: "Sent as `Authorization: apikey KEY` or `X-API-Key: KEY`. Empty: publishing over HTTP is refused.",
        field: |config| Field::Secret(&mut config.shard.server.api_key),
        live: true,
    },
    Key {
        name: "idempotency_window",
        doc: "How long an Idempotency-Key is remembered.",
        field: |config| Field::Duration(&mut config.shard.hub.idempotency_window, SECOND..=DAY),
        live: true,
    },
];

static HTTP: [Key<Config>; 9] = [
    Key {
        name: "allowed_origins",
        doc: "Pages of other origins that may use the browser doors, as in \"https://*.example.com\". \"*\": all of them.",
        field: |config| Field::Texts(&mut config.shard.http.allowed_origins),
        live: true,
    },
    Key {
        name: "head_bytes_max",
        doc: "Bytes of a request head, request line included.",
        field: |config| Field::Bytes(&mut config.shard.http.head_bytes_max, KIB..=MIB),
        live: true,
    },
    Key {
        name: "headers_max",
        doc: "Header fields in a request head.",
        field: |config| Field::Count(&mut config.shard.http.headers_max, 1..=256),
        live: true,
    },
    Key {
        name: "head_timeout",
        doc: "From the first byte of a head to its last.",
        field: |config| Field::Duration(&mut config.shard.http.head_timeout, MILLISECOND..=HOUR),
        live: true,
    },
    Key {
        name: "body_timeout",
        doc: "Without a byte of a request's body arriving; the client is answered 408.",
        field: |config| Field::Duration(&mut config.shard.http.body_timeout, MILLISECOND..=HOUR),
        live: true,
    },
    Key {
        name: "body_rate_min",
        doc: "Bytes per second at which a request's body has to come, after a first body_timeout. 0: any rate.",
        field: |config| Field::Bytes(&mut config.shard.http.body_rate_min, 0..=GIB),
        live: true,
    },
    Key {
        name: "queue_bytes_max",
        doc: "Answers that may wait for a client to take them; while more do, it is not read. At half of it a backend is not read.",
        field: |config| Field::Bytes(&mut config.shard.http.queue_bytes_max, KIB..=64 * MIB),
        live: true,
    },
    Key {
        name: "keep_alive_timeout",
        doc: "Idle between two requests on a connection.",
        field: |config| Field::Duration(&mut config.shard.http.keep_alive_timeout, MILLISECOND..=DAY),
        live: true,
    },
    Key {
        name: "send_timeout",
        doc: "Without a byte being taken of what waits for a response, a stream or a WebSocket; the connection is closed then.",
        field: |config| Field::Duration(&mut config.shard.http.send_timeout, SECOND..=DAY),
        live: true,
    },
];

static WEBSOCKET: [Key<Config>; 6] = [
    Key {
        name: "message_bytes_max",
        doc: "Bytes of a message from a client, after inflating.",
        field: |config| Field::Bytes(&mut config.shard.ws.message_bytes_max, 1..=GIB),
        live: true,
    },
    Key {
        name: "fragments_max",
        doc: "Fragments of a message.",
        field: |config| Field::Count32(&mut config.shard.ws.fragments_max, 1..=65_536),
        live: true,
    },
    Key {
        name: "ping_interval",
        doc: "Silence of a client after which it is pinged, or up to a quarter less, so that a crowd that came together is not pinged all at once.",
        field: |config| Field::Duration(&mut config.shard.ws.ping_interval, MILLISECOND..=DAY),
        live: true,
    },
    Key {
        name: "pong_timeout",
        doc: "Wait for the pong before the connection is closed (3012). Shorter than ping_interval.",
        field: |config| Field::Duration(&mut config.shard.ws.pong_timeout, MILLISECOND..=HOUR),
        live: true,
    },
    Key {
        name: "deflate",
        doc: "Whether permessage-deflate is negotiated: fewer bytes for more CPU. A broadcast is compressed once per worker.",
        field: |config| Field::Switch(&mut config.shard.ws.deflate),
        live: true,
    },
    Key {
        name: "deflate_bytes_min",
        doc: "Messages below this size are sent uncompressed all the same.",
        field: |config| Field::Bytes(&mut config.shard.ws.deflate_bytes_min, 0..=GIB),
        live: true,
    },
];

static STREAM: [Key<Config>; 2] = [
    Key {
        name: "keep_alive_interval",
        doc: "How often a keep-alive is sent on an event stream or NDJSON stream; the first up to a quarter earlier, so that a crowd that came together does not get them all at once.",
        field: |config| Field::Duration(&mut config.shard.transport.keep_alive_interval, MILLISECOND..=HOUR),
        live: true,
    },
    Key {
        name: "retry",
        doc: "Reconnect delay told to clients, drawn between the two for each, so that they do not all come back at once.",
        field: |config| Field::Durations(&mut config.shard.transport.retry, ZERO..=HOUR),
        live: true,
    },
];

static POLL: [Key<Config>; 1] = [Key {
    name: "wait_max",
    doc: "Longest `wait` of a poll, at most 55s: many proxies give up after 60.",
    field: |config| Field::Duration(&mut config.shard.transport.poll_wait_max, ZERO..=Duration::from_secs(55)),
    live: true,
}];

static CHANNELS: [Key<Config>; 7] = [
    Key {
        name: "per_connection_max",
        doc: "Channels that one connection may hold. A URL names at most 32 of them.",
        field: |config| Field::Count(&mut config.shard.hub.per_connection_max, 1..=65_535),
        live: true,
    },
    Key {
        name: "publication_bytes_max",
        doc: "Bytes of a publication's payload.",
        field: |config| Field::Bytes(&mut config.shard.hub.publication_bytes_max, 1..=64 * MIB),
        live: true,
    },
    Key {
        name: "entries_max",
        doc: "Channels in use per worker. Above it subscribing and publishing to another one is refused for now.",
        field: |config| Field::Count(&mut config.shard.hub.entries_max, 1..=1_000_000_000),
        live: true,
    },
    Key {
        name: "position_ttl",
        doc: "How long an unused channel's epoch and offset are remembered.",
        field: |config| Field::Duration(&mut config.shard.hub.position_ttl, SECOND..=DECADE),
        live: true,
    },
    Key {
        name: "position_records_max",
        doc: "How many of them each worker keeps; the oldest are forgotten first.",
        field: |config| Field::Count(&mut config.shard.hub.position_records_max, 0..=1_000_000_000),
        live: true,
    },
    Key {
        name: "history_bytes_max",
        doc: "History of all channels of one worker; above it the least recently used channels lose their oldest publications.",
        field: |config| Field::Bytes(&mut config.shard.hub.history_bytes_max, 0..=1024 * GIB),
        live: true,
    },
    Key {
        name: "unknown_namespace",
        doc: "A name like chat:room without a matching namespace: \"default\" treats it as a plain name, \"refuse\" refuses it.",
        field: |config| Field::Choice(&mut config.shard.hub.unknown_namespace),
        live: true,
    },
];

static ECHO: [Key<Config>; 1] = [Key {
    name: "enabled",
    doc: "A WebSocket door at /echo that sends every message back, for conformance tests and benches.",
    field: |config| Field::Switch(&mut config.shard.server.echo),
    live: true,
}];

static IO: [Key<Config>; 3] = [
    Key {
        name: "buffers",
        doc: "Receive buffers of 2 KiB per worker, rounded down to a power of two. 0: a share of 64 MiB, 512 to 4,096.",
        field: |config| Field::Count(&mut config.io.buffers, 0..=32_768),
        live: false,
    },
    Key {
        name: "congestion_control",
        doc: "TCP congestion control of accepted connections, such as \"cubic\". Empty: the system's default.",
        field: |config| Field::Text(&mut config.io.congestion_control),
        live: false,
    },
    Key {
        name: "park_after",
        doc: "Silence after which a connection gives up its armed receive and keeps only a poll: 600 bytes of kernel memory less.",
        field: |config| Field::Duration(&mut config.io.park_after, MILLISECOND..=HOUR),
        live: false,
    },
];

static LOG: [Key<Config>; 2] = [
    Key {
        name: "level",
        doc: "\"error\", \"warn\", \"info\", \"debug\" (every connection) or \"trace\".",
        field: |config| Field::Choice(&mut config.log.level),
        live: false,
    },
    Key {
        name: "format",
        doc: "\"human\", \"json\", or \"auto\": human on a terminal, JSON otherwise. Logs go to standard error.",
        field: |config| Field::Choice(&mut config.log.format),
        live: false,
    },
];

pub static NAMESPACE: [Key<Namespace>; 11] = [
    Key {
        name: "match",
        doc: "Channels that belong here, as prefixes with a final `*`; the longest wins. Left out: [\"<name>:*\"].",
        field: |namespace| Field::Patterns(&mut namespace.prefixes),
        live: true,
    },
    Key {
        name: "kind",
        doc: "\"stream\": every publication matters. \"state\": the latest value does, and is sent first.",
        field: |namespace| Field::Choice(&mut namespace.kind),
        live: true,
    },
    Key {
        name: "history_size",
        doc: "Publications kept per channel for those who come back. 0: none.",
        field: |namespace| Field::Count(&mut namespace.history_size, 0..=1_000_000),
        live: true,
    },
    Key {
        name: "history_ttl",
        doc: "How long one is kept; it is never served after that.",
        field: |namespace| Field::Duration(&mut namespace.history_ttl, MILLISECOND..=DECADE),
        live: true,
    },
    Key {
        name: "state_ttl",
        doc: "How long a state channel's value is kept, instead of history_ttl. 0s: until the next one.",
        field: |namespace| Field::Duration(&mut namespace.state_ttl, ZERO..=DECADE),
        live: true,
    },
    Key {
        name: "allow_subscribe",
        doc: "Who may subscribe: [\"anyone\"], [\"key\"] (who shows the API key), [] (nobody).",
        field: |namespace| Field::Access(&mut namespace.allow_subscribe),
        live: true,
    },
    Key {
        name: "allow_publish",
        doc: "Who may publish from a WebSocket connection, in the same words. Publishing over HTTP needs the API key, always.",
        field: |namespace| Field::Access(&mut namespace.allow_publish),
        live: true,
    },
    Key {
        name: "time",
        doc: "Whether items have a \"time\": when they were stored, in milliseconds since 1970 UTC. It makes each 21 bytes longer.",
        field: |namespace| Field::Switch(&mut namespace.time),
        live: true,
    },
    Key {
        name: "coalesce",
        doc: "Publications within this time leave together; a quiet channel sends at once. 0s: each by itself.",
        field: |namespace| Field::Duration(&mut namespace.coalesce, ZERO..=Duration::from_secs(10)),
        live: true,
    },
    Key {
        name: "slow_consumer",
        doc: "Where queue_bytes_max is reached: \"disconnect\", or drop and mark the gap: \"drop_oldest\", \"latest\", \"conflate\" (by key).",
        field: |namespace| Field::Choice(&mut namespace.slow_consumer),
        live: true,
    },
    Key {
        name: "queue_bytes_max",
        doc: "Bytes that may wait on a connection for a reader that does not keep up.",
        field: |namespace| Field::Bytes(&mut namespace.queue_bytes_max, KIB..=GIB),
        live: true,
    },
];

pub static UPSTREAM: [Key<UpstreamDraft>; 7] = [
    Key {
        name: "servers",
        doc: "host:port; names are resolved at start. One server is used in this version.",
        field: |draft| Field::Servers(&mut draft.servers),
        live: true,
    },
    Key {
        name: "connect_timeout",
        doc: "To open a connection.",
        field: |draft| Field::Duration(&mut draft.upstream.connect_timeout, MILLISECOND..=HOUR),
        live: true,
    },
    Key {
        name: "response_timeout",
        doc: "From the last byte of the request to the first of the response.",
        field: |draft| Field::Duration(&mut draft.upstream.response_timeout, MILLISECOND..=DAY),
        live: true,
    },
    Key {
        name: "idle_timeout",
        doc: "Without a byte in either direction of a body or a passed-through WebSocket.",
        field: |draft| Field::Duration(&mut draft.upstream.idle_timeout, MILLISECOND..=DAY),
        live: true,
    },
    Key {
        name: "idle_connections_max",
        doc: "Idle connections kept open per worker.",
        field: |draft| Field::Count(&mut draft.upstream.idle_connections_max, 0..=65_535),
        live: true,
    },
    Key {
        name: "connections_max",
        doc: "Connections per worker; further requests wait.",
        field: |draft| Field::Count(&mut draft.upstream.connections_max, 1..=1_000_000),
        live: true,
    },
    Key {
        name: "waiting_max",
        doc: "Requests per worker that may wait; more are answered 503.",
        field: |draft| Field::Count(&mut draft.upstream.waiting_max, 0..=1_000_000),
        live: true,
    },
];

pub static ROUTE: [Key<RouteDraft>; 3] = [
    Key {
        name: "host",
        doc: "Host name, compared without case and port. Empty: every host.",
        field: |route| Field::Text(&mut route.host),
        live: true,
    },
    Key {
        name: "path",
        doc: "Path prefix in whole segments: /app is also /app/x, not /apple. The longest wins.",
        field: |route| Field::Path(&mut route.path),
        live: true,
    },
    Key { name: "to", doc: "Name of an upstream.", field: |route| Field::Text(&mut route.to), live: true },
];

impl Words for Mode {
    const WORDS: &'static [&'static str] = &["production", "development"];
    const VALUES: &'static [Self] = &[Self::Production, Self::Development];
}

impl Words for Io {
    const WORDS: &'static [&'static str] = &["auto", "uring", "epoll"];
    const VALUES: &'static [Self] = &[Self::Auto, Self::Uring, Self::Epoll];
}

impl Words for LogLevel {
    const WORDS: &'static [&'static str] = &["error", "warn", "info", "debug", "trace"];
    const VALUES: &'static [Self] = &[Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];
}

impl Words for LogFormat {
    const WORDS: &'static [&'static str] = &["auto", "human", "json"];
    const VALUES: &'static [Self] = &[Self::Auto, Self::Human, Self::Json];
}

impl Words for UnknownNamespace {
    const WORDS: &'static [&'static str] = &["default", "refuse"];
    const VALUES: &'static [Self] = &[Self::Default, Self::Refuse];
}

impl Words for ChannelKind {
    const WORDS: &'static [&'static str] = &["stream", "state"];
    const VALUES: &'static [Self] = &[Self::Stream, Self::State];
}

impl Words for SlowConsumer {
    const WORDS: &'static [&'static str] = &["disconnect", "drop_oldest", "latest", "conflate"];
    const VALUES: &'static [Self] = &[Self::Disconnect, Self::DropOldest, Self::Latest, Self::Conflate];
}
