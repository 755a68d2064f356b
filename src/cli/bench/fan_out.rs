//! Channels with subscribers, publications over HTTP during the run. (`channels` has many; the loads here have one.)
//!
//! `fan-out` tells what a delivery costs and how long it takes; `stream` publishes at a rate to a channel whose
//! namespace coalesces.

use clap::Args;

use super::checker::Checker;
use super::dialect;
use super::error::BenchError;
use super::fleet::Fleet;
use super::pace::{Amount, Loop, Pace, Pacing, Phase, Phases, Words};
use super::publisher::IN_FLIGHT_MAX;
use super::report::Report;
use super::session::{Request, Transport};
use super::verdict::Verdict;
use super::{Common, Outcome, check_payload};

const WORDS: Words = Words { counted: "deliveries", per_second: "deliveries_per_second" };

#[derive(Args, Debug)]
pub struct FanOutArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pacing: Pacing,
    #[arg(long, default_value_t = 5000)]
    subscribers: usize,
    /// Publications that are measured; an open loop after the closed one publishes half as many.
    #[arg(long, default_value_t = 400)]
    publications: u64,
    /// Publications before those.
    #[arg(long, default_value_t = 40)]
    warmup: u64,
    /// Seconds after which the closed loop publishes no more, if it has not published all. The warm-up has a third of that, the
    /// open loop half. Default: as long as it takes.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    #[arg(long, value_enum, default_value = "ws")]
    transport: Transport,
    /// WebSockets ask for compressed messages. Without a compressed delivery the run does not count.
    #[arg(long)]
    deflate: bool,
    /// Publications that a closed loop has on their way at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=512))]
    in_flight: u64,
    #[arg(long, default_value = "bench")]
    channel: String,
}

#[derive(Args, Debug)]
pub struct StreamArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// Publications a second: the loop is open.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    #[arg(long, default_value_t = 128)]
    payload: usize,
    #[arg(long, value_enum, default_value = "ws")]
    transport: Transport,
    /// Its namespace should have a `coalesce` window.
    #[arg(long, default_value = "stream:bench")]
    channel: String,
}

/// One of these loads.
pub struct Plan<'a> {
    pub load: &'static str,
    pub common: &'a Common,
    pub pacing: Pacing,
    /// How many, where they are named by their numbers after `channel`.
    pub channels: Option<usize>,
    /// Of each channel.
    pub subscribers: usize,
    pub publications: Amount,
    pub warmup: u64,
    pub payload: usize,
    pub transport: Transport,
    pub deflate: bool,
    pub in_flight: u64,
    pub channel: &'a str,
}

pub fn run(args: &FanOutArgs) -> Result<Outcome, BenchError> {
    run_plan(&Plan {
        load: "fan-out",
        common: &args.common,
        pacing: args.pacing.clone(),
        channels: None,
        subscribers: args.subscribers,
        publications: Amount::within(args.publications, args.seconds),
        warmup: args.warmup,
        payload: args.payload,
        transport: args.transport,
        deflate: args.deflate,
        in_flight: args.in_flight,
        channel: &args.channel,
    })
}

pub fn run_stream(args: &StreamArgs) -> Result<Outcome, BenchError> {
    if args.rate == 0 {
        return Err(BenchError::Flag { flag: "--rate", rule: "must be above 0" });
    }
    run_plan(&Plan {
        load: "stream",
        common: &args.common,
        pacing: Pacing::at(args.rate.into()),
        channels: None,
        subscribers: args.subscribers,
        publications: Amount::all(u64::from(args.rate) * u64::from(args.seconds)),
        warmup: args.rate.into(),
        payload: args.payload,
        transport: args.transport,
        deflate: false,
        in_flight: 1,
        channel: &args.channel,
    })
}

pub fn run_plan(plan: &Plan<'_>) -> Result<Outcome, BenchError> {
    check_payload(plan.payload)?;
    if let Some(rule) = dialect::unspoken(plan.common.dialect, plan.transport) {
        return Err(BenchError::Flag { flag: "--transport", rule });
    }
    if plan.deflate && plan.transport != Transport::Ws {
        return Err(BenchError::Flag { flag: "--deflate", rule: "is for WebSockets: take --transport ws" });
    }
    let Plan { channels, deflate, .. } = *plan;
    let request = Request { channels, deflate, ..plan.common.subscribe(plan.channel, plan.transport) };
    let checker = match channels {
        Some(count) => Checker::with_channels(plan.channel, count, plan.payload),
        None => Checker::new(plan.channel, plan.payload),
    };
    let connections = channels.unwrap_or(1) * plan.subscribers;
    let mut fleet = plan.common.fleet(request, checker, connections)?;
    fleet.open(connections, plan.common.window)?;
    fleet.open_publisher(&plan.common.api_key())?;
    let mut warm = false;
    // Of the first loop, as the count of all deliveries is.
    let mut compressed = None;
    let phases = plan.pacing.run(|pace, lead| {
        let pace = if pace == Loop::Closed && plan.in_flight > 1 { Loop::Windowed(plan.in_flight) } else { pace };
        if !std::mem::replace(&mut warm, true) {
            publish(&mut fleet, plan.subscribers, pace, plan.publications.in_part(plan.warmup, 3))?;
        }
        if lead > 0 {
            publish(&mut fleet, plan.subscribers, pace, Amount::all(lead))?;
        }
        let amount = match (pace, plan.pacing.is_both()) {
            (Loop::Open(_), true) => plan.publications.in_part((plan.publications.count() / 2).max(1), 2),
            (Loop::Open(_) | Loop::Closed | Loop::Windowed(_), _) => plan.publications,
        };
        let before = fleet.checker.compressed_deliveries;
        let phase = measure(&mut fleet, plan.common, plan.subscribers, pace, amount)?;
        compressed.get_or_insert(fleet.checker.compressed_deliveries - before);
        Ok(phase)
    })?;
    Ok(outcome(&fleet, plan, &phases, compressed.filter(|_| plan.deflate)))
}

