//! Wherever a stream is cut into pieces, it means the same: request heads, response heads, bodies, WebSocket frames.
//!
//! The streams are valid, nearly valid (a valid one with a few bytes changed, put in or taken out) and anything at all; the cuts are
//! anywhere. Each is compared with the stream in one piece. What is read whole (calls, messages, names, tokens) is only to be answered,
//! however it was damaged. `make fuzz` runs these longer.

use proptest::prelude::*;
use ringmain::http::body::{BodyReader, LAST_CHUNK, write_chunk};
use ringmain::http::head::{Framing, Head, HeadReader};
use ringmain::http::response_head::{ResponseHead, ResponseReader};
use ringmain::http::{HttpError, Options};
use ringmain::hub::token::Token;
use ringmain::protocol::plain::publish::Envelope;
use ringmain::protocol::plain::{api, inbound, name};
use ringmain::ws::{self, Decoder, Event, FrameError, Header, Opcode, Role, Scratch, encode};

/// The pieces between cuts, which are taken modulo what is there.
fn pieces<'a>(wire: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (wire.len() + 1)).chain([0, wire.len()]).collect();
    places.sort_unstable();
    places.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect()
}

fn any_cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0usize..4096, 0..12)
}

/// One change of a byte string.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
}

fn any_changes() -> impl Strategy<Value = Vec<Change>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\r\n\t :;,=0aA\x00\x7f\x80\xff".to_vec())];
    let place = 0usize..4096;
    let change = prop_oneof![
        (place.clone(), byte.clone()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (place.clone(), byte).prop_map(|(at, byte)| Change::Insert(at, byte)),
        place.prop_map(Change::Remove),
    ];
    prop::collection::vec(change, 0..4)
}

fn changed(mut wire: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let length = wire.len().max(1);
        match *change {
            Change::Insert(at, byte) => wire.insert(at % (wire.len() + 1), byte),
            _ if wire.is_empty() => {}
            Change::Set(at, byte) => wire[at % length] = byte,
            Change::Remove(at) => _ = wire.remove(at % length),
        }
    }
    wire
}

// ---- requests ----

fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let target = prop_oneof![Just("/".to_owned()), "/[a-z%2F.]{0,12}(\\?[a-z=&%41]{0,12})?", Just("http://h/x".to_owned())];
    let field = prop_oneof![
        "[A-Za-z-]{1,9}: [ -~]{0,20}",
        Just("Transfer-Encoding: chunked".to_owned()),
        Just("Content-Length: 3".to_owned()),
        Just("Connection: keep-alive, x".to_owned()),
        Just("Expect: 100-continue".to_owned()),
    ];
    (prop::sample::select(vec!["GET", "POST", "OPTIONS", "X-y"]), target, prop::collection::vec(field, 0..4), any::<bool>())
        .prop_map(|(method, target, fields, http11)| {
            let version = if http11 { "1.1" } else { "1.0" };
            let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
            format!("{method} {target} HTTP/{version}\r\nHost: h\r\n{fields}\r\n").into_bytes()
        })
}

/// What is said of a request.
fn facts(head: &Head) -> String {
    let fields: Vec<_> = head.fields().collect();
    format!(
        "{} {} {} {:?} {:?} {} {:?} {fields:?}",
        head.method_name(),
        head.target(),
        head.path(),
        head.framing(),
        head.version(),
        head.host(),
        head.keep_alive()
    )
}

/// Heads that follow on each other, as far as they can be read.
fn requests(pieces: &[&[u8]]) -> (Vec<String>, Option<HttpError>) {
    let options = Options { head_bytes_max: 300, headers_max: 6, ..Options::default() };
    let (mut reader, mut heads) = (HeadReader::default(), Vec::new());
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            match reader.feed(rest, &options) {
                Ok(Some((head, consumed))) => {
                    heads.push(facts(&head));
                    rest = &rest[consumed..];
                    reader = HeadReader::default();
                }
                Ok(None) => break,
                Err(error) => return (heads, Some(error)),
            }
        }
    }
    (heads, None)
}

// ---- responses ----

fn any_response() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        "[A-Za-z-]{1,9}: [ -~]{0,20}",
        Just("Transfer-Encoding: chunked".to_owned()),
        Just("Content-Length: 3".to_owned()),
        Just("Connection: close".to_owned()),
    ];
    (100u16..600, "[ -~]{0,9}", prop::collection::vec(field, 0..4), any::<bool>()).prop_map(|(status, reason, fields, http11)| {
        let version = if http11 { "1.1" } else { "1.0" };
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        format!("HTTP/{version} {status} {reason}\r\n{fields}\r\n").into_bytes()
    })
}

