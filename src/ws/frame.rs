//! The decoder: bytes as they arrive become messages and control frames (RFC 6455 sections 5 and 6.2).
//!
//! ```text
//!                 ┌── whole frame in the buffer: unmasked in place, handed out borrowed ──────────────┐
//!   bytes ── boundary                                                                                 ├──> Event
//!                 └── cut frame or fragment: copied to Partial ── last piece ── moved to Scratch ─────┘
//! ```
//!
//! Invariants: between calls a connection owns a `Partial` only if the stream stopped inside a frame or a message; text in it
//! is valid UTF-8 as far as it has come; its size was checked against the limits on each frame's header, before a byte was
//! stored. After a Close or an error nothing more is decoded (section 5.5.1).

use std::borrow::Cow;

use super::Options;
use super::close::CloseCode;
use super::deflate::{InflateError, Inflater};
use super::error::FrameError;
use super::header::{HEADER_BYTES_MAX, Header, Opcode};
use super::mask::apply_mask;

/// Which end of the connection decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Reads what clients send: masked.
    Server,
    /// Reads what servers send: not masked.
    Client,
}

/// What arrived. Borrowed from the received buffer where the frame lay there whole, else from the [`Scratch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// To be answered with a Pong of the same payload.
    Ping(&'a [u8]),
    /// The answer to a Ping, or unasked for (RFC 6455 section 5.5.3): nothing is owed for it.
    Pong(&'a [u8]),
    /// To be answered with [`close_reply`](super::encode::close_reply); the last event of a connection.
    Close {
        /// `None` where the payload was empty (1005 in RFC 6455 section 7.1.5).
        code: Option<CloseCode>,
        /// UTF-8 of at most 123 bytes, often empty.
        reason: &'a str,
    },
}

/// One connection's place in its stream of frames.
#[derive(Debug)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    role: Role,
    deflate: bool,
    finished: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 16, "a million idle connections hold one each");

/// What a worker's decoders share: the inflater, made at its first use, and the last message that was joined.
#[derive(Debug, Default)]
pub struct Scratch {
    joined: Vec<u8>,
    inflater: Option<Box<Inflater>>,
}

/// What is kept of a stream that stopped inside a frame or a message.
#[derive(Debug, Default)]
struct Partial {
    place: Place,
    message: Option<PartialMessage>,
}

/// Where the stream stopped.
#[derive(Debug, Default)]
enum Place {
    /// Between two frames (of one message, or there would be no [`Partial`]).
    #[default]
    Boundary,
    /// Inside a header, of which `received` bytes are there.
    Header { bytes: [u8; HEADER_BYTES_MAX], received: usize },
    /// Inside a fragment, or at the end of its header; [`Partial::message`] is there.
    Data { fin: bool, payload: Payload },
    /// Inside a control frame, or at the end of its header.
    Control { control: Control, payload: Payload, bytes: Vec<u8> },
}

/// How far a frame's payload has come. Invariant: `received <= length`.
#[derive(Clone, Copy, Debug)]
struct Payload {
    mask: Option<[u8; 4]>,
    received: usize,
    length: usize,
}

/// A message whose last fragment has not come.
#[derive(Debug)]
struct PartialMessage {
    kind: Kind,
    compressed: bool,
    fragments: u32,
    bytes: Vec<u8>,
    /// Bytes known to be UTF-8; stays 0 unless this is plain text. At most three bytes behind `bytes`.
    checked: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    Binary,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Control {
    Close,
    Ping,
    Pong,
}

/// A complete control frame or message, unmasked, not yet inflated or checked.
enum Unit<'b> {
    Control { control: Control, payload: Cow<'b, [u8]> },
    Message { kind: Kind, compressed: bool, payload: Cow<'b, [u8]> },
}

/// What one step of decoding came to.
enum Step<'b> {
    /// Nothing can be done before more bytes arrive; all that were there are used up.
    Hungry,
    /// Something was used up or noted; there may be more to do.
    Again,
    Complete(Unit<'b>),
}

impl Decoder {
    /// At the start of the first frame. `deflate` is whether permessage-deflate was negotiated.
    #[must_use]
    pub const fn new(role: Role, deflate: bool) -> Self {
        Self { partial: None, role, deflate, finished: false }
    }

    /// Whether the stream stands between two messages, so that nothing is kept for it.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Bytes of memory kept for an unfinished message.
    #[must_use]
    pub fn partial_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| {
            let control = if let Place::Control { bytes, .. } = &partial.place { bytes.capacity() } else { 0 };
            size_of::<Partial>() + control + partial.message.as_ref().map_or(0, |message| message.bytes.capacity())
        })
    }

