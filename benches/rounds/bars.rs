//! What the figures must be, whether the run counts, and what follows from both.

use crate::contender::Contender;
use crate::plan;
use crate::results::{CORE, CPU, Measured, Results, Series};
use crate::spread::Spread;

/// Where a floor is further than this from its own median, something else was using the machine, and times and rates say nothing.
/// Where one floor's part of the other, of the same round, is further than this from its own median, ratios say nothing either.
const FLOOR_SPREAD_MAX: f64 = 0.15;

/// A figure that must be on one side of another.
pub struct Bar {
    pub what: &'static str,
    pub limit: Limit,
    pub got: f64,
    /// Of the rounds, one by one.
    pub least: f64,
    pub most: f64,
    /// It says nothing, whatever it is.
    pub is_void: bool,
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
    /// Something of ringmain's or a floor's could not be run: the rest is there, and no bar is called met.
    Incomplete,
    /// No bar that says something was missed, but not all of them say something.
    Void,
    Missed,
}

impl Outcome {
    pub const fn status(self) -> u8 {
        match self {
            Self::Met => 0,
            Self::Incomplete => 2,
            Self::Void => 1,
            Self::Missed => 3,
        }
    }

    pub const fn text(self) -> &'static str {
        match self {
            Self::Met => "every bar met",
            Self::Incomplete => "INCOMPLETE: something could not be run",
            Self::Void => "VOID: not every bar says something",
            Self::Missed => "a bar was MISSED",
        }
    }
}

