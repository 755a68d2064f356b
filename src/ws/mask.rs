//! Masking (RFC 6455 section 5.3): XOR with a four-byte key, wherever in the frame the bytes begin.

/// Applies the key to bytes that begin `offset` bytes into their frame. Doing it twice undoes it.
pub fn apply(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    let mut turned = key;
    turned.rotate_left(offset % 4);
    // Eight bytes at a time, which the compiler widens to whole vector registers.
    let wide = u64::from_ne_bytes([turned[0], turned[1], turned[2], turned[3], turned[0], turned[1], turned[2], turned[3]]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7]]) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(turned.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn masking_in_pieces_is_masking_at_once(bytes: Vec<u8>, key: [u8; 4], cut in 0usize..64) {
            let expected: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
            let mut whole = bytes.clone();
            let cut = cut.min(whole.len());
            let (left, right) = whole.split_at_mut(cut);
            apply(left, key, 0);
            apply(right, key, cut);
            prop_assert_eq!(whole, expected);
        }
    }
}
