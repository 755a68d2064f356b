//! Counters owned per shard, merged when read.

/// Counts by label values; sets are small and known, so a list beats a map.
#[derive(Clone, Debug, Default)]
pub struct Labelled {
    counts: Vec<(Labels, u64)>,
}

/// Values of a family's labels, in the family's order. Unused places are empty.
pub type Labels = [Label; 3];

/// One label's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Label {
    Word(&'static str),
    Name(std::sync::Arc<str>),
    Number(u32),
    None,
}

impl From<&'static str> for Label {
    fn from(word: &'static str) -> Self {
        Self::Word(word)
    }
}

impl From<u16> for Label {
    fn from(number: u16) -> Self {
        Self::Number(u32::from(number))
    }
}

impl Labelled {
    pub fn add(&mut self, labels: Labels, count: u64) {
        match self.counts.iter_mut().find(|(known, _)| *known == labels) {
            Some((_, total)) => *total += count,
            None => self.counts.push((labels, count)),
        }
    }

    pub fn one(&mut self, label: impl Into<Label>) {
        self.add([label.into(), Label::None, Label::None], 1);
    }

    pub fn two(&mut self, first: impl Into<Label>, second: impl Into<Label>) {
        self.add([first.into(), second.into(), Label::None], 1);
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Labels, u64)> {
        self.counts.iter()
    }

    pub fn merge(&mut self, other: &Self) {
        for (labels, count) in &other.counts {
            self.add(labels.clone(), *count);
        }
    }
}

/// How a connection receives, as metrics name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TransportKind {
    WebSocket,
    EventStream,
    Stream,
    Poll,
    Http,
}

impl TransportKind {
    pub const ALL: [Self; 5] = [Self::WebSocket, Self::EventStream, Self::Stream, Self::Poll, Self::Http];

    /// The value of the `transport` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::EventStream => "sse",
            Self::Stream => "stream",
            Self::Poll => "poll",
            Self::Http => "http",
        }
    }
}

/// What one shard counts.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub connections_accepted: u64,
    pub connections_refused: Labelled,
    pub connections: [i64; 5],
    pub disconnects: Labelled,
    pub pong_timeouts: u64,
    pub publications: Labelled,
    pub publish_errors: Labelled,
    pub publish_duplicates: u64,
    pub deliveries: [u64; 5],
    pub resumes: Labelled,
    pub gaps: Labelled,
    pub slow_consumer: Labelled,
    pub publications_dropped: Labelled,
    pub received_bytes: u64,
    pub sent_bytes: [u64; 5],
    pub sends: u64,
    pub http_requests: Labelled,
    pub http_parse_errors: Labelled,
    pub ws_messages_received: Labelled,
    pub ws_protocol_errors: Labelled,
    pub upstream_requests: Labelled,
    pub upstream_errors: Labelled,
}

/// One worker's counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub counters: Counters,
    pub subscriptions: u64,
    pub channels: u64,
    pub position_records: u64,
    pub history_bytes: u64,
    pub send_queue_bytes: u64,
    pub timers: u64,
}

/// What a ring counts.
#[derive(Clone, Debug, Default)]
pub struct RingCounters {
    pub enters: u64,
    /// Submissions made early because the submission queue was full.
    pub sq_full: u64,
    /// Times that the completion queue had overflowed into the kernel's list.
    pub cq_overflows: u64,
    pub sends: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

/// What the worker's loop around a shard counts, for metrics: the shard itself cannot know it.
#[derive(Clone, Debug, Default)]
pub struct LoopFacts {
    pub ring: RingCounters,
    /// Receives that found the buffer ring empty.
    pub enobufs: u64,
    /// Sleeping workers woken by this one.
    pub doorbells: u64,
    /// Times that accepting was paused, by errno.
    pub accept_backoff: Labelled,
    pub accepted: u64,
    /// Fresh connections given to other workers.
    pub handed_over: u64,
    /// Operations whose completion never came; each is a bug.
    pub lost_completions: u64,
    /// Connections open now.
    pub connections: u64,
    /// Connections now without an armed receive.
    pub parked: u64,
    pub buffers_free: u64,
    pub mailbox_depth: u64,
    /// Turns by duration of their own work: up to 0.1, 0.3, 1, 3, 10, 30, 100 ms, and above.
    pub turns: [u64; 8],
    pub turn_nanos: u64,
}
