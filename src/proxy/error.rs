//! Why an upstream could not answer a request.

use std::fmt;

use crate::http::HttpError;
use crate::http::problem::Problem;

/// Seconds after which a request that found no connection may be tried again.
const RETRY_AFTER_S: u32 = 1;

/// What went wrong between here and an upstream. The client is never at fault in any of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyError {
    /// Nobody listens at the server's address.
    ConnectRefused,
    /// No route to the server.
    ConnectUnreachable,
    /// No answer to the connection attempt within `connect_timeout`.
    ConnectTimedOut,
    /// This host has no descriptors or memory left for another connection.
    ConnectLocal,
    /// Every connection is in use and the queue for them is full.
    Busy,
    /// No connection became free in time.
    WaitTimedOut,
    /// Not a byte of a response within `response_timeout`.
    ResponseTimedOut,
    /// Not a byte of the body within `idle_timeout`.
    BodyTimedOut,
    /// The response breaks a rule of HTTP/1.1.
    BadResponse(HttpError),
    /// 101 without having been asked, or to another protocol than the one asked for.
    UnaskedUpgrade,
    /// Interim responses without end.
    TooManyInterim,
    /// The upstream closed or reset the connection before the response was whole.
    ClosedEarly,
}

impl ProxyError {
    /// The status of the answer, where the response has not begun.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::ConnectRefused
            | Self::ConnectUnreachable
            | Self::BadResponse(_)
            | Self::UnaskedUpgrade
            | Self::TooManyInterim
            | Self::ClosedEarly => 502,
            Self::ConnectLocal | Self::Busy | Self::WaitTimedOut => 503,
            Self::ConnectTimedOut | Self::ResponseTimedOut | Self::BodyTimedOut => 504,
        }
    }

    /// The `reason` label of `upstream_errors_total`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::ConnectUnreachable => "connect_unreachable",
            Self::ConnectTimedOut => "connect_timed_out",
            Self::ConnectLocal => "connect_local",
            Self::Busy => "busy",
            Self::WaitTimedOut => "wait_timed_out",
            Self::ResponseTimedOut => "response_timed_out",
            Self::BodyTimedOut => "body_timed_out",
            Self::BadResponse(_) => "bad_response",
            Self::UnaskedUpgrade => "unasked_upgrade",
            Self::TooManyInterim => "too_many_interim",
            Self::ClosedEarly => "closed_early",
        }
    }

    /// The answer to the client; names the upstream as the configuration does, never by its address.
    #[must_use]
    pub fn problem(self, upstream: &str) -> Problem {
        let detail = format!("upstream {upstream}: {self}");
        match self.status() {
            503 => Problem::unavailable(detail, RETRY_AFTER_S),
            status => Problem::new(status, detail),
        }
    }
}

/// What is wrong with a response, in words for whoever runs the upstream.
fn write_bad_response(error: HttpError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("the server's answer cannot be passed on: ")?;
    match error {
        HttpError::Syntax => f.write_str("it is not HTTP/1.1 (RFC 9112)"),
        HttpError::HeadTooLarge { bytes_max } | HttpError::TargetTooLong { bytes_max } => {
            write!(f, "its head is over {bytes_max} bytes")
        }
        HttpError::TooManyHeaders { headers_max } => write!(f, "it has over {headers_max} header fields"),
        HttpError::Version
        | HttpError::TwoFramings
        | HttpError::ContentLength
        | HttpError::TransferEncoding
        | HttpError::UnknownCoding
        | HttpError::ChunkSize
        | HttpError::ChunkEnd
        | HttpError::TrailersTooLarge
        | HttpError::Target
        | HttpError::HostMissing
        | HttpError::HostRepeated
        | HttpError::Host
        | HttpError::Expectation
        | HttpError::HeadTimeout
        | HttpError::BodyTimeout => write!(f, "{error}"),
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectRefused => f.write_str("the server refused the connection: check that it runs and listens"),
            Self::ConnectUnreachable => f.write_str("the server cannot be reached: check its address and the network"),
            Self::ConnectTimedOut => {
                f.write_str("the server did not accept the connection in time: check its load and the network")
            }
            Self::ConnectLocal => f.write_str("no connection can be opened from here: raise the descriptor limit"),
            Self::Busy => f.write_str("all connections are in use and too many requests wait: try again later"),
            Self::WaitTimedOut => f.write_str("no connection became free in time: try again later"),
            Self::ResponseTimedOut => f.write_str("the server did not begin to answer in time: check its load"),
            Self::BodyTimedOut => f.write_str("the server stopped in the middle of its answer: check its load"),
            Self::BadResponse(error) => write_bad_response(*error, f),
            Self::UnaskedUpgrade => f.write_str("the server switched to a protocol that was not asked for"),
            Self::TooManyInterim => f.write_str("the server sends interim answers without end"),
            Self::ClosedEarly => f.write_str("the server closed the connection before its answer was whole: check its log"),
        }
    }
}

impl std::error::Error for ProxyError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered() {
        for (error, status, temporary) in [
            (ProxyError::ConnectRefused, 502, false),
            (ProxyError::BadResponse(HttpError::Syntax), 502, false),
            (ProxyError::ClosedEarly, 502, false),
            (ProxyError::Busy, 503, true),
            (ProxyError::ConnectTimedOut, 504, false),
            (ProxyError::ResponseTimedOut, 504, false),
        ] {
            let problem = error.problem("app");
            assert_eq!((problem.status, problem.retry_after_s.is_some()), (status, temporary), "{error:?}");
            assert!(problem.detail.starts_with("upstream app: the server") || error == ProxyError::Busy, "{}", problem.detail);
        }
    }
}
