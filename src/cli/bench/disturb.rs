//! Echo clients beside something large: whether they notice it.
//!
//! The same echoes, at a rate, twice: with nothing else going on; then while every publication goes to a whole crowd
//! (`broadcast`), or while a crowd comes (`storm`). The crowd is a thread of its own, so that what the load does for it
//! delays no echo, as long as the echoes' thread goes before it: run by root under `chrt --reset-on-fork --fifo 10` it does
//! (the crowd's thread does not inherit that). Otherwise both take turns on the load's core, and the figures have that in them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use clap::Args;
use hdrhistogram::Histogram;

use super::checker::Checker;
use super::error::BenchError;
use super::fan_out;
use super::fleet::Fleet;
use super::pace::{Amount, Loop, Phase};
use super::payload::PAYLOAD_BYTES_MIN;
use super::report::Report;
use super::session::{Doing, Transport};
use super::verdict::Verdict;
use super::{Common, Outcome, check_payload, echo};

const BROADCAST_CROWD: usize = 19_000;
const STORM_CROWD: usize = 15_000;
const WARM_UP_PUBLICATIONS: u64 = 2;

/// What happens beside the echoes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum By {
    /// Publications to a crowd of subscribers, one after the other.
    Broadcast,
    /// A crowd connects, upgrades and subscribes.
    Storm,
}

impl By {
    const fn name(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Storm => "storm",
        }
    }
}

#[derive(Args, Debug)]
pub struct DisturbArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long, value_enum, default_value = "broadcast")]
    by: By,
    /// Connections that echo.
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Bytes of an echo.
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// Echoes a second, of all of them.
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Seconds without the crowd.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Connections of the crowd. Default: 19,000 that are broadcast to, 15,000 that come.
    #[arg(long)]
    crowd: Option<usize>,
    /// Publications to the crowd.
    #[arg(long, default_value_t = 30)]
    publications: u64,
    #[arg(long, default_value = "/echo")]
    path: String,
    #[arg(long, default_value = "bench")]
    channel: String,
}

impl DisturbArgs {
    fn crowd(&self) -> usize {
        self.crowd.unwrap_or(match self.by {
            By::Broadcast => BROADCAST_CROWD,
            By::Storm => STORM_CROWD,
        })
    }
}

pub fn run(args: &DisturbArgs) -> Result<Outcome, BenchError> {
    check_payload(args.payload)?;
    if args.rate == 0 || args.connections == 0 {
        return Err(BenchError::Flag { flag: "--rate and --connections", rule: "must be above 0" });
    }
    let request = args.common.request(args.path.clone(), Doing::Echo { payload_bytes: args.payload });
    let mut fleet = args.common.fleet(request, Checker::new("", args.payload), args.connections)?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (ready, is_ready) = mpsc::channel();
        let (go, gone) = mpsc::channel();
        let crowd = scope.spawn(|| crowd(args, ready, gone, &is_over));
        // An error means that the crowd has failed; so its thread has ended, and says why below.
        let echoes = is_ready.recv().map(|()| echoes(&mut fleet, args, &go, || is_over.load(Relaxed) || crowd.is_finished()));
        drop(go);
        let crowd = crowd.join().unwrap_or(Err(BenchError::Part))?;
        let halves = echoes.map_err(|_| BenchError::Part)??;
        Ok(outcome(&fleet, args, &halves, crowd))
    })
}

/// The echoes without the crowd and with it.
struct Halves {
    without: Phase,
    with: Phase,
}

fn echoes(fleet: &mut Fleet, args: &DisturbArgs, go: &Sender<()>, crowd_is_over: impl Fn() -> bool) -> Result<Halves, BenchError> {
    fleet.open(args.connections, args.common.window)?;
    let rate = Loop::Open(args.rate.into());
    // A second more, so that all is warm.
    echo::measure_open(fleet, &args.common, rate, args.rate.into(), || false)?;
    let without = echo::measure_open(fleet, &args.common, rate, u64::from(args.rate) * u64::from(args.seconds), || false)?;
    // Nobody hears it where the crowd has failed.
    _ = go.send(());
    let with = echo::measure_open(fleet, &args.common, rate, u64::MAX, crowd_is_over)?;
    Ok(Halves { without, with })
}

