//! `POST /channels/NAME` and `POST /channels?channel=…`: a body becomes a publication, of one channel or of several.

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
/// Bytes of a conflation key.
const CONFLATION_KEY_BYTES_MAX: usize = 255;
/// Nesting of a JSON payload. Parsers have such a bound, commonly 128, and a poll's body nests the payload three levels deeper.
pub const JSON_DEPTH_MAX: usize = 100;
/// Event names that mean something to an event stream's reader.
const RESERVED_EVENTS: [&str; 6] = ["gap", "end", "open", "error", "message", "binary"];

/// Why a body is not a publication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BodyError {
    /// In the path or in a `channel=`.
    Name(NameError),
    /// Neither the path nor the query names a channel.
    NoChannel,
    /// Both do.
    ChannelTwice,
    /// Duplicates count once.
    TooManyChannels {
        /// How many a request may name, for the answer's text.
        channels_max: usize,
    },
    /// `event=` is empty, too long, not UTF-8, or would break an event stream's lines.
    Event,
    /// `gap` and the like: a reader would take it for ours.
    ReservedEvent(String),
    /// The `Idempotency-Key` field is empty, too long or not printable ASCII.
    IdempotencyKey,
    /// `key=` is empty, too long or not UTF-8.
    ConflationKey,
    /// A body of no bytes, whatever its type.
    Empty,
    /// Declared as JSON and none; the text says where.
    Json(String),
    /// Deeper than [`JSON_DEPTH_MAX`], at which its readers' parsers may fail.
    JsonDepth,
    /// Half of a surrogate pair in an escape (RFC 8259 section 8.2).
    JsonSurrogate,
    /// Declared as text or JSON.
    Utf8,
    /// Neither JSON, text nor octets; what is printable of it, at most 60 characters.
    ContentType(String),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::NoChannel => write!(f, "no channel is named: publish to /channels/NAME or /channels?channel=NAME"),
            Self::ChannelTwice => {
                write!(f, "the path names the channel: several are published to as /channels?channel=A&channel=B")
            }
            Self::TooManyChannels { channels_max } => write!(f, "a request may name {channels_max} channels"),
            Self::Event => write!(f, "an event name is 1 to {EVENT_BYTES_MAX} bytes of UTF-8 without line breaks"),
            Self::ReservedEvent(event) => write!(f, "the event name {event} is reserved: {}", RESERVED_EVENTS.join(", ")),
            Self::IdempotencyKey => write!(f, "an Idempotency-Key is 1 to {KEY_BYTES_MAX} printable ASCII characters"),
            Self::ConflationKey => write!(f, "a key is 1 to {CONFLATION_KEY_BYTES_MAX} bytes of UTF-8"),
            Self::Empty => write!(f, "the body is empty: a publication has a payload"),
            Self::Json(error) => write!(f, "the payload is not JSON: {error}"),
            Self::JsonDepth => write!(f, "the payload is nested deeper than {JSON_DEPTH_MAX} levels"),
            Self::JsonSurrogate => {
                write!(f, "the payload escapes half of a surrogate pair, which is no character: its readers would fail")
            }
            Self::Utf8 => write!(f, "the payload is not UTF-8: send it as application/octet-stream"),
            Self::ContentType(kind) => write!(f, "{kind} is not published: application/json, text/* or application/octet-stream"),
        }
    }
}

impl BodyError {
    /// The answer to the publisher.
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
    /// Not empty, without duplicates, in the order named.
    channels: Vec<ChannelName>,
    event: Option<Box<str>>,
    key: Option<Box<str>>,
    idempotency_key: Option<Box<str>>,
    declared: Declared,
}

