//! Rounds: ringmain, the floors and the peers under the same loads, alternated, so that whatever the machine does to one it does
//! to all. Prints a table of medians and spreads beside the bars, and writes it to `benches/results/`.
//!
//! Every server is started for one load, pinned to its core, and ended by its own process id. The exit status is 0 when
//! every bar was met, 1 when some bar is void (it says nothing then) and no other was missed, 2 when it could not be run, 3 when a
//! bar was missed.

mod bars;
mod contender;
mod host;
mod plan;
mod results;
mod spread;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;

use contender::Contender;
use plan::{First, Group, PLAN};
use results::{Measured, Results, Series};

/// Closed connections that the kernel may remember while last percentiles or memory are measured.
const REMEMBERED_MAX: u64 = 200;
/// It does for a minute, and looks every other second.
const REMEMBERED_FOR: Duration = Duration::from_secs(66);
const REMEMBERED_LOOK: Duration = Duration::from_millis(100);
/// Ports that are used in turn.
const PORTS: u16 = 500;

/// Measures ringmain against the floors and the peers on this machine.
#[derive(Parser, Debug)]
pub struct Flags {
    #[arg(long)]
    ringmain: PathBuf,
    #[arg(long)]
    floor: PathBuf,
    /// Where the servers on other runtimes are. Left out: they are not measured.
    #[arg(long)]
    peers: Option<PathBuf>,
    /// Where nginx's modules are, nchan among them. Left out: it is not measured.
    #[arg(long)]
    nginx_modules: Option<PathBuf>,
    /// The bench of pure pieces, run first.
    #[arg(long)]
    pieces: Option<PathBuf>,
    #[arg(long, default_value = "benches/ringmain.toml")]
    config: PathBuf,
    /// Where the results are written.
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
    /// Only groups whose names contain this.
    #[arg(long)]
    only: Option<String>,
    /// Rounds of every group, instead of its own number.
    #[arg(long)]
    rounds: Option<usize>,
    /// The first server's port. Each run has one of its own: the kernel remembers closed connections to a port for a minute.
    #[arg(long, default_value_t = 9100)]
    port: u16,
    #[arg(long, default_value_t = 0)]
    server_cpu: u32,
    #[arg(long, default_value_t = 1)]
    load_cpu: u32,
    /// Leave ringmain and the peers out: only the floors and how steady they are.
    #[arg(long)]
    floors_only: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let began = Instant::now();
    let results = measure(&flags);
    println!("\n{}", results.markdown());
    match results.write(&flags.results) {
        Ok(path) => println!("written: {}", path.display()),
        Err(error) => eprintln!("rounds: writing results: {error}"),
    }
    let outcome = results.outcome();
    println!("{} after {} s", outcome.text(), began.elapsed().as_secs());
    ExitCode::from(outcome.status())
}

fn measure(flags: &Flags) -> Results {
    let before = host::Counters::now();
    let mut results = Results { pieces: pieces(flags), ..Results::default() };
    let chosen = |group: &&Group| flags.only.as_ref().is_none_or(|part| group.name.contains(part.as_str()));
    let mut ports = (0..PORTS).cycle().map(|run| flags.port + run);
    for group in PLAN.iter().filter(chosen) {
        let measured = rounds_of(flags, group, &mut ports);
        if !measured.series.is_empty() {
            results.groups.push(measured);
        }
    }
    results.host = host::Counters::now().since(&before);
    results
}

/// What the bench of pure pieces prints, run where the server will be.
fn pieces(flags: &Flags) -> Option<String> {
    let pieces = flags.pieces.as_ref()?;
    eprintln!("pure pieces");
    let output = Command::new("taskset").arg("-c").arg(flags.server_cpu.to_string()).arg(pieces).output().ok()?;
    String::from_utf8(output.stdout).ok().filter(|_| output.status.success())
}

/// Waits until the kernel has forgotten the connections of earlier loads, as long as it may remember them. It forgets those that were
/// closed at the same time at the same time: some milliseconds in which nothing else has that core, and memory that is free again.
fn wait_until_forgotten() {
    let began = Instant::now();
    let remembered = host::remembered_connections();
    if remembered <= REMEMBERED_MAX {
        return;
    }
    eprintln!("waiting up to {} s for the kernel to forget {remembered} closed connections", REMEMBERED_FOR.as_secs());
    while host::remembered_connections() > REMEMBERED_MAX && began.elapsed() < REMEMBERED_FOR {
        std::thread::sleep(REMEMBERED_LOOK);
    }
}

fn rounds_of(flags: &Flags, group: &Group, ports: &mut impl Iterator<Item = u16>) -> Measured {
    let chosen = |&&contender: &&Contender| contender.is_there(flags);
    let mut series: Vec<Series> =
        group.contenders.iter().filter(chosen).map(|&contender| Series { contender, runs: Vec::new(), failure: None }).collect();
    let rounds = flags.rounds.unwrap_or(group.rounds);
    let first = First::of(group.name);
    if first.is_some() || plan::IDLES.contains(&group.name) {
        wait_until_forgotten();
    }
    for round in 1..=rounds {
        for series in series.iter_mut().filter(|series| series.failure.is_none()) {
            let began = Instant::now();
            let port = ports.next().unwrap_or(flags.port);
            let figures = match contender::run(flags, series.contender, group.load, first, port) {
                Err(failure) => {
                    eprintln!("{} {round}/{rounds}  {failure}", group.name);
                    series.failure = Some(failure.to_string());
                    continue;
                }
                Ok(figures) => figures,
            };
            eprintln!(
                "{} {round}/{rounds}  {:<18} {} ({:.0} s){}",
                group.name,
                series.contender.name(),
                figures.headline(),
                began.elapsed().as_secs_f64(),
                if figures.is_sound() { String::new() } else { format!(", does not count: {}", figures.reasons()) },
            );
            series.runs.push(figures);
        }
    }
    Measured { name: group.name, load: group.load.join(" "), series }
}
