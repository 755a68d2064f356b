//! Counters owned per shard, merged when read, and written as Prometheus text.
//!
//! ```text
//!   shard: Counters ──┐
//!                     ├─ Snapshot ──(mailbox)──▶ merge ──▶ render
//!   shell: LoopFacts ─┘
//! ```
//! Invariant: no label's value comes from a client: they are words of ours, names of the configuration, or numbers of a small set.

mod histogram;
mod render;

pub use histogram::{Durations, NamedDurations, Sizes};

use std::time::Duration;

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
    /// One that the code spells out, as `sse`.
    Word(&'static str),
    /// A namespace's or an upstream's, from the configuration.
    Name(std::sync::Arc<str>),
    /// A code, a status, an errno or a worker.
    Number(u32),
    /// Fills the places that a family has no label for.
    None,
}

impl Label {
    fn is_name(&self, name: &str) -> bool {
        matches!(self, Self::Name(known) if known.as_ref() == name)
    }
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
    /// Adds to the count under these labels.
    pub fn add(&mut self, labels: Labels, count: u64) {
        match self.counts.iter_mut().find(|(known, _)| *known == labels) {
            Some((_, total)) => *total += count,
            None => self.counts.push((labels, count)),
        }
    }

    /// Adds under a name of the configuration.
    pub fn named(&mut self, name: &str, count: u64) {
        match self.counts.iter_mut().find(|(labels, _)| labels[0].is_name(name)) {
            Some((_, total)) => *total += count,
            None => self.counts.push(([Label::Name(name.into()), Label::None, Label::None], count)),
        }
    }

    /// Adds one under a word and a name of the configuration.
    pub fn word_and_name(&mut self, word: &'static str, name: &str) {
        match self.counts.iter_mut().find(|(labels, _)| labels[0] == Label::Word(word) && labels[1].is_name(name)) {
            Some((_, total)) => *total += 1,
            None => self.counts.push(([word.into(), Label::Name(name.into()), Label::None], 1)),
        }
    }

    /// Adds one under a name of the configuration and another label.
    pub fn name_and(&mut self, name: &str, label: impl Into<Label>) {
        let label = label.into();
        match self.counts.iter_mut().find(|(labels, _)| labels[0].is_name(name) && labels[1] == label) {
            Some((_, total)) => *total += 1,
            None => self.counts.push(([Label::Name(name.into()), label, Label::None], 1)),
        }
    }

    /// Takes one off again, of what counts what there is now.
    pub fn unnamed(&mut self, name: &str) {
        if let Some((_, total)) = self.counts.iter_mut().find(|(labels, _)| labels[0].is_name(name)) {
            *total = total.saturating_sub(1);
        }
    }

    /// Adds one under a single label.
    pub fn one(&mut self, label: impl Into<Label>) {
        self.add([label.into(), Label::None, Label::None], 1);
    }

    /// Adds one under two labels.
    pub fn two(&mut self, first: impl Into<Label>, second: impl Into<Label>) {
        self.add([first.into(), second.into(), Label::None], 1);
    }

    /// The count under these labels.
    #[must_use]
    pub fn get(&self, labels: &Labels) -> u64 {
        self.counts.iter().find(|(known, _)| known == labels).map_or(0, |(_, count)| *count)
    }

    /// Labels and counts, in the order in which they first came.
    pub fn iter(&self) -> impl Iterator<Item = &(Labels, u64)> {
        self.counts.iter()
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (labels, count) in &other.counts {
            self.add(labels.clone(), *count);
        }
    }
}

/// How a connection receives, as metrics name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TransportKind {
    /// `ws`, the echo door included.
    WebSocket,
    /// `sse`.
    EventStream,
    /// `stream`: NDJSON.
    Stream,
    /// `poll`, until it is answered.
    Poll,
    /// `http`: everything else, both sides of an exchange with an upstream among it.
    Http,
}

