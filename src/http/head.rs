//! Request heads: found by their end, parsed by httparse, then held to the strict rules of RFC 9112.
//!
//! What the RFC calls an error is refused here, so that nothing behind this module has to wonder where a message ends.

use std::borrow::Cow;
use std::fmt;
use std::mem::MaybeUninit;

use super::Options;
use super::error::HttpError;
use super::lines::HeadLines;
use super::path;

/// Header fields httparse has room for; the configured limit is checked below it.
pub(super) const FIELDS_MAX: usize = 256;

/// A request method; those we act on by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Subscribes, and asks for health and metrics; a WebSocket's handshake must have it.
    Get,
    /// Asks what GET would, for the head alone (RFC 9110 section 9.3.2); opens no WebSocket.
    Head,
    /// Publishes; never sent to an upstream a second time.
    Post,
    /// No door takes it; may be sent again where a kept upstream connection turns out to be closed.
    Put,
    /// No door takes it; may be sent again where a kept upstream connection turns out to be closed.
    Delete,
    /// A browser's preflight, or `*` for the server as a whole (RFC 9110 section 9.3.7).
    Options,
    /// No door takes it; never sent to an upstream a second time.
    Patch,
    /// Passed on to upstreams; no door of ours takes it.
    Other,
}

impl Method {
    fn parse(text: &str) -> Self {
        match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            "PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// The value of the `method` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Other => "other",
        }
    }

    /// Whether sending it twice means the same as once (RFC 9110 section 9.2.2).
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options)
    }
}

/// The versions of HTTP/1 (RFC 9112 section 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// No chunks, no interim responses, `Host` as it likes; closes unless it asks for `keep-alive`.
    Http10,
    /// Chunks, and `Host` as a duty; stays open unless somebody says `close`.
    Http11,
}

/// How a body's end is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is no body.
    None,
    /// Exactly so many bytes.
    Length(u64),
    /// Each piece says its own length, an empty one is the last (RFC 9112 section 7.1).
    Chunked,
    /// Responses only: the end of the connection.
    UntilClose,
}

/// A byte range of a head's text.
pub(super) type Span = (u32, u32);

/// A request head that kept all rules.
#[derive(Clone)]
pub struct Head {
    text: Box<str>,
    method: Method,
    method_span: Span,
    target: Span,
    fields: Box<[(Span, Span)]>,
    version: Version,
    framing: Framing,
    keep_alive: bool,
    expects_continue: bool,
    path: Span,
    /// The path where its normal form is not how it was sent.
    normal_path: Option<Box<str>>,
    query: Option<Span>,
    host: Span,
    /// The head as it came, where a field's value is in another encoding than UTF-8; `text` then has `?` for such bytes.
    raw: Option<Box<[u8]>>,
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({} {})", self.method_name(), self.target())
    }
}

impl Head {
    /// The method, as far as we act on it by name.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The method as it was sent.
    #[must_use]
    pub fn method_name(&self) -> &str {
        self.span(self.method_span)
    }

    /// The target as it was sent.
    #[must_use]
    pub fn target(&self) -> &str {
        self.span(self.target)
    }

    /// The target's path, normalised (RFC 3986 section 6.2.2): what routes match. `*` for `OPTIONS *`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.normal_path.as_deref().unwrap_or_else(|| self.span(self.path))
    }

    /// What follows the question mark, as it was sent.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.map(|query| self.span(query))
    }

    /// The version, which decides about keep-alive and chunks.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// How the end of the body is found (RFC 9112 section 6.3).
    #[must_use]
    pub const fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether bytes of a body follow the head.
    #[must_use]
    pub const fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::None | Framing::Length(0))
    }

    /// Whether the client keeps the connection after this exchange (RFC 9112 section 9.3).
    #[must_use]
    pub const fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether the client waits for `100 Continue` (RFC 9110 section 10.1.1).
    #[must_use]
    pub const fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Host and port as the client names them; empty where HTTP/1.0 left them out.
    #[must_use]
    pub fn host(&self) -> &str {
        self.span(self.host)
    }

    /// All fields in order: name and value.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.fields.iter().map(|&(name, value)| (self.span(name), self.span(value)))
    }

    /// All fields in order: name and value, whose bytes may be in any encoding (obs-text, RFC 9110 section 5.5).
    pub fn raw_fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|&(name, (start, end))| {
            let raw = self.raw.as_deref().unwrap_or(self.text.as_bytes());
            (self.span(name), raw.get(start as usize..end as usize).unwrap_or_default())
        })
    }

    /// Whether all of it can be read as text. Where not, only an upstream can know what was meant.
    #[must_use]
    pub const fn is_text(&self) -> bool {
        self.raw.is_none()
    }

    /// The first field of a name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All fields of a name, joined as a list (RFC 9110 section 5.3).
    #[must_use]
    pub fn header_list(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut values = self.fields().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let first = values.next()?;
        Some(values.fold(Cow::Borrowed(first), |list, value| Cow::Owned(format!("{list}, {value}"))))
    }

    /// Whether a list field has a token, compared without case.
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.fields()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .flat_map(|(_, value)| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    fn span(&self, (start, end): Span) -> &str {
        self.text.get(start as usize..end as usize).unwrap_or_default()
    }
}

