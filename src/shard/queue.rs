//! What waits to be sent on one connection, and what is given up when it waits too long.
//!
//! Invariants:
//! - The first `skip` bytes of the first frame are in the kernel already; a begun frame is always finished, never dropped, and no
//!   longer counts among what waits.
//! - What a subscription has in the queue follows on itself: where publications were dropped stands a gap with just their extent.
//! - At most one position that has not begun, and behind it only what came after it was told.

use std::cmp::Reverse;
use std::collections::{HashSet, VecDeque};

use crate::base::{Blob, Extent, Frame, FrameTag, Frames, Mutant, mutated};
use crate::hub::SlowConsumer;

/// The frames one connection waits to send.
#[derive(Debug, Default)]
pub struct SendQueue {
    frames: VecDeque<Frame>,
    skip: u32,
    load: Load,
    /// The kernel refused bytes and has not said that there is room again.
    pub blocked: bool,
    /// The kernel has refused bytes since the queue was last empty.
    pub behind: bool,
    /// Listed for the next flush.
    pub dirty: bool,
}

/// Frames gathered into one send: as many as the kernel interface takes.
const FRAMES_MAX: usize = 64;
/// Bytes gathered into one send to a connection that is behind; a larger frame goes alone.
const BYTES_BEHIND_MAX: usize = 16 << 10;

/// Bytes of frames, by what bounds them.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    all: usize,
    replies: usize,
    pages: usize,
    /// Live publications and gaps.
    live: usize,
}

impl Load {
    fn of(&mut self, tag: FrameTag) -> Option<&mut usize> {
        match tag {
            FrameTag::Reply => Some(&mut self.replies),
            FrameTag::Page => Some(&mut self.pages),
            FrameTag::Publications { .. } | FrameTag::Gap { .. } => Some(&mut self.live),
            // There is one at most.
            FrameTag::Position => None,
        }
    }

    fn add(&mut self, frame: &Frame) {
        self.all += frame.blob.len();
        if let Some(bytes) = self.of(frame.tag) {
            *bytes += frame.blob.len();
        }
    }

    fn remove(&mut self, frame: &Frame) {
        self.all -= frame.blob.len();
        if let Some(bytes) = self.of(frame.tag) {
            *bytes -= frame.blob.len();
        }
    }
}

/// Writes the frame that tells of a gap; `None` where nothing is to be said.
pub type WriteGap<'a> = &'a mut dyn FnMut(Extent) -> Option<Blob>;

impl SendQueue {
    pub fn push(&mut self, frame: Frame) {
        self.load.add(&frame);
        self.frames.push_back(frame);
    }

    /// Empties the queue for its next connection; keeps memory for a few frames.
    pub fn reset(&mut self, frames_max: usize) {
        self.frames.clear();
        self.frames.shrink_to(frames_max);
        *self = Self { frames: std::mem::take(&mut self.frames), ..Self::default() };
    }

    /// Whether it holds memory for frames.
    #[cfg(test)]
    pub fn has_memory(&self) -> bool {
        self.frames.capacity() > 0
    }

