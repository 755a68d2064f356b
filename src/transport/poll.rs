//! Poll responses: `{"messages":[…],"position":"TOKEN"}` and its variants.

use crate::http::cors::Cors;
use crate::http::response::Response;

/// What a poll is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer<'a> {
    /// Each one JSON.
    pub items: &'a [Vec<u8>],
    pub token: &'a str,
    /// Whether "nothing new" is said by 304.
    pub not_modified: bool,
}

/// The whole response.
#[must_use]
pub fn response(answer: Answer<'_>, cors: &Cors, http11: bool, keep: bool, head_only: bool) -> (u16, Vec<u8>) {
    let status = if answer.items.is_empty() && answer.not_modified { 304 } else { 200 };
    let response = if status == 304 {
        Response::empty(304)
    } else {
        let mut body = b"{\"messages\":[".to_vec();
        body.extend_from_slice(&answer.items.join(&b','));
        body.extend_from_slice(format!("],\"position\":\"{}\"}}", answer.token).as_bytes());
        Response::json(200, body)
    };
    let response = response.with("ETag", format!("\"{}\"", answer.token)).with("Cache-Control", "no-store").cors(cors);
    (status, response.into_bytes(http11, keep, head_only))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(items: &[Vec<u8>], not_modified: bool, head_only: bool) -> String {
        let answer = Answer { items, token: "e:1", not_modified };
        String::from_utf8(response(answer, &Cors::None, true, true, head_only).1).unwrap()
    }

    #[test]
    fn items_are_elements_and_the_position_is_the_tag() {
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"e:1\"\r\nCache-Control: no-store\r\nContent-Length: 39\r\n\r\n{\"messages\":[{\"a\":1},2],\"position\":\"e:1\"}";
        let got = text(&[b"{\"a\":1}".to_vec(), b"2".to_vec()], true, false);
        assert_eq!(got, expected.replace("39", &"{\"messages\":[{\"a\":1},2],\"position\":\"e:1\"}".len().to_string()));
    }

    #[test]
    fn nothing_new_is_an_empty_list_or_not_modified() {
        assert!(text(&[], false, false).ends_with("{\"messages\":[],\"position\":\"e:1\"}"));
        assert_eq!(text(&[], true, false), "HTTP/1.1 304 Not Modified\r\nETag: \"e:1\"\r\nCache-Control: no-store\r\n\r\n");
        assert!(text(&[], false, true).ends_with("Content-Length: 32\r\n\r\n"));
    }
}
