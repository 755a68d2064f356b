use super::*;
use crate::base::{Epoch, StreamPosition, WallMs};
use crate::http::body::BodyReader;
use crate::http::head::Framing;
use crate::hub::{Draft, GapReason, Payload, Start};
use crate::transport::event_stream::tests::read;
use crate::ws::deflate::Inflater;
use proptest::prelude::*;

fn at(offset: u64) -> StreamPosition {
    StreamPosition { epoch: Epoch(1), offset }
}

fn channel() -> ChannelName {
    ChannelName::parse("news").unwrap()
}

fn publication(offset: u64, kind: PayloadKind, bytes: &[u8], event: Option<&str>) -> Arc<Publication> {
    let draft = Draft { event: event.map(Into::into), ..Draft::new(channel(), Payload { kind, bytes: bytes.into() }) };
    Arc::new(draft.into_publication(at(offset), false, WallMs(0)))
}

/// A publication of each kind, one of them with an event name.
fn run() -> Vec<Arc<Publication>> {
    vec![
        publication(42, PayloadKind::Json, b"{\"a\":1}", None),
        publication(43, PayloadKind::Text, b"hi\nyou", Some("up")),
        publication(44, PayloadKind::Binary, &[0, 1, 2], None),
    ]
}

const ITEMS: [&str; 3] = [
    r#"{"channel":"news","position":"00000000001:42","data":{"a":1}}"#,
    r#"{"channel":"news","position":"00000000001:43","data":"hi\nyou","event":"up"}"#,
    r#"{"channel":"news","position":"00000000001:44","b64":"AAEC"}"#,
];

const WEBSOCKET: Shape = Shape::WebSocket { deflate: None };
const EVENTS: Shape = Shape::Stream { kind: StreamKind::EventStream, chunked: false };
const LINES: Shape = Shape::Stream { kind: StreamKind::NdJson, chunked: false };

fn audience(transport: Shape, format: Format) -> Audience {
    Audience { transport, format, several: false }
}

fn encoded<R>(encode: impl FnOnce(&mut Encoder<'_>) -> R) -> R {
    encode(&mut Encoder::new(&mut Deflater::default(), &Options::default()))
}

#[track_caller]
fn check(audience: &Audience, expected: &[u8]) {
    let bytes = encoded(|encoder| encoder.run(audience, &run()));
    assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(expected));
    assert_eq!(bytes, expected);
}

#[test]
fn a_run_is_one_websocket_message_per_publication() {
    let frame = |opcode: u8, payload: &[u8]| [&[0x80 | opcode, u8::try_from(payload.len()).unwrap()], payload].concat();
    check(&audience(WEBSOCKET, Format::Json), &ITEMS.map(|item| frame(1, item.as_bytes())).concat());
    let raw = [frame(1, b"{\"a\":1}"), frame(1, b"hi\nyou"), frame(2, &[0, 1, 2])].concat();
    check(&audience(WEBSOCKET, Format::Raw), &raw);
}

#[test]
fn a_run_is_one_line_per_publication() {
    check(&audience(LINES, Format::Json), format!("{}\n", ITEMS.join("\n")).as_bytes());
}

#[test]
fn a_run_is_one_event_per_publication() {
    let raw = "id: 00000000001:42\ndata: {\"a\":1}\n\n\
               id: 00000000001:43\nevent: up\ndata: hi\ndata: you\n\n\
               id: 00000000001:44\nevent: binary\ndata: AAEC\n\n";
    check(&audience(EVENTS, Format::Raw), raw.as_bytes());
    let [first, second, third] = ITEMS;
    let json = format!(
        "id: 00000000001:42\ndata: {first}\n\nid: 00000000001:43\nevent: up\ndata: {second}\n\nid: 00000000001:44\ndata: {third}\n\n"
    );
    check(&audience(EVENTS, Format::Json), json.as_bytes());
}

#[test]
fn a_run_is_one_chunk() {
    let chunked = Shape::Stream { kind: StreamKind::NdJson, chunked: true };
    let lines = format!("{}\n", ITEMS.join("\n"));
    check(&audience(chunked, Format::Json), format!("{:x}\r\n{lines}\r\n", lines.len()).as_bytes());
}

