//! `POST /channels/NAME`: a body becomes a publication.

use std::fmt;

use super::name::{self, NameError};
use crate::http::path::decode;
use crate::http::problem::Problem;
use crate::http::response::Response;
use crate::hub::{ChannelName, Draft, Payload, PayloadKind, PublishError, Stored};
use crate::protocol::codes::ErrorCode;

/// Bytes of an idempotency key.
const KEY_BYTES_MAX: usize = 255;
/// Bytes of an event's name.
const EVENT_BYTES_MAX: usize = 255;
/// Nesting of a JSON payload. Parsers have such a bound, commonly 128, and a poll's body nests the payload three levels deeper.
pub const JSON_DEPTH_MAX: usize = 100;
/// Event names that mean something to an event stream's reader.
const RESERVED_EVENTS: [&str; 6] = ["gap", "end", "open", "error", "message", "binary"];

/// Why a body is not a publication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BodyError {
    Name(NameError),
    Event,
    ReservedEvent(String),
    IdempotencyKey,
    Empty,
    Json(String),
    JsonDepth,
    Utf8,
    ContentType(String),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Event => write!(f, "an event name is 1 to {EVENT_BYTES_MAX} bytes of UTF-8 without line breaks"),
            Self::ReservedEvent(event) => write!(f, "the event name {event} is reserved: {}", RESERVED_EVENTS.join(", ")),
            Self::IdempotencyKey => write!(f, "an Idempotency-Key is 1 to {KEY_BYTES_MAX} printable ASCII characters"),
            Self::Empty => write!(f, "the body is empty: a publication has a payload"),
            Self::Json(error) => write!(f, "the payload is not JSON: {error}"),
            Self::JsonDepth => write!(f, "the payload is nested deeper than {JSON_DEPTH_MAX} levels"),
            Self::Utf8 => write!(f, "the payload is not UTF-8: send it as application/octet-stream"),
            Self::ContentType(kind) => write!(f, "{kind} is not published: application/json, text/* or application/octet-stream"),
        }
    }
}

impl BodyError {
    #[must_use]
    pub fn problem(&self) -> Problem {
        Problem::bad_request(self.to_string())
    }
}

/// What a content type says about a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Declared {
    Json,
    Text,
    Binary,
    /// Nothing, or what `curl -d` says by default: look.
    #[default]
    Unknown,
}

/// What the head says about the publication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    channel: ChannelName,
    event: Option<Box<str>>,
    idempotency_key: Option<Box<str>>,
    declared: Declared,
}

impl Envelope {
    /// Reads the head's part: the escaped name, the query, `Content-Type`, `Idempotency-Key`.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn parse(name: &str, query: Option<&str>, content_type: Option<&str>, key: Option<&str>) -> Result<Self, BodyError> {
        let event = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("event="));
        let event = event
            .map(|event| decode(event, true).and_then(|event| String::from_utf8(event).ok()).ok_or(BodyError::Event))
            .transpose()?;
        Ok(Self {
            channel: name::in_path(name).map_err(BodyError::Name)?,
            event: event.map(|event| check_event(&event)).transpose()?,
            idempotency_key: key.map(idempotency_key).transpose()?,
            declared: declared(content_type)?,
        })
    }

    /// The publication that the body is.
    ///
    /// # Errors
    /// What the body is not.
    pub fn draft(self, body: Vec<u8>) -> Result<Draft, BodyError> {
        let payload = match self.declared {
            _ if body.is_empty() => return Err(BodyError::Empty),
            Declared::Json => json(&body)?,
            Declared::Text => text(body)?,
            Declared::Binary => Payload { kind: PayloadKind::Binary, bytes: body.into() },
            Declared::Unknown => guess(body),
        };
        Ok(Draft { event: self.event, idempotency_key: self.idempotency_key, ..Draft::new(self.channel, payload) })
    }
}

/// Checks an event's name for what an event stream could not carry.
///
/// # Errors
/// A reserved name, or one that is empty, too long or has line breaks.
pub fn check_event(event: &str) -> Result<Box<str>, BodyError> {
    if RESERVED_EVENTS.contains(&event) {
        return Err(BodyError::ReservedEvent(event.to_owned()));
    }
    let fits = (1..=EVENT_BYTES_MAX).contains(&event.len()) && !event.contains(['\r', '\n', '\0']);
    if fits { Ok(event.into()) } else { Err(BodyError::Event) }
}

/// A key as sent in the header, quoted or bare.
///
/// # Errors
/// An empty, too long or unprintable key.
pub fn idempotency_key(key: &str) -> Result<Box<str>, BodyError> {
    let bare = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    let fits = (1..=KEY_BYTES_MAX).contains(&bare.len()) && bare.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
    if fits { Ok(bare.into()) } else { Err(BodyError::IdempotencyKey) }
}

