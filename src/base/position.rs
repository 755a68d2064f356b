//! Where a subscriber is in a channel's stream: which history, and how far.

use std::fmt;

/// Which history of a channel: 64 bits that nobody can guess. Its home makes them when it knows nothing of the channel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Epoch(pub u64);

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Digits that every 64-bit value fits in base 62.
const EPOCH_DIGITS: usize = 11;

impl Epoch {
    /// Reads what [`fmt::Display`] writes: exactly eleven base-62 digits. Anything else was never an epoch of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != EPOCH_DIGITS {
            return None;
        }
        text.bytes()
            .try_fold(0u64, |value, byte| {
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    b'A'..=b'Z' => byte - b'A' + 10,
                    b'a'..=b'z' => byte - b'a' + 36,
                    _ => return None,
                };
                value.checked_mul(62)?.checked_add(u64::from(digit))
            })
            .map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; EPOCH_DIGITS];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = DIGITS[usize::try_from(rest % 62).unwrap_or(0)];
            rest /= 62;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// `epoch:offset`. Offset 0 is the position before the first publication.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StreamPosition {
    /// Which history.
    pub epoch: Epoch,
    /// The place in it; 0 is before the first publication.
    pub offset: u64,
}

impl StreamPosition {
    /// Reads `EPOCH:OFFSET`; `None` for anything that this server never wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, offset) = text.split_once(':')?;
        if offset.is_empty() || !offset.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self { epoch: Epoch::parse(epoch)?, offset: offset.parse().ok()? })
    }
}

impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_position_reads_back_as_written(epoch: u64, offset: u64) {
            let position = StreamPosition { epoch: Epoch(epoch), offset };
            prop_assert_eq!(StreamPosition::parse(&position.to_string()), Some(position));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in ".{0,40}") {
            let _ = StreamPosition::parse(&text);
        }
    }

    #[test]
    fn what_was_never_written_is_not_a_position() {
        for text in [
            "",
            ":",
            "a:1",
            "zzzzzzzzzzz:1",
            "00000000000:",
            "00000000000:-1",
            "00000000000:+1",
            "00000000000:18446744073709551616",
        ] {
            assert_eq!(StreamPosition::parse(text), None, "{text}");
        }
    }
}
