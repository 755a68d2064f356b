//! Close codes (RFC 6455 section 7.4 and the IANA registry it opened).

use std::fmt;

/// A code that may stand in a Close frame. Holding one proves that it is neither reserved nor undefined.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CloseCode(u16);

impl CloseCode {
    /// The purpose of the connection has been fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The server drains, or the page was left.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke RFC 6455.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// A kind of message that this endpoint does not take, such as binary on a text protocol.
    pub const UNSUPPORTED: Self = Self(1003);
    /// Not what the message's kind promised: text that is not UTF-8, a payload that does not inflate.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// Refused by policy where no other code fits.
    pub const POLICY: Self = Self(1008);
    /// Over `message_bytes_max`.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// The server could not fulfil the request because of itself.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// The server is overloaded; try again later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// The code, if an endpoint may send it: 1000-1003, 1007-1014 (the registry's) and 3000-4999 (applications').
    ///
    /// 1004, 1005, 1006 and 1015 are reserved for what never travels; the rest is undefined (RFC 6455 section 7.4.2).
    #[must_use]
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(code)),
            0..=999 | 1004..=1006 | 1015..=2999 | 5000..=u16::MAX => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6455_7_4_codes_that_never_travel_are_no_close_codes() {
        for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, u16::MAX] {
            assert_eq!(CloseCode::new(code), None, "{code}");
        }
    }

    #[test]
    fn rfc6455_7_4_defined_and_application_codes_are() {
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert_eq!(CloseCode::new(code).map(CloseCode::number), Some(code));
        }
    }
}
