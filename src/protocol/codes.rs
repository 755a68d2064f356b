//! The numbers clients know errors and disconnects by; one table for every protocol.

use crate::hub::PublishError;

/// An error in a reply; the connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    Internal,
    Unauthorized,
    UnknownChannel,
    PermissionDenied,
    LimitExceeded,
    BadRequest,
    TooManyRequests,
}

impl ErrorCode {
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Internal => 100,
            Self::Unauthorized => 101,
            Self::UnknownChannel => 102,
            Self::PermissionDenied => 103,
            Self::LimitExceeded => 106,
            Self::BadRequest => 107,
            Self::TooManyRequests => 111,
        }
    }

    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Internal => "internal server error",
            Self::Unauthorized => "unauthorized",
            Self::UnknownChannel => "unknown channel",
            Self::PermissionDenied => "permission denied",
            Self::LimitExceeded => "limit exceeded",
            Self::BadRequest => "bad request",
            Self::TooManyRequests => "too many requests",
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        match self {
            Self::Internal | Self::TooManyRequests => true,
            Self::Unauthorized | Self::UnknownChannel | Self::PermissionDenied | Self::LimitExceeded | Self::BadRequest => false,
        }
    }
}

impl From<PublishError> for ErrorCode {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::UnknownNamespace => Self::UnknownChannel,
            PublishError::TooLarge { .. } => Self::LimitExceeded,
        }
    }
}

/// Why the server ends a connection. The range tells the client whether to come back: below 3500 it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disconnect {
    Shutdown,
    TooBig,
    Overload,
    Slow,
    InsufficientState,
    NoPong,
    BadRequest,
    PermissionDenied,
}

impl Disconnect {
    /// The WebSocket close code and the number in an `end` item.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Shutdown => 1001,
            Self::TooBig => 1009,
            Self::Overload => 1013,
            Self::Slow => 3008,
            Self::InsufficientState => 3010,
            Self::NoPong => 3012,
            Self::BadRequest => 3501,
            Self::PermissionDenied => 3507,
        }
    }

    /// The number in an `end` item, where transport codes mean nothing.
    #[must_use]
    pub const fn item_number(self) -> u16 {
        match self {
            Self::Shutdown => 3001,
            Self::Overload => 3013,
            Self::TooBig | Self::Slow | Self::InsufficientState | Self::NoPong | Self::BadRequest | Self::PermissionDenied => {
                self.number()
            }
        }
    }

    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::TooBig => "message too big",
            Self::Overload => "overload",
            Self::Slow => "slow",
            Self::InsufficientState => "insufficient state",
            Self::NoPong => "no pong",
            Self::BadRequest => "bad request",
            Self::PermissionDenied => "permission denied",
        }
    }

    /// Whether the client should come back.
    #[must_use]
    pub const fn reconnect(self) -> bool {
        self.number() < 3500
    }
}