fn declared(content_type: Option<&str>) -> Result<Declared, BodyError> {
    let Some(content_type) = content_type else { return Ok(Declared::Unknown) };
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "" | "application/x-www-form-urlencoded" => Ok(Declared::Unknown),
        "application/json" => Ok(Declared::Json),
        "application/octet-stream" => Ok(Declared::Binary),
        _ if kind.starts_with("text/") => Ok(Declared::Text),
        _ if kind.ends_with("+json") => Ok(Declared::Json),
        _ => Err(BodyError::ContentType(kind.chars().filter(char::is_ascii_graphic).take(60).collect())),
    }
}

/// Checks JSON once and puts it on one line: line breaks outside strings are only layout, inside them they are not JSON.
///
/// # Errors
/// Where and why it is not JSON.
pub fn json(bytes: &[u8]) -> Result<Payload, BodyError> {
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| BodyError::Utf8)?;
    // Ignored values are checked against the grammar only, without recursion: nothing is built and nothing bounds the nesting.
    let checked: Result<serde::de::IgnoredAny, _> = serde_json::from_str(text);
    checked.map_err(|error| BodyError::Json(error.to_string()))?;
    if nesting(bytes) > JSON_DEPTH_MAX {
        return Err(BodyError::JsonDepth);
    }
    let bytes = text.trim_ascii().bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    Ok(Payload { kind: PayloadKind::Json, bytes })
}

