//! One channel, many subscribers, publications over HTTP during the run.
//!
//! `fan-out` publishes the next one when all subscribers got the last (or at a rate); `stream` publishes at a rate to
//! a channel whose namespace coalesces. At a rate the loop is open: publication `n` is due at `n / rate`, whatever
//! became of those before it, and its latency counts from then.

use clap::Args;

use super::checker::{Checker, Tally};
use super::error::BenchError;
use super::fleet::Fleet;
use super::publisher::IN_FLIGHT_MAX;
use super::report::Report;
use super::server::Spent;
use super::session::{Doing, Transport};
use super::{Common, Outcome, channel_path, check_payload};

#[derive(Args, Debug)]
pub struct FanOutArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long, default_value_t = 5000)]
    subscribers: usize,
    /// Publications that are measured.
    #[arg(long, default_value_t = 400)]
    publications: u64,
    /// Publications before those.
    #[arg(long, default_value_t = 40)]
    warmup: u64,
    /// Publications a second; 0: the next one when all got the last.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    #[arg(long, value_enum, default_value = "ws")]
    transport: Transport,
    #[arg(long, default_value = "bench")]
    channel: String,
}

#[derive(Args, Debug)]
pub struct StreamArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// Publications a second.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[arg(long, default_value_t = 128)]
    payload: usize,
    #[arg(long, value_enum, default_value = "ws")]
    transport: Transport,
    /// Its namespace should have a `coalesce` window.
    #[arg(long, default_value = "stream:bench")]
    channel: String,
}

struct Plan<'a> {
    load: &'static str,
    common: &'a Common,
    subscribers: usize,
    publications: u64,
    warmup: u64,
    rate: u64,
    payload: usize,
    transport: Transport,
    channel: &'a str,
}

pub fn run(args: &FanOutArgs) -> Result<Outcome, BenchError> {
    run_plan(&Plan {
        load: "fan-out",
        common: &args.common,
        subscribers: args.subscribers,
        publications: args.publications,
        warmup: args.warmup,
        rate: args.rate,
        payload: args.payload,
        transport: args.transport,
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
        subscribers: args.subscribers,
        publications: args.rate.saturating_mul(args.seconds),
        warmup: args.rate,
        rate: args.rate,
        payload: args.payload,
        transport: args.transport,
        channel: &args.channel,
    })
}

/// The part of a run that is measured.
struct Measured {
    spent: Spent,
    deliveries: u64,
    nanos: u64,
}

fn run_plan(plan: &Plan<'_>) -> Result<Outcome, BenchError> {
    check_payload(plan.payload)?;
    let request = plan.common.request(channel_path(plan.channel), Doing::Subscribe(plan.transport));
    let checker = Checker::new(plan.channel, plan.payload);
    let mut fleet = plan.common.fleet(request, checker, plan.subscribers)?;
    fleet.open(plan.subscribers, plan.common.window)?;
    fleet.open_publisher(&plan.common.api_key(), plan.payload)?;
    publish(&mut fleet, plan, plan.warmup)?;
    fleet.checker.reset_latency();
    let measured = measure(&mut fleet, plan)?;
    Ok(outcome(&fleet, plan, &measured))
}

fn measure(fleet: &mut Fleet, plan: &Plan<'_>) -> Result<Measured, BenchError> {
    let before = fleet.checker.tally.deliveries;
    let began = fleet.clock.now();
    let sample = plan.common.server().sample(began)?;
    publish(fleet, plan, plan.publications)?;
    let spent = sample.until(plan.common.server().sample(fleet.clock.now())?);
    let nanos = fleet.checker.delivered_at.saturating_sub(began);
    Ok(Measured { spent, deliveries: fleet.checker.tally.deliveries - before, nanos })
}

/// Publishes `count` at the plan's pace and waits until all subscribers got them, or nothing comes any more.
fn publish(fleet: &mut Fleet, plan: &Plan<'_>, count: u64) -> Result<(), BenchError> {
    let mut pace = Pace { began: fleet.clock.now(), rate: plan.rate, next: 0, count };
    let before = fleet.checker.published();
    let mut stall = fleet.stall("waiting for deliveries");
    loop {
        let expected = fleet.checker.published() * plan.subscribers as u64;
        let all_got_it = fleet.checker.tally.deliveries >= expected && fleet.in_flight() == 0;
        if pace.next == pace.count && all_got_it {
            return Ok(());
        }
        let until = pace.step(fleet, all_got_it);
        fleet.turn(until)?;
        let now = fleet.clock.now();
        match stall.check(fleet.checker.tally.deliveries + fleet.checker.published(), now) {
            Ok(()) => {}
            // What did not come is counted as lost: that is a finding, not a failure of the load.
            Err(_) => return Ok(()),
        }
        fleet.say(|fleet| {
            let Tally { deliveries, .. } = fleet.checker.tally;
            format!("{} of {count} publications, {deliveries} deliveries", fleet.checker.published() - before)
        });
    }
}

/// When the next publication is due.
struct Pace {
    began: u64,
    /// A second; 0: when all got the last.
    rate: u64,
    next: u64,
    count: u64,
}

impl Pace {
    /// Publishes what is due; returns until when the load may sleep.
    fn step(&mut self, fleet: &mut Fleet, all_got_it: bool) -> u64 {
        let now = fleet.clock.now();
        if self.rate == 0 {
            if all_got_it && self.next < self.count {
                fleet.publish(now);
                self.next += 1;
            }
            return u64::MAX;
        }
        while self.next < self.count && self.due() <= now && fleet.in_flight() < IN_FLIGHT_MAX {
            fleet.publish(self.due());
            self.next += 1;
        }
        if self.next < self.count && fleet.in_flight() < IN_FLIGHT_MAX { self.due() } else { u64::MAX }
    }

    fn due(&self) -> u64 {
        self.began + (u128::from(self.next) * 1_000_000_000 / u128::from(self.rate.max(1))) as u64
    }
}

fn outcome(fleet: &Fleet, plan: &Plan<'_>, measured: &Measured) -> Outcome {
    let seconds = measured.nanos as f64 / 1e9;
    let mut report = Report::new(plan.load);
    report.add("transport", plan.transport.name());
    report.add("subscribers", plan.subscribers);
    report.add("publications", plan.publications);
    report.add("payload_bytes", plan.payload);
    report.real("seconds", seconds);
    report.add("deliveries", measured.deliveries);
    report.real("deliveries_per_second", measured.deliveries as f64 / seconds.max(1e-9));
    report.spent(measured.spent, measured.deliveries);
    report.latency(fleet.checker.latency());
    let (closed, fault) = fleet.closed();
    let lost = fleet.missing();
    report.faults(fleet.checker.tally, lost, closed);
    if let Some(fault) = fault {
        report.add("last_fault", format!("{fault:?}"));
    }
    Outcome { report, sound: fleet.checker.tally.is_sound() && lost == 0 && closed == 0 }
}
