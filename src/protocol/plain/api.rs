//! `/api/publish` and `/api/broadcast`: the server API that existing backends already call.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::publish;
use crate::http::response::Response;
use crate::hub::{ChannelName, Draft, Payload, PayloadKind, PublishError, Stored};
use crate::protocol::codes::ErrorCode;

/// Channels one broadcast may name.
const CHANNELS_MAX: usize = 1000;
/// Bytes of a broadcast's payload times its channels: every home keeps a copy of its own.
const BROADCAST_BYTES_MAX: usize = 64 << 20;

/// The fields of both calls. A field that is null counts as left out, as other servers of this API have it; unknown fields are
/// ignored, and so are `version`, `version_epoch` and `delta`: every publication is newer than the last, and whole.
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
    idempotency_key: Option<String>,
}

/// Why a request is refused as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApiError {
    /// The body is not the JSON of a request: 400, in text, as callers of this API expect.
    Body,
    /// The request is read but cannot be served: 200 with an error object.
    Request(ErrorCode),
}

impl ApiError {
    #[must_use]
    pub fn response(self) -> Response {
        match self {
            Self::Body => Response::new(400, "text/plain; charset=utf-8", "Bad Request"),
            Self::Request(code) => Response::json(200, error(code)),
        }
    }
}

/// Reads the body of `/api/publish`.
///
/// # Errors
/// See [`ApiError`].
pub fn publish_request(body: &[u8]) -> Result<Draft, ApiError> {
    let request = parse(body)?;
    request.draft(request.channel.as_deref().unwrap_or_default(), request.payload()?)
}

/// Reads the body of `/api/broadcast`: one draft for each channel, in request order.
///
/// # Errors
/// See [`ApiError`].
pub fn broadcast_request(body: &[u8]) -> Result<Vec<Draft>, ApiError> {
    let request = parse(body)?;
    let channels = request.channels.as_deref().unwrap_or_default();
    if channels.is_empty() {
        return Err(ApiError::Request(ErrorCode::BadRequest));
    }
    let payload = request.payload()?;
    if channels.len() > CHANNELS_MAX || channels.len() * payload.bytes.len() > BROADCAST_BYTES_MAX {
        return Err(ApiError::Request(ErrorCode::LimitExceeded));
    }
    channels.iter().map(|channel| request.draft(channel, payload.clone())).collect()
}

fn parse(body: &[u8]) -> Result<Request<'_>, ApiError> {
    serde_json::from_slice(body).map_err(|_| ApiError::Body)
}

impl Request<'_> {
    fn draft(&self, channel: &str, payload: Payload) -> Result<Draft, ApiError> {
        let bad = |_| ApiError::Request(ErrorCode::BadRequest);
        let channel = ChannelName::parse(channel).map_err(|_| ApiError::Request(ErrorCode::BadRequest))?;
        let idempotency_key = self.idempotency_key.as_deref().filter(|key| !key.is_empty()).map(publish::idempotency_key);
        let tags = self.tags.iter().flatten().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
        let store = !self.skip_history.unwrap_or_default();
        let idempotency_key = idempotency_key.transpose().map_err(bad)?;
        Ok(Draft { tags, idempotency_key, store, ..Draft::new(channel, payload) })
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

/// The answer of `/api/publish`; `None` where the home has not replied in time.
#[must_use]
pub fn publish_reply(result: Option<Result<Stored, PublishError>>) -> Response {
    Response::json(200, reply(result))
}

/// The answer of `/api/broadcast`, in request order.
#[must_use]
pub fn broadcast_reply(results: &[Option<Result<Stored, PublishError>>]) -> Response {
    let replies: Vec<String> = results.iter().map(|result| reply(*result)).collect();
    Response::json(200, format!("{{\"result\":{{\"responses\":[{}]}}}}", replies.join(",")))
}

fn reply(result: Option<Result<Stored, PublishError>>) -> String {
    match result {
        Some(Ok(stored)) if stored.kept => {
            format!("{{\"result\":{{\"offset\":{},\"epoch\":\"{}\"}}}}", stored.position.offset, stored.position.epoch)
        }
        Some(Ok(_)) => "{\"result\":{}}".to_owned(),
        Some(Err(code)) => error(code.into()),
        None => error(ErrorCode::Internal),
    }
}

fn error(code: ErrorCode) -> String {
    format!("{{\"error\":{{\"code\":{},\"message\":\"{}\"}}}}", code.number(), code.message())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, StreamPosition};
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
        let seen: Vec<_> = drafts.iter().map(|draft| (draft.channel.as_str(), draft.payload.kind, draft.store)).collect();
        assert_eq!(seen, [("a", PayloadKind::Binary, false), ("b", PayloadKind::Binary, false)]);
    }

    #[test]
    fn null_is_a_field_left_out_but_a_payload_as_data() {
        let body =
            br#"{"channel":"a","channels":null,"data":null,"b64data":null,"skip_history":null,"tags":null,"idempotency_key":null}"#;
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
        assert_eq!(publish_reply(Some(Ok(STORED))).body(), br#"{"result":{"offset":1,"epoch":"00000000001"}}"#);
        assert_eq!(publish_reply(Some(Ok(Stored { kept: false, ..STORED }))).body(), br#"{"result":{}}"#);
        let results = [Some(Ok(Stored { kept: false, ..STORED })), Some(Err(PublishError::UnknownNamespace))];
        let expected = br#"{"result":{"responses":[{"result":{}},{"error":{"code":102,"message":"unknown channel"}}]}}"#;
        assert_eq!(broadcast_reply(&results).body(), expected);
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
        assert_eq!(ApiError::Body.response().status(), 400);
        assert_eq!(
            ApiError::Request(ErrorCode::BadRequest).response().body(),
            br#"{"error":{"code":107,"message":"bad request"}}"#
        );
    }
}
