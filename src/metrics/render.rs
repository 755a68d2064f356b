//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write};
use std::time::Duration;

use super::{ConnectionKind, Durations, Label, Labels, Snapshot, TURN_BOUNDS, TransportKind, WorkerFacts};

/// Upper ends of the buckets of durations.
const BOUNDS: [Duration; 20] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(200),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(50),
    Duration::from_secs(100),
];

impl Snapshot {
    /// All families, whether or not anything was counted in them.
    #[must_use]
    pub fn render(&self, draining: bool) -> String {
        let mut text = Text::default();
        self.render_connections(&mut text);
        self.render_counters(&mut text);
        self.render_workers(&mut text);
        self.render_rings(&mut text);
        self.render_process(&mut text, draining);
        text.0
    }

    fn render_connections(&self, text: &mut Text) {
        let connections = ConnectionKind::ALL.iter().zip(self.connections).map(|(kind, count)| {
            let (transport, protocol) = kind.labels();
            (format!("transport=\"{transport}\",protocol=\"{protocol}\""), count)
        });
        text.family("connections", "gauge", connections);
        text.labelled("subscriptions", "gauge", &["namespace"], self.subscriptions.iter());
        text.labelled("upstream_connections", "gauge", &["upstream", "state"], self.upstream_connections.iter());
        for (name, value) in [
            ("channels", self.channels),
            ("position_records", self.position_records),
            ("history_bytes", self.history_bytes),
            ("send_queue_bytes", self.send_queue_bytes),
        ] {
            text.single(name, "gauge", value);
        }
    }

    fn render_counters(&self, text: &mut Text) {
        let counters = &self.counters;
        for (name, value) in [
            ("connections_accepted_total", counters.connections_accepted),
            ("pong_timeouts_total", counters.pong_timeouts),
            ("publish_duplicates_total", counters.publish_duplicates),
            ("channels_refused_total", counters.channels_refused),
            ("received_bytes_total", counters.received_bytes),
            ("sends_total", counters.sends),
        ] {
            text.single(name, "counter", value);
        }
        for (name, counts) in [("deliveries_total", &counters.deliveries), ("sent_bytes_total", &counters.sent_bytes)] {
            let samples = TransportKind::ALL.map(|kind| (format!("transport=\"{}\"", kind.label()), counts[kind.index()]));
            text.family(name, "counter", samples);
        }
        for (name, labels, counts) in counters.families() {
            text.labelled(name, "counter", labels, counts.iter());
        }
        text.kind("handshake_duration_seconds", "histogram");
        text.durations("handshake_duration_seconds", "", &counters.handshake_duration);
        text.kind("upstream_duration_seconds", "histogram");
        for (upstream, durations) in counters.upstream_duration.iter() {
            text.durations("upstream_duration_seconds", &format!("upstream=\"{}\"", escaped(upstream)), durations);
        }
        text.kind("publications_per_send", "histogram");
        let classes = counters.publications_per_send.classes().map(|(end, count)| (end.map(|end| end.to_string()), count));
        text.buckets("publications_per_send", "", classes, counters.publications_per_send.sum());
    }

    fn render_workers(&self, text: &mut Text) {
        text.kind("publish_to_last_write_seconds", "histogram");
        for facts in &self.workers {
            text.durations("publish_to_last_write_seconds", &worker(facts), &facts.publish_to_last_write);
        }
        text.kind("loop_duration_seconds", "histogram");
        for facts in &self.workers {
            let ends = TURN_BOUNDS.iter().map(|end| Some(end.as_secs_f64().to_string())).chain([None]);
            let counts = facts.shell.turns.iter().scan(0, |total, count| {
                *total += count;
                Some(*total)
            });
            let sum = Duration::from_nanos(facts.shell.turn_nanos).as_secs_f64();
            text.buckets("loop_duration_seconds", &worker(facts), ends.zip(counts), sum);
        }
        self.by_worker(text, "mailbox_depth", "gauge", |facts| facts.shell.mailbox_depth);
        self.by_worker(text, "doorbells_total", "counter", |facts| facts.shell.doorbells);
        self.by_worker(text, "buffer_ring_free", "gauge", |facts| facts.shell.buffers_free);
        self.by_worker(text, "parked_connections", "gauge", |facts| facts.shell.parked);
        self.by_worker(text, "timers", "gauge", |facts| facts.timers);
        self.by_worker(text, "handshakes_in_flight", "gauge", |facts| facts.handshakes_in_flight);
        self.by_worker(text, "handshake_capacity", "gauge", |facts| facts.handshake_capacity);
    }

    fn by_worker(&self, text: &mut Text, name: &str, kind: &str, value: impl Fn(&WorkerFacts) -> u64) {
        text.family(name, kind, self.workers.iter().map(|facts| (worker(facts), value(facts))));
    }

