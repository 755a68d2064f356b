//! `/api/publish` and `/api/broadcast`: the server API that existing backends already call.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::publish::{self, Fate};
use crate::http::response::Response;
use crate::hub::{ChannelName, Draft, Payload, PayloadKind, Stored, Version};
use crate::protocol::codes::ErrorCode;

/// Channels one broadcast may name.
const CHANNELS_MAX: usize = 1000;
/// Bytes of a broadcast's payload times its channels: every home keeps a copy of its own.
const BROADCAST_BYTES_MAX: usize = 64 << 20;

/// Bytes of a `version_epoch`.
const VERSION_EPOCH_BYTES_MAX: usize = 255;

/// The fields of both calls. A field that is null counts as left out, as other servers of this API have it; unknown fields are
/// ignored, and so is `delta`: every publication is sent whole. `key` is ours: elsewhere in this API it names the same, what a newer
/// publication replaces.
#[derive(Deserialize)]
struct Request<'a> {
    channel: Option<String>,
    channels: Option<Vec<String>>,
    // Null is a payload like any other.
    #[serde(borrow, default, deserialize_with = "super::raw_value")]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    skip_history: Option<bool>,
    tags: Option<BTreeMap<String, String>>,
    key: Option<String>,
    idempotency_key: Option<String>,
    version: Option<u64>,
    version_epoch: Option<String>,
}

/// How a caller wants errors: header `X-Centrifugo-Error-Mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ErrorMode {
    /// 200, and an object with the error.
    #[default]
    Object,
    /// The bare error, and a status that goes with it. Errors of single channels of a broadcast stay inside its answer.
    Transport,
}

impl ErrorMode {
    /// The mode that a header's value names.
    #[must_use]
    pub fn of(header: Option<&str>) -> Self {
        if header.is_some_and(|mode| mode.eq_ignore_ascii_case("transport")) { Self::Transport } else { Self::Object }
    }

    fn response(self, error: &str, code: ErrorCode) -> Response {
        match self {
            Self::Object => Response::json(200, format!("{{\"error\":{error}}}")),
            Self::Transport => Response::json(status(code), error),
        }
    }
}

/// Why a request is refused as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApiError {
    /// The body is not the JSON of a request: 400, in text, as callers of this API expect.
    Body,
    /// The request is read but cannot be served.
    Request(ErrorCode),
}

impl ApiError {
    /// The number it is counted under.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Body => ErrorCode::BadRequest.number(),
            Self::Request(code) => code.number(),
        }
    }

    /// The answer to the caller, in the mode that it asked for.
    #[must_use]
    pub fn response(self, mode: ErrorMode) -> Response {
        match self {
            Self::Body => Response::new(400, "text/plain; charset=utf-8", "Bad Request"),
            Self::Request(code) => mode.response(&error(code), code),
        }
    }
}

/// Reads the body of `/api/publish`.
///
/// # Errors
/// See [`ApiError`].
pub fn publish_request(body: &[u8]) -> Result<Draft, ApiError> {
    let request = parse(body)?;
    let template = request.template()?;
    template.draft(request.channel.as_deref().unwrap_or_default()).map_err(ApiError::Request)
}

/// Reads the body of `/api/broadcast`: for each channel, in request order, a draft or what is wrong with its name.
///
/// # Errors
/// See [`ApiError`].
pub fn broadcast_request(body: &[u8]) -> Result<Vec<Result<Draft, ErrorCode>>, ApiError> {
    let request = parse(body)?;
    let channels = request.channels.as_deref().unwrap_or_default();
    if channels.is_empty() {
        return Err(ApiError::Request(ErrorCode::BadRequest));
    }
    let template = request.template()?;
    if channels.len() > CHANNELS_MAX || channels.len() * template.payload.bytes.len() > BROADCAST_BYTES_MAX {
        return Err(ApiError::Request(ErrorCode::LimitExceeded));
    }
    Ok(channels.iter().map(|channel| template.draft(channel)).collect())
}

fn parse(body: &[u8]) -> Result<Request<'_>, ApiError> {
    serde_json::from_slice(body).map_err(|_| ApiError::Body)
}

/// What a request says about its publication, whatever the channel.
struct Template {
    payload: Payload,
    tags: Vec<(Box<str>, Box<str>)>,
    key: Option<Box<str>>,
    idempotency_key: Option<Box<str>>,
    version: Option<Box<Version>>,
    store: bool,
}

