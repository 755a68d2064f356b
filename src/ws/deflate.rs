//! permessage-deflate (RFC 7692 section 7) without context takeover in either direction.
//!
//! Each message is compressed on its own, so a worker needs one [`Deflater`] and one [`Inflater`] for all its connections, and a
//! broadcast is compressed once for everyone with the same [`DeflateParams`]. The price is ratio on streams of small similar
//! messages; what it buys is a connection that holds no window (a context costs 32 KiB to inflate and 256 KiB to deflate).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::header::Opcode;
use super::{Options, encode};

/// What a sync flush ends with, removed from every message (section 7.2.1).
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The removed tail, and a final empty block behind it: only a stream that stood at a block's end gets to see that one, so a
/// truncated message is told from a whole one.
const INFLATE_TAIL: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];

/// Final blocks inside one message (section 7.2.3.4). Each costs a reset of the inflater, so they are counted.
const FINAL_BLOCKS_MAX: u32 = 64;

/// Scratch memory kept from one message to the next.
const SCRATCH_BYTES_KEPT: usize = 256 << 10;

/// First guess at an inflated message's size.
const INFLATED_BYTES_MIN: usize = 1 << 10;

/// Speed over ratio, because the event loop waits for it. On 4 KiB of JSON level 1 takes half the time and leaves 1.4 times the
/// bytes; level 6 takes 1.5 times the time and leaves 0.9 times the bytes.
const LEVEL: u32 = 2;

/// What one connection agreed to; connections that agreed to the same share compressed bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DeflateParams {
    /// The largest window the server may compress with (`server_max_window_bits`).
    pub server_window: WindowBits,
}

/// The base-2 logarithm of a window: 9 to 15 (zlib cannot write raw streams with 8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WindowBits(u8);

impl WindowBits {
    /// 32 KiB, what is used unless something smaller was agreed on.
    pub const MAX: Self = Self(15);
    const MIN: Self = Self(9);
    const COUNT: usize = (Self::MAX.0 - Self::MIN.0) as usize + 1;

    /// 8 to 15 (RFC 7692 section 7.1.2).
    #[must_use]
    pub const fn new(bits: u8) -> Option<Self> {
        if bits >= Self::MIN.0 && bits <= Self::MAX.0 { Some(Self(bits)) } else { None }
    }

    /// The base-2 logarithm of the window's bytes.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    const fn index(self) -> usize {
        (self.0 - Self::MIN.0) as usize
    }
}

/// Compresses messages; one per worker. Compressors are made when a window is first asked for.
#[derive(Debug, Default)]
pub struct Deflater {
    compressors: [Option<Compress>; WindowBits::COUNT],
    out: Vec<u8>,
}

impl Deflater {
    /// The payload compressed, for a frame with RSV1; `None` if that would not make it smaller, and it should go as it is.
    pub fn compress(&mut self, payload: &[u8], params: DeflateParams) -> Option<&[u8]> {
        let Self { compressors, out } = self;
        let compress = compressors[params.server_window.index()].get_or_insert_with(|| new_compress(params.server_window));
        compress.reset();
        empty(out);
        out.reserve(payload.len() + FLUSH_TAIL.len());
        compress.compress_vec(payload, out, FlushCompress::Sync).ok()?;
        let all_read = compress.total_in() == payload.len() as u64;
        // The flush is complete only if it left room (zlib's rule), and the marker is then at the end.
        let all_written = out.len() < out.capacity();
        let compressed = out.strip_suffix(&FLUSH_TAIL)?;
        (all_read && all_written && compressed.len() < payload.len()).then_some(compressed)
    }

    /// One whole server message: compressed where that pays, plain where it does not or the payload is below
    /// `deflate_bytes_min` (section 6: RSV1 says which, message by message).
    #[must_use]
    pub fn frame(&mut self, opcode: Opcode, payload: &[u8], params: DeflateParams, options: &Options) -> Vec<u8> {
        let worth_trying = payload.len() >= options.deflate_bytes_min;
        match if worth_trying { self.compress(payload, params) } else { None } {
            Some(compressed) => encode::deflated(opcode, compressed),
            None => encode::frame(opcode, payload),
        }
    }
}

fn new_compress(window: WindowBits) -> Compress {
    Compress::new_with_window_bits(Compression::new(LEVEL), false, window.bits())
}

/// Decompresses whole messages; one per worker.
#[derive(Debug)]
pub struct Inflater {
    decompress: Decompress,
    out: Vec<u8>,
}

