//! A dense array that grows by chunks: no doubling copy, no slack of half its size, references stay cheap to find.

/// Elements per chunk: large enough to amortise the allocation, small enough that an idle worker holds little.
const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 8;

/// One `T` for each slot number, made by `T::default()` when the slot is first named.
#[derive(Debug)]
pub struct Slots<T> {
    chunks: Vec<Box<[T]>>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T: Default> Slots<T> {
    /// The element of a slot, if the slot was ever named to [`Slots::entry`].
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<&T> {
        self.chunks.get((slot >> CHUNK_BITS) as usize)?.get(slot as usize & (CHUNK - 1))
    }

    /// The value of a slot that has ever been reached.
    #[must_use]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.chunks.get_mut((slot >> CHUNK_BITS) as usize)?.get_mut(slot as usize & (CHUNK - 1))
    }

    /// The element of a slot; the array grows to hold it.
    pub fn entry(&mut self, slot: u32) -> &mut T {
        let chunk = (slot >> CHUNK_BITS) as usize;
        while self.chunks.len() <= chunk {
            self.chunks.push((0..CHUNK).map(|_| T::default()).collect());
        }
        &mut self.chunks[chunk][slot as usize & (CHUNK - 1)]
    }

    /// Slots that exist, used or not.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).unwrap_or(u32::MAX)
    }

    /// Whether no slot has ever been reached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_its_element_while_others_appear() {
        let mut slots = Slots::<u64>::default();
        assert_eq!(slots.get(0), None);
        *slots.entry(3) = 7;
        *slots.entry(100_000) = 8;
        assert_eq!(slots.get(3), Some(&7));
        assert_eq!(slots.get(100_000), Some(&8));
        assert_eq!(slots.get(99_999), Some(&0), "a slot below the highest exists");
        assert_eq!(slots.get(slots.len()), None);
    }
}
