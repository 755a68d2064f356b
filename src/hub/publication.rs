//! Publications and channel names.

use std::fmt;
use std::sync::Arc;

use crate::base::{Nanos, StreamPosition, WallMs};

/// Bytes of a channel name.
const CHANNEL_BYTES_MAX: usize = 255;

/// A checked channel name: printable ASCII, 1 to 255 bytes. Cloning is one atomic count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// Checks an already percent-decoded name.
    ///
    /// # Errors
    /// Says which rule the name breaks.
    pub fn parse(name: &str) -> Result<Self, ChannelNameError> {
        if name.is_empty() {
            return Err(ChannelNameError::Empty);
        }
        if name.len() > CHANNEL_BYTES_MAX {
            return Err(ChannelNameError::TooLong { bytes: name.len() });
        }
        match name.bytes().find(|byte| !(0x21..=0x7e).contains(byte)) {
            Some(byte) => Err(ChannelNameError::Character(byte)),
            None => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name is not a channel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelNameError {
    /// Not a byte, as in `channel=`.
    Empty,
    /// More than 255 bytes.
    TooLong {
        /// Of the name without its percent escapes.
        bytes: usize,
    },
    /// Not printable ASCII (space is not either).
    Character(u8),
}

impl fmt::Display for ChannelNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a channel name may not be empty"),
            Self::TooLong { bytes } => write!(f, "a channel name may have {CHANNEL_BYTES_MAX} bytes, this one has {bytes}"),
            Self::Character(byte) => write!(f, "a channel name is printable ASCII, this one has byte 0x{byte:02x}"),
        }
    }
}

/// What the payload's bytes are; decides how each transport carries them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadKind {
    /// Valid JSON on one line: checked once at publish, spliced ever after.
    Json,
    /// Valid UTF-8.
    Text,
    /// Any bytes: items carry them in base64, a raw WebSocket in a binary message.
    Binary,
}

/// A publication's body.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// Decided once, at the door that it came in by.
    pub kind: PayloadKind,
    /// What readers get: JSON on one line, all else as it came.
    pub bytes: Box<[u8]>,
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.kind, String::from_utf8_lossy(&self.bytes))
    }
}

/// One publication as stored and broadcast: shared between workers by one atomic count each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// By it each worker finds its subscribers.
    pub channel: ChannelName,
    /// The channel's epoch, and the offset behind that of the publication before.
    pub position: StreamPosition,
    /// The publisher's, in full: nothing is sent as a difference.
    pub payload: Payload,
    /// The event's name where it is not `message`.
    pub event: Option<Box<str>>,
    /// When the home worker stored it.
    pub time: WallMs,
    /// Whether its receivers are told when that was.
    pub timed: bool,
    /// The same by the workers' common clock, to measure how long it takes from there.
    pub stored: Nanos,
    /// By the kind of its channel, and by whether it was to be kept.
    pub role: Role,
    /// `None` for most, which it costs eight bytes.
    pub extension: Option<Box<Extension>>,
}

/// What a publication is to those who read its channel late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Part of a stream: every one matters.
    Event,
    /// The value of a state channel: the ones before it matter no longer.
    Value,
    /// Passes by on a state channel: it is not the value, and nobody is told if it is missed.
    Passing,
}

/// What few publications have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extension {
    /// Sorted by name.
    pub tags: Vec<(Box<str>, Box<str>)>,
    /// Conflation key.
    pub key: Option<Box<str>>,
}

impl Publication {
    /// Bytes this publication occupies in memory, for the budgets of history and spill.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let extension = self.extension.as_ref().map_or(0, |extension| {
            extension.tags.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>()
                + extension.key.as_ref().map_or(0, |key| key.len())
                + 48
        });
        size_of::<Self>() + self.payload.bytes.len() + self.event.as_ref().map_or(0, |event| event.len()) + extension
    }
}

/// Which state of something a publication tells, by its publisher's own count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// Not 0.
    pub number: u64,
    /// Numbers are compared within one epoch only; an empty one is compared with any.
    pub epoch: Box<str>,
}

impl Version {
    /// Whether something that is at this version has nothing to learn from the other.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        (other.epoch.is_empty() || other.epoch == self.epoch) && other.number <= self.number
    }
}

/// A publication before its home has stored it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// Decides the worker whose home stores it.
    pub channel: ChannelName,
    /// Of any size so far: the home holds it to `publication_bytes_max`.
    pub payload: Payload,
    /// The event's name where it is not `message`.
    pub event: Option<Box<str>>,
    /// Sorted by name.
    pub tags: Vec<(Box<str>, Box<str>)>,
    /// Conflation key.
    pub key: Option<Box<str>>,
    /// A second draft of the channel with it is answered as the first was, and not stored.
    pub idempotency_key: Option<Box<str>>,
    /// Where history already tells this version or a newer one, nothing is stored.
    pub version: Option<Box<Version>>,
    /// False: delivered to whoever is there, not kept in history.
    pub store: bool,
}

impl Draft {
    /// A plain publication of a payload.
    #[must_use]
    pub const fn new(channel: ChannelName, payload: Payload) -> Self {
        Self { channel, payload, event: None, tags: Vec::new(), key: None, idempotency_key: None, version: None, store: true }
    }

    /// The publication this becomes at a position. `state` says that the channel is a state channel.
    #[must_use]
    pub fn into_publication(self, position: StreamPosition, state: bool, time: WallMs) -> Publication {
        let extension =
            (!self.tags.is_empty() || self.key.is_some()).then(|| Box::new(Extension { tags: self.tags, key: self.key }));
        let role = match (state, self.store) {
            (false, _) => Role::Event,
            (true, true) => Role::Value,
            (true, false) => Role::Passing,
        };
        Publication {
            channel: self.channel,
            position,
            payload: self.payload,
            event: self.event,
            time,
            timed: false,
            stored: Nanos::default(),
            role,
            extension,
        }
    }

    /// Bytes it occupies while it waits.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let texts = [&self.event, &self.key, &self.idempotency_key];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
        let tags: usize = self.tags.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
        let version = self.version.as_ref().map_or(0, |version| size_of::<Version>() + version.epoch.len());
        size_of::<Self>() + self.payload.bytes.len() + texts + tags + version
    }
}
