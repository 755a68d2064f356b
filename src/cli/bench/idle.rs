//! Connections that come and stay: memory per idle connection.
//!
//! First many connections come and go, so that the server's pools and allocator have seen use; then memory is read at two
//! counts, and the slope between them is what one connection costs: whatever the process has anyway (buffers, rings,
//! code) is the same at both and falls out. The slope is of private dirty pages (`Private_Dirty` of `smaps_rollup`):
//! resident memory also moves with the pages of the binary that happen to be mapped. Both are printed.

use clap::Args;

use super::checker::Checker;
use super::error::BenchError;
use super::fleet::Fleet;
use super::pace::{Amount, Loop, Pace};
use super::payload::PAYLOAD_BYTES_MIN;
use super::report::Report;
use super::server::{Memory, Spent};
use super::session::Transport;
use super::verdict::Verdict;
use super::{Common, Outcome};

/// Wait after the churn: the server has closings to finish.
const CHURN_SETTLE_SECONDS: u64 = 3;

#[derive(Args, Debug)]
pub struct IdleArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// The first count at which memory is read.
    #[arg(long, default_value_t = 4000)]
    from: usize,
    /// The second.
    #[arg(long, default_value_t = 19_000)]
    to: usize,
    /// Connections that come and go before.
    #[arg(long, default_value_t = 20_000)]
    churn: u64,
    /// How many of those are open at a time.
    #[arg(long, default_value_t = 1000)]
    churn_hold: usize,
    /// Seconds at each count before memory is read. The default sees a round of pings, which are answered.
    #[arg(long, default_value_t = 30)]
    settle: u64,
    #[arg(long, default_value = "bench-idle")]
    channel: String,
    /// Each connection subscribes to a channel of its own.
    #[arg(long)]
    own_channels: bool,
}

pub fn run(args: &IdleArgs) -> Result<Outcome, BenchError> {
    if args.common.pid.is_none() {
        return Err(BenchError::Flag { flag: "--pid", rule: "is needed: memory is read from /proc/PID" });
    }
    if args.from >= args.to {
        return Err(BenchError::Flag { flag: "--from", rule: "must be below --to" });
    }
    let mut request = args.common.subscribe(&args.channel, Transport::Ws);
    let open_max = args.to.max(args.churn_hold + args.common.window);
    request.channels = args.own_channels.then_some(open_max);
    let checker = match request.channels {
        Some(count) => Checker::with_channels(&args.channel, count, PAYLOAD_BYTES_MIN),
        None => Checker::new(&args.channel, PAYLOAD_BYTES_MIN),
    };
    let mut fleet = args.common.fleet(request, checker, open_max)?;

    let fresh = memory(args)?;
    let churn = Pace::new(Loop::Closed, fleet.clock.now(), Amount::all(args.churn));
    // By resets: what the kernel remembers of closed connections, and forgets while memory is read, is no connection's.
    fleet.churn(churn, args.common.window, args.churn_hold)?;
    settle(&mut fleet, CHURN_SETTLE_SECONDS)?;
    let churned = memory(args)?;
    fleet.open(args.from, args.common.window)?;
    settle(&mut fleet, args.settle)?;
    let low = memory(args)?;
    fleet.open(args.to, args.common.window)?;
    let sample = args.common.server().sample(fleet.clock.now())?;
    settle(&mut fleet, args.settle)?;
    let high = memory(args)?;
    let spent = sample.until(args.common.server().sample(fleet.clock.now())?);
    Ok(outcome(&fleet, args, [fresh, churned, low, high], spent))
}

fn memory(args: &IdleArgs) -> Result<Memory, BenchError> {
    Ok(args.common.server().memory()?.unwrap_or_default())
}

fn settle(fleet: &mut Fleet, seconds: u64) -> Result<(), BenchError> {
    let until = fleet.clock.now().saturating_add(seconds.saturating_mul(1_000_000_000));
    while fleet.clock.now() < until {
        fleet.turn(until)?;
        fleet.say(|_| "waiting before memory is read".to_owned());
    }
    Ok(())
}

fn outcome(fleet: &Fleet, args: &IdleArgs, [fresh, churned, low, high]: [Memory; 4], spent: Spent) -> Outcome {
    let between = (args.to - args.from) as f64;
    let slope = |low: u64, high: u64| (high as f64 - low as f64) / between;
    let mut report = Report::new("idle");
    report.add("from", args.from);
    report.add("to", args.to);
    report.add("churn", args.churn);
    report.add("own_channels", args.own_channels);
    report.add("settle_seconds", args.settle);
    report.real("bytes_per_connection", slope(low.private, high.private));
    report.real("resident_bytes_per_connection", slope(low.resident, high.resident));
    // The load's end of each connection is a socket of this host too.
    let kernel = slope(low.slab, high.slab) / 2.0;
    report.real("kernel_bytes_per_connection", kernel);
    report.real("whole_bytes_per_connection", kernel + slope(low.private, high.private));
    // A slope can hide in heap that the churn or the pings left free; this cannot.
    report.real("all_in_bytes_per_connection", (high.private as f64 - fresh.private as f64) / args.to as f64);
    for (name, bytes) in [
        ("base_resident_kib", fresh.resident),
        ("base_private_kib", fresh.private),
        ("resident_kib_after_churn", churned.resident),
        ("private_kib_after_churn", churned.private),
        ("resident_kib_from", low.resident),
        ("private_kib_from", low.private),
        ("resident_kib_to", high.resident),
        ("private_kib_to", high.private),
    ] {
        report.add(name, bytes / 1024);
    }
    if let Some(nanos) = spent.process {
        // Pings and their answers included.
        report.real("server_cpu_us_per_connection_second", nanos as f64 / 1e3 / (args.to as f64 * args.settle.max(1) as f64));
    }
    let mut verdict = Verdict::default();
    verdict.came(fleet.ready() as u64, "connections");
    verdict.tally(&fleet.checker);
    verdict.closed(fleet.closed());
    Outcome::new(report, &verdict)
}
