//! What waits to be sent on one connection, and what is given up when it waits too long.
//!
//! Invariants:
//! - The first `skip` bytes of the first frame are in the kernel already; a begun frame is always finished, never dropped.
//! - `bytes` is the sum of the frames' lengths minus `skip`.
//! - After a dropped publication the same subscription's next frame in the queue is a gap that covers it.

use std::collections::VecDeque;

use crate::base::{Blob, Frame, FrameTag, Frames, Mutant, mutated};
use crate::hub::SlowConsumer;

/// The frames one connection waits to send.
#[derive(Debug, Default)]
pub struct SendQueue {
    frames: VecDeque<Frame>,
    skip: u32,
    bytes: usize,
    /// Of these, in replies; a begun one counts whole.
    reply_bytes: usize,
    /// The kernel refused bytes and has not said that there is room again.
    pub blocked: bool,
    /// Listed for the next flush.
    pub dirty: bool,
}

/// Publications of a subscription that were given up, all between two offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// The offset before the first one dropped.
    pub after: u64,
    /// The last one dropped.
    pub to: u64,
    /// How many publications that were.
    pub count: u32,
}

impl SendQueue {
    pub fn push(&mut self, frame: Frame) {
        self.count(&frame);
        self.frames.push_back(frame);
    }

    fn count(&mut self, frame: &Frame) {
        self.bytes += frame.blob.len();
        if frame.tag == FrameTag::REPLY {
            self.reply_bytes += frame.blob.len();
        }
    }

    /// Empties the queue for its next connection; keeps memory for a few frames.
    pub fn reset(&mut self, frames_max: usize) {
        self.frames.clear();
        self.frames.shrink_to(frames_max);
        *self = Self { frames: std::mem::take(&mut self.frames), ..Self::default() };
    }

    /// Bytes that are not yet in the kernel.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of replies that are not yet in the kernel; one that is partly there counts whole.
    #[must_use]
    pub const fn reply_bytes(&self) -> usize {
        self.reply_bytes
    }

    /// Whether one more frame of a size is admitted: an empty queue admits any.
    #[must_use]
    pub const fn admits(&self, bytes: usize, bytes_max: usize) -> bool {
        self.bytes == 0 || self.bytes + bytes <= bytes_max
    }

    /// Takes everything for one gathered send, with the bytes of the first frame to leave out.
    pub fn take(&mut self) -> Option<(Frames, u32)> {
        let first = self.frames.pop_front()?;
        let skip = std::mem::take(&mut self.skip);
        (self.bytes, self.reply_bytes) = (0, 0);
        if self.frames.is_empty() {
            return Some((Frames::One(first), skip));
        }
        let mut frames = Vec::with_capacity(self.frames.len() + 1);
        frames.push(first);
        frames.extend(self.frames.drain(..));
        Some((Frames::Many(frames), skip))
    }

    /// Puts back what a send left over: the kernel took `taken` bytes behind the first `skip`.
    pub fn put_back(&mut self, frames: Frames, skip: u32, taken: u32) {
        debug_assert!(self.skip == 0, "one send at a time");
        let mut gone = skip as usize + taken as usize;
        let frames = match frames {
            Frames::One(frame) => vec![frame],
            Frames::Many(frames) => frames,
        };
        let begun = frames.iter().position(|frame| {
            let whole = frame.blob.len() <= gone;
            gone -= if whole { frame.blob.len() } else { 0 };
            !whole
        });
        let Some(begun) = begun else { return };
        for frame in frames.into_iter().skip(begun).rev() {
            self.count(&frame);
            self.frames.push_front(frame);
        }
        self.skip = u32::try_from(gone).unwrap_or(u32::MAX);
        self.bytes -= gone;
    }

    /// Gives up the publications that have not begun: the connection is about to end. Replies stay, a response's head among them.
    pub fn drop_publications(&mut self) {
        let mut begun = self.skip > 0;
        self.frames.retain(|frame| std::mem::take(&mut begun) || frame.tag == FrameTag::REPLY);
        self.bytes = self.frames.iter().map(|frame| frame.blob.len()).sum::<usize>() - self.skip as usize;
    }

