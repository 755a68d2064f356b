//! Readers that stop reading: what one of them costs the server, and whether the others notice.
//!
//! The same channel, rate and connections, in turns: all read; then some stop while the others are measured; then they
//! read again and must come back to the head, with a gap for what was dropped. The namespace's policy must keep them
//! (`drop_oldest`), or there is nothing to measure.
//!
//! What a stalled reader costs is what the kernel holds for it (`tx_queue` of the server's socket in `/proc/net/tcp`, which
//! is what SIOCOUTQ says there) and what it adds to the server's private memory. The frames in its queue are shared with
//! all that stalled at the same time, so memory is read with one stalled and with all of them: the slope leaves out what
//! they share. (The growth from none to all is taken where that is more: figures of memory are not exact.)

use clap::Args;
use hdrhistogram::Histogram;

use super::checker::{Checker, new_histogram};
use super::error::BenchError;
use super::fan_out;
use super::fleet::Fleet;
use super::pace::{Amount, Loop, Phase};
use super::report::Report;
use super::server::{self, Spent};
use super::session::Transport;
use super::verdict::Verdict;
use super::{Common, Outcome, check_payload};

/// More than the receive window, the kernel's send queue and a connection's default queue hold together.
const FILL_BYTES: u64 = 320 * 1024;
/// Of latencies: what is compared with and without stalled readers.
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
const WARM_UP_PUBLICATIONS: u64 = 20;
const CLOSED_PUBLICATIONS: u64 = 100;
/// A part of the rate below which the server did not keep up: latencies then only say for how long.
const KEPT_UP: f64 = 0.9;

#[derive(Args, Debug)]
pub struct StallArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// Subscribers, the stalled ones included.
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// How many stop reading. Default: one in a hundred.
    #[arg(long)]
    stalled: Option<usize>,
    /// Publications a second of the open loop. Default: `--load` percent of what a closed loop does first.
    #[arg(long)]
    rate: Option<f64>,
    /// Percent of the closed loop's throughput.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u8).range(1..=100))]
    load: u8,
    /// Seconds of each half of a turn, or more where the queues take longer to fill. A stalled reader answers no pings: the
    /// server's `pong_timeout` must be longer. The default is nearly over when the first pings come, which one half alone would pay for.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    seconds: u32,
    /// Turns of all reading, some stalled, all reading again. The ratios are the median of the turns', each of which is that of a few
    /// publications.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 1024)]
    payload: usize,
    /// Its namespace must keep slow readers.
    #[arg(long, default_value = "slow:bench")]
    channel: String,
}

impl StallArgs {
    fn stalled(&self) -> usize {
        self.stalled.unwrap_or_else(|| self.subscribers.div_ceil(100))
    }

    fn healthy(&self) -> usize {
        self.subscribers - self.stalled()
    }
}

pub fn run(args: &StallArgs) -> Result<Outcome, BenchError> {
    check(args)?;
    let request = args.common.subscribe(&args.channel, Transport::Ws);
    let checker = Checker::new(&args.channel, args.payload);
    let mut fleet = args.common.fleet(request, checker, args.subscribers)?;
    fleet.set_aside(args.stalled());
    fleet.open(args.subscribers, args.common.window)?;
    fleet.open_publisher(&args.common.api_key())?;
    let mut halves = Halves { rate: rate(&mut fleet, args)?, ..Halves::default() };
    // With one first: memory that the others take and give back would hide it.
    if stalled_half(&mut fleet, args, 1, halves.rate, &mut halves.one)? {
        for _ in 0..args.turns {
            if !half(&mut fleet, args, halves.rate, &mut halves.reading)?
                || !stalled_half(&mut fleet, args, args.stalled(), halves.rate, &mut halves.all)?
            {
                break;
            }
        }
    }
    Ok(outcome(&fleet, args, &halves))
}

/// Publications a second. A closed loop, which is the warm-up, says what the server can do.
fn rate(fleet: &mut Fleet, args: &StallArgs) -> Result<f64, BenchError> {
    fan_out::publish(fleet, args.healthy(), Loop::Closed, Amount::all(WARM_UP_PUBLICATIONS))?;
    let closed = fan_out::measure(fleet, &args.common, args.healthy(), Loop::Closed, Amount::all(CLOSED_PUBLICATIONS))?;
    Ok(args.rate.unwrap_or(closed.paced_per_second() * f64::from(args.load) / 100.0))
}

/// Publications of a half: as many as its seconds hold, and no fewer than fill the queues of a reader that takes none.
fn publications(rate: f64, args: &StallArgs) -> u64 {
    let filling = FILL_BYTES / args.payload as u64;
    ((rate * f64::from(args.seconds)).ceil() as u64).max(filling)
}

