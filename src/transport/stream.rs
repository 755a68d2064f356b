//! Heads of the two endless responses, event stream and NDJSON.

use crate::http::body::write_chunk;
use crate::http::cors::Cors;
use crate::http::response;

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StreamKind {
    EventStream,
    NdJson,
}

/// NDJSON's keep-alive: an empty object, since a blank line breaks naive readers.
pub const NDJSON_KEEP_ALIVE: &[u8] = b"{}\n";

/// The head. In HTTP/1.0 there are no chunks: the end of the connection is the end of the stream.
#[must_use]
pub fn head(kind: StreamKind, http11: bool, cors: &Cors) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    response::status_line(&mut out, 200);
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
