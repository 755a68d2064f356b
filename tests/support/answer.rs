//! HTTP responses, as a test reads them off what has come.

/// One response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Takes a whole head off the front of what has come. Returns it without its body, and how many bytes that has.
    pub fn begin(wire: &mut Vec<u8>) -> Option<(Self, usize)> {
        let end = wire.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = text(wire, end);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let answer = Self { status, head, body: String::new() };
        let length = answer.header("Content-Length").map_or(0, |length| length.parse().expect("a length"));
        Some((answer, if matches!(status, 204 | 304) { 0 } else { length }))
    }

    /// Takes the body, as much of it as has come.
    pub fn with_body(self, wire: &mut Vec<u8>, length: usize) -> Self {
        Self { body: text(wire, length), ..self }
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value))
    }
}

fn text(wire: &mut Vec<u8>, length: usize) -> String {
    String::from_utf8(wire.drain(..length.min(wire.len())).collect()).expect("text")
}