impl TransportKind {
    /// All of them, in the order of their places in arrays.
    pub const ALL: [Self; 5] = [Self::WebSocket, Self::EventStream, Self::Stream, Self::Poll, Self::Http];

    /// Its place in arrays by transport.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

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

/// What a connection is, for the gauge of connections: a transport and what is spoken over it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionKind {
    /// Items or payloads of channels over a WebSocket.
    WebSocket,
    /// The echo door.
    Echo,
    /// Items or payloads of channels over `text/event-stream`.
    EventStream,
    /// Items of channels over NDJSON.
    Stream,
    /// A poll from its request to its answer.
    Poll,
    /// Between or inside requests to our own doors.
    Http,
    /// A client's side of an exchange with an upstream.
    Proxy,
}

impl ConnectionKind {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::WebSocket, Self::Echo, Self::EventStream, Self::Stream, Self::Poll, Self::Http, Self::Proxy];

    /// The values of the `transport` and `protocol` labels.
    #[must_use]
    pub const fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::WebSocket => ("ws", "plain"),
            Self::Echo => ("ws", "echo"),
            Self::EventStream => ("sse", "plain"),
            Self::Stream => ("stream", "plain"),
            Self::Poll => ("poll", "plain"),
            Self::Http => ("http", "http"),
            Self::Proxy => ("http", "proxy"),
        }
    }
}

/// What one shard counts.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Clients' connections.
    pub connections_accepted: u64,
    /// Subscribers turned away, by reason.
    pub connections_refused: Labelled,
    /// Subscribers and WebSockets gone, by transport and close code.
    pub disconnects: Labelled,
    /// From the accepting of a connection to the answer of the upgrade or stream that is its first request.
    pub handshake_duration: Durations,
    /// WebSockets whose ping was not answered in time.
    pub pong_timeouts: u64,
    /// Stored, by door and namespace; counted at the home.
    pub publications: Labelled,
    /// Refused, by error code.
    pub publish_errors: Labelled,
    /// Repeats of an idempotency key.
    pub publish_duplicates: u64,
    /// Publications queued for subscribers, by [`TransportKind`].
    pub deliveries: [u64; 5],
    /// By transport and outcome.
    pub resumes: Labelled,
    /// Told to subscribers, by reason.
    pub gaps: Labelled,
    /// Full queues, by policy.
    pub slow_consumer: Labelled,
    /// Given up for a full queue, by policy.
    pub publications_dropped: Labelled,
    /// Publications that became a gap because too much waited, by where: for a worker, or for a channel's subscribers.
    pub publications_collapsed: Labelled,
    /// Publications that history let go of, by reason.
    pub history_trimmed: Labelled,
    /// Subscribes and publishes refused because there were too many channels.
    pub channels_refused: u64,
    /// Messages that found a mailbox full, by worker.
    pub mailbox_spilled: Labelled,
    /// From clients and upstreams.
    pub received_bytes: u64,
    /// Taken by the kernel, by [`TransportKind`].
    pub sent_bytes: [u64; 5],
    /// Each of everything that waited for its connection; upstreams included.
    pub sends: u64,
    /// Publications in each send that carried any.
    pub publications_per_send: Sizes,
    /// Answered, by door, method and status.
    pub http_requests: Labelled,
    /// Requests that broke a rule, by rule.
    pub http_parse_errors: Labelled,
    /// Messages and control frames, by opcode.
    pub ws_messages_received: Labelled,
    /// WebSockets closed for breaking the protocol, by close code.
    pub ws_protocol_errors: Labelled,
    /// By upstream and status.
    pub upstream_requests: Labelled,
    /// By upstream and reason.
    pub upstream_errors: Labelled,
    /// From a request's head to the end of its response, by upstream.
    pub upstream_duration: NamedDurations,
}

