//! What the load publishes: bytes that tell their own number, so that every copy of them can be checked byte for byte.
//!
//! `{"n":"000000000000002a","fill":"…"}`: valid JSON of an exact length, the fill drawn from the number.

/// Bytes around the fill: `{"n":"` + 16 digits + `","fill":"` + `"}`.
pub const PAYLOAD_BYTES_MIN: usize = 34;

const OPEN: &[u8] = b"{\"n\":\"";
const MIDDLE: &[u8] = b"\",\"fill\":\"";
const CLOSE: &[u8] = b"\"}";
const NUMBER_DIGITS: usize = 16;
const FILL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Appends the payload of publication `number`, `bytes` long (never under [`PAYLOAD_BYTES_MIN`]).
pub fn write(out: &mut Vec<u8>, number: u64, bytes: usize) {
    out.extend_from_slice(OPEN);
    for place in (0..NUMBER_DIGITS).rev() {
        let nibble = (number >> (4 * place)) & 15;
        out.push(char::from_digit(nibble as u32, 16).map_or(b'0', |digit| digit as u8));
    }
    out.extend_from_slice(MIDDLE);
    fill(out, number, bytes.saturating_sub(PAYLOAD_BYTES_MIN));
    out.extend_from_slice(CLOSE);
}

/// Characters drawn by SplitMix64 from the number, ten to a draw: two numbers never have the same fill for long.
fn fill(out: &mut Vec<u8>, number: u64, bytes: usize) {
    let mut state = number;
    let mut draw = 0;
    for index in 0..bytes {
        if index % 10 == 0 {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            draw = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            draw = (draw ^ (draw >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            draw ^= draw >> 31;
        }
        out.push(FILL[(draw & 63) as usize]);
        draw >>= 6;
    }
}

/// The number of a payload that is right in every byte; `None` for any other.
pub fn verify(payload: &[u8], bytes: usize, scratch: &mut Vec<u8>) -> Option<u64> {
    let digits = payload.strip_prefix(OPEN)?.get(..NUMBER_DIGITS)?;
    let number = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    scratch.clear();
    write(scratch, number, bytes);
    (scratch.as_slice() == payload).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(number: u64, bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, number, bytes);
        out
    }

    #[test]
    fn it_is_json_of_the_asked_length() {
        for bytes in [PAYLOAD_BYTES_MIN, 64, 128, 4096] {
            let payload = payload(42, bytes);
            assert_eq!(payload.len(), bytes);
            let value: serde_json::Value = serde_json::from_slice(&payload).expect("valid JSON");
            assert_eq!(value["n"], "000000000000002a");
        }
    }

    proptest! {
        #[test]
        fn one_changed_byte_is_noticed(number: u64, at in 0usize..128, change in 1u8..) {
            let mut bytes = payload(number, 128);
            prop_assert_eq!(verify(&bytes, 128, &mut Vec::new()), Some(number));
            bytes[at] ^= change;
            prop_assert_ne!(verify(&bytes, 128, &mut Vec::new()), Some(number));
        }
    }
}
