//! Every rule by its section, and any split of any stream.

use proptest::prelude::*;

use super::*;
use crate::ws::deflate::{DeflateParams, Deflater, WindowBits};
use crate::ws::encode;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const DEFLATE: DeflateParams = DeflateParams { server_window: WindowBits::MAX };

/// An event that outlives its buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Owned {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_owned()),
            Event::Ping(bytes) => Self::Ping(bytes.to_owned()),
            Event::Pong(bytes) => Self::Pong(bytes.to_owned()),
            Event::Close { code, reason } => Self::Close(code.map(CloseCode::number), reason.to_owned()),
        }
    }
}

fn options() -> Options {
    Options { message_bytes_max: 1000, fragments_max: 4, ..Options::default() }
}

/// Decodes `wire` cut where `cuts` say (lengths of pieces; the rest in one piece): the events and the error at the end.
fn decode(wire: &[u8], cuts: &[usize], decoder: &mut Decoder, options: &Options) -> (Vec<Owned>, Option<FrameError>) {
    let mut scratch = Scratch::default();
    let mut events = Vec::new();
    let mut wire = wire;
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        let (piece, after) = wire.split_at(cut.min(wire.len()));
        wire = after;
        let mut piece = piece.to_vec();
        let mut rest = piece.as_mut_slice();
        loop {
            match decoder.next(&mut rest, &mut scratch, options) {
                Ok(Some(event)) => events.push(event.into()),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
        assert!(rest.is_empty(), "all bytes are used up");
    }
    (events, None)
}

/// Any split must mean `expected`, and events before an error are the same too.
#[track_caller]
fn check_role(role: Role, wire: &[u8], events: &[Owned], error: Option<FrameError>) {
    for step in 1..=wire.len().max(1) {
        let mut decoder = Decoder::new(role, true);
        let cuts = vec![step; wire.len() / step];
        let decoded = decode(wire, &cuts, &mut decoder, &options());
        assert_eq!(decoded, (events.to_vec(), error), "split every {step} bytes");
    }
}

#[track_caller]
fn check(wire: &[u8], events: &[Owned]) {
    check_role(Role::Server, wire, events, None);
}

#[track_caller]
fn check_error(wire: &[u8], error: FrameError) {
    check_role(Role::Server, wire, &[], Some(error));
}

fn text(text: &str) -> Owned {
    Owned::Text(text.to_owned())
}

fn data(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let header = Header { fin, mask: Some(KEY), ..Header::new(opcode, payload.len() as u64) };
    encode::build(header, payload)
}

/// A client's header that announces `length` bytes and nothing behind it.
fn announce(opcode: Opcode, fin: bool, rsv1: bool, length: u64) -> Vec<u8> {
    let mut wire = Vec::new();
    Header { fin, rsv1, opcode, mask: Some(KEY), length }.write(&mut wire);
    wire
}

fn client(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    data(opcode, true, payload)
}

#[test]
fn rfc6455_5_7_the_examples() {
    check_role(Role::Client, &[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f], &[text("Hello")], None);
    check(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58], &[text("Hello")]);
    check_role(Role::Client, &[0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f], &[text("Hello")], None);
    check(&[0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58], &[Owned::Pong(b"Hello".to_vec())]);
}

#[test]
fn rfc7692_7_2_3_the_examples() {
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let whole = [&[0xc1, 0x07], &hello[..]].concat();
    check_role(Role::Client, &whole, &[text("Hello")], None);
    let fragmented = [&[0x41, 0x03], &hello[..3], &[0x80, 0x04], &hello[3..]].concat();
    check_role(Role::Client, &fragmented, &[text("Hello")], None);
}

#[test]
fn a_whole_frame_is_handed_out_where_it_lies() {
    let mut wire = client(Opcode::Binary, b"in place");
    let range = wire.as_ptr_range();
    let mut scratch = Scratch::default();
    let mut rest = wire.as_mut_slice();
    let event = Decoder::new(Role::Server, false).next(&mut rest, &mut scratch, &options());
    let Ok(Some(Event::Binary(payload))) = event else { panic!("{event:?}") };
    assert!(range.contains(&payload.as_ptr()), "not copied");
}

