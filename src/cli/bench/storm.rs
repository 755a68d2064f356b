//! All subscribers lose their connections at once, and come back.
//!
//! Publications come all the while. Each subscriber says where it was (`since=`), and must get what it missed and what follows,
//! once and in order. One whom the server turns away comes back when it is told to, as a good client does. Nobody reads between
//! the first publication of the storm and the end of all connections, so that is one that all must recover.

use clap::Args;

use super::checker::Checker;
use super::error::BenchError;
use super::fan_out;
use super::fleet::Fleet;
use super::pace::{Amount, Loop, Pace};
use super::publisher::IN_FLIGHT_MAX;
use super::report::Report;
use super::server::Spent;
use super::session::Transport;
use super::verdict::Verdict;
use super::{Common, Outcome, check_payload};

#[derive(Args, Debug)]
#[command(mut_arg("window", |window| window.default_value("1024")))]
pub struct StormArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Publications a second.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Seconds of them before the storm, and after it.
    #[arg(long, default_value_t = 1)]
    seconds: u32,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Its history must hold what is published during the storm.
    #[arg(long, default_value = "storm:bench")]
    channel: String,
}

impl StormArgs {
    fn count(&self) -> usize {
        self.connections as usize
    }

    fn pace(&self) -> Loop {
        Loop::Open(self.rate.into())
    }
}

pub fn run(args: &StormArgs) -> Result<Outcome, BenchError> {
    check_payload(args.payload)?;
    if !args.common.dialect.tells_position() {
        return Err(BenchError::Flag { flag: "--dialect", rule: "must be ringmain: who comes back says where it was" });
    }
    let request = args.common.subscribe(&args.channel, Transport::Ws);
    let mut fleet = args.common.fleet(request, Checker::new(&args.channel, args.payload), args.count())?;
    fleet.end_as_clients_do();
    fleet.expect(args.count());
    if !all_come(&mut fleet, args, &mut Pace::new(args.pace(), 0, Amount::all(0)))? {
        let stalled = BenchError::Stalled { doing: "opening connections", seconds: args.common.stall };
        return Err(fleet.closed().1.map_or(stalled, BenchError::Opening));
    }
    fleet.open_publisher(&args.common.api_key())?;
    let publications = u64::from(args.rate) * u64::from(args.seconds);
    fan_out::publish(&mut fleet, args.count(), args.pace(), Amount::all(publications))?;
    let storm = storm(&mut fleet, args)?;
    if fleet.ready() == args.count() {
        fan_out::publish(&mut fleet, args.count(), args.pace(), Amount::all(publications))?;
    }
    Ok(outcome(&fleet, args, storm))
}

struct Storm {
    /// From the last close to the last one subscribed again.
    nanos: u64,
    /// That of the closes included.
    spent: Spent,
}

fn storm(fleet: &mut Fleet, args: &StormArgs) -> Result<Storm, BenchError> {
    let began = fleet.clock.now();
    let sample = args.common.server().sample(began)?;
    let mut pace = Pace::new(args.pace(), began, Amount::all(u64::MAX));
    publish_due(fleet, &mut pace);
    let closed = fleet.close_all()?;
    all_come(fleet, args, &mut pace)?;
    let now = fleet.clock.now();
    Ok(Storm { nanos: now - closed, spent: sample.until(args.common.server().sample(now)?) })
}

/// Opens connections until all are subscribed, and publishes meanwhile. False when that takes too long, or something goes wrong on
/// the way: a finding, not a failure of the load.
fn all_come(fleet: &mut Fleet, args: &StormArgs, pace: &mut Pace) -> Result<bool, BenchError> {
    let (count, window) = (args.count(), args.common.window);
    let mut stall = fleet.stall("waiting for all to come");
    while fleet.ready() < count {
        if fleet.closed().0 > 0 || fleet.checker.tally.corrupt > 0 || fleet.is_out_of_time() {
            return Ok(false);
        }
        publish_due(fleet, pace);
        fleet.open_due(window)?;
        let next = fleet.returns.next().filter(|_| fleet.opening() < window);
        fleet.turn(pace.sleep_until(has_room(fleet)).min(next.unwrap_or(u64::MAX)))?;
        if fleet.opening() == 0 {
            stall.rest(fleet.clock.now());
        }
        if stall.check(fleet.ready() as u64 + fleet.returns.refused, fleet.clock.now()).is_err() {
            return Ok(false);
        }
        fleet.say(|fleet| format!("{} of {count} are there, {} attempts were refused", fleet.ready(), fleet.returns.refused));
    }
    Ok(true)
}

fn publish_due(fleet: &mut Fleet, pace: &mut Pace) {
    while let Some(due) = pace.next(fleet.clock.now(), has_room(fleet)) {
        fleet.publish(due);
    }
}

fn has_room(fleet: &Fleet) -> bool {
    fleet.in_flight() < IN_FLIGHT_MAX
}

fn outcome(fleet: &Fleet, args: &StormArgs, storm: Storm) -> Outcome {
    let Storm { nanos, spent } = storm;
    let back = fleet.returns.latency.len();
    let mut report = Report::new("storm");
    report.add("connections", args.connections);
    report.add("window", args.common.window);
    report.add("publications", fleet.checker.published());
    report.add("publications_per_second", args.rate);
    report.add("payload_bytes", args.payload);
    report.real("seconds", nanos as f64 / 1e9);
    report.add("reconnected", back);
    report.real("reconnected_per_second", back as f64 * 1e9 / nanos.max(1) as f64);
    report.add("refused", fleet.returns.refused);
    report.add("recovered_deliveries", fleet.checker.recovered_deliveries);
    report.spent(spent, back);
    report.add("latency_loop", "storm");
    report.latency(&fleet.returns.latency);
    for (name, quantile) in [("attempt_p50_us", 0.50), ("attempt_p99_us", 0.99), ("attempt_p999_us", 0.999)] {
        report.real(name, fleet.connect_latency.value_at_quantile(quantile) as f64 / 1e3);
    }
    let mut verdict = Verdict::default();
    let away = args.count() - fleet.ready().min(args.count());
    verdict.against(away > 0, format!("{away} subscribers did not come back"));
    verdict.came(fleet.checker.recovered_deliveries, "recovered deliveries");
    fan_out::judge(fleet, args.count(), &mut verdict);
    Outcome::new(report, &verdict)
}
