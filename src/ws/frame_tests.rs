use super::*;
use crate::ws::deflate::Deflater;
use crate::ws::encode::{self, Opcode};
use proptest::prelude::*;

const KEY: [u8; 4] = [0x12, 0x9f, 0xee, 0x07];

fn options() -> Options {
    Options { message_bytes_max: 1000, fragments_max: 5, ..Options::default() }
}

/// A masked frame with any first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut wire = encode::masked_frame(Opcode::Text, payload, KEY);
    wire[0] = first;
    wire
}

fn owned(event: Event<'_>) -> Event<'static> {
    let keep = |data: Cow<'_, [u8]>| Cow::Owned(data.into_owned());
    match event {
        Event::Text(data) => Event::Text(keep(data)),
        Event::Binary(data) => Event::Binary(keep(data)),
        Event::Ping(data) => Event::Ping(keep(data)),
        Event::Pong(data) => Event::Pong(keep(data)),
        Event::Close(code) => Event::Close(code),
    }
}

/// Everything the decoder says when the wire arrives in pieces of the given sizes, in turn.
fn decode(wire: &[u8], pieces: &[usize], deflate: bool) -> (Vec<Event<'static>>, Option<FrameError>, Decoder) {
    let mut decoder = Decoder::server();
    let mut inflater = Inflater::default();
    let mut events = Vec::new();
    let mut rest = wire;
    for size in pieces.iter().cycle() {
        let (piece, behind) = rest.split_at((*size).clamp(1, rest.len().max(1)).min(rest.len()));
        rest = behind;
        let mut buffer = piece.to_vec();
        let mut bytes = buffer.as_mut_slice();
        loop {
            match decoder.next(&mut bytes, &options(), deflate.then_some(&mut inflater)) {
                Ok(Some(event)) => events.push(owned(event)),
                Ok(None) => break,
                Err(error) => return (events, Some(error), decoder),
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    (events, None, decoder)
}

#[track_caller]
fn check(wire: &[u8], expected: &[Event<'static>], error: Option<FrameError>) {
    for step in 1..=wire.len() {
        let (events, found, decoder) = decode(wire, &[step], false);
        assert_eq!((events.as_slice(), found), (expected, error), "split every {step} bytes");
        assert!(error.is_some() || decoder.partial.is_none(), "an idle decoder holds nothing");
    }
}

fn text(text: &str) -> Event<'static> {
    Event::Text(Cow::Owned(text.as_bytes().to_vec()))
}

#[test]
fn an_idle_decoder_is_two_words() {
    assert_eq!(size_of::<Decoder>(), 16);
}

#[test]
fn a_whole_frame_is_handed_out_where_it_lies() {
    let mut wire = frame(0x81, b"hello");
    let mut decoder = Decoder::server();
    let mut bytes = wire.as_mut_slice();
    let event = decoder.next(&mut bytes, &options(), None).unwrap();
    assert!(matches!(event, Some(Event::Text(Cow::Borrowed(b"hello")))));
}

#[test]
fn fragments_join_and_control_frames_pass_between_them() {
    let wire = [
        frame(0x01, "Gr\u{fc}".as_bytes().split_at(3).0),
        frame(0x89, b"p"),
        frame(0x00, b""),
        frame(0x80, &"\u{fc}\u{df}e".as_bytes()[1..]),
    ]
    .concat();
    check(&wire, &[Event::Ping(Cow::Owned(b"p".to_vec())), text("Gr\u{fc}\u{df}e")], None);
}

#[test]
fn empty_messages_are_messages() {
    check(
        &[frame(0x81, b""), frame(0x01, b""), frame(0x80, b""), frame(0x8a, b"")].concat(),
        &[text(""), text(""), Event::Pong(Cow::Owned(Vec::new()))],
        None,
    );
}

#[test]
fn every_protocol_error_has_its_code() {
    let long = vec![b'x'; 126];
    let cases: Vec<(Vec<u8>, FrameError, u16)> = vec![
        (frame(0xc1, b"x"), FrameError::ReservedBits, 1002),
        (frame(0x83, b"x"), FrameError::Opcode(3), 1002),
        (frame(0x8b, b"x"), FrameError::Opcode(11), 1002),
        (frame(0x09, b"x"), FrameError::ControlFragmented, 1002),
        (frame(0x89, &long), FrameError::ControlTooLong { bytes: 126 }, 1002),
        (encode::frame(Opcode::Text, b"x"), FrameError::Masking, 1002),
        (vec![0x81, 0xfe, 0, 5, 0, 0, 0, 0], FrameError::Length, 1002),
        (vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], FrameError::Length, 1002),
        (vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], FrameError::Length, 1002),
        (frame(0x80, b"x"), FrameError::UnexpectedContinuation, 1002),
        ([frame(0x01, b"x"), frame(0x81, b"x")].concat(), FrameError::ContinuationExpected, 1002),
        (frame(0x82, &[0; 1001]), FrameError::TooLarge { bytes_max: 1000 }, 1009),
        ([frame(0x02, &[0; 600]), frame(0x80, &[0; 401])].concat(), FrameError::TooLarge { bytes_max: 1000 }, 1009),
        ([frame(0x02, b""), frame(0, b"").repeat(5)].concat(), FrameError::TooManyFragments { fragments_max: 5 }, 1008),
        (frame(0x81, b"\xff"), FrameError::Utf8, 1007),
        (frame(0x81, b"\xe2\x82"), FrameError::Utf8, 1007),
        (frame(0x01, b"ok\xed\xa0"), FrameError::Utf8, 1007),
        (frame(0x88, b"x"), FrameError::CloseTruncated, 1002),
        (frame(0x88, &1005u16.to_be_bytes()), FrameError::CloseCode(1005), 1002),
        (frame(0x88, b"\x03\xe8\xff"), FrameError::Utf8, 1007),
    ];
    for (wire, error, code) in cases {
        check(&wire, &[], Some(error));
        assert_eq!(error.close_code().0, code);
    }
}

#[test]
fn a_close_gives_its_code() {
    check(&frame(0x88, b""), &[Event::Close(None)], None);
    check(&frame(0x88, b"\x0f\xa0bye"), &[Event::Close(Some(CloseCode(4000)))], None);
}

#[test]
fn a_bad_byte_is_noticed_before_its_frame_is_complete() {
    let wire = frame(0x81, b"abc\xff and much more");
    let (_, error, _) = decode(&wire[..6 + 4], &[100], false);
    assert_eq!(error, Some(FrameError::Utf8));
}

#[test]
fn a_compressed_message_inflates_within_the_limit() {
    let packed = Deflater::default().deflate("ringmain ".repeat(20).as_bytes(), 15);
    let (events, error, _) = decode(&frame(0xc1, &packed), &[3], true);
    assert_eq!((events, error), (vec![text(&"ringmain ".repeat(20))], None));
    let bomb = Deflater::default().deflate(&vec![b'x'; 100_000], 15);
    let (_, error, _) = decode(&frame(0xc2, &bomb), &[50], true);
    assert_eq!(error, Some(FrameError::TooLarge { bytes_max: 1000 }));
}

#[derive(Clone, Debug)]
struct Message {
    text: bool,
    data: Vec<u8>,
    cuts: Vec<usize>,
    ping: bool,
    deflate: bool,
}

fn message() -> impl Strategy<Value = Message> {
    ("\\PC{0,60}", prop::collection::vec(0usize..80, 0..4), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(data, cuts, text, ping, deflate)| Message { text, data: data.into_bytes(), cuts, ping, deflate })
}

fn wire_of(message: &Message) -> Vec<u8> {
    let payload = if message.deflate { Deflater::default().deflate(&message.data, 15) } else { message.data.clone() };
    let mut cuts: Vec<usize> = message.cuts.iter().map(|cut| (*cut).min(payload.len())).collect();
    cuts.sort_unstable();
    cuts.push(payload.len());
    let (mut wire, mut start) = (Vec::new(), 0);
    for (at, &end) in cuts.iter().enumerate() {
        let opcode = if at > 0 { 0 } else { u8::from(!message.text) + 1 };
        let fin = if at + 1 == cuts.len() { 0x80 } else { 0 };
        let compressed = if at == 0 && message.deflate { 0x40 } else { 0 };
        wire.extend(frame(fin | compressed | opcode, &payload[start..end]));
        if message.ping && fin == 0 {
            wire.extend(frame(0x89, b"!"));
        }
        start = end;
    }
    wire
}

proptest! {
    #[test]
    fn any_split_of_the_stream_means_the_same(messages in prop::collection::vec(message(), 1..6), pieces in prop::collection::vec(1usize..40, 1..8)) {
        let wire: Vec<u8> = messages.iter().flat_map(wire_of).collect();
        let (whole, error, _) = decode(&wire, &[wire.len()], true);
        prop_assert_eq!(error, None);
        let data: Vec<&[u8]> = whole.iter().filter_map(|event| match event { Event::Text(data) | Event::Binary(data) => Some(&**data), _ => None }).collect();
        let expected: Vec<&[u8]> = messages.iter().map(|message| message.data.as_slice()).collect();
        prop_assert_eq!(data, expected);
        let (split, error, decoder) = decode(&wire, &pieces, true);
        prop_assert_eq!((split, error), (whole, None));
        prop_assert!(decoder.partial.is_none());
    }

    #[test]
    fn any_bytes_are_an_answer_not_a_panic(bytes: Vec<u8>, pieces in prop::collection::vec(1usize..9, 1..4)) {
        if !bytes.is_empty() {
            decode(&bytes, &pieces, true);
        }
    }
}