/// Publishes that many, each to the `subscribers` of its channel, and measures that.
pub fn measure(fleet: &mut Fleet, common: &Common, subscribers: usize, pace: Loop, amount: Amount) -> Result<Phase, BenchError> {
    fleet.checker.reset_latency();
    let (before, published_before) = (fleet.checker.tally.deliveries, fleet.checker.published());
    let began = fleet.clock.now();
    let sample = common.server().sample(began)?;
    let complete = publish(fleet, subscribers, pace, amount)?;
    let spent = sample.until(common.server().sample(fleet.clock.now())?);
    Ok(Phase {
        nanos: fleet.checker.delivered_at.saturating_sub(began),
        paced: fleet.checker.published() - published_before,
        counted: fleet.checker.tally.deliveries - before,
        spent,
        latency: fleet.checker.latency().clone(),
        complete,
    })
}

/// Publishes that many, each to the `subscribers` of its channel, and waits until all got them. False when nothing comes any
/// more or the time is up: what is missing then is a finding, not a failure of the load.
pub fn publish(fleet: &mut Fleet, subscribers: usize, pace: Loop, amount: Amount) -> Result<bool, BenchError> {
    let mut pace_of_these = Pace::new(pace, fleet.clock.now(), amount);
    let before = fleet.checker.published();
    let mut stall = fleet.stall("waiting for deliveries");
    loop {
        while let Some(due) = pace_of_these.next(fleet.clock.now(), has_room(fleet, subscribers, pace)) {
            fleet.publish(due);
        }
        if pace_of_these.is_done() && all_came(fleet, subscribers) {
            return Ok(true);
        }
        if fleet.is_out_of_time() {
            return Ok(false);
        }
        fleet.turn(pace_of_these.sleep_until(has_room(fleet, subscribers, pace)))?;
        if all_came(fleet, subscribers) {
            stall.rest(fleet.clock.now());
        }
        let heard = fleet.checker.tally.deliveries + fleet.checker.published() - fleet.in_flight() as u64;
        if stall.check(heard, fleet.clock.now()).is_err() {
            return Ok(false);
        }
        fleet.say(|fleet| {
            let deliveries = fleet.checker.tally.deliveries;
            let published = fleet.checker.published() - before;
            format!("{published} of {} publications, {deliveries} deliveries", amount.count())
        });
    }
}

fn has_room(fleet: &Fleet, subscribers: usize, pace: Loop) -> bool {
    match pace {
        Loop::Closed => all_came(fleet, subscribers),
        Loop::Windowed(window) => {
            let due = (fleet.checker.published() + 1).saturating_sub(window) * subscribers as u64;
            fleet.checker.tally.deliveries >= due && (fleet.in_flight() as u64) < window
        }
        Loop::Open(_) => fleet.in_flight() < IN_FLIGHT_MAX,
    }
}

fn all_came(fleet: &Fleet, subscribers: usize) -> bool {
    fleet.checker.tally.deliveries >= fleet.checker.published() * subscribers as u64 && fleet.in_flight() == 0
}

/// What every load with subscribers must find.
pub fn judge(fleet: &Fleet, subscribers: usize, verdict: &mut Verdict) {
    verdict.came(fleet.checker.tally.deliveries, "deliveries");
    verdict.lost(fleet.missing(subscribers), "deliveries");
    verdict.unanswered(fleet.in_flight() as u64);
    verdict.tally(&fleet.checker);
    verdict.closed(fleet.closed());
}

/// `compressed`: how many of the deliveries were, where that was asked for.
fn outcome(fleet: &Fleet, plan: &Plan<'_>, phases: &Phases, compressed: Option<u64>) -> Outcome {
    let mut report = Report::new(plan.load);
    report.add("transport", plan.transport.name());
    report.add("channels", plan.channels.unwrap_or(1));
    report.add("subscribers", plan.subscribers);
    report.add("publications", phases.paced());
    report.add("payload_bytes", plan.payload);
    report.add("publications_in_flight", plan.in_flight);
    phases.write(&mut report, &WORDS);
    let mut verdict = Verdict::default();
    verdict.came(phases.counted(), "deliveries in the measured part");
    if let Some(compressed) = compressed {
        report.add("compressed_deliveries", compressed);
        verdict.came(compressed, "compressed deliveries");
    }
    judge(fleet, plan.subscribers, &mut verdict);
    Outcome::new(report, &verdict)
}
