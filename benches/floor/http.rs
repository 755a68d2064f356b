//! Just enough HTTP and WebSocket for the load: two requests, and the bytes that answer them.

use std::ops::Range;

const HEADERS_MAX: usize = 32;
/// Eleven digits, as an epoch of ringmain has: the same bytes on the wire.
const EPOCH: &str = "floor000000";

/// One whole request.
pub enum Asked {
    Subscribe {
        key: String,
        channel: String,
    },
    /// Where the payload is, and how many bytes the request has.
    Publish {
        channel: String,
        payload: Range<usize>,
        bytes: usize,
    },
    Other,
}

/// The request that `received` starts with; `None` when it is not whole.
pub fn read(received: &[u8]) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(received) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return None,
        Err(_) => return Some(Asked::Other),
    };
    let header = |name: &str| {
        let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let path = request.path.and_then(|path| path.strip_prefix("/channels/")).unwrap_or_default();
    let channel = percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
    match (request.method, header("sec-websocket-key"), header("content-length").and_then(|value| value.parse().ok())) {
        (Some("GET"), Some(key), _) => Some(Asked::Subscribe { key: key.to_owned(), channel }),
        (Some("POST"), _, Some(length)) => {
            let bytes = head_bytes.checked_add(length)?;
            (received.len() >= bytes).then_some(Asked::Publish { channel, payload: head_bytes..bytes, bytes })
        }
        _ => Some(Asked::Other),
    }
}

/// The answer to an upgrade.
pub fn upgraded(key: &str) -> Vec<u8> {
    let accept = ringmain::ws::handshake::accept_key(key);
    let accept = String::from_utf8_lossy(&accept);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}

/// The first frame of a subscriber: where it is.
pub fn subscribed(channel: &str, offset: u64) -> Vec<u8> {
    let item = format!("{{\"subscribed\":{{\"channel\":\"{channel}\",\"position\":\"{EPOCH}:{offset}\",\"recovered\":true}}}}");
    let mut frame = Vec::new();
    text_frame(&mut frame, item.len());
    frame.extend_from_slice(item.as_bytes());
    frame
}

/// One publication's frame.
pub fn encode(frame: &mut Vec<u8>, channel: &str, offset: u64, payload: &[u8]) {
    let open = format!("{{\"channel\":\"{channel}\",\"position\":\"{EPOCH}:{offset}\",\"data\":");
    text_frame(frame, open.len() + payload.len() + 1);
    frame.extend_from_slice(open.as_bytes());
    frame.extend_from_slice(payload);
    frame.push(b'}');
}

/// The header of a text frame.
fn text_frame(frame: &mut Vec<u8>, length: usize) {
    frame.push(0x81);
    match length {
        short @ 0..=125 => frame.push(short as u8),
        medium @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
}

/// The reply to a publication.
pub fn published(channel: &str, offset: u64) -> Vec<u8> {
    let body = format!("{{\"channel\":\"{channel}\",\"position\":\"{EPOCH}:{offset}\"}}");
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
