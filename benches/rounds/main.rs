//! Rounds: ringmain and the floors under the same load, alternated, so that whatever the machine does to one it does to
//! all. Prints a table of medians and spreads beside the bars, and writes it to `benches/results/`.
//!
//! Every server is started for one load, pinned to its core, and ended by its own process id.

mod contender;
mod results;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use contender::{Contender, Failure, Figures};
use results::{Results, Series};

/// Seconds before memory is read: before the first ping, and after a round of them. What pings leave free in the heap
/// would otherwise hide what connections take, or their peak would not be seen at all; the worse slope counts.
const IDLE_SETTLES: [&str; 2] = ["3", "30"];

/// Measures ringmain against the floors on this machine.
#[derive(Parser, Debug)]
pub struct Flags {
    #[arg(long)]
    ringmain: PathBuf,
    #[arg(long)]
    floor: PathBuf,
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
    #[arg(long, default_value_t = 400)]
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
    match measure(&flags) {
        Ok(results) => {
            let text = results.markdown();
            println!("\n{text}");
            match results.write(&flags.results) {
                Ok(path) => println!("written: {}", path.display()),
                Err(error) => eprintln!("rounds: writing results: {error}"),
            }
            ExitCode::from(u8::from(!results.is_valid()))
        }
        Err(failure) => {
            eprintln!("rounds: {failure}");
            ExitCode::from(2)
        }
    }
}

fn measure(flags: &Flags) -> Result<Results, Failure> {
    let contenders: &[Contender] =
        if flags.floors_only { &Contender::FLOORS } else { &[Contender::Ringmain, Contender::Write, Contender::Uring] };
    let fan_out = fan_out(flags, contenders)?;
    let mut results = Results { fan_out, stream: Vec::new(), idle: Vec::new() };
    if !flags.floors_only {
        for round in 1..=flags.stream_rounds {
            eprintln!("stream {round}/{}", flags.stream_rounds);
            results.stream.push(contender::run(flags, Contender::Ringmain, &["stream"])?);
        }
        for settle in IDLE_SETTLES {
            eprintln!("idle, read after {settle} s");
            results.idle.push(contender::run(flags, Contender::Ringmain, &["idle", "--settle", settle])?);
        }
    }
    Ok(results)
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
                "fan-out {round}/{}  {:<14} {:.3} µs CPU, {:.3} µs core, {} lost",
                flags.rounds,
                series.contender.name(),
                figures.number("server_cpu_us_each"),
                figures.number("core_busy_us_each"),
                figures.number("lost"),
            );
            series.runs.push(figures);
        }
    }
    Ok(series)
}