    /// The next event in `rest`, which shrinks by what was used; `None` when all of it is used up. Call until then:
    ///
    /// ```
    /// # use ringmain::ws::{Decoder, Event, Options, Role, Scratch, encode, Opcode};
    /// # let mut received = encode::masked(Opcode::Text, b"hello", [1, 2, 3, 4]);
    /// # let (mut decoder, mut scratch, options) = (Decoder::new(Role::Server, false), Scratch::default(), Options::default());
    /// let mut rest = received.as_mut_slice();
    /// while let Some(event) = decoder.next(&mut rest, &mut scratch, &options)? {
    ///     assert_eq!(event, Event::Text("hello"));
    /// }
    /// # Ok::<(), ringmain::ws::FrameError>(())
    /// ```
    ///
    /// After a Close or an error every call uses all of `rest` up and gives `None`.
    pub fn next<'a, 'b: 'a>(
        &mut self,
        rest: &mut &'b mut [u8],
        scratch: &'a mut Scratch,
        options: &Options,
    ) -> Result<Option<Event<'a>>, FrameError> {
        if self.finished {
            *rest = &mut [];
            return Ok(None);
        }
        let event = match self.advance(rest, options) {
            Ok(Some(unit)) => scratch.event(unit, options).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if matches!(event, Err(_) | Ok(Some(Event::Close { .. }))) {
            self.finished = true;
            self.partial = None;
        }
        event
    }

    /// Uses bytes up until a unit is complete or none are left.
    fn advance<'b>(&mut self, rest: &mut &'b mut [u8], options: &Options) -> Result<Option<Unit<'b>>, FrameError> {
        loop {
            let step = match self.partial.as_ref().map(|partial| &partial.place) {
                None | Some(Place::Boundary) => self.begin_frame(rest, options)?,
                Some(Place::Header { .. }) => self.resume_header(rest, options)?,
                Some(Place::Data { .. }) => self.resume_data(rest)?,
                Some(Place::Control { .. }) => self.resume_control(rest),
            };
            match step {
                Step::Hungry => return Ok(None),
                Step::Again => {}
                Step::Complete(unit) => return Ok(Some(unit)),
            }
        }
    }

    fn begin_frame<'b>(&mut self, rest: &mut &'b mut [u8], options: &Options) -> Result<Step<'b>, FrameError> {
        if let Some((header, header_bytes)) = Header::parse(rest, self.role)? {
            take(rest, header_bytes);
            return self.open(header, rest, options);
        }
        if !rest.is_empty() {
            let (bytes, received) = store_header(rest);
            self.partial().place = Place::Header { bytes, received };
        }
        Ok(Step::Hungry)
    }

    /// Adds bytes to a cut header, and opens its frame when that completes it.
    fn resume_header<'b>(&mut self, rest: &mut &'b mut [u8], options: &Options) -> Result<Step<'b>, FrameError> {
        let role = self.role;
        let Place::Header { bytes, received } = &mut self.partial().place else { return Ok(Step::Hungry) };
        let stored = *received;
        for (place, byte) in bytes.iter_mut().skip(stored).zip(rest.iter()) {
            *place = *byte;
            *received += 1;
        }
        let Some((header, header_bytes)) = Header::parse(bytes.get(..*received).unwrap_or_default(), role)? else {
            take(rest, rest.len());
            return Ok(Step::Hungry);
        };
        take(rest, header_bytes.saturating_sub(stored));
        self.leave_frame();
        self.open(header, rest, options)
    }

    /// A header is complete: hands out a payload that is here whole, or notes where to put it.
    fn open<'b>(&mut self, header: Header, rest: &mut &'b mut [u8], options: &Options) -> Result<Step<'b>, FrameError> {
        match header.opcode {
            Opcode::Close => Ok(self.open_control(Control::Close, header, rest)),
            Opcode::Ping => Ok(self.open_control(Control::Ping, header, rest)),
            Opcode::Pong => Ok(self.open_control(Control::Pong, header, rest)),
            Opcode::Text => self.open_message(Kind::Text, header, rest, options),
            Opcode::Binary => self.open_message(Kind::Binary, header, rest, options),
            Opcode::Continuation => self.open_continuation(header, options),
        }
    }

    fn open_control<'b>(&mut self, control: Control, header: Header, rest: &mut &'b mut [u8]) -> Step<'b> {
        // The header's parser refused control frames beyond 125 bytes.
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let payload = Payload { mask: header.mask, received: 0, length };
        match payload.whole(rest) {
            Some(payload) => Step::Complete(Unit::Control { control, payload: Cow::Borrowed(payload) }),
            None => {
                self.partial().place = Place::Control { control, payload, bytes: Vec::with_capacity(rest.len()) };
                Step::Again
            }
        }
    }

    fn open_message<'b>(
        &mut self,
        kind: Kind,
        header: Header,
        rest: &mut &'b mut [u8],
        options: &Options,
    ) -> Result<Step<'b>, FrameError> {
        if self.partial.as_ref().is_some_and(|partial| partial.message.is_some()) {
            return Err(FrameError::MessageInterrupted);
        }
        let compressed = header.rsv1;
        if compressed && !self.deflate {
            return Err(FrameError::ReservedBits);
        }
        let payload = admit(&header, 0, compressed, options)?;
        if header.fin
            && let Some(payload) = payload.whole(rest)
        {
            return Ok(Step::Complete(Unit::Message { kind, compressed, payload: Cow::Borrowed(payload) }));
        }
        let message = PartialMessage { kind, compressed, fragments: 1, bytes: Vec::new(), checked: 0 };
        *self.partial() = Partial { place: Place::Data { fin: header.fin, payload }, message: Some(message) };
        Ok(Step::Again)
    }

    fn open_continuation<'b>(&mut self, header: Header, options: &Options) -> Result<Step<'b>, FrameError> {
        let Some(Partial { place, message: Some(message) }) = self.partial.as_deref_mut() else {
            return Err(FrameError::ContinuationOfNothing);
        };
        if header.rsv1 {
            return Err(FrameError::ReservedBits); // RFC 7692 section 6.1: on the first fragment only
        }
        // Streaming senders end with an empty fragment. It ends the message and costs nothing, so it is not one too many.
        let empty_end = header.fin && header.length == 0;
        if message.fragments >= options.fragments_max && !empty_end {
            return Err(FrameError::TooManyFragments { fragments_max: options.fragments_max });
        }
        message.fragments += 1;
        let payload = admit(&header, message.bytes.len(), message.compressed, options)?;
        *place = Place::Data { fin: header.fin, payload };
        Ok(Step::Again)
    }

    fn resume_data<'b>(&mut self, rest: &mut &'b mut [u8]) -> Result<Step<'b>, FrameError> {
        let Some(Partial { place: Place::Data { fin, payload }, message: Some(message) }) = self.partial.as_deref_mut() else {
            return Ok(Step::Hungry);
        };
        message.append(payload.receive(rest))?;
        if !payload.is_complete() {
            return Ok(Step::Hungry);
        }
        if !*fin {
            self.leave_frame();
            return Ok(Step::Again);
        }
        let message = self.partial.take().and_then(|partial| partial.message);
        Ok(message.map_or(Step::Hungry, |PartialMessage { kind, compressed, bytes, .. }| {
            Step::Complete(Unit::Message { kind, compressed, payload: Cow::Owned(bytes) })
        }))
    }

    fn resume_control<'b>(&mut self, rest: &mut &'b mut [u8]) -> Step<'b> {
        let Place::Control { control, payload, bytes } = &mut self.partial().place else { return Step::Hungry };
        bytes.extend_from_slice(payload.receive(rest));
        if !payload.is_complete() {
            return Step::Hungry;
        }
        let unit = Unit::Control { control: *control, payload: Cow::Owned(std::mem::take(bytes)) };
        self.leave_frame();
        Step::Complete(unit)
    }

    fn partial(&mut self) -> &mut Partial {
        self.partial.get_or_insert_default()
    }

    /// The stream is between two frames again; nothing is kept if that is also between two messages.
    fn leave_frame(&mut self) {
        match self.partial.as_deref_mut() {
            Some(partial) if partial.message.is_some() => partial.place = Place::Boundary,
            Some(_) | None => self.partial = None,
        }
    }
}