    /// Of all workers together: what is not zero here is worth a look wherever it is.
    fn render_rings(&self, text: &mut Text) {
        let sum = |value: fn(&WorkerFacts) -> u64| self.workers.iter().map(value).sum::<u64>();
        text.single("enobufs_total", "counter", sum(|facts| facts.shell.enobufs));
        text.single("sq_full_total", "counter", sum(|facts| facts.shell.ring.sq_full));
        text.single("cq_overflow_total", "counter", sum(|facts| facts.shell.ring.cq_overflows));
        text.single("lost_completions_total", "counter", sum(|facts| facts.shell.lost_completions));
        text.single("handed_over_total", "counter", sum(|facts| facts.shell.handed_over));
        let mut backoff = super::Labelled::default();
        self.workers.iter().for_each(|facts| backoff.merge(&facts.shell.accept_backoff));
        text.labelled("accept_backoff_total", "counter", &["errno"], backoff.iter());
    }

    /// Every worker knows them; the newest word counts.
    fn render_process(&self, text: &mut Text, draining: bool) {
        let newest = |value: fn(&WorkerFacts) -> u64| self.workers.iter().map(value).max().unwrap_or(0);
        let io = self.workers.first().map_or("", |facts| facts.shell.process.io);
        text.family("build_info", "gauge", [(format!("version=\"{}\",io=\"{io}\"", env!("CARGO_PKG_VERSION")), 1)]);
        text.single(
            "start_time_seconds",
            "gauge",
            Duration::from_millis(newest(|facts| facts.shell.process.start_ms)).as_secs_f64(),
        );
        let applied = newest(|facts| facts.shell.process.reloads_applied);
        let failed = newest(|facts| facts.shell.process.reloads_failed);
        let results = [("result=\"applied\"".to_owned(), applied), ("result=\"failed\"".to_owned(), failed)];
        text.family("reloads_total", "counter", results);
        text.single("draining", "gauge", u8::from(draining));
        text.single("open_fds", "gauge", newest(|facts| facts.shell.process.open_fds));
        text.single("fd_limit", "gauge", newest(|facts| facts.shell.process.fd_limit));
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn kind(&mut self, name: &str, kind: &str) {
        let _ = writeln!(self.0, "# TYPE ringmain_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.0, "ringmain_{name} {value}"),
            _ => writeln!(self.0, "ringmain_{name}{{{labels}}} {value}"),
        };
    }

    fn single(&mut self, name: &str, kind: &str, value: impl Display) {
        self.kind(name, kind);
        self.sample(name, "", value);
    }

    fn family(&mut self, name: &str, kind: &str, samples: impl IntoIterator<Item = (String, u64)>) {
        self.kind(name, kind);
        for (labels, value) in samples {
            self.sample(name, &labels, value);
        }
    }

    fn labelled<'a>(&mut self, name: &str, kind: &str, names: &[&str], counts: impl Iterator<Item = &'a (Labels, u64)>) {
        self.family(name, kind, counts.map(|(values, count)| (pairs(names, values), *count)));
    }

    fn durations(&mut self, name: &str, labels: &str, durations: &Durations) {
        let buckets = BOUNDS.iter().map(|&bound| (Some(bound.as_secs_f64().to_string()), durations.at_most(bound)));
        self.buckets(name, labels, buckets.chain([(None, durations.count())]), durations.sum_seconds());
    }

    /// Cumulative counts with the upper ends of their buckets; the last one has none and counts everything.
    fn buckets(&mut self, name: &str, labels: &str, buckets: impl Iterator<Item = (Option<String>, u64)>, sum: impl Display) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut all = 0;
        for (end, count) in buckets {
            let end = end.as_deref().unwrap_or("+Inf");
            self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{end}\""), count);
            all = count;
        }
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, all);
    }
}

fn worker(facts: &WorkerFacts) -> String {
    format!("worker=\"{}\"", facts.worker)
}