impl Envelope {
    /// Reads the head's part: the escaped name of the path if that has one, the query, `Content-Type`, `Idempotency-Key`.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn parse(
        name: Option<&str>,
        query: Option<&str>,
        content_type: Option<&str>,
        key: Option<&str>,
        channels_max: usize,
    ) -> Result<Self, BodyError> {
        let query = query.unwrap_or_default();
        let parameter = |name: &'static str, error: BodyError| {
            let found = values(query, name).next();
            found.map(|value| decode(value, true).and_then(|value| String::from_utf8(value).ok()).ok_or(error)).transpose()
        };
        Ok(Self {
            channels: channels(name, query, channels_max)?,
            event: parameter("event", BodyError::Event)?.map(|event| check_event(&event)).transpose()?,
            key: parameter("key", BodyError::ConflationKey)?.map(|key| check_key(&key)).transpose()?,
            idempotency_key: key.map(idempotency_key).transpose()?,
            declared: declared(content_type)?,
        })
    }

    /// The publications that the body is: one for each channel.
    ///
    /// # Errors
    /// What the body is not.
    pub fn drafts(self, body: Vec<u8>) -> Result<Vec<Draft>, BodyError> {
        let payload = match self.declared {
            _ if body.is_empty() => return Err(BodyError::Empty),
            Declared::Json => json(&body)?,
            Declared::Text => text(body)?,
            Declared::Binary => Payload { kind: PayloadKind::Binary, bytes: body.into() },
            Declared::Unknown => guess(body),
        };
        let draft = |channel| Draft {
            event: self.event.clone(),
            key: self.key.clone(),
            idempotency_key: self.idempotency_key.clone(),
            ..Draft::new(channel, payload.clone())
        };
        Ok(self.channels.into_iter().map(draft).collect())
    }
}

