//! `ringmain doctor`: what this host gives, compared with what `tuning/` asks for.
//!
//! [`host`] reads facts, [`findings`] judges them; only the first touches the system.

mod findings;
mod host;

use std::process::ExitCode;

use super::say;
use findings::{Finding, Verdict, examine};
use host::Host;

/// Prints every finding. A problem, which keeps the server from starting, makes the exit status 1; advice does not.
pub fn run() -> ExitCode {
    let findings = examine(&Host::read());
    say(&findings.iter().map(show).collect::<String>());
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (problems, advice) = (count(Verdict::Problem), count(Verdict::Advice));
    say(&format!("{} good, {advice} to improve, {problems} to fix first\n", count(Verdict::Good)));
    if problems > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn show(finding: &Finding) -> String {
    let Finding { verdict, what, found, remedy } = finding;
    let mark = match verdict {
        Verdict::Good => "ok     ",
        Verdict::Advice => "improve",
        Verdict::Problem => "FIX    ",
    };
    let remedy = remedy.as_ref().map(|remedy| format!("\n{:>29}{remedy}", "")).unwrap_or_default();
    format!("{mark} {what:<20} {found}{remedy}\n")
}