fn check(args: &StallArgs) -> Result<(), BenchError> {
    check_payload(args.payload)?;
    if args.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(BenchError::Flag { flag: "--rate", rule: "must be above 0" });
    }
    if args.stalled() == 0 || args.stalled() >= args.subscribers {
        return Err(BenchError::Flag { flag: "--stalled", rule: "must be above 0 and below --subscribers" });
    }
    if args.common.pid.is_none() {
        return Err(BenchError::Flag { flag: "--pid", rule: "is needed: memory and queues are read from /proc/PID" });
    }
    Ok(())
}

/// What the halves of all turns measured.
#[derive(Default)]
struct Halves {
    rate: f64,
    reading: Half,
    one: Half,
    all: Half,
}

struct Half {
    latency: Histogram<u64>,
    /// Its [`QUANTILES`] in each turn, in nanoseconds.
    quantiles: Vec<[u64; 3]>,
    /// Private memory at the end of it in each turn, in bytes.
    private: Vec<u64>,
    /// Publications a second that came to all, the least of the turns.
    achieved: f64,
    /// Of each stalled reader's socket in each turn.
    kernel_queues: Vec<u64>,
    /// Stalled readers that did not come back to the head.
    behind: usize,
    spent: Spent,
    deliveries: u64,
}

impl Default for Half {
    fn default() -> Self {
        Self {
            latency: new_histogram(),
            quantiles: Vec::new(),
            private: Vec::new(),
            achieved: f64::INFINITY,
            kernel_queues: Vec::new(),
            behind: 0,
            spent: Spent::default(),
            deliveries: 0,
        }
    }
}

impl Half {
    fn private_least(&self) -> u64 {
        self.private.iter().min().copied().unwrap_or(0)
    }

    fn private_most(&self) -> u64 {
        self.private.iter().max().copied().unwrap_or(0)
    }
}

/// A half with stalled readers, who then come back; false when something did not come, which the verdict counts.
fn stalled_half(fleet: &mut Fleet, args: &StallArgs, stalled: usize, rate: f64, into: &mut Half) -> Result<bool, BenchError> {
    fleet.pause_aside(stalled)?;
    let complete = half(fleet, args, rate, into)?;
    let peers = fleet.paused_addresses()?;
    into.kernel_queues.extend(server::kernel_queues(args.common.pid, args.common.addr, &peers)?);
    fleet.pause_aside(0)?;
    let mut stall = fleet.stall("waiting for the stalled readers to catch up");
    while fleet.aside_behind() > 0 && !fleet.is_out_of_time() {
        if stall.check(fleet.checker.aside.deliveries, fleet.clock.now()).is_err() {
            break;
        }
        fleet.turn(u64::MAX)?;
    }
    into.behind += fleet.aside_behind();
    Ok(complete && into.behind == 0)
}

fn half(fleet: &mut Fleet, args: &StallArgs, rate: f64, into: &mut Half) -> Result<bool, BenchError> {
    let count = publications(rate, args);
    // Looking at the sockets and the memory between two halves leaves little of the others' in the caches.
    fan_out::publish(fleet, args.healthy(), Loop::Open(rate), Amount::all(WARM_UP_PUBLICATIONS))?;
    let phase = fan_out::measure(fleet, &args.common, args.healthy(), Loop::Open(rate), Amount::all(count))?;
    into.achieved = into.achieved.min(phase.paced_per_second());
    let Phase { counted, spent, latency, complete, .. } = phase;
    into.private.push(args.common.server().memory()?.unwrap_or_default().private);
    into.spent = into.spent.and(spent);
    into.deliveries += counted;
    into.quantiles.push(QUANTILES.map(|at| latency.value_at_quantile(at)));
    // Both have the same bounds, so that nothing is refused.
    _ = into.latency.add(&latency);
    Ok(complete)
}

/// What each stalled reader adds to private memory: the slope from one stalled to all, or the growth from none for each
/// where that is more (their part of the shared frames is in it). What the allocator keeps of an earlier turn would hide
/// the cost of a later one: so the least of before and the most of after.
fn private_bytes(halves: &Halves, stalled: usize) -> f64 {
    let all = halves.all.private_most();
    let slope = all.saturating_sub(halves.one.private_most()) as f64 / stalled.saturating_sub(1).max(1) as f64;
    let growth = all.saturating_sub(halves.reading.private_least()) as f64 / stalled as f64;
    if stalled > 1 { slope.max(growth) } else { growth }
}

/// How the latencies of readers that kept reading compare, at one of the [`QUANTILES`]: the median of the turns, as the last
/// percentile of a turn is one pause of the host.
fn ratio(with: &Half, without: &Half, quantile: usize) -> f64 {
    let pairs = with.quantiles.iter().zip(&without.quantiles);
    let ratios = pairs.map(|(with, without)| with[quantile].saturating_mul(1000) / without[quantile].max(1)).collect();
    median(ratios).map_or(0.0, |thousandths| thousandths as f64 / 1e3)
}

/// The middle of them, the upper one of two.
fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