    /// Bytes that are not yet in the kernel.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.load.all - self.skip as usize
    }

    /// Bytes of replies that wait; one that has begun counts whole.
    #[must_use]
    pub const fn reply_bytes(&self) -> usize {
        self.load.replies
    }

    /// Bytes of replay that wait; a page that has begun counts whole.
    #[must_use]
    pub const fn page_bytes(&self) -> usize {
        self.load.pages
    }

    /// Whether one more live frame of a size is admitted. Where none waits any is, whatever has begun.
    #[must_use]
    pub fn admits(&self, bytes: usize, bytes_max: usize) -> bool {
        let begun = self.frames.iter().take(self.begun()).find(|frame| is_live(frame.tag)).map_or(0, |frame| frame.blob.len());
        let waiting = self.load.live - begun;
        waiting == 0 || waiting + bytes <= bytes_max
    }

    /// Takes what goes into one gathered send, with the bytes of the first frame to leave out. From a connection that is behind
    /// it takes little: one large send would be taken whole by a kernel that has room for its first byte, and pinned there.
    pub fn take(&mut self) -> Option<(Frames, u32)> {
        let bytes_max = if self.behind { BYTES_BEHIND_MAX } else { usize::MAX };
        let mut bytes = self.frames.front()?.blob.len();
        let mut count = 1;
        for frame in self.frames.iter().take(FRAMES_MAX).skip(1) {
            bytes += frame.blob.len();
            if bytes > bytes_max {
                break;
            }
            count += 1;
        }
        let skip = std::mem::take(&mut self.skip);
        let Self { frames, load, .. } = self;
        let mut taken = frames.drain(..count).inspect(|frame| load.remove(frame));
        let frames = match (count, taken.next()) {
            (1, Some(frame)) => Frames::One(frame),
            (_, first) => Frames::Many(first.into_iter().chain(taken).collect()),
        };
        Some((frames, skip))
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
            self.load.add(&frame);
            self.frames.push_front(frame);
        }
        self.skip = u32::try_from(gone).unwrap_or(u32::MAX);
    }

    /// Tells where the connection is by now, in place of what was to be told.
    pub fn put_position(&mut self, blob: Blob) {
        if let Some(at) = self.find(|frame| frame.tag == FrameTag::Position) {
            self.remove(at);
        }
        self.push(Frame { blob, tag: FrameTag::Position });
    }

    /// Gives up what was published and has not begun, and the positions behind it: the connection is about to end. Replies stay, a
    /// response's head among them.
    pub fn drop_publications(&mut self) {
        let mut begun = self.begun() > 0;
        self.frames.retain(|frame| std::mem::take(&mut begun) || frame.tag == FrameTag::Reply);
        self.load = Load::default();
        self.frames.iter().for_each(|frame| self.load.add(frame));
    }

    /// Makes room for live publications of `bytes` by a policy, among those of their subscription only; the newest are admitted
    /// then whatever their size. Returns how many publications were dropped, `None` where the policy is to disconnect.
    pub fn make_room(
        &mut self,
        policy: SlowConsumer,
        tag: FrameTag,
        bytes: usize,
        bytes_max: usize,
        gap: WriteGap<'_>,
    ) -> Option<u64> {
        let FrameTag::Publications { subscription: of, key: same, .. } = tag else { return Some(0) };
        let own = |frame: &Frame| matches!(frame.tag, FrameTag::Publications { subscription, .. } if subscription == of);
        let mut dropped = 0;
        match policy {
            SlowConsumer::Disconnect => return None,
            SlowConsumer::DropOldest => {}
            SlowConsumer::Latest => {
                while let Some(at) = self.find(own) {
                    dropped += self.drop_at(at, gap);
                }
            }
            SlowConsumer::Conflate => dropped += self.drop_superseded(of, same, gap),
        }
        // Also where the newest of each key are too much together, or the bound would not hold.
        while !self.admits(bytes, bytes_max) {
            let Some(at) = self.find(own) else { break };
            dropped += self.drop_at(at, gap);
        }
        Some(dropped)
    }

    /// Drops a subscription's publications that have a newer one of their key behind them, or in what comes. Returns how many.
    fn drop_superseded(&mut self, of: u32, coming: u32, gap: WriteGap<'_>) -> u64 {
        let mut newer = HashSet::with_capacity_and_hasher(8, ahash::RandomState::with_seeds(1, 2, 3, 4));
        newer.insert(coming);
        let keyed = |(at, frame): (usize, &Frame)| match frame.tag {
            FrameTag::Publications { subscription, key, .. } if subscription == of => Some((at, key)),
            _ => None,
        };
        let mut waiting: Vec<(usize, u32)> = self.frames.iter().enumerate().skip(self.begun()).filter_map(keyed).collect();
        if !mutated(Mutant::ConflateKeepsOldest) {
            waiting.reverse();
        }
        waiting.retain(|(_, key)| !newer.insert(*key));
        // From the back: a gap takes its publications' place or an earlier gap's, so what is before them stays where it is.
        waiting.sort_unstable_by_key(|(at, _)| Reverse(*at));
        waiting.into_iter().map(|(at, _)| self.drop_at(at, gap)).sum()
    }

    /// Tells a subscription what it has missed behind all that is queued for it.
    pub fn lose(&mut self, subscription: u32, extent: Extent, gap: WriteGap<'_>) {
        self.put_gap(self.frames.len(), subscription, extent, gap);
    }

    /// Frames that have begun: none or one.
    fn begun(&self) -> usize {
        usize::from(self.skip > 0)
    }

    /// Index of the first frame that has not begun and fits.
    fn find(&self, fits: impl Fn(&Frame) -> bool) -> Option<usize> {
        let begun = if mutated(Mutant::DropBegunFrame) { 0 } else { self.begun() };
        self.frames.iter().skip(begun).position(fits).map(|at| at + begun)
    }

    fn remove(&mut self, at: usize) -> Option<FrameTag> {
        let frame = self.frames.remove(at)?;
        self.load.remove(&frame);
        Some(frame.tag)
    }

    /// Puts a gap in the place of publications. Returns how many they were.
    fn drop_at(&mut self, at: usize, gap: WriteGap<'_>) -> u64 {
        let Some(FrameTag::Publications { subscription, extent, .. }) = self.remove(at) else { return 0 };
        self.put_gap(at, subscription, extent, gap);
        extent.count()
    }

    /// Puts a gap at a place, joined with the subscription's gaps next to it, whatever of other subscriptions stands between: they
    /// have no order among each other. A joined gap takes the first one's place, so that no position is told before it; a position
    /// behind it no longer says all that is told before it, and the connection, which has moved, tells another.
    fn put_gap(&mut self, mut at: usize, subscription: u32, mut extent: Extent, gap: WriteGap<'_>) {
        let behind = self.of_subscription(subscription, at..self.frames.len()).next();
        if let Some((behind, Some(next))) = behind {
            extent = extent.join(next);
            self.remove(behind);
        }
        let before = self.of_subscription(subscription, self.begun()..at).next_back();
        if let Some((before, Some(last))) = before {
            extent = last.join(extent);
            self.remove(before);
            at = before;
        }
        if let Some(blob) = gap(extent).filter(|_| !mutated(Mutant::DropWithoutGap)) {
            let frame = Frame { blob, tag: FrameTag::Gap { subscription, extent } };
            self.load.add(&frame);
            self.frames.insert(at.min(self.frames.len()), frame);
        }
        if let Some(stale) = self.find(|frame| frame.tag == FrameTag::Position).filter(|stale| *stale > at) {
            self.remove(stale);
        }
    }

    /// The live frames of a subscription within a range; those that are gaps with their extent.
    fn of_subscription(&self, of: u32, range: std::ops::Range<usize>) -> impl DoubleEndedIterator<Item = (usize, Option<Extent>)> {
        range.filter_map(move |at| match self.frames.get(at)?.tag {
            FrameTag::Publications { subscription, .. } if subscription == of => Some((at, None)),
            FrameTag::Gap { subscription, extent } if subscription == of => Some((at, Some(extent))),
            _ => None,
        })
    }
}