    /// Makes room for a frame of `bytes` by a policy, among the frames of its subscription only. `gap` writes the frame that tells
    /// what was dropped. Returns how many publications were dropped, `None` where the policy is to disconnect.
    pub fn make_room(
        &mut self,
        policy: SlowConsumer,
        tag: FrameTag,
        bytes: usize,
        bytes_max: usize,
        gap: &mut dyn FnMut(Dropped) -> Option<Blob>,
    ) -> Option<u32> {
        let doomed = |frame: &Frame| frame.tag.subscription == tag.subscription && frame.tag.count > 0;
        let mut dropped = 0;
        match policy {
            SlowConsumer::Disconnect => return None,
            SlowConsumer::DropOldest => {
                while !self.admits(bytes, bytes_max) {
                    let Some(at) = self.find(doomed) else { break };
                    dropped += self.drop_at(at, gap);
                }
            }
            SlowConsumer::Latest => {
                while let Some(at) = self.find(doomed) {
                    dropped += self.drop_at(at, gap);
                }
            }
            SlowConsumer::Conflate => {
                while let Some(at) = self.find(|frame| doomed(frame) && frame.tag.key == tag.key) {
                    dropped += self.drop_at(at, gap);
                }
                // Other keys still fill the queue: their oldest values go as well, or the bound would not hold.
                while !self.admits(bytes, bytes_max) {
                    let Some(at) = self.find(doomed) else { break };
                    dropped += self.drop_at(at, gap);
                }
            }
        }
        Some(dropped)
    }

    /// Index of the first frame that has not begun and fits.
    fn find(&self, fits: impl Fn(&Frame) -> bool) -> Option<usize> {
        let begun = usize::from(self.skip > 0 && !mutated(Mutant::DropBegunFrame));
        self.frames.iter().skip(begun).position(fits).map(|at| at + begun)
    }

    /// Puts a gap in a frame's place, joined with the gaps next to it.
    fn drop_at(&mut self, at: usize, gap: &mut dyn FnMut(Dropped) -> Option<Blob>) -> u32 {
        let tag = self.frames[at].tag;
        let mut dropped = Dropped { after: tag.offset - u64::from(tag.count), to: tag.offset, count: tag.count };
        let (mut first, mut last) = (at, at);
        let begun = usize::from(self.skip > 0);
        if at > begun
            && let Some(before) = self.gap_at(at - 1, tag.subscription)
        {
            dropped = Dropped { after: before.after, count: dropped.count + before.count, ..dropped };
            first = at - 1;
        }
        if let Some(behind) = self.gap_at(at + 1, tag.subscription) {
            dropped = Dropped { to: behind.to, count: dropped.count + behind.count, ..dropped };
            last = at + 1;
        }
        for frame in self.frames.drain(first..=last) {
            self.bytes -= frame.blob.len();
        }
        if let Some(blob) = gap(dropped).filter(|_| !mutated(Mutant::DropWithoutGap)) {
            self.bytes += blob.len();
            // A gap's tag keeps its extent: `key` is how many were lost.
            let tag = FrameTag { subscription: tag.subscription, count: 0, key: dropped.count, offset: dropped.to };
            self.frames.insert(first, Frame { blob, tag });
        }
        tag.count
    }