#[test]
fn a_run_is_the_part_of_a_polls_response_that_is_the_same_for_all() {
    let body = format!("{{\"messages\":[{}],\"position\":\"00000000001:44\"}}", ITEMS.join(","));
    let head = "ETag: \"00000000001:44\"\r\nCache-Control: no-store\r\nContent-Type: application/json\r\n";
    check(&audience(Shape::Poll, Format::Json), format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
}

#[test]
fn only_messages_worth_it_are_compressed() {
    let audience = audience(Shape::WebSocket { deflate: Some(DeflateParams { server_window: ws::WindowBits::MAX }) }, Format::Json);
    let long = publication(1, PayloadKind::Text, &[b'x'; 100], None);
    let short = encoded(|encoder| encoder.run(&audience, &run()[..1]));
    assert_eq!((short[0], short.len()), (0x81, 2 + ITEMS[0].len()), "too short to be worth it");
    let packed = encoded(|encoder| encoder.run(&audience, std::slice::from_ref(&long)));
    assert_eq!(packed[0], 0xc1, "RSV1 and text");
    assert_eq!(Inflater::default().inflate(&packed[2..], 1 << 10).unwrap(), item_of(&long));
}

#[test]
fn a_gap_is_said_in_each_transports_way_or_not_at_all() {
    let gap = Gap { reason: GapReason::Expired, after: Some(at(7).into()), next: at(12), missed: Some(4) };
    let object = r#"{"channel":"news","after":"00000000001:7","next":"00000000001:12","missed":4,"reason":"expired"}"#;
    let said = |transport, format| encoded(|encoder| encoder.gap(&audience(transport, format), &channel(), &gap));
    let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap()).unwrap();
    let event = text(said(EVENTS, Format::Raw));
    let expected = [("00000000001:11".to_owned(), "gap".to_owned(), object.to_owned())];
    assert_eq!(read(&event), expected, "the position before the next, or every reconnect would repeat the gap");
    assert_eq!(text(said(LINES, Format::Json)), format!("{{\"gap\":{object}}}\n"));
    assert!(said(WEBSOCKET, Format::Json).unwrap().ends_with(format!("{{\"gap\":{object}}}").as_bytes()));
    assert_eq!(said(WEBSOCKET, Format::Raw), None);
}

#[test]
fn the_last_word_ends_the_stream() {
    let object = r#"{"code":3001,"reason":"shutdown","reconnect":true,"retry_ms":1834}"#;
    let end = |shape| String::from_utf8(encoded(|encoder| encoder.end(&audience(shape, Format::Json), Disconnect::Shutdown, 1834)));
    assert_eq!(end(EVENTS).unwrap(), format!("retry: 1834\nevent: end\ndata: {object}\n\n"));
    let line = format!("{{\"end\":{object}}}\n");
    assert_eq!(end(LINES).unwrap(), line);
    let chunked = end(Shape::Stream { kind: StreamKind::NdJson, chunked: true }).unwrap();
    assert_eq!(chunked, format!("{:x}\r\n{line}\r\n0\r\n\r\n", line.len()));
    assert_eq!(end(WEBSOCKET).unwrap(), "");
}

fn opening(audience: &Audience, resumes: Option<Epoch>, outcome: Outcome) -> String {
    let answer = Answer { top: at(41), from: at(41), outcome, page: Vec::new(), head: true };
    String::from_utf8(encoded(|encoder| encoder.opening(audience, &channel(), resumes, &answer)).unwrap()).unwrap()
}

#[test]
fn a_raw_event_stream_opens_with_its_position_and_dispatches_nothing() {
    assert_eq!(opening(&audience(EVENTS, Format::Raw), None, Outcome::Exact), "id: 00000000001:41\n\n");
    let several = Audience { several: true, ..audience(EVENTS, Format::Raw) };
    assert_eq!(opening(&several, None, Outcome::Exact), "", "one channel's position is not the connection's");
}