impl Counters {
    fn merge(&mut self, other: &Self) {
        self.connections_accepted += other.connections_accepted;
        self.pong_timeouts += other.pong_timeouts;
        self.publish_duplicates += other.publish_duplicates;
        self.channels_refused += other.channels_refused;
        self.received_bytes += other.received_bytes;
        self.sends += other.sends;
        self.handshake_duration.merge(&other.handshake_duration);
        self.publications_per_send.merge(&other.publications_per_send);
        self.upstream_duration.merge(&other.upstream_duration);
        add_all(&mut self.deliveries, &other.deliveries);
        add_all(&mut self.sent_bytes, &other.sent_bytes);
        for (total, part) in self.families_mut().into_iter().zip(other.families()) {
            total.merge(part.2);
        }
    }

    /// Counters with labels: name, label names, counts.
    fn families(&self) -> [(&'static str, &'static [&'static str], &Labelled); 17] {
        [
            ("connections_refused_total", &["reason"], &self.connections_refused),
            ("disconnects_total", &["transport", "code"], &self.disconnects),
            ("publications_total", &["door", "namespace"], &self.publications),
            ("publish_errors_total", &["code"], &self.publish_errors),
            ("resumes_total", &["transport", "outcome"], &self.resumes),
            ("gaps_total", &["reason"], &self.gaps),
            ("slow_consumer_total", &["policy"], &self.slow_consumer),
            ("publications_dropped_total", &["policy"], &self.publications_dropped),
            ("publications_collapsed_total", &["at"], &self.publications_collapsed),
            ("history_trimmed_total", &["reason"], &self.history_trimmed),
            ("mailbox_spilled_total", &["worker"], &self.mailbox_spilled),
            ("http_requests_total", &["door", "method", "status"], &self.http_requests),
            ("http_parse_errors_total", &["reason"], &self.http_parse_errors),
            ("ws_messages_received_total", &["opcode"], &self.ws_messages_received),
            ("ws_protocol_errors_total", &["code"], &self.ws_protocol_errors),
            ("upstream_requests_total", &["upstream", "status"], &self.upstream_requests),
            ("upstream_errors_total", &["upstream", "reason"], &self.upstream_errors),
        ]
    }

    fn families_mut(&mut self) -> [&mut Labelled; 17] {
        [
            &mut self.connections_refused,
            &mut self.disconnects,
            &mut self.publications,
            &mut self.publish_errors,
            &mut self.resumes,
            &mut self.gaps,
            &mut self.slow_consumer,
            &mut self.publications_dropped,
            &mut self.publications_collapsed,
            &mut self.history_trimmed,
            &mut self.mailbox_spilled,
            &mut self.http_requests,
            &mut self.http_parse_errors,
            &mut self.ws_messages_received,
            &mut self.ws_protocol_errors,
            &mut self.upstream_requests,
            &mut self.upstream_errors,
        ]
    }
}

fn add_all(totals: &mut [u64], counts: &[u64]) {
    for (total, count) in totals.iter_mut().zip(counts) {
        *total += count;
    }
}

/// One worker's counters at one moment, or several workers' together.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Since the start of the process.
    pub counters: Counters,
    /// By [`ConnectionKind`].
    pub connections: [u64; ConnectionKind::ALL.len()],
    /// By namespace.
    pub subscriptions: Labelled,
    /// With an entry at their homes now.
    pub channels: u64,
    /// Channels without an entry whose epoch and offset are remembered now.
    pub position_records: u64,
    /// Held now for those who come back, each publication counted at its home only.
    pub history_bytes: u64,
    /// Waiting now for sockets to take them, those shared by many connections counted for each.
    pub send_queue_bytes: u64,
    /// By upstream and state.
    pub upstream_connections: Labelled,
    /// What is told apart by worker.
    pub workers: Vec<WorkerFacts>,
}

/// What is told apart by worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerFacts {
    /// Its number.
    pub worker: u16,
    /// Deadlines set now, at most one for a connection.
    pub timers: u64,
    /// Begun and not answered by all of their homes.
    pub handshakes_in_flight: u64,
    /// So many a second the worker is estimated to manage beside everything else.
    pub handshake_capacity: u64,
    /// From the storing of a run's oldest publication at its home to the submission that carried the run's last send.
    pub publish_to_last_write: Durations,
    /// What the shard had to ask for.
    pub shell: LoopFacts,
}