/// Checks what a data frame announces against the message's limit, before a byte of it is stored.
fn admit(header: &Header, message_bytes: usize, compressed: bool, options: &Options) -> Result<Payload, FrameError> {
    let bytes_max = if compressed { compressed_bytes_max(options) } else { options.message_bytes_max };
    let bytes = (message_bytes as u64).saturating_add(header.length);
    match usize::try_from(header.length) {
        Ok(length) if bytes <= bytes_max as u64 => Ok(Payload { mask: header.mask, received: 0, length }),
        Ok(_) | Err(_) => Err(FrameError::TooLarge { bytes, bytes_max: options.message_bytes_max }),
    }
}

/// Bytes of a compressed message. What cannot be compressed grows a little: five bytes for each stored block or flush, so an
/// eighth is generous and a message of the largest legal size passes however it was compressed.
const fn compressed_bytes_max(options: &Options) -> usize {
    options.message_bytes_max.saturating_add(options.message_bytes_max / 8).saturating_add(1024)
}

/// All of `rest`, which is shorter than a header, to be continued.
fn store_header(rest: &mut &mut [u8]) -> ([u8; HEADER_BYTES_MAX], usize) {
    let mut bytes = [0; HEADER_BYTES_MAX];
    let cut = take(rest, rest.len());
    for (place, byte) in bytes.iter_mut().zip(cut.iter()) {
        *place = *byte;
    }
    (bytes, cut.len())
}

