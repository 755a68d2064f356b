//! Publications over HTTP during the run: one keep-alive connection, pipelined, its replies checked.
//!
//! One connection publishes to the load's channels in turn: each publication must get the offset right after that of the one
//! before it in its channel.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::checker::Checker;
use super::dialect::Dialect;
use super::error::{BenchError, PublishFault};
use super::wire;

/// Publications without a reply. Beyond it an open loop waits (and its latencies, counted from the intended times, tell).
pub const IN_FLIGHT_MAX: usize = 1024;
const RECEIVE_BYTES: usize = 64 * 1024;

pub struct Publisher {
    socket: OwnedFd,
    dialect: Dialect,
    /// For each channel: the request up to the number of bytes that its body has.
    heads: Vec<Vec<u8>>,
    body: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
    carry: Vec<u8>,
    in_flight: VecDeque<u64>,
}

impl Publisher {
    /// Publishes over a connected socket.
    pub fn new(socket: OwnedFd, dialect: Dialect, checker: &Checker, host: &str, api_key: &str) -> Self {
        let head = |channel| {
            let path = dialect.publish_path(channel);
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: apikey {api_key}\r\n\
                 Content-Type: application/json\r\nContent-Length: "
            );
            head.into_bytes()
        };
        Self {
            socket,
            dialect,
            heads: checker.channels().map(head).collect(),
            body: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
            carry: Vec::new(),
            in_flight: VecDeque::new(),
        }
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Queues the next publication, meant for `intended`.
    pub fn publish(&mut self, checker: &mut Checker, intended: u64) {
        let number = checker.intend(intended);
        self.body.clear();
        self.dialect.write_body(&mut self.body, &checker.publication(number), checker.payload_bytes());
        self.outbox.extend_from_slice(&self.heads[number as usize % self.heads.len()]);
        self.outbox.extend_from_slice(self.body.len().to_string().as_bytes());
        self.outbox.extend_from_slice(b"\r\n\r\n");
        self.outbox.extend_from_slice(&self.body);
        self.in_flight.push_back(number);
    }

    /// Sends what the socket takes; true when all of it.
    pub fn flush(&mut self) -> Result<bool, BenchError> {
        while self.sent < self.outbox.len() {
            match rustix::net::send(&self.socket, &self.outbox[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => self.sent += sent,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Reads all replies that have come.
    pub fn receive(&mut self, checker: &mut Checker) -> Result<(), BenchError> {
        let mut bytes = [0u8; RECEIVE_BYTES];
        loop {
            match rustix::net::recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(BenchError::Publish(PublishFault::Closed)),
                Ok((received, _)) => {
                    self.carry.extend_from_slice(&bytes[..received]);
                    self.replies(checker).map_err(BenchError::Publish)?;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn replies(&mut self, checker: &mut Checker) -> Result<(), PublishFault> {
        let mut used = 0;
        while let Some((head, body)) = wire::response(&self.carry[used..]).map_err(PublishFault::Wire)? {
            let reply = &self.carry[used + body.start..used + body.end];
            let number = self.in_flight.pop_front().ok_or(PublishFault::Unasked)?;
            self.dialect.replied(checker, number, head.status, reply)?;
            used += body.end;
        }
        self.carry.drain(..used);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn reply(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    /// Publishes twice, answers with `replies`; returns what is still unanswered and how many answers were wrong.
    fn run(replies: &str) -> Result<(usize, u64), BenchError> {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut checker = Checker::new("news", 40);
        let mut publisher = Publisher::new(ours.into(), Dialect::Ringmain, &checker, "h", "k");
        (0..2).for_each(|_| publisher.publish(&mut checker, 5));
        assert!(publisher.flush().expect("a live socket"));
        let mut request = vec![0; 4096];
        let length = theirs.read(&mut request).expect("a request");
        assert_eq!(String::from_utf8_lossy(&request[..length]).matches("Content-Length: 40\r\n\r\n{\"n\":").count(), 2);
        for bytes in replies.as_bytes().chunks(7) {
            theirs.write_all(bytes).expect("room");
            publisher.receive(&mut checker)?;
        }
        Ok((publisher.in_flight(), checker.tally.corrupt))
    }

    #[test]
    fn replies_must_follow_each_other() {
        let ok = |offset| reply("200 OK", &format!("{{\"channel\":\"news\",\"position\":\"E:{offset}\"}}"));
        assert!(matches!(run(&(ok(8) + &ok(9))), Ok((0, 0))));
        assert!(matches!(run(&ok(8)), Ok((1, 0))));
        assert!(matches!(run(&(ok(8) + &ok(10))), Ok((0, 1))));
        assert!(matches!(run(&(ok(8) + &ok(9) + &ok(10))), Err(BenchError::Publish(PublishFault::Unasked))));
        assert!(matches!(run(&reply("200 OK", "{}")), Err(BenchError::Publish(PublishFault::Body))));
        let refused = run(&reply("401 Unauthorized", "{}"));
        assert!(matches!(refused, Err(BenchError::Publish(PublishFault::Refused { status: 401, .. }))));
    }
}
