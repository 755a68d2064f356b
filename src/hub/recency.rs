//! Which channels were used least recently: a linked list over channel indexes.

use crate::base::Slots;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    newer: u32,
    older: u32,
    linked: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self { newer: NONE, older: NONE, linked: false }
    }
}

/// Indexes in order of use.
#[derive(Debug)]
pub struct Recency {
    links: Slots<Link>,
    newest: u32,
    oldest: u32,
}

impl Default for Recency {
    fn default() -> Self {
        Self { links: Slots::default(), newest: NONE, oldest: NONE }
    }
}

impl Recency {
    /// Makes the index the most recently used one.
    pub fn touch(&mut self, index: u32) {
        if self.newest == index {
            return;
        }
        self.remove(index);
        let older = std::mem::replace(&mut self.newest, index);
        *self.links.entry(index) = Link { newer: NONE, older, linked: true };
        if older == NONE {
            self.oldest = index;
        } else {
            self.links.entry(older).newer = index;
        }
    }

    pub fn remove(&mut self, index: u32) {
        let Some(link) = self.links.get(index).copied().filter(|link| link.linked) else { return };
        if link.newer == NONE {
            self.newest = link.older;
        } else {
            self.links.entry(link.newer).older = link.older;
        }
        if link.older == NONE {
            self.oldest = link.newer;
        } else {
            self.links.entry(link.older).newer = link.newer;
        }
        *self.links.entry(index) = Link::default();
    }

    /// The least recently used index.
    #[must_use]
    pub fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_the_one_not_touched_for_longest() {
        let mut recency = Recency::default();
        for index in [1, 2, 3] {
            recency.touch(index);
        }
        recency.touch(1);
        assert_eq!(recency.oldest(), Some(2));
        recency.remove(2);
        recency.remove(2);
        assert_eq!(recency.oldest(), Some(3));
        recency.touch(3);
        assert_eq!(recency.oldest(), Some(1));
        recency.remove(1);
        recency.remove(3);
        assert_eq!(recency.oldest(), None);
    }
}