/// `name="value",…`
fn pairs(names: &[&str], values: &Labels) -> String {
    let pairs: Vec<String> = names.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", value.text())).collect();
    pairs.join(",")
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Label {
    /// Escaped as the text format asks.
    fn text(&self) -> String {
        match self {
            Self::Word(word) => (*word).to_owned(),
            Self::Name(name) => escaped(name),
            Self::Number(number) => number.to_string(),
            Self::None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LoopFacts;
    use super::*;

    /// Every family that users are promised, with its labels.
    const FAMILIES: [(&str, &str); 51] = [
        ("connections", "transport,protocol"),
        ("connections_accepted_total", ""),
        ("connections_refused_total", "reason"),
        ("disconnects_total", "transport,code"),
        ("handshake_duration_seconds", ""),
        ("handshakes_in_flight", "worker"),
        ("handshake_capacity", "worker"),
        ("pong_timeouts_total", ""),
        ("subscriptions", "namespace"),
        ("channels", ""),
        ("position_records", ""),
        ("history_bytes", ""),
        ("publications_total", "door,namespace"),
        ("publish_errors_total", "code"),
        ("publish_duplicates_total", ""),
        ("deliveries_total", "transport"),
        ("publish_to_last_write_seconds", "worker"),
        ("resumes_total", "transport,outcome"),
        ("gaps_total", "reason"),
        ("slow_consumer_total", "policy"),
        ("publications_dropped_total", "policy"),
        ("send_queue_bytes", ""),
        ("received_bytes_total", ""),
        ("sent_bytes_total", "transport"),
        ("sends_total", ""),
        ("publications_per_send", ""),
        ("http_requests_total", "door,method,status"),
        ("http_parse_errors_total", "reason"),
        ("ws_messages_received_total", "opcode"),
        ("ws_protocol_errors_total", "code"),
        ("loop_duration_seconds", "worker"),
        ("mailbox_depth", "worker"),
        ("mailbox_spilled_total", "worker"),
        ("doorbells_total", "worker"),
        ("buffer_ring_free", "worker"),
        ("enobufs_total", ""),
        ("sq_full_total", ""),
        ("cq_overflow_total", ""),
        ("accept_backoff_total", "errno"),
        ("parked_connections", "worker"),
        ("timers", "worker"),
        ("upstream_requests_total", "upstream,status"),
        ("upstream_errors_total", "upstream,reason"),
        ("upstream_duration_seconds", "upstream"),
        ("upstream_connections", "upstream,state"),
        ("build_info", "version,io"),
        ("start_time_seconds", ""),
        ("reloads_total", "result"),
        ("draining", ""),
        ("open_fds", ""),
        ("fd_limit", ""),
    ];

    /// One worker's snapshot in which everything has been counted once.
    fn one_of_each() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let names = |word: &'static str| [Label::Word(word), Label::Word(word), Label::Word(word)];
        for family in snapshot.counters.families_mut() {
            family.add(names("x"), 1);
        }
        snapshot.subscriptions.add(names("x"), 1);
        snapshot.upstream_connections.add(names("x"), 1);
        snapshot.counters.upstream_duration.record("app", Duration::from_millis(3));
        snapshot.counters.publications_per_send.record(3);
        let mut shell = LoopFacts::default();
        shell.accept_backoff.one(Label::Number(24));
        snapshot.workers.push(WorkerFacts { worker: 3, shell, ..WorkerFacts::default() });
        snapshot
    }

    #[test]
    fn every_promised_family_is_there_with_its_labels() {
        let text = one_of_each().render(false);
        for (name, labels) in FAMILIES {
            let name = format!("ringmain_{name}");
            assert!(text.lines().any(|line| line.starts_with(&format!("# TYPE {name} "))), "{name} is missing in\n{text}");
            let sample = |line: &&str| {
                let rest = line.strip_prefix(&name)?;
                let rest = rest.strip_prefix("_count").unwrap_or(rest);
                rest.starts_with(['{', ' ']).then(|| rest.to_owned())
            };
            let sample = text.lines().find_map(|line| sample(&line)).unwrap_or_else(|| panic!("{name} has no sample in\n{text}"));
            let found: Vec<&str> = sample
                .split_once('}')
                .map_or("", |(labels, _)| labels.trim_start_matches('{'))
                .split(',')
                .filter_map(|pair| Some(pair.split_once('=')?.0))
                .collect();
            assert_eq!(found.join(","), labels, "{name}");
        }
    }

    #[test]
    fn merged_counters_render_as_sums() {
        let mut one = one_of_each();
        one.counters.disconnects.two("ws", 1001u16);
        one.counters.deliveries[TransportKind::Poll.index()] = 5;
        one.workers[0].shell.turns[0] = 2;
        one.workers[0].shell.turns[7] = 1;
        let mut total = one.clone();
        total.merge(Snapshot { workers: vec![WorkerFacts { worker: 4, timers: 9, ..WorkerFacts::default() }], ..one });
        let text = total.render(false);
        for line in [
            "ringmain_disconnects_total{transport=\"ws\",code=\"1001\"} 2",
            "ringmain_deliveries_total{transport=\"poll\"} 10",
            "ringmain_timers{worker=\"3\"} 0",
            "ringmain_timers{worker=\"4\"} 9",
            "ringmain_loop_duration_seconds_bucket{worker=\"3\",le=\"0.0001\"} 2",
            "ringmain_loop_duration_seconds_bucket{worker=\"3\",le=\"+Inf\"} 3",
            "ringmain_upstream_duration_seconds_bucket{upstream=\"app\",le=\"0.002\"} 0",
            "ringmain_upstream_duration_seconds_bucket{upstream=\"app\",le=\"0.005\"} 2",
            "ringmain_upstream_duration_seconds_count{upstream=\"app\"} 2",
            "ringmain_publications_per_send_bucket{le=\"2\"} 0",
            "ringmain_publications_per_send_bucket{le=\"4\"} 2",
            "ringmain_publications_per_send_sum 6",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_label_cannot_break_its_line() {
        assert_eq!(Label::Name("a\"b\\c\nd".into()).text(), "a\\\"b\\\\c\\nd");
    }
}