/// Why a compressed message is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InflateError {
    /// Not DEFLATE, truncated, or cut into absurdly many final blocks.
    Corrupt,
    /// More than `bytes_max` come out of it. Nothing beyond that was written.
    TooLarge {
        /// As the caller gave it, for the refusal.
        bytes_max: usize,
    },
}

impl Default for Inflater {
    fn default() -> Self {
        Self { decompress: Decompress::new(false), out: Vec::new() }
    }
}

impl Inflater {
    /// The message that `compressed` (its frames' payloads joined) holds; at most `bytes_max` bytes, memory in proportion.
    pub fn inflate(&mut self, compressed: &[u8], bytes_max: usize) -> Result<&[u8], InflateError> {
        empty(&mut self.out);
        self.out.reserve(compressed.len().saturating_mul(4).max(INFLATED_BYTES_MIN).min(bytes_max.saturating_add(1)));
        let mut rest = compressed;
        for _ in 0..FINAL_BLOCKS_MAX {
            self.decompress.reset(false);
            let ended = self.run(&mut rest, bytes_max)?;
            if !ended {
                self.finish(bytes_max)?;
                return Ok(&self.out);
            }
            // Section 7.2.3.4: a sender may end with a final block; what follows is a stream of its own.
            if rest.is_empty() {
                return Ok(&self.out);
            }
        }
        Err(InflateError::Corrupt)
    }

    /// Puts the removed tail back. In a whole message it is empty blocks, to the end, and nothing comes out of it.
    fn finish(&mut self, bytes_max: usize) -> Result<(), InflateError> {
        let inflated = self.out.len();
        let mut tail = INFLATE_TAIL.as_slice();
        let ended = self.run(&mut tail, bytes_max)?;
        if ended && tail.is_empty() && self.out.len() == inflated { Ok(()) } else { Err(InflateError::Corrupt) }
    }

    /// Inflates until `rest` is used up (false) or the stream ends (true).
    fn run(&mut self, rest: &mut &[u8], bytes_max: usize) -> Result<bool, InflateError> {
        loop {
            let consumed_before = self.decompress.total_in();
            let written_before = self.out.len();
            let status = self.decompress.decompress_vec(rest, &mut self.out, FlushDecompress::Sync);
            let status = status.map_err(|_| InflateError::Corrupt)?;
            let consumed = usize::try_from(self.decompress.total_in() - consumed_before).unwrap_or(usize::MAX);
            *rest = rest.get(consumed..).unwrap_or_default();
            if self.out.len() > bytes_max {
                return Err(InflateError::TooLarge { bytes_max });
            }
            let stuck = consumed == 0 && self.out.len() == written_before;
            match status {
                Status::StreamEnd => return Ok(true),
                Status::Ok | Status::BufError if self.out.len() == self.out.capacity() => self.grow(bytes_max),
                Status::Ok | Status::BufError if rest.is_empty() => return Ok(false),
                Status::Ok | Status::BufError if stuck => return Err(InflateError::Corrupt),
                Status::Ok | Status::BufError => {}
            }
        }
    }

    /// Doubles the room, up to one byte more than allowed: that byte is how excess shows.
    fn grow(&mut self, bytes_max: usize) {
        let room = (bytes_max - self.out.len()).saturating_add(1).min(self.out.len().max(INFLATED_BYTES_MIN));
        self.out.reserve_exact(room);
    }
}

