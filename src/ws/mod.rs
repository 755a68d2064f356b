//! WebSocket (RFC 6455) and permessage-deflate (RFC 7692). Pure.

pub mod code;
pub mod deflate;
pub mod encode;
pub mod frame;
pub mod handshake;
pub mod mask;

use std::time::Duration;

/// Limits and deadlines of WebSocket connections (`[websocket]`).
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of a whole message, after inflating.
    pub message_bytes_max: usize,
    /// Fragments of one message; at most 65,536.
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