/// Wherever a reader is cut off, the position it comes back with is one from which it is told of the gap, until it has been.
#[test]
fn no_position_behind_a_gap_is_told_before_it() {
    let gap = Gap { reason: GapReason::Expired, after: Some(at(7).into()), next: at(42), missed: Some(34) };
    for format in [Format::Raw, Format::Json] {
        let stream = opening(&audience(EVENTS, format), Some(Epoch(1)), Outcome::Gap(gap));
        let told = stream.find("\nevent: gap\n").unwrap();
        let id = stream.find("id: 00000000001:41\n").unwrap();
        assert!(stream[id..told].lines().count() == 1, "the gap's own event has the position: {stream}");
        assert_eq!(stream.matches("id: ").count(), 1, "{stream}");
    }
}

#[test]
fn only_a_position_of_this_history_is_recovered() {
    for (resumes, recovered) in [(Some(Epoch(1)), true), (Some(Epoch(2)), false), (None, false)] {
        let line = opening(&audience(LINES, Format::Json), resumes, Outcome::Exact);
        assert!(line.contains(&format!("\"recovered\":{recovered}")), "{resumes:?}: {line}");
    }
}

/// What a chunked response's reader gets.
fn content(wire: &[u8]) -> Vec<u8> {
    let mut reader = BodyReader::new(Framing::Chunked);
    let (mut content, mut used) = (Vec::new(), 0);
    while used < wire.len() {
        let step = reader.next(&wire[used..]).unwrap();
        content.extend_from_slice(step.data);
        used += step.consumed;
        assert!(!step.done && step.consumed > 0, "a run does not end the stream");
    }
    content
}

fn payloads() -> impl Strategy<Value = Vec<(String, Option<String>)>> {
    prop::collection::vec(("[ -~\u{e4}\u{2028}\n\r:\t]{0,40}", prop::option::of("[ -~]{1,9}")), 1..6)
}

proptest! {
    #[test]
    fn any_run_reads_back_from_an_event_stream(payloads in payloads()) {
        let run: Vec<_> = (1..).zip(&payloads)
            .map(|(offset, (text, event))| publication(offset, PayloadKind::Text, text.as_bytes(), event.as_deref()))
            .collect();
        let chunked = Shape::Stream { kind: StreamKind::EventStream, chunked: true };
        let wire = encoded(|encoder| encoder.run(&audience(chunked, Format::Raw), &run));
        let expected: Vec<_> = (1..).zip(&payloads)
            .map(|(offset, (text, event))| {
                (at(offset).to_string(), event.clone().unwrap_or_default(), text.replace("\r\n", "\n").replace('\r', "\n"))
            })
            .collect();
        prop_assert_eq!(read(std::str::from_utf8(&content(&wire)).unwrap()), expected);
    }

    /// A reader of several channels that is cut off anywhere resumes from a position that leaves nothing out.
    #[test]
    fn a_private_position_never_runs_ahead_of_what_was_read(payloads in payloads(), cut: prop::sample::Index) {
        let several = Audience { transport: EVENTS, format: Format::Json, several: true };
        let other = ChannelName::parse("other").unwrap();
        let mut stream = Vec::new();
        for (offset, (text, event)) in (1..).zip(&payloads) {
            let run = [publication(offset, PayloadKind::Text, text.as_bytes(), event.as_deref())];
            stream.extend(encoded(|encoder| encoder.run(&several, &run)));
            stream.extend(position(&several, &[(channel(), Some(at(offset))), (other.clone(), Some(at(9)))]));
        }
        let seen = String::from_utf8_lossy(&stream[..cut.index(stream.len() + 1)]).into_owned();
        let last_id = seen.rfind('\n').and_then(|end| seen[..end].lines().filter_map(|line| line.strip_prefix("id: ")).next_back());
        let resumed = last_id.map_or(Start::Now, |id| token::Token::parse(id).unwrap().start(&channel()));
        let read = read(&seen).len() as u64;
        match resumed {
            Start::After(position) => prop_assert!(position.offset <= read, "{} read, resumed after {}", read, position.offset),
            start => prop_assert_eq!(start, Start::Now),
        }
    }
}
