//! Facts about a connection that are true or not, as bits of one word.

use std::fmt;
use std::marker::PhantomData;
use std::ops::BitOr;

/// A set of facts, of those that an `impl` of `Flags<K>` names.
pub struct Flags<K>(u16, PhantomData<K>);

impl<K> Flags<K> {
    /// The set of fact number `number`, below 16, alone.
    pub const fn only(number: u8) -> Self {
        Self(1 << number, PhantomData)
    }

    /// Whether any of them is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Sets all of them.
    pub const fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Clears all of them.
    pub const fn clear(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// Clears them, and says whether any was set.
    pub const fn take(&mut self, other: Self) -> bool {
        let had = self.has(other);
        self.clear(other);
        had
    }
}

// Not derived: that would ask the same of `K`, which is but a name.

impl<K> Clone for Flags<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Flags<K> {}

impl<K> Default for Flags<K> {
    fn default() -> Self {
        Self(0, PhantomData)
    }
}

impl<K> BitOr for Flags<K> {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0, PhantomData)
    }
}

impl<K> fmt::Debug for Flags<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018b}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_independent() {
        let [read, paused, woken] = [0, 5, 15].map(Flags::<()>::only);
        let mut flags = read | paused;
        assert!(flags.take(read) && !flags.has(read) && !flags.take(read) && flags.has(paused));
        flags.set(woken);
        assert!(flags.has(woken | read) && !flags.has(read));
        flags.clear(woken | paused);
        assert!(!flags.has(read | paused | woken));
    }
}
