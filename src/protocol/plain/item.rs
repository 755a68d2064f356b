//! Items: one JSON grammar for a WebSocket message, an NDJSON line and an element of a poll's `messages`.
//!
//! Payloads are spliced: JSON was checked when it was published and is never parsed again.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::codes::{Disconnect, ErrorCode};
use crate::base::StreamPosition;
use crate::hub::{ChannelName, Gap, GapReason, PayloadKind, Publication, Role};

/// `{"channel":…,"position":…,"data":…}`
pub fn publication(out: &mut Vec<u8>, publication: &Publication) {
    out.extend_from_slice(b"{\"channel\":");
    string(out, publication.channel.as_str());
    put(out, format_args!(",\"position\":\"{}\",", publication.position));
    let bytes = &publication.payload.bytes;
    match publication.payload.kind {
        PayloadKind::Json => {
            out.extend_from_slice(b"\"data\":");
            out.extend_from_slice(bytes);
        }
        PayloadKind::Text => {
            out.extend_from_slice(b"\"data\":");
            string(out, &String::from_utf8_lossy(bytes));
        }
        PayloadKind::Binary => put(out, format_args!("\"b64\":\"{}\"", STANDARD.encode(bytes))),
    }
    if let Some(event) = &publication.event {
        out.extend_from_slice(b",\"event\":");
        string(out, event);
    }
    if let Some(extension) = publication.extension.as_ref().filter(|extension| !extension.tags.is_empty()) {
        for (at, (name, value)) in extension.tags.iter().enumerate() {
            out.extend_from_slice(if at == 0 { b",\"tags\":{" } else { b"," });
            string(out, name);
            out.push(b':');
            string(out, value);
        }
        out.push(b'}');
    }
    if publication.timed {
        put(out, format_args!(",\"time\":{}", publication.time.0));
    }
    if publication.role == Role::Value {
        out.extend_from_slice(b",\"state\":true");
    }
    out.push(b'}');
}

/// `{"subscribed":{…}}`: where this subscriber starts, and whether everything since its own position follows.
pub fn subscribed(out: &mut Vec<u8>, channel: &ChannelName, position: StreamPosition, recovered: bool) {
    out.extend_from_slice(b"{\"subscribed\":{\"channel\":");
    string(out, channel.as_str());
    put(out, format_args!(",\"position\":\"{position}\",\"recovered\":{recovered}}}}}"));
}

/// `{"gap":{…}}`
pub fn gap(out: &mut Vec<u8>, channel: &ChannelName, gap: &Gap) {
    out.extend_from_slice(b"{\"gap\":");
    gap_object(out, channel, gap);
    out.push(b'}');
}

/// The object inside a gap item; an event stream's gap event carries it alone.
pub fn gap_object(out: &mut Vec<u8>, channel: &ChannelName, gap: &Gap) {
    out.extend_from_slice(b"{\"channel\":");
    string(out, channel.as_str());
    match gap.after {
        Some(after) => put(out, format_args!(",\"after\":\"{after}\"")),
        None => out.extend_from_slice(b",\"after\":null"),
    }
    put(out, format_args!(",\"next\":\"{}\"", gap.next));
    match gap.missed {
        Some(missed) => put(out, format_args!(",\"missed\":{missed}")),
        None => out.extend_from_slice(b",\"missed\":null"),
    }
    put(out, format_args!(",\"reason\":\"{}\"}}", reason(gap.reason)));
}

/// `{"end":{…}}`
pub fn end(out: &mut Vec<u8>, disconnect: Disconnect, retry_ms: u64) {
    out.extend_from_slice(b"{\"end\":");
    end_object(out, disconnect, retry_ms);
    out.push(b'}');
}

/// The object inside an end item.
pub fn end_object(out: &mut Vec<u8>, disconnect: Disconnect, retry_ms: u64) {
    let (code, reason, reconnect) = (disconnect.item_number(), disconnect.reason(), disconnect.reconnect());
    put(out, format_args!("{{\"code\":{code},\"reason\":\"{reason}\",\"reconnect\":{reconnect},\"retry_ms\":{retry_ms}}}"));
}

/// The answer to a publish request of a WebSocket client.
pub fn publish_ok(out: &mut Vec<u8>, id: u64, position: StreamPosition) {
    put(out, format_args!("{{\"id\":{id},\"ok\":{{\"position\":\"{position}\"}}}}"));
}

/// The same, refused.
pub fn publish_error(out: &mut Vec<u8>, id: u64, code: ErrorCode) {
    put(out, format_args!("{{\"id\":{id},\"error\":{{\"code\":{},\"message\":\"{}\"", code.number(), code.message()));
    out.extend_from_slice(if code.is_temporary() { b",\"temporary\":true}}" } else { b"}}" });
}

/// The word for a reason; also the value of the `reason` label.
#[must_use]
pub const fn reason(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Expired => "expired",
        GapReason::Epoch => "epoch",
        GapReason::Slow => "slow",
        GapReason::BadPosition => "bad_position",
        GapReason::NoHistory => "no_history",
    }
}

