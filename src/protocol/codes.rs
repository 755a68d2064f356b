//! The numbers clients know errors and disconnects by; one table for every protocol.

use crate::hub::PublishError;
use crate::metrics::Label;

/// An error in a reply; the connection goes on. 0 to 399 are the protocol's, applications use 400 to 1999. Those said to be the
/// client protocol's are not sent yet: their numbers are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    /// Not the request's fault: a home that is silent, behind or full, an upstream that fails (HTTP 5xx). Temporary.
    Internal = 100,
    /// The API key is missing or wrong (HTTP 401).
    Unauthorized = 101,
    /// The channel's namespace is not configured, and unknown ones are refused.
    UnknownChannel = 102,
    /// The namespace does not allow it, or the connection does not hold the channel that it publishes to.
    PermissionDenied = 103,
    /// The door does not take the method (HTTP 405). In the client protocol: an RPC that nothing serves.
    MethodNotFound = 104,
    /// Client protocol: a second subscribe to a channel that the connection holds.
    AlreadySubscribed = 105,
    /// A payload, a head or a list of channels is over its bound (HTTP 413, 414 and 431).
    LimitExceeded = 106,
    /// The request breaks a rule, and would again.
    BadRequest = 107,
    /// Client protocol: presence, history or RPC is switched off.
    NotAvailable = 108,
    /// Client protocol: the client is to fetch a new token and to try again.
    TokenExpired = 109,
    /// Client protocol: the refresh came when its connection or subscription had expired.
    Expired = 110,
    /// A limit of rate (HTTP 429). Temporary; nothing here has one yet.
    TooManyRequests = 111,
    /// Client protocol: history does not reach back to the position, or is another one.
    UnrecoverablePosition = 112,
    /// Client protocol: a page was asked for while another was on its way. Temporary.
    ConcurrentPagination = 113,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Internal,
        Self::Unauthorized,
        Self::UnknownChannel,
        Self::PermissionDenied,
        Self::MethodNotFound,
        Self::AlreadySubscribed,
        Self::LimitExceeded,
        Self::BadRequest,
        Self::NotAvailable,
        Self::TokenExpired,
        Self::Expired,
        Self::TooManyRequests,
        Self::UnrecoverablePosition,
        Self::ConcurrentPagination,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The text that goes with it on the wire.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Internal => "internal server error",
            Self::Unauthorized => "unauthorized",
            Self::UnknownChannel => "unknown channel",
            Self::PermissionDenied => "permission denied",
            Self::MethodNotFound => "method not found",
            Self::AlreadySubscribed => "already subscribed",
            Self::LimitExceeded => "limit exceeded",
            Self::BadRequest => "bad request",
            Self::NotAvailable => "not available",
            Self::TokenExpired => "token expired",
            Self::Expired => "expired",
            Self::TooManyRequests => "too many requests",
            Self::UnrecoverablePosition => "unrecoverable position",
            Self::ConcurrentPagination => "concurrent pagination",
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        match self {
            Self::Internal | Self::TooManyRequests | Self::ConcurrentPagination => true,
            Self::Unauthorized
            | Self::UnknownChannel
            | Self::PermissionDenied
            | Self::MethodNotFound
            | Self::AlreadySubscribed
            | Self::LimitExceeded
            | Self::BadRequest
            | Self::NotAvailable
            | Self::TokenExpired
            | Self::Expired
            | Self::UnrecoverablePosition => false,
        }
    }
}

impl From<PublishError> for ErrorCode {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::UnknownNamespace => Self::UnknownChannel,
            PublishError::TooLarge { .. } => Self::LimitExceeded,
            PublishError::TooManyChannels => Self::Internal,
        }
    }
}

/// Why the server ends a connection. The range tells the client whether to come back: below 3500 it does, but for 1009.
/// Those said to be the client protocol's are not sent yet: their numbers are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disconnect {
    /// The server drains. In an `end` item it is 3001.
    Shutdown = 1001,
    /// A message over `message_bytes_max` (RFC 6455 section 7.4.1); the frame decoder closes with it.
    TooBig = 1009,
    /// There is no room for a channel's entry. In an `end` item it is 3013.
    Overload = 1013,
    /// Client protocol: something failed that is not the client's fault.
    Internal = 3004,
    /// Client protocol: the connection's token ran out and was not refreshed.
    ConnectionExpired = 3005,
    /// Client protocol: a server-side subscription ran out and was not refreshed.
    SubscriptionExpired = 3006,
    /// More waited than `queue_bytes_max`, or nothing was taken for `send_timeout`.
    Slow = 3008,
    /// Client protocol: one write took too long. Here that is [`Self::Slow`].
    WriteError = 3009,
    /// Something was lost on a raw WebSocket, which has no room for a gap item.
    InsufficientState = 3010,
    /// Client protocol: an operator wants the client to connect anew.
    ForceReconnect = 3011,
    /// The ping was not answered within `pong_timeout`.
    NoPong = 3012,
    /// In `end` items what [`Self::Overload`] is elsewhere; in the client protocol a limit of rate.
    TooManyRequests = 3013,
    /// Client protocol: the client drops its token and positions before it comes back.
    StateInvalidated = 3014,
    /// Client protocol: a token that cannot be believed; another one of its kind cannot either.
    InvalidToken = 3500,
    /// The URL or a message cannot be understood; the reason says why where there is more to say.
    BadRequest = 3501,
    /// Client protocol: no `connect` came in time.
    Stale = 3502,
    /// Client protocol: an operator wants the client gone.
    ForceDisconnect = 3503,
    /// Client protocol: the user has too many connections.
    ConnectionLimit = 3504,
    /// Client protocol: more server-side subscriptions than a connection may hold.
    ChannelLimit = 3505,
    /// Client protocol: bytes that are no JSON were due on a JSON connection.
    InappropriateProtocol = 3506,
    /// The channel may not be subscribed to, or not be published to from a raw WebSocket, which gets no answers.
    PermissionDenied = 3507,
    /// Client protocol: a `send`, which nothing takes.
    NotAvailable = 3508,
    /// Client protocol: one request after the other failed.
    TooManyErrors = 3509,
}

