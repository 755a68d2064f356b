//! What WebSocket clients of the plain door send: publications.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::publish;
use crate::hub::{Payload, PayloadKind};
use crate::protocol::codes::ErrorCode;

/// `{"id":1,"publish":{"channel":"news","data":…}}`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publish {
    /// The client's own number; the answer carries it.
    pub id: u64,
    /// Absent where the connection has one channel.
    pub channel: Option<String>,
    /// What is to be published, or why it cannot be.
    pub body: Result<Body, ErrorCode>,
}

/// A payload and its event name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Body {
    /// JSON in a JSON request; on a raw WebSocket the message as it is.
    pub payload: Payload,
    /// Absent for `message`; a raw WebSocket cannot name one.
    pub event: Option<Box<str>>,
    /// Where a slow reader's queue is conflated, the newest of each key is kept.
    pub key: Option<Box<str>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(default)]
    id: u64,
    #[serde(borrow)]
    publish: Request<'a>,
}

#[derive(Deserialize)]
struct Request<'a> {
    channel: Option<String>,
    // Null is a payload like any other.
    #[serde(borrow, default, deserialize_with = "super::raw_value")]
    data: Option<&'a RawValue>,
    event: Option<String>,
    key: Option<String>,
}

/// Reads a message; `None` where it is no request of this protocol (the connection is then closed with 3501).
#[must_use]
pub fn parse(message: &[u8]) -> Option<Publish> {
    let Message { id, publish: request } = serde_json::from_slice(message).ok()?;
    let body = request.data.ok_or(ErrorCode::BadRequest).and_then(|data| {
        let payload = publish::json(data.get().as_bytes()).map_err(|_| ErrorCode::BadRequest)?;
        let event = request.event.as_deref().map(publish::check_event).transpose().map_err(|_| ErrorCode::BadRequest)?;
        let key = request.key.as_deref().map(publish::check_key).transpose().map_err(|_| ErrorCode::BadRequest)?;
        Ok(Body { payload, event, key })
    });
    Some(Publish { id, channel: request.channel, body })
}

/// A message of a raw WebSocket: it is the payload. `None` for an empty one.
#[must_use]
pub fn raw(message: &[u8], binary: bool) -> Option<Body> {
    let kind = if binary { PayloadKind::Binary } else { PayloadKind::Text };
    (!message.is_empty()).then(|| Body { payload: Payload { kind, bytes: message.into() }, event: None, key: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_publish_request_is_read_with_its_payload_spliced() {
        let publish = parse(br#"{"id":7,"publish":{"channel":"news","data":{"a": [1,2]},"event":"up","key":"k"}}"#).unwrap();
        assert_eq!((publish.id, publish.channel.as_deref()), (7, Some("news")));
        let body = publish.body.unwrap();
        assert_eq!(&*body.payload.bytes, br#"{"a": [1,2]}"#);
        assert_eq!((body.event.as_deref(), body.key.as_deref()), (Some("up"), Some("k")));
    }

    #[test]
    fn null_is_a_payload() {
        let body = parse(br#"{"id":1,"publish":{"channel":null,"data":null,"event":null}}"#).unwrap().body.unwrap();
        assert_eq!((&*body.payload.bytes, body.event), (b"null".as_slice(), None));
    }

    #[test]
    fn a_raw_message_is_its_payload() {
        assert_eq!(raw(b"", false), None);
        assert_eq!(raw(b"{}", false).unwrap().payload.kind, PayloadKind::Text);
        assert_eq!(raw(b"{}", true).unwrap().payload.kind, PayloadKind::Binary);
    }

    #[test]
    fn what_is_no_request_is_not_guessed_at() {
        for bad in ["", "1", "{}", r#"{"publish":1}"#, r#"{"subscribe":{}}"#, r#"{"id":-1,"publish":{"data":1}}"#] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        for refused in [r#"{"publish":{}}"#, r#"{"publish":{"data":1,"event":"gap"}}"#, r#"{"publish":{"data":1,"key":""}}"#] {
            assert_eq!(parse(refused.as_bytes()).unwrap().body, Err(ErrorCode::BadRequest), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn any_message_is_an_answer_not_a_panic(message: Vec<u8>) {
            let _ = parse(&message);
        }
    }
}
