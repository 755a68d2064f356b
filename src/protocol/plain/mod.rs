//! The plain door: channels for `curl`, `EventSource` and a bare WebSocket, without any SDK.

pub mod api;
pub mod inbound;
pub mod item;
pub mod name;
pub mod publish;
pub mod request;
