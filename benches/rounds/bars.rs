//! What the figures must be, whether the run counts, and what follows from both.

use crate::contender::{Contender, Figures};
use crate::results::{CPU, Results};
use crate::spread::Spread;

/// A floor that is further than this from its own median voids the run: something else was using the machine.
const FLOOR_SPREAD_MAX: f64 = 0.15;
const FAN_OUT_RATIO_MAX: f64 = 1.25;
const STREAM_DELIVERIES_MIN: f64 = 300_000.0;
const IDLE_BYTES_MAX: f64 = 320.0;
const STALLED_BYTES_MAX: f64 = 65_536.0;

/// A figure that must be on one side of another.
pub struct Bar {
    pub what: &'static str,
    pub limit: Limit,
    pub got: f64,
}

#[derive(Clone, Copy)]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Bar {
    /// A figure that is not there (NaN) meets nothing.
    pub fn is_met(&self) -> bool {
        match self.limit {
            Limit::AtMost(most) => self.got <= most,
            Limit::AtLeast(least) => self.got >= least,
        }
    }
}

/// What the whole run came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Met,
    /// The figures say nothing, whatever they are.
    Void,
    Missed,
}

impl Outcome {
    pub const fn status(self) -> u8 {
        match self {
            Self::Met => 0,
            Self::Void => 1,
            Self::Missed => 3,
        }
    }

    pub const fn text(self) -> &'static str {
        match self {
            Self::Met => "every bar met",
            Self::Void => "VOID: no bar says anything",
            Self::Missed => "a bar was MISSED",
        }
    }
}

impl Results {
    pub fn outcome(&self) -> Outcome {
        match self.bars().iter().all(Bar::is_met) {
            _ if !self.void().is_empty() => Outcome::Void,
            true => Outcome::Met,
            false => Outcome::Missed,
        }
    }

    /// Why the run does not count, one reason each.
    pub fn void(&self) -> Vec<String> {
        let floors = self.fan_out.iter().filter(|series| Contender::FLOORS.contains(&series.contender));
        let unsteady = floors.filter_map(|series| {
            let off = series.spread(CPU).off();
            // Not `>`: a floor without figures is not steady.
            let steady = off <= FLOOR_SPREAD_MAX;
            (!steady).then(|| {
                let name = series.contender.name();
                format!("{name} was off by {:.0} % from its own median of server CPU for each delivery", off * 100.0)
            })
        });
        let unsound = self.runs().filter(|(_, run)| !run.is_sound());
        unsteady.chain(unsound.map(|(load, run)| format!("{load} does not count: {}", run.reasons()))).collect()
    }

    pub fn bars(&self) -> Vec<Bar> {
        if self.idle.is_empty() {
            return Vec::new();
        }
        let spread = |runs: &[Figures], name: &str| Spread::of(runs.iter().map(|run| run.number(name)).collect());
        let bar = |what, limit, got| Bar { what, limit, got };
        let most = Limit::AtMost;
        let ratio = self.median(Contender::Ringmain, CPU) / self.median(Contender::Uring, CPU);
        let stream = spread(&self.stream, "deliveries_per_second").median;
        vec![
            bar("fan-out, server CPU against the bare io_uring loop", most(FAN_OUT_RATIO_MAX), ratio),
            bar("stream, deliveries a second from one worker", Limit::AtLeast(STREAM_DELIVERIES_MIN), stream),
            bar(
                "idle, user memory for each subscribed WebSocket, B",
                most(IDLE_BYTES_MAX),
                spread(&self.idle, "bytes_per_connection").max,
            ),
            bar(
                "stalled reader, kernel queue and memory of its own, B",
                most(STALLED_BYTES_MAX),
                spread(&self.stall, "bytes_per_stalled").max,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Series;
    use serde_json::json;

    /// Results with these figures of CPU for each delivery, and everything else good.
    fn results(ringmain: f64, write: &[f64], uring: &[f64]) -> Results {
        let runs = |contender, cpu: &[f64]| Series {
            contender,
            runs: cpu.iter().map(|cpu| Figures(json!({ CPU: cpu, "sound": true }))).collect(),
        };
        let good = || {
            vec![Figures(json!({"sound": true, "deliveries_per_second": 3e5, "bytes_per_connection": 320, "bytes_per_stalled": 9}))]
        };
        Results {
            fan_out: vec![runs(Contender::Ringmain, &[ringmain]), runs(Contender::Write, write), runs(Contender::Uring, uring)],
            stream: good(),
            idle: good(),
            stall: good(),
            ..Results::default()
        }
    }

    #[track_caller]
    fn check(results: &Results, outcome: Outcome, row: &str) {
        assert_eq!(results.outcome(), outcome, "{:?}", results.void());
        let text = results.markdown();
        assert!(text.contains(row), "{row:?} is not in {text}");
    }

    #[test]
    fn a_missed_bar_is_no_success() {
        check(&results(1.25, &[1.0], &[1.0]), Outcome::Met, "| ≤ 1.25 | 1.25 | met |");
        check(&results(1.26, &[1.0], &[1.0]), Outcome::Missed, "| ≤ 1.25 | 1.26 | MISSED |");
        let mut no_figure = results(1.0, &[1.0], &[1.0]);
        no_figure.stall[0] = Figures(json!({"sound": true}));
        check(&no_figure, Outcome::Missed, "| ≤ 65536 | NaN | MISSED |");
    }

    #[test]
    fn in_a_void_run_no_bar_is_met() {
        let steady = [1.0, 1.14, 0.86];
        check(&results(1.0, &steady, &steady), Outcome::Met, "| met |");
        let unsteady = results(1.0, &steady, &[1.0, 1.16, 1.0]);
        check(&unsteady, Outcome::Void, "| ≤ 1.25 | 1.00 | void |");
        check(&unsteady, Outcome::Void, "**VOID**: bare io_uring was off by 16 % from its own median of server CPU");
        check(&results(1.0, &[], &steady), Outcome::Void, "| void |");
        assert!(!unsteady.markdown().contains("| met |"));
        let mut unsound = results(1.0, &steady, &steady);
        unsound.idle[0] = Figures(json!({"sound": false, "reasons": ["2 deliveries came again"], "bytes_per_connection": 1}));
        check(&unsound, Outcome::Void, "**VOID**: idle does not count: 2 deliveries came again");
    }
}
