//! WebSocket (RFC 6455) and permessage-deflate (RFC 7692). Pure: no I/O, no clock, no randomness of its own.
//!
//! ```text
//!   request head ── handshake ──┬─ extension ──> Accepted (the 101 head, subprotocol, deflate parameters)
//!                               └─────────────> HandshakeError ──> status
//!
//!   bytes ── header ── mask ── frame (joins fragments) ── deflate ──> Event ──> transport
//!               └───────┴──────────┴─────────────────────────┴──────> FrameError ──> CloseCode
//!
//!   message ── deflate (once for all who share the encoding) ── encode ──> frame bytes
//! ```
//!
//! Invariants: an idle connection costs sixteen bytes here ([`Decoder`]); everything large (inflater, deflater, the message
//! being handed out) belongs to the worker ([`Scratch`], [`Deflater`]), which is possible because no compression context
//! outlives a message. A whole frame that lies in the received buffer is never copied.

mod close;
pub mod deflate;
pub mod encode;
mod error;
mod extension;
pub mod frame;
pub mod handshake;
mod header;
mod mask;

use std::time::Duration;

pub use close::CloseCode;
pub use deflate::{DeflateParams, Deflater, Inflater, WindowBits};
pub use error::FrameError;
pub use frame::{Decoder, Event, Role, Scratch};
pub use handshake::{Accepted, HandshakeError, UpgradeRequest};
pub use header::{CONTROL_PAYLOAD_BYTES_MAX, HEADER_BYTES_MAX, Header, Opcode};
pub use mask::apply_mask;

/// Limits and deadlines of WebSocket connections (`[websocket]`).
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of a whole message, after inflating.
    pub message_bytes_max: usize,
    /// Fragments of one message; at most 65,536. An empty last one is not counted.
    pub fragments_max: u32,
    /// Silence after which the server pings.
    pub ping_interval: Duration,
    /// Wait for the pong before closing with 3012.
    pub pong_timeout: Duration,
    /// Whether permessage-deflate is negotiated.
    pub deflate: bool,
    /// Payloads below this go out uncompressed even where deflate is negotiated.
    pub deflate_bytes_min: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            message_bytes_max: 64 << 10,
            fragments_max: 1024,
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(8),
            deflate: false,
            deflate_bytes_min: 64,
        }
    }
}
