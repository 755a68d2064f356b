//! Findings as people and as programs read them.

use std::fmt::Write;

use serde_json::json;

use super::finding::{Finding, Verdict};
use super::load::Load;

/// The exit status: 0 all is good, 1 something is to be done, 2 something could not be looked at, and nothing else is wrong.
pub fn status(findings: &[Finding]) -> u8 {
    let worst = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
    if worst(Verdict::Fix) || worst(Verdict::Improve) {
        1
    } else if worst(Verdict::Unknown) {
        2
    } else {
        0
    }
}

/// A paragraph for each, and a line of sums.
pub fn text(load: &Load, findings: &[Finding]) -> String {
    let mut text = format!("for {} connections on {} workers:\n", load.connections, load.workers);
    for Finding { verdict, what, found, needed, remedy } in findings {
        // Writing to a `String` does not fail.
        let _ = writeln!(text, "{:<7} {what}: {found}\n          needed: {needed}", mark(*verdict));
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "          remedy: {remedy}");
        }
    }
    let [good, unknown, improve, fix] = counts(findings);
    let unseen = if unknown > 0 { format!(", {unknown} not to be seen") } else { String::new() };
    text + &format!("{good} good, {improve} to improve, {fix} to fix first{unseen}\n")
}

/// One line with all of it.
pub fn json(load: &Load, findings: &[Finding]) -> String {
    let [good, unknown, improve, fix] = counts(findings);
    let entries = findings.iter().map(|Finding { verdict, what, found, needed, remedy }| {
        json!({"what": what, "verdict": word(*verdict), "found": found, "needed": needed, "remedy": remedy})
    });
    let report = json!({
        "connections": load.connections,
        "workers": load.workers,
        "good": good,
        "unknown": unknown,
        "improve": improve,
        "fix": fix,
        "findings": entries.collect::<Vec<_>>(),
    });
    format!("{report}\n")
}

/// How many there are of each verdict, from good to bad.
fn counts(findings: &[Finding]) -> [usize; 4] {
    [Verdict::Good, Verdict::Unknown, Verdict::Improve, Verdict::Fix]
        .map(|verdict| findings.iter().filter(|finding| finding.verdict == verdict).count())
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "ok",
        Verdict::Unknown => "unseen",
        Verdict::Improve => "improve",
        Verdict::Fix => "FIX",
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Unknown => "unknown",
        Verdict::Improve => "improve",
        Verdict::Fix => "fix",
    }
}
