//! permessage-deflate (RFC 7692) without context takeover: every message stands alone, so a broadcast is compressed once and its
//! bytes fit every subscriber, and an idle connection keeps no window.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What a flushed deflate block ends with and a message leaves out (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// Growth of the output while it does not fit.
const STEP_BYTES: usize = 4096;

/// LZ77 window sizes this implementation compresses with. Eight is legal to ask for, but zlib cannot do it raw.
pub const WINDOW_BITS: std::ops::RangeInclusive<u8> = 9..=15;

/// Compresses whole messages; one per worker.
#[derive(Debug, Default)]
pub struct Deflater {
    /// By window bits, made when first used.
    streams: [Option<Box<Compress>>; 16],
}

impl Deflater {
    /// The payload of a compressed message. `window_bits` is what the receiver agreed to.
    pub fn deflate(&mut self, payload: &[u8], window_bits: u8) -> Vec<u8> {
        let bits = window_bits.clamp(*WINDOW_BITS.start(), *WINDOW_BITS.end());
        let stream = self.streams[bits as usize]
            .get_or_insert_with(|| Box::new(Compress::new_with_window_bits(Compression::fast(), false, bits)));
        stream.reset();
        let mut out = Vec::with_capacity(payload.len() / 2 + 64);
        loop {
            let consumed = usize::try_from(stream.total_in()).unwrap_or(usize::MAX).min(payload.len());
            let status = stream.compress_vec(&payload[consumed..], &mut out, FlushCompress::Sync);
            let room = out.capacity() > out.len();
            if status.is_err() || (room && stream.total_in() == payload.len() as u64) {
                break;
            }
            out.reserve(STEP_BYTES);
        }
        out.truncate(out.strip_suffix(&TAIL).map_or(out.len(), <[u8]>::len));
        // An empty payload deflates to the tail alone, but a message needs one byte (RFC 7692 section 7.2.3.6).
        if out.is_empty() {
            out.push(0);
        }
        out
    }
}

/// Why a message could not be inflated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InflateError {
    Damaged,
    TooLarge,
}

/// Inflates whole messages; one per worker.
#[derive(Debug, Default)]
pub struct Inflater {
    stream: Option<Box<Decompress>>,
}

impl Inflater {
    /// The message a compressed payload stands for, at most `bytes_max` long.
    ///
    /// # Errors
    /// Damaged data, or a message that would be longer: no more than `bytes_max` and a step are ever produced.
    pub fn inflate(&mut self, payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, InflateError> {
        let stream = self.stream.get_or_insert_with(|| Box::new(Decompress::new(false)));
        stream.reset(false);
        let mut out = Vec::with_capacity((payload.len() * 3).min(bytes_max) + 64);
        for part in [payload, &TAIL] {
            let before = stream.total_in();
            loop {
                let consumed = usize::try_from(stream.total_in() - before).unwrap_or(usize::MAX).min(part.len());
                let length = out.len();
                let status =
                    stream.decompress_vec(&part[consumed..], &mut out, FlushDecompress::Sync).map_err(|_| InflateError::Damaged)?;
                if out.len() > bytes_max {
                    return Err(InflateError::TooLarge);
                }
                let all_read = stream.total_in() - before == part.len() as u64;
                match status {
                    // A final block (BFINAL) ends the message whatever follows.
                    Status::StreamEnd => return Ok(out),
                    Status::Ok | Status::BufError if out.len() == out.capacity() => out.reserve(STEP_BYTES.min(bytes_max + 64)),
                    Status::Ok | Status::BufError if all_read => break,
                    Status::Ok if out.len() > length => {}
                    Status::Ok | Status::BufError => return Err(InflateError::Damaged),
                }
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_deflated_inflates_to_itself(payload in prop::collection::vec(0u8..7, 0..9000), bits in WINDOW_BITS) {
            let mut deflater = Deflater::default();
            let mut inflater = Inflater::default();
            for _ in 0..2 {
                let packed = deflater.deflate(&payload, bits);
                prop_assert_eq!(inflater.inflate(&packed, 9000).unwrap(), payload.clone());
            }
        }

        #[test]
        fn random_bytes_are_an_answer_not_a_panic(bytes: Vec<u8>) {
            let _ = Inflater::default().inflate(&bytes, 1 << 16);
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let packed = Deflater::default().deflate(&vec![0; 50 << 20], 15);
        assert!(packed.len() < 1 << 20);
        assert_eq!(Inflater::default().inflate(&packed, 64 << 10), Err(InflateError::TooLarge));
    }
}
