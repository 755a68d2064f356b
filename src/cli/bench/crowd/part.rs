//! One process's part of a crowd.

use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cli::bench::checker::Checker;
use crate::cli::bench::error::BenchError;
use crate::cli::bench::fleet::Fleet;
use crate::cli::bench::payload::PAYLOAD_BYTES_MIN;
use crate::cli::bench::report::Report;
use crate::cli::bench::session::{Fault, Transport};
use crate::cli::bench::verdict::Verdict;
use crate::cli::bench::{Common, Outcome};

/// How often a part says how far it is.
const SAY_NANOS: u64 = 100_000_000;

#[derive(Args, Debug)]
pub struct PartArgs {
    #[command(flatten)]
    pub(in crate::cli::bench) common: Common,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    channel: String,
}

/// How far a part is: what it says on a line of its standard output.
#[derive(Clone, Copy, Default, Serialize, Deserialize, Debug)]
pub struct Progress {
    /// Connections that are subscribed.
    pub up: u64,
    /// Broadcasts that it has been told of.
    pub expecting: u64,
    pub delivered: u64,
    pub pings: u64,
    /// Connections that the server closed.
    pub closed: u64,
    /// The code that it gave one of them; 0: none.
    pub close_code: u16,
    /// Deliveries that those will never get.
    pub missed: u64,
    /// Whatever came and should not have.
    pub wrong: u64,
}

impl Progress {
    /// How far two are together. A broadcast is waited for when both wait for it.
    pub fn and(self, other: Self) -> Self {
        Self {
            up: self.up + other.up,
            expecting: self.expecting.min(other.expecting),
            delivered: self.delivered + other.delivered,
            pings: self.pings + other.pings,
            closed: self.closed + other.closed,
            close_code: self.close_code.max(other.close_code),
            missed: self.missed + other.missed,
            wrong: self.wrong + other.wrong,
        }
    }
}

/// What the lead says on a line.
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// One more broadcast comes.
    Expect,
    End,
}

/// Opens the connections and does what it is told until it is told to end. Its lines are all it prints.
pub fn run(args: &PartArgs) -> Result<Outcome, BenchError> {
    let request = args.common.subscribe(&args.channel, Transport::Ws);
    let mut fleet = args.common.fleet(request, Checker::new(&args.channel, PAYLOAD_BYTES_MIN), args.connections)?;
    fleet.progress.quiet = true;
    let orders = orders();
    let mut said_at = 0;
    fleet.open_with(args.connections, args.common.window, |fleet| say(fleet, 0, &mut said_at))?;
    let mut expecting = 0;
    loop {
        fleet.turn(fleet.clock.now() + SAY_NANOS)?;
        match orders.try_recv() {
            Ok(Order::Expect) => {
                fleet.checker.intend(fleet.clock.now());
                expecting += 1;
                said_at = 0;
            }
            Ok(Order::End) | Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {}
        }
        say(&fleet, expecting, &mut said_at);
    }
    say(&fleet, expecting, &mut 0);
    let mut report = Report::new("crowd-part");
    report.add("connections", args.connections);
    let mut verdict = Verdict::default();
    verdict.tally(&fleet.checker);
    verdict.closed(fleet.closed());
    Ok(Outcome::new(report, &verdict))
}

/// The lead's lines; disconnected when there is no lead any more.
fn orders() -> Receiver<Order> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let order = serde_json::from_str(&line).unwrap_or(Order::End);
            if sender.send(order).is_err() {
                return;
            }
        }
    });
    receiver
}

fn say(fleet: &Fleet, expecting: u64, said_at: &mut u64) {
    let now = fleet.clock.now();
    if *said_at > 0 && now - *said_at < SAY_NANOS {
        return;
    }
    *said_at = now;
    let tally = fleet.checker.tally;
    let (closed, fault) = fleet.closed();
    let progress = Progress {
        up: fleet.ready() as u64,
        expecting,
        delivered: tally.deliveries,
        pings: fleet.checker.pings,
        closed,
        close_code: if let Some(Fault::Closed { code }) = fault { code } else { 0 },
        missed: fleet.missed(),
        wrong: tally.repeated + tally.disordered + tally.corrupt + tally.gaps,
    };
    if let Ok(line) = serde_json::to_string(&progress) {
        // A lead that is gone needs no line: the orders end too.
        _ = writeln!(std::io::stdout(), "{line}");
    }
}
