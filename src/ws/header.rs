//! Frame headers (RFC 6455 section 5.2), read and written.
//!
//! ```text
//!   byte 0            byte 1                    then                  then
//!   FIN RSV1-3 opcode MASK length (0-125,126,127)  0, 2 or 8 bytes of length  0 or 4 bytes of mask key
//! ```

use super::error::FrameError;
use super::frame::Role;

/// Bytes of a Close, Ping or Pong payload.
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// Two bytes, eight of length, four of mask key.
pub const HEADER_BYTES_MAX: usize = 14;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_AND_3: u8 = 0x30;
const OPCODE: u8 = 0x0f;
const MASK: u8 = 0x80;
const LENGTH: u8 = 0x7f;
const LENGTH_IN_2_BYTES: u8 = 126;
const LENGTH_IN_8_BYTES: u8 = 127;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    /// 0: the next fragment of the message that is under way.
    Continuation,
    /// 1: a message that must be UTF-8, or its first fragment.
    Text,
    /// 2: a message of any bytes, or its first fragment.
    Binary,
    /// 8: the sender's last frame, with a code and a reason or nothing.
    Close,
    /// 9: to be answered with a Pong of the same payload.
    Ping,
    /// 10: the answer to a Ping, or unasked for.
    Pong,
}

impl Opcode {
    const fn parse(bits: u8) -> Result<Self, FrameError> {
        match bits & OPCODE {
            0 => Ok(Self::Continuation),
            1 => Ok(Self::Text),
            2 => Ok(Self::Binary),
            8 => Ok(Self::Close),
            9 => Ok(Self::Ping),
            10 => Ok(Self::Pong),
            undefined => Err(FrameError::Opcode(undefined)),
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    /// Close, Ping or Pong: short, whole, and allowed between the fragments of a message.
    #[must_use]
    pub const fn is_control(self) -> bool {
        match self {
            Self::Close | Self::Ping | Self::Pong => true,
            Self::Continuation | Self::Text | Self::Binary => false,
        }
    }
}

/// All that precedes a frame's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The last (or only) fragment of its message.
    pub fin: bool,
    /// First fragment of a compressed message (RFC 7692 section 6).
    pub rsv1: bool,
    /// The low four bits of the first byte.
    pub opcode: Opcode,
    /// Present from client to server, absent the other way.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload.
    pub length: u64,
}

impl Header {
    /// An unfragmented, uncompressed frame from a server.
    #[must_use]
    pub const fn new(opcode: Opcode, length: u64) -> Self {
        Self { fin: true, rsv1: false, opcode, mask: None, length }
    }

