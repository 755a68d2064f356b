//! Message bodies (RFC 9112 sections 6 and 7): by length, in chunks, or until the connection closes.

use std::time::Duration;

use super::Options;
use super::error::HttpError;
use super::head::Framing;
use crate::base::Nanos;

/// Bytes of a chunk's size line, extensions included.
const SIZE_LINE_BYTES_MAX: usize = 256;
/// Bytes of the trailer section, which is read and dropped.
const TRAILER_BYTES_MAX: usize = 8192;

/// Reads one body off a stream of bytes.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
}

#[derive(Debug)]
enum State {
    /// So many bytes to come.
    Length(u64),
    UntilClose,
    /// A chunk's size: digits so far, whether the extension has begun, bytes of the line.
    Size {
        value: u64,
        digits: u8,
        extension: bool,
        length: usize,
        cr: bool,
    },
    Chunk(u64),
    /// The CRLF behind a chunk: bytes of it seen.
    ChunkEnd(u8),
    /// The trailer section: bytes of it, and bytes of the current line (carriage return included).
    Trailers {
        length: usize,
        line: usize,
        cr: bool,
        /// The line's name has ended.
        value: bool,
    },
    Done,
}

const SIZE: State = State::Size { value: 0, digits: 0, extension: false, length: 0, cr: false };

/// What one step of reading found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyStep<'a> {
    /// Bytes used up, framing included.
    pub consumed: usize,
    /// The content among them.
    pub data: &'a [u8],
    /// Whether the body is complete: what follows belongs to the next message.
    pub done: bool,
}

impl BodyReader {
    /// Reads the body that a head declares.
    #[must_use]
    pub const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => SIZE,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Whether the body is complete.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the end of the connection, now, is an end of the body and not a loss.
    #[must_use]
    pub const fn may_end_at_eof(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Done)
    }

    /// Reads on; call again with what is left until it is `done` or nothing is left.
    ///
    /// # Errors
    /// Broken chunk framing: nothing behind it can be trusted.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<BodyStep<'a>, HttpError> {
        let mut consumed = 0;
        while consumed < bytes.len() {
            let rest = &bytes[consumed..];
            let content = match &mut self.state {
                State::Done => break,
                State::UntilClose => Some((rest.len(), false)),
                State::Length(left) | State::Chunk(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= take as u64;
                    Some((take, *left == 0))
                }
                State::Size { .. } | State::ChunkEnd(_) | State::Trailers { .. } => None,
            };
            if let Some((take, ended)) = content {
                if ended {
                    self.state = if matches!(self.state, State::Chunk(_)) { State::ChunkEnd(0) } else { State::Done };
                }
                return Ok(BodyStep { consumed: consumed + take, data: &rest[..take], done: self.is_done() });
            }
            self.framing_byte(rest[0])?;
            consumed += 1;
        }
        Ok(BodyStep { consumed, data: &[], done: self.is_done() })
    }

    fn framing_byte(&mut self, byte: u8) -> Result<(), HttpError> {
        match &mut self.state {
            State::Size { value, digits, extension, length, cr } => {
                *length += 1;
                if *length > SIZE_LINE_BYTES_MAX {
                    return Err(HttpError::ChunkSize);
                }
                match (byte, char::from(byte).to_digit(16)) {
                    (b'\n', _) if *cr && *digits > 0 => {
                        self.state = if *value == 0 {
                            State::Trailers { length: 0, line: 0, cr: false, value: false }
                        } else {
                            State::Chunk(*value)
                        };
                    }
                    _ if *cr => return Err(HttpError::ChunkSize),
                    (b'\r', _) => *cr = true,
                    (b'\n' | 0, _) => return Err(HttpError::ChunkSize),
                    _ if *extension => {}
                    (b';', _) if *digits > 0 => *extension = true,
                    (_, Some(digit)) if *digits < 15 => {
                        *value = *value << 4 | u64::from(digit);
                        *digits += 1;
                    }
                    _ => return Err(HttpError::ChunkSize),
                }
            }
            State::ChunkEnd(seen) => match (*seen, byte) {
                (0, b'\r') => *seen = 1,
                (1, b'\n') => self.state = SIZE,
                _ => return Err(HttpError::ChunkEnd),
            },
            State::Trailers { length, line, cr, value } => {
                *length += 1;
                if *length > TRAILER_BYTES_MAX {
                    return Err(HttpError::TrailersTooLarge);
                }
                match (byte, *cr) {
                    (b'\n', true) if *line == 0 => self.state = State::Done,
                    // A line without a colon is no field.
                    (b'\n', true) if !*value => return Err(HttpError::ChunkEnd),
                    (b'\n', true) => (*line, *cr, *value) = (0, false, false),
                    (b'\r', false) => *cr = true,
                    (b'\n' | 0, false) | (_, true) => return Err(HttpError::ChunkEnd),
                    (b':', false) if *line > 0 => (*line, *value) = (*line + 1, true),
                    (_, false) if *value || is_token(byte) => *line += 1,
                    // A fold, a blank before the colon, or what may not be in a name.
                    (_, false) => return Err(HttpError::ChunkEnd),
                }
            }
            State::Length(_) | State::UntilClose | State::Chunk(_) | State::Done => {}
        }
        Ok(())
    }
}

