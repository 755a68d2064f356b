//! The wire, seen from the load's end: unmasked frames in, masked frames out, response heads, chunked bodies.
//!
//! Every reader takes the bytes there are and says `None` (or what it used) when a unit is not whole yet.

use std::ops::Range;

/// A head larger than this is not an answer to a request of ours.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// Frames and bodies above this do not fit the shared receive buffer.
pub const UNIT_BYTES_MAX: usize = 192 * 1024;

/// A frame's first byte, beside FIN and the opcode.
const RSV1: u8 = 0x40;
const RSV2: u8 = 0x20;
const RSV3: u8 = 0x10;

/// The key and answer of RFC 6455 section 1.3: a load needs no secret, and so each answer can be checked.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What the server sent that no server of ours may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    ReservedBits,
    Masked,
    Opcode(u8),
    Fragmented,
    TooLarge { bytes: u64 },
    Head,
    NoLength,
    Chunk,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn parse(code: u8) -> Result<Self, WireError> {
        match code {
            0x0 => Err(WireError::Fragmented),
            0x1 => Ok(Self::Text),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xa => Ok(Self::Pong),
            other => Err(WireError::Opcode(other)),
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }
}

/// One whole, unfragmented frame from the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerFrame<'a> {
    pub opcode: Opcode,
    pub payload: &'a [u8],
    /// The payload is the message compressed (RSV1, RFC 7692 section 6).
    pub compressed: bool,
    /// Bytes of the frame with its header.
    pub bytes: usize,
}

/// The frame that `bytes` starts with (RFC 6455 section 5.2); `None` when more bytes are needed. `deflate`: messages may come
/// compressed, as that was agreed on.
pub fn server_frame(bytes: &[u8], deflate: bool) -> Result<Option<ServerFrame<'_>>, WireError> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    let compressed = first & RSV1 != 0;
    let is_control = first & 0x08 != 0;
    if first & (RSV2 | RSV3) != 0 || compressed && (!deflate || is_control) {
        return Err(WireError::ReservedBits);
    }
    if second & 0x80 != 0 {
        return Err(WireError::Masked);
    }
    if first & 0x80 == 0 {
        return Err(WireError::Fragmented);
    }
    let opcode = Opcode::parse(first & 0x0f)?;
    let Some((length, header)) = length(second & 0x7f, rest) else { return Ok(None) };
    if length > UNIT_BYTES_MAX as u64 {
        return Err(WireError::TooLarge { bytes: length });
    }
    let end = header + length as usize;
    Ok(bytes.get(header..end).map(|payload| ServerFrame { opcode, payload, compressed, bytes: end }))
}

/// The payload's length, and where it starts in the frame.
fn length(short: u8, rest: &[u8]) -> Option<(u64, usize)> {
    match short {
        126 => rest.first_chunk::<2>().map(|field| (u64::from(u16::from_be_bytes(*field)), 4)),
        127 => rest.first_chunk::<8>().map(|field| (u64::from_be_bytes(*field), 10)),
        short => Some((u64::from(short), 2)),
    }
}

/// Appends one masked frame. The key may be constant: a load hides nothing from a proxy's cache.
pub fn client_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    const MASK: [u8; 4] = [0x5a, 0xc3, 0x3c, 0xa5];
    out.push(0x80 | opcode.code());
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// What the load needs to know of a response's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseHead {
    pub status: u16,
    pub head_bytes: usize,
    pub content_length: Option<usize>,
    pub chunked: bool,
    /// The upgrade's answer is right.
    pub accepted: bool,
}

impl ResponseHead {
    /// Whether the body goes on until the server ends it.
    pub const fn is_endless(&self) -> bool {
        self.content_length.is_none()
    }
}

/// The response head that `bytes` starts with; `None` when it is not whole.
pub fn response_head(bytes: &[u8]) -> Result<Option<ResponseHead>, WireError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(WireError::Head),
    };
    let mut head =
        ResponseHead { status: response.code.unwrap_or(0), head_bytes, content_length: None, chunked: false, accepted: false };
    for header in response.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| WireError::Head)?;
        if header.name.eq_ignore_ascii_case("content-length") {
            head.content_length = Some(value.parse().map_err(|_| WireError::Head)?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            head.chunked = value.eq_ignore_ascii_case("chunked");
        } else if header.name.eq_ignore_ascii_case("sec-websocket-accept") {
            head.accepted = value == ACCEPT;
        }
    }
    Ok(Some(head))
}

/// A header's value in a whole head; `None` where it is not there or no text.
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(head).ok()?;
    let found = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(found.value).ok()
}

/// A whole response with its body in one piece: the head, and where the body is.
pub fn response(bytes: &[u8]) -> Result<Option<(ResponseHead, Range<usize>)>, WireError> {
    let Some(head) = response_head(bytes)? else { return Ok(None) };
    let length = head.content_length.ok_or(WireError::NoLength)?;
    if length > UNIT_BYTES_MAX {
        return Err(WireError::TooLarge { bytes: length as u64 });
    }
    let end = head.head_bytes + length;
    Ok((bytes.len() >= end).then_some((head, head.head_bytes..end)))
}

/// Takes the chunks away from a chunked body (RFC 9112 section 7.1), however the bytes are split.
#[derive(Default, Debug)]
pub struct Chunks {
    place: Place,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Place {
    #[default]
    Size0,
    Size(u64),
    Extension(u64),
    Body(u64),
    /// The CRLF after a chunk, and how much of it was seen.
    After(u8),
    End,
}

impl Chunks {
    /// Appends the body bytes found in `bytes` to `body`.
    pub fn read(&mut self, mut bytes: &[u8], body: &mut Vec<u8>) -> Result<(), WireError> {
        while let Some((&byte, rest)) = bytes.split_first() {
            self.place = match self.place {
                Place::Body(left) => {
                    let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (chunk, after) = bytes.split_at(taken);
                    body.extend_from_slice(chunk);
                    bytes = after;
                    self.place = if left == taken as u64 { Place::After(0) } else { Place::Body(left - taken as u64) };
                    continue;
                }
                place => step(place, byte)?,
            };
            bytes = rest;
        }
        Ok(())
    }

