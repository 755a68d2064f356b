//! The one table of configuration keys: what they are called, what they default to, what they mean, where they go. Files, the
//! environment, `config default` and the documentation all come from it.

use std::time::Duration;

use super::value::{Expected, Value};
use super::{Config, LogFormat, Mode};
use crate::hub::{Access, ChannelKind, Namespace, SlowConsumer, UnknownNamespace, WORKERS_MAX};
use crate::proxy::Upstream;

/// One key of a table that becomes a `T`.
pub struct Key<T: 'static> {
    pub section: &'static str,
    pub name: &'static str,
    /// As it is written in a file.
    pub default: &'static str,
    pub doc: &'static str,
    pub set: fn(&mut T, &Value) -> Result<(), Expected>,
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(366 * 86_400);
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

const MODES: [(&str, Mode); 2] = [("production", Mode::Production), ("development", Mode::Development)];
const FORMATS: [(&str, LogFormat); 3] = [("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)];
const UNKNOWN: [(&str, UnknownNamespace); 2] = [("default", UnknownNamespace::Default), ("refuse", UnknownNamespace::Refuse)];
const KINDS: [(&str, ChannelKind); 2] = [("stream", ChannelKind::Stream), ("state", ChannelKind::State)];
const POLICIES: [(&str, SlowConsumer); 4] = [
    ("disconnect", SlowConsumer::Disconnect),
    ("drop_oldest", SlowConsumer::DropOldest),
    ("latest", SlowConsumer::Latest),
    ("conflate", SlowConsumer::Conflate),
];

macro_rules! key {
    ($section:literal, $name:literal, $default:literal, $doc:literal, $set:expr) => {
        Key { section: $section, name: $name, default: $default, doc: $doc, set: $set }
    };
}

/// Keys outside namespaces, upstreams and routes.
pub const KEYS: &[Key<Config>] = &[
    key!(
        "server",
        "mode",
        "\"production\"",
        "\"development\" opens everything to this machine; it is the mode without a file.",
        |c, v| {
            c.mode = v.word(&MODES)?;
            Ok(())
        }
    ),
    key!("server", "listen", "[\"127.0.0.1:8000\"]", "Addresses to listen on.", |c, v| {
        c.listen = addresses(&v.list()?)?;
        Ok(())
    }),
    key!("server", "internal_listen", "\"\"", "Set: the API, metrics and health move to this address.", |c, v| {
        let text = v.text()?;
        c.internal_listen = if text.is_empty() { None } else { Some(address(&text)?) };
        Ok(())
    }),
    key!("server", "workers", "0", "Threads, each with its own ring; 0 is one per core.", |c, v| {
        c.workers = v.count(0, usize::from(WORKERS_MAX))?;
        Ok(())
    }),
    key!("server", "door_prefix", "\"\"", "Moves every door: \"/_rt\" makes /_rt/channels/NAME.", |c, v| {
        let prefix = v.text()?;
        let fits = prefix.is_empty() || (prefix.starts_with('/') && !prefix.ends_with('/') && !prefix.contains("//"));
        c.shard.server.door_prefix =
            if fits { prefix } else { return Err(Expected("a path such as \"/_rt\", without a slash at its end".to_owned())) };
        Ok(())
    }),
    key!("server", "drain_timeout", "\"30s\"", "How long connections have to leave after SIGTERM.", |c, v| {
        c.shard.server.drain_timeout = v.duration(Duration::ZERO, HOUR)?;
        Ok(())
    }),
    key!("api", "key", "\"\"", "Whoever shows it may publish. Empty: publishing over HTTP is refused.", |c, v| {
        c.shard.server.api_key = v.text()?;
        Ok(())
    }),
    key!("api", "idempotency_window", "\"5m\"", "How long an Idempotency-Key is remembered.", |c, v| {
        c.shard.hub.idempotency_window = v.duration(SECOND, DAY)?;
        Ok(())
    }),
    key!(
        "http",
        "allowed_origins",
        "[]",
        "Pages that may use the doors, as globs: \"https://*.example.com\"; \"*\" allows all.",
        |c, v| {
            c.shard.http.allowed_origins = v.list()?;
            Ok(())
        }
    ),
    key!("http", "head_bytes_max", "\"16KiB\"", "Bytes of a request head.", |c, v| {
        c.shard.http.head_bytes_max = v.size(KIB, MIB)?;
        Ok(())
    }),
    key!("http", "headers_max", "100", "Header fields of a request.", |c, v| {
        c.shard.http.headers_max = v.count(8, 256)?;
        Ok(())
    }),
    key!("http", "head_timeout", "\"10s\"", "From the first byte of a head to its last.", |c, v| {
        c.shard.http.head_timeout = v.duration(SECOND, HOUR)?;
        Ok(())
    }),
    key!("http", "body_timeout", "\"30s\"", "Without a byte of a body arriving.", |c, v| {
        c.shard.http.body_timeout = v.duration(SECOND, HOUR)?;
        Ok(())
    }),
    key!("http", "keep_alive_timeout", "\"75s\"", "Idle between two requests.", |c, v| {
        c.shard.http.keep_alive_timeout = v.duration(SECOND, DAY)?;
        Ok(())
    }),
    key!("websocket", "message_bytes_max", "\"64KiB\"", "Bytes of a whole message, after inflating.", |c, v| {
        c.shard.ws.message_bytes_max = v.size(KIB, GIB)?;
        Ok(())
    }),
    key!("websocket", "fragments_max", "1024", "Fragments of one message.", |c, v| {
        c.shard.ws.fragments_max = u32::try_from(v.count(1, 65_536)?).unwrap_or(u32::MAX);
        Ok(())
    }),
    key!("websocket", "ping_interval", "\"25s\"", "Silence after which the server pings.", |c, v| {
        c.shard.ws.ping_interval = v.duration(SECOND, DAY)?;
        Ok(())
    }),
    key!("websocket", "pong_timeout", "\"8s\"", "Wait for an answer to a ping.", |c, v| {
        c.shard.ws.pong_timeout = v.duration(SECOND, HOUR)?;
        Ok(())
    }),
    key!("websocket", "deflate", "false", "Whether permessage-deflate is negotiated.", |c, v| {
        c.shard.ws.deflate = v.bool()?;
        Ok(())
    }),
    key!("websocket", "deflate_bytes_min", "64", "Messages below this go out uncompressed.", |c, v| {
        c.shard.ws.deflate_bytes_min = v.size(0, MIB)?;
        Ok(())
    }),
    key!("stream", "keep_alive_interval", "\"15s\"", "How often a stream is kept alive.", |c, v| {
        c.shard.transport.keep_alive_interval = v.duration(SECOND, HOUR)?;
        Ok(())
    }),
    key!("stream", "retry", "[\"1s\", \"4s\"]", "Reconnect delay told to clients: drawn between the two.", |c, v| {
        let parts = v.list()?;
        let [low, high] = parts.as_slice() else { return Err(Expected("two durations such as [\"1s\", \"4s\"]".to_owned())) };
        let part = |text: &String| Value::Text(text.clone()).duration(Duration::ZERO, HOUR);
        let (low, high) = (part(low)?, part(high)?);
        c.shard.transport.retry =
            if low <= high { [low, high] } else { return Err(Expected("two durations, the smaller first".to_owned())) };
        Ok(())
    }),
    key!("poll", "wait_max", "\"55s\"", "Longest wait of a poll.", |c, v| {
        c.shard.transport.poll_wait_max = v.duration(Duration::ZERO, 55 * SECOND)?;
        Ok(())
    }),
    key!("channels", "per_connection_max", "128", "Channels one connection may hold.", |c, v| {
        c.shard.hub.per_connection_max = v.count(1, 65_536)?;
        Ok(())
    }),
    key!("channels", "publication_bytes_max", "\"256KiB\"", "Bytes of one payload.", |c, v| {
        c.shard.hub.publication_bytes_max = v.size(1, 64 * MIB)?;
        Ok(())
    }),
    key!("channels", "position_ttl", "\"720h\"", "How long an unused channel's epoch and offset are remembered.", |c, v| {
        c.shard.hub.position_ttl = v.duration(SECOND, YEAR)?;
        Ok(())
    }),
    key!("channels", "position_records_max", "1000000", "Unused channels remembered by each worker; oldest out.", |c, v| {
        c.shard.hub.position_records_max = v.count(0, 1_000_000_000)?;
        Ok(())
    }),
    key!(
        "channels",
        "history_bytes_max",
        "\"256MiB\"",
        "History of each worker in memory; the least recently used channel is trimmed.",
        |c, v| {
            c.shard.hub.history_bytes_max = v.size(0, 1 << 40)?;
            Ok(())
        }
    ),
    key!("channels", "unknown_namespace", "\"default\"", "Where a name with an unknown prefix belongs; or \"refuse\".", |c, v| {
        c.shard.hub.unknown_namespace = v.word(&UNKNOWN)?;
        Ok(())
    }),
    key!("echo", "enabled", "false", "A WebSocket at /echo that says back what it is told, for conformance tests.", |c, v| {
        c.shard.server.echo = v.bool()?;
        Ok(())
    }),
    key!("log", "level", "\"info\"", "error, warn, info, debug or trace.", |c, v| {
        c.log_level = v.word(&[("error", "error"), ("warn", "warn"), ("info", "info"), ("debug", "debug"), ("trace", "trace")])?;
        Ok(())
    }),
    key!("log", "format", "\"auto\"", "\"human\", \"json\", or by whether a person is looking.", |c, v| {
        c.log_format = v.word(&FORMATS)?;
        Ok(())
    }),
    key!("io", "buffer_bytes", "\"64MiB\"", "Receive buffers of all workers together.", |c, v| {
        c.buffer_bytes = v.size(MIB, 16 * GIB)?;
        Ok(())
    }),
    key!(
        "io",
        "congestion_control",
        "\"\"",
        "TCP congestion control of clients' connections, such as \"cubic\"; empty: the host's.",
        |c, v| {
            c.congestion_control = v.text()?;
            Ok(())
        }
    ),
];

/// Keys of `[namespaces.NAME]`; a namespace starts as a copy of `default`.
pub const NAMESPACE_KEYS: &[Key<Namespace>] = &[
    key!("namespaces", "match", "[]", "Prefixes with a star, \"chat:*\"; by default the name and a colon.", |n, v| {
        n.prefixes = v.list()?.iter().map(|glob| prefix(glob)).collect::<Result<_, _>>()?;
        Ok(())
    }),
    key!("namespaces", "kind", "\"stream\"", "\"state\": only the latest value matters.", |n, v| {
        n.kind = v.word(&KINDS)?;
        Ok(())
    }),
    key!("namespaces", "history_size", "100", "Publications kept; 0 keeps none, and positions still count.", |n, v| {
        n.history_size = v.count(0, 1_000_000)?;
        Ok(())
    }),
    key!("namespaces", "history_ttl", "\"5m\"", "A publication is never served from history after it.", |n, v| {
        n.history_ttl = v.duration(SECOND, YEAR)?;
        Ok(())
    }),
    key!("namespaces", "allow_subscribe", "[]", "[\"anyone\"] or [\"key\"]; nobody by default.", |n, v| {
        n.allow_subscribe = access(&v.list()?)?;
        Ok(())
    }),
    key!("namespaces", "allow_publish", "[]", "Who may publish from a WebSocket: [\"anyone\"] or [\"key\"].", |n, v| {
        n.allow_publish = access(&v.list()?)?;
        Ok(())
    }),
    key!(
        "namespaces",
        "coalesce",
        "\"0s\"",
        "Publications of so long go out together; an idle channel's first goes at once.",
        |n, v| {
            n.coalesce = v.duration(Duration::ZERO, SECOND)?;
            Ok(())
        }
    ),
    key!(
        "namespaces",
        "slow_consumer",
        "\"disconnect\"",
        "What happens to a reader whose queue is full: or drop_oldest, latest, conflate.",
        |n, v| {
            n.slow_consumer = v.word(&POLICIES)?;
            Ok(())
        }
    ),
    key!("namespaces", "queue_bytes_max", "\"64KiB\"", "Bytes that may wait for one connection.", |n, v| {
        n.queue_bytes_max = v.size(KIB, GIB)?;
        Ok(())
    }),
];

/// Keys of `[upstreams.NAME]`.
pub const UPSTREAM_KEYS: &[Key<Upstream>] = &[
    key!("upstreams", "servers", "[]", "Addresses, \"host:port\"; names are looked up at start.", |u, v| {
        u.servers = v.list()?.iter().map(|server| resolve(server)).collect::<Result<_, _>>()?;
        if u.servers.len() == 1 { Ok(()) } else { Err(Expected("exactly one server in this version".to_owned())) }
    }),
    key!("upstreams", "connect_timeout", "\"5s\"", "To open a connection.", |u, v| {
        u.connect_timeout = v.duration(100 * MS, HOUR)?;
        Ok(())
    }),
    key!("upstreams", "response_timeout", "\"60s\"", "From the end of the request to the first byte of the response.", |u, v| {
        u.response_timeout = v.duration(100 * MS, DAY)?;
        Ok(())
    }),
    key!("upstreams", "idle_timeout", "\"120s\"", "Without a byte either way.", |u, v| {
        u.idle_timeout = v.duration(SECOND, DAY)?;
        Ok(())
    }),
    key!("upstreams", "idle_connections_max", "64", "Unused connections kept by each worker.", |u, v| {
        u.idle_connections_max = v.count(0, 65_536)?;
        Ok(())
    }),
    key!("upstreams", "connections_max", "1024", "Connections of each worker.", |u, v| {
        u.connections_max = v.count(1, 1_000_000)?;
        Ok(())
    }),
    key!(
        "upstreams",
        "waiting_max",
        "1024",
        "Requests that may wait for a connection, on each worker; more are answered 503.",
        |u, v| {
            u.waiting_max = v.count(0, 1_000_000)?;
            Ok(())
        }
    ),
];

fn access(words: &[String]) -> Result<Access, Expected> {
    match words {
        [] => Ok(Access::Nobody),
        [word] if word == "anyone" => Ok(Access::Anyone),
        [word] if word == "key" => Ok(Access::Key),
        _ => Err(Expected("[\"anyone\"], [\"key\"] or []".to_owned())),
    }
}

fn prefix(glob: &str) -> Result<String, Expected> {
    let prefix = glob.strip_suffix('*').filter(|prefix| !prefix.is_empty() && !prefix.contains('*'));
    prefix.map(str::to_owned).ok_or_else(|| Expected("prefixes with a star at the end, such as \"chat:*\"".to_owned()))
}

fn address(text: &str) -> Result<std::net::SocketAddr, Expected> {
    text.parse()
        .map_err(|_| Expected(format!("an address and a port such as \"127.0.0.1:8000\" or \"[::1]:8000\", not \"{text}\"")))
}

fn addresses(texts: &[String]) -> Result<Vec<std::net::SocketAddr>, Expected> {
    let addresses: Vec<_> = texts.iter().map(|text| address(text)).collect::<Result<_, _>>()?;
    if addresses.is_empty() { Err(Expected("at least one address".to_owned())) } else { Ok(addresses) }
}

fn resolve(server: &str) -> Result<std::net::SocketAddr, Expected> {
    let found = std::net::ToSocketAddrs::to_socket_addrs(server).ok().and_then(|mut addresses| addresses.next());
    found.ok_or_else(|| Expected(format!("a host that can be found and a port, such as \"127.0.0.1:3000\", not \"{server}\"")))
}
