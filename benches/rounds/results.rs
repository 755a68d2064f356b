//! What was measured, as Markdown for people and JSON for programs.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::bars::{Bar, Limit};
use crate::contender::{Contender, Figures};
use crate::host::{self, Counters, said};
use crate::plan;
use crate::spread::Spread;

/// The CPU that the server's process took for each delivery: the main figure.
pub const CPU: &str = "server_cpu_us_each";
/// How long its core was busy for each delivery.
pub const CORE: &str = "core_busy_us_each";
/// How many there were a second, by what the load counts.
const RATES: [&str; 4] = ["deliveries_per_second", "messages_per_second", "subscribed_per_second", "reconnected_per_second"];

/// One contender's runs of one load.
pub struct Series {
    pub contender: Contender,
    pub runs: Vec<Figures>,
    /// Why it was not run to the end: who cannot take a load does not end the measuring of the others.
    pub failure: Option<String>,
}

impl Series {
    pub fn spread(&self, name: &str) -> Spread {
        Spread::of(self.runs.iter().map(|run| run.number(name)).collect())
    }

    fn rate(&self) -> f64 {
        RATES.map(|name| self.spread(name).median).into_iter().find(|rate| !rate.is_nan()).unwrap_or(f64::NAN)
    }

    /// How to read a row of which not every run was sound, or was at all.
    fn remark(&self) -> String {
        let unsound = self.runs.iter().filter(|run| !run.is_sound()).map(Figures::reasons);
        unsound.chain(self.failure.clone()).next().map_or(String::new(), |reasons| format!(" ({reasons})"))
    }
}

/// What came of one group.
pub struct Measured {
    pub name: &'static str,
    /// The load's flags.
    pub load: String,
    pub series: Vec<Series>,
}

impl Measured {
    pub fn of(&self, contender: Contender) -> Option<&Series> {
        self.series.iter().find(|series| series.contender == contender)
    }
}

#[derive(Default)]
pub struct Results {
    /// What the bench of pure pieces printed.
    pub pieces: Option<String>,
    pub groups: Vec<Measured>,
    /// What the host counted meanwhile.
    pub host: Counters,
}

impl Results {
    pub fn group(&self, name: &str) -> Option<&Measured> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The whole result for people.
    pub fn markdown(&self) -> String {
        let mut text = format!("# ringmain, the floors and the peers\n\n{}\n\n{}\n\n", host::machine(), self.host.text());
        for reason in self.void() {
            _ = writeln!(text, "**VOID**: {reason}.\n");
        }
        for reason in self.void_times() {
            _ = writeln!(text, "**VOID**, but for ratios: {reason}.\n");
        }
        self.write_bars(&mut text);
        for group in &self.groups {
            _ = writeln!(text, "\n## {}\n\n`ringmain bench {}`\n", group.name, group.load);
            if plan::First::of(group.name).is_some() {
                let went_first = group.series.iter().flat_map(|series| &series.runs).all(|run| run.0["went_first"] == true);
                text.push_str(if went_first {
                    "Server and load went before everything else on their cores.\n\n"
                } else {
                    "This user may let no process go first (`chrt`): what else ran on the cores is in the percentiles.\n\n"
                });
            }
            let retransmits: f64 = group.series.iter().flat_map(|series| &series.runs).map(|run| run.number("retransmits")).sum();
            if retransmits > 0.0 {
                _ = writeln!(text, "{retransmits} segments were sent again.\n");
            }
            match group.name {
                name if plan::IDLES.contains(&name) => write_idle(&mut text, group),
                name if plan::STALLS.contains(&name) => write_stalls(&mut text, group),
                name if plan::BESIDES.contains(&name) => write_besides(&mut text, group),
                _ => write_costs(&mut text, group),
            }
        }
        if let Some(pieces) = &self.pieces {
            _ = write!(text, "\n## Pure pieces, no kernel in them\n\n{pieces}");
        }
        text.push_str("\n## Settings\n\n| sysctl | |\n|---|---|\n");
        for (name, value) in host::sysctls() {
            _ = writeln!(text, "| {} | {value} |", name.replace('/', "."));
        }
        text.push_str("\n| fault of the processor | mitigation |\n|---|---|\n");
        for (fault, mitigation) in host::mitigations() {
            _ = writeln!(text, "| {fault} | {mitigation} |");
        }
        text
    }