    /// Reads a header at the start of `bytes`: itself and its size, or `None` while it is incomplete. `role` says who reads.
    ///
    /// Everything that the frame alone can do wrong is refused here, as soon as its first two bytes are there; what depends on
    /// the message, the extensions and the limits is for the decoder.
    pub fn parse(bytes: &[u8], role: Role) -> Result<Option<(Self, usize)>, FrameError> {
        let Some((&[first, second], after)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
        let opcode = check_start(first, second, role)?;
        let Some((length, after)) = parse_length(second & LENGTH, after)? else { return Ok(None) };
        let (mask, after) = match role {
            Role::Client => (None, after),
            Role::Server => match after.split_first_chunk::<4>() {
                Some((key, after)) => (Some(*key), after),
                None => return Ok(None),
            },
        };
        let header = Self { fin: first & FIN != 0, rsv1: first & RSV1 != 0, opcode, mask, length };
        Ok(Some((header, bytes.len() - after.len())))
    }

    /// Appends the header's bytes, the length in its shortest form.
    pub fn write(&self, out: &mut Vec<u8>) {
        let fin = if self.fin { FIN } else { 0 };
        let rsv1 = if self.rsv1 { RSV1 } else { 0 };
        let mask = if self.mask.is_some() { MASK } else { 0 };
        out.push(fin | rsv1 | self.opcode.bits());
        if let Ok(length @ 0..LENGTH_IN_2_BYTES) = u8::try_from(self.length) {
            out.push(mask | length);
        } else if let Ok(length) = u16::try_from(self.length) {
            out.push(mask | LENGTH_IN_2_BYTES);
            out.extend_from_slice(&length.to_be_bytes());
        } else {
            out.push(mask | LENGTH_IN_8_BYTES);
            out.extend_from_slice(&self.length.to_be_bytes());
        }
        out.extend_from_slice(self.mask.as_ref().map_or(&[], |key| key.as_slice()));
    }
}

/// The rules that the first two bytes decide.
fn check_start(first: u8, second: u8, role: Role) -> Result<Opcode, FrameError> {
    let opcode = Opcode::parse(first)?;
    if first & RSV2_AND_3 != 0 {
        return Err(FrameError::ReservedBits);
    }
    if opcode.is_control() {
        check_control(first, second)?;
    }
    match (role, second & MASK != 0) {
        (Role::Server, true) | (Role::Client, false) => Ok(opcode),
        (Role::Server, false) => Err(FrameError::Unmasked),
        (Role::Client, true) => Err(FrameError::Masked),
    }
}

/// Section 5.5: short and whole. RFC 7692 section 6: never compressed.
const fn check_control(first: u8, second: u8) -> Result<(), FrameError> {
    if first & RSV1 != 0 {
        return Err(FrameError::ReservedBits);
    }
    if first & FIN == 0 {
        return Err(FrameError::ControlFragmented);
    }
    if second & LENGTH >= LENGTH_IN_2_BYTES {
        return Err(FrameError::ControlTooLong);
    }
    Ok(())
}

/// The payload's length and what follows it, `None` while incomplete.
fn parse_length(short: u8, after: &[u8]) -> Result<Option<(u64, &[u8])>, FrameError> {
    let (length, after) = match short {
        LENGTH_IN_2_BYTES => match after.split_first_chunk::<2>() {
            Some((bytes, after)) => (u64::from(u16::from_be_bytes(*bytes)), after),
            None => return Ok(None),
        },
        LENGTH_IN_8_BYTES => match after.split_first_chunk::<8>() {
            Some((bytes, after)) => (u64::from_be_bytes(*bytes), after),
            None => return Ok(None),
        },
        short => return Ok(Some((u64::from(short), after))),
    };
    let least = if short == LENGTH_IN_2_BYTES { u64::from(LENGTH_IN_2_BYTES) } else { 1 << 16 };
    if length < least || length >> 63 != 0 {
        return Err(FrameError::LengthEncoding);
    }
    Ok(Some((length, after)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn refused(bytes: &[u8], role: Role, expected: FrameError) {
        assert_eq!(Header::parse(bytes, role), Err(expected), "{bytes:02x?}");
    }

    #[test]
    fn rfc6455_5_2_reserved_bits_and_opcodes_are_refused() {
        refused(&[0xa1, 0x80], Role::Server, FrameError::ReservedBits);
        refused(&[0x91, 0x80], Role::Server, FrameError::ReservedBits);
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            refused(&[0x80 | opcode, 0x80], Role::Server, FrameError::Opcode(opcode));
        }
    }

    #[test]
    fn rfc6455_5_5_control_frames_are_short_whole_and_uncompressed() {
        for opcode in [8, 9, 10] {
            refused(&[opcode, 0x80], Role::Server, FrameError::ControlFragmented);
            refused(&[0xc0 | opcode, 0x80], Role::Server, FrameError::ReservedBits);
            refused(&[0x80 | opcode, 0xfe], Role::Server, FrameError::ControlTooLong);
            refused(&[0x80 | opcode, 0xff], Role::Server, FrameError::ControlTooLong);
        }
    }

    #[test]
    fn rfc6455_5_1_a_client_masks_and_a_server_does_not() {
        refused(&[0x81, 0x00], Role::Server, FrameError::Unmasked);
        refused(&[0x81, 0x80], Role::Client, FrameError::Masked);
    }

    #[test]
    fn rfc6455_5_2_lengths_are_in_their_shortest_form() {
        refused(&[0x81, 126, 0, 125], Role::Client, FrameError::LengthEncoding);
        refused(&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Role::Client, FrameError::LengthEncoding);
        refused(&[0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], Role::Client, FrameError::LengthEncoding);
    }

    fn any_header() -> impl Strategy<Value = (Header, Role)> {
        let opcodes = prop_oneof![Just(Opcode::Continuation), Just(Opcode::Text), Just(Opcode::Binary)];
        let lengths = prop_oneof![0u64..200, 65_500u64..65_600, 0..=u64::MAX >> 1];
        (any::<bool>(), any::<bool>(), opcodes, any::<Option<[u8; 4]>>(), lengths).prop_map(|(fin, rsv1, opcode, mask, length)| {
            let role = if mask.is_some() { Role::Server } else { Role::Client };
            (Header { fin, rsv1, opcode, mask, length }, role)
        })
    }

    proptest! {
        #[test]
        fn a_header_reads_back_as_written_and_not_before((header, role) in any_header()) {
            let mut bytes = Vec::new();
            header.write(&mut bytes);
            prop_assert!(bytes.len() <= HEADER_BYTES_MAX);
            for cut in 0..bytes.len() {
                prop_assert_eq!(Header::parse(&bytes[..cut], role), Ok(None));
            }
            prop_assert_eq!(Header::parse(&bytes, role), Ok(Some((header, bytes.len()))));
        }

        #[test]
        fn no_bytes_make_parsing_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = Header::parse(&bytes, Role::Server);
            let _ = Header::parse(&bytes, Role::Client);
        }
    }
}
