//! What was measured, as Markdown for people and JSON for programs.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::bars::{Bar, Limit, Outcome};
use crate::contender::{Contender, Figures};
use crate::spread::Spread;

/// The CPU that the server's process took for each delivery: the main figure.
pub const CPU: &str = "server_cpu_us_each";
/// How long its core was busy for each delivery.
const CORE: &str = "core_busy_us_each";

/// One contender's runs of the fan-out.
pub struct Series {
    pub contender: Contender,
    pub runs: Vec<Figures>,
}

impl Series {
    pub fn spread(&self, name: &str) -> Spread {
        Spread::of(self.runs.iter().map(|run| run.number(name)).collect())
    }
}

#[derive(Default)]
pub struct Results {
    /// What the bench of pure pieces printed.
    pub pieces: Option<String>,
    pub fan_out: Vec<Series>,
    pub stream: Vec<Figures>,
    pub stall: Vec<Figures>,
    pub idle: Vec<Figures>,
    /// Other loads, by their flags.
    pub others: Vec<(String, Figures)>,
}

impl Results {
    /// All runs, by what was run.
    pub fn runs(&self) -> impl Iterator<Item = (String, &Figures)> {
        let fan_out = self.fan_out.iter().flat_map(|series| {
            let name = format!("fan-out of {}", series.contender.name());
            series.runs.iter().map(move |run| (name.clone(), run))
        });
        let of = |name: &'static str| move |run| (name.to_owned(), run);
        fan_out
            .chain(self.stream.iter().map(of("stream")))
            .chain(self.stall.iter().map(of("stall")))
            .chain(self.idle.iter().map(of("idle")))
            .chain(self.others.iter().map(|(load, run)| (load.clone(), run)))
    }

    pub fn median(&self, contender: Contender, name: &str) -> f64 {
        let series = self.fan_out.iter().find(|series| series.contender == contender);
        series.map_or(f64::NAN, |series| series.spread(name).median)
    }

    /// The whole result for people.
    pub fn markdown(&self) -> String {
        let mut text = format!("# ringmain against the floors\n\n{}\n\n", machine());
        for reason in self.void() {
            _ = writeln!(text, "**VOID**: {reason}.\n");
        }
        self.write_bars(&mut text);
        self.write_fan_out(&mut text);
        self.write_latency(&mut text);
        self.write_stalls(&mut text);
        self.write_others(&mut text);
        self.write_idle(&mut text);
        if let Some(pieces) = &self.pieces {
            _ = write!(text, "\nPure pieces, no kernel in them:\n\n{pieces}");
        }
        text
    }

    fn write_bars(&self, text: &mut String) {
        let (bars, void) = (self.bars(), self.outcome() == Outcome::Void);
        if !bars.is_empty() {
            text.push_str("| bar | at | got | |\n|---|---|---|---|\n");
        }
        for bar in bars {
            let Bar { what, limit, got } = bar;
            let limit = match limit {
                Limit::AtMost(most) => format!("≤ {most}"),
                Limit::AtLeast(least) => format!("≥ {least}"),
            };
            let verdict = match bar.is_met() {
                _ if void => "void",
                true => "met",
                false => "MISSED",
            };
            _ = writeln!(text, "| {what} | {limit} | {got:.2} | {verdict} |");
        }
    }

    fn write_fan_out(&self, text: &mut String) {
        let [write, uring] = Contender::FLOORS.map(|floor| self.median(floor, CPU));
        let [write_core, uring_core] = Contender::FLOORS.map(|floor| self.median(floor, CORE));
        text.push_str(
            "\n| fan-out, closed loop | CPU µs/delivery (min–max) | × write | × io_uring | core µs/delivery (min–max) | × write \
             | × io_uring |\n|---|---|---|---|---|---|---|\n",
        );
        for series in &self.fan_out {
            let (cpu, core) = (series.spread(CPU), series.spread(CORE));
            _ = writeln!(
                text,
                "| {} | {:.3} ({:.3}–{:.3}) | {:.2} | {:.2} | {:.3} ({:.3}–{:.3}) | {:.2} | {:.2} |",
                series.contender.name(),
                cpu.median,
                cpu.min,
                cpu.max,
                cpu.median / write,
                cpu.median / uring,
                core.median,
                core.min,
                core.max,
                core.median / write_core,
                core.median / uring_core,
            );
        }
    }

