//! Poll responses: `{"messages":[…],"position":"TOKEN"}` and its variants.

use crate::http::cors::Cors;
use crate::http::response;

/// What a poll is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer<'a> {
    /// Each one JSON.
    pub items: &'a [Vec<u8>],
    /// Where the next poll goes on.
    pub token: &'a str,
    /// Whether "nothing new" is said by 304.
    pub not_modified: bool,
}

impl Answer<'_> {
    /// 200, or 304 for nothing new.
    #[must_use]
    pub const fn status(&self) -> u16 {
        if self.items.is_empty() && self.not_modified { 304 } else { 200 }
    }
}

/// The beginning of the head: what depends on who asked, not on what is answered.
#[must_use]
pub fn lead(status: u16, date: &str, cors: &Cors, http11: bool, keep: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    response::status_line(&mut out, status);
    response::field(&mut out, "Date", date);
    for (name, value) in cors.fields() {
        response::field(&mut out, name, &value);
    }
    response::connection(&mut out, http11, keep);
    out
}

/// The rest of the response, the same for everybody who gets this answer.
#[must_use]
pub fn content(answer: Answer<'_>, head_only: bool) -> Vec<u8> {
    let mut out = Vec::new();
    response::field(&mut out, "ETag", &format!("\"{}\"", answer.token));
    response::field(&mut out, "Cache-Control", "no-store");
    if answer.status() == 304 {
        out.extend_from_slice(b"\r\n");
        return out;
    }
    let mut body = b"{\"messages\":[".to_vec();
    body.extend_from_slice(&answer.items.join(&b','));
    body.extend_from_slice(format!("],\"position\":\"{}\"}}", answer.token).as_bytes());
    response::field(&mut out, "Content-Type", "application/json");
    response::field(&mut out, "Content-Length", &body.len().to_string());
    out.extend_from_slice(b"\r\n");
    if !head_only {
        out.extend_from_slice(&body);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(items: &[Vec<u8>], not_modified: bool, head_only: bool) -> String {
        let answer = Answer { items, token: "e:1", not_modified };
        String::from_utf8([lead(answer.status(), "D", &Cors::None, true, true), content(answer, head_only)].concat()).unwrap()
    }

    #[test]
    fn items_are_elements_and_the_position_is_the_tag() {
        let expected = "HTTP/1.1 200 OK\r\nDate: D\r\nETag: \"e:1\"\r\nCache-Control: no-store\r\nContent-Type: application/json\r\nContent-Length: 39\r\n\r\n{\"messages\":[{\"a\":1},2],\"position\":\"e:1\"}";
        let got = text(&[b"{\"a\":1}".to_vec(), b"2".to_vec()], true, false);
        assert_eq!(got, expected.replace("39", &"{\"messages\":[{\"a\":1},2],\"position\":\"e:1\"}".len().to_string()));
    }

    #[test]
    fn nothing_new_is_an_empty_list_or_not_modified() {
        assert!(text(&[], false, false).ends_with("{\"messages\":[],\"position\":\"e:1\"}"));
        assert_eq!(
            text(&[], true, false),
            "HTTP/1.1 304 Not Modified\r\nDate: D\r\nETag: \"e:1\"\r\nCache-Control: no-store\r\n\r\n"
        );
        assert!(text(&[], false, true).ends_with("Content-Length: 32\r\n\r\n"));
    }

    #[test]
    fn who_asked_decides_only_the_beginning() {
        let lead = |cors: Cors, http11, keep| String::from_utf8(lead(200, "D", &cors, http11, keep)).unwrap();
        assert_eq!(lead(Cors::None, true, true), "HTTP/1.1 200 OK\r\nDate: D\r\n");
        assert_eq!(lead(Cors::None, true, false), "HTTP/1.1 200 OK\r\nDate: D\r\nConnection: close\r\n");
        assert_eq!(lead(Cors::None, false, true), "HTTP/1.1 200 OK\r\nDate: D\r\nConnection: keep-alive\r\n");
        let any =
            "HTTP/1.1 200 OK\r\nDate: D\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: ETag, Retry-After\r\n";
        assert_eq!(lead(Cors::Any, true, true), any);
        assert_eq!(lead(Cors::Echo("https://x.org".into()), true, true), any.replace('*', "https://x.org") + "Vary: Origin\r\n");
    }
}