fn outcome(fleet: &Fleet, args: &StallArgs, halves: &Halves) -> Outcome {
    let Halves { rate, reading, one, all } = halves;
    let mut report = Report::new("stall");
    report.add("subscribers", args.subscribers);
    report.add("stalled", args.stalled());
    report.add("turns", args.turns);
    report.add("payload_bytes", args.payload);
    report.add("latency_loop", "open");
    report.real("open_rate_per_second", *rate);
    report.real("open_achieved_per_second", reading.achieved.min(all.achieved));
    report.add("deliveries", all.deliveries);
    report.spent(all.spent, all.deliveries);
    report.latency(&all.latency);
    for (nth, [without_name, ratio_name]) in
        [["p50_us_without", "p50_ratio"], ["p99_us_without", "p99_ratio"], ["p999_us_without", "p999_ratio"]]
            .into_iter()
            .enumerate()
    {
        report.real(without_name, reading.latency.value_at_quantile(QUANTILES[nth]) as f64 / 1e3);
        report.real(ratio_name, ratio(all, reading, nth));
    }
    let kernel_max = all.kernel_queues.iter().max().copied().unwrap_or(0);
    let private = private_bytes(halves, args.stalled());
    report.add("kernel_queue_bytes_mean", all.kernel_queues.iter().sum::<u64>() / all.kernel_queues.len().max(1) as u64);
    report.add("kernel_queue_bytes_max", kernel_max);
    report.add("private_kib_reading", reading.private_least() / 1024);
    report.add("private_kib_one_stalled", one.private_most() / 1024);
    report.add("private_kib_all_stalled", all.private_most() / 1024);
    report.real("private_bytes_per_stalled", private);
    // The most that the kernel held for one, and what each adds to the server.
    report.real("bytes_per_stalled", kernel_max as f64 + private);
    report.add("gaps_of_stalled", fleet.checker.aside.gaps);
    Outcome::new(report, &verdict(fleet, args, halves))
}

fn verdict(fleet: &Fleet, args: &StallArgs, halves: &Halves) -> Verdict {
    let mut verdict = Verdict::default();
    fan_out::judge(fleet, args.healthy(), &mut verdict);
    let slow = halves.reading.achieved.min(halves.all.achieved) < halves.rate * KEPT_UP;
    verdict.against(slow, "the server did not keep up with the rate, so latencies say nothing of stalled readers");
    let expected = args.stalled() * args.turns as usize;
    let seen = halves.all.kernel_queues.len();
    verdict.against(seen < expected, format!("the sockets of {seen} of {expected} stalled readers were found"));
    let empty = halves.all.kernel_queues.iter().filter(|&&bytes| bytes == 0).count();
    verdict.against(empty > 0, format!("{empty} stalled readers had nothing waiting: --seconds, --rate or --payload is too small"));
    let behind = halves.one.behind + halves.all.behind;
    verdict.against(behind > 0, format!("{behind} stalled readers did not come back to the head"));
    // Each dropped something each time, or its queue never filled.
    let gaps = fleet.checker.aside.gaps;
    verdict.against(
        (gaps as usize) < expected,
        format!("stalled readers were told of {gaps} gaps, not of {expected}: --seconds, --rate or --payload is too small"),
    );
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(private: &[u64]) -> Half {
        Half { private: private.to_vec(), ..Half::default() }
    }

    #[test]
    fn a_half_is_long_enough_to_fill_a_queue() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            stall: StallArgs,
        }
        let args = Line::try_parse_from(["stall", "--seconds", "4", "--payload", "1024"]).expect("good flags").stall;
        assert_eq!([10.0, 100.0].map(|rate| publications(rate, &args)), [320, 400]);
    }

    #[test]
    fn one_pause_of_the_host_is_not_what_stalled_readers_cost() {
        let half = |last: [u64; 3]| Half { quantiles: last.map(|last| [100, 200, last]).to_vec(), ..Half::default() };
        assert_eq!(ratio(&half([440, 9000, 430]), &half([400, 400, 400]), 2), 1.1);
        assert_eq!(ratio(&half([440, 440, 440]), &half([400, 9000, 400]), 2), 1.1);
        assert_eq!(ratio(&half([0; 3]), &half([0; 3]), 0), 1.0);
        assert_eq!(ratio(&Half::default(), &Half::default(), 2), 0.0);
    }

    #[test]
    fn what_stalled_readers_share_is_counted_once_or_divided() {
        let halves = |reading: &[u64], one: &[u64], all: &[u64]| Halves {
            rate: 1.0,
            reading: half(reading),
            one: half(one),
            all: half(all),
        };
        // 64 of it shared, 10 for each.
        let clear = halves(&[1000, 1020], &[1074], &[1164, 1160]);
        assert_eq!(private_bytes(&clear, 10), 16.4);
        assert_eq!(private_bytes(&halves(&[1000], &[1074], &[1164]), 1), 164.0);
        // The first half's memory was kept: the slope would say nothing.
        assert_eq!(private_bytes(&halves(&[1000], &[1200], &[1164]), 10), 16.4);
        assert_eq!(private_bytes(&halves(&[1200], &[1000], &[1180]), 10), 20.0);
    }
}
