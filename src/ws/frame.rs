//! WebSocket frame decoder (RFC 6455 section 5). Pure: bytes in, messages out.
//!
//! ```text
//!   bytes ──▶ [header] ──▶ [unmask in place] ──▶ whole message in the buffer: handed out borrowed, no copy
//!                │                    └────────▶ fragment or part: [join] ──▶ [inflate] ──▶ message
//!                └──▶ FrameError ──▶ close code
//! ```
//!
//! An idle decoder is two words: everything that lives longer than one call is boxed and freed with the message.

use std::borrow::Cow;
use std::fmt;

use super::code::CloseCode;
use super::deflate::{InflateError, Inflater};
use super::encode::CONTROL_PAYLOAD_BYTES_MAX;
use super::{Options, mask};

/// Bytes of the longest header: two, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;

/// What arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// Valid UTF-8.
    Text(Cow<'a, [u8]>),
    Binary(Cow<'a, [u8]>),
    Ping(Cow<'a, [u8]>),
    Pong(Cow<'a, [u8]>),
    /// The peer closes, with its code if it gave one.
    Close(Option<CloseCode>),
}

/// What a peer did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    ReservedBits,
    Opcode(u8),
    ControlFragmented,
    ControlTooLong {
        bytes: u64,
    },
    /// A client must mask, a server must not.
    Masking,
    /// The length was not encoded in the fewest bytes, or has its top bit set.
    Length,
    UnexpectedContinuation,
    ContinuationExpected,
    TooLarge {
        bytes_max: usize,
    },
    TooManyFragments {
        fragments_max: u32,
    },
    Utf8,
    CloseCode(u16),
    CloseTruncated,
    Compression,
}

impl FrameError {
    /// The code to close with (RFC 6455 section 7.4.1).
    #[must_use]
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::ReservedBits
            | Self::Opcode(_)
            | Self::ControlFragmented
            | Self::ControlTooLong { .. }
            | Self::Masking
            | Self::Length
            | Self::UnexpectedContinuation
            | Self::ContinuationExpected
            | Self::CloseCode(_)
            | Self::CloseTruncated => CloseCode::PROTOCOL_ERROR,
            Self::TooLarge { .. } => CloseCode::MESSAGE_TOO_BIG,
            Self::TooManyFragments { .. } => CloseCode::POLICY_VIOLATION,
            Self::Utf8 | Self::Compression => CloseCode::INVALID_PAYLOAD,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBits => write!(f, "reserved bits without an extension"),
            Self::Opcode(opcode) => write!(f, "opcode 0x{opcode:x} is reserved"),
            Self::ControlFragmented => write!(f, "fragmented control frame"),
            Self::ControlTooLong { bytes } => write!(f, "control frame of {bytes} bytes"),
            Self::Masking => write!(f, "wrong masking"),
            Self::Length => write!(f, "bad length encoding"),
            Self::UnexpectedContinuation => write!(f, "continuation without a message"),
            Self::ContinuationExpected => write!(f, "new message inside a fragmented one"),
            Self::TooLarge { bytes_max } => write!(f, "message over {bytes_max} bytes"),
            Self::TooManyFragments { fragments_max } => write!(f, "message of over {fragments_max} fragments"),
            Self::Utf8 => write!(f, "text is not UTF-8"),
            Self::CloseCode(code) => write!(f, "close code {code} may not be sent"),
            Self::CloseTruncated => write!(f, "close frame with half a code"),
            Self::Compression => write!(f, "compressed data is damaged"),
        }
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    /// Whether frames must be unmasked: they come from a server.
    from_server: bool,
}

/// What has arrived of something longer.
#[derive(Debug, Default)]
struct Partial {
    /// Invariant: `header_length <= HEADER_BYTES_MAX`; not zero only while a header is incomplete.
    header: [u8; HEADER_BYTES_MAX],
    header_length: usize,
    frame: Option<Frame>,
    control: Vec<u8>,
    message: Option<Message>,
}

/// A frame whose header has been read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    fin: bool,
    compressed: bool,
    opcode: u8,
    mask: [u8; 4],
    /// Payload bytes, and how many of them have arrived. Invariant: `received <= length`.
    length: usize,
    received: usize,
}

/// A message whose last frame has not arrived.
#[derive(Debug)]
struct Message {
    text: bool,
    compressed: bool,
    fragments: u32,
    data: Vec<u8>,
    /// Bytes of `data` known to be whole, valid UTF-8.
    valid: usize,
}

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

impl Frame {
    const fn is_control(&self) -> bool {
        self.opcode & 0x8 != 0
    }
}

impl Decoder {
    /// Decodes what clients send.
    #[must_use]
    pub const fn server() -> Self {
        Self { partial: None, from_server: false }
    }

    /// Decodes what servers send.
    #[must_use]
    pub const fn client() -> Self {
        Self { partial: None, from_server: true }
    }