/// How deep arrays and objects are nested in valid JSON.
fn nesting(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn text(bytes: Vec<u8>) -> Result<Payload, BodyError> {
    simdutf8::basic::from_utf8(&bytes).map_err(|_| BodyError::Utf8)?;
    Ok(Payload { kind: PayloadKind::Text, bytes: bytes.into() })
}

fn guess(bytes: Vec<u8>) -> Payload {
    if matches!(bytes.first(), Some(b'{' | b'['))
        && let Ok(payload) = json(&bytes)
    {
        return payload;
    }
    let kind = if simdutf8::basic::from_utf8(&bytes).is_ok() { PayloadKind::Text } else { PayloadKind::Binary };
    Payload { kind, bytes: bytes.into() }
}

/// The answer to a publisher: `None` where the home has not replied in time.
#[must_use]
pub fn reply(channel: &ChannelName, result: Option<Result<Stored, PublishError>>) -> Response {
    match result {
        Some(Ok(stored)) => {
            let mut body = b"{\"channel\":".to_vec();
            let _ = serde_json::to_writer(&mut body, channel.as_str());
            body.extend_from_slice(format!(",\"position\":\"{}\"", stored.position).as_bytes());
            body.extend_from_slice(if stored.duplicate { b",\"duplicate\":true}" } else { b"}" });
            Response::json(200, body)
        }
        Some(Err(error)) => refusal(error).response(),
        None => Problem::unavailable("the channel's worker did not answer in time", 1).response(),
    }
}

fn refusal(error: PublishError) -> Problem {
    match error {
        PublishError::UnknownNamespace => {
            Problem::new(404, "the channel's namespace is not configured and unknown ones are refused")
        }
        PublishError::TooLarge { bytes, bytes_max } => {
            Problem::new(413, format!("the payload has {bytes} bytes, {bytes_max} are allowed"))
        }
    }
}

/// The number a refused publication is counted under.
#[must_use]
pub fn error_number(error: PublishError) -> u16 {
    ErrorCode::from(error).number()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, StreamPosition};
    use proptest::prelude::*;

    fn draft(content_type: Option<&str>, body: &[u8]) -> Result<(PayloadKind, String), BodyError> {
        let draft = Envelope::parse("news", None, content_type, None)?.draft(body.to_vec())?;
        Ok((draft.payload.kind, String::from_utf8_lossy(&draft.payload.bytes).into_owned()))
    }

    #[test]
    fn a_body_is_what_its_type_says_or_what_it_looks_like() {
        let ok = |kind, text: &str| Ok((kind, text.to_owned()));
        for (content_type, body, expected) in [
            (Some("application/json; charset=utf-8"), b" {\"a\":\r\n 1}\n".as_slice(), ok(PayloadKind::Json, "{\"a\": 1}")),
            (Some("application/vnd.x+json"), b"1", ok(PayloadKind::Json, "1")),
            (Some("text/plain"), b"{\"a\":1}", ok(PayloadKind::Text, "{\"a\":1}")),
            (Some("text/plain"), b"\xff", Err(BodyError::Utf8)),
            (Some("application/octet-stream"), b"{}", ok(PayloadKind::Binary, "{}")),
            (Some("application/x-www-form-urlencoded"), b"[1]", ok(PayloadKind::Json, "[1]")),
            (None, b"{oops", ok(PayloadKind::Text, "{oops")),
            (None, b"hi\nyou", ok(PayloadKind::Text, "hi\nyou")),
            (None, b"1", ok(PayloadKind::Text, "1")),
            (None, b"", Err(BodyError::Empty)),
            (Some("image/png"), b"x", Err(BodyError::ContentType("image/png".to_owned()))),
        ] {
            assert_eq!(draft(content_type, body), expected, "{content_type:?} {body:?}");
        }
        assert!(matches!(draft(Some("application/json"), b"{oops"), Err(BodyError::Json(_))));
        assert!(matches!(draft(Some("application/json"), b"\"\xff\""), Err(BodyError::Json(_) | BodyError::Utf8)));
    }

    #[test]
    fn deep_nesting_is_refused_without_exhausting_the_stack() {
        let nested = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
        assert_eq!(json(&nested(JSON_DEPTH_MAX + 1)), Err(BodyError::JsonDepth));
        assert_eq!(json(&nested(100_000)), Err(BodyError::JsonDepth));
        let deepest = json(&nested(JSON_DEPTH_MAX)).unwrap();
        let poll = [b"{\"messages\":[{\"data\":".as_slice(), &deepest.bytes, b"}]}"].concat();
        assert!(serde_json::from_slice::<serde_json::Value>(&poll).is_ok(), "a poll's reader still gets through");
    }

    #[test]
    fn brackets_in_strings_are_not_nesting() {
        for text in [r#"["[[[{"]"#, r#"["\"[[["]"#, r#"["\\",[]]"#] {
            assert_eq!(nesting(text.as_bytes()), 1 + usize::from(text.ends_with("[]]")), "{text}");
        }
    }

    #[test]
    fn publishing_and_subscribing_agree_on_names() {
        let parse = |name: &str| Envelope::parse(name, None, None, None).map(|envelope| envelope.channel.as_str().to_owned());
        assert_eq!(parse("a%2Fb"), Ok("a/b".to_owned()));
        assert_eq!(parse("a/b"), Err(BodyError::Name(NameError::Slash)));
    }

    #[test]
    fn event_names_that_mean_something_are_refused() {
        let parse = |query: &str| Envelope::parse("news", Some(query), None, None);
        assert_eq!(parse("x=1&event=up%20down").unwrap().event.as_deref(), Some("up down"));
        for event in RESERVED_EVENTS {
            assert_eq!(parse(&format!("event={event}")), Err(BodyError::ReservedEvent(event.to_owned())));
        }
        for event in ["", "a%0Ab", "a%0Db", "a%00b", "%FF", "%f"] {
            assert_eq!(parse(&format!("event={event}")), Err(BodyError::Event), "{event}");
        }
    }

    #[test]
    fn a_key_is_the_same_quoted_or_bare() {
        assert_eq!(idempotency_key("\"k 1\"").as_deref(), Ok("k 1"));
        assert_eq!(idempotency_key("k 1").as_deref(), Ok("k 1"));
        for key in ["", "\"\"", "k\u{e9}", &"k".repeat(256)] {
            assert_eq!(idempotency_key(key), Err(BodyError::IdempotencyKey), "{key}");
        }
    }

    #[test]
    fn the_reply_tells_channel_position_and_repetition() {
        let stored = Stored { position: StreamPosition { epoch: Epoch(1), offset: 43 }, kept: true, duplicate: true };
        let channel = ChannelName::parse("news").unwrap();
        let response = reply(&channel, Some(Ok(stored)));
        assert_eq!(response.body(), br#"{"channel":"news","position":"00000000001:43","duplicate":true}"#);
        assert_eq!(reply(&channel, None).status(), 503);
    }

    proptest! {
        #[test]
        fn a_normalised_payload_means_what_was_sent(values in prop::collection::vec("\\PC{0,9}", 0..5)) {
            let sent = serde_json::to_string_pretty(&values).unwrap();
            let payload = json(sent.as_bytes()).unwrap();
            prop_assert!(!payload.bytes.contains(&b'\n'));
            prop_assert_eq!(serde_json::from_slice::<Vec<String>>(&payload.bytes).unwrap(), values);
        }

        #[test]
        fn any_body_is_an_answer_not_a_panic(body: Vec<u8>) {
            let _ = draft(None, &body);
            let _ = draft(Some("application/json"), &body);
        }
    }
}