/// What the crowd found.
struct Crowd {
    verdict: Verdict,
    nanos: u64,
    /// Deliveries, or connections that came.
    count: u64,
}

/// Says that it is `ready`, waits until it is to `go`, and does what it is for.
fn crowd(args: &DisturbArgs, ready: Sender<()>, go: Receiver<()>, is_over: &AtomicBool) -> Result<Crowd, BenchError> {
    let request = args.common.subscribe(&args.channel, Transport::Ws);
    let mut fleet = args.common.fleet(request, Checker::new(&args.channel, PAYLOAD_BYTES_MIN), args.crowd())?;
    let size = args.crowd();
    if args.by == By::Broadcast {
        fleet.open(size, args.common.window)?;
        fleet.open_publisher(&args.common.api_key())?;
        fan_out::publish(&mut fleet, size, Loop::Closed, Amount::all(WARM_UP_PUBLICATIONS))?;
    }
    let before = fleet.checker.tally.deliveries;
    // Where nobody hears or answers, the echoes have failed, and their error is the one that counts.
    _ = ready.send(());
    _ = go.recv();
    let began = fleet.clock.now();
    let count = match args.by {
        By::Broadcast => {
            fan_out::publish(&mut fleet, size, Loop::Closed, Amount::all(args.publications))?;
            fleet.checker.tally.deliveries - before
        }
        By::Storm => {
            fleet.open(size, size)?;
            fleet.ready() as u64
        }
    };
    let nanos = fleet.clock.now() - began;
    is_over.store(true, Relaxed);
    // It stays until all is measured: a crowd that leaves disturbs too.
    _ = go.recv();
    let mut verdict = Verdict::default();
    match args.by {
        By::Broadcast => fan_out::judge(&fleet, size, &mut verdict),
        By::Storm => verdict.closed(fleet.closed()),
    }
    Ok(Crowd { verdict, nanos, count })
}

fn outcome(fleet: &Fleet, args: &DisturbArgs, halves: &Halves, crowd: Crowd) -> Outcome {
    let Crowd { mut verdict, nanos, count } = crowd;
    let Halves { with, without } = halves;
    let mut report = Report::new("disturb");
    report.add("by", args.by.name());
    report.add("connections", args.connections);
    report.add("crowd", args.crowd());
    report.add("crowd_count", count);
    report.real("crowd_seconds", nanos as f64 / 1e9);
    report.real("crowd_per_second", count as f64 * 1e9 / nanos.max(1) as f64);
    report.add("latency_loop", "open");
    report.add("open_rate_per_second", args.rate);
    report.real("open_achieved_per_second", with.paced_per_second());
    report.add("messages", with.counted);
    // All that the server did meanwhile was for the crowd, but for some echoes.
    report.spent(with.spent, count);
    report.latency(&with.latency);
    let at = |latency: &Histogram<u64>, quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    for (name, ratio, quantile) in [("p99_us_without", "p99_ratio", 0.99), ("p999_us_without", "p999_ratio", 0.999)] {
        let without = at(&without.latency, quantile);
        report.real(name, without);
        report.real(ratio, at(&with.latency, quantile) / without.max(1.0));
    }
    verdict.came(count, "messages of the crowd");
    verdict.came(with.counted, "echoes beside the crowd");
    verdict.against(fleet.echoes.outstanding > 0, format!("{} echoes did not come back", fleet.echoes.outstanding));
    let (closed, _) = fleet.closed();
    verdict.against(closed > 0, format!("{closed} echoing connections were closed by the server"));
    Outcome::new(report, &verdict)
}