#[test]
fn nothing_is_kept_between_messages() {
    let wire = [client(Opcode::Ping, b"p"), data(Opcode::Text, false, b"a"), data(Opcode::Continuation, true, b"b")].concat();
    let mut decoder = Decoder::new(Role::Server, false);
    for cut in 0..wire.len() {
        decode(&wire, &[cut], &mut decoder, &options());
        assert!(decoder.is_idle(), "cut at {cut}");
    }
    decode(&wire[..9], &[], &mut decoder, &options());
    assert!(!decoder.is_idle());
    assert!(decoder.partial_bytes() > 0);
}

#[test]
fn rfc6455_5_1_frames_from_clients_are_masked_and_from_servers_not() {
    check_error(&encode::frame(Opcode::Text, b"a"), FrameError::Unmasked);
    check_role(Role::Client, &client(Opcode::Text, b"a"), &[], Some(FrameError::Masked));
}

#[test]
fn rfc6455_5_2_rsv1_needs_the_extension() {
    let wire = [0xc1, 0x80, 0, 0, 0, 0];
    let (events, error) = decode(&wire, &[], &mut Decoder::new(Role::Server, false), &options());
    assert_eq!((events, error), (vec![], Some(FrameError::ReservedBits)));
}

#[test]
fn rfc7692_6_1_rsv1_only_on_the_first_fragment() {
    let wire = [data(Opcode::Text, false, b"a"), announce(Opcode::Continuation, true, true, 1)].concat();
    check_error(&wire, FrameError::ReservedBits);
}

#[test]
fn rfc6455_5_4_fragments_join_and_control_frames_may_come_between() {
    let wire = [
        data(Opcode::Text, false, b"one "),
        client(Opcode::Ping, b"now"),
        data(Opcode::Continuation, false, b""),
        client(Opcode::Pong, b""),
        data(Opcode::Continuation, true, b"two"),
        client(Opcode::Binary, b""),
    ]
    .concat();
    let pong = Owned::Pong(vec![]);
    check(&wire, &[Owned::Ping(b"now".to_vec()), pong, text("one two"), Owned::Binary(vec![])]);
}

#[test]
fn rfc6455_5_4_messages_do_not_interleave() {
    check_error(&data(Opcode::Continuation, true, b"a"), FrameError::ContinuationOfNothing);
    check_error(&data(Opcode::Continuation, false, b""), FrameError::ContinuationOfNothing);
    let wire = [data(Opcode::Text, false, b"a"), data(Opcode::Text, true, b"b")].concat();
    check_error(&wire, FrameError::MessageInterrupted);
}

#[test]
fn rfc6455_5_5_1_close_payloads() {
    check(&client(Opcode::Close, b""), &[Owned::Close(None, String::new())]);
    check(&client(Opcode::Close, &[0x03, 0xe8]), &[Owned::Close(Some(1000), String::new())]);
    check(&client(Opcode::Close, b"\x0b\xb8bye"), &[Owned::Close(Some(3000), "bye".to_owned())]);
    check_error(&client(Opcode::Close, &[0x03]), FrameError::CloseTruncated);
    check_error(&client(Opcode::Close, b"\x03\xe8\xff"), FrameError::Utf8);
    check_error(&client(Opcode::Close, &1005u16.to_be_bytes()), FrameError::CloseCode(1005));
}

#[test]
fn rfc6455_5_5_1_nothing_counts_after_close() {
    let wire = [client(Opcode::Close, b""), client(Opcode::Text, b"late"), vec![0xff; 9]].concat();
    check(&wire, &[Owned::Close(None, String::new())]);
}

#[test]
fn nothing_counts_after_an_error() {
    let mut decoder = Decoder::new(Role::Server, false);
    let cut = [data(Opcode::Text, false, b"a"), data(Opcode::Text, true, b"b")].concat();
    assert_eq!(decode(&cut, &[], &mut decoder, &options()).1, Some(FrameError::MessageInterrupted));
    assert!(decoder.is_idle());
    assert_eq!(decode(&client(Opcode::Text, b"c"), &[], &mut decoder, &options()), (vec![], None));
}

#[test]
fn rfc6455_8_1_text_is_utf8_across_fragments() {
    let kosme = "κόσμε".as_bytes();
    let wire = [data(Opcode::Text, false, &kosme[..1]), data(Opcode::Continuation, true, &kosme[1..])].concat();
    check(&wire, &[text("κόσμε")]);
    check_error(&client(Opcode::Text, &kosme[..1]), FrameError::Utf8);
    let cut = [data(Opcode::Text, false, b"a"), data(Opcode::Continuation, true, &kosme[..1])].concat();
    check_error(&cut, FrameError::Utf8);
    check(&client(Opcode::Binary, &[0xff, 0xfe]), &[Owned::Binary(vec![0xff, 0xfe])]);
}