/// Splits up to `bytes` off the front.
fn take<'b>(rest: &mut &'b mut [u8], bytes: usize) -> &'b mut [u8] {
    let bytes = bytes.min(rest.len());
    rest.split_off_mut(..bytes).unwrap_or_default()
}

impl Payload {
    /// The payload, unmasked, if all of it is in `rest`.
    fn whole<'b>(mut self, rest: &mut &'b mut [u8]) -> Option<&'b [u8]> {
        if rest.len() < self.length { None } else { Some(self.receive(rest)) }
    }

    /// Takes what is there of the payload and unmasks it.
    fn receive<'b>(&mut self, rest: &mut &'b mut [u8]) -> &'b [u8] {
        let part = take(rest, self.length - self.received);
        if let Some(key) = self.mask {
            apply_mask(part, key, self.received);
        }
        self.received += part.len();
        part
    }

    const fn is_complete(&self) -> bool {
        self.received == self.length
    }
}

impl PartialMessage {
    /// Adds a part; text fails at the first byte that makes it invalid.
    fn append(&mut self, part: &[u8]) -> Result<(), FrameError> {
        self.bytes.extend_from_slice(part);
        if self.kind == Kind::Text && !self.compressed {
            self.check_text()?;
        }
        Ok(())
    }

    fn check_text(&mut self) -> Result<(), FrameError> {
        let unchecked = self.bytes.get(self.checked..).unwrap_or_default();
        match simdutf8::compat::from_utf8(unchecked) {
            Ok(_) => self.checked = self.bytes.len(),
            // The last character may still become valid.
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(FrameError::Utf8),
        }
        Ok(())
    }
}

impl Scratch {
    /// Inflates and checks a unit. What it does not own stays where it was received.
    fn event<'a, 'b: 'a>(&'a mut self, unit: Unit<'b>, options: &Options) -> Result<Event<'a>, FrameError> {
        let Self { joined, inflater } = self;
        match unit {
            Unit::Control { control, payload } => {
                let payload = keep(joined, payload);
                match control {
                    Control::Ping => Ok(Event::Ping(payload)),
                    Control::Pong => Ok(Event::Pong(payload)),
                    Control::Close => parse_close(payload),
                }
            }
            Unit::Message { kind, compressed, payload } => {
                let payload = keep(joined, payload);
                let message = if compressed { inflate(inflater, payload, options)? } else { payload };
                match kind {
                    Kind::Text => simdutf8::basic::from_utf8(message).map(Event::Text).map_err(|_| FrameError::Utf8),
                    Kind::Binary => Ok(Event::Binary(message)),
                }
            }
        }
    }
}

/// A place for bytes that were joined, so that they live as long as the event.
fn keep<'a, 'b: 'a>(joined: &'a mut Vec<u8>, payload: Cow<'b, [u8]>) -> &'a [u8] {
    match payload {
        Cow::Borrowed(bytes) => bytes,
        Cow::Owned(bytes) => {
            *joined = bytes;
            joined
        }
    }
}

fn inflate<'a>(inflater: &'a mut Option<Box<Inflater>>, compressed: &[u8], options: &Options) -> Result<&'a [u8], FrameError> {
    let inflater = inflater.get_or_insert_default();
    inflater.inflate(compressed, options.message_bytes_max).map_err(|error| match error {
        InflateError::Corrupt => FrameError::Deflate,
        // One more than allowed is what is known of its size.
        InflateError::TooLarge { bytes_max } => FrameError::TooLarge { bytes: (bytes_max as u64).saturating_add(1), bytes_max },
    })
}

/// Section 5.5.1: empty, or a code and a reason in UTF-8.
fn parse_close(payload: &[u8]) -> Result<Event<'_>, FrameError> {
    let Some((number, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(Event::Close { code: None, reason: "" }) } else { Err(FrameError::CloseTruncated) };
    };
    let number = u16::from_be_bytes(*number);
    let code = CloseCode::new(number).ok_or(FrameError::CloseCode(number))?;
    let reason = simdutf8::basic::from_utf8(reason).map_err(|_| FrameError::Utf8)?;
    Ok(Event::Close { code: Some(code), reason })
}

#[cfg(test)]
mod tests;
