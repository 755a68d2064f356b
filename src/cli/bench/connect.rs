//! Connections that come and go: connect, upgrade, subscribe, close.

use clap::Args;

use super::checker::Checker;
use super::error::BenchError;
use super::fleet::Fleet;
use super::pace::{Amount, Loop, Pace, Pacing, Phase, Words};
use super::payload::PAYLOAD_BYTES_MIN;
use super::report::Report;
use super::session::Transport;
use super::verdict::Verdict;
use super::{Common, Outcome};

const WORDS: Words = Words { counted: "subscribed", per_second: "subscribed_per_second" };

#[derive(Args, Debug)]
pub struct ConnectArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pacing: Pacing,
    /// Connections of each loop.
    #[arg(long, default_value_t = 20_000)]
    connections: u64,
    /// How many stay open at a time.
    #[arg(long, default_value_t = 256)]
    hold: usize,
    #[arg(long, default_value = "bench-connect")]
    channel: String,
}

pub fn run(args: &ConnectArgs) -> Result<Outcome, BenchError> {
    let request = args.common.subscribe(&args.channel, Transport::Ws);
    let checker = Checker::new(&args.channel, PAYLOAD_BYTES_MIN);
    let mut fleet = args.common.fleet(request, checker, args.hold + args.common.window)?;
    fleet.end_as_clients_do();
    let phases = args.pacing.run(|pace, lead| measure(&mut fleet, args, pace, lead))?;

    let mut report = Report::new("connect");
    report.add("connections", args.connections);
    report.add("hold", args.hold);
    phases.write(&mut report, &WORDS);
    let mut verdict = Verdict::default();
    verdict.came(phases.counted(), "connections");
    verdict.lost(fleet.opening() as u64, "connections");
    verdict.tally(&fleet.checker);
    verdict.closed(fleet.closed());
    Ok(Outcome::new(report, &verdict))
}

fn measure(fleet: &mut Fleet, args: &ConnectArgs, pace: Loop, lead: u64) -> Result<Phase, BenchError> {
    if lead > 0 {
        fleet.churn(Pace::new(pace, fleet.clock.now(), Amount::all(lead)), args.common.window, args.hold)?;
    }
    fleet.connect_latency.reset();
    let began = fleet.clock.now();
    let sample = args.common.server().sample(began)?;
    let complete = fleet.churn(Pace::new(pace, began, Amount::all(args.connections)), args.common.window, args.hold)?;
    let now = fleet.clock.now();
    let count = fleet.connect_latency.len();
    Ok(Phase {
        nanos: now - began,
        paced: count,
        counted: count,
        spent: sample.until(args.common.server().sample(now)?),
        latency: fleet.connect_latency.clone(),
        complete,
    })
}
