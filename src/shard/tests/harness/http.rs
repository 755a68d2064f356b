//! Requests, and the answers to them.

use super::answer::Answer;
use super::{KEY, World};
use crate::base::ConnId;

impl Answer {
    /// When the request may be made again.
    #[track_caller]
    pub fn retry_after_s(&self) -> u64 {
        self.header("Retry-After").and_then(|seconds| seconds.parse().ok()).expect("a delay")
    }
}

/// A request without a body.
pub fn get(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n")
}

/// A request with the key and a body.
pub fn post(target: &str, headers: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

impl World {
    /// A request on a connection of its own, which may be answered later.
    #[track_caller]
    pub fn request(&mut self, request: &str) -> ConnId {
        let conn = self.connect();
        self.send(conn, request);
        conn
    }

    /// [`get`] on a connection of its own, which may be answered later.
    #[track_caller]
    pub fn open(&mut self, target: &str, headers: &str) -> ConnId {
        self.request(&get(target, headers))
    }

    /// The next whole response.
    #[track_caller]
    pub fn answer(&mut self, conn: ConnId) -> Answer {
        self.try_answer(conn).expect("an answer")
    }

    pub fn try_answer(&mut self, conn: ConnId) -> Option<Answer> {
        let unread = self.unread(conn);
        let (answer, length) = Answer::begin(unread)?;
        Some(answer.with_body(unread, length))
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn ask(&mut self, request: &str) -> Answer {
        let conn = self.request(request);
        self.answer(conn)
    }

    #[track_caller]
    pub fn get(&mut self, target: &str, headers: &str) -> Answer {
        self.ask(&get(target, headers))
    }

    #[track_caller]
    pub fn post(&mut self, target: &str, headers: &str, body: &str) -> Answer {
        self.ask(&post(target, headers, body))
    }

    /// Publishes and returns the position.
    #[track_caller]
    pub fn publish(&mut self, channel: &str, body: &str) -> String {
        let answer = self.post(&format!("/channels/{channel}"), "", body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["position"].as_str().expect("a position").to_owned()
    }

    /// An event stream without chunks, which HTTP/1.0 does not have; its head has been read.
    #[track_caller]
    pub fn events(&mut self, target: &str, headers: &str) -> ConnId {
        let conn = self.request(&format!("GET {target} HTTP/1.0\r\nHost: h\r\nAccept: text/event-stream\r\n{headers}\r\n"));
        assert_eq!(self.answer(conn).status, 200);
        conn
    }

    /// What a metric says now, by its name and labels.
    #[track_caller]
    pub fn metric(&mut self, sample: &str) -> u64 {
        self.try_metric(sample).unwrap_or_else(|| panic!("there is no {sample}"))
    }

    #[track_caller]
    pub fn try_metric(&mut self, sample: &str) -> Option<u64> {
        let answer = self.get("/metrics", "Connection: close\r\n");
        assert_eq!(answer.status, 200, "{answer:?}");
        let name = format!("ringmain_{sample} ");
        answer.body.lines().find_map(|line| line.strip_prefix(&name)).map(|value| value.parse().expect("a count"))
    }
}
