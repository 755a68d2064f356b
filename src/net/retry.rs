//! When a listener that could not accept tries again.

use std::time::Duration;

use crate::base::Nanos;
use crate::metrics::{Label, LoopFacts};

/// How soon a worker that could not accept for want of room anywhere looks again: others do not tell when they have room.
pub const FULL_RETRY: Duration = Duration::from_millis(100);
/// First and longest pause after the kernel refused to accept for want of something.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// One listener's waiting.
#[derive(Debug)]
pub struct Retry {
    /// The pause after the next refusal.
    pause: Duration,
    /// When it tries again at the latest: one deadline, however often it is turned away before that.
    due: Option<Nanos>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { pause: BACKOFF_MIN, due: None }
    }
}

impl Retry {
    /// Somebody was accepted.
    pub const fn accepted(&mut self) {
        self.pause = BACKOFF_MIN;
    }

    /// The kernel has refused, and would refuse at once again. Returns for how long to leave it alone.
    pub fn refused(&mut self, errno: i32, facts: &mut LoopFacts) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(BACKOFF_MAX);
        facts.accept_backoff.one(Label::Number(errno.unsigned_abs()));
        // The first of a row: with connections that come and go there could be thousands.
        if pause == BACKOFF_MIN {
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::warn!(%error, "cannot accept for now");
        }
        pause
    }

    /// Whether a deadline has to be set for a try at `at`: not where there is an earlier one.
    pub fn sets(&mut self, at: Nanos) -> bool {
        let sets = self.due.is_none_or(|due| at < due);
        if sets {
            self.due = Some(at);
        }
        sets
    }

    /// Whether a deadline that fires is the one that counts.
    pub fn is_due(&mut self, now: Nanos) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_somebody_is_accepted() {
        let (mut retry, mut facts) = (Retry::default(), LoopFacts::default());
        let mut pause = |retry: &mut Retry| retry.refused(libc::ENFILE, &mut facts).as_millis();
        assert_eq!([0; 7].map(|_| pause(&mut retry)), [50, 100, 200, 400, 800, 1000, 1000]);
        retry.accepted();
        assert_eq!(pause(&mut retry), 50);
    }

    #[test]
    fn one_deadline_is_enough() {
        let mut retry = Retry::default();
        assert!(retry.sets(Nanos(100)) && !retry.sets(Nanos(100)) && !retry.sets(Nanos(150)));
        assert!(retry.sets(Nanos(50)), "sooner");
        assert!(!retry.is_due(Nanos(49)) && retry.is_due(Nanos(50)) && !retry.is_due(Nanos(100)));
        assert!(retry.sets(Nanos(200)));
    }
}
