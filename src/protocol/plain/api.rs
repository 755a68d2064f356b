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

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(default)]
    channel: String,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    #[serde(default)]
    skip_history: bool,
    #[serde(default)]
    tags: BTreeMap<String, String>,
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
    request.draft(&request.channel)
}

/// Reads the body of `/api/broadcast`: one draft for each channel, in request order.
///
/// # Errors
/// See [`ApiError`].
pub fn broadcast_request(body: &[u8]) -> Result<Vec<Draft>, ApiError> {
    let request = parse(body)?;
    if request.channels.is_empty() {
        return Err(ApiError::Request(ErrorCode::BadRequest));
    }
    if request.channels.len() > CHANNELS_MAX {
        return Err(ApiError::Request(ErrorCode::LimitExceeded));
    }
    request.channels.iter().map(|channel| request.draft(channel)).collect()
}

fn parse(body: &[u8]) -> Result<Request<'_>, ApiError> {
    serde_json::from_slice(body).map_err(|_| ApiError::Body)
}

impl Request<'_> {
    fn draft(&self, channel: &str) -> Result<Draft, ApiError> {
        let bad = |_| ApiError::Request(ErrorCode::BadRequest);
        let channel = ChannelName::parse(channel).map_err(|_| ApiError::Request(ErrorCode::BadRequest))?;
        let idempotency_key = self.idempotency_key.as_deref().filter(|key| !key.is_empty()).map(publish::idempotency_key);
        let tags = self.tags.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
        let draft = Draft::new(channel, self.payload()?);
        Ok(Draft { tags, idempotency_key: idempotency_key.transpose().map_err(bad)?, store: !self.skip_history, ..draft })
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