/// The first number that tells a client to stay away.
const TERMINAL: u16 = 3500;

impl Disconnect {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::Shutdown,
        Self::TooBig,
        Self::Overload,
        Self::Internal,
        Self::ConnectionExpired,
        Self::SubscriptionExpired,
        Self::Slow,
        Self::WriteError,
        Self::InsufficientState,
        Self::ForceReconnect,
        Self::NoPong,
        Self::TooManyRequests,
        Self::StateInvalidated,
        Self::InvalidToken,
        Self::BadRequest,
        Self::Stale,
        Self::ForceDisconnect,
        Self::ConnectionLimit,
        Self::ChannelLimit,
        Self::InappropriateProtocol,
        Self::PermissionDenied,
        Self::NotAvailable,
        Self::TooManyErrors,
    ];

    /// The WebSocket close code.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The number in an `end` item, where a WebSocket's own codes mean nothing.
    #[must_use]
    pub const fn item_number(self) -> u16 {
        match self {
            Self::Shutdown => 3001,
            Self::Overload => Self::TooManyRequests.number(),
            Self::TooBig => Self::BadRequest.number(),
            Self::Internal
            | Self::ConnectionExpired
            | Self::SubscriptionExpired
            | Self::Slow
            | Self::WriteError
            | Self::InsufficientState
            | Self::ForceReconnect
            | Self::NoPong
            | Self::TooManyRequests
            | Self::StateInvalidated
            | Self::InvalidToken
            | Self::BadRequest
            | Self::Stale
            | Self::ForceDisconnect
            | Self::ConnectionLimit
            | Self::ChannelLimit
            | Self::InappropriateProtocol
            | Self::PermissionDenied
            | Self::NotAvailable
            | Self::TooManyErrors => self.number(),
        }
    }

    /// At most 32 ASCII characters.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::TooBig => "message too big",
            Self::Overload => "overload",
            Self::Internal => "internal server error",
            Self::ConnectionExpired => "connection expired",
            Self::SubscriptionExpired => "subscription expired",
            Self::Slow => "slow",
            Self::WriteError => "write error",
            Self::InsufficientState => "insufficient state",
            Self::ForceReconnect => "force reconnect",
            Self::NoPong => "no pong",
            Self::TooManyRequests => "too many requests",
            Self::StateInvalidated => "state invalidated",
            Self::InvalidToken => "invalid token",
            Self::BadRequest => "bad request",
            Self::Stale => "stale",
            Self::ForceDisconnect => "force disconnect",
            Self::ConnectionLimit => "connection limit",
            Self::ChannelLimit => "channel limit",
            Self::InappropriateProtocol => "inappropriate protocol",
            Self::PermissionDenied => "permission denied",
            Self::NotAvailable => "not available",
            Self::TooManyErrors => "too many errors",
        }
    }

    /// Whether the client should come back. One that sent too much would only send it again.
    #[must_use]
    pub const fn reconnect(self) -> bool {
        self.number() < TERMINAL && self.number() != Self::TooBig.number()
    }
}

/// The value of a `code` label. A client may close with any number it likes; those without a meaning are one.
#[must_use]
pub fn label(code: u16) -> Label {
    let known = matches!(code, 1000..=1015) || Disconnect::ALL.iter().any(|disconnect| disconnect.number() == code);
    if known { Label::from(code) } else { Label::Word("other") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_numbered_without_a_hole() {
        let numbers: Vec<u16> = ErrorCode::ALL.map(ErrorCode::number).to_vec();
        assert_eq!(numbers, (100..=113).collect::<Vec<u16>>());
        let temporary: Vec<u16> = ErrorCode::ALL.iter().filter(|code| code.is_temporary()).map(|code| code.number()).collect();
        assert_eq!(temporary, [100, 111, 113]);
    }

    #[test]
    fn codes_that_clients_invent_are_one_label() {
        let labels: Vec<Label> = (0..=u16::MAX).map(label).collect();
        assert_eq!(labels[3008], Label::Number(3008));
        assert_eq!(labels[1006], Label::Number(1006));
        assert_eq!(labels[4711], Label::Word("other"));
        assert!(labels.iter().filter(|label| **label != Label::Word("other")).count() < 40);
    }

    #[test]
    fn a_disconnect_says_why_and_whether_to_come_back() {
        for disconnect in Disconnect::ALL {
            let reason = disconnect.reason();
            assert!((1..=32).contains(&reason.len()) && reason.is_ascii(), "{disconnect:?}");
            assert!(disconnect.item_number() >= 3000, "{disconnect:?}: a transport's code means nothing in an item");
            assert_eq!(disconnect.reconnect(), disconnect.item_number() < TERMINAL, "{disconnect:?}: number and flag agree");
        }
        assert!(!Disconnect::TooBig.reconnect());
        assert!(Disconnect::Overload.reconnect());
    }
}
