//! The pitfalls of io_uring, each provoked on the real ring. `docs/pitfalls.md` is the table of them.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::*;
use crate::base::{Blob, ConnId, Frame, Frames};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A test that needs longer than this has hung.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether tests on the real ring are to be left out. They fail, not pass, where io_uring is missing and nobody said so.
fn skipped() -> bool {
    std::env::var("RINGMAIN_TEST_SKIP").is_ok_and(|skip| skip.split(',').any(|part| part == "uring"))
}

/// A ring with small queues, a listener, and everything seen so far.
struct Bench {
    ring: Ring,
    listener: TcpListener,
    deadline: Instant,
}

fn options() -> Options {
    Options { sq_entries: 64, cq_entries: 4096, files_max: 1024, buffers: 64, refused: SetupFlags::NONE }
}

fn conn(slot: u32) -> ConnId {
    ConnId { slot, generation: 1 }
}

impl Bench {
    fn new(options: &Options) -> Self {
        let ring = Ring::new(options).unwrap_or_else(|error| panic!("{error} (or RINGMAIN_TEST_SKIP=uring)"));
        let listener = TcpListener::bind((LOOPBACK, 0)).expect("a port");
        Self { ring, listener, deadline: Instant::now() + PATIENCE }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    /// Enters until `pick` finds what it waits for; completions that it does not want are handed to nobody.
    fn until<T>(&mut self, what: &str, mut pick: impl FnMut(&mut Ring, Completion) -> Option<T>) -> T {
        loop {
            while let Some(completion) = self.ring.pop() {
                if let Some(found) = pick(&mut self.ring, completion) {
                    return found;
                }
            }
            assert!(Instant::now() < self.deadline, "timed out: {what}");
            self.ring.publish_buffers();
            self.ring.enter(Wait::AtMost(Duration::from_millis(50))).expect("the ring works");
        }
    }

    /// A client and the slot of its other end.
    fn pair(&mut self) -> (TcpStream, ConnId) {
        let client = TcpStream::connect(self.address()).expect("the listener listens");
        client.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        let listener = self.listener.try_clone().expect("a descriptor");
        self.ring.accept_once(listener.as_fd(), Token::numbered(Kind::Accept, 0));
        let slot = self.until("accept", |_, seen| (seen.token.kind == Kind::Accept).then_some(seen.result));
        (client, conn(u32::try_from(slot).expect("accepted")))
    }
}

fn one(bytes: &[u8]) -> Frames {
    Frames::One(Frame::reply(Blob::from(bytes)))
}

#[test]
fn bytes_go_both_ways_and_the_peer_is_known() {
    if skipped() {
        return;
    }
    let mut bench = Bench::new(&options());
    assert!(bench.ring.features().registered_ring);
    let (mut client, server) = bench.pair();
    bench.ring.peer_name(server, LOOPBACK);
    let seen = bench.until("peer name", |_, seen| (seen.token.kind == Kind::PeerName).then_some(seen.address));
    assert_eq!(seen, client.local_addr().ok());
    bench.ring.receive_multishot(server);
    client.write_all(b"hello").expect("connected");
    let got = bench.until("bytes", |ring, seen| {
        let mut lease = seen.lease?;
        let bytes = ring.bytes(&mut lease).to_vec();
        ring.give_back(lease);
        Some(bytes)
    });
    assert_eq!(got, b"hello");
    bench.ring.push_send(server, Frames::Many(vec![Frame::reply(&b"-wor"[..]), Frame::reply(&b"ld"[..])]), 1);
    bench.ring.enter(Wait::No).expect("enter");
    assert!(bench.ring.pop_refused().is_none());
    let mut reply = [0; 5];
    client.read_exact(&mut reply).expect("the reply");
    assert_eq!(&reply, b"world");
    bench.ring.shutdown(server, ShutdownHow::Both);
    bench.until("end of receive", |_, seen| (seen.token.kind == Kind::Receive && !seen.more).then_some(()));
    bench.ring.close(server);
    bench.until("close", |_, seen| (seen.token.kind == Kind::Close).then_some(()));
    assert_eq!(client.read(&mut reply).expect("eof"), 0);
}