/// Collects a head that arrives in pieces.
#[derive(Debug, Default)]
pub struct HeadReader {
    lines: HeadLines,
}

impl HeadReader {
    /// Takes bytes in. When the head is complete: the head, and how many of these bytes belong to it.
    ///
    /// # Errors
    /// The first rule the request breaks.
    pub fn feed(&mut self, bytes: &[u8], options: &Options) -> Result<Option<(Head, usize)>, HttpError> {
        match self.lines.feed(bytes, options.head_bytes_max)? {
            Some(whole) => Ok(Some((parse(whole.bytes, options)?, whole.consumed))),
            None => Ok(None),
        }
    }
}

/// `bytes` are the lines of one head, checked by [`HeadLines`].
fn parse(bytes: Vec<u8>, options: &Options) -> Result<Head, HttpError> {
    // Not filled beforehand: with room for this many that would cost more than the parsing.
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(&bytes, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(HttpError::TooManyHeaders { headers_max: options.headers_max }),
        Err(httparse::Error::Version) => return Err(HttpError::Version),
        Ok(httparse::Status::Partial) | Err(_) => return Err(HttpError::Syntax),
    }
    if request.headers.len() > options.headers_max {
        return Err(HttpError::TooManyHeaders { headers_max: options.headers_max });
    }
    let (method, target) = (request.method.ok_or(HttpError::Syntax)?, request.path.ok_or(HttpError::Syntax)?);
    let version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
    let field = |field: &httparse::Header<'_>| (span_of(&bytes, field.name.as_bytes()), span_of(&bytes, field.value));
    let mut head = Head {
        method: Method::parse(method),
        method_span: span_of(&bytes, method.as_bytes()),
        target: span_of(&bytes, target.as_bytes()),
        fields: request.headers.iter().map(field).collect(),
        text: "".into(),
        raw: None,
        version,
        framing: Framing::None,
        keep_alive: version == Version::Http11,
        expects_continue: false,
        path: (0, 0),
        normal_path: None,
        query: None,
        host: (0, 0),
    };
    head.apply_text(bytes)?;
    head.host = head.host_field()?;
    head.apply_target()?;
    head.framing = framing(head.fields(), version)?.unwrap_or(Framing::None);
    head.apply_connection()?;
    Ok(head)
}

/// Where a part that the parser handed out lies in the head.
pub(super) fn span_of(bytes: &[u8], part: &[u8]) -> Span {
    let start = (part.as_ptr() as usize).saturating_sub(bytes.as_ptr() as usize);
    let at = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
    (at(start), at(start + part.len()))
}

impl Head {
    /// UTF-8, but for the values of fields (RFC 9110 section 5.5).
    fn apply_text(&mut self, bytes: Vec<u8>) -> Result<(), HttpError> {
        let error = match String::from_utf8(bytes) {
            Ok(text) => {
                self.text = text.into_boxed_str();
                return Ok(());
            }
            Err(error) => error,
        };
        let raw = error.into_bytes();
        let mut text = raw.clone();
        for &(_, (start, end)) in &self.fields {
            let value = text.get_mut(start as usize..end as usize).unwrap_or_default();
            if std::str::from_utf8(value).is_err() {
                value.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
            }
        }
        self.text = String::from_utf8(text).map_err(|_| HttpError::Syntax)?.into_boxed_str();
        self.raw = Some(raw.into_boxed_slice());
        Ok(())
    }

