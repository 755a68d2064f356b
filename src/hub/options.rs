//! Policy of channels, by namespace (`[channels]`, `[namespaces.NAME]`).

use std::time::Duration;

/// `[channels]` and the namespaces.
#[derive(Clone, Debug)]
pub struct Options {
    /// Channels one connection may hold.
    pub per_connection_max: usize,
    /// Bytes of one publication's payload.
    pub publication_bytes_max: usize,
    /// Channels whose home is one worker; above it no other is made.
    pub entries_max: usize,
    /// How long the epoch and offset of an unused channel are remembered.
    pub position_ttl: Duration,
    /// Position records of one worker; oldest out.
    pub position_records_max: usize,
    /// History of all channels of one worker, in bytes; above it the least recently used channels lose their oldest.
    pub history_bytes_max: usize,
    /// How long an idempotency key is remembered (`[api] idempotency_window`).
    pub idempotency_window: Duration,
    /// What becomes of a name like `chat:1` that no prefix matches.
    pub unknown_namespace: UnknownNamespace,
    /// The first one is `default`.
    pub namespaces: Vec<Namespace>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            per_connection_max: 128,
            publication_bytes_max: 256 << 10,
            entries_max: 1_000_000,
            position_ttl: Duration::from_secs(720 * 3600),
            position_records_max: 1_000_000,
            history_bytes_max: 256 << 20,
            idempotency_window: Duration::from_secs(300),
            unknown_namespace: UnknownNamespace::Default,
            namespaces: vec![Namespace::default()],
        }
    }
}

impl Options {
    /// Whether only a channel's latest value matters.
    #[must_use]
    pub fn is_state(&self, channel: &str) -> bool {
        self.namespace(channel).is_some_and(|namespace| namespace.kind == ChannelKind::State)
    }

    /// The namespace of a channel: the longest matching prefix, else `default`. `None` where unknown ones are refused.
    #[must_use]
    pub fn namespace(&self, channel: &str) -> Option<&Namespace> {
        self.policy(self.namespace_id(channel))
    }

    /// The namespace behind what [`Options::namespace_id`] of the same options said.
    #[must_use]
    pub fn policy(&self, id: Option<NamespaceId>) -> Option<&Namespace> {
        self.namespaces.get(usize::from(id?.0))
    }

    /// Which namespace is a channel's, for whoever asks again and again.
    #[must_use]
    pub fn namespace_id(&self, channel: &str) -> Option<NamespaceId> {
        let mut best: Option<(usize, usize)> = None;
        for (at, namespace) in self.namespaces.iter().enumerate().skip(1) {
            for prefix in namespace.prefixes.iter().filter(|prefix| channel.starts_with(prefix.as_str())) {
                if best.is_none_or(|(_, length)| prefix.len() > length) {
                    best = Some((at, prefix.len()));
                }
            }
        }
        match (best, self.unknown_namespace) {
            (Some((at, _)), _) => u16::try_from(at).ok().map(NamespaceId),
            (None, UnknownNamespace::Refuse) if channel.contains(':') => None,
            (None, UnknownNamespace::Refuse | UnknownNamespace::Default) => Some(NamespaceId(0)),
        }
    }
}

/// One of the configured namespaces, by number: means nothing once the options have been replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamespaceId(u16);

/// What a channel name whose namespace is not configured means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnknownNamespace {
    /// It belongs to `default` (URLs and `room:1` are plain names elsewhere).
    Default,
    /// It can be neither subscribed nor published to: 404, or error 102.
    Refuse,
}

/// Policy of a group of channels.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// As in `[namespaces.NAME]` and in the `namespace` label.
    pub name: String,
    /// Channel name prefixes that belong here (`"chat:"`); longest over all namespaces wins. Empty for `default`.
    pub prefixes: Vec<String>,
    /// Decides what history keeps and what may be left out on the way.
    pub kind: ChannelKind,
    /// Publications kept; 0 keeps none (offsets still count).
    pub history_size: usize,
    /// An entry is never served after it.
    pub history_ttl: Duration,
    /// The same for a state channel's value; zero keeps it until the next one.
    pub state_ttl: Duration,
    /// Who may subscribe, whatever the transport.
    pub allow_subscribe: Access,
    /// Who may publish from a connection (`{"publish":…}`). The HTTP API always needs the key.
    pub allow_publish: Access,
    /// Whether items tell when they were stored.
    pub time: bool,
    /// Leading-edge coalescing window; zero sends at once.
    pub coalesce: Duration,
    /// What happens where `queue_bytes_max` is reached.
    pub slow_consumer: SlowConsumer,
    /// Queued bytes per connection before the slow-consumer policy acts.
    pub queue_bytes_max: usize,
}

impl Default for Namespace {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            prefixes: Vec::new(),
            kind: ChannelKind::Stream,
            history_size: 100,
            history_ttl: Duration::from_secs(300),
            state_ttl: Duration::ZERO,
            allow_subscribe: Access::Nobody,
            allow_publish: Access::Nobody,
            time: false,
            coalesce: Duration::ZERO,
            slow_consumer: SlowConsumer::Disconnect,
            queue_bytes_max: 64 << 10,
        }
    }
}

impl Namespace {
    /// Publications retained per channel.
    #[must_use]
    pub const fn retained(&self) -> usize {
        match self.kind {
            ChannelKind::Stream => self.history_size,
            ChannelKind::State => 1,
        }
    }

    /// How long one is served after it was stored.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        match self.kind {
            ChannelKind::Stream => self.history_ttl,
            ChannelKind::State if self.state_ttl.is_zero() => Duration::MAX,
            ChannelKind::State => self.state_ttl,
        }
    }
}

/// What a channel is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelKind {
    /// Every publication matters.
    Stream,
    /// The latest value matters: delivered on subscribe, conflated for slow readers.
    State,
}

/// Who may do something before tokens exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Not even holders of the key; what production begins with.
    Nobody,
    /// Holders of the API key.
    Key,
    /// With or without a key; what development mode begins with.
    Anyone,
}

/// What happens when a connection's queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlowConsumer {
    /// Close with 3008.
    Disconnect,
    /// Drop the oldest queued publications of the subscription; a gap follows.
    DropOldest,
    /// Keep only the newest publication of the subscription; a gap follows.
    Latest,
    /// Keep the newest publication of each key, of what has no key the newest; a gap follows.
    Conflate,
}

impl SlowConsumer {
    /// The word for it in config files and labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::DropOldest => "drop_oldest",
            Self::Latest => "latest",
            Self::Conflate => "conflate",
        }
    }
}
