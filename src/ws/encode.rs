//! Frames on their way out (RFC 6455 section 5). A server's are unmasked and never fragmented.

use super::close::CloseCode;
use super::header::{CONTROL_PAYLOAD_BYTES_MAX, HEADER_BYTES_MAX, Header, Opcode};
use super::mask::apply_mask;

/// A Close frame without a code: the answer to one without a code.
pub const CLOSE_WITHOUT_CODE: [u8; 2] = [0x88, 0];

/// Bytes of a close reason: what a control frame leaves beside the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_BYTES_MAX - 2;

/// Appends a server's header for a payload of `payload_bytes` that the caller appends next; `deflated` sets RSV1.
pub fn header(opcode: Opcode, payload_bytes: usize, deflated: bool, out: &mut Vec<u8>) {
    Header { rsv1: deflated, ..Header::new(opcode, payload_bytes as u64) }.write(out);
}

/// One whole server frame. A control frame's payload must have at most [`CONTROL_PAYLOAD_BYTES_MAX`] bytes.
#[must_use]
pub fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    build(Header::new(opcode, payload.len() as u64), payload)
}

/// One whole compressed server message: `compressed` is what [`Deflater::compress`](super::Deflater::compress) gave.
#[must_use]
pub fn deflated(opcode: Opcode, compressed: &[u8]) -> Vec<u8> {
    build(Header { rsv1: true, ..Header::new(opcode, compressed.len() as u64) }, compressed)
}

/// A server's Close frame. A reason that does not fit is cut between characters.
#[must_use]
pub fn close(code: CloseCode, reason: &str) -> Vec<u8> {
    frame(Opcode::Close, &close_payload(code, reason))
}

/// What a Close frame carries.
#[must_use]
pub fn close_payload(code: CloseCode, reason: &str) -> Vec<u8> {
    let cut = (0..=CLOSE_REASON_BYTES_MAX.min(reason.len())).rev().find(|&cut| reason.is_char_boundary(cut));
    let reason = &reason[..cut.unwrap_or(0)];
    [code.number().to_be_bytes().as_slice(), reason.as_bytes()].concat()
}

/// The answer to a received Close (section 5.5.1): its code back, or none for none.
#[must_use]
pub fn close_reply(code: Option<CloseCode>) -> Vec<u8> {
    code.map_or_else(|| CLOSE_WITHOUT_CODE.to_vec(), |code| close(code, ""))
}

/// One whole client frame.
#[must_use]
pub fn masked(opcode: Opcode, payload: &[u8], mask_key: [u8; 4]) -> Vec<u8> {
    build(Header { mask: Some(mask_key), ..Header::new(opcode, payload.len() as u64) }, payload)
}

/// Any frame: fragments, compressed or not, masked if the header has a key. `header.length` is the payload's.
#[must_use]
pub fn build(header: Header, payload: &[u8]) -> Vec<u8> {
    debug_assert_eq!(header.length, payload.len() as u64);
    debug_assert!(!header.opcode.is_control() || payload.len() <= CONTROL_PAYLOAD_BYTES_MAX);
    let mut out = Vec::with_capacity(HEADER_BYTES_MAX + payload.len());
    header.write(&mut out);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = header.mask {
        apply_mask(&mut out[start..], key, 0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6455_5_7_the_examples_come_out_as_printed() {
        assert_eq!(frame(Opcode::Text, b"Hello"), [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        let masked = masked(Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(masked, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        assert_eq!(frame(Opcode::Ping, b"Hello"), [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(frame(Opcode::Binary, &[0; 256])[..4], [0x82, 0x7e, 0x01, 0x00]);
        assert_eq!(frame(Opcode::Binary, &[0; 65_536])[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn rfc6455_5_5_1_close_carries_code_and_reason() {
        assert_eq!(close(CloseCode::GOING_AWAY, "bye"), [0x88, 5, 0x03, 0xe9, b'b', b'y', b'e']);
        assert_eq!(close_reply(Some(CloseCode::NORMAL)), [0x88, 2, 0x03, 0xe8]);
        assert_eq!(close_reply(None), [0x88, 0]);
    }

    #[test]
    fn a_reason_that_does_not_fit_is_cut_between_characters() {
        let long = "é".repeat(100);
        let bytes = close(CloseCode::NORMAL, &long);
        assert_eq!(bytes.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&bytes[4..]).is_ok());
    }
}
