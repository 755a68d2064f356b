//! When the next message is due.
//!
//! An **open** loop sends message `n` at `n / rate`, whatever became of those before it, and its latency counts from then:
//! a server that stands still for a second delays all that was due in that second, and the figures say so. A **closed**
//! loop sends the next one when the last has come. It finds out what the server can do and what one message costs when
//! nothing idles, but its latencies leave out whatever would have been sent during a pause.
//!
//! So a load runs closed first, for the cost and the capacity, and then open at a part of that capacity, for latency.

use clap::Args;
use hdrhistogram::Histogram;

use super::error::BenchError;
use super::report::Report;
use super::server::Spent;

/// How a load is paced.
#[derive(Args, Clone, Debug)]
pub struct Pacing {
    /// Open loop only, at so many a second; 0 is `--closed`. Default: a closed loop for the cost, then an open one for latency.
    #[arg(long, conflicts_with = "closed")]
    rate: Option<f64>,
    /// Closed loop only: the next one is sent when the last has come.
    #[arg(long)]
    closed: bool,
    /// Percent of the closed loop's throughput that the open loop sends at.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u8).range(1..=100))]
    load: u8,
    /// Seconds of the open loop before those that are measured.
    #[arg(long, default_value_t = 0)]
    lead: u8,
}

/// One of the two loops.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Loop {
    Closed,
    /// Closed too, with so many on their way at a time.
    Windowed(u64),
    /// So many a second.
    Open(f64),
}

impl Loop {
    const fn name(self) -> &'static str {
        match self {
            Self::Closed | Self::Windowed(_) => "closed",
            Self::Open(_) => "open",
        }
    }
}

/// What one loop measured.
pub struct Phase {
    /// From the first one's intended time to the last arrival.
    pub nanos: u64,
    /// How many were paced: publications, messages, connections.
    pub paced: u64,
    /// How many the CPU time is divided by: deliveries, messages, connections.
    pub counted: u64,
    pub spent: Spent,
    pub latency: Histogram<u64>,
    /// All of it came. If not, there is no capacity to take a part of.
    pub complete: bool,
}

impl Phase {
    pub fn paced_per_second(&self) -> f64 {
        self.per_second(self.paced)
    }

    fn per_second(&self, count: u64) -> f64 {
        match self.nanos {
            // Nothing came.
            0 => 0.0,
            nanos => count as f64 * 1e9 / nanos as f64,
        }
    }
}

/// What a load measured, by loop.
pub struct Phases {
    /// The loop that tells what one costs.
    cost: (Loop, Phase),
    /// The open loop after a closed one.
    open: Option<(Loop, Phase)>,
}

/// The names of a load's counts.
pub struct Words {
    pub counted: &'static str,
    pub per_second: &'static str,
}

impl Pacing {
    /// An open loop alone.
    pub const fn at(rate: f64) -> Self {
        Self { rate: Some(rate), closed: false, load: 100, lead: 0 }
    }

    /// Whether an open loop follows a closed one.
    pub const fn is_both(&self) -> bool {
        self.rate.is_none() && !self.closed
    }

    /// Runs the loops that the flags ask for. `phase` is given the pace, and how many are to be sent at it before it measures.
    pub fn run(&self, mut phase: impl FnMut(Loop, u64) -> Result<Phase, BenchError>) -> Result<Phases, BenchError> {
        let first = match self.rate {
            Some(rate) if !rate.is_finite() || rate < 0.0 => {
                return Err(BenchError::Flag { flag: "--rate", rule: "must be 0 or more" });
            }
            Some(rate) if rate > 0.0 => Loop::Open(rate),
            Some(_) | None => Loop::Closed,
        };
        let cost = phase(first, 0)?;
        let rate = cost.paced_per_second() * f64::from(self.load) / 100.0;
        let lead = (rate * f64::from(self.lead)) as u64;
        let open = (self.is_both() && cost.complete).then_some(Loop::Open(rate));
        let open = open.map(|pace| phase(pace, lead).map(|phase| (pace, phase))).transpose()?;
        Ok(Phases { cost: (first, cost), open })
    }
}

