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
    /// Publications that became a gap because too much waited, by where: for a worker, or for a channel's subscribers.
    pub publications_collapsed: Labelled,
    /// Publications that history let go of, by reason.
    pub history_trimmed: Labelled,
    /// Subscribes and publishes refused because there were too many channels.
    pub channels_refused: u64,
    /// Messages that found a mailbox full, by worker.
    pub mailbox_spilled: Labelled,
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

impl Counters {
    fn merge(&mut self, other: &Self) {
        self.connections_accepted += other.connections_accepted;
        self.pong_timeouts += other.pong_timeouts;
        self.publish_duplicates += other.publish_duplicates;
        self.channels_refused += other.channels_refused;
        self.received_bytes += other.received_bytes;
        self.sends += other.sends;
        for (total, count) in self.deliveries.iter_mut().zip(other.deliveries) {
            *total += count;
        }
        for (total, count) in self.sent_bytes.iter_mut().zip(other.sent_bytes) {
            *total += count;
        }
        for (total, part) in self.families_mut().into_iter().zip(other.families()) {
            total.merge(part.2);
        }
    }

    /// Counters with labels: name, label names, counts.
    fn families(&self) -> [(&'static str, &'static [&'static str], &Labelled); 16] {
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
            ("upstream_errors_total", &["upstream", "reason"], &self.upstream_errors),
        ]
    }

    fn families_mut(&mut self) -> [&mut Labelled; 16] {
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
            &mut self.upstream_errors,
        ]
    }
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

impl Snapshot {
    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        self.counters.merge(&other.counters);
        self.subscriptions += other.subscriptions;
        self.channels += other.channels;
        self.position_records += other.position_records;
        self.history_bytes += other.history_bytes;
        self.send_queue_bytes += other.send_queue_bytes;
        self.timers += other.timers;
    }

    /// The Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn render(&self, draining: bool) -> String {
        let mut text = Text::default();
        let counters = &self.counters;
        text.family("build_info", "gauge", [(format!("{{version=\"{}\",io=\"uring\"}}", env!("CARGO_PKG_VERSION")), 1)]);
        for (name, value) in [
            ("connections_accepted_total", counters.connections_accepted),
            ("pong_timeouts_total", counters.pong_timeouts),
            ("publish_duplicates_total", counters.publish_duplicates),
            ("channels_refused_total", counters.channels_refused),
            ("received_bytes_total", counters.received_bytes),
            ("sends_total", counters.sends),
        ] {
            text.family(name, "counter", [(String::new(), value)]);
        }
        for (name, value) in [
            ("subscriptions", self.subscriptions),
            ("channels", self.channels),
            ("position_records", self.position_records),
            ("history_bytes", self.history_bytes),
            ("send_queue_bytes", self.send_queue_bytes),
            ("timers", self.timers),
            ("draining", u64::from(draining)),
        ] {
            text.family(name, "gauge", [(String::new(), value)]);
        }
        for (name, counts) in [("deliveries_total", &counters.deliveries), ("sent_bytes_total", &counters.sent_bytes)] {
            text.family(
                name,
                "counter",
                TransportKind::ALL.map(|kind| (format!("{{transport=\"{}\"}}", kind.label()), counts[kind.index()])),
            );
        }
        for (name, labels, counts) in counters.families() {
            text.family(name, "counter", counts.iter().map(|(values, count)| (label_text(labels, values), *count)));
        }
        text.0
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, samples: impl IntoIterator<Item = (String, u64)>) {
        self.0.push_str(&format!("# TYPE ringmain_{name} {kind}\n"));
        for (labels, value) in samples {
            self.0.push_str(&format!("ringmain_{name}{labels} {value}\n"));
        }
    }
}

/// `{name="value",…}`
fn label_text(names: &[&str], values: &Labels) -> String {
    let pairs: Vec<String> = names.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", value.text())).collect();
    format!("{{{}}}", pairs.join(","))
}

impl Label {
    /// Escaped as the text format asks.
    fn text(&self) -> String {
        match self {
            Self::Word(word) => (*word).to_owned(),
            Self::Name(name) => name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"),
            Self::Number(number) => number.to_string(),
            Self::None => String::new(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_counters_render_as_sums() {
        let mut one = Snapshot { subscriptions: 2, ..Snapshot::default() };
        one.counters.disconnects.two("ws", 1001u16);
        one.counters.deliveries[TransportKind::Poll.index()] = 5;
        let mut total = one.clone();
        total.merge(&one);
        let text = total.render(false);
        for line in [
            "ringmain_subscriptions 4",
            "ringmain_disconnects_total{transport=\"ws\",code=\"1001\"} 2",
            "ringmain_deliveries_total{transport=\"poll\"} 10",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_label_cannot_break_its_line() {
        assert_eq!(Label::Name("a\"b\\c\nd".into()).text(), "a\\\"b\\\\c\\nd");
    }
}