impl Template {
    fn draft(&self, channel: &str) -> Result<Draft, ErrorCode> {
        let channel = ChannelName::parse(channel).map_err(|_| ErrorCode::BadRequest)?;
        Ok(Draft {
            tags: self.tags.clone(),
            key: self.key.clone(),
            idempotency_key: self.idempotency_key.clone(),
            version: self.version.clone(),
            store: self.store,
            ..Draft::new(channel, self.payload.clone())
        })
    }
}

impl Request<'_> {
    fn template(&self) -> Result<Template, ApiError> {
        let bad = ApiError::Request(ErrorCode::BadRequest);
        let epoch = self.version_epoch.as_deref().unwrap_or_default();
        if epoch.len() > VERSION_EPOCH_BYTES_MAX {
            return Err(bad);
        }
        let number = self.version.filter(|number| *number > 0);
        let key = self.key.as_deref().filter(|key| !key.is_empty()).map(publish::check_key);
        let idempotency_key = self.idempotency_key.as_deref().filter(|key| !key.is_empty()).map(publish::idempotency_key);
        let tags = self.tags.iter().flatten().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
        Ok(Template {
            payload: self.payload()?,
            tags,
            key: key.transpose().map_err(|_| bad)?,
            idempotency_key: idempotency_key.transpose().map_err(|_| bad)?,
            version: number.map(|number| Box::new(Version { number, epoch: epoch.into() })),
            store: !self.skip_history.unwrap_or_default(),
        })
    }

    fn payload(&self) -> Result<Payload, ApiError> {
        let bad = ApiError::Request(ErrorCode::BadRequest);
        match (self.data, &self.b64data) {
            (_, Some(base64)) => {
                let bytes = STANDARD.decode(base64).map_err(|_| bad)?;
                // These bytes are what a JSON client would have sent as data, if they are JSON.
                Ok(publish::json(&bytes).unwrap_or_else(|_| Payload { kind: PayloadKind::Binary, bytes: bytes.into() }))
            }
            (Some(data), None) => publish::json(data.get().as_bytes()).map_err(|_| bad),
            (None, None) => Err(bad),
        }
    }
}

/// The answer of `/api/publish`.
#[must_use]
pub fn publish_reply(fate: Fate, mode: ErrorMode) -> Response {
    match (fate.stored(), mode) {
        (Err(code), ErrorMode::Transport) => mode.response(&error(code), code),
        (result, _) => Response::json(200, reply(result)),
    }
}

/// The answer of `/api/broadcast`, in request order.
#[must_use]
pub fn broadcast_reply(fates: &[Fate]) -> Response {
    let replies: Vec<String> = fates.iter().map(|fate| reply(fate.stored())).collect();
    Response::json(200, format!("{{\"result\":{{\"responses\":[{}]}}}}", replies.join(",")))
}

fn reply(result: Result<Stored, ErrorCode>) -> String {
    match result {
        Ok(Stored { position, kept: true, .. }) => {
            format!("{{\"result\":{{\"offset\":{},\"epoch\":\"{}\"}}}}", position.offset, position.epoch)
        }
        Ok(_) => "{\"result\":{}}".to_owned(),
        Err(code) => format!("{{\"error\":{}}}", error(code)),
    }
}

fn error(code: ErrorCode) -> String {
    format!("{{\"code\":{},\"message\":\"{}\"}}", code.number(), code.message())
}