impl Phases {
    /// What the cost is of, for the verdict.
    pub fn counted(&self) -> u64 {
        self.cost.1.counted
    }

    /// How many the loop that tells the cost has sent.
    pub fn paced(&self) -> u64 {
        self.cost.1.paced
    }

    /// Appends the figures, and which loop each is of.
    pub fn write(&self, report: &mut Report, words: &Words) {
        let (cost_loop, cost) = &self.cost;
        let (latency_loop, latency) = self.open.as_ref().unwrap_or(&self.cost);
        report.add("cost_loop", cost_loop.name());
        report.real("seconds", cost.nanos as f64 / 1e9);
        report.add(words.counted, cost.counted);
        report.real(words.per_second, cost.per_second(cost.counted));
        report.spent(cost.spent, cost.counted);
        report.add("latency_loop", latency_loop.name());
        if let Loop::Open(rate) = latency_loop {
            report.real("open_rate_per_second", *rate);
            report.real("open_achieved_per_second", latency.paced_per_second());
        }
        report.latency(&latency.latency);
    }
}

/// How many are sent: so many, or as many as there is time for.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    count: u64,
    /// Nanoseconds after which no more are sent; centuries where there is no limit.
    nanos: u64,
}

impl Amount {
    pub const fn all(count: u64) -> Self {
        Self { count, nanos: u64::MAX }
    }

    /// `count`, or fewer when so many seconds are over.
    pub const fn within(count: u64, seconds: Option<u32>) -> Self {
        match seconds {
            Some(seconds) => Self { count, nanos: seconds as u64 * 1_000_000_000 },
            None => Self::all(count),
        }
    }

    /// Another count, in the `nth` part of the time.
    pub const fn in_part(self, count: u64, nth: u64) -> Self {
        Self { count, nanos: self.nanos / nth }
    }

    pub const fn count(self) -> u64 {
        self.count
    }
}

/// The times at which an amount is due.
pub struct Pace {
    pace: Loop,
    began: u64,
    next: u64,
    count: u64,
    until: u64,
}

impl Pace {
    /// From `began`, in nanoseconds of the load's clock.
    pub const fn new(pace: Loop, began: u64, amount: Amount) -> Self {
        Self { pace, began, next: 0, count: amount.count, until: began.saturating_add(amount.nanos) }
    }

    pub const fn is_done(&self) -> bool {
        self.next >= self.count
    }

    /// The intended time of the next one, if it is due and the load has `room` for it. Without room an open loop waits,
    /// and what waited counts from when it was due.
    pub fn next(&mut self, now: u64, room: bool) -> Option<u64> {
        if now >= self.until {
            self.count = self.next;
        }
        let due = self.due(now);
        if self.is_done() || !room || due > now {
            return None;
        }
        self.next += 1;
        Some(due)
    }

    /// Until when the load may sleep, if nothing comes.
    pub fn sleep_until(&self, room: bool) -> u64 {
        match self.pace {
            Loop::Open(_) if room && !self.is_done() => self.due(0).min(self.until),
            Loop::Open(_) | Loop::Closed | Loop::Windowed(_) => u64::MAX,
        }
    }