/// Empties a scratch buffer and gives an outsized one back to the allocator.
fn empty(scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.shrink_to(SCRATCH_BYTES_KEPT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params(bits: u8) -> DeflateParams {
        DeflateParams { server_window: WindowBits::new(bits).expect("9 to 15") }
    }

    #[track_caller]
    fn check(compressed: &[u8], expected: Result<&[u8], InflateError>) {
        let mut inflater = Inflater::default();
        for _ in 0..2 {
            assert_eq!(inflater.inflate(compressed, 100), expected, "{compressed:02x?}, used inflaters are as good as new ones");
        }
    }

    #[test]
    fn rfc7692_7_2_3_1_one_block() {
        check(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], Ok(b"Hello"));
    }

    #[test]
    fn rfc7692_7_2_3_3_a_stored_block() {
        check(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], Ok(b"Hello"));
    }

    #[test]
    fn rfc7692_7_2_3_4_a_final_block() {
        check(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], Ok(b"Hello"));
        check(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], Ok(b"Hello"));
    }

    #[test]
    fn rfc7692_7_2_3_5_two_blocks() {
        check(&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], Ok(b"Hello"));
    }

    #[test]
    fn rfc7692_7_2_3_6_an_empty_message() {
        check(&[0x00], Ok(b""));
    }

    #[test]
    fn rfc7692_7_2_2_garbage_and_truncation_are_refused() {
        check(&[0xff], Err(InflateError::Corrupt));
        check(&[0xf2, 0x48, 0xcd], Err(InflateError::Corrupt));
        check(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48], Err(InflateError::Corrupt));
        check(&[0x03, 0x00].repeat(1000), Err(InflateError::Corrupt));
    }

    #[test]
    fn rfc7692_7_2_2_every_truncation_of_a_message_is_refused() {
        let message: Vec<u8> = (0..400u32).flat_map(|n| format!("{} ", n * n % 1009).into_bytes()).collect();
        let mut deflater = Deflater::default();
        let compressed = deflater.compress(&message, params(15)).expect("shrinks");
        let mut inflater = Inflater::default();
        for cut in 0..compressed.len() {
            assert_eq!(inflater.inflate(&compressed[..cut], 10_000), Err(InflateError::Corrupt), "cut at {cut}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let mut deflater = Deflater::default();
        let bomb = deflater.compress(&vec![0; 32 << 20], params(15)).expect("shrinks").to_vec();
        assert!(bomb.len() < 200 << 10);
        let mut inflater = Inflater::default();
        assert_eq!(inflater.inflate(&bomb, 1 << 20), Err(InflateError::TooLarge { bytes_max: 1 << 20 }));
        assert!(inflater.out.capacity() <= (1 << 20) + 1);
        assert_eq!(inflater.inflate(&bomb, 32 << 20).map(<[u8]>::len), Ok(32 << 20), "exactly the limit is allowed");
    }

    #[test]
    fn rfc7692_7_1_2_1_no_distance_exceeds_the_window() {
        // Two copies of 1 KiB of noise, 1 KiB apart: a window of 512 bytes cannot see the first from the second.
        let mut random = crate::base::Random::seeded(7);
        let noise: Vec<u8> = (0..1024).map(|_| random.bits().to_le_bytes()[0]).collect();
        let twice = [noise.as_slice(), &noise].concat();
        let mut deflater = Deflater::default();
        assert!(deflater.compress(&twice, params(15)).is_some_and(|compressed| compressed.len() < 1200));
        assert_eq!(deflater.compress(&twice, params(9)), None);
    }

    #[test]
    fn rfc7692_6_rsv1_marks_what_is_compressed() {
        let (mut deflater, options) = (Deflater::default(), Options { deflate_bytes_min: 10, ..Options::default() });
        let mut first_byte = |payload: &[u8]| deflater.frame(Opcode::Text, payload, params(15), &options)[0];
        assert_eq!(first_byte(&[b'a'; 100]), 0xc1);
        assert_eq!(first_byte(&[b'a'; 9]), 0x81, "below the least size");
        assert_eq!(first_byte(b"abcdefghijkl"), 0x81, "would grow");
    }

    #[test]
    fn a_large_message_leaves_no_large_scratch() {
        let mut deflater = Deflater::default();
        assert!(deflater.compress(&vec![b'a'; 4 << 20], params(15)).is_some());
        assert!(deflater.compress(&[b'a'; 100], params(15)).is_some());
        assert!(deflater.out.capacity() <= SCRATCH_BYTES_KEPT);
    }

    fn any_payload() -> impl Strategy<Value = Vec<u8>> {
        let noise = proptest::collection::vec(any::<u8>(), 0..3000);
        let words = proptest::collection::vec("[a-d ]{0,9}", 0..600).prop_map(|words| words.concat().into_bytes());
        prop_oneof![noise, words]
    }

    proptest! {
        #[test]
        fn what_was_compressed_inflates_to_itself(payloads in proptest::collection::vec((any_payload(), 9u8..=15), 1..5)) {
            let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
            for (payload, bits) in payloads {
                if let Some(compressed) = deflater.compress(&payload, params(bits)) {
                    prop_assert!(compressed.len() < payload.len());
                    prop_assert_eq!(inflater.inflate(compressed, payload.len()), Ok(payload.as_slice()));
                    let bytes_max = payload.len() - 1;
                    prop_assert_eq!(inflater.inflate(compressed, bytes_max), Err(InflateError::TooLarge { bytes_max }));
                }
            }
        }

        #[test]
        fn no_bytes_make_inflating_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), bytes_max in 0usize..2000) {
            if let Ok(message) = Inflater::default().inflate(&bytes, bytes_max) {
                prop_assert!(message.len() <= bytes_max);
            }
        }
    }
}
