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

/// What a frame carries, for slow-consumer policies: which subscription, up to which offset, which key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameTag {
    /// The connection's subscription, or [`FrameTag::REPLY`] for what policies may never touch.
    pub subscription: u32,
    /// Publications it carries; 0 marks a gap.
    pub count: u32,
    /// Hash of the conflation key, 0 where there is none.
    pub key: u32,
    /// The last offset the frame carries (of a gap: the last one lost).
    pub offset: u64,
}

impl FrameTag {
    /// A reply, ping or close: not a publication, never dropped by a policy.
    pub const REPLY: Self = Self { subscription: u32::MAX, count: 0, key: 0, offset: 0 };
}

/// One whole unit of a connection's output: never torn by a policy, finished once begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub blob: Blob,
    pub tag: FrameTag,
}

impl Frame {
    /// A frame that no policy may drop.
    #[must_use]
    pub fn reply(blob: impl Into<Blob>) -> Self {
        Self { blob: blob.into(), tag: FrameTag::REPLY }
    }
}

/// What leaves in one send: usually one shared frame, sometimes several gathered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frames {
    One(Frame),
    /// Not empty.
    Many(Vec<Frame>),
}

impl Frames {
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