    /// Host exactly once in HTTP/1.1 (RFC 9112 section 3.2); an absolute target's authority goes before it.
    fn host_field(&self) -> Result<Span, HttpError> {
        let mut hosts = self.fields().filter(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, value)| value);
        match (hosts.next(), hosts.next()) {
            (None, _) if self.version == Version::Http11 => Err(HttpError::HostMissing),
            (None, _) => Ok((0, 0)),
            (Some(_), Some(_)) => Err(HttpError::HostRepeated),
            (Some(host), None) if is_host(host) => Ok(self.span_of(host)),
            (Some(_), None) => Err(HttpError::Host),
        }
    }

    fn apply_target(&mut self) -> Result<(), HttpError> {
        let target = self.target();
        let (host, origin) = match target.split_once("://") {
            _ if target.starts_with('/') => (None, target),
            _ if target == "*" && self.method == Method::Options => {
                self.path = self.target;
                return Ok(());
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
                let (host, origin) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                if host.is_empty() || !is_host(host) {
                    return Err(HttpError::Host);
                }
                (Some(host), origin)
            }
            _ => return Err(HttpError::Target),
        };
        let (path, query) = origin.split_once('?').map_or((origin, None), |(path, query)| (path, Some(query)));
        let normal_path = match path::normalise(if path.is_empty() { "/" } else { path }).ok_or(HttpError::Target)? {
            Cow::Borrowed(_) if !path.is_empty() => None,
            normal => Some(normal.into()),
        };
        let (path, query) = (self.span_of(path), query.map(|query| self.span_of(query)));
        self.host = host.map_or(self.host, |host| self.span_of(host));
        (self.path, self.normal_path, self.query) = (path, normal_path, query);
        Ok(())
    }

    /// Where a part of the text lies in it.
    fn span_of(&self, part: &str) -> Span {
        span_of(self.text.as_bytes(), part.as_bytes())
    }

    fn apply_connection(&mut self) -> Result<(), HttpError> {
        let close = self.has_token("connection", "close");
        let keep = self.has_token("connection", "keep-alive");
        self.keep_alive = !close && (self.version == Version::Http11 || keep);
        // Joined, so that a second one is not overlooked.
        if let Some(expectation) = self.header_list("expect") {
            if !expectation.eq_ignore_ascii_case("100-continue") {
                return Err(HttpError::Expectation);
            }
            // A 1.0 client cannot be waiting for an interim response (RFC 9110 section 10.1.1).
            self.expects_continue = self.version == Version::Http11;
        }
        Ok(())
    }
}

/// Empty (HTTP/1.0) or a host with an optional port; no user info, no path.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rfind(']') {
        Some(end) if host.starts_with('[') => host.split_at(end + 1),
        Some(_) => return false,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let inside = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_name = match inside {
        // RFC 3986 section 3.2.2: an IPv6 address, or one of a future version.
        Some(address) => {
            address.parse::<std::net::Ipv6Addr>().is_ok() || address.starts_with(['v', 'V']) && address.bytes().all(is_host_byte)
        }
        None => name.bytes().all(is_host_byte),
    };
    is_name && (port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit())))
}

const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=' | b'%' | b','
        )
}

/// The one framing that the fields declare (RFC 9112 section 6), `None` where they declare none.
///
/// # Errors
/// Anything that two parsers could read differently.
pub(super) fn framing<'a, F>(fields: F, version: Version) -> Result<Option<Framing>, HttpError>
where
    F: Iterator<Item = (&'a str, &'a str)> + Clone,
{
    let all =
        |wanted: &'static str| fields.clone().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value);
    let mut lengths = all("content-length");
    let mut codings = all("transfer-encoding");
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(HttpError::TwoFramings),
        (Some(length), None) => {
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let length = length.parse().ok().filter(|_| digits && lengths.next().is_none());
            length.map(|length| Some(Framing::Length(length))).ok_or(HttpError::ContentLength)
        }
        (None, Some(_)) if version == Version::Http10 || codings.next().is_some() => Err(HttpError::TransferEncoding),
        (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Framing::Chunked)),
        (None, Some(coding)) if coding.to_ascii_lowercase().contains("chunked") => Err(HttpError::TransferEncoding),
        (None, Some(_)) => Err(HttpError::UnknownCoding),
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
