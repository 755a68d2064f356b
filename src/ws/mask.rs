//! Masking (RFC 6455 section 5.3): XOR with a key of four bytes, keyed by the position in the payload.

use std::array;

/// Bytes per step of the vectorised part: two SSE2 registers, one AVX2 register.
const LANE_BYTES: usize = 32;

/// Masks or unmasks `bytes`, which begin at `offset` of the frame's payload. Applying it twice gives the original back.
///
/// Whole lanes are fixed-size arrays, so the compiler makes vector instructions of the inner loop.
pub fn apply_mask(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    let pattern: [u8; LANE_BYTES] = array::from_fn(|place| key[(offset % 4 + place) % 4]);
    let (lanes, tail) = bytes.as_chunks_mut::<LANE_BYTES>();
    for lane in lanes {
        for (byte, mask) in lane.iter_mut().zip(pattern) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in tail.iter_mut().zip(pattern) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_the_letter(bytes: &[u8], key: [u8; 4], offset: usize) -> Vec<u8> {
        bytes.iter().enumerate().map(|(place, byte)| byte ^ key[(offset + place) % 4]).collect()
    }

    #[test]
    fn rfc6455_5_7_the_example_unmasks_to_hello() {
        let mut bytes = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply_mask(&mut bytes, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&bytes, b"Hello");
    }

    proptest! {
        #[test]
        fn rfc6455_5_3_is_xor_by_position(bytes in proptest::collection::vec(any::<u8>(), 0..200), key: [u8; 4], offset in 0usize..1000) {
            let mut masked = bytes.clone();
            apply_mask(&mut masked, key, offset);
            prop_assert_eq!(&masked, &by_the_letter(&bytes, key, offset));
            apply_mask(&mut masked, key, offset);
            prop_assert_eq!(masked, bytes);
        }

        #[test]
        fn any_split_masks_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..200), key: [u8; 4], cut in 0usize..200) {
            let mut whole = bytes.clone();
            apply_mask(&mut whole, key, 0);
            let mut split = bytes;
            let cut = cut.min(split.len());
            let (head, tail) = split.split_at_mut(cut);
            apply_mask(head, key, 0);
            apply_mask(tail, key, cut);
            prop_assert_eq!(split, whole);
        }
    }
}