impl Snapshot {
    /// Adds another worker's.
    pub fn merge(&mut self, other: Self) {
        self.counters.merge(&other.counters);
        add_all(&mut self.connections, &other.connections);
        self.subscriptions.merge(&other.subscriptions);
        self.channels += other.channels;
        self.position_records += other.position_records;
        self.history_bytes += other.history_bytes;
        self.send_queue_bytes += other.send_queue_bytes;
        self.upstream_connections.merge(&other.upstream_connections);
        self.workers.extend(other.workers);
    }
}

/// What a ring counts.
#[derive(Clone, Debug, Default)]
pub struct RingCounters {
    /// System calls that submitted or waited: mostly one in a turn.
    pub enters: u64,
    /// Submissions made early because the submission queue was full.
    pub sq_full: u64,
    /// Times that the completion queue had overflowed into the kernel's list.
    pub cq_overflows: u64,
    /// Decided by the kernel, whether taken whole, in part or not at all.
    pub sends: u64,
    /// Taken by the kernel, to clients and upstreams.
    pub sent_bytes: u64,
    /// From clients and upstreams.
    pub received_bytes: u64,
}

/// Upper ends of the classes of turn durations; the last class has none.
pub const TURN_BOUNDS: [Duration; 7] = [
    Duration::from_micros(100),
    Duration::from_micros(300),
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(100),
];

/// What the worker's loop around a shard counts, for metrics: the shard itself cannot know it.
#[derive(Clone, Debug, Default)]
pub struct LoopFacts {
    /// Counted below the loop, by the ring.
    pub ring: RingCounters,
    /// Receives that found the buffer ring empty.
    pub enobufs: u64,
    /// Sleeping workers woken by this one.
    pub doorbells: u64,
    /// Times that accepting was paused, by errno.
    pub accept_backoff: Labelled,
    /// By this worker's listeners, those given to other workers included.
    pub accepted: u64,
    /// Fresh connections given to other workers.
    pub handed_over: u64,
    /// Connections that a drain accepted and found no slot for.
    pub lost_connections: u64,
    /// Operations whose completion never came; each is a bug.
    pub lost_completions: u64,
    /// Completions for connections that had gone; each is a bug.
    pub stale_completions: u64,
    /// Connections open now.
    pub connections: u64,
    /// Connections now without an armed receive.
    pub parked: u64,
    /// Small receive buffers that the kernel may fill now; 0 makes `enobufs` grow.
    pub buffers_free: u64,
    /// Messages of other workers that wait to be read now.
    pub mailbox_depth: u64,
    /// Turns by duration of their own work, in the classes of [`TURN_BOUNDS`].
    pub turns: [u64; TURN_BOUNDS.len() + 1],
    /// All the work that `turns` counts, in nanoseconds; waiting is not in it.
    pub turn_nanos: u64,
    /// Nearly the same from each worker: the largest of them is shown.
    pub process: ProcessFacts,
}

/// What is the same for the whole process, as each worker knows it.
#[derive(Clone, Debug, Default)]
pub struct ProcessFacts {
    /// The kernel interface of the workers: `uring` or `epoll`.
    pub io: &'static str,
    /// When it started, in milliseconds since 1970.
    pub start_ms: u64,
    /// New configurations that a SIGHUP brought.
    pub reloads_applied: u64,
    /// Reloads whose configuration was refused.
    pub reloads_failed: u64,
    /// Descriptors open in the process's own table. Only the first worker counts them.
    pub open_fds: u64,
    /// RLIMIT_NOFILE: of the process's own table and of each worker's table of connections.
    pub fd_limit: u64,
}
