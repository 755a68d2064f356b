//! Paths as routes see them (RFC 3986 section 6.2.2).

use std::borrow::Cow;

/// Normalises an absolute path: decodes escapes of unreserved characters, writes the other escapes in upper case, removes dot
/// segments. `None` for an escape that is none, a byte that may not be in a path, or dots that lead above the root.
#[must_use]
pub fn normalise(path: &str) -> Option<Cow<'_, str>> {
    // As most are sent.
    if is_normal(path) {
        return Some(Cow::Borrowed(path));
    }
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
    remove_dots(std::str::from_utf8(&bytes).ok()?).map(Cow::Owned)
}

/// Whether nothing is escaped, no segment begins with a dot, and every byte may be there.
fn is_normal(path: &str) -> bool {
    let plain = |byte: u8| matches!(byte, 0x21..=0x7e) && !matches!(byte, b'%' | b'\\' | b'#');
    path.starts_with('/') && path.bytes().all(plain) && !path.as_bytes().windows(2).any(|pair| pair == b"/.")
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
    use proptest::prelude::*;

    #[test]
    fn what_means_the_same_is_written_the_same() {
        for (path, expected) in [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/a/./b/../c", Some("/a/c")),
            ("/%63hannels/%2f", Some("/channels/%2F")),
            ("/a//b", Some("/a//b")),
            ("/.a/b.c/", Some("/.a/b.c/")),
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

    fn any_path() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just("/".to_owned()),
            Just(".".to_owned()),
            Just("..".to_owned()),
            "%2[0-9a-fA-F]".prop_map(String::from),
            "%[0-9a-fA-F]{2}".prop_map(String::from),
            "[a-z~!;@]{1,3}".prop_map(String::from),
            "[ -~é]".prop_map(String::from),
        ];
        prop::collection::vec(part, 0..12).prop_map(|parts| format!("/{}", parts.concat()))
    }

    proptest! {
        #[test]
        fn a_normal_path_is_normal(path in any_path()) {
            let Some(normal) = normalise(&path) else { return Ok(()) };
            prop_assert_eq!(normalise(&normal), Some(normal.clone()), "twice is once");
            prop_assert!(normal.starts_with('/'));
            prop_assert!(normal.split('/').all(|segment| segment != "." && segment != ".."), "{normal}");
            for escape in normal.split('%').skip(1) {
                let byte = u8::from_str_radix(&escape[..2], 16).unwrap();
                prop_assert!(!byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte), "{normal} escapes what needs none");
                prop_assert!(!escape[..2].contains(|digit: char| digit.is_ascii_lowercase()), "{normal}");
            }
        }

        #[test]
        fn without_dots_only_the_spelling_changes(path in any_path()) {
            let Some(normal) = normalise(&path) else { return Ok(()) };
            let (before, after) = (decode(&path, false).unwrap(), decode(&normal, false).unwrap());
            let dots = before.split(|byte| *byte == b'/').any(|segment| segment == b"." || segment == b"..");
            prop_assert!(dots || before == after, "{path} became {normal}");
        }

        #[test]
        fn however_a_path_is_escaped_it_is_the_same(path in "/[a-z0-9._~/-]{0,20}", escaped in prop::collection::vec(any::<bool>(), 21), upper: bool) {
            let spelled: String = path.chars().enumerate().map(|(at, character)| match character {
                '/' => "/".to_owned(),
                character if !escaped[at] => character.to_string(),
                character if upper => format!("%{:02X}", u32::from(character)),
                character => format!("%{:02x}", u32::from(character)),
            }).collect();
            prop_assert_eq!(normalise(&spelled), normalise(&path));
        }

        #[test]
        fn no_path_panics(path in "\\PC{0,30}|[%./0-9a-f\\\\]{0,30}", plus: bool) {
            let _ = (normalise(&path), decode(&path, plus));
        }
    }
}