/// What a parameter of a query is set to, still escaped.
fn values<'a>(query: &'a str, name: &'static str) -> impl Iterator<Item = &'a str> {
    query.split('&').filter_map(move |pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn channels(name: Option<&str>, query: &str, channels_max: usize) -> Result<Vec<ChannelName>, BodyError> {
    let mut named = values(query, "channel");
    if let Some(name) = name {
        // It is more likely a mistake than a wish, and one answer could not tell of both.
        return if named.next().is_some() {
            Err(BodyError::ChannelTwice)
        } else {
            Ok(vec![name::in_path(name).map_err(BodyError::Name)?])
        };
    }
    let mut channels = Vec::new();
    for name in named {
        let channel = name::in_query(name).map_err(BodyError::Name)?;
        if !channels.contains(&channel) {
            channels.push(channel);
        }
        if channels.len() > channels_max {
            return Err(BodyError::TooManyChannels { channels_max });
        }
    }
    if channels.is_empty() { Err(BodyError::NoChannel) } else { Ok(channels) }
}

/// Checks a conflation key.
///
/// # Errors
/// One that is empty or too long.
pub fn check_key(key: &str) -> Result<Box<str>, BodyError> {
    if (1..=CONFLATION_KEY_BYTES_MAX).contains(&key.len()) { Ok(key.into()) } else { Err(BodyError::ConflationKey) }
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
    check_structure(bytes)?;
    let bytes = text.trim_ascii().bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    Ok(Payload { kind: PayloadKind::Json, bytes })
}

/// Checks valid JSON for what its grammar allows and its readers do not: deep nesting, and escapes of half a surrogate pair, which
/// name no character (RFC 8259 section 8.2). One such payload would spoil the whole answer of a poll.
fn check_structure(json: &[u8]) -> Result<(), BodyError> {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = check_string(json, at + 1)?,
            b'[' | b'{' if depth == JSON_DEPTH_MAX => return Err(BodyError::JsonDepth),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Checks a string from behind its opening quote; returns where it ends.
fn check_string(json: &[u8], mut at: usize) -> Result<usize, BodyError> {
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        match (json[at], escaped_unit(json, at)) {
            (b'"', _) => return Ok(at),
            (_, None) => at += 2,
            (_, Some(0xd800..=0xdbff)) if matches!(escaped_unit(json, at + 6), Some(0xdc00..=0xdfff)) => at += 12,
            (_, Some(0xd800..=0xdfff)) => return Err(BodyError::JsonSurrogate),
            (_, Some(_)) => at += 6,
        }
    }
    Ok(json.len())
}

/// The UTF-16 unit that is escaped at a place, where one is.
fn escaped_unit(json: &[u8], at: usize) -> Option<u32> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
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

/// What became of a publication to one channel of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Its home has not replied, or not in time.
    Unknown,
    /// It was not sent: its home's worker is behind.
    Congested,
    /// Its home has it, perhaps since an earlier request with the same idempotency key.
    Stored(Stored),
    /// Its home will not have it.
    Refused(PublishError),
    /// It was not sent: it is no publication.
    Bad(ErrorCode),
}

impl Fate {
    /// What went wrong, by the numbers of every protocol.
    ///
    /// # Errors
    /// The code, where it was not stored.
    pub fn stored(self) -> Result<Stored, ErrorCode> {
        match self {
            Self::Stored(stored) => Ok(stored),
            Self::Unknown | Self::Congested => Err(ErrorCode::Internal),
            Self::Refused(error) => Err(error.into()),
            Self::Bad(code) => Err(code),
        }
    }
}

/// The answer to a publisher to one channel.
#[must_use]
pub fn reply(channel: &ChannelName, fate: Fate) -> Response {
    match fate {
        Fate::Stored(stored) => Response::json(200, stored_object(channel, stored)),
        Fate::Refused(error) => refusal(error).response(),
        Fate::Unknown => Problem::unavailable("the channel's worker did not answer in time", 1).response(),
        Fate::Congested => Problem::unavailable("the channel's worker is behind; try again", 1).response(),
        Fate::Bad(code) => Problem::bad_request(code.message()).response(),
    }
}

/// The answer to a publisher to several: in request order, each a position or an error.
#[must_use]
pub fn replies(channels: &[ChannelName], fates: &[Fate]) -> Response {
    let mut body = b"{\"results\":[".to_vec();
    for (at, (channel, fate)) in channels.iter().zip(fates).enumerate() {
        if at > 0 {
            body.push(b',');
        }
        match fate.stored() {
            Ok(stored) => body.extend_from_slice(&stored_object(channel, stored)),
            Err(code) => {
                channel_field(&mut body, channel);
                let (number, message) = (code.number(), code.message());
                body.extend_from_slice(format!(",\"error\":{{\"code\":{number},\"message\":\"{message}\"").as_bytes());
                body.extend_from_slice(if code.is_temporary() { b",\"temporary\":true}}" } else { b"}}" });
            }
        }
    }
    body.extend_from_slice(b"]}");
    Response::json(200, body)
}

fn stored_object(channel: &ChannelName, stored: Stored) -> Vec<u8> {
    let mut body = Vec::with_capacity(96);
    channel_field(&mut body, channel);
    body.extend_from_slice(format!(",\"position\":\"{}\"", stored.position).as_bytes());
    body.extend_from_slice(if stored.duplicate { b",\"duplicate\":true}" } else { b"}" });
    body
}

/// `{"channel":…`
fn channel_field(body: &mut Vec<u8>, channel: &ChannelName) {
    body.extend_from_slice(b"{\"channel\":");
    // Writing to a vector cannot fail, and neither can encoding a string.
    let _ = serde_json::to_writer(body, channel.as_str());
}

fn refusal(error: PublishError) -> Problem {
    match error {
        PublishError::UnknownNamespace => {
            Problem::new(404, "the channel's namespace is not configured and unknown ones are refused")
        }
        PublishError::TooLarge { bytes, bytes_max } => {
            Problem::new(413, format!("the payload has {bytes} bytes, {bytes_max} are allowed"))
        }
        PublishError::TooManyChannels => Problem::unavailable("too many channels are in use: see entries_max in [channels]", 1),
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

    fn envelope(query: &str, content_type: Option<&str>) -> Result<Envelope, BodyError> {
        Envelope::parse(Some("news"), Some(query), content_type, None, 3)
    }

    fn draft(content_type: Option<&str>, body: &[u8]) -> Result<(PayloadKind, String), BodyError> {
        let draft = envelope("", content_type)?.drafts(body.to_vec())?.remove(0);
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
        let brackets = "[".repeat(JSON_DEPTH_MAX + 1);
        for text in [format!("[\"{brackets}\"]"), format!("[\"\\\"{brackets}\"]"), format!("[\"\\\\\",\"{brackets}\"]")] {
            assert!(json(text.as_bytes()).is_ok(), "{text}");
        }
        assert_eq!(json(format!("[\"\\\\\",{brackets}{}]", "]".repeat(JSON_DEPTH_MAX + 1)).as_bytes()), Err(BodyError::JsonDepth));
    }

    #[test]
    fn half_a_surrogate_pair_is_refused() {
        for text in [r#""\ud83d\ude00""#, r#""\uD83D\uDE00x""#, r#""\\ud800""#, r#"{"\u00e4":"\\\\ud800"}"#, r#""\ud7ff\ue000""#] {
            assert!(json(text.as_bytes()).is_ok(), "{text}");
        }
        for text in [
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud83d\ud83d""#,
            r#""\ude00\ud83d""#,
            r#"{"a":["\ud83dx\ude00"]}"#,
            r#"{"\ud800":1}"#,
            r#""\\\ud800""#,
            r#""\ud800\\udc00""#,
        ] {
            assert_eq!(json(text.as_bytes()), Err(BodyError::JsonSurrogate), "{text}");
        }
        // Not declared to be JSON, it is text, whose escapes mean nothing.
        assert_eq!(draft(None, br#"{"a":"\ud800"}"#), Ok((PayloadKind::Text, r#"{"a":"\ud800"}"#.to_owned())));
    }

    #[test]
    fn publishing_and_subscribing_agree_on_names() {
        let parse = |name: Option<&str>, query: &str| {
            let envelope = Envelope::parse(name, Some(query), None, None, 3)?;
            Ok(envelope.channels.iter().map(|channel| channel.as_str().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(parse(Some("a%2Fb"), ""), Ok(vec!["a/b".to_owned()]));
        assert_eq!(parse(Some("a/b"), ""), Err(BodyError::Name(NameError::Slash)));
        assert_eq!(parse(Some("a"), "x=1&channel=b"), Err(BodyError::ChannelTwice));
        assert_eq!(parse(None, "channel=b&channel=a/c&channel=b"), Ok(vec!["b".to_owned(), "a/c".to_owned()]));
        assert_eq!(parse(None, "channel=a&channel=b&channel=c&channel=d"), Err(BodyError::TooManyChannels { channels_max: 3 }));
        assert_eq!(parse(None, "channels=a"), Err(BodyError::NoChannel));
    }

    #[test]
    fn a_key_for_conflation_is_any_short_text() {
        let key = |query: &str| envelope(query, None).map(|envelope| envelope.key.map(String::from));
        assert_eq!(key("event=x&key=EUR%2FUSD"), Ok(Some("EUR/USD".to_owned())));
        assert_eq!(key("event=x"), Ok(None));
        for query in ["key=".to_owned(), "key=%ff".to_owned(), format!("key={}", "k".repeat(256))] {
            assert_eq!(key(&query), Err(BodyError::ConflationKey), "{query}");
        }
    }

    #[test]
    fn event_names_that_mean_something_are_refused() {
        let parse = |query: &str| envelope(query, None);
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
        let [news, other] = ["news", "other"].map(|name| ChannelName::parse(name).unwrap());
        let response = reply(&news, Fate::Stored(stored));
        assert_eq!(response.body(), br#"{"channel":"news","position":"00000000001:43","duplicate":true}"#);
        for (fate, status) in [
            (Fate::Unknown, 503),
            (Fate::Congested, 503),
            (Fate::Refused(PublishError::UnknownNamespace), 404),
            (Fate::Refused(PublishError::TooLarge { bytes: 2, bytes_max: 1 }), 413),
        ] {
            assert_eq!(reply(&news, fate).status(), status, "{fate:?}");
        }
        let fates = [Fate::Stored(Stored { duplicate: false, ..stored }), Fate::Congested];
        let expected = br#"{"results":[{"channel":"news","position":"00000000001:43"},{"channel":"other","error":{"code":100,"message":"internal server error","temporary":true}}]}"#;
        assert_eq!(replies(&[news, other], &fates).body(), expected);
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