/// Appends a JSON string.
fn string(out: &mut Vec<u8>, text: &str) {
    // Writing to a vector cannot fail, and neither can encoding a string.
    let _ = serde_json::to_writer(out, text);
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, WallMs};
    use crate::hub::{Draft, Payload};
    use proptest::prelude::*;

    fn position(offset: u64) -> StreamPosition {
        StreamPosition { epoch: Epoch(1), offset }
    }

    fn channel() -> ChannelName {
        ChannelName::parse("news").unwrap()
    }

    fn item(kind: PayloadKind, bytes: &[u8], change: impl FnOnce(&mut Draft), state: bool) -> String {
        let mut draft = Draft::new(channel(), Payload { kind, bytes: bytes.into() });
        change(&mut draft);
        written(|out| publication(out, &draft.into_publication(position(42), state, WallMs(0))))
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn items_are_byte_for_byte_as_documented() {
        let keep = |_: &mut Draft| {};
        assert_eq!(
            item(PayloadKind::Json, b"{\"a\":1}", keep, false),
            r#"{"channel":"news","position":"00000000001:42","data":{"a":1}}"#
        );
        assert_eq!(item(PayloadKind::Text, b"hi", keep, false), r#"{"channel":"news","position":"00000000001:42","data":"hi"}"#);
        assert_eq!(
            item(PayloadKind::Binary, &[0, 1, 0x34], keep, false),
            r#"{"channel":"news","position":"00000000001:42","b64":"AAE0"}"#
        );
        let change = |draft: &mut Draft| {
            draft.event = Some("up".into());
            draft.tags = vec![("a".into(), "1".into()), ("b".into(), "2".into())];
        };
        let expected =
            r#"{"channel":"news","position":"00000000001:42","data":1,"event":"up","tags":{"a":"1","b":"2"},"state":true}"#;
        assert_eq!(item(PayloadKind::Json, b"1", change, true), expected);
        let draft = Draft::new(channel(), Payload { kind: PayloadKind::Json, bytes: (*b"1").into() });
        let timed = Publication { timed: true, ..draft.into_publication(position(42), true, WallMs(1_700_000_000_000)) };
        let expected = r#"{"channel":"news","position":"00000000001:42","data":1,"time":1700000000000,"state":true}"#;
        assert_eq!(written(|out| publication(out, &timed)), expected);
        assert_eq!(
            written(|out| subscribed(out, &channel(), position(41), true)),
            r#"{"subscribed":{"channel":"news","position":"00000000001:41","recovered":true}}"#
        );
        let lost = Gap { reason: GapReason::Expired, after: Some(position(7).into()), next: position(12), missed: Some(4) };
        let expected =
            r#"{"gap":{"channel":"news","after":"00000000001:7","next":"00000000001:12","missed":4,"reason":"expired"}}"#;
        assert_eq!(written(|out| gap(out, &channel(), &lost)), expected);
        let unknown = Gap { reason: GapReason::BadPosition, after: None, next: position(1), missed: None };
        let expected = r#"{"gap":{"channel":"news","after":null,"next":"00000000001:1","missed":null,"reason":"bad_position"}}"#;
        assert_eq!(written(|out| gap(out, &channel(), &unknown)), expected);
        let expected = r#"{"end":{"code":3001,"reason":"shutdown","reconnect":true,"retry_ms":1834}}"#;
        assert_eq!(written(|out| end(out, Disconnect::Shutdown, 1834)), expected);
        assert_eq!(written(|out| publish_ok(out, 1, position(43))), r#"{"id":1,"ok":{"position":"00000000001:43"}}"#);
        assert_eq!(
            written(|out| publish_error(out, 1, ErrorCode::PermissionDenied)),
            r#"{"id":1,"error":{"code":103,"message":"permission denied"}}"#
        );
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "\\PC{0,9}|[\r\n\t\"\\\\]{0,4}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("\\PC{0,5}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_spliced_reads_back(value in json(), tags in prop::collection::btree_map("\\PC{0,5}", "\\PC{0,5}", 0..3)) {
            let sent = serde_json::to_vec_pretty(&value).unwrap();
            let payload = crate::protocol::plain::publish::json(&sent).unwrap();
            let change = |draft: &mut Draft| draft.tags = tags.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
            let line = item(payload.kind, &payload.bytes, change, false);
            prop_assert!(!line.contains(['\r', '\n']));
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&read["data"], &value);
            let read: std::collections::BTreeMap<String, String> = serde_json::from_value(read["tags"].clone()).unwrap_or_default();
            prop_assert_eq!(read, tags);
        }

        #[test]
        fn bytes_read_back_from_base64(bytes: Vec<u8>) {
            let line = item(PayloadKind::Binary, &bytes, |_| {}, false);
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(STANDARD.decode(read["b64"].as_str().unwrap()).unwrap(), bytes);
        }

        #[test]
        fn every_item_is_one_line_of_json(text in "\\PC{0,40}", json in any::<i64>(), event in "\\PC{1,9}") {
            let item = item(PayloadKind::Text, text.as_bytes(), |draft| draft.event = Some(event.clone().into()), false);
            let value: serde_json::Value = serde_json::from_str(&item).unwrap();
            prop_assert_eq!(value["data"].as_str(), Some(text.as_str()));
            prop_assert_eq!(value["event"].as_str(), Some(event.as_str()));
            prop_assert!(!item.contains('\n'));
            let number = self::item(PayloadKind::Json, json.to_string().as_bytes(), |_| {}, false);
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&number).unwrap()["data"].as_i64(), Some(json));
        }
    }
}
