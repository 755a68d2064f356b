//! Medians, spreads, bars, and whether the run counts.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::contender::{Contender, Figures};

/// A floor that is further than this from its own median voids the run.
const FLOOR_SPREAD_MAX: f64 = 0.15;
const FAN_OUT_RATIO_MAX: f64 = 1.25;
const STREAM_DELIVERIES_MIN: f64 = 300_000.0;
const IDLE_BYTES_MAX: f64 = 320.0;

/// The CPU that the server's process took for each delivery: the main figure.
const CPU: &str = "server_cpu_us_each";
/// How long its core was busy for each delivery.
const CORE: &str = "core_busy_us_each";

/// One contender's runs of the fan-out.
pub struct Series {
    pub contender: Contender,
    pub runs: Vec<Figures>,
}

impl Series {
    fn spread(&self, name: &str) -> Spread {
        Spread::of(self.runs.iter().map(|run| run.number(name)).collect())
    }
}

pub struct Results {
    pub fan_out: Vec<Series>,
    pub stream: Vec<Figures>,
    pub idle: Vec<Figures>,
}

/// Some runs' figures.
#[derive(Clone, Copy, Debug)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (middle, last) = (values.len() / 2, values.len().saturating_sub(1));
        let median = if values.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.saturating_sub(1)), at(middle)) };
        Self { median, min: at(0), max: at(last) }
    }

    /// The furthest value's distance from the median, as a part of it.
    fn off(self) -> f64 {
        (self.max - self.median).max(self.median - self.min) / self.median
    }

    /// False, too, where there are no figures.
    fn is_steady(self) -> bool {
        self.off() <= FLOOR_SPREAD_MAX
    }
}

struct Bar {
    what: &'static str,
    bar: String,
    got: f64,
    met: bool,
}

impl Results {
    /// No floor was unsteady, and nothing was lost or wrong.
    pub fn is_valid(&self) -> bool {
        self.unsteady().is_empty() && self.runs().all(Figures::is_sound)
    }

    fn runs(&self) -> impl Iterator<Item = &Figures> {
        self.fan_out.iter().flat_map(|series| &series.runs).chain(&self.stream).chain(&self.idle)
    }

    fn unsteady(&self) -> Vec<&Series> {
        let floors = self.fan_out.iter().filter(|series| Contender::FLOORS.contains(&series.contender));
        floors.filter(|series| !series.spread(CPU).is_steady()).collect()
    }

    fn median(&self, contender: Contender, name: &str) -> f64 {
        let series = self.fan_out.iter().find(|series| series.contender == contender);
        series.map_or(f64::NAN, |series| series.spread(name).median)
    }

    fn bars(&self) -> Vec<Bar> {
        if self.idle.is_empty() {
            return Vec::new();
        }
        let ratio = self.median(Contender::Ringmain, CPU) / self.median(Contender::Uring, CPU);
        let stream = Spread::of(self.stream.iter().map(|run| run.number("deliveries_per_second")).collect()).median;
        let bytes = Spread::of(self.idle.iter().map(|run| run.number("bytes_per_connection")).collect()).max;
        let at_most = |what, most: f64, got: f64| Bar { what, bar: format!("≤ {most}"), got, met: got <= most };
        vec![
            at_most("fan-out, CPU against the bare io_uring loop", FAN_OUT_RATIO_MAX, ratio),
            Bar {
                what: "stream, deliveries a second",
                bar: format!("≥ {STREAM_DELIVERIES_MIN}"),
                got: stream,
                met: stream >= STREAM_DELIVERIES_MIN,
            },
            at_most("idle, bytes for each subscribed WebSocket", IDLE_BYTES_MAX, bytes),
        ]
    }

    /// The whole result for people.
    pub fn markdown(&self) -> String {
        let mut text = format!("# ringmain against the floors\n\n{}\n\n", machine());
        self.write_fan_out(&mut text);
        self.write_stream_and_idle(&mut text);
        let bars = self.bars();
        if !bars.is_empty() {
            text.push_str("\n| bar | at | got | |\n|---|---|---|---|\n");
        }
        for Bar { what, bar, got, met } in bars {
            _ = writeln!(text, "| {what} | {bar} | {got:.2} | {} |", if met { "met" } else { "MISSED" });
        }
        for run in self.runs().filter(|run| !run.is_sound()) {
            _ = writeln!(text, "\n**VOID**: a run does not count: {}.", run.reasons());
        }
        for series in self.unsteady() {
            let off = series.spread(CPU).off() * 100.0;
            _ = writeln!(text, "\n**VOID**: {} was off by {off:.0} % from its own median.", series.contender.name());
        }
        text
    }

    fn write_fan_out(&self, text: &mut String) {
        let [write, uring] = Contender::FLOORS.map(|floor| self.median(floor, CPU));
        let [write_core, uring_core] = Contender::FLOORS.map(|floor| self.median(floor, CORE));
        text.push_str(
            "| fan-out | CPU µs/delivery (min–max) | × write | × io_uring | core µs/delivery (min–max) | × write | × io_uring \
             | p50 ms | p99 ms |\n|---|---|---|---|---|---|---|---|---|\n",
        );
        for series in &self.fan_out {
            let (cpu, core) = (series.spread(CPU), series.spread(CORE));
            let [p50, p99] = ["p50_us", "p99_us"].map(|name| series.spread(name).median / 1e3);
            _ = writeln!(
                text,
                "| {} | {:.3} ({:.3}–{:.3}) | {:.2} | {:.2} | {:.3} ({:.3}–{:.3}) | {:.2} | {:.2} | {p50:.2} | {p99:.2} |",
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

    fn write_stream_and_idle(&self, text: &mut String) {
        if !self.stream.is_empty() {
            let [rate, cpu, p99] = ["deliveries_per_second", CPU, "p99_us"]
                .map(|name| Spread::of(self.stream.iter().map(|run| run.number(name)).collect()));
            _ = writeln!(
                text,
                "\nStream: {:.0} deliveries/s ({:.0}–{:.0}), {:.3} µs CPU each, p99 {:.2} ms.",
                rate.median,
                rate.min,
                rate.max,
                cpu.median,
                p99.median / 1e3
            );
        }
        for idle in &self.idle {
            _ = writeln!(
                text,
                "\nIdle: {:.0} B for each subscribed WebSocket as a slope, {:.0} B all in; resident {:.0} KiB at start, {:.0} KiB after the churn, \
                 {:.0} KiB at the first count, {:.0} KiB at the second.",
                idle.number("bytes_per_connection"),
                idle.number("all_in_bytes_per_connection"),
                idle.number("base_resident_kib"),
                idle.number("resident_kib_after_churn"),
                idle.number("resident_kib_from"),
                idle.number("resident_kib_to"),
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
        json!({
            "machine": machine(),
            "valid": self.is_valid(),
            "fan_out": Value::Object(fan_out.collect()),
            "stream": values(&self.stream),
            "idle": values(&self.idle),
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
