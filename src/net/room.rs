//! Whether a connection takes what it is sent: refused, woken, and refused again.

use std::time::Duration;

/// Wakes without progress in a row from which on the kernel's word is not believed (out of socket memory poll says writable, send
/// says no).
const STALLS_BEFORE_BACKOFF: u8 = 2;
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The longest pause.
pub const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// One connection's room for sending, as far as it is known, in a byte: waits for room, was woken and has not shown progress yet,
/// and how many wakes in a row have brought none.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Room(u8);

impl Room {
    const BLOCKED: u8 = 1 << 7;
    const WOKEN: u8 = 1 << 6;
    const STALLS: u8 = Self::WOKEN - 1;

    /// Whether a send was refused and room is waited for.
    pub const fn is_awaited(self) -> bool {
        self.0 & Self::BLOCKED != 0
    }

    /// Whether its next send shows if the last wake was worth something.
    pub const fn is_to_be_proven(self) -> bool {
        self.0 & Self::WOKEN != 0
    }

    /// A send was not taken whole. `progress`: part of it was. Returns the pause before the next try; `None` where the kernel is
    /// believed when it says that there is room.
    pub fn refused(&mut self, progress: bool) -> Option<Duration> {
        let stalls = self.0 & Self::STALLS;
        let stalls = if self.is_to_be_proven() && !progress { (stalls + 1).min(Self::STALLS) } else { 0 };
        self.0 = Self::BLOCKED | stalls;
        let doublings = u32::from(stalls.checked_sub(STALLS_BEFORE_BACKOFF)?).min(8);
        Some((BACKOFF_MIN * (1 << doublings)).min(BACKOFF_MAX))
    }

    /// There is room, or it is time to try. False where nobody waits for that.
    pub const fn wake(&mut self) -> bool {
        let awaited = self.is_awaited();
        if awaited {
            self.0 = self.0 & Self::STALLS | Self::WOKEN;
        }
        awaited
    }

    /// A send after a wake has been decided: where it was not refused, that is progress.
    pub const fn prove(&mut self) {
        if !self.is_awaited() {
            self.0 = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writable_without_progress_backs_off() {
        let mut room = Room::default();
        let pauses = [0; 300].map(|_| {
            let pause = room.refused(false);
            assert!(room.is_awaited() && room.wake() && room.is_to_be_proven());
            pause
        });
        assert_eq!(pauses[..2], [None, None], "a refusal, and one wake for nothing");
        let millis = |pause: &Option<Duration>| pause.map_or(0, |pause| pause.as_millis());
        assert_eq!(pauses[2..9].iter().map(millis).collect::<Vec<_>>(), [10, 20, 40, 80, 160, 320, 500]);
        assert!(pauses[9..].iter().all(|pause| *pause == Some(BACKOFF_MAX)));
    }

    #[test]
    fn any_progress_is_believed() {
        let stalled = || {
            let mut room = Room::default();
            for _ in 0..4 {
                room.refused(false);
                room.wake();
            }
            room
        };
        let mut room = stalled();
        assert_eq!(room.refused(true), None, "part of a send was taken");
        let mut room = stalled();
        room.prove();
        assert_eq!((room, room.clone().refused(false)), (Room::default(), None), "a whole one was");
        let mut room = stalled();
        assert!(room.refused(false).is_some());
        room.prove();
        assert!(room.is_awaited(), "refused, so it proved nothing");
        assert!(!Room::default().wake(), "nobody waits");
    }
}