    fn write_bars(&self, text: &mut String) {
        let bars = self.bars();
        if !bars.is_empty() {
            text.push_str("| bar | at | got | | rounds |\n|---|---|---|---|---|\n");
        }
        for bar in bars {
            let Bar { what, limit, got, least, most, is_void } = bar;
            let limit = match limit {
                Limit::AtMost(most) => format!("≤ {most}"),
                Limit::AtLeast(least) => format!("≥ {least}"),
            };
            let verdict = match bar.is_met() {
                _ if is_void => "void",
                true => "met",
                false => "MISSED",
            };
            _ = writeln!(text, "| {what} | {limit} | {got:.2} | {verdict} | {least:.2}–{most:.2} |");
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
        let group = |group: &Measured| {
            let series = group.series.iter().map(|series| (series.contender.name().to_owned(), values(&series.runs).into()));
            json!({"name": group.name, "load": group.load, "runs": Value::Object(series.collect())})
        };
        let bars = self.bars();
        json!({
            "machine": host::machine(),
            "host": self.host.json(),
            "sysctls": Value::Object(host::sysctls().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()),
            "mitigations": Value::Object(host::mitigations().into_iter().map(|(fault, value)| (fault, value.into())).collect()),
            "outcome": self.outcome().text(),
            "void": self.void(),
            "void_times": self.void_times(),
            "bars": bars.iter().map(|bar| json!({"what": bar.what, "got": bar.got, "rounds": [bar.least, bar.most], "met": bar.is_met(), "void": bar.is_void})).collect::<Vec<_>>(),
            "groups": self.groups.iter().map(group).collect::<Vec<_>>(),
        })
    }
}

/// What one of them costs, how many there were, and how late they came.
fn write_costs(text: &mut String, group: &Measured) {
    text.push_str(
        "| | CPU µs each (min–max) | × ringmain | core µs each (min–max) | × ringmain | a second | p50 ms | p99 ms | p99.9 ms |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let ringmain = |name| group.of(Contender::Ringmain).map_or(f64::NAN, |series| series.spread(name).median);
    for series in &group.series {
        let (cpu, core) = (series.spread(CPU), series.spread(CORE));
        let [p50, p99, p999] = ["p50_us", "p99_us", "p999_us"].map(|name| series.spread(name).median / 1e3);
        _ = writeln!(
            text,
            "| {}{} | {:.3} ({:.3}–{:.3}) | {:.2} | {:.3} ({:.3}–{:.3}) | {:.2} | {:.0} | {p50:.2} | {p99:.2} | {p999:.2} |",
            series.contender.name(),
            series.remark(),
            cpu.median,
            cpu.min,
            cpu.max,
            cpu.median / ringmain(CPU),
            core.median,
            core.min,
            core.max,
            core.median / ringmain(CORE),
            series.rate(),
        );
    }
    let run = group.series.iter().find_map(|series| series.runs.first());
    let whose = match run.and_then(|run| run.0.get("latency_loop")).and_then(Value::as_str) {
        Some("open") => "of an open loop, at a part of what each server can do",
        Some("storm") => "from the end of all connections to subscribed again",
        Some(_) | None => "of the closed loop",
    };
    _ = writeln!(text, "\nLatencies are {whose}.");
}

fn write_stalls(text: &mut String, group: &Measured) {
    for run in group.series.iter().flat_map(|series| &series.runs) {
        _ = writeln!(
            text,
            "{:.0} of {:.0} subscribers stall: kernel queue {:.0} B at most, {:.0} B of private memory each; the others' p99 {:.2} ms \
             ({:.2} × without), p99.9 {:.2} ms ({:.2} × without).",
            run.number("stalled"),
            run.number("subscribers"),
            run.number("kernel_queue_bytes_max"),
            run.number("private_bytes_per_stalled"),
            run.number("p99_us") / 1e3,
            run.number("p99_ratio"),
            run.number("p999_us") / 1e3,
            run.number("p999_ratio"),
        );
    }
}

fn write_besides(text: &mut String, group: &Measured) {
    text.push_str(
        "| | p50 ms | p99 ms | p99.9 ms | without: p99 | p99.9 | CPU µs for each of the crowd | overflows |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for (whose, run) in group.series.iter().flat_map(|series| series.runs.iter().map(|run| (series.contender, run))) {
        let millis = |name| run.number(name) / 1e3;
        _ = writeln!(
            text,
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} |",
            whose.name(),
            millis("p50_us"),
            millis("p99_us"),
            millis("p999_us"),
            millis("p99_us_without"),
            millis("p999_us_without"),
            run.number(CPU),
            run.number("listen_overflows"),
        );
    }
}

fn write_idle(text: &mut String, group: &Measured) {
    text.push_str(
        "| | private B each | resident | all in | kernel | base, private / resident KiB | at the end |\n|---|---|---|---|---|---|---|\n",
    );
    for series in &group.series {
        let of = |name| series.spread(name).max;
        _ = writeln!(
            text,
            "| {}{} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} / {:.0} | {:.0} / {:.0} |",
            series.contender.name(),
            series.remark(),
            of("bytes_per_connection"),
            of("resident_bytes_per_connection"),
            of("all_in_bytes_per_connection"),
            of("kernel_bytes_per_connection"),
            of("base_private_kib"),
            of("base_resident_kib"),
            of("private_kib_to"),
            of("resident_kib_to"),
        );
    }
    text.push_str("\nSlopes from 4,000 to 19,000 connections, after a churn of 20,000.\n");
}