/// Which figures of a group a bar is about: ringmain's, where nothing else is said. Ratios are of what ran in the same round, one
/// right after the other, and the median of the rounds counts: so what changes slowly is in both.
enum Measure {
    /// The median of its runs, a time or a rate: a machine that is slower for a while has that in it.
    Time(&'static str),
    /// The median of somebody's runs.
    Median(Contender, &'static str),
    /// The worst of its runs.
    Worst(&'static str),
    /// As a part of the other's.
    Against(Contender, &'static str),
    /// The first one's, as a part of the second's.
    Between(Contender, Contender, &'static str),
    /// One figure as a part of another.
    Quotient(&'static str, &'static str),
}

impl Measure {
    /// Of a group's rounds. No figures where one of those it is about has none.
    fn of(&self, group: &Measured) -> Spread {
        let runs = |whose, name| {
            let series = group.of(whose).into_iter().flat_map(|series| &series.runs);
            series.map(move |run| run.number(name))
        };
        let part = |one, other, name| runs(one, name).zip(runs(other, name)).map(|(one, other)| one / other).collect();
        Spread::of(match *self {
            Time(name) | Worst(name) => runs(Ringmain, name).collect(),
            Median(whose, name) => runs(whose, name).collect(),
            Against(other, name) => part(Ringmain, other, name),
            Between(one, other, name) => part(one, other, name),
            Quotient(name, by) => runs(Ringmain, name).zip(runs(Ringmain, by)).map(|(one, by)| one / by).collect(),
        })
    }
}

const fn bar(
    what: &'static str,
    group: &'static str,
    measure: Measure,
    limit: Limit,
) -> (&'static str, &'static str, Measure, Limit) {
    (what, group, measure, limit)
}

use Contender::{Deflate, Epoll, Monoio, Nchan, Ringmain, Uring, Write};
use Limit::{AtLeast, AtMost};
use Measure::{Against, Between, Median, Quotient, Time, Worst};

/// All bars, each with the group that it is about.
const BARS: [(&str, &str, Measure, Limit); 28] = [
    bar("fan-out 1 × 5,000, core-busy against bare io_uring", plan::FAN_OUT, Against(Uring, CORE), AtMost(1.10)),
    bar("fan-out 1 × 5,000, CPU against bare io_uring", plan::FAN_OUT, Against(Uring, CPU), AtMost(1.10)),
    bar("fan-out 1 × 5,000, core-busy against nchan", plan::FAN_OUT, Against(Nchan, CORE), AtMost(0.65)),
    bar("fan-out 1 × 5,000 on epoll, core-busy against bare write()", plan::FAN_OUT, Between(Epoll, Write, CORE), AtMost(1.10)),
    bar("fan-out 1 × 5,000 on epoll, CPU against bare write()", plan::FAN_OUT, Between(Epoll, Write, CPU), AtMost(1.10)),
    bar("fan-out 1 × 19,000, core-busy against bare io_uring", plan::FAN_OUT_LARGE, Against(Uring, CORE), AtMost(1.10)),
    bar("fan-out 1 × 19,000, CPU against bare io_uring", plan::FAN_OUT_LARGE, Against(Uring, CPU), AtMost(1.10)),
    bar("compressed broadcast, CPU against uncompressed", plan::BROADCAST, Between(Deflate, Ringmain, CPU), AtMost(1.15)),
    bar("16 publications in flight, CPU µs for each delivery", plan::WINDOWED, Time(CPU), AtMost(0.35)),
    bar("event stream, CPU against nchan", plan::EVENTS, Against(Nchan, CPU), AtMost(0.80)),
    bar("long poll, CPU against nchan", plan::POLLS, Against(Nchan, CPU), AtMost(0.80)),
    bar("stream, deliveries a second from one worker", plan::STREAM, Time("deliveries_per_second"), AtLeast(500_000.0)),
    bar("stream, p99 in µs", plan::STREAM, Time("p99_us"), AtMost(20_000.0)),
    bar("echo, CPU against monoio", plan::ECHO, Against(Monoio, CPU), AtMost(1.0)),
    bar("small channels at 30 % load, p99.9 against p50", plan::CHANNELS, Quotient("p999_us", "p50_us"), AtMost(10.0)),
    bar("small channels at 30 % load, p99.9 against epoll", plan::CHANNELS, Between(Ringmain, Epoll, "p999_us"), AtMost(1.0)),
    bar("echo beside a broadcast to 19,000, p99 in µs", plan::BESIDE_BROADCAST, Time("p99_us"), AtMost(5_000.0)),
    bar("echo beside 15,000 that come, p99.9 against without", plan::BESIDE_STORM, Median(Ringmain, "p999_ratio"), AtMost(3.0)),
    bar("the same on epoll", plan::BESIDE_STORM, Median(Epoll, "p999_ratio"), AtMost(3.0)),
    bar("connections of those that found the listener's queue full", plan::BESIDE_STORM, Worst("listen_overflows"), AtMost(0.0)),
    bar("stalled reader, kernel queue and memory of its own, B", plan::STALL, Worst("bytes_per_stalled"), AtMost(65_536.0)),
    bar("stalled reader with 4 KiB payloads, B", plan::STALL_LARGE, Worst("bytes_per_stalled"), AtMost(65_536.0)),
    bar("1 % stalled, the others' p99.9 against without", plan::STALL, Worst("p999_ratio"), AtMost(1.10)),
    bar("1 % stalled with 4 KiB payloads, the same", plan::STALL_LARGE, Worst("p999_ratio"), AtMost(1.10)),
    bar("idle, user memory for each subscribed WebSocket, B", plan::IDLE, Worst("bytes_per_connection"), AtMost(256.0)),
    bar("idle, the same after pings, B", plan::IDLE_PINGED, Worst("bytes_per_connection"), AtMost(256.0)),
    bar("idle, kernel and user memory, B", plan::IDLE, Worst("whole_bytes_per_connection"), AtMost(4505.6)),
    bar("idle on a channel of its own, user memory, B", plan::IDLE_OWN, Worst("bytes_per_connection"), AtMost(640.0)),
];

impl Results {
    pub fn outcome(&self) -> Outcome {
        let failed = |series: &Series| !series.contender.is_peer() && series.failure.is_some();
        let bars = self.bars();
        match () {
            () if self.groups.iter().flat_map(|group| &group.series).any(failed) => Outcome::Incomplete,
            () if bars.iter().any(|bar| !bar.is_void && !bar.is_met()) => Outcome::Missed,
            () if !self.void().is_empty() || bars.iter().any(|bar| bar.is_void) => Outcome::Void,
            () => Outcome::Met,
        }
    }

    /// Why times and rates do not count, one reason each: the machine was not as fast all the time.
    pub fn void_times(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for group in &self.groups {
            for series in group.series.iter().filter(|series| series.contender.is_floor()) {
                let off = series.spread(CPU).off();
                if off > FLOOR_SPREAD_MAX {
                    let (name, off) = (series.contender.name(), off * 100.0);
                    let off = format!("off by {off:.0} % from its own median of server CPU for each delivery");
                    reasons.push(format!("{} of {name} was {off}", group.name));
                }
            }
        }
        reasons
    }

    /// Why the run does not count, one reason each.
    pub fn void(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for group in &self.groups {
            for series in &group.series {
                let name = format!("{} of {}", group.name, series.contender.name());
                let failure = series.failure.iter().filter(|_| !series.contender.is_peer());
                reasons.extend(failure.map(|failure| format!("{name} could not be run: {failure}")));
                // A peer may lose what it likes: its figures then say less, and its row says so.
                let unsound = series.runs.iter().filter(|run| !series.contender.is_peer() && !run.is_sound());
                reasons.extend(unsound.map(|run| format!("{name} does not count: {}", run.reasons())));
            }
            if group.series.iter().any(|series| series.contender.is_floor()) {
                let off = Between(Write, Uring, CPU).of(group).off();
                // Not `>`: floors without figures are not steady.
                let steady = off <= FLOOR_SPREAD_MAX;
                let (one, other, off) = (Write.name(), Uring.name(), off * 100.0);
                let off = format!("off by {off:.0} % from its own median");
                let reason = || format!("{}: {one} as a part of {other}, round by round, was {off}", group.name);
                reasons.extend((!steady).then(reason));
            }
        }
        reasons
    }

    /// The bars of what was measured, where ringmain was among it.
    pub fn bars(&self) -> Vec<Bar> {
        let (void, void_times) = (!self.void().is_empty(), !self.void_times().is_empty());
        let measured = BARS.into_iter().filter_map(|(what, group, measure, limit)| {
            let group = self.group(group)?;
            group.of(Ringmain)?;
            let Spread { median, min: least, max: most } = measure.of(group);
            let got = if matches!(measure, Worst(_)) { most } else { median };
            let is_void = void || void_times && matches!(measure, Time(_));
            Some(Bar { what, limit, got, least, most, is_void })
        });
        measured.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Figures;
    use crate::results::Measured;
    use serde_json::json;

    /// The fan-out with these figures of CPU for each delivery, and a sound idle.
    fn results(ringmain: f64, write: &[f64], uring: &[f64]) -> Results {
        let runs = |contender, cpu: &[f64]| Series {
            contender,
            failure: None,
            runs: cpu.iter().map(|cpu| Figures(json!({ CPU: cpu, CORE: cpu, "sound": true }))).collect(),
        };
        let idle = Figures(json!({"sound": true, "bytes_per_connection": 256}));
        let fan_out = vec![
            runs(Contender::Ringmain, &[ringmain]),
            runs(Contender::Write, write),
            runs(Contender::Uring, uring),
            runs(Contender::Nchan, &[2.0]),
            runs(Contender::Epoll, &[1.0]),
        ];
        Results {
            groups: vec![
                Measured { name: plan::FAN_OUT, load: String::new(), series: fan_out },
                Measured {
                    name: plan::IDLE_OWN,
                    load: String::new(),
                    series: vec![Series { contender: Contender::Ringmain, runs: vec![idle], failure: None }],
                },
            ],
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
        check(&results(1.10, &[1.0], &[1.0]), Outcome::Met, "| ≤ 1.1 | 1.10 | met |");
        check(&results(1.11, &[1.0], &[1.0]), Outcome::Missed, "| ≤ 1.1 | 1.11 | MISSED |");
        check(&results(1.10, &[1.0], &[1.0]), Outcome::Met, "| ≤ 0.65 | 0.55 | met |");
        let mut no_figure = results(1.0, &[1.0], &[1.0]);
        no_figure.groups[1].series[0].runs[0] = Figures(json!({"sound": true}));
        check(&no_figure, Outcome::Missed, "| ≤ 640 | NaN | MISSED |");
    }

    #[test]
    fn ratios_are_of_what_ran_in_the_same_round() {
        // A host that slows down: everybody takes twice as long in the end.
        let mut slowing = results(1.05, &[1.0, 1.1, 1.14], &[1.0, 1.1, 1.14]);
        let runs = |cpu: &[f64]| cpu.iter().map(|cpu| Figures(json!({ CPU: cpu, CORE: cpu, "sound": true }))).collect();
        slowing.groups[0].series[0].runs = runs(&[1.05, 1.155, 1.254]);
        check(&slowing, Outcome::Met, "| ≤ 1.1 | 1.05 | met | 1.05–1.10 |");
        slowing.groups[0].series[0].runs = runs(&[1.11, 1.23, 1.14]);
        check(&slowing, Outcome::Missed, "| ≤ 1.1 | 1.11 | MISSED | 1.00–1.12 |");
    }

    #[test]
    fn in_a_void_run_no_bar_is_met() {
        let steady = [1.0, 1.14, 0.86];
        check(&results(1.0, &steady, &steady), Outcome::Met, "| met |");
        let unsteady = results(1.0, &steady, &[1.0, 0.97, 1.0]);
        check(&unsteady, Outcome::Void, "| ≤ 1.1 | 1.00 | void |");
        check(
            &unsteady,
            Outcome::Void,
            "bare write() as a part of bare io_uring, round by round, was off by 18 % from its own median",
        );
        check(&results(1.0, &[], &steady), Outcome::Void, "| void |");
        assert!(!unsteady.markdown().contains("| met |"));
        let mut unsound = results(1.0, &steady, &steady);
        unsound.groups[1].series[0].runs[0] =
            Figures(json!({"sound": false, "reasons": ["2 deliveries came again"], "bytes_per_connection": 1}));
        check(&unsound, Outcome::Void, "does not count: 2 deliveries came again");
    }

    #[test]
    fn a_host_that_changes_its_speed_leaves_ratios() {
        let slowing = [1.0, 1.1, 1.3];
        let mut slowing = results(1.0, &slowing, &slowing);
        let fast = Figures(json!({"sound": true, CPU: 0.2}));
        let series = vec![Series { contender: Contender::Ringmain, runs: vec![fast], failure: None }];
        slowing.groups.push(Measured { name: plan::WINDOWED, load: String::new(), series });
        check(&slowing, Outcome::Void, "| ≤ 1.1 | 1.00 | met |");
        check(&slowing, Outcome::Void, "| ≤ 0.35 | 0.20 | void |");
        check(&slowing, Outcome::Void, "bare io_uring was off by 18 % from its own median of server CPU");
        slowing.groups[0].series[0].runs[0] = Figures(json!({"sound": true, CPU: 1.2, CORE: 1.0}));
        check(&slowing, Outcome::Missed, "| ≤ 1.1 | 1.20 | MISSED |");
    }

    #[test]
    fn a_peer_that_cannot_be_measured_is_a_bar_missed() {
        let mut absent = results(1.0, &[1.0], &[1.0]);
        let nchan = &mut absent.groups[0].series[3];
        (nchan.runs, nchan.failure) = (Vec::new(), Some("it does not listen".to_owned()));
        check(&absent, Outcome::Missed, "| ≤ 0.65 | NaN | MISSED |");
        check(&absent, Outcome::Missed, "| nginx + nchan (it does not listen) |");
    }

    #[test]
    fn what_could_not_be_run_leaves_the_rest() {
        let mut broken = results(1.0, &[1.0], &[1.0]);
        broken.groups[0].series[0].failure = Some("told to come back".to_owned());
        check(&broken, Outcome::Incomplete, "ringmain could not be run: told to come back");
        check(&broken, Outcome::Incomplete, "| ≤ 640 | 256.00 | void |");
    }

    #[test]
    fn every_bar_is_about_a_group_that_is_run() {
        for (what, group, ..) in BARS {
            assert!(plan::PLAN.iter().any(|planned| planned.name == group), "{what}");
        }
    }
}