    /// Takes the next event off the front of `bytes`, unmasking in place. `None` when all bytes are used up.
    ///
    /// `inflater` is given where permessage-deflate was negotiated.
    ///
    /// # Errors
    /// What the peer did wrong; the connection must be closed with [`FrameError::close_code`].
    pub fn next<'a>(
        &mut self,
        bytes: &mut &'a mut [u8],
        options: &Options,
        inflater: Option<&mut Inflater>,
    ) -> Result<Option<Event<'a>>, FrameError> {
        let mut inflater = inflater;
        loop {
            let frame = match self.partial.as_ref().and_then(|partial| partial.frame) {
                Some(frame) => frame,
                None => match self.read_header(bytes, inflater.is_some())? {
                    Some(frame) => {
                        self.admit(&frame, options)?;
                        frame
                    }
                    None => return Ok(None),
                },
            };
            if let Some(event) = self.read_payload(frame, bytes, options, &mut inflater)? {
                return Ok(Some(event));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
        }
    }

    fn read_header(&mut self, bytes: &mut &mut [u8], deflate: bool) -> Result<Option<Frame>, FrameError> {
        let kept = self.partial.as_ref().map_or(0, |partial| partial.header_length);
        if kept == 0 {
            if let Some((frame, length)) = self.parse_header(bytes, deflate)? {
                advance(bytes, length);
                return Ok(Some(frame));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
        }
        // A header cut by the end of a buffer: join it byte by byte, at most fourteen of them.
        let mut partial = self.partial.take().unwrap_or_default();
        while let Some((&mut byte, _)) = bytes.split_first_mut() {
            partial.header[partial.header_length] = byte;
            partial.header_length += 1;
            advance(bytes, 1);
            if let Some((frame, _)) = self.parse_header(&partial.header[..partial.header_length], deflate)? {
                partial.header_length = 0;
                self.partial = Some(partial);
                return Ok(Some(frame));
            }
        }
        self.partial = Some(partial);
        Ok(None)
    }

    /// Reads a header off the front, if it is there whole: the frame and the header's length.
    fn parse_header(&self, bytes: &[u8], deflate: bool) -> Result<Option<(Frame, usize)>, FrameError> {
        let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
        let (fin, reserved, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0f);
        let control = opcode & 0x8 != 0;
        let compressed = reserved == 0x40 && deflate && matches!(opcode, TEXT | BINARY);
        if reserved != 0 && !compressed {
            return Err(FrameError::ReservedBits);
        }
        if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err(FrameError::Opcode(opcode));
        }
        if control && !fin {
            return Err(FrameError::ControlFragmented);
        }
        if (second & 0x80 == 0) != self.from_server {
            return Err(FrameError::Masking);
        }
        let (length, length_bytes) = match (second & 0x7f, rest) {
            (126, &[a, b, ..]) => (u64::from(u16::from_be_bytes([a, b])), 2),
            (127, &[a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 8),
            (126 | 127, _) => return Ok(None),
            (short, _) => (u64::from(short), 0),
        };
        let minimal = match length_bytes {
            2 => length > 125,
            8 => length > u64::from(u16::MAX) && length >> 63 == 0,
            _ => true,
        };
        if !minimal {
            return Err(FrameError::Length);
        }
        if control && length > CONTROL_PAYLOAD_BYTES_MAX as u64 {
            return Err(FrameError::ControlTooLong { bytes: length });
        }
        let (mask, mask_bytes) = match (self.from_server, &rest[length_bytes..]) {
            (true, _) => ([0; 4], 0),
            (false, &[a, b, c, d, ..]) => ([a, b, c, d], 4),
            (false, _) => return Ok(None),
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        Ok(Some((Frame { fin, compressed, opcode, mask, length, received: 0 }, 2 + length_bytes + mask_bytes)))
    }

    /// Checks a frame against the message it belongs to and the limits, before a byte of it is stored.
    fn admit(&self, frame: &Frame, options: &Options) -> Result<(), FrameError> {
        if frame.is_control() {
            return Ok(());
        }
        let message = self.partial.as_ref().and_then(|partial| partial.message.as_ref());
        match (message, frame.opcode) {
            (None, CONTINUATION) => return Err(FrameError::UnexpectedContinuation),
            (Some(_), TEXT | BINARY) => return Err(FrameError::ContinuationExpected),
            _ => {}
        }
        let bytes = message.map_or(0, |message| message.data.len()).saturating_add(frame.length);
        if bytes > options.message_bytes_max {
            return Err(FrameError::TooLarge { bytes_max: options.message_bytes_max });
        }
        if message.map_or(0, |message| message.fragments) >= options.fragments_max {
            return Err(FrameError::TooManyFragments { fragments_max: options.fragments_max });
        }
        Ok(())
    }

    fn read_payload<'a>(
        &mut self,
        mut frame: Frame,
        bytes: &mut &'a mut [u8],
        options: &Options,
        inflater: &mut Option<&mut Inflater>,
    ) -> Result<Option<Event<'a>>, FrameError> {
        let available = bytes.len().min(frame.length - frame.received);
        let payload = advance(bytes, available);
        if !self.from_server {
            mask::apply(payload, frame.mask, frame.received);
        }
        let whole = frame.received == 0 && available == frame.length;
        let in_message = self.partial.as_ref().is_some_and(|partial| partial.message.is_some());
        if whole && (frame.is_control() || (frame.fin && !in_message)) {
            if let Some(partial) = &mut self.partial {
                partial.frame = None;
            }
            self.forget_empty();
            return finish(frame.opcode, frame.compressed, Cow::Borrowed(payload), false, options, inflater).map(Some);
        }
        frame.received += available;
        let partial = self.partial.get_or_insert_default();
        partial.append(&frame, payload)?;
        if frame.received < frame.length {
            partial.frame = Some(frame);
            return Ok(None);
        }
        partial.frame = None;
        let event = partial.complete(&frame);
        self.forget_empty();
        event
            .map(|(opcode, compressed, data, valid)| finish(opcode, compressed, Cow::Owned(data), valid, options, inflater))
            .transpose()
    }

    /// Frees the box when nothing is on its way.
    fn forget_empty(&mut self) {
        let idle = |partial: &Partial| {
            partial.header_length == 0 && partial.frame.is_none() && partial.message.is_none() && partial.control.is_empty()
        };
        if self.partial.as_ref().is_some_and(|partial| idle(partial)) {
            self.partial = None;
        }
    }
}

