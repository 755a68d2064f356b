//! Heads of the two endless responses, event stream and NDJSON.

use crate::http::body::write_chunk;
use crate::http::cors::Cors;
use crate::http::response;

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StreamKind {
    /// `text/event-stream`, what a browser's `EventSource` reads.
    EventStream,
    /// `application/x-ndjson`: a JSON object on each line.
    NdJson,
}

/// NDJSON's keep-alive: an empty object, since a blank line breaks naive readers.
pub const NDJSON_KEEP_ALIVE: &[u8] = b"{}\n";

/// The head. In HTTP/1.0 there are no chunks: the end of the connection is the end of the stream.
#[must_use]
pub fn head(kind: StreamKind, date: &str, http11: bool, cors: &Cors) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    response::status_line(&mut out, 200);
    response::field(&mut out, "Date", date);
    let content_type = match kind {
        StreamKind::EventStream => "text/event-stream",
        StreamKind::NdJson => "application/x-ndjson",
    };
    response::field(&mut out, "Content-Type", content_type);
    response::field(&mut out, "Cache-Control", "no-store");
    response::field(&mut out, "X-Accel-Buffering", "no");
    for (name, value) in cors.fields() {
        response::field(&mut out, name, &value);
    }
    if http11 {
        response::field(&mut out, "Transfer-Encoding", "chunked");
    } else {
        response::field(&mut out, "Connection", "close");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Content as it goes on the wire: one chunk, or bare in HTTP/1.0.
#[must_use]
pub fn content(bytes: Vec<u8>, chunked: bool) -> Vec<u8> {
    if !chunked {
        return bytes;
    }
    let mut out = Vec::with_capacity(bytes.len() + 12);
    write_chunk(&mut out, &bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: StreamKind, http11: bool, cors: &Cors, expected: &str) {
        assert_eq!(
            String::from_utf8(head(kind, "D", http11, cors)).unwrap(),
            format!("HTTP/1.1 200 OK\r\nDate: D\r\n{expected}\r\n")
        );
    }

    #[test]
    fn a_stream_opens_with_what_its_readers_and_proxies_need() {
        let fields = |kind: &str| format!("Content-Type: {kind}\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n");
        let (events, lines) = (fields("text/event-stream"), fields("application/x-ndjson"));
        let chunked = "Transfer-Encoding: chunked\r\n";
        check(StreamKind::EventStream, true, &Cors::None, &format!("{events}{chunked}"));
        check(StreamKind::NdJson, true, &Cors::None, &format!("{lines}{chunked}"));
        check(StreamKind::EventStream, false, &Cors::None, &format!("{events}Connection: close\r\n"));
        let any = "Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: ETag, Retry-After\r\n";
        check(StreamKind::EventStream, true, &Cors::Any, &format!("{events}{any}{chunked}"));
        let echo = any.replace('*', "https://x.org") + "Vary: Origin\r\n";
        check(StreamKind::NdJson, true, &Cors::Echo("https://x.org".into()), &format!("{lines}{echo}{chunked}"));
    }

    #[test]
    fn content_is_one_chunk_and_never_the_last() {
        assert_eq!(content(b"0123456789abcdefg".to_vec(), true), b"11\r\n0123456789abcdefg\r\n");
        assert_eq!(content(b"a".to_vec(), false), b"a");
        assert_eq!(content(Vec::new(), true), b"", "an empty chunk would end the stream");
    }
}
