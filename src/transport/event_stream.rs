//! Event streams (WHATWG HTML, server-sent events): fields, one per line, and a blank line to dispatch.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The reconnect delay, in milliseconds.
pub fn retry(out: &mut Vec<u8>, retry_ms: u64) {
    out.extend_from_slice(format!("retry: {retry_ms}\n").as_bytes());
}

/// Sets the position and dispatches nothing: an id and no data.
pub fn position(out: &mut Vec<u8>, token: &str) {
    id(out, token);
    out.push(b'\n');
}

/// An event with text. Every line of the text becomes a data line, whatever ended it; a reader joins them by LF.
pub fn event(out: &mut Vec<u8>, token: Option<&str>, name: Option<&str>, text: &[u8]) {
    if let Some(token) = token {
        id(out, token);
    }
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    for line in lines(text) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// An event with bytes: base64 under the name `binary`.
pub fn binary(out: &mut Vec<u8>, token: Option<&str>, bytes: &[u8]) {
    event(out, token, Some("binary"), STANDARD.encode(bytes).as_bytes());
}

/// A comment: keeps the connection alive and means nothing.
pub const KEEP_ALIVE: &[u8] = b":\n\n";

fn id(out: &mut Vec<u8>, token: &str) {
    out.extend_from_slice(b"id: ");
    out.extend_from_slice(token.as_bytes());
    out.push(b'\n');
}

/// Splits at CRLF, LF or CR; text without a break is one line, also if it is empty.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(at) = memchr::memchr2(b'\r', b'\n', text) else {
            rest = None;
            return Some(text);
        };
        let width = if text[at..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = Some(&text[at + width..]);
        Some(&text[..at])
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a browser would dispatch: last event id, event name, data (WHATWG HTML section 9.2.6).
    pub(crate) fn read(stream: &str) -> Vec<(String, String, String)> {
        let (mut id, mut name, mut data) = (String::new(), String::new(), None::<String>);
        let mut dispatched = Vec::new();
        let stream = stream.replace("\r\n", "\n").replace('\r', "\n");
        // A line that has not ended is not a line, and an event without its blank line is never dispatched.
        let ended = stream.rfind('\n').map_or("", |at| &stream[..at]);
        for line in ended.split('\n') {
            let (field, value) =
                line.split_once(':').map_or((line, ""), |(field, value)| (field, value.strip_prefix(' ').unwrap_or(value)));
            match (line, field) {
                ("", _) => {
                    if let Some(data) = data.take() {
                        dispatched.push((id.clone(), std::mem::take(&mut name), data));
                    }
                    name.clear();
                }
                (_, "id") => id = value.to_owned(),
                (_, "event") => name = value.to_owned(),
                (_, "data") => data = Some(data.map_or_else(|| value.to_owned(), |data| format!("{data}\n{value}"))),
                _ => {}
            }
        }
        dispatched
    }

    #[test]
    fn the_opening_sets_the_position_and_dispatches_nothing() {
        let mut out = Vec::new();
        retry(&mut out, 2417);
        position(&mut out, "Xk3v:41");
        assert_eq!(out, b"retry: 2417\nid: Xk3v:41\n\n");
        assert!(read(std::str::from_utf8(&out).unwrap()).is_empty());
    }

    #[test]
    fn an_event_cut_off_is_not_dispatched() {
        let mut out = Vec::new();
        event(&mut out, Some("e:1"), None, b"a");
        let stream = std::str::from_utf8(&out).unwrap();
        assert_eq!(read(stream), [("e:1".to_owned(), String::new(), "a".to_owned())]);
        for end in 0..stream.len() {
            assert!(read(&stream[..end]).is_empty(), "{:?}", &stream[..end]);
        }
    }

    #[test]
    fn every_kind_of_line_break_splits_data() {
        let mut out = Vec::new();
        event(&mut out, Some("e:1"), Some("up"), b"a\r\nb\rc\n\nd");
        assert_eq!(out, b"id: e:1\nevent: up\ndata: a\ndata: b\ndata: c\ndata: \ndata: d\n\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(events in prop::collection::vec(("[a-z0-9:]{1,9}", prop::option::of("[a-z]{1,9}"), "[ -~\u{e4}\n\r:]{0,40}"), 0..6)) {
            let mut out = Vec::new();
            for (token, name, text) in &events {
                event(&mut out, Some(token), name.as_deref(), text.as_bytes());
                out.extend_from_slice(KEEP_ALIVE);
            }
            let expected: Vec<_> = events.iter().map(|(token, name, text)| {
                (token.clone(), name.clone().unwrap_or_default(), text.replace("\r\n", "\n").replace('\r', "\n"))
            }).collect();
            prop_assert_eq!(read(std::str::from_utf8(&out).unwrap()), expected);
        }
    }
}