#[test]
fn rfc6455_8_1_invalid_text_fails_at_its_first_impossible_byte() {
    // U+110000 is impossible from its second byte on; the frame that announces it never ends.
    let mut wire = announce(Opcode::Text, true, false, 100);
    let mut payload = b"abc\xf4\x90".to_vec();
    apply_mask(&mut payload, KEY, 0);
    wire.extend_from_slice(&payload);
    let mut decoder = Decoder::new(Role::Server, false);
    assert_eq!(decode(&wire[..wire.len() - 1], &[], &mut decoder, &options()), (vec![], None));
    assert_eq!(decode(&wire[wire.len() - 1..], &[], &mut decoder, &options()), (vec![], Some(FrameError::Utf8)));
}

#[test]
fn a_message_over_the_limit_is_refused_on_its_header() {
    check(&client(Opcode::Binary, &[7; 1000]), &[Owned::Binary(vec![7; 1000])]);
    check_error(&announce(Opcode::Binary, true, false, 1001), FrameError::TooLarge { bytes: 1001, bytes_max: 1000 });
    let bytes = u64::MAX >> 1;
    check_error(&announce(Opcode::Text, false, false, bytes), FrameError::TooLarge { bytes, bytes_max: 1000 });
    let wire = [data(Opcode::Binary, false, &[7; 600]), announce(Opcode::Continuation, true, false, 401)].concat();
    check_error(&wire, FrameError::TooLarge { bytes: 1001, bytes_max: 1000 });
    let wire = [data(Opcode::Binary, false, b"7"), announce(Opcode::Continuation, true, false, bytes)].concat();
    check_error(&wire, FrameError::TooLarge { bytes: bytes + 1, bytes_max: 1000 });
    assert_eq!(FrameError::TooLarge { bytes, bytes_max: 0 }.close_code(), CloseCode::MESSAGE_TOO_BIG);
}

#[test]
fn a_compressed_message_is_limited_before_and_after_inflating() {
    let bytes = 1000 + 125 + 1024 + 1;
    check_error(&announce(Opcode::Binary, true, true, bytes), FrameError::TooLarge { bytes, bytes_max: 1000 });
    let wire = [announce(Opcode::Binary, false, true, 0), announce(Opcode::Continuation, true, false, bytes)].concat();
    check_error(&wire, FrameError::TooLarge { bytes, bytes_max: 1000 });
    let mut deflater = Deflater::default();
    let bomb = deflater.compress(&[0; 1001], DEFLATE).expect("shrinks");
    let header = Header { rsv1: true, mask: Some(KEY), ..Header::new(Opcode::Binary, bomb.len() as u64) };
    check_error(&encode::build(header, bomb), FrameError::TooLarge { bytes: 1001, bytes_max: 1000 });
}

#[test]
fn rfc7692_6_2_compressed_text_is_checked_after_inflating() {
    let mut deflater = Deflater::default();
    let compressed = deflater.compress(&[0xff; 100], DEFLATE).expect("shrinks");
    let header = Header { rsv1: true, mask: Some(KEY), ..Header::new(Opcode::Text, compressed.len() as u64) };
    check_error(&encode::build(header, compressed), FrameError::Utf8);
    let garbage = encode::build(Header { rsv1: true, mask: Some(KEY), ..Header::new(Opcode::Text, 2) }, &[0xff, 0xff]);
    check_error(&garbage, FrameError::Deflate);
}

#[test]
fn more_fragments_than_allowed_are_refused_but_for_an_empty_end() {
    let four: Vec<u8> = (0..4).flat_map(|n| data(if n == 0 { Opcode::Text } else { Opcode::Continuation }, n == 3, b"x")).collect();
    check(&four, &[text("xxxx")]);
    let all = |n: u8| data(if n == 0 { Opcode::Text } else { Opcode::Continuation }, false, b"x");
    let four_and_end = [(0..4).flat_map(all).collect(), data(Opcode::Continuation, true, b"")].concat();
    check(&four_and_end, &[text("xxxx")]);
    let five = [(0..4).flat_map(all).collect(), data(Opcode::Continuation, true, b"x")].concat();
    check_error(&five, FrameError::TooManyFragments { fragments_max: 4 });
    let endless: Vec<u8> =
        (0..5).flat_map(|n| data(if n == 0 { Opcode::Text } else { Opcode::Continuation }, false, b"")).collect();
    check_error(&endless, FrameError::TooManyFragments { fragments_max: 4 });
}

