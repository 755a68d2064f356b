//! Values named by small numbers, with a generation so that a stale name is noticed.

use std::ops::{Index, IndexMut};

use super::Slots;

/// Name of a value in an [`Arena`]: good until the value is removed, refused ever after.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// Its place.
    pub index: u32,
    /// How often the place had been given out before.
    pub generation: u32,
}

/// Values in numbered places; places are reused last-in first-out, so the busy ones stay in cache.
#[derive(Debug)]
pub struct Arena<T> {
    places: Slots<Place<T>>,
    free: Vec<u32>,
    next: u32,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Place<T> {
    fn default() -> Self {
        Self { generation: 0, value: None }
    }
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { places: Slots::default(), free: Vec::new(), next: 0 }
    }
}

impl<T> Arena<T> {
    /// Puts a value in; its key stays valid until it is removed.
    pub fn insert(&mut self, value: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        let place = self.places.entry(index);
        debug_assert!(place.value.is_none());
        place.value = Some(value);
        Key { index, generation: place.generation }
    }

    /// Takes a value out, unless the key is out of date.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.places.get_mut(key.index).filter(|place| place.generation == key.generation)?;
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    /// The value, unless the key is out of date.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&T> {
        self.places.get(key.index).filter(|place| place.generation == key.generation)?.value.as_ref()
    }

    /// The value to change, unless the key is out of date.
    #[must_use]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.places.get_mut(key.index).filter(|place| place.generation == key.generation)?.value.as_mut()
    }

    /// The value now at an index, whoever it is: for links kept by those who remove them in time.
    #[must_use]
    pub fn at(&self, index: u32) -> Option<&T> {
        self.places.get(index)?.value.as_ref()
    }

    /// The value now at an index, whatever its generation.
    #[must_use]
    pub fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.places.get_mut(index)?.value.as_mut()
    }

    /// The full name of what is now at an index.
    #[must_use]
    pub fn key_at(&self, index: u32) -> Option<Key> {
        let place = self.places.get(index)?;
        place.value.as_ref()?;
        Some(Key { index, generation: place.generation })
    }

    /// One past the highest index ever used.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.next
    }

    /// Values held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.next as usize - self.free.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// For names held by whoever also removes the value: a stale one is our own bug.
impl<T> Index<Key> for Arena<T> {
    type Output = T;
    fn index(&self, key: Key) -> &T {
        self.get(key).expect("the holder of a name removes the name with the value")
    }
}

impl<T> IndexMut<Key> for Arena<T> {
    fn index_mut(&mut self, key: Key) -> &mut T {
        self.get_mut(key).expect("the holder of a name removes the name with the value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_name_never_reaches_its_successor() {
        let mut arena = Arena::default();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(second.index, first.index, "places are reused");
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&"second"));
        assert_eq!(arena.len(), 1);
    }
}