    fn due(&self, now: u64) -> u64 {
        match self.pace {
            Loop::Closed | Loop::Windowed(_) => now,
            Loop::Open(rate) => self.began.saturating_add((self.next as f64 * 1e9 / rate) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::checker::new_histogram;

    #[test]
    fn an_open_loop_does_not_wait_for_answers() {
        let mut pace = Pace::new(Loop::Open(1000.0), 5_000_000, Amount::all(4));
        assert_eq!(pace.next(4_999_999, true), None);
        assert_eq!((pace.next(5_000_000, true), pace.next(5_000_000, true)), (Some(5_000_000), None));
        assert_eq!(pace.sleep_until(true), 6_000_000);
        assert_eq!((pace.next(9_000_000, false), pace.sleep_until(false)), (None, u64::MAX));
        // Three milliseconds of standing still: what was due meanwhile keeps its time.
        let late: Vec<_> = std::iter::from_fn(|| pace.next(9_000_000, true)).collect();
        assert_eq!((late, pace.is_done()), (vec![6_000_000, 7_000_000, 8_000_000], true));
        assert_eq!(pace.sleep_until(true), u64::MAX);
    }

    #[test]
    fn a_closed_loop_sends_when_there_is_room() {
        let mut pace = Pace::new(Loop::Closed, 5, Amount::all(2));
        assert_eq!(
            (pace.next(7, false), pace.next(8, true), pace.next(9, true), pace.next(10, true)),
            (None, Some(8), Some(9), None)
        );
    }

    #[test]
    fn a_loop_ends_when_its_time_is_up() {
        let seconds = |seconds| Amount::within(10, Some(seconds));
        let mut pace = Pace::new(Loop::Open(1.5), 0, seconds(1));
        assert_eq!((pace.next(0, true), pace.next(700_000_000, true)), (Some(0), Some(666_666_666)));
        assert_eq!((pace.next(700_000_000, true), pace.sleep_until(true), pace.is_done()), (None, 1_000_000_000, false));
        assert_eq!((pace.next(1_000_000_000, true), pace.is_done()), (None, true));
        // Room that comes too late is not used.
        let mut pace = Pace::new(Loop::Closed, 7, seconds(2).in_part(5, 2));
        assert_eq!((pace.next(8, true), pace.next(9, false), pace.is_done()), (Some(8), None, false));
        assert_eq!((pace.next(1_000_000_007, true), pace.is_done()), (None, true));
        let century = 100 * 365 * 86_400 * 1_000_000_000;
        assert!(Amount::within(3, None).in_part(1, 3).nanos > century, "no limit");
    }

    fn loops(pacing: &Pacing, complete: bool) -> Vec<Loop> {
        let mut ran = Vec::new();
        let phases = pacing.run(|pace, _| {
            ran.push(pace);
            let spent = Spent { process: None, core: None };
            Ok(Phase { nanos: 2_000_000_000, paced: 100, counted: 500, spent, latency: new_histogram(), complete })
        });
        assert_eq!(phases.is_ok(), !ran.is_empty());
        ran
    }

    #[test]
    fn the_open_loop_begins_before_it_is_measured() {
        let pacing = Pacing { rate: None, closed: false, load: 60, lead: 3 };
        let mut leads = Vec::new();
        let phases = pacing.run(|_, lead| {
            leads.push(lead);
            Ok(Phase {
                nanos: 2_000_000_000,
                paced: 100,
                counted: 1,
                spent: Spent::default(),
                latency: new_histogram(),
                complete: true,
            })
        });
        assert_eq!((phases.is_ok(), leads), (true, vec![0, 90]));
    }

    #[test]
    fn where_nothing_came_there_is_no_rate() {
        let spent = Spent::default();
        let phase = |nanos| Phase { nanos, paced: 4, counted: 0, spent, latency: new_histogram(), complete: false };
        assert_eq!([0, 2_000_000_000].map(|nanos| phase(nanos).paced_per_second()), [0.0, 2.0]);
    }

    #[test]
    fn the_open_loop_sends_at_a_part_of_what_the_closed_one_did() {
        let pacing = |rate, closed| Pacing { rate, closed, load: 60, lead: 0 };
        assert_eq!(loops(&pacing(None, false), true), [Loop::Closed, Loop::Open(30.0)]);
        assert_eq!(loops(&pacing(None, false), false), [Loop::Closed]);
        assert_eq!(loops(&pacing(None, true), true), [Loop::Closed]);
        assert_eq!(loops(&pacing(Some(0.0), false), true), [Loop::Closed]);
        assert_eq!(loops(&pacing(Some(7.0), false), true), [Loop::Open(7.0)]);
        assert_eq!(loops(&pacing(Some(f64::NAN), false), true), []);
    }
}
