//! Refusals that say what, why and what to do: problem details (RFC 9457).

use serde::Serialize;

use super::error::HttpError;
use super::response::{Response, reason};

/// One refusal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The response's own, and a member of the body; most titles are its reason phrase.
    pub status: u16,
    /// The number that clients of every protocol know it by.
    pub code: u16,
    /// For people: which rule, and what to do about it.
    pub detail: String,
    /// Whether the same request may succeed later, and in how many seconds.
    pub retry_after_s: Option<u32>,
    fields: Vec<(&'static str, String)>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    temporary: bool,
}

impl Problem {
    /// A refusal with the code its status usually has.
    #[must_use]
    pub fn new(status: u16, detail: impl Into<String>) -> Self {
        let code = match status {
            401 => 101,
            403 => 103,
            404 => 102,
            405 => 104,
            413 | 431 | 414 => 106,
            429 => 111,
            500..=599 => 100,
            _ => 107,
        };
        Self { status, code, detail: detail.into(), retry_after_s: None, fields: Vec::new() }
    }

    /// 400: the request itself is wrong.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400, detail)
    }

    /// 403: understood, and not allowed.
    #[must_use]
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(403, detail)
    }

    /// 404: neither a door nor a route.
    #[must_use]
    pub fn not_found(path: &str) -> Self {
        Self::new(404, format!("nothing answers {path} here: no door and no route has it"))
    }

    /// 401. `keyless` says that no key is configured, so that none can be right.
    #[must_use]
    pub fn unauthorized(keyless: bool) -> Self {
        let detail = if keyless {
            "publishing over HTTP is refused: set [api] key (or RINGMAIN_API__KEY)"
        } else {
            "the API key is missing or wrong: send `Authorization: apikey KEY` or `X-API-Key: KEY`"
        };
        Self::new(401, detail).with("WWW-Authenticate", "apikey")
    }

    /// 405, with the methods that the door takes (RFC 9110 section 15.5.6).
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self::new(405, format!("this door takes {allow}")).with("Allow", allow)
    }

    /// 413: a body over so many bytes.
    #[must_use]
    pub fn too_large(bytes_max: usize) -> Self {
        Self::new(413, format!("the body is over {bytes_max} bytes"))
    }

    /// 503: the same request may succeed in a while.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>, retry_after_s: u32) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::new(503, detail) }
    }

    /// A refused WebSocket handshake.
    #[must_use]
    pub fn handshake(status: u16, detail: &str) -> Self {
        let problem = Self::new(status, detail);
        if status == 426 { problem.with("Upgrade", "websocket").with("Sec-WebSocket-Version", "13") } else { problem }
    }

    /// Adds a field to the response.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }

    /// The response: `application/problem+json`, and `Retry-After` where trying again may help.
    #[must_use]
    pub fn response(&self) -> Response {
        let temporary = self.retry_after_s.is_some();
        let body = Body {
            r#type: "about:blank",
            title: title(self.status),
            status: self.status,
            code: self.code,
            detail: &self.detail,
            temporary,
        };
        let mut response = Response::new(self.status, "application/problem+json", serde_json::to_vec(&body).unwrap_or_default());
        for (name, value) in &self.fields {
            response = response.with(name, value.as_str());
        }
        match self.retry_after_s {
            Some(seconds) => response.with("Retry-After", seconds.to_string()),
            None => response,
        }
    }
}

fn title(status: u16) -> &'static str {
    if status == 403 { "Permission denied" } else { reason(status) }
}

impl From<HttpError> for Problem {
    fn from(error: HttpError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_problem_json_with_its_fields() {
        let problem = Problem::forbidden("namespace chat does not let anyone publish: set allow_publish");
        let text = String::from_utf8(problem.response().into_bytes(true, true, false)).unwrap();
        let body = r#"{"type":"about:blank","title":"Permission denied","status":403,"code":103,"detail":"namespace chat does not let anyone publish: set allow_publish"}"#;
        assert_eq!(
            text,
            format!(
                "HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        );
    }

    #[test]
    fn what_is_temporary_says_so_twice() {
        let text = String::from_utf8(Problem::unavailable("later", 3).response().into_bytes(true, false, false)).unwrap();
        assert!(
            text.contains("Retry-After: 3\r\n") && text.contains("\"temporary\":true") && text.contains("Connection: close\r\n"),
            "{text}"
        );
        assert!(text.contains("\"code\":100"));
    }
}
