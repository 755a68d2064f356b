//! WebSocket echo: each connection sends its next message when the last came back, and compares every byte.

use clap::Args;

use super::checker::{Checker, Tally};
use super::error::BenchError;
use super::fleet::Fleet;
use super::report::Report;
use super::session::Doing;
use super::{Common, Outcome, check_payload};

#[derive(Args, Debug)]
pub struct EchoArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long, default_value_t = 500)]
    connections: usize,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64)]
    payload: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, default_value = "/echo")]
    path: String,
}

pub fn run(args: &EchoArgs) -> Result<Outcome, BenchError> {
    check_payload(args.payload)?;
    let request = args.common.request(args.path.clone(), Doing::Echo { payload_bytes: args.payload });
    let mut fleet = args.common.fleet(request, Checker::new("", args.payload), args.connections)?;
    fleet.open(args.connections, args.common.window)?;
    fleet.start_echoes()?;
    run_for(&mut fleet, 1_000_000_000)?;
    let (began, before) = (fleet.clock.now(), fleet.echoes.count);
    fleet.echoes.round_trip.reset();
    let sample = args.common.server().sample(began)?;
    run_for(&mut fleet, args.seconds.saturating_mul(1_000_000_000))?;
    let now = fleet.clock.now();
    let spent = sample.until(args.common.server().sample(now)?);
    let messages = fleet.echoes.count - before;
    drain(&mut fleet)?;

    let seconds = (now - began) as f64 / 1e9;
    let mut report = Report::new("echo");
    report.add("connections", args.connections);
    report.add("payload_bytes", args.payload);
    report.real("seconds", seconds);
    report.add("messages", messages);
    report.real("messages_per_second", messages as f64 / seconds.max(1e-9));
    report.spent(spent, messages);
    report.latency(&fleet.echoes.round_trip);
    let (closed, fault) = fleet.closed();
    report.faults(Tally::default(), fleet.echoes.outstanding, closed);
    if let Some(fault) = fault {
        report.add("last_fault", format!("{fault:?}"));
    }
    Ok(Outcome { report, sound: closed == 0 && fleet.echoes.outstanding == 0 })
}

fn run_for(fleet: &mut Fleet, nanos: u64) -> Result<(), BenchError> {
    let until = fleet.clock.now().saturating_add(nanos);
    while fleet.clock.now() < until && fleet.closed().0 == 0 {
        fleet.turn(until)?;
        fleet.say(|fleet| format!("{} echoes", fleet.echoes.count));
    }
    Ok(())
}

/// Waits for what is still on its way, while any of it comes. What does not is counted as lost.
fn drain(fleet: &mut Fleet) -> Result<(), BenchError> {
    fleet.echoes.stopped = true;
    let mut stall = fleet.stall("waiting for the last echoes");
    while fleet.echoes.outstanding > 0 && stall.check(fleet.echoes.count, fleet.clock.now()).is_ok() {
        fleet.turn(u64::MAX)?;
    }
    Ok(())
}