    /// The last chunk was seen.
    pub fn ended(&self) -> bool {
        self.place == Place::End
    }
}

/// One byte between the bodies of two chunks.
fn step(place: Place, byte: u8) -> Result<Place, WireError> {
    match (place, byte) {
        (Place::Size0, _) => Ok(Place::Size(digit(byte)?)),
        (Place::Size(size) | Place::Extension(size), b'\n') => Ok(if size == 0 { Place::End } else { Place::Body(size) }),
        (Place::Size(size), b'\r' | b';') => Ok(Place::Extension(size)),
        (Place::Size(size), _) if size < UNIT_BYTES_MAX as u64 * 16 => Ok(Place::Size(size * 16 + digit(byte)?)),
        (Place::Extension(size), _) => Ok(Place::Extension(size)),
        (Place::After(0), b'\r') => Ok(Place::After(1)),
        (Place::After(1), b'\n') => Ok(Place::Size0),
        (Place::End, _) => Ok(Place::End),
        (Place::Size(_) | Place::After(_) | Place::Body(_), _) => Err(WireError::Chunk),
    }
}

fn digit(byte: u8) -> Result<u64, WireError> {
    char::from(byte).to_digit(16).map(u64::from).ok_or(WireError::Chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            short @ 0..=125 => frame.push(short as u8),
            medium @ 126..=0xffff => {
                frame.push(126);
                frame.extend((medium as u16).to_be_bytes());
            }
            long => {
                frame.push(127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    #[test]
    fn frames_of_each_length_are_read_once_whole() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
            let payload = vec![7u8; length];
            let wire = unmasked(1, &payload);
            for cut in [0, 1, 2, 3, wire.len() / 2, wire.len() - 1] {
                if cut < wire.len() {
                    assert_eq!(server_frame(&wire[..cut], false), Ok(None), "{length} cut at {cut}");
                }
            }
            let frame = server_frame(&wire, false).expect("valid").expect("whole");
            assert_eq!((frame.opcode, frame.payload, frame.bytes), (Opcode::Text, &payload[..], wire.len()));
        }
    }

    #[track_caller]
    fn check_refused(wire: &[u8], error: WireError) {
        assert_eq!(server_frame(wire, false), Err(error));
    }

    #[test]
    fn what_no_server_may_send_is_refused() {
        check_refused(&[0xc1, 0], WireError::ReservedBits);
        check_refused(&[0x81, 0x80], WireError::Masked);
        check_refused(&[0x01, 0], WireError::Fragmented);
        check_refused(&[0x80, 0], WireError::Fragmented);
        check_refused(&[0x83, 0], WireError::Opcode(3));
        check_refused(&[0x81, 127, 0, 0, 1, 0, 0, 0, 0, 0], WireError::TooLarge { bytes: 1 << 40 });
    }

    #[test]
    fn rfc7692_6_rsv1_is_for_messages_where_it_was_agreed_on() {
        for (first, compressed) in
            [(0xc1, Ok(true)), (0x81, Ok(false)), (0xc9, Err(())), (0xc8, Err(())), (0xa1, Err(())), (0xd1, Err(()))]
        {
            let got = server_frame(&[first, 0], true).map(|frame| frame.expect("whole").compressed);
            assert_eq!(got, compressed.map_err(|()| WireError::ReservedBits), "{first:02x}");
        }
    }

    proptest! {
        #[test]
        fn a_stock_server_reads_our_frames(payload in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            let mut wire = Vec::new();
            client_frame(&mut wire, Opcode::Binary, &payload);
            let mut socket = tungstenite::protocol::WebSocket::from_raw_socket(
                std::io::Cursor::new(wire), tungstenite::protocol::Role::Server, None);
            prop_assert_eq!(socket.read().expect("a whole frame").into_data().to_vec(), payload);
        }

        #[test]
        fn chunks_mean_the_same_however_split(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8),
            step in 1usize..40,
        ) {
            let mut wire = Vec::new();
            for part in &parts {
                wire.extend(format!("{:X};x=1\r\n", part.len()).into_bytes());
                wire.extend(part);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
            let (mut chunks, mut body) = (Chunks::default(), Vec::new());
            for bytes in wire.chunks(step) {
                prop_assert!(!chunks.ended() || bytes.iter().all(|byte| b"\r\n".contains(byte)));
                chunks.read(bytes, &mut body).expect("valid chunks");
            }
            prop_assert!(chunks.ended());
            prop_assert_eq!(body, parts.concat());
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for wire in ["x\r\n", "3\r\nabcX", "fffffffff\r\n", "\r\n"] {
            assert_eq!(Chunks::default().read(wire.as_bytes(), &mut Vec::new()), Err(WireError::Chunk), "{wire:?}");
        }
    }

    #[test]
    fn a_response_is_read_once_whole() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP";
        for cut in 0..wire.len() - 4 {
            assert_eq!(response(&wire[..cut]), Ok(None), "cut at {cut}");
        }
        let (head, body) = response(wire).expect("valid").expect("whole");
        assert_eq!((head.status, &wire[body]), (200, &b"hello"[..]));
        assert_eq!(response(b"HTTP/1.1 200 OK\r\n\r\n"), Err(WireError::NoLength));
    }
}
