//! Rounds: ringmain and the floors under the same load, alternated, so that whatever the machine does to one it does to
//! all. Prints a table of medians and spreads beside the bars, and writes it to `benches/results/`.
//!
//! Every server is started for one load, pinned to its core, and ended by its own process id. The exit status is 0 when
//! every bar was met, 1 when the run is void (no bar says anything then), 2 when it could not be run, 3 when a bar was
//! missed.

mod bars;
mod contender;
mod results;
mod spread;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;

use contender::{Contender, Failure, Figures};
use results::{Results, Series};

/// Seconds before memory is read: before the first ping, and after a round of them. What pings leave free in the heap
/// would otherwise hide what connections take, or their peak would not be seen at all; the worse slope counts.
const IDLE_SETTLES: [&str; 2] = ["3", "30"];
/// Payloads of the loads with stalled readers: many frames to a queue, and few.
const STALL_PAYLOADS: [&str; 2] = ["1024", "4096"];
/// One run each, beside the bars: figures to see a change by.
const OTHERS: [&[&str]; 5] = [
    &["echo"],
    &["connect"],
    &["fan-out", "--transport", "sse", "--subscribers", "1000", "--publications", "100"],
    &["fan-out", "--transport", "ndjson", "--subscribers", "1000", "--publications", "100"],
    &["fan-out", "--transport", "poll", "--subscribers", "1000", "--publications", "100"],
];

/// Measures ringmain against the floors on this machine.
#[derive(Parser, Debug)]
pub struct Flags {
    #[arg(long)]
    ringmain: PathBuf,
    #[arg(long)]
    floor: PathBuf,
    /// The bench of pure pieces, run first.
    #[arg(long)]
    pieces: Option<PathBuf>,
    #[arg(long, default_value = "benches/ringmain.toml")]
    config: PathBuf,
    /// Where the results are written.
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
    /// Rounds of the fan-out; each runs every contender once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Rounds of the stream.
    #[arg(long, default_value_t = 3)]
    stream_rounds: usize,
    #[arg(long, default_value_t = 5000)]
    subscribers: usize,
    #[arg(long, default_value_t = 200)]
    publications: usize,
    #[arg(long, default_value_t = 128)]
    payload: usize,
    #[arg(long, default_value_t = 9100)]
    port: u16,
    #[arg(long, default_value_t = 0)]
    server_cpu: u32,
    #[arg(long, default_value_t = 1)]
    load_cpu: u32,
    /// Leave ringmain out: only the floors and how steady they are.
    #[arg(long)]
    floors_only: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let began = Instant::now();
    match measure(&flags) {
        Ok(results) => {
            println!("\n{}", results.markdown());
            match results.write(&flags.results) {
                Ok(path) => println!("written: {}", path.display()),
                Err(error) => eprintln!("rounds: writing results: {error}"),
            }
            let outcome = results.outcome();
            println!("{} after {} s", outcome.text(), began.elapsed().as_secs());
            ExitCode::from(outcome.status())
        }
        Err(failure) => {
            eprintln!("rounds: {failure}");
            ExitCode::from(2)
        }
    }
}

fn measure(flags: &Flags) -> Result<Results, Failure> {
    let mut results = Results { pieces: pieces(flags), ..Results::default() };
    let contenders: &[Contender] =
        if flags.floors_only { &Contender::FLOORS } else { &[Contender::Ringmain, Contender::Write, Contender::Uring] };
    results.fan_out = fan_out(flags, contenders)?;
    if flags.floors_only {
        return Ok(results);
    }
    let ringmain = |stage: &str, load: &[&str]| {
        eprintln!("{stage}: {}", load.join(" "));
        contender::run(flags, Contender::Ringmain, load)
    };
    for round in 1..=flags.stream_rounds {
        results.stream.push(ringmain(&format!("stream {round}/{}", flags.stream_rounds), &["stream"])?);
    }
    for payload in STALL_PAYLOADS {
        let load = ["stall", "--stalled", "20", "--turns", "2", "--payload", payload];
        results.stall.push(ringmain("stalled readers", &load)?);
    }
    for load in OTHERS {
        results.others.push((load.join(" "), ringmain("beside the bars", load)?));
    }
    for settle in IDLE_SETTLES {
        results.idle.push(ringmain("idle", &["idle", "--settle", settle])?);
    }
    Ok(results)
}

/// What the bench of pure pieces prints, run where the server will be.
fn pieces(flags: &Flags) -> Option<String> {
    let pieces = flags.pieces.as_ref()?;
    eprintln!("pure pieces");
    let output = Command::new("taskset").arg("-c").arg(flags.server_cpu.to_string()).arg(pieces).output().ok()?;
    String::from_utf8(output.stdout).ok().filter(|_| output.status.success())
}

fn fan_out(flags: &Flags, contenders: &[Contender]) -> Result<Vec<Series>, Failure> {
    let [subscribers, publications, payload] =
        [flags.subscribers, flags.publications, flags.payload].map(|number| number.to_string());
    let load = ["fan-out", "--subscribers", &subscribers, "--publications", &publications, "--payload", &payload];
    let mut series: Vec<Series> = contenders.iter().map(|&contender| Series { contender, runs: Vec::new() }).collect();
    for round in 1..=flags.rounds {
        for series in &mut series {
            let figures: Figures = contender::run(flags, series.contender, &load)?;
            eprintln!(
                "fan-out {round}/{}  {:<14} {:.3} µs CPU, {:.3} µs core{}",
                flags.rounds,
                series.contender.name(),
                figures.number("server_cpu_us_each"),
                figures.number("core_busy_us_each"),
                if figures.is_sound() { String::new() } else { format!(", does not count: {}", figures.reasons()) },
            );
            series.runs.push(figures);
        }
    }
    Ok(series)
}
