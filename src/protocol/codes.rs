//! The numbers clients know errors and disconnects by; one table for every protocol.

use crate::hub::PublishError;
use crate::metrics::Label;

/// An error in a reply; the connection goes on. 0 to 399 are the protocol's, applications use 400 to 1999.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    Internal = 100,
    Unauthorized = 101,
    UnknownChannel = 102,
    PermissionDenied = 103,
    MethodNotFound = 104,
    AlreadySubscribed = 105,
    LimitExceeded = 106,
    BadRequest = 107,
    NotAvailable = 108,
    TokenExpired = 109,
    Expired = 110,
    TooManyRequests = 111,
    UnrecoverablePosition = 112,
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disconnect {
    Shutdown = 1001,
    TooBig = 1009,
    Overload = 1013,
    Internal = 3004,
    ConnectionExpired = 3005,
    SubscriptionExpired = 3006,
    Slow = 3008,
    WriteError = 3009,
    InsufficientState = 3010,
    ForceReconnect = 3011,
    NoPong = 3012,
    TooManyRequests = 3013,
    StateInvalidated = 3014,
    InvalidToken = 3500,
    BadRequest = 3501,
    Stale = 3502,
    ForceDisconnect = 3503,
    ConnectionLimit = 3504,
    ChannelLimit = 3505,
    InappropriateProtocol = 3506,
    PermissionDenied = 3507,
    NotAvailable = 3508,
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