/// How fast a body comes: something has to come all the time, and at a rate, or a connection could be held for next to nothing.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    since: Nanos,
    bytes: u64,
}

impl Pace {
    /// The body is waited for from now on.
    #[must_use]
    pub const fn from(now: Nanos) -> Self {
        Self { since: now, bytes: 0 }
    }

    /// So many bytes have come.
    pub const fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// When it is too slow, if nothing more comes.
    #[must_use]
    pub fn deadline(&self, options: &Options, now: Nanos) -> Nanos {
        let stalled = now + options.body_timeout;
        match self.bytes.saturating_mul(1000).checked_div(options.body_rate_min as u64) {
            Some(earned_ms) => stalled.min(self.since + options.body_timeout + Duration::from_millis(earned_ms)),
            None => stalled,
        }
    }
}

/// A character of a field's name (RFC 9110 section 5.6.2).
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// Appends content as one chunk; nothing for nothing, since an empty chunk would end the body.
pub fn write_chunk(out: &mut Vec<u8>, content: &[u8]) {
    if content.is_empty() {
        return;
    }
    out.extend_from_slice(format!("{:x}\r\n", content.len()).as_bytes());
    out.extend_from_slice(content);
    out.extend_from_slice(b"\r\n");
}

/// What ends a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn trailer_lines_are_fields() {
        let body = |trailers: &str| format!("1\r\nx\r\n0\r\n{trailers}\r\n");
        for step in 1..8 {
            for good in ["", "X: y\r\n", "X:\r\n", "X-A: b:c\r\nY:\tz\r\n"] {
                assert!(read(Framing::Chunked, body(good).as_bytes(), step).is_ok_and(|(_, _, done)| done), "{good:?}");
            }
            for bad in
                ["X\r\n", ": y\r\n", "X : y\r\n", " X: y\r\n", "X: y\r\n z\r\n", "X\0: y\r\n", "X: \0\r\n", "GET / HTTP/1.1\r\n"]
            {
                assert_eq!(read(Framing::Chunked, body(bad).as_bytes(), step), Err(HttpError::ChunkEnd), "{bad:?}");
            }
        }
    }

    #[test]
    fn a_body_must_come_on_and_at_a_rate() {
        let at = |s: u64| Nanos(s * 1_000_000_000);
        let options = Options { body_timeout: Duration::from_secs(30), body_rate_min: 1000, ..Options::default() };
        let mut pace = Pace::from(at(100));
        assert_eq!(pace.deadline(&options, at(100)), at(130));
        pace.add(10);
        assert!(pace.deadline(&options, at(129)) < at(131), "a byte now and then buys no time");
        pace.add(100_000);
        assert_eq!(pace.deadline(&options, at(129)), at(159), "nor do many: a stall is a stall");
        assert_eq!(pace.deadline(&Options { body_rate_min: 0, ..options }, at(500)), at(530));
    }

    fn read(framing: Framing, wire: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), HttpError> {
        let mut reader = BodyReader::new(framing);
        let (mut content, mut used) = (Vec::new(), 0);
        for piece in wire.chunks(step) {
            let mut rest = piece;
            while !rest.is_empty() && !reader.is_done() {
                let got = reader.next(rest)?;
                content.extend_from_slice(got.data);
                used += got.consumed;
                rest = &rest[got.consumed..];
            }
        }
        Ok((content, used, reader.is_done()))
    }

    #[track_caller]
    fn check(framing: Framing, wire: &[u8], expected: Result<(&[u8], usize, bool), HttpError>) {
        for step in 1..=wire.len() {
            let expected = expected.map(|(content, used, done)| (content.to_vec(), used, done));
            assert_eq!(read(framing, wire, step), expected, "split every {step} bytes");
        }
    }

    #[test]
    fn a_length_ends_where_it_says() {
        check(Framing::Length(5), b"helloGET", Ok((b"hello", 5, true)));
        check(Framing::Length(9), b"hello", Ok((b"hello", 5, false)));
        assert!(BodyReader::new(Framing::Length(0)).is_done());
    }

    #[test]
    fn only_some_bodies_may_end_with_the_connection() {
        for (framing, expected) in
            [(Framing::None, true), (Framing::UntilClose, true), (Framing::Length(1), false), (Framing::Chunked, false)]
        {
            assert_eq!(BodyReader::new(framing).may_end_at_eof(), expected, "{framing:?}");
        }
    }

    #[test]
    fn chunks_join_and_extensions_and_trailers_are_dropped() {
        check(Framing::Chunked, b"4;a=b\r\nwiki\r\n05\r\npedia\r\n0\r\nx: y\r\n\r\nGET", Ok((b"wikipedia", 35, true)));
    }

    #[test]
    fn broken_chunks_are_refused() {
        for (wire, error) in [
            (b"4\nwiki".as_slice(), HttpError::ChunkSize),
            (b"\r\n", HttpError::ChunkSize),
            (b";x\r\n", HttpError::ChunkSize),
            (b"-1\r\n", HttpError::ChunkSize),
            (b"0x4\r\nwiki\r\n", HttpError::ChunkSize),
            (b"4 \r\nwiki\r\n", HttpError::ChunkSize),
            (b"1234567890123456\r\n", HttpError::ChunkSize),
            (b"4\r\nwikiX", HttpError::ChunkEnd),
            (b"4\r\nwiki\n", HttpError::ChunkEnd),
            (b"0\r\na\nb\r\n\r\n", HttpError::ChunkEnd),
        ] {
            check(Framing::Chunked, wire, Err(error));
        }
        let long = [b"1;".as_slice(), &[b'x'; SIZE_LINE_BYTES_MAX]].concat();
        check(Framing::Chunked, &long, Err(HttpError::ChunkSize));
    }

    proptest! {
        #[test]
        fn what_was_chunked_reads_back_under_any_split(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6), step in 1usize..30) {
            let mut wire = Vec::new();
            parts.iter().for_each(|part| write_chunk(&mut wire, part));
            wire.extend_from_slice(LAST_CHUNK);
            prop_assert_eq!(read(Framing::Chunked, &wire, step), Ok((parts.concat(), wire.len(), true)));
        }

        #[test]
        fn any_bytes_are_an_answer_not_a_panic(wire: Vec<u8>) {
            let _ = read(Framing::Chunked, &wire, 3);
        }
    }
}
