//! What the policy `conflate` has left to a slow reader: of each key the newest publication. What has none counts as one more key.

use std::collections::{HashMap, HashSet};

use ringmain::base::StreamPosition;

use crate::settings::CHANNELS;
use crate::truth::Truth;
use crate::verdict::{Breach, Judged, demand};

/// One connection to a conflating channel.
#[derive(Debug, Default)]
pub struct Conflation {
    /// Stretches that were dropped and not yet judged: behind a position, up to an offset.
    dropped: Vec<(StreamPosition, u64)>,
    /// Offset of the last publication of each key that was read.
    read: HashMap<Option<u64>, u64>,
}

impl Conflation {
    /// A gap says that these were dropped for a full queue.
    pub fn dropped(&mut self, after: Option<StreamPosition>, to: u64) {
        self.dropped.extend(after.map(|after| (after, to)));
    }

    pub fn read(&mut self, offset: u64, key: Option<u64>) {
        self.read.insert(key, offset);
    }

    /// Nothing waits any more: all that was dropped must have been followed by a newer one of its key. Returns how many keys show it.
    pub fn judge(&mut self, channel: usize, truth: &Truth) -> Judged<u64> {
        let mut keys = HashSet::new();
        for (after, to) in std::mem::take(&mut self.dropped) {
            for offset in after.offset + 1..=to {
                // What nobody was told of says nothing about its key.
                let Some(content) = truth.content_at(channel, StreamPosition { offset, ..after }) else { continue };
                let newest = self.read.get(&content.key).copied();
                demand(newest > Some(offset), Breach::NewestDropped, || {
                    format!("{}: {offset} was dropped, the last read of its key {:?} is {newest:?}", CHANNELS[channel], content.key)
                })?;
                keys.insert(content.key);
            }
        }
        Ok(keys.len() as u64)
    }
}