impl Partial {
    fn append(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), FrameError> {
        if frame.is_control() {
            self.control.extend_from_slice(payload);
            return Ok(());
        }
        let message = self.message.get_or_insert_with(|| Message {
            text: frame.opcode == TEXT,
            compressed: frame.compressed,
            fragments: 0,
            data: Vec::new(),
            valid: 0,
        });
        message.fragments += u32::from(frame.received == frame.length);
        message.data.extend_from_slice(payload);
        if message.text && !message.compressed { message.check_utf8() } else { Ok(()) }
    }

    /// Takes out what the frame completes: opcode, compressed, data, whether it is known to be UTF-8.
    fn complete(&mut self, frame: &Frame) -> Option<(u8, bool, Vec<u8>, bool)> {
        if frame.is_control() {
            return Some((frame.opcode, false, std::mem::take(&mut self.control), false));
        }
        let message = if frame.fin { self.message.take()? } else { return None };
        let valid = message.valid == message.data.len();
        Some((if message.text { TEXT } else { BINARY }, message.compressed, message.data, valid))
    }
}

impl Message {
    /// Fails on the first byte that no continuation can make valid.
    fn check_utf8(&mut self) -> Result<(), FrameError> {
        match simdutf8::compat::from_utf8(&self.data[self.valid..]) {
            Ok(text) => self.valid += text.len(),
            Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
            Err(_) => return Err(FrameError::Utf8),
        }
        Ok(())
    }
}

/// Makes an event of a whole message or control frame.
fn finish<'a>(
    opcode: u8,
    compressed: bool,
    data: Cow<'a, [u8]>,
    valid: bool,
    options: &Options,
    inflater: &mut Option<&mut Inflater>,
) -> Result<Event<'a>, FrameError> {
    let data = match inflater {
        Some(inflater) if compressed => {
            Cow::Owned(inflater.inflate(&data, options.message_bytes_max).map_err(|error| match error {
                InflateError::Damaged => FrameError::Compression,
                InflateError::TooLarge => FrameError::TooLarge { bytes_max: options.message_bytes_max },
            })?)
        }
        _ => data,
    };
    match opcode {
        TEXT if valid || simdutf8::basic::from_utf8(&data).is_ok() => Ok(Event::Text(data)),
        TEXT => Err(FrameError::Utf8),
        CLOSE => close(&data).map(Event::Close),
        PING => Ok(Event::Ping(data)),
        PONG => Ok(Event::Pong(data)),
        _ => Ok(Event::Binary(data)),
    }
}

fn close(payload: &[u8]) -> Result<Option<CloseCode>, FrameError> {
    match payload {
        [] => Ok(None),
        [_] => Err(FrameError::CloseTruncated),
        &[a, b, ref reason @ ..] => {
            let code = CloseCode(u16::from_be_bytes([a, b]));
            if !code.may_be_sent() {
                return Err(FrameError::CloseCode(code.0));
            }
            simdutf8::basic::from_utf8(reason).map_err(|_| FrameError::Utf8)?;
            Ok(Some(code))
        }
    }
}

/// Splits bytes off the front.
fn advance<'a>(bytes: &mut &'a mut [u8], count: usize) -> &'a mut [u8] {
    let (front, rest) = std::mem::take(bytes).split_at_mut(count);
    *bytes = rest;
    front
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
