//! Bytes on their way out: encoded once, counted per holder, never copied per receiver.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

/// Immutable bytes shared inside one worker. Cloning is one non-atomic count.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob(Rc<[u8]>);

impl Blob {
    /// Whether both are the same allocation (tests of "encoded once").
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.len())
    }
}

/// Publications of one subscription that stand together in its channel: those behind one offset, up to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    after: u64,
    to: u64,
    count: u64,
}

impl Extent {
    /// `count` publications behind the offset that the subscriber has, of which `to` is the last. There may be fewer than offsets
    /// between the two, since offsets may skip.
    #[must_use]
    pub const fn new(after: u64, to: u64, count: u64) -> Self {
        debug_assert!(after < to && count > 0 && count <= to - after);
        Self { after, to, count }
    }

    /// All publications between two offsets, as many as there are offsets.
    #[must_use]
    pub const fn between(after: u64, to: u64) -> Self {
        Self::new(after, to, to.saturating_sub(after))
    }

    /// What the subscriber has before it.
    #[must_use]
    pub const fn after(self) -> u64 {
        self.after
    }

    /// The last offset.
    #[must_use]
    pub const fn to(self) -> u64 {
        self.to
    }

    /// How many publications.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.count
    }

    /// This one and the one behind it.
    #[must_use]
    pub const fn join(self, next: Self) -> Self {
        debug_assert!(self.to <= next.after);
        Self { after: self.after, to: next.to, count: self.count + next.count }
    }
}

/// What a frame is, for whoever has to give something up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameTag {
    /// A response, an answer, a ping, a close: finished whatever happens.
    Reply,
    /// A page of a subscription's replay: paced by its reader, so that no policy touches it.
    Page,
    /// Where a connection with several channels is, by all that stands before it; the next one says it anew.
    Position,
    /// Live publications of a subscription, which a policy may drop while they wait.
    Publications {
        /// Its index on this worker, reused once it has gone.
        subscription: u32,
        /// Hash of the conflation key; 0 where there is none.
        key: u32,
        /// What a gap would have to tell if the frame were dropped.
        extent: Extent,
    },
    /// Tells a subscription what it has missed.
    Gap {
        /// Its index on this worker, reused once it has gone.
        subscription: u32,
        /// The publications that it stands for.
        extent: Extent,
    },
}

/// One whole unit of a connection's output: never torn by a policy, finished once begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its bytes on the wire.
    pub blob: Blob,
    /// What it carries.
    pub tag: FrameTag,
}

impl FrameTag {
    /// Live publications that the frame carries.
    #[must_use]
    pub const fn publications(&self) -> u64 {
        match self {
            Self::Publications { extent, .. } => extent.count(),
            Self::Reply | Self::Page | Self::Position | Self::Gap { .. } => 0,
        }
    }
}

impl Frame {
    /// A frame that no policy may drop.
    #[must_use]
    pub fn reply(blob: impl Into<Blob>) -> Self {
        Self { blob: blob.into(), tag: FrameTag::Reply }
    }
}

/// What leaves in one send: usually one shared frame, sometimes several gathered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frames {
    /// A single frame, without a list around it.
    One(Frame),
    /// Not empty.
    Many(Vec<Frame>),
}

impl Frames {
    /// The frames in the order in which they leave.
    #[must_use]
    pub fn as_slice(&self) -> &[Frame] {
        match self {
            Self::One(frame) => std::slice::from_ref(frame),
            Self::Many(frames) => frames,
        }
    }

    /// Bytes of all frames together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.as_slice().iter().map(|frame| frame.blob.len()).sum()
    }
}
