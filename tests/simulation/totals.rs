//! What the runs have provoked. A simulation that no longer provokes something proves nothing about it, so it fails.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Clone, Debug, Default)]
pub struct Totals(BTreeMap<String, u64>);

/// How often each thing must happen in a thousand runs, at least.
const LEAST: &[(&str, u64)] = &[
    ("aborted", 2000),
    ("answer of several pages", 2000),
    ("api", 10_000),
    ("avalanche", 300),
    ("broadcast", 10_000),
    ("close 1001", 2000),
    ("close 1013", 4000),
    ("close 3008", 500),
    ("close 3010", 30),
    ("close 3012", 70),
    ("closed", 8000),
    ("collapse told", 40),
    ("congestion", 5000),
    ("drain", 50),
    ("dropped by bulkdrop", 20),
    ("dropped by conflate", 50),
    ("dropped by drop", 50),
    ("dropped by latest", 50),
    ("duplicate", 1500),
    ("gap bad_position", 400),
    ("gap epoch", 60),
    ("gap expired", 2000),
    ("gap no_history", 500),
    ("gap slow", 1000),
    ("newest of a key kept", 100),
    ("page", 5000),
    ("page before the last", 4000),
    ("poll 304", 1200),
    ("poll answered without its home", 200),
    ("poll turned away", 2000),
    ("publications collapsed", 200),
    ("publish refused", 100),
    ("reading paused", 3000),
    ("reload", 200),
    ("resume exact", 3000),
    ("retry", 2500),
    ("run of several", 10_000),
    ("spill", 20_000),
    ("window run of several", 300),
];

/// Fewer runs than this say nothing.
const RUNS_MIN: u64 = 1000;

impl Totals {
    pub fn add(&mut self, name: &str, count: u64) {
        if count == 0 {
            return;
        }
        match self.0.get_mut(name) {
            Some(total) => *total += count,
            None => {
                self.0.insert(name.to_owned(), count);
            }
        }
    }

    pub fn one(&mut self, name: &str) {
        self.add(name, 1);
    }

    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(name, count)| self.add(name, *count));
    }

    pub fn print(&self) {
        self.0.iter().for_each(|(name, count)| println!("{count:>9} {name}"));
    }

    /// Fails where something has not been provoked often enough.
    pub fn check(&self, runs: u64) {
        if runs < RUNS_MIN {
            return;
        }
        let count = |name: &str| self.0.get(name).copied().unwrap_or(0);
        let rare: Vec<String> = LEAST
            .iter()
            .filter(|(name, least)| count(name) < least * runs / 1000)
            .map(|(name, least)| format!("{name}: {} in {runs} runs, {least} in 1000 are expected", count(name)))
            .collect();
        assert!(rare.is_empty(), "the simulation has stopped provoking what it is to prove:\n{}", rare.join("\n"));
    }
}
