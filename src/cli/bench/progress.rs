//! Signs of life: what the load says of itself while it runs, and when it gives up on the server.

use std::io::{IsTerminal, Write};

use super::error::BenchError;

const SECOND: u64 = 1_000_000_000;
const TERMINAL_INTERVAL: u64 = SECOND / 4;
const LOG_INTERVAL: u64 = 10 * SECOND;
const CLEAR_LINE: &str = "\r\x1b[K";

/// How far the load is, on standard error: one line that changes on a terminal, one each ten seconds elsewhere.
pub struct Progress {
    terminal: bool,
    spoke_at: u64,
    /// A line stands on the terminal.
    stands: bool,
    /// Somebody else says how far it is.
    pub quiet: bool,
}

impl Progress {
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), spoke_at: 0, stands: false, quiet: false }
    }

    pub fn is_due(&self, now: u64) -> bool {
        !self.quiet && now.saturating_sub(self.spoke_at) >= if self.terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL }
    }

    pub fn say(&mut self, now: u64, line: &str) {
        self.spoke_at = now;
        let seconds = now / SECOND;
        if self.terminal {
            eprint!("{CLEAR_LINE}{seconds:>4} s  {line}");
            _ = std::io::stderr().flush();
            self.stands = true;
        } else {
            eprintln!("{seconds:>4} s  {line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.stands {
            eprint!("{CLEAR_LINE}");
        }
    }
}

/// Gives up when a count has not changed for too long.
pub struct Stall {
    doing: &'static str,
    count: u64,
    since: u64,
    seconds: u64,
}

impl Stall {
    pub const fn new(doing: &'static str, now: u64, seconds: u64) -> Self {
        Self { doing, count: 0, since: now, seconds }
    }

    /// Nothing is expected now.
    pub const fn rest(&mut self, now: u64) {
        self.since = now;
    }

    /// # Errors
    /// [`BenchError::Stalled`].
    pub fn check(&mut self, count: u64, now: u64) -> Result<(), BenchError> {
        if count != self.count {
            (self.count, self.since) = (count, now);
        }
        if now.saturating_sub(self.since) > self.seconds.saturating_mul(SECOND) {
            return Err(BenchError::Stalled { doing: self.doing, seconds: self.seconds });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_a_count_that_stays() {
        let mut stall = Stall::new("waiting", 0, 10);
        assert!(stall.check(1, 9 * SECOND).is_ok());
        assert!(stall.check(1, 19 * SECOND).is_ok());
        assert!(stall.check(2, 20 * SECOND).is_ok());
        stall.rest(25 * SECOND);
        assert!(stall.check(2, 31 * SECOND).is_ok());
        assert!(matches!(stall.check(2, 36 * SECOND), Err(BenchError::Stalled { doing: "waiting", seconds: 10 })));
    }

    #[test]
    fn a_log_gets_a_line_each_ten_seconds() {
        let mut progress = Progress { terminal: false, ..Progress::new() };
        assert!(!progress.is_due(9 * SECOND) && progress.is_due(10 * SECOND));
        progress.say(10 * SECOND, "a test of the bench");
        assert!(!progress.is_due(19 * SECOND) && progress.is_due(20 * SECOND));
    }
}
