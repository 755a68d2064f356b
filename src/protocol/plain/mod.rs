//! The plain door: channels for `curl`, `EventSource` and a bare WebSocket, without any SDK.

pub mod api;
pub mod inbound;
pub mod item;
pub mod name;
pub mod publish;
pub mod request;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A field that is there, null included; `None` is left to the field that is not.
fn raw_value<'de: 'a, 'a, D: Deserializer<'de>>(field: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(field).map(Some)
}
