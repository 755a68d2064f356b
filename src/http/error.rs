//! What a peer's HTTP can be wrong in.

use std::fmt;

/// Why a request cannot be served. Where the next request begins is unknown after it: the connection closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HttpError {
    /// Not HTTP at all, or a character where none may be.
    Syntax,
    HeadTooLarge {
        bytes_max: usize,
    },
    TooManyHeaders {
        headers_max: usize,
    },
    TargetTooLong {
        bytes_max: usize,
    },
    Version,
    /// A target that names nothing: an escape that is none, or dots that lead above the root.
    Target,
    HostMissing,
    HostRepeated,
    Host,
    /// Both Content-Length and Transfer-Encoding.
    TwoFramings,
    ContentLength,
    TransferEncoding,
    /// A coding other than one `chunked`.
    UnknownCoding,
    Expectation,
    ChunkSize,
    ChunkEnd,
    TrailersTooLarge,
    HeadTimeout,
    BodyTimeout,
}

impl HttpError {
    /// The status of the refusal (RFC 9110 section 15).
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Syntax
            | Self::Target
            | Self::HostMissing
            | Self::HostRepeated
            | Self::Host
            | Self::TwoFramings
            | Self::ContentLength
            | Self::TransferEncoding
            | Self::ChunkSize
            | Self::ChunkEnd
            | Self::TrailersTooLarge => 400,
            Self::HeadTimeout | Self::BodyTimeout => 408,
            Self::TargetTooLong { .. } => 414,
            Self::Expectation => 417,
            Self::HeadTooLarge { .. } | Self::TooManyHeaders { .. } => 431,
            Self::UnknownCoding => 501,
            Self::Version => 505,
        }
    }

    /// The value of the `reason` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::HeadTooLarge { .. } => "head_too_large",
            Self::TooManyHeaders { .. } => "too_many_headers",
            Self::TargetTooLong { .. } => "target_too_long",
            Self::Version => "version",
            Self::Target => "target",
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::Host => "host",
            Self::TwoFramings => "two_framings",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::UnknownCoding => "unknown_coding",
            Self::Expectation => "expectation",
            Self::ChunkSize => "chunk_size",
            Self::ChunkEnd => "chunk_end",
            Self::TrailersTooLarge => "trailers_too_large",
            Self::HeadTimeout => "head_timeout",
            Self::BodyTimeout => "body_timeout",
        }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => write!(f, "the request is not HTTP/1.1 (RFC 9112)"),
            Self::HeadTooLarge { bytes_max } => write!(f, "the request head is over {bytes_max} bytes"),
            Self::TooManyHeaders { headers_max } => write!(f, "the request has over {headers_max} header fields"),
            Self::TargetTooLong { bytes_max } => write!(f, "the request target does not fit into {bytes_max} bytes"),
            Self::Version => write!(f, "only HTTP/1.0 and HTTP/1.1 are spoken here"),
            Self::Target => write!(f, "the request target is not a path"),
            Self::HostMissing => write!(f, "the Host field is missing"),
            Self::HostRepeated => write!(f, "there is more than one Host field"),
            Self::Host => write!(f, "the Host field is not a host"),
            Self::TwoFramings => write!(f, "Content-Length and Transfer-Encoding exclude each other"),
            Self::ContentLength => write!(f, "Content-Length is one decimal number"),
            Self::TransferEncoding => write!(f, "Transfer-Encoding needs HTTP/1.1 and `chunked` once, last"),
            Self::UnknownCoding => write!(f, "chunked is the only transfer coding understood"),
            Self::Expectation => write!(f, "100-continue is the only expectation met"),
            Self::ChunkSize => write!(f, "a chunk size is not a hexadecimal number"),
            Self::ChunkEnd => write!(f, "a chunk does not end where it says"),
            Self::TrailersTooLarge => write!(f, "the trailer section is too large"),
            Self::HeadTimeout => write!(f, "the request head took too long"),
            Self::BodyTimeout => write!(f, "the request body took too long"),
        }
    }
}
