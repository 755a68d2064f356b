//! Paths as routes see them (RFC 3986 section 6.2.2).

/// Normalises an absolute path: decodes escapes of unreserved characters, writes the other escapes in upper case, removes dot
/// segments. `None` for an escape that is none, a byte that may not be in a path, or dots that lead above the root.
#[must_use]
pub fn normalise(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', &[high, low, ref tail @ ..]) => {
                let byte = hex(high)? << 4 | hex(low)?;
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    bytes.push(byte);
                } else {
                    bytes.extend_from_slice(&[b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]);
                }
                rest = tail;
            }
            (b'%' | b'\\' | b'#', _) => return None,
            (byte, _) if !(0x21..=0x7e).contains(byte) => return None,
            (byte, _) => bytes.push(*byte),
        }
    }
    remove_dots(std::str::from_utf8(&bytes).ok()?)
}

fn remove_dots(path: &str) -> Option<String> {
    let mut segments: Vec<&str> = Vec::new();
    let count = path.split('/').skip(1).count();
    for (at, segment) in path.split('/').skip(1).enumerate() {
        let last = at + 1 == count;
        match segment {
            "." if last => segments.push(""),
            "." => {}
            ".." => {
                segments.pop()?;
                if last {
                    segments.push("");
                }
            }
            segment => segments.push(segment),
        }
    }
    Some(format!("/{}", segments.join("/")))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Decodes percent escapes once. `None` for an escape that is none. `plus` makes a plus sign a space, as in queries (WHATWG URL).
#[must_use]
pub fn decode(text: &str, plus: bool) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', &[high, low, ref tail @ ..]) => {
                bytes.push(hex(high)? << 4 | hex(low)?);
                tail
            }
            (b'%', _) => return None,
            (b'+', _) if plus => {
                bytes.push(b' ');
                tail
            }
            (byte, _) => {
                bytes.push(*byte);
                tail
            }
        };
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same_is_written_the_same() {
        for (path, expected) in [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/a/./b/../c", Some("/a/c")),
            ("/%63hannels/%2f", Some("/channels/%2F")),
            ("/a//b", Some("/a//b")),
            ("/a/..", Some("/")),
            ("/a/.", Some("/a/")),
            ("/%2e%2e/x", None),
            ("/..", None),
            ("/%zz", None),
            ("/%a", None),
            ("/a\\b", None),
            ("/a b", None),
        ] {
            assert_eq!(normalise(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn decoding_happens_once() {
        assert_eq!(decode("%2541", false).as_deref(), Some(b"%41".as_slice()));
        assert_eq!(decode("a+b", true).as_deref(), Some(b"a b".as_slice()));
        assert_eq!(decode("a+b", false).as_deref(), Some(b"a+b".as_slice()));
        assert_eq!(decode("%4", false), None);
    }
}
