//! Tests that `RINGMAIN_TEST_SKIP=uring,netns,chromium,nginx` leaves out. Where it says nothing they fail for what is missing.

use std::io::Write;

/// Whether the test that asks is to do without something; says so in a line that `scripts/test.sh` counts.
#[track_caller]
pub fn without(what: &str) -> bool {
    if !is_left_out(what) {
        return false;
    }
    let thread = std::thread::current();
    // The harness names the thread of each test after it, unless it runs them all on its own.
    let test =
        thread.name().filter(|name| *name != "main").map_or_else(|| std::panic::Location::caller().to_string(), ToOwned::to_owned);
    // Not `eprintln!`, which the harness keeps to itself.
    let _ = std::io::stderr().write_all(format!("skipped: {test} (needs {what})\n").as_bytes());
    true
}

/// The same, without a word.
pub fn is_left_out(what: &str) -> bool {
    std::env::var("RINGMAIN_TEST_SKIP").is_ok_and(|list| list.split(',').any(|item| item.trim() == what))
}
