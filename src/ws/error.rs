//! What a peer can get wrong in a frame, and the close code that tells it so.

use std::fmt;

use super::close::CloseCode;
use super::header::CONTROL_PAYLOAD_BYTES_MAX;

/// Why a connection fails (RFC 6455 section 7.1.7). Always the sender's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// A reserved bit without an extension that gives it a meaning here.
    ReservedBits,
    /// 3-7 and 11-15 are not defined.
    Opcode(u8),
    /// Fragmented Close, Ping or Pong.
    ControlFragmented,
    /// Close, Ping or Pong with more than 125 bytes.
    ControlTooLong,
    /// From a client, without a mask.
    Unmasked,
    /// From a server, with a mask.
    Masked,
    /// A length in more bytes than it needs, or with its highest bit set.
    LengthEncoding,
    /// A continuation of no message.
    ContinuationOfNothing,
    /// A new message before the last one was complete.
    MessageInterrupted,
    /// A Close frame with a payload of one byte.
    CloseTruncated,
    /// A close code that may not travel.
    CloseCode(u16),
    /// Text or a close reason that is not UTF-8.
    Utf8,
    /// A compressed message that does not inflate.
    Deflate,
    /// More bytes in the message than allowed.
    TooLarge {
        /// As far as known when it was refused, after inflating.
        bytes: u64,
        /// `[websocket] message_bytes_max`.
        bytes_max: usize,
    },
    /// More fragments in the message than allowed. The message may be small: what is refused is its shape, hence 1008.
    TooManyFragments {
        /// `[websocket] fragments_max`.
        fragments_max: u32,
    },
}

impl FrameError {
    /// What to close with (RFC 6455 section 7.4.1).
    #[must_use]
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::ReservedBits
            | Self::Opcode(_)
            | Self::ControlFragmented
            | Self::ControlTooLong
            | Self::Unmasked
            | Self::Masked
            | Self::LengthEncoding
            | Self::ContinuationOfNothing
            | Self::MessageInterrupted
            | Self::CloseTruncated
            | Self::CloseCode(_) => CloseCode::PROTOCOL_ERROR,
            Self::Utf8 | Self::Deflate => CloseCode::INVALID_PAYLOAD,
            Self::TooLarge { .. } => CloseCode::MESSAGE_TOO_BIG,
            Self::TooManyFragments { .. } => CloseCode::POLICY,
        }
    }

    /// A short reason for the Close frame.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved bits set",
            Self::Opcode(_) => "undefined opcode",
            Self::ControlFragmented => "fragmented control frame",
            Self::ControlTooLong => "control frame too long",
            Self::Unmasked => "unmasked frame",
            Self::Masked => "masked frame",
            Self::LengthEncoding => "length not in its shortest form",
            Self::ContinuationOfNothing => "continuation of no message",
            Self::MessageInterrupted => "message begun inside a message",
            Self::CloseTruncated => "truncated close code",
            Self::CloseCode(_) => "invalid close code",
            Self::Utf8 => "invalid UTF-8",
            Self::Deflate => "invalid compressed data",
            Self::TooLarge { .. } => "message too big",
            Self::TooManyFragments { .. } => "too many fragments",
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Opcode(opcode) => write!(f, "undefined opcode {opcode}"),
            Self::ControlTooLong => write!(f, "control frame of more than {CONTROL_PAYLOAD_BYTES_MAX} bytes"),
            Self::CloseCode(code) => write!(f, "close code {code} may not be sent"),
            Self::TooLarge { bytes, bytes_max } => {
                write!(f, "message of {bytes} bytes or more, allowed are {bytes_max} (websocket.message_bytes_max)")
            }
            Self::TooManyFragments { fragments_max } => {
                write!(f, "message of more than {fragments_max} fragments (websocket.fragments_max)")
            }
            Self::ReservedBits
            | Self::ControlFragmented
            | Self::Unmasked
            | Self::Masked
            | Self::LengthEncoding
            | Self::ContinuationOfNothing
            | Self::MessageInterrupted
            | Self::CloseTruncated
            | Self::Utf8
            | Self::Deflate => f.write_str(self.reason()),
        }
    }
}

impl std::error::Error for FrameError {}
