//! Resume tokens: the positions of a connection's channels as one text.
//!
//! One channel is `EPOCH:OFFSET`. Several are `m1.` and the base64url of records of 20 bytes, sorted by name: a 32-bit hash of
//! the name, the epoch, the offset, each big-endian.

use std::fmt::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::message::Start;
use super::publication::ChannelName;
use crate::base::{Epoch, StreamPosition};

const SEVERAL: &str = "m1.";
const RECORD_BYTES: usize = 20;
/// Characters of an epoch that some other server may have written.
const EPOCH_CHARACTERS_MAX: usize = 32;

/// A token that could be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Token {
    /// `EPOCH:OFFSET`: a request for several channels cannot use it.
    Single(StreamPosition),
    /// Well formed, but no epoch of this server's making.
    Foreign(Foreign),
    /// `m1.…`: the hash of each channel's name, and its position.
    Several(Vec<(u32, StreamPosition)>),
}

/// A position of some other server's making.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Foreign {
    /// Letters and digits, then zeros.
    epoch: [u8; EPOCH_CHARACTERS_MAX],
    offset: u64,
}

impl Foreign {
    fn new(epoch: &str, offset: u64) -> Self {
        let mut characters = [0; EPOCH_CHARACTERS_MAX];
        characters.iter_mut().zip(epoch.bytes()).for_each(|(place, character)| *place = character);
        Self { epoch: characters, offset }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let epoch = self.epoch.split(|character| *character == 0).next().unwrap_or_default();
        write!(f, "{}:{}", std::str::from_utf8(epoch).unwrap_or_default(), self.offset)
    }
}

/// Where a subscriber says that it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// Of an epoch that we may have written, though perhaps not for this channel.
    Position(StreamPosition),
    /// Said back in the gap as it came.
    Foreign(Foreign),
}

impl From<StreamPosition> for Shown {
    fn from(position: StreamPosition) -> Self {
        Self::Position(position)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(position) => position.fmt(f),
            Self::Foreign(foreign) => foreign.fmt(f),
        }
    }
}

impl Token {
    /// Reads a token; `None` for what no server of this protocol writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(records) = text.strip_prefix(SEVERAL) {
            let bytes = URL_SAFE_NO_PAD.decode(records).ok().filter(|bytes| bytes.len() % RECORD_BYTES == 0)?;
            return Some(Self::Several(bytes.chunks_exact(RECORD_BYTES).filter_map(record).collect()));
        }
        if let Some(position) = StreamPosition::parse(text) {
            return Some(Self::Single(position));
        }
        let (epoch, offset) = text.split_once(':')?;
        let epoch_fits =
            (1..=EPOCH_CHARACTERS_MAX).contains(&epoch.len()) && epoch.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let offset = offset.parse().ok().filter(|_| !offset.starts_with('+'))?;
        epoch_fits.then(|| Self::Foreign(Foreign::new(epoch, offset)))
    }

    /// Where a channel starts by this token. Channels that a token of several does not hold start now.
    #[must_use]
    pub fn start(&self, channel: &ChannelName) -> Start {
        match self {
            Self::Single(position) => Start::After(*position),
            Self::Foreign(foreign) => Start::Elsewhere(*foreign),
            Self::Several(records) => {
                let hash = hash(channel);
                records.iter().find(|(known, _)| *known == hash).map_or(Start::Now, |(_, position)| Start::After(*position))
            }
        }
    }
}

/// Writes the token of a connection's channels. Channels whose position is not known are left out.
#[must_use]
pub fn write(positions: &[(ChannelName, Option<StreamPosition>)]) -> String {
    if let [(_, position)] = positions {
        return position.map_or_else(String::new, |position| position.to_string());
    }
    let mut known: Vec<(&ChannelName, StreamPosition)> =
        positions.iter().filter_map(|(name, position)| Some((name, (*position)?))).collect();
    known.sort_unstable_by_key(|(name, _)| *name);
    let mut bytes = Vec::with_capacity(known.len() * RECORD_BYTES);
    for (name, position) in known {
        bytes.extend_from_slice(&hash(name).to_be_bytes());
        bytes.extend_from_slice(&position.epoch.0.to_be_bytes());
        bytes.extend_from_slice(&position.offset.to_be_bytes());
    }
    let mut text = SEVERAL.to_owned();
    let _ = text.write_str(&URL_SAFE_NO_PAD.encode(bytes));
    text
}

/// FNV-1a, 32 bits: stable between versions and machines, which a token must be.
fn hash(channel: &ChannelName) -> u32 {
    channel.as_str().bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn record(bytes: &[u8]) -> Option<(u32, StreamPosition)> {
    let (hash, rest) = bytes.split_first_chunk::<4>()?;
    let (epoch, rest) = rest.split_first_chunk::<8>()?;
    let offset = rest.first_chunk::<8>()?;
    Some((
        u32::from_be_bytes(*hash),
        StreamPosition { epoch: Epoch(u64::from_be_bytes(*epoch)), offset: u64::from_be_bytes(*offset) },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    proptest! {
        #[test]
        fn a_token_gives_back_every_channels_position(positions in prop::collection::btree_map("[a-z]{1,9}", (any::<u64>(), any::<u64>()), 1..32)) {
            let positions: Vec<_> = positions.into_iter().map(|(channel, (epoch, offset))| (name(&channel), Some(StreamPosition { epoch: Epoch(epoch), offset }))).collect();
            let token = Token::parse(&write(&positions)).unwrap();
            for (channel, position) in &positions {
                prop_assert_eq!(token.start(channel), Start::After(position.unwrap()));
            }
        }

        #[test]
        fn any_text_is_an_answer_not_a_panic(text in "\\PC{0,60}") {
            let _ = Token::parse(&text);
        }
    }

    /// Tokens outlive the process that wrote them, in clients: neither the hash nor the layout may ever change.
    #[test]
    fn tokens_are_byte_for_byte_as_documented() {
        let at = |epoch, offset| Some(StreamPosition { epoch: Epoch(epoch), offset });
        for (text, hashed) in [("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            assert_eq!(hash(&name(text)), hashed, "FNV-1a of {text}");
        }
        assert_eq!(write(&[(name("news"), at(1, 42))]), "00000000001:42");
        let several = "m1.5AwpLAAAAAAAAAABAAAAAAAAAAI";
        assert_eq!(write(&[(name("quiet"), None), (name("a"), at(1, 2))]), several);
        assert_eq!(Token::parse(several), Some(Token::Several(vec![(0xe40c_292c, at(1, 2).unwrap())])));
        let documented = write(&[(name("news"), at(1, 42)), (name("chat:1"), at(1, 7))]);
        assert!(include_str!("../../docs/plain.md").contains(&format!("since={documented}\n")), "{documented}");
    }

    #[test]
    fn the_order_of_channels_does_not_show() {
        let at = |offset| Some(StreamPosition { epoch: Epoch(1), offset });
        assert_eq!(write(&[(name("a"), at(1)), (name("b"), at(2))]), write(&[(name("b"), at(2)), (name("a"), at(1))]));
    }

    #[test]
    fn a_foreign_epoch_is_not_a_bad_token() {
        for foreign in ["xyzA:7", &format!("{}:0", "z".repeat(32))] {
            match Token::parse(foreign) {
                Some(Token::Foreign(position)) => assert_eq!(position.to_string(), foreign, "it is told as it was shown"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(Token::parse("m1.").unwrap().start(&name("a")), Start::Now);
        for bad in ["", "7", ":7", "a:", "a:b", "a:+1", "a_b:1", "m1.!", "m1.AAAA", &format!("{}:1", "a".repeat(33))] {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
    }
}
