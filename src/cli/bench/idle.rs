//! Connections that come and stay, or come and go: memory per idle connection, connections per second.
//!
//! `idle` first lets many connections come and go, so that the server's pools and allocator have seen use; then memory
//! is read at two counts, and the slope between them is what one connection costs: whatever the process has anyway
//! (buffers, rings, code) is the same at both and falls out.

use clap::Args;

use super::checker::{Checker, Tally};
use super::error::BenchError;
use super::fleet::Fleet;
use super::payload::PAYLOAD_BYTES_MIN;
use super::report::Report;
use super::server::Memory;
use super::session::{Doing, Transport};
use super::{Common, Outcome, channel_path};

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

#[derive(Args, Debug)]
pub struct ConnectArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// Connections in all.
    #[arg(long, default_value_t = 20_000)]
    connections: u64,
    /// How many stay open at a time.
    #[arg(long, default_value_t = 256)]
    hold: usize,
    #[arg(long, default_value = "bench-connect")]
    channel: String,
}

pub fn run(args: &IdleArgs) -> Result<Outcome, BenchError> {
    if args.common.pid.is_none() {
        return Err(BenchError::Flag { flag: "--pid", rule: "is needed: memory is read from /proc/PID" });
    }
    if args.from >= args.to {
        return Err(BenchError::Flag { flag: "--from", rule: "must be below --to" });
    }
    let mut request = args.common.request(channel_path(&args.channel), Doing::Subscribe(Transport::Ws));
    request.own_paths = args.own_channels;
    let checker =
        if args.own_channels { Checker::for_own_channels(&args.channel) } else { Checker::new(&args.channel, PAYLOAD_BYTES_MIN) };
    let open_max = args.to.max(args.churn_hold + args.common.window);
    let mut fleet = args.common.fleet(request, checker, open_max)?;

    let fresh = memory(args)?;
    fleet.churn(args.churn, args.common.window, args.churn_hold)?;
    settle(&mut fleet, CHURN_SETTLE_SECONDS)?;
    let churned = memory(args)?;
    fleet.open(args.from, args.common.window)?;
    settle(&mut fleet, args.settle)?;
    let low = memory(args)?;
    fleet.open(args.to, args.common.window)?;
    settle(&mut fleet, args.settle)?;
    let high = memory(args)?;
    Ok(idle_outcome(&fleet, args, [fresh, churned, low, high]))
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

fn idle_outcome(fleet: &Fleet, args: &IdleArgs, [fresh, churned, low, high]: [Memory; 4]) -> Outcome {
    let between = (args.to - args.from) as f64;
    let slope = |low: u64, high: u64| (high as f64 - low as f64) / between;
    let mut report = Report::new("idle");
    report.add("from", args.from);
    report.add("to", args.to);
    report.add("churn", args.churn);
    report.add("own_channels", args.own_channels);
    report.real("bytes_per_connection", slope(low.resident, high.resident));
    report.real("anonymous_bytes_per_connection", slope(low.anonymous, high.anonymous));
    // A slope can hide in heap that the churn or the pings left free; this cannot.
    report.real("all_in_bytes_per_connection", (high.resident as f64 - fresh.resident as f64) / args.to as f64);
    report.add("resident_kib_at_start", fresh.resident / 1024);
    report.add("resident_kib_after_churn", churned.resident / 1024);
    report.add("resident_kib_from", low.resident / 1024);
    report.add("resident_kib_to", high.resident / 1024);
    let (closed, fault) = fleet.closed();
    report.faults(fleet.checker.tally, 0, closed);
    if let Some(fault) = fault {
        report.add("last_fault", format!("{fault:?}"));
    }
    Outcome { report, sound: fleet.checker.tally.is_sound() && closed == 0 }
}

pub fn run_connect(args: &ConnectArgs) -> Result<Outcome, BenchError> {
    let request = args.common.request(channel_path(&args.channel), Doing::Subscribe(Transport::Ws));
    let checker = Checker::new(&args.channel, PAYLOAD_BYTES_MIN);
    let mut fleet = args.common.fleet(request, checker, args.hold + args.common.window)?;
    let began = fleet.clock.now();
    let sample = args.common.server().sample(began)?;
    fleet.churn(args.connections, args.common.window, args.hold)?;
    let now = fleet.clock.now();
    let spent = sample.until(args.common.server().sample(now)?);

    let seconds = (now - began) as f64 / 1e9;
    let mut report = Report::new("connect");
    report.add("connections", args.connections);
    report.real("seconds", seconds);
    report.real("connections_per_second", args.connections as f64 / seconds.max(1e-9));
    report.spent(spent, args.connections);
    report.latency(&fleet.connect_latency);
    report.faults(Tally { deliveries: 0, ..fleet.checker.tally }, 0, fleet.closed().0);
    Ok(Outcome { report, sound: fleet.checker.tally.is_sound() })
}