fn responses(pieces: &[&[u8]]) -> (Vec<ResponseHead>, Option<HttpError>) {
    let options = Options { head_bytes_max: 300, headers_max: 6, ..Options::default() };
    let (mut reader, mut heads) = (ResponseReader::default(), Vec::new());
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            match reader.feed(rest, false, &options) {
                Ok(Some((head, consumed))) => {
                    heads.push(head);
                    rest = &rest[consumed..];
                }
                Ok(None) => break,
                Err(error) => return (heads, Some(error)),
            }
        }
    }
    (heads, None)
}

// ---- bodies ----

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let part = (prop::collection::vec(any::<u8>(), 1..40), "(;[a-z]=[a-z]{0,3})?");
    (prop::collection::vec(part, 0..5), "([A-Z]: [a-z]{0,5}\r\n)?").prop_map(|(parts, trailer)| {
        let mut wire = Vec::new();
        for (part, extension) in &parts {
            let mut chunk = Vec::new();
            write_chunk(&mut chunk, part);
            let line = chunk.windows(2).position(|pair| pair == b"\r\n").expect("a chunk has a size line");
            chunk.splice(line..line, extension.bytes());
            wire.extend(chunk);
        }
        wire.extend_from_slice(&LAST_CHUNK[..3]);
        wire.extend_from_slice(trailer.as_bytes());
        wire.extend_from_slice(b"\r\n");
        wire
    })
}

/// The content, how many bytes it took, and whether it is all.
fn body(framing: Framing, pieces: &[&[u8]]) -> (Vec<u8>, usize, bool, Option<HttpError>) {
    let (mut reader, mut content, mut used) = (BodyReader::new(framing), Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() && !reader.is_done() {
            match reader.next(rest) {
                Ok(step) => {
                    content.extend_from_slice(step.data);
                    used += step.consumed;
                    rest = &rest[step.consumed..];
                }
                Err(error) => return (content, 0, false, Some(error)),
            }
        }
    }
    (content, used, reader.is_done(), None)
}

// ---- WebSocket ----