/// What a peer may do: a message in some fragments, compressed or not, with control frames after each but the last.
#[derive(Clone, Debug)]
struct Act {
    text: Option<String>,
    binary: Vec<u8>,
    compress: bool,
    fragments: Vec<usize>,
    control: Option<(Opcode, Vec<u8>)>,
    key: [u8; 4],
}

fn any_act() -> impl Strategy<Value = Act> {
    let payloads = prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), proptest::collection::vec(b'a'..b'c', 0..900)];
    let opcodes = prop_oneof![Just(Opcode::Ping), Just(Opcode::Pong)];
    let control = proptest::option::of((opcodes, proptest::collection::vec(any::<u8>(), 0..=125)));
    let text = proptest::option::of("[a-zéκ€😀]{0,150}");
    let fragments = proptest::collection::vec(0usize..300, 0..3);
    (text, payloads, any::<bool>(), fragments, control, any::<[u8; 4]>())
        .prop_map(|(text, binary, compress, fragments, control, key)| Act { text, binary, compress, fragments, control, key })
}

impl Act {
    fn write(&self, deflater: &mut Deflater, wire: &mut Vec<u8>, events: &mut Vec<Owned>) {
        let message = self.text.as_ref().map_or(self.binary.as_slice(), |text| text.as_bytes());
        let compressed = if self.compress { deflater.compress(message, DEFLATE) } else { None };
        let rsv1 = compressed.is_some();
        let mut payload = compressed.unwrap_or(message);
        let mut opcode = if self.text.is_some() { Opcode::Text } else { Opcode::Binary };
        for &cut in &self.fragments {
            let (part, after) = payload.split_at(cut.min(payload.len()));
            self.fragment(opcode, false, rsv1 && opcode != Opcode::Continuation, part, wire);
            (payload, opcode) = (after, Opcode::Continuation);
            if let Some((control, bytes)) = &self.control {
                self.fragment(*control, true, false, bytes, wire);
                events.push(if *control == Opcode::Ping { Owned::Ping(bytes.clone()) } else { Owned::Pong(bytes.clone()) });
            }
        }
        self.fragment(opcode, true, rsv1 && opcode != Opcode::Continuation, payload, wire);
        events.push(self.text.as_ref().map_or_else(|| Owned::Binary(self.binary.clone()), |text| Owned::Text(text.clone())));
    }

    fn fragment(&self, opcode: Opcode, fin: bool, rsv1: bool, payload: &[u8], wire: &mut Vec<u8>) {
        let header = Header { fin, rsv1, opcode, mask: Some(self.key), length: payload.len() as u64 };
        wire.extend(encode::build(header, payload));
    }
}

proptest! {
    #[test]
    fn any_split_of_any_stream_means_the_same(
        acts in proptest::collection::vec(any_act(), 1..6),
        cuts in proptest::collection::vec(0usize..60, 0..80),
    ) {
        let (mut wire, mut events) = (Vec::new(), Vec::new());
        let mut deflater = Deflater::default();
        for act in &acts {
            act.write(&mut deflater, &mut wire, &mut events);
        }
        let mut decoder = Decoder::new(Role::Server, true);
        let decoded = decode(&wire, &cuts, &mut decoder, &options());
        prop_assert_eq!(decoded, (events, None));
        prop_assert!(decoder.is_idle());
    }

    #[test]
    fn any_split_of_any_bytes_means_the_same_and_never_panics(
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0x80u8), Just(0x81), Just(0x01), Just(0x89)], 0..200),
        cuts in proptest::collection::vec(0usize..30, 0..30),
        server: bool,
    ) {
        let role = if server { Role::Server } else { Role::Client };
        let whole = decode(&bytes, &[], &mut Decoder::new(role, true), &options());
        let split = decode(&bytes, &cuts, &mut Decoder::new(role, true), &options());
        prop_assert_eq!(whole.0, split.0);
        // Text that is cut fails sooner than text that waits to be whole, so only the presence at the end may differ.
        if whole.1.is_some() {
            prop_assert_eq!(whole.1, split.1);
        }
    }
}
