//! Whether a worker has next to no idle time: then it pays to let what happens gather.

use std::time::Duration;

use crate::base::Nanos;

/// How long work is set against time before it is judged.
const WINDOW: Duration = Duration::from_millis(10);
/// Percent of a window that work takes on a busy worker.
const BUSY_PERCENT: u128 = 90;

/// A worker's work against its time, window by window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Busy {
    since: Nanos,
    worked: Duration,
    busy: bool,
}

impl Busy {
    /// Whether work took nine tenths of the last window or more.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        self.busy
    }

    /// To be called once a turn. `worked` is the processor time of the thread so far, and is asked for once a window only, since
    /// that is a system call.
    pub fn note(&mut self, now: Nanos, worked: impl FnOnce() -> Duration) {
        let window = now.since(self.since);
        if window < WINDOW {
            return;
        }
        let worked = worked();
        let work = worked.saturating_sub(self.worked);
        *self = Self { since: now, worked, busy: work.as_nanos() * 100 >= window.as_nanos() * BUSY_PERCENT };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_is_judged_by_itself() {
        let (mut busy, mut now, mut worked) = (Busy::default(), Nanos(0), Duration::ZERO);
        let judged = [100, 89, 90, 0, 95].map(|percent| {
            now = now + WINDOW;
            worked += WINDOW * percent / 100;
            busy.note(now, || worked);
            busy.is_busy()
        });
        assert_eq!(judged, [true, false, true, false, true]);
    }

    #[test]
    fn who_slept_long_is_not_busy_at_once() {
        let mut busy = Busy::default();
        busy.note(Nanos(0) + WINDOW, || WINDOW);
        assert!(busy.is_busy());
        busy.note(Nanos(0) + 100 * WINDOW, || 3 * WINDOW);
        assert!(!busy.is_busy());
        busy.note(Nanos(0) + 101 * WINDOW - Duration::from_nanos(1), || panic!("asked for within a window"));
    }
}