fn any_frames(masked: bool) -> impl Strategy<Value = Vec<u8>> {
    let opcode =
        prop::sample::select(vec![Opcode::Text, Opcode::Binary, Opcode::Continuation, Opcode::Ping, Opcode::Pong, Opcode::Close]);
    let payload =
        prop_oneof!["[a-zä€]{0,20}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..150), Just(vec![3, 232]),];
    let frame = (opcode, payload, any::<bool>(), prop::bool::weighted(0.1), any::<[u8; 4]>());
    prop::collection::vec(frame, 1..6).prop_map(move |frames| {
        let mut wire = Vec::new();
        for (opcode, mut payload, fin, rsv1, key) in frames {
            if opcode.is_control() {
                payload.truncate(125);
            }
            let fin = fin || opcode.is_control();
            let header = Header { fin, rsv1, opcode, mask: masked.then_some(key), length: payload.len() as u64 };
            wire.extend(encode::build(header, &payload));
        }
        wire
    })
}

fn frames(role: Role, pieces: &[&[u8]]) -> (Vec<String>, Option<FrameError>) {
    let options = ws::Options { message_bytes_max: 400, fragments_max: 4, ..ws::Options::default() };
    let (mut decoder, mut scratch, mut events) = (Decoder::new(role, true), Scratch::default(), Vec::new());
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut bytes = piece.as_mut_slice();
        loop {
            match decoder.next(&mut bytes, &mut scratch, &options) {
                Ok(Some(event)) => {
                    let last = matches!(event, Event::Close { .. });
                    events.push(format!("{event:?}"));
                    if last {
                        return (events, None);
                    }
                }
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

/// Text that is cut fails sooner than text that waits to be whole, so a failure at the very end may show only in one of the two.
fn same_frames(role: Role, wire: &[u8], cuts: &[usize]) -> Result<(), TestCaseError> {
    let (whole, split) = (frames(role, &[wire]), frames(role, &pieces(wire, cuts)));
    prop_assert_eq!(&whole.0, &split.0);
    if whole.1.is_some() {
        prop_assert_eq!(whole.1, split.1);
    }
    Ok(())
}

// ---- what is read whole ----

/// A JSON object of the fields that calls and messages know, with values that fit or do not.
fn any_call() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("[\"a\",\"b:1\"]".to_owned()),
        Just("{\"a\":\"1\"}".to_owned()),
        Just("\"aGk=\"".to_owned()),
        "\"[a-z:\\\\u0-9]{0,6}\"".prop_map(String::from),
        "-?[0-9]{1,20}".prop_map(String::from),
        any::<bool>().prop_map(|value| value.to_string()),
    ];
    let names = [
        "channel",
        "channels",
        "data",
        "b64data",
        "skip_history",
        "tags",
        "idempotency_key",
        "id",
        "event",
        "version",
        "key",
        "publish",
    ];
    let field = (prop::sample::select(names.to_vec()), value).prop_map(|(name, value)| format!("\"{name}\":{value}"));
    (prop::collection::vec(field, 0..6), any::<bool>()).prop_map(|(fields, nested)| {
        let object = format!("{{{}}}", fields.join(","));
        if nested { format!("{{\"id\":1,\"publish\":{object}}}").into_bytes() } else { object.into_bytes() }
    })
}

proptest! {
    #[test]
    fn no_call_or_message_makes_reading_panic(call in any_call(), changes in any_changes()) {
        let call = changed(call, &changes);
        let _ = (api::publish_request(&call).is_ok(), api::broadcast_request(&call).is_ok());
        let _ = (inbound::parse(&call), inbound::raw(&call, false));
    }

    #[test]
    fn no_envelope_makes_reading_panic(
        path in prop::option::of("[a-z:%0-9A-F]{0,12}|\\PC{0,9}"),
        query in "((channel|event|key)=[a-z%0-9A-F+&]{0,9}&?){0,4}",
        kind in prop::sample::select(vec!["application/json", "text/plain", "application/octet-stream", "image/png", ""]),
        key in prop::option::of("\\PC{0,9}"),
        body in any_call(),
        changes in any_changes(),
    ) {
        if let Ok(envelope) = Envelope::parse(path.as_deref(), Some(&query), Some(kind), key.as_deref(), 4) {
            let _ = envelope.drafts(changed(body, &changes));
        }
    }

    #[test]
    fn no_name_or_token_makes_reading_panic(text in "\\PC{0,30}|[a-z%0-9A-Fa-f:/+]{0,30}|m1\\.[A-Za-z0-9_-]{0,80}|[A-Za-z0-9]{11}:[0-9]{0,22}") {
        let _ = (name::in_path(&text).is_ok(), name::in_query(&text).is_ok(), Token::parse(&text));
    }

    #[test]
    fn any_split_of_requests(valid in prop::collection::vec(any_request(), 1..4), changes in any_changes(), cuts in any_cuts()) {
        let wire = changed(valid.concat(), &changes);
        prop_assert_eq!(requests(&pieces(&wire, &cuts)), requests(&[&wire]));
    }

    #[test]
    fn any_split_of_any_bytes_as_requests(wire in prop::collection::vec(any::<u8>(), 0..400), cuts in any_cuts()) {
        prop_assert_eq!(requests(&pieces(&wire, &cuts)), requests(&[&wire]));
    }

    #[test]
    fn any_split_of_responses(valid in prop::collection::vec(any_response(), 1..4), changes in any_changes(), cuts in any_cuts()) {
        let wire = changed(valid.concat(), &changes);
        prop_assert_eq!(responses(&pieces(&wire, &cuts)), responses(&[&wire]));
    }

    #[test]
    fn any_split_of_any_bytes_as_responses(wire in prop::collection::vec(any::<u8>(), 0..400), cuts in any_cuts()) {
        prop_assert_eq!(responses(&pieces(&wire, &cuts)), responses(&[&wire]));
    }

    #[test]
    fn any_split_of_a_chunked_body(valid in any_body(), changes in any_changes(), cuts in any_cuts()) {
        let (_, used, done, error) = body(Framing::Chunked, &[&valid]);
        prop_assert_eq!((used, done, error), (valid.len(), true, None));
        let wire = changed(valid, &changes);
        prop_assert_eq!(body(Framing::Chunked, &pieces(&wire, &cuts)), body(Framing::Chunked, &[&wire]));
    }

    #[test]
    fn any_split_of_any_bytes_as_a_body(wire in prop::collection::vec(any::<u8>(), 0..200), length in 0u64..250, cuts in any_cuts()) {
        for framing in [Framing::Chunked, Framing::Length(length), Framing::UntilClose, Framing::None] {
            prop_assert_eq!(body(framing, &pieces(&wire, &cuts)), body(framing, &[&wire]));
        }
    }

    #[test]
    fn any_split_of_frames(client in any_frames(true), server in any_frames(false), changes in any_changes(), cuts in any_cuts()) {
        same_frames(Role::Server, &changed(client, &changes), &cuts)?;
        same_frames(Role::Client, &changed(server, &changes), &cuts)?;
    }
}
