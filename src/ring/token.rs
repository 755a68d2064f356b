//! What a completion says about itself: the 64 bits that travel with each submission.

use crate::base::ConnId;

/// What was asked of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Multishot or one-shot accept; the slot is the listener's number.
    Accept,
    /// Multishot receive.
    Receive,
    /// One receive of what is there.
    ReceiveOnce,
    /// One receive of what is there or comes, into a large buffer.
    ReceiveBulk,
    /// Multishot readiness of a parked connection.
    PollIn,
    /// One-shot writability.
    PollOut,
    /// A silent send; the slot is the low word of the send's number in the batch table.
    Send,
    /// The end of the sending half, with which a lingering close begins.
    Shutdown,
    /// Of one operation or of all on a connection; those complete by themselves.
    Cancel,
    /// The slot is the kernel's again when it completes.
    Close,
    /// Creation of an upstream socket; the slot is the attempt's number.
    Socket,
    /// Of an upstream's socket that is in its slot.
    Connect,
    /// Reading a fresh connection's peer address.
    PeerName,
    /// Putting an ordinary descriptor into the table.
    Adopt,
    /// Somebody rang: look into the mailboxes.
    Doorbell,
    /// A doorbell of ours could not be rung; the slot is the receiver.
    DoorbellFailed,
    /// A socket on its way to another worker.
    HandOver,
    /// A socket from another worker.
    HandedOver,
    /// An eventfd became readable.
    Wake,
    /// Nobody waits for this one.
    None,
}

impl Kind {
    const ALL: [Self; 20] = [
        Self::Accept,
        Self::Receive,
        Self::ReceiveOnce,
        Self::ReceiveBulk,
        Self::PollIn,
        Self::PollOut,
        Self::Send,
        Self::Shutdown,
        Self::Cancel,
        Self::Close,
        Self::Socket,
        Self::Connect,
        Self::PeerName,
        Self::Adopt,
        Self::Doorbell,
        Self::DoorbellFailed,
        Self::HandOver,
        Self::HandedOver,
        Self::Wake,
        Self::None,
    ];
}

/// Bits of a generation that fit beside the kind and the slot.
const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// Kind (8 bits), low bits of the generation (24), slot (32).
///
/// The generation is a safety net: a slot is not given out again while an operation could still name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token {
    /// Decides what the other parts and the completion's result mean.
    pub kind: Kind,
    /// A connection's, or the number that the kind speaks of.
    pub slot: u32,
    generation: u32,
}

impl Token {
    /// For an operation on a connection.
    #[must_use]
    pub const fn of(kind: Kind, conn: ConnId) -> Self {
        Self { kind, slot: conn.slot, generation: conn.generation & GENERATION_MASK }
    }

    /// For an operation on something numbered that is not a connection.
    #[must_use]
    pub const fn numbered(kind: Kind, number: u32) -> Self {
        Self { kind, slot: number, generation: 0 }
    }

    /// Whether the operation was made for this generation of its slot.
    #[must_use]
    pub const fn is_of(self, generation: u32) -> bool {
        self.generation == generation & GENERATION_MASK
    }

    pub(super) const fn bits(self) -> u64 {
        (self.kind as u64) << 56 | (self.generation as u64) << 32 | self.slot as u64
    }

    /// Reads what [`Self::bits`] wrote. Anything else (another process's doorbell) is nobody's.
    pub(super) fn from_bits(bits: u64) -> Self {
        let kind = Kind::ALL.get((bits >> 56) as usize).copied().unwrap_or(Kind::None);
        Self { kind, slot: bits as u32, generation: (bits >> 32) as u32 & GENERATION_MASK }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds_are_numbered_as_listed() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }

    proptest! {
        #[test]
        fn a_token_reads_back_as_written(kind in 0..Kind::ALL.len(), slot: u32, generation: u32) {
            let token = Token::of(Kind::ALL[kind], ConnId { slot, generation });
            prop_assert_eq!(Token::from_bits(token.bits()), token);
            prop_assert!(token.is_of(generation));
            prop_assert!(!token.is_of(generation.wrapping_add(1)));
        }

        #[test]
        fn foreign_bits_are_nobodys(kind in Kind::ALL.len() as u64..256, rest: u64) {
            let bits = kind << 56 | rest >> 8;
            prop_assert_eq!(Token::from_bits(bits).kind, Kind::None);
        }
    }
}