    /// Latencies, each from an open loop at its own rate.
    fn write_latency(&self, text: &mut String) {
        text.push_str(
            "\n| latency, open loop | sent a second | kept up with | p50 ms | p99 ms | p99.9 ms |\n|---|---|---|---|---|---|\n",
        );
        let mut row = |name: &str, runs: &[&Figures]| {
            let median = |name: &str| Spread::of(runs.iter().map(|run| run.number(name)).collect()).median;
            let [p50, p99, p999] = ["p50_us", "p99_us", "p999_us"].map(|name| median(name) / 1e3);
            let [rate, achieved] = ["open_rate_per_second", "open_achieved_per_second"].map(median);
            _ = writeln!(text, "| {name} | {rate:.0} | {achieved:.0} | {p50:.2} | {p99:.2} | {p999:.2} |");
        };
        for series in &self.fan_out {
            row(&format!("fan-out, {}", series.contender.name()), &series.runs.iter().collect::<Vec<_>>());
        }
        if !self.stream.is_empty() {
            row("stream", &self.stream.iter().collect::<Vec<_>>());
        }
        self.others.iter().for_each(|(load, run)| row(load, &[run]));
    }

    fn write_stalls(&self, text: &mut String) {
        for run in &self.stall {
            _ = writeln!(
                text,
                "\nStalled: {:.0} of {:.0} subscribers, {:.0} B payloads: kernel queue {:.0} B at most, {:.0} B of private memory each; \
                 the others' p99 {:.2} ms ({:.2} × without), p99.9 {:.2} ms ({:.2} × without).",
                run.number("stalled"),
                run.number("subscribers"),
                run.number("payload_bytes"),
                run.number("kernel_queue_bytes_max"),
                run.number("private_bytes_per_stalled"),
                run.number("p99_us") / 1e3,
                run.number("p99_ratio"),
                run.number("p999_us") / 1e3,
                run.number("p999_ratio"),
            );
        }
    }

    fn write_others(&self, text: &mut String) {
        text.push_str("\n| load | a second | CPU µs each |\n|---|---|---|\n");
        let stream = self.stream.iter().map(|run| ("stream", run));
        for (load, run) in stream.chain(self.others.iter().map(|(load, run)| (load.as_str(), run))) {
            let names = ["deliveries_per_second", "messages_per_second", "subscribed_per_second"];
            let rate = names.map(|name| run.number(name)).into_iter().find(|rate| !rate.is_nan()).unwrap_or(f64::NAN);
            _ = writeln!(text, "| {load} | {rate:.0} | {:.3} |", run.number(CPU));
        }
    }

    fn write_idle(&self, text: &mut String) {
        for idle in &self.idle {
            let kib = |name: &str| idle.number(name);
            _ = writeln!(
                text,
                "\nIdle, read after {:.0} s: {:.0} B of private dirty memory for each subscribed WebSocket as a slope ({:.0} B resident), \
                 {:.0} B all in. Private / resident KiB: {:.0} / {:.0} at start (the base), {:.0} / {:.0} after the churn, {:.0} / {:.0} \
                 at {:.0} connections, {:.0} / {:.0} at {:.0}.",
                idle.number("settle_seconds"),
                idle.number("bytes_per_connection"),
                idle.number("resident_bytes_per_connection"),
                idle.number("all_in_bytes_per_connection"),
                kib("base_private_kib"),
                kib("base_resident_kib"),
                kib("private_kib_after_churn"),
                kib("resident_kib_after_churn"),
                kib("private_kib_from"),
                kib("resident_kib_from"),
                idle.number("from"),
                kib("private_kib_to"),
                kib("resident_kib_to"),
                idle.number("to"),
            );
        }
    }

    /// Writes the Markdown and the JSON file; returns the path of the first.
    pub fn write(&self, folder: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let name = format!("{}-{seconds}", said("git", &["rev-parse", "--short", "HEAD"]));
        let path = folder.join(format!("{name}.md"));
        fs::write(&path, self.markdown())?;
        fs::write(folder.join(format!("{name}.json")), self.json().to_string() + "\n")?;
        Ok(path)
    }

    fn json(&self) -> Value {
        let values = |runs: &[Figures]| runs.iter().map(|run| run.0.clone()).collect::<Vec<_>>();
        let fan_out = self.fan_out.iter().map(|series| (series.contender.name().to_owned(), values(&series.runs).into()));
        let bars = self.bars();
        json!({
            "machine": machine(),
            "outcome": self.outcome().text(),
            "void": self.void(),
            "bars": bars.iter().map(|bar| json!({"what": bar.what, "got": bar.got, "met": bar.is_met()})).collect::<Vec<_>>(),
            "fan_out": Value::Object(fan_out.collect()),
            "stream": values(&self.stream),
            "stall": values(&self.stall),
            "idle": values(&self.idle),
            "others": Value::Object(self.others.iter().map(|(load, run)| (load.clone(), run.0.clone())).collect()),
        })
    }
}

/// Commit, kernel and processor: what a figure belongs to.
fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = processors.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "commit {}, kernel {}, {} × {cores}",
        said("git", &["describe", "--always", "--dirty"]),
        said("uname", &["-r"]),
        model.trim_start_matches([' ', '\t', ':'])
    )
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).trim().to_owned();
    if text.is_empty() { "unknown".to_owned() } else { text }
}
