//! More connections than one process may have descriptors for: processes that each hold a part, and one that leads them.
//!
//! ```text
//! lead ──► part ──► fleet        a part is this program again (`bench crowd-part`), which says on its standard output how far
//!   │  ◄── lines ──┘             it is, one JSON object a line, and does what the lines on its standard input say
//!   └────► publisher
//! ```
//! All connect and subscribe to one channel, stay for a while and answer the server's pings, then one publication goes to all.

mod part;
mod parts;

pub use part::{PartArgs, run as run_part};

use std::fs;

use clap::Args;

use super::checker::Checker;
use super::error::BenchError;
use super::fleet::Fleet;
use super::payload::PAYLOAD_BYTES_MIN;
use super::report::Report;
use super::server::Memory;
use super::session::{Fault, Transport};
use super::verdict::Verdict;
use super::{Common, Outcome};
use part::Progress;
use parts::Parts;

/// How often a leader looks at its parts.
const LOOK_NANOS: u64 = 50_000_000;

#[derive(Args, Debug)]
pub struct CrowdArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long, default_value_t = 1_000_000)]
    connections: usize,
    /// Connections of one process at most.
    #[arg(long, default_value_t = 18_000)]
    per_process: usize,
    /// Connections that all processes together open at a time.
    #[arg(long, default_value_t = 1024)]
    opening: usize,
    /// Seconds that the crowd stays before the broadcast: longer than the server's ping interval and pong timeout together, or no
    /// ping is seen to be answered.
    #[arg(long, default_value_t = 40)]
    hold: u64,
    /// Publications to all of them, one after another.
    #[arg(long, default_value_t = 1)]
    broadcasts: u64,
    #[arg(long, default_value = "crowd")]
    channel: String,
}

/// A look at the host and the server.
#[derive(Clone, Copy, Default)]
struct Look {
    server: Memory,
    /// Memory of the host that is not to be had: both ends of every connection are in it.
    used: u64,
}

pub fn run(args: &CrowdArgs) -> Result<Outcome, BenchError> {
    if args.per_process == 0 || args.connections == 0 {
        return Err(BenchError::Flag { flag: "--connections and --per-process", rule: "must be above 0" });
    }
    let request = args.common.subscribe(&args.channel, Transport::Ws);
    let mut lead = args.common.fleet(request, Checker::new(&args.channel, PAYLOAD_BYTES_MIN), 1)?;
    let before = look(args)?;
    let mut parts = Parts::start(args)?;

    let began = lead.clock.now();
    let count = args.connections as u64;
    wait(&mut lead, &mut parts, &Goal { what: "connections are up", count, come: |sum| sum.up, missed: |_| 0 })?;
    let connected = lead.clock.now() - began;
    let held = stay(&mut lead, &mut parts, args.hold)?;
    let after = look(args)?;

    let mut slowest = 0;
    for broadcast in 1..=args.broadcasts {
        parts.expect()?;
        let told = Goal { what: "broadcasts are waited for by all", count: broadcast, come: |sum| sum.expecting, missed: |_| 0 };
        wait(&mut lead, &mut parts, &told)?;
        let began = lead.clock.now();
        publish(&mut lead, args)?;
        let delivered = Goal { what: "deliveries", count: count * broadcast, come: |sum| sum.delivered, missed: |sum| sum.missed };
        wait(&mut lead, &mut parts, &delivered)?;
        slowest = slowest.max(lead.clock.now() - began);
    }
    let processes = parts.len();
    let sum = parts.end()?;
    Ok(outcome(args, processes, &sum, connected, held, slowest, [before, after]))
}

fn look(args: &CrowdArgs) -> Result<Look, BenchError> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let used = kib("MemTotal:").saturating_sub(kib("MemAvailable:")) * 1024;
    Ok(Look { server: args.common.server().memory()?.unwrap_or_default(), used })
}