/// The status that an error is told by in transport mode.
const fn status(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::UnknownChannel | ErrorCode::MethodNotFound => 404,
        ErrorCode::BadRequest | ErrorCode::NotAvailable => 400,
        ErrorCode::UnrecoverablePosition => 416,
        ErrorCode::ConcurrentPagination => 409,
        ErrorCode::Internal
        | ErrorCode::Unauthorized
        | ErrorCode::PermissionDenied
        | ErrorCode::AlreadySubscribed
        | ErrorCode::LimitExceeded
        | ErrorCode::TokenExpired
        | ErrorCode::Expired
        | ErrorCode::TooManyRequests => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, StreamPosition};
    use crate::hub::PublishError;
    use proptest::prelude::*;

    const STORED: Stored = Stored { position: StreamPosition { epoch: Epoch(1), offset: 1 }, kept: true, duplicate: false };

    #[test]
    fn requests_are_read_as_documented() {
        let draft = publish_request(
            br#"{"channel":"chat:1","data":{"text":"hi"},"idempotency_key":"m1","tags":{"b":"2","a":"1"},"unknown":1}"#,
        )
        .unwrap();
        assert_eq!((draft.channel.as_str(), &*draft.payload.bytes), ("chat:1", br#"{"text":"hi"}"#.as_slice()));
        assert_eq!((draft.idempotency_key.as_deref(), draft.store), (Some("m1"), true));
        assert_eq!(draft.tags, [("a".into(), "1".into()), ("b".into(), "2".into())]);
        let drafts = broadcast_request(br#"{"channels":["a","b"],"b64data":"AAE=","skip_history":true}"#).unwrap();
        let drafts = drafts.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        let seen: Vec<_> = drafts.iter().map(|draft| (draft.channel.as_str(), draft.payload.kind, draft.store)).collect();
        assert_eq!(seen, [("a", PayloadKind::Binary, false), ("b", PayloadKind::Binary, false)]);
    }

    #[test]
    fn a_key_for_conflation_is_every_channels_and_may_be_left_out() {
        let key = |key: &str| {
            let body = format!(r#"{{"channel":"a","channels":["a"],"data":1,"key":{key}}}"#);
            let draft = publish_request(body.as_bytes())?;
            assert_eq!(broadcast_request(body.as_bytes())?[0].as_ref(), Ok(&draft));
            Ok(draft.key.map(String::from))
        };
        assert_eq!(key(r#""EUR/USD""#), Ok(Some("EUR/USD".to_owned())));
        assert_eq!((key("null"), key(r#""""#)), (Ok(None), Ok(None)), "an empty text is a field left out");
        assert_eq!(key("1"), Err(ApiError::Body));
        assert_eq!(key(&format!("{:?}", "k".repeat(256))), Err(ApiError::Request(ErrorCode::BadRequest)));
    }

    #[test]
    fn null_is_a_field_left_out_but_a_payload_as_data() {
        let body =
            br#"{"channel":"a","channels":null,"data":null,"b64data":null,"skip_history":null,"tags":null,"key":null,"idempotency_key":null}"#;
        let draft = publish_request(body).unwrap();
        assert_eq!((&*draft.payload.bytes, draft.tags.len(), draft.store), (b"null".as_slice(), 0, true));
    }

    #[test]
    fn a_broadcast_is_bounded_in_channels_and_in_bytes() {
        let broadcast = |channels: usize, bytes: usize| {
            let names: Vec<String> = (0..channels).map(|at| format!("\"c{at}\"")).collect();
            let body = format!("{{\"channels\":[{}],\"data\":\"{}\"}}", names.join(","), "x".repeat(bytes));
            broadcast_request(body.as_bytes()).map(|drafts| drafts.len())
        };
        assert_eq!(broadcast(CHANNELS_MAX, 10), Ok(CHANNELS_MAX));
        assert_eq!(broadcast(CHANNELS_MAX + 1, 10), Err(ApiError::Request(ErrorCode::LimitExceeded)));
        assert_eq!(broadcast(2, BROADCAST_BYTES_MAX / 2 - 2), Ok(2));
        assert_eq!(broadcast(2, BROADCAST_BYTES_MAX / 2 - 1), Err(ApiError::Request(ErrorCode::LimitExceeded)));
    }

    proptest! {
        #[test]
        fn any_body_is_an_answer_not_a_panic(body: Vec<u8>, text in "\\{\"channels?\":[\\[\"a,\\]]{1,6},\"data\":\\PC{0,20}\\}") {
            for body in [body.as_slice(), text.as_bytes()] {
                let _ = publish_request(body);
                let _ = broadcast_request(body);
            }
        }
    }

    #[test]
    fn replies_are_byte_for_byte_as_documented() {
        let object = |fate| publish_reply(fate, ErrorMode::Object);
        assert_eq!(object(Fate::Stored(STORED)).body(), br#"{"result":{"offset":1,"epoch":"00000000001"}}"#);
        assert_eq!(object(Fate::Stored(Stored { kept: false, ..STORED })).body(), br#"{"result":{}}"#);
        assert_eq!(object(Fate::Congested).body(), br#"{"error":{"code":100,"message":"internal server error"}}"#);
        let fates = [Fate::Stored(Stored { kept: false, ..STORED }), Fate::Refused(PublishError::UnknownNamespace)];
        let expected = br#"{"result":{"responses":[{"result":{}},{"error":{"code":102,"message":"unknown channel"}}]}}"#;
        assert_eq!(broadcast_reply(&fates).body(), expected);
    }

    #[test]
    fn in_transport_mode_the_status_tells_and_the_error_is_bare() {
        assert_eq!(ErrorMode::of(Some("Transport")), ErrorMode::Transport);
        assert_eq!((ErrorMode::of(Some("")), ErrorMode::of(None)), (ErrorMode::Object, ErrorMode::Object));
        for (fate, status, body) in [
            (Fate::Unknown, 500, r#"{"code":100,"message":"internal server error"}"#),
            (Fate::Refused(PublishError::UnknownNamespace), 404, r#"{"code":102,"message":"unknown channel"}"#),
            (Fate::Bad(ErrorCode::BadRequest), 400, r#"{"code":107,"message":"bad request"}"#),
            (Fate::Stored(Stored { kept: false, ..STORED }), 200, r#"{"result":{}}"#),
        ] {
            let response = publish_reply(fate, ErrorMode::Transport);
            assert_eq!((response.status(), response.body()), (status, body.as_bytes()), "{fate:?}");
        }
        let bad = ApiError::Request(ErrorCode::BadRequest).response(ErrorMode::Transport);
        assert_eq!((bad.status(), bad.body()), (400, br#"{"code":107,"message":"bad request"}"#.as_slice()));
    }

    #[test]
    fn a_bad_name_is_its_own_channels_error_and_everybody_elses_is_the_requests() {
        let names = |body: &[u8]| {
            let drafts = broadcast_request(body)?.into_iter();
            Ok(drafts.map(|draft| draft.map(|draft| draft.channel.as_str().to_owned())).collect::<Vec<_>>())
        };
        let expected = [Ok("a".to_owned()), Err(ErrorCode::BadRequest), Err(ErrorCode::BadRequest), Ok("b".to_owned())];
        assert_eq!(names(br#"{"channels":["a","","x y","b"],"data":1}"#), Ok(expected.to_vec()));
        for body in [br#"{"channels":["a"]}"#.as_slice(), br#"{"channels":[],"data":1}"#, br#"{"channels":["a"],"data":"\ud800"}"#]
        {
            assert_eq!(names(body), Err(ApiError::Request(ErrorCode::BadRequest)), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_version_counts_from_one_and_its_epoch_may_be_left_out() {
        let version = |fields: &str| {
            let body = format!(r#"{{"channel":"a","channels":["a"],"data":1{fields}}}"#);
            let draft = publish_request(body.as_bytes())?;
            assert_eq!(broadcast_request(body.as_bytes())?[0].as_ref(), Ok(&draft));
            Ok(draft.version.map(|version| (version.number, version.epoch.into_string())))
        };
        assert_eq!(version(r#","version":7,"version_epoch":"x""#), Ok(Some((7, "x".to_owned()))));
        assert_eq!(version(r#","version":7,"version_epoch":null"#), Ok(Some((7, String::new()))));
        assert_eq!(version(r#","version":0,"version_epoch":"x""#), Ok(None));
        assert_eq!(version(r#","version":null"#), Ok(None));
        assert_eq!(version(r#","version":-1"#), Err(ApiError::Body));
        let long = format!(r#","version":1,"version_epoch":"{}""#, "x".repeat(256));
        assert_eq!(version(&long), Err(ApiError::Request(ErrorCode::BadRequest)));
    }

    #[test]
    fn bad_requests_have_their_codes() {
        for (body, error) in [
            (b"".as_slice(), ApiError::Body),
            (b"{oops", ApiError::Body),
            (br#"{"data":{}}"#, ApiError::Request(ErrorCode::BadRequest)),
            (br#"{"channel":"a"}"#, ApiError::Request(ErrorCode::BadRequest)),
            (br#"{"channel":"a b","data":1}"#, ApiError::Request(ErrorCode::BadRequest)),
            (br#"{"channel":"a","b64data":"!"}"#, ApiError::Request(ErrorCode::BadRequest)),
        ] {
            assert_eq!(publish_request(body).unwrap_err(), error, "{}", String::from_utf8_lossy(body));
        }
        for mode in [ErrorMode::Object, ErrorMode::Transport] {
            assert_eq!(ApiError::Body.response(mode).status(), 400);
        }
    }
}