const fn is_live(tag: FrameTag) -> bool {
    matches!(tag, FrameTag::Publications { .. } | FrameTag::Gap { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(subscription: u32, offset: u64, key: u32, bytes: usize) -> Frame {
        run(subscription, offset - 1, offset, key, bytes)
    }

    fn run(subscription: u32, after: u64, to: u64, key: u32, bytes: usize) -> Frame {
        let tag = FrameTag::Publications { subscription, key, extent: Extent::between(after, to) };
        Frame { blob: vec![u8::try_from(to).unwrap_or(0); bytes].into(), tag }
    }

    /// What the queue holds, in words: publications by their offsets, gaps by what they cover and how many that was.
    fn shape(queue: &SendQueue) -> Vec<String> {
        let of = |extent: Extent| format!("{}-{}", extent.after(), extent.to());
        let words = |frame: &Frame| match frame.tag {
            FrameTag::Publications { subscription, extent, .. } => format!("{subscription}: {}", of(extent)),
            FrameTag::Gap { subscription, extent } => format!("{subscription}: lost {} of {}", extent.count(), of(extent)),
            tag => format!("{tag:?}"),
        };
        queue.frames.iter().map(words).collect()
    }

    fn queue(frames: &[Frame]) -> SendQueue {
        let mut queue = SendQueue::default();
        frames.iter().for_each(|frame| queue.push(frame.clone()));
        queue
    }

    fn gap(extent: Extent) -> Option<Blob> {
        Some(format!("{}-{}", extent.after(), extent.to()).into_bytes().into())
    }

    /// What a connection does with publications that come while it is blocked.
    fn offer(queue: &mut SendQueue, policy: SlowConsumer, frame: Frame, bytes_max: usize) -> Option<u64> {
        let bytes = frame.blob.len();
        let dropped =
            if queue.admits(bytes, bytes_max) { 0 } else { queue.make_room(policy, frame.tag, bytes, bytes_max, &mut gap)? };
        queue.push(frame);
        Some(dropped)
    }

    const DROPPING: [SlowConsumer; 3] = [SlowConsumer::DropOldest, SlowConsumer::Latest, SlowConsumer::Conflate];

    #[test]
    fn drop_oldest_leaves_one_gap_in_front_of_what_is_kept() {
        let mut queue = queue(&[frame(1, 1, 0, 40), frame(1, 2, 0, 40), frame(1, 3, 0, 40)]);
        let dropped = queue.make_room(SlowConsumer::DropOldest, frame(1, 4, 0, 40).tag, 40, 100, &mut gap);
        assert_eq!(dropped, Some(2));
        assert_eq!(shape(&queue), ["1: lost 2 of 0-2", "1: 2-3"]);
        assert_eq!(&*queue.frames[0].blob, b"0-2");
    }

    #[test]
    fn a_gap_covers_all_publications_of_the_runs_that_were_dropped() {
        let mut queue = queue(&[run(1, 3, 10, 0, 40), run(1, 10, 250, 0, 40), run(1, 250, 256, 0, 40)]);
        let dropped = queue.make_room(SlowConsumer::DropOldest, frame(1, 257, 0, 40).tag, 40, 100, &mut gap);
        assert_eq!(dropped, Some(247));
        assert_eq!(shape(&queue), ["1: lost 247 of 3-250", "1: 250-256"]);
    }

    #[test]
    fn what_was_lost_elsewhere_joins_what_was_dropped_here() {
        let mut queue = queue(&[frame(1, 1, 0, 40), frame(2, 1, 0, 10)]);
        queue.lose(1, Extent::between(1, 5), &mut gap);
        assert_eq!(shape(&queue), ["1: 0-1", "2: 0-1", "1: lost 4 of 1-5"]);
        queue.make_room(SlowConsumer::Latest, frame(1, 6, 0, 40).tag, 40, 60, &mut gap);
        assert_eq!(shape(&queue), ["1: lost 5 of 0-5", "2: 0-1"]);
        queue.lose(1, Extent::between(5, 7), &mut gap);
        assert_eq!(shape(&queue), ["1: lost 7 of 0-7", "2: 0-1"]);
    }

    #[test]
    fn a_begun_frame_is_finished_whatever_the_policy() {
        for policy in DROPPING {
            let mut queue = queue(&[frame(1, 1, 7, 40), frame(1, 2, 7, 40)]);
            let (frames, skip) = queue.take().unwrap();
            queue.put_back(frames, skip, 5);
            queue.make_room(policy, frame(1, 3, 7, 40).tag, 40, 50, &mut gap);
            assert_eq!(shape(&queue), ["1: 0-1", "1: lost 1 of 1-2"], "{policy:?}");
            assert_eq!(queue.skip, 5);
        }
    }

    #[test]
    fn behind_a_begun_frame_there_is_room_for_the_newest_of_any_size() {
        for policy in DROPPING {
            let mut queue = queue(&[frame(1, 1, 0, 200)]);
            let (frames, skip) = queue.take().unwrap();
            queue.put_back(frames, skip, 5);
            for offset in 2..6 {
                assert!(offer(&mut queue, policy, frame(1, offset, 0, 60), 50).is_some(), "{policy:?}");
            }
            assert_eq!(shape(&queue), ["1: 0-1", "1: lost 3 of 1-4", "1: 4-5"], "{policy:?}");
        }
    }

    #[test]
    fn pages_and_replies_leave_live_publications_their_room() {
        let page = Frame { blob: vec![0; 1000].into(), tag: FrameTag::Page };
        let mut queue = queue(&[page, Frame::reply(vec![1; 1000])]);
        assert!(queue.admits(50, 50));
        queue.push(frame(1, 1, 0, 10));
        assert!(queue.admits(40, 50) && !queue.admits(41, 50));
        assert_eq!((queue.page_bytes(), queue.reply_bytes(), queue.bytes()), (1000, 1000, 2010));
    }

    #[test]
    fn conflate_drops_the_same_key_and_leaves_other_keys_alone() {
        let mut queue = queue(&[frame(1, 1, 5, 10), frame(1, 2, 6, 10), frame(2, 9, 5, 10)]);
        queue.make_room(SlowConsumer::Conflate, frame(1, 3, 5, 10).tag, 10, 100, &mut gap);
        assert_eq!(shape(&queue), ["1: lost 1 of 0-1", "1: 1-2", "2: 8-9"]);
    }

    #[test]
    fn conflate_gives_up_what_is_superseded_before_the_newest_of_any_key() {
        let mut queue =
            queue(&[frame(1, 1, 6, 40), frame(1, 2, 7, 40), frame(1, 3, 7, 40), frame(1, 4, 0, 40), frame(1, 5, 0, 40)]);
        let dropped = queue.make_room(SlowConsumer::Conflate, frame(1, 6, 5, 40).tag, 40, 200, &mut gap);
        assert_eq!(dropped, Some(2));
        assert_eq!(shape(&queue), ["1: 0-1", "1: lost 1 of 1-2", "1: 2-3", "1: lost 1 of 3-4", "1: 4-5"]);
        let dropped = queue.make_room(SlowConsumer::Conflate, frame(1, 6, 5, 40).tag, 40, 100, &mut gap);
        assert_eq!(
            (dropped, shape(&queue)),
            (Some(2), vec!["1: lost 4 of 0-4".to_owned(), "1: 4-5".to_owned()]),
            "the bound holds"
        );
    }

    #[test]
    fn another_subscription_and_replies_are_never_dropped() {
        let mut queue = queue(&[Frame::reply(vec![1; 60]), frame(2, 1, 0, 60)]);
        assert_eq!(queue.make_room(SlowConsumer::Latest, frame(1, 1, 0, 10).tag, 10, 50, &mut gap), Some(0));
        assert_eq!(queue.frames.len(), 2);
    }

    #[test]
    fn no_position_says_less_than_the_gaps_before_it() {
        let mut queue = queue(&[frame(1, 1, 0, 10)]);
        queue.put_position(b"1".as_slice().into());
        queue.push(frame(1, 2, 0, 10));
        queue.make_room(SlowConsumer::Latest, frame(1, 3, 0, 10).tag, 10, 10, &mut gap);
        assert_eq!(shape(&queue), ["1: lost 2 of 0-2"], "a position of 1 would follow the news that 2 is lost");
    }

    #[test]
    fn the_last_position_stands_for_those_before_it() {
        let mut queue = queue(&[frame(1, 1, 0, 10)]);
        queue.put_position(b"a".as_slice().into());
        queue.push(frame(1, 2, 0, 10));
        queue.put_position(b"b".as_slice().into());
        assert_eq!(shape(&queue), ["1: 0-1", "1: 1-2", "Position"]);
        assert_eq!(queue.bytes(), 21);
        queue.drop_publications();
        assert!(queue.frames.is_empty(), "a position behind what was given up would lose it");
        assert_eq!(queue.bytes(), 0);
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

        /// Whatever is dropped, joined and sent: what a subscription gets follows on itself, and every publication is either in it
        /// or in exactly one gap.
        #[test]
        fn publications_and_gaps_account_for_everything(
            steps in prop::collection::vec((0u32..2, 1u64..5, 1usize..40, 0u32..3, 0u32..80, 0u8..4), 1..60),
        ) {
            let mut queue = SendQueue::default();
            let mut ends = [0; 2];
            let mut got = [(0, 0); 2];
            let mut receive = |frame: &Frame| {
                let (FrameTag::Publications { subscription, extent, .. } | FrameTag::Gap { subscription, extent }) = frame.tag else { return true };
                let (end, count) = &mut got[subscription as usize];
                let follows = *end == extent.after();
                (*end, *count) = (extent.to(), *count + extent.count());
                follows
            };
            for (subscription, count, bytes, key, taken, act) in steps {
                let end = &mut ends[subscription as usize];
                let after = std::mem::replace(end, *end + count);
                match act {
                    0 => queue.lose(subscription, Extent::between(after, after + count), &mut gap),
                    policy => {
                        offer(&mut queue, DROPPING[usize::from(policy) - 1], run(subscription, after, after + count, key, bytes), 60);
                    }
                }
                if let Some((frames, skip)) = queue.take() {
                    let mut left = skip as usize + taken as usize;
                    for frame in frames.as_slice() {
                        if frame.blob.len() > left {
                            break;
                        }
                        left -= frame.blob.len();
                        prop_assert!(receive(frame), "{:?}", frame.tag);
                    }
                    let wire = frames.bytes() - skip as usize;
                    queue.put_back(frames, skip, taken.min(u32::try_from(wire).unwrap()));
                }
            }
            if let Some((frames, _)) = queue.take() {
                for frame in frames.as_slice() {
                    prop_assert!(receive(frame), "{:?}", frame.tag);
                }
            }
            for (end, (seen, count)) in ends.iter().zip(got) {
                prop_assert_eq!((*end, *end), (seen, count));
            }
        }
    }
}
