//! Whether a run counts: what was expected came, once, in order and unchanged, and something was expected.
//!
//! A server that says nothing does nothing wrong by itself; so each load says what must have come, and every reason that
//! a run does not count is printed with it.

use super::checker::{Checker, Tally};
use super::report::Report;
use super::session::Fault;

/// What must be zero, and the reasons against a run beside those.
#[derive(Default, Debug)]
pub struct Verdict {
    faults: Faults,
    reasons: Vec<String>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Faults {
    lost: u64,
    unanswered: u64,
    closed: u64,
    tally: Tally,
}

impl Verdict {
    /// On a load that could not be run: there are no counts.
    pub fn without_figures(load: &'static str, reason: String) -> Report {
        let mut report = Report::new(load);
        Self { reasons: vec![reason], ..Self::default() }.write_reasons(&mut report);
        report
    }

    /// The run does not count, because of `reason`, where that is `true`.
    pub fn against(&mut self, so: bool, reason: impl Into<String>) {
        if so {
            self.reasons.push(reason.into());
        }
    }

    /// Nothing came at all: whatever did not come wrong was not tested.
    pub fn came(&mut self, count: u64, what: &str) {
        self.against(count == 0, format!("no {what} came"));
    }

    /// What should have come and did not.
    pub fn lost(&mut self, lost: u64, what: &str) {
        self.faults.lost = lost;
        self.against(lost > 0, format!("{lost} {what} did not come before the deadline"));
    }

    /// Publications that the server did not answer.
    pub fn unanswered(&mut self, count: u64) {
        self.faults.unanswered = count;
        self.against(count > 0, format!("{count} publications were not acknowledged"));
    }

    /// Connections that the server closed, and how the last one ended.
    pub fn closed(&mut self, (count, fault): (u64, Option<Fault>)) {
        self.faults.closed = count;
        let how = fault.map_or_else(String::new, |fault| format!(", the last by {fault:?}"));
        self.against(count > 0, format!("{count} connections were closed by the server{how}"));
    }

    /// What came and should not have.
    pub fn tally(&mut self, checker: &Checker) {
        let tally = checker.tally;
        self.faults.tally = tally;
        self.against(tally.repeated > 0, format!("{} deliveries came again", tally.repeated));
        self.against(tally.disordered > 0, format!("{} deliveries came after a later one", tally.disordered));
        let first = checker.first_corruption.map_or("", |corruption| corruption.text());
        self.against(tally.corrupt > 0, format!("{} times something wrong came, first {first}", tally.corrupt));
        self.against(tally.gaps > 0, format!("{} gaps or ends came", tally.gaps));
    }

    pub fn is_sound(&self) -> bool {
        self.reasons.is_empty()
    }

    /// Appends what was found to the run's figures.
    pub fn write(&self, report: &mut Report) {
        let Faults { lost, unanswered, closed, tally } = self.faults;
        for (name, count) in [
            ("lost", lost),
            ("unanswered", unanswered),
            ("repeated", tally.repeated),
            ("disordered", tally.disordered),
            ("corrupt", tally.corrupt),
            ("gaps", tally.gaps),
            ("closed_by_server", closed),
        ] {
            report.add(name, count);
        }
        self.write_reasons(report);
    }

    fn write_reasons(&self, report: &mut Report) {
        report.add("sound", self.is_sound());
        report.add("reasons", self.reasons.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_counts_only_without_a_reason_against_it() {
        let mut good = Verdict::default();
        good.came(1, "deliveries");
        good.lost(0, "deliveries");
        good.unanswered(0);
        good.closed((0, None));
        good.tally(&Checker::new("news", 64));
        assert!(good.is_sound());
        for judge in [
            |verdict: &mut Verdict| verdict.came(0, "deliveries"),
            |verdict: &mut Verdict| verdict.lost(1, "deliveries"),
            |verdict: &mut Verdict| verdict.unanswered(1),
            |verdict: &mut Verdict| verdict.closed((1, Some(Fault::Ended))),
            |verdict: &mut Verdict| {
                let mut checker = Checker::new("news", 64);
                checker.corrupt(super::super::checker::Corruption::NotAnItem);
                verdict.tally(&checker);
            },
        ] {
            let mut verdict = Verdict::default();
            judge(&mut verdict);
            assert!(!verdict.is_sound());
            let mut report = Report::new("fan-out");
            verdict.write(&mut report);
            assert!(Verdict::without_figures("fan-out", "so".to_owned()).json().ends_with("\"sound\":false,\"reasons\":[\"so\"]}"));
            assert!(report.json().contains("\"sound\":false,\"reasons\":[\""), "{}", report.json());
        }
    }
}
