//! What a closed connection's peer still sends is discarded for a while: closing with unread input would send a reset, which can
//! destroy the last response on its way.

use std::collections::HashMap;
use std::time::Duration;

/// How long, at most.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// How much, at most.
const LINGER_BYTES_MAX: u32 = 64 << 10;

/// Bytes discarded of each lingering connection, by slot.
#[derive(Default)]
pub struct Discarded(HashMap<u32, u32>);

impl Discarded {
    /// Counts discarded bytes. False where these are too many: the connection is to be ended.
    pub fn add(&mut self, slot: u32, bytes: usize) -> bool {
        let discarded = self.0.entry(slot).or_default();
        *discarded = discarded.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        *discarded <= LINGER_BYTES_MAX
    }

    /// The connection ends.
    pub fn forget(&mut self, slot: u32) {
        self.0.remove(&slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_is_discarded_and_no_more() {
        let mut discarded = Discarded::default();
        assert!(discarded.add(1, 65_536) && discarded.add(2, 1) && !discarded.add(1, 1));
        discarded.forget(1);
        assert!(discarded.add(1, 1) && !discarded.add(1, usize::MAX));
    }
}
