//! Collects the lines of a head from any split of the input, and finds where it ends.
//!
//! The rules of lines are checked here, byte by byte as they come, so that the first offence is refused at once and not when a
//! head that never ends runs into its deadline. A bare LF is refused although RFC 9112 section 2.2 lets a server accept it: two
//! ideas of where a line ends are what request smuggling is made of.

use memchr::memchr3;

use super::error::HttpError;

/// Bytes of empty lines tolerated before the first line (RFC 9112 section 2.2), left by old clients behind a body.
const EMPTY_LINES_BYTES_MAX: usize = 8;

/// The bytes of one head so far.
///
/// Invariant: `scan.start <= scan.line <= scan.at <= bytes.len()`.
#[derive(Default, Debug)]
pub(super) struct HeadLines {
    bytes: Vec<u8>,
    scan: Scan,
}

/// A whole head: its lines without the empty ones before, with the empty one that ends it.
#[derive(Debug)]
pub(super) struct WholeHead {
    pub bytes: Vec<u8>,
    /// Bytes of the fed slice that belong to it.
    pub consumed: usize,
}

impl HeadLines {
    /// Takes bytes until a head is whole. Without one, all of them are taken.
    pub fn feed(&mut self, bytes: &[u8], bytes_max: usize) -> Result<Option<WholeHead>, HttpError> {
        let before = self.bytes.len();
        let room = bytes_max.saturating_sub(before).min(bytes.len());
        let window = bytes.get(..room).unwrap_or(bytes);
        // A head that comes whole, as most do, is copied once: into its own storage.
        let end = if before == 0 {
            self.scan.run(window)?
        } else {
            self.bytes.extend_from_slice(window);
            self.scan.run(&self.bytes)?
        };
        match end {
            Some(end) => Ok(Some(self.cut(window, before, end))),
            None if before + room >= bytes_max => Err(self.scan.too_large(bytes_max)),
            None => {
                if before == 0 {
                    self.bytes.extend_from_slice(window);
                }
                Ok(None)
            }
        }
    }

    /// Hands out `scan.start..end` and starts anew.
    fn cut(&mut self, window: &[u8], before: usize, end: usize) -> WholeHead {
        let start = std::mem::take(&mut self.scan).start;
        let bytes = if before == 0 {
            window.get(start..end).unwrap_or_default().to_vec()
        } else {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.truncate(end);
            bytes.drain(..start);
            bytes
        };
        WholeHead { bytes, consumed: end - before }
    }
}

/// How far the lines were looked at.
#[derive(Default, Debug)]
struct Scan {
    /// Where the first line begins, after empty ones.
    start: usize,
    /// Where the line being looked at begins.
    line: usize,
    /// The first byte not yet looked at.
    at: usize,
}

impl Scan {
    /// Where the head ends, once its empty line is there.
    fn run(&mut self, bytes: &[u8]) -> Result<Option<usize>, HttpError> {
        while let Some(found) = bytes.get(self.at..).and_then(|rest| memchr3(b'\r', b'\n', 0, rest)) {
            let at = self.at + found;
            match (bytes.get(at), bytes.get(at + 1)) {
                (Some(b'\r'), Some(b'\n')) => {
                    if self.line_ended(bytes, at)? {
                        return Ok(Some(at + 2));
                    }
                }
                (Some(b'\r'), None) => {
                    self.at = at;
                    return Ok(None);
                }
                // A CR or LF by itself, or a NUL: no head has them, and TLS or another protocol soon does.
                (Some(_) | None, _) => return Err(HttpError::Syntax),
            }
        }
        self.at = bytes.len();
        Ok(None)
    }

    /// A line ends at `end`. True if it is the empty one that ends the head.
    fn line_ended(&mut self, bytes: &[u8], end: usize) -> Result<bool, HttpError> {
        let (first, empty) = (self.line == self.start, self.line == end);
        if empty && !first {
            return Ok(true);
        }
        if !first && matches!(bytes.get(self.line), Some(b' ' | b'\t')) {
            return Err(HttpError::Syntax);
        }
        self.line = end + 2;
        self.at = self.line;
        if empty {
            self.start = self.line;
            if self.start > EMPTY_LINES_BYTES_MAX {
                return Err(HttpError::Syntax);
            }
        }
        Ok(false)
    }

    fn too_large(&self, bytes_max: usize) -> HttpError {
        if self.line == self.start { HttpError::TargetTooLong { bytes_max } } else { HttpError::HeadTooLarge { bytes_max } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_its_lines_without_the_empty_ones_before() {
        let wire = b"\r\n\r\nA\r\nB: c\r\n\r\nbody";
        for cut in 0..wire.len() - 4 {
            let mut lines = HeadLines::default();
            assert!(lines.feed(&wire[..cut], 100).unwrap().is_none(), "cut at {cut}");
            let whole = lines.feed(&wire[cut..], 100).unwrap().unwrap();
            assert_eq!((whole.bytes.as_slice(), cut + whole.consumed), (&b"A\r\nB: c\r\n\r\n"[..], 15), "cut at {cut}");
        }
    }
}
