//! What a peer's HTTP can be wrong in.

use std::fmt;

/// Why a request cannot be served. Where the next request begins is unknown after it: the connection closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HttpError {
    /// Not HTTP at all, or a character where none may be.
    Syntax,
    /// The line that makes it too large is not the first one: 431.
    HeadTooLarge {
        /// `[http] head_bytes_max`, empty lines before the head included.
        bytes_max: usize,
    },
    /// 431, whatever their bytes.
    TooManyHeaders {
        /// `[http] headers_max`.
        headers_max: usize,
    },
    /// The first line has not ended at the bound of the whole head: 414.
    TargetTooLong {
        /// `[http] head_bytes_max`.
        bytes_max: usize,
    },
    /// Neither HTTP/1.0 nor HTTP/1.1: 505.
    Version,
    /// A target that names nothing: an escape that is none, or dots that lead above the root.
    Target,
    /// HTTP/1.1 demands it (RFC 9112 section 3.2); HTTP/1.0 does not.
    HostMissing,
    /// Even where they are equal (RFC 9112 section 3.2).
    HostRepeated,
    /// Something else than a host and perhaps a port, in the field or in an absolute target.
    Host,
    /// Both Content-Length and Transfer-Encoding.
    TwoFramings,
    /// Not only digits, beyond 64 bits, or in more than one field.
    ContentLength,
    /// In HTTP/1.0, in more than one field, or `chunked` among others: two parsers could see two ends.
    TransferEncoding,
    /// A coding other than one `chunked`.
    UnknownCoding,
    /// Anything but `100-continue`: 417 (RFC 9110 section 10.1.1).
    Expectation,
    /// Not hexadecimal, over 15 digits, or over 256 bytes with its extensions.
    ChunkSize,
    /// No CRLF behind a chunk, or a line of the trailer section that is no field.
    ChunkEnd,
    /// Over 8 KiB, although it is only dropped.
    TrailersTooLarge,
    /// Its last byte was not there `[http] head_timeout` after its first: 408.
    HeadTimeout,
    /// Nothing came for `[http] body_timeout`, or less than `body_rate_min` asks for: 408.
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