/// Publishes once and waits for the answer, over a connection that is opened for it: the server closes one that idles.
fn publish(lead: &mut Fleet, args: &CrowdArgs) -> Result<(), BenchError> {
    lead.open_publisher(&args.common.api_key())?;
    lead.publish(lead.clock.now());
    let stall = &mut lead.stall("waiting for the publication's answer");
    while lead.in_flight() > 0 {
        stall.check(0, lead.clock.now())?;
        lead.turn(lead.clock.now() + LOOK_NANOS)?;
    }
    lead.close_publisher();
    Ok(())
}

/// What is waited for.
struct Goal {
    what: &'static str,
    count: u64,
    come: fn(&Progress) -> u64,
    /// Waiting for these would be in vain.
    missed: fn(&Progress) -> u64,
}

/// Waits until everything has come that can come.
fn wait(lead: &mut Fleet, parts: &mut Parts, goal: &Goal) -> Result<(), BenchError> {
    let Goal { what, count, .. } = *goal;
    let mut stall = lead.stall(what);
    loop {
        let sum = parts.look()?;
        let (now, missed) = ((goal.come)(&sum), (goal.missed)(&sum));
        if now + missed >= count {
            return Ok(());
        }
        stall.check(now + missed, lead.clock.now())?;
        lead.say(|_| format!("{now} of {count} {what}{}", closed(&sum)));
        lead.turn(lead.clock.now() + LOOK_NANOS)?;
    }
}

/// The rest of a line that says how far the crowd is.
fn closed(sum: &Progress) -> String {
    if sum.closed > 0 { format!(", {} connections were closed by the server", sum.closed) } else { String::new() }
}

/// Stays for so many seconds. Returns how many.
fn stay(lead: &mut Fleet, parts: &mut Parts, seconds: u64) -> Result<u64, BenchError> {
    let until = lead.clock.now() + seconds * 1_000_000_000;
    while lead.clock.now() < until {
        let sum = parts.look()?;
        let staying = sum.up.saturating_sub(sum.closed);
        lead.say(|_| format!("{staying} connections stay, {} pings came{}", sum.pings, closed(&sum)));
        lead.turn(lead.clock.now() + LOOK_NANOS)?;
    }
    Ok(seconds)
}

fn outcome(
    args: &CrowdArgs,
    parts: usize,
    sum: &Progress,
    connected: u64,
    held: u64,
    slowest: u64,
    [before, after]: [Look; 2],
) -> Outcome {
    let count = args.connections as f64;
    let mut report = Report::new("crowd");
    report.add("connections", args.connections);
    report.add("processes", parts);
    report.real("connect_seconds", connected as f64 / 1e9);
    report.real("connected_per_second", count * 1e9 / connected.max(1) as f64);
    report.add("held_seconds", held);
    report.add("pings", sum.pings);
    if args.common.pid.is_some() {
        report.real("bytes_per_connection", (after.server.private as f64 - before.server.private as f64) / count);
        report.add("server_resident_mib", after.server.resident >> 20);
    }
    // The load's end of each connection is a socket of this host too.
    report.real("kernel_bytes_per_connection", (after.server.slab as f64 - before.server.slab as f64) / count / 2.0);
    report.real("both_ends_gib", (after.used as f64 - before.used as f64) / f64::from(1 << 30));
    report.add("broadcasts", args.broadcasts);
    report.real("broadcast_seconds", slowest as f64 / 1e9);
    report.add("deliveries", sum.delivered);
    let mut verdict = Verdict::default();
    verdict.came(sum.delivered, "deliveries");
    verdict.lost((args.connections as u64 * args.broadcasts).saturating_sub(sum.delivered), "deliveries");
    verdict.closed((sum.closed, (sum.close_code > 0).then_some(Fault::Closed { code: sum.close_code })));
    verdict.against(sum.wrong > 0, format!("{} things came wrong, again or out of order", sum.wrong));
    Outcome::new(report, &verdict)
}
