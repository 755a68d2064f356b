//! Which connections have a handshake under way: one bit for a slot.

/// A set of slots with its size.
#[derive(Debug, Default)]
pub struct InFlight {
    words: Vec<u64>,
    count: usize,
}

impl InFlight {
    pub fn begin(&mut self, slot: u32) {
        let (word, bit) = place(slot);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.count += usize::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    /// Takes the slot out, if it is there.
    pub fn end(&mut self, slot: u32) {
        if self.has(slot) {
            let (word, bit) = place(slot);
            self.words[word] &= !bit;
            self.count -= 1;
        }
    }

    #[must_use]
    pub fn has(&self, slot: u32) -> bool {
        let (word, bit) = place(slot);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }
}

const fn place(slot: u32) -> (usize, u64) {
    ((slot / u64::BITS) as usize, 1 << (slot % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_in_once_and_leaves_once() {
        let mut set = InFlight::default();
        for slot in [0, 63, 64, 1_000_000, 64] {
            set.begin(slot);
        }
        assert_eq!(set.count(), 4);
        assert!(set.has(64) && !set.has(65) && !set.has(2_000_000));
        for slot in [64, 64, 65, 2_000_000] {
            set.end(slot);
        }
        assert_eq!((set.count(), set.has(64), set.has(63)), (3, false, true));
    }
}