    fn gap_at(&self, at: usize, subscription: u32) -> Option<Dropped> {
        let tag = self.frames.get(at)?.tag;
        let is_gap = tag.subscription == subscription && tag.count == 0 && tag != FrameTag::REPLY && tag.key > 0;
        is_gap.then(|| Dropped { after: tag.offset - u64::from(tag.key), to: tag.offset, count: tag.key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(subscription: u32, offset: u64, key: u32, bytes: usize) -> Frame {
        Frame { blob: vec![u8::try_from(offset).unwrap_or(0); bytes].into(), tag: FrameTag { subscription, count: 1, key, offset } }
    }

    fn offsets(queue: &SendQueue) -> Vec<(u32, u64)> {
        queue.frames.iter().map(|frame| (frame.tag.count, frame.tag.offset)).collect()
    }

    fn queue(frames: &[Frame]) -> SendQueue {
        let mut queue = SendQueue::default();
        frames.iter().for_each(|frame| queue.push(frame.clone()));
        queue
    }

    fn gap(dropped: Dropped) -> Option<Blob> {
        Some(format!("{}-{}", dropped.after, dropped.to).into_bytes().into())
    }

    #[test]
    fn drop_oldest_leaves_one_gap_in_front_of_what_is_kept() {
        let mut queue = queue(&[frame(1, 1, 0, 40), frame(1, 2, 0, 40), frame(1, 3, 0, 40)]);
        let dropped = queue.make_room(SlowConsumer::DropOldest, frame(1, 4, 0, 40).tag, 40, 100, &mut gap);
        assert_eq!(dropped, Some(2));
        assert_eq!(offsets(&queue), [(0, 2), (1, 3)]);
        assert_eq!(&*queue.frames[0].blob, b"0-2");
    }

    #[test]
    fn a_begun_frame_is_finished_whatever_the_policy() {
        for policy in [SlowConsumer::DropOldest, SlowConsumer::Latest, SlowConsumer::Conflate] {
            let mut queue = queue(&[frame(1, 1, 7, 40), frame(1, 2, 7, 40)]);
            let (frames, skip) = queue.take().unwrap();
            queue.put_back(frames, skip, 5);
            queue.make_room(policy, frame(1, 3, 7, 40).tag, 40, 50, &mut gap);
            assert_eq!(offsets(&queue)[0], (1, 1), "{policy:?}");
            assert_eq!(queue.skip, 5);
        }
    }

    #[test]
    fn conflate_drops_the_same_key_and_leaves_other_keys_alone() {
        let mut queue = queue(&[frame(1, 1, 5, 10), frame(1, 2, 6, 10), frame(2, 9, 5, 10)]);
        queue.make_room(SlowConsumer::Conflate, frame(1, 3, 5, 10).tag, 10, 100, &mut gap);
        assert_eq!(offsets(&queue), [(0, 1), (1, 2), (1, 9)]);
    }

    #[test]
    fn another_subscription_and_replies_are_never_dropped() {
        let mut queue = queue(&[Frame::reply(vec![1; 60]), frame(2, 1, 0, 60)]);
        assert_eq!(queue.make_room(SlowConsumer::Latest, frame(1, 1, 0, 10).tag, 10, 50, &mut gap), Some(0));
        assert_eq!(queue.frames.len(), 2);
    }

    proptest! {
        #[test]
        fn whatever_the_kernel_takes_the_stream_is_the_same(lengths in prop::collection::vec(1usize..50, 1..12), takes in prop::collection::vec(0u32..60, 1..60)) {
            let frames: Vec<Frame> = lengths.iter().enumerate().map(|(at, &bytes)| frame(1, at as u64 + 1, 0, bytes)).collect();
            let expected: Vec<u8> = frames.iter().flat_map(|frame| frame.blob.to_vec()).collect();
            let mut queue = queue(&frames);
            let mut sent = Vec::new();
            for taken in takes.into_iter().chain(std::iter::repeat(7)) {
                let Some((frames, skip)) = queue.take() else { break };
                let wire: Vec<u8> = frames.as_slice().iter().flat_map(|frame| frame.blob.to_vec()).skip(skip as usize).collect();
                let taken = taken.min(wire.len() as u32);
                sent.extend_from_slice(&wire[..taken as usize]);
                queue.put_back(frames, skip, taken);
                prop_assert_eq!(queue.bytes(), expected.len() - sent.len());
            }
            prop_assert_eq!(sent, expected);
        }
    }
}
