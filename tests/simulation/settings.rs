//! The configurations that runs use, and what they mean to the checker.

use std::time::Duration;

use ringmain::hub::{Access, ChannelKind, Namespace, SlowConsumer};
use ringmain::shard::{Options, SpillOptions};

pub const KEY: &str = "k";

/// The channels of every run. A channel is named by its place here.
pub const CHANNELS: [&str; 13] = [
    "a",
    "b",
    "none:1",
    "drop:1",
    "latest:1",
    "conflate:1",
    "window:1",
    "state:1",
    "short:1",
    "bulk:1",
    "bulk:2",
    "bulkdrop:1",
    "window:2",
];

/// Conflation keys in use; what has none counts as one more.
pub const KEYS: u64 = 3;

/// Most padding of a publication to a conflating channel.
pub const CONFLATED_PADDING_MAX: u64 = 100;

/// Enough for the largest publication of each key there, and the gaps between them: so the newest of none ever has to go.
const CONFLATED_BYTES: usize = 2400;

/// How long a drain may take.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// Over how long an avalanche is spread at most.
pub const SPREAD_MAX: Duration = Duration::from_secs(20);

/// Ugly things of one run, as probabilities.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub short_send: f64,
    pub late_refusal: f64,
    pub skipped_flush: f64,
    pub reset: f64,
    pub stall: f64,
    pub mailbox_delay: f64,
    pub stuck_mailbox: f64,
    pub clock_jump: f64,
    pub bad_token: f64,
    /// Largest slice of a fan-out.
    pub slices: u64,
}

impl Faults {
    /// Nothing ugly: then nobody may be told of a gap, refused or cut off.
    pub const CALM: Self = Self {
        short_send: 0.0,
        late_refusal: 0.0,
        skipped_flush: 0.0,
        reset: 0.0,
        stall: 0.0,
        mailbox_delay: 0.2,
        stuck_mailbox: 0.0,
        clock_jump: 0.0,
        bad_token: 0.0,
        slices: 3,
    };
}

/// One run's circumstances, all by its seed.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub shards: u16,
    pub faults: Faults,
    pub calm: bool,
    /// Whether channels that nobody uses are really forgotten, so that they come back under another epoch.
    pub forgetful: bool,
    /// Whether history is trimmed by the worker's memory as well.
    pub tight_memory: bool,
    /// Whether the configuration is replaced during the run.
    pub reloads: bool,
    /// Whether one worker is drained in the middle.
    pub drains: bool,
    /// Whether few may come in at once, and everybody is cut off and comes back together.
    pub avalanches: bool,
    /// Whether who takes nothing is waited for longer than the clock ever jumps, so that what is told to a stalled reader in the
    /// end can be told.
    pub patient: bool,
}

impl Settings {
    pub fn of(seed: u64) -> Self {
        let calm = seed % 8 == 5;
        let faults = Faults {
            short_send: 0.25,
            late_refusal: 0.5,
            skipped_flush: 0.05,
            reset: 0.2,
            stall: 0.15,
            mailbox_delay: 0.3,
            stuck_mailbox: 0.02,
            clock_jump: 0.3,
            bad_token: 0.05,
            slices: seed % 3 + 1,
        };
        Self {
            shards: [2, 3, 5, 1][usize::try_from(seed % 4).unwrap_or(0)],
            faults: if calm { Faults::CALM } else { faults },
            calm,
            forgetful: seed.is_multiple_of(2),
            tight_memory: seed % 16 == 7,
            reloads: seed % 5 == 3,
            drains: seed % 10 == 6,
            avalanches: seed % 6 == 4 && !calm,
            patient: !seed.is_multiple_of(3),
        }
    }

    pub fn options(&self) -> Options {
        let mut options = Options::default();
        options.server.api_key = KEY.to_owned();
        options.server.development = true;
        options.ws.deflate = true;
        options.hub.position_records_max = if self.forgetful { 1 } else { 1000 };
        options.hub.history_bytes_max = if self.tight_memory { 150_000 } else { 256 << 20 };
        options.hub.namespaces = namespaces();
        if self.avalanches {
            options.server.handshakes_per_second_max = 6;
            options.server.handshakes_in_flight_max = 3;
            options.server.reconnect_spread_max = SPREAD_MAX;
        }
        if self.patient {
            options.http.send_timeout = Duration::from_secs(600);
        }
        if !self.calm {
            options.spill = SpillOptions { publish_bytes_max: 60_000, delivery_bytes_max: 150_000 };
        }
        options
    }

    /// What a reload brings: less of everything.
    pub fn reloaded(&self) -> Options {
        let mut options = self.options();
        for namespace in &mut options.hub.namespaces {
            namespace.history_size = namespace.history_size / 4 * 3;
            if namespace.slow_consumer != SlowConsumer::Conflate {
                namespace.queue_bytes_max /= 2;
            }
            namespace.coalesce /= 2;
        }
        options
    }
}

fn namespaces() -> Vec<Namespace> {
    let base = Namespace {
        history_size: 20,
        allow_subscribe: Access::Anyone,
        allow_publish: Access::Anyone,
        queue_bytes_max: 1500,
        ..Namespace::default()
    };
    let named = |name: &str| Namespace { name: name.to_owned(), prefixes: vec![format!("{name}:")], ..base.clone() };
    vec![
        base.clone(),
        Namespace { history_size: 0, ..named("none") },
        Namespace { slow_consumer: SlowConsumer::DropOldest, ..named("drop") },
        Namespace { slow_consumer: SlowConsumer::Latest, ..named("latest") },
        Namespace { slow_consumer: SlowConsumer::Conflate, queue_bytes_max: CONFLATED_BYTES, ..named("conflate") },
        Namespace { coalesce: Duration::from_millis(50), ..named("window") },
        Namespace { kind: ChannelKind::State, ..named("state") },
        Namespace { history_size: 4, history_ttl: Duration::from_secs(5), ..named("short") },
        Namespace { queue_bytes_max: 100_000, ..named("bulk") },
        Namespace { queue_bytes_max: 70_000, slow_consumer: SlowConsumer::DropOldest, ..named("bulkdrop") },
    ]
}

/// What the checker knows of a channel's policy; of two configurations in one run, the stricter one.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub state: bool,
    /// Fewest publications kept.
    pub history_size: u64,
    pub history_ttl: Duration,
    /// Publications are large.
    pub bulk: bool,
    /// Most bytes that may wait for a blocked reader.
    pub queue_bytes_max: usize,
    /// Whether publications that are not kept are made here.
    pub fleeting: bool,
    /// Whether the newest publication of each key is kept for slow readers.
    pub conflates: bool,
}

impl Rules {
    pub fn of(channel: usize, settings: &Settings) -> Self {
        let name = CHANNELS[channel];
        let options = settings.options();
        let namespace = options.hub.namespace(name).expect("every channel has a namespace");
        let kept = if settings.reloads { namespace.history_size / 4 * 3 } else { namespace.history_size };
        Self {
            state: namespace.kind == ChannelKind::State,
            history_size: kept as u64,
            history_ttl: namespace.history_ttl,
            bulk: name.starts_with("bulk"),
            queue_bytes_max: namespace.queue_bytes_max,
            fleeting: name == "b",
            conflates: namespace.slow_consumer == SlowConsumer::Conflate,
        }
    }
}
