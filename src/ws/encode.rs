//! Frames on their way out (RFC 6455 section 5.2).

use super::code::CloseCode;
use super::mask;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    /// The four bits on the wire.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }
}

/// Payload bytes of a control frame (RFC 6455 section 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// Appends the header of an unfragmented, unmasked frame. `compressed` sets RSV1 (RFC 7692 section 6).
pub fn header(out: &mut Vec<u8>, opcode: Opcode, length: usize, compressed: bool) {
    push_header(out, opcode, length, compressed, 0);
}

/// A whole server frame.
#[must_use]
pub fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    header(&mut out, opcode, payload.len(), false);
    out.extend_from_slice(payload);
    out
}

/// A whole client frame, masked.
#[must_use]
pub fn masked_frame(opcode: Opcode, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    push_header(&mut out, opcode, payload.len(), false, 0x80);
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(payload);
    mask::apply(&mut out[start..], key, 0);
    out
}

/// A server's close frame. 1005 and 1006 are never on the wire: they make an empty one. The reason is cut to what fits.
#[must_use]
pub fn close(code: CloseCode, reason: &str) -> Vec<u8> {
    if !code.may_be_sent() {
        return frame(Opcode::Close, &[]);
    }
    let reason_bytes_max = CONTROL_PAYLOAD_BYTES_MAX - 2;
    let end = (0..=reason.len().min(reason_bytes_max)).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
    let mut payload = code.0.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    frame(Opcode::Close, &payload)
}

fn push_header(out: &mut Vec<u8>, opcode: Opcode, length: usize, compressed: bool, mask_bit: u8) {
    out.push(0x80 | u8::from(compressed) << 6 | opcode.bits());
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => out.push(mask_bit | short),
        (_, Ok(medium)) => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}
