//! WebSocket echo: messages to the echo door and back, every byte compared.
//!
//! Closed, each connection sends its next message when the last came back. Open, messages are due at a rate, to the
//! connections in turn.

use clap::Args;

use super::checker::Checker;
use super::error::BenchError;
use super::fleet::Fleet;
use super::pace::{Amount, Loop, Pace, Pacing, Phase, Words};
use super::report::Report;
use super::session::Doing;
use super::verdict::Verdict;
use super::{Common, Outcome, check_payload};

const WORDS: Words = Words { counted: "messages", per_second: "messages_per_second" };
const WARM_UP_SECONDS: u64 = 1;
/// Messages of an open loop that may be on their way for each connection. Beyond it the loop waits, and latency tells.
const OUTSTANDING_MAX: u64 = 64;

#[derive(Args, Debug)]
pub struct EchoArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pacing: Pacing,
    /// Messages that each connection of a closed loop has on their way at a time.
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    #[arg(long, default_value_t = 500)]
    connections: usize,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// Seconds of each loop.
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
    run_closed(&mut fleet, args.pipeline, WARM_UP_SECONDS)?;
    drain(&mut fleet)?;
    let phases = args.pacing.run(|pace, lead| measure(&mut fleet, args, pace, lead))?;

    let mut report = Report::new("echo");
    report.add("connections", args.connections);
    report.add("pipeline", args.pipeline);
    report.add("payload_bytes", args.payload);
    phases.write(&mut report, &WORDS);
    let mut verdict = Verdict::default();
    verdict.came(phases.counted(), "messages in the measured part");
    verdict.lost(fleet.echoes.outstanding, "messages");
    verdict.closed(fleet.closed());
    Ok(Outcome::new(report, &verdict))
}

fn measure(fleet: &mut Fleet, args: &EchoArgs, pace: Loop, lead: u64) -> Result<Phase, BenchError> {
    if lead > 0 {
        run_open(fleet, pace, lead, || false)?;
        drain(fleet)?;
    }
    match pace {
        Loop::Closed | Loop::Windowed(_) => measure_as(fleet, &args.common, |fleet| run_closed(fleet, args.pipeline, args.seconds)),
        Loop::Open(rate) => measure_open(fleet, &args.common, pace, (rate * args.seconds as f64) as u64, || false),
    }
}

/// Sends `count` echoes at a rate, fewer when it is over before, and measures that.
pub fn measure_open(
    fleet: &mut Fleet,
    common: &Common,
    pace: Loop,
    count: u64,
    is_over: impl Fn() -> bool,
) -> Result<Phase, BenchError> {
    measure_as(fleet, common, |fleet| run_open(fleet, pace, count, is_over))
}

fn measure_as(
    fleet: &mut Fleet,
    common: &Common,
    run: impl FnOnce(&mut Fleet) -> Result<(), BenchError>,
) -> Result<Phase, BenchError> {
    let (began, before) = (fleet.clock.now(), fleet.echoes.count);
    fleet.echoes.round_trip.reset();
    let sample = common.server().sample(began)?;
    run(fleet)?;
    let complete = drain(fleet)?;
    let now = fleet.clock.now();
    let count = fleet.echoes.count - before;
    Ok(Phase {
        nanos: now - began,
        paced: count,
        counted: count,
        spent: sample.until(common.server().sample(now)?),
        latency: fleet.echoes.round_trip.clone(),
        complete,
    })
}

fn run_closed(fleet: &mut Fleet, pipeline: usize, seconds: u64) -> Result<(), BenchError> {
    let until = fleet.clock.now().saturating_add(seconds.saturating_mul(1_000_000_000));
    fleet.echoes.again = true;
    let connections = fleet.ready();
    for index in (0..pipeline).flat_map(|_| 0..connections) {
        fleet.echo(index, fleet.clock.now())?;
    }
    while fleet.clock.now() < until && fleet.closed().0 == 0 {
        fleet.turn(until)?;
        fleet.say(|fleet| format!("{} echoes", fleet.echoes.count));
    }
    fleet.echoes.again = false;
    Ok(())
}

fn run_open(fleet: &mut Fleet, pace: Loop, count: u64, is_over: impl Fn() -> bool) -> Result<(), BenchError> {
    let connections = fleet.ready();
    let outstanding_max = OUTSTANDING_MAX * connections as u64;
    let mut pace = Pace::new(pace, fleet.clock.now(), Amount::all(count));
    let mut stall = fleet.stall("echoing");
    let goes_on = |pace: &Pace, fleet: &Fleet| !pace.is_done() && fleet.closed().0 == 0 && !is_over();
    for turn in (0..connections).cycle() {
        while goes_on(&pace, fleet) {
            let room = fleet.echoes.outstanding < outstanding_max;
            if let Some(due) = pace.next(fleet.clock.now(), room) {
                fleet.echo(turn, due)?;
                break;
            }
            fleet.turn(pace.sleep_until(room))?;
            if fleet.echoes.outstanding == 0 {
                stall.rest(fleet.clock.now());
            }
            if stall.check(fleet.echoes.count, fleet.clock.now()).is_err() {
                return Ok(());
            }
            fleet.say(|fleet| format!("{} echoes", fleet.echoes.count));
        }
        if !goes_on(&pace, fleet) {
            break;
        }
    }
    Ok(())
}

/// Waits for what is still on its way, while any of it comes; false when some does not. That counts as lost.
fn drain(fleet: &mut Fleet) -> Result<bool, BenchError> {
    let mut stall = fleet.stall("waiting for the last echoes");
    while fleet.echoes.outstanding > 0 {
        if fleet.is_out_of_time() || stall.check(fleet.echoes.count, fleet.clock.now()).is_err() {
            return Ok(false);
        }
        fleet.turn(u64::MAX)?;
    }
    Ok(true)
}
