//! Responses of our own doors: small, whole, written in one piece.

use super::cors::Cors;

/// A response before it is decided how the connection goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    status: u16,
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Response {
    /// A response with a body of a media type.
    #[must_use]
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, fields: vec![("Content-Type", content_type.to_owned())], body: body.into() }
    }

    /// A response without a body.
    #[must_use]
    pub const fn empty(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Vec::new() }
    }

    /// `application/json`.
    #[must_use]
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, "application/json", body)
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// The status code.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// The body, which an answer to HEAD leaves out.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Adds what lets a page of another origin read it.
    #[must_use]
    pub fn cors(mut self, cors: &Cors) -> Self {
        self.fields.extend(cors.fields());
        self
    }

    /// The whole response. `keep` says whether the connection goes on; `head_only` leaves the body out (HEAD).
    #[must_use]
    pub fn into_bytes(self, http11: bool, keep: bool, head_only: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.body.len());
        status_line(&mut out, self.status);
        for (name, value) in &self.fields {
            field(&mut out, name, value);
        }
        if !matches!(self.status, 100..=199 | 204 | 304) {
            field(&mut out, "Content-Length", &self.body.len().to_string());
        }
        connection(&mut out, http11, keep);
        out.extend_from_slice(b"\r\n");
        if !head_only {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

/// Appends a status line.
pub fn status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", reason(status)).as_bytes());
}

/// Appends a field. The value must not hold CR or LF; what comes from outside is checked where it comes in.
pub fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    debug_assert!(!value.contains(['\r', '\n']));
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends what tells the client how the connection goes on (RFC 9112 section 9.6); silence where it is the default.
pub fn connection(out: &mut Vec<u8>, http11: bool, keep: bool) {
    match (http11, keep) {
        (true, true) => {}
        (false, true) => field(out, "Connection", "keep-alive"),
        (_, false) => field(out, "Connection", "close"),
    }
}

/// The reason phrase of a status (RFC 9110 section 15).
#[must_use]
pub const fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        // A status of an upstream's own; the phrase means nothing to anybody (RFC 9112 section 4).
        _ => "",
    }
}
