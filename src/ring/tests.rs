//! The pitfalls of io_uring, each provoked on the real ring. `ARCHITECTURE.md` has the table of them.

mod endings;
mod queues;
mod receives;
mod sends;
mod starting;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::*;
use crate::base::{Blob, ConnId, Frame, Frames};
use crate::skip;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A test that needs longer than this has hung.
const PATIENCE: Duration = Duration::from_secs(20);
/// A socket that takes nothing for so long is full.
const STANDSTILL: Duration = Duration::from_millis(100);

/// A ring with small queues, a listener, and everything seen so far.
struct Bench {
    ring: Ring,
    listener: TcpListener,
    deadline: Instant,
}

fn options() -> Options {
    Options { sq_entries: 64, cq_entries: 4096, files_max: 1024, buffers: 64, ..Options::default() }
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

/// Bytes of a stream in which every byte tells its place, so that a tear, a loss or a repeat shows.
fn pattern(from: u64, length: usize) -> Vec<u8> {
    (from..from + length as u64).map(|place| (place ^ place >> 8 ^ place >> 16) as u8).collect()
}

/// The sending side of one connection, as a shard does it: whole frames, at most one send at a time, rests first.
struct Stream {
    conn: ConnId,
    /// Bytes pushed so far, and the frames that came back.
    offset: u64,
    rest: Option<(Frames, u32)>,
    blocked: bool,
    refusals: u32,
}

impl Stream {
    fn new(conn: ConnId) -> Self {
        Self { conn, offset: 0, rest: None, blocked: false, refusals: 0 }
    }

    /// Sends the rest of what was refused, or a new gathered send of `pieces`.
    fn push(&mut self, ring: &mut Ring, pieces: &[usize]) {
        if self.blocked || ring.is_sending(self.conn) {
            return;
        }
        let (frames, skip) = self.rest.take().unwrap_or_else(|| {
            let frames = pieces.iter().map(|&length| {
                let bytes = pattern(self.offset, length);
                self.offset += length as u64;
                Frame::reply(bytes)
            });
            (Frames::Many(frames.collect()), 0)
        });
        ring.push_send(self.conn, frames, skip);
    }

    fn refused(&mut self, ring: &mut Ring, refused: Refused) {
        self.refusals += 1;
        let taken = refused.outcome.expect("the connection is whole");
        let bytes: Vec<u8> = refused.frames.as_slice().iter().flat_map(|frame| frame.blob.iter().copied()).collect();
        self.rest = Some((one(&bytes), refused.skip + taken));
        self.blocked = true;
        ring.poll_out(self.conn);
    }
}

/// A client that reads to the end and checks every byte; slowly, so that the sender's socket fills up.
fn reader(client: TcpStream) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut client = client;
        let (mut place, mut buffer) = (0, [0; 1500]);
        loop {
            let bytes = client.read(&mut buffer).expect("an orderly stream");
            if bytes == 0 {
                return place;
            }
            assert!(buffer[..bytes] == pattern(place, bytes), "torn near {place}");
            place += bytes as u64;
            std::thread::yield_now();
        }
    })
}

impl Bench {
    /// A bench whose connections have the smallest socket buffers, on both sides.
    fn with_tiny_buffers(options: &Options) -> Self {
        let bench = Self::new(options);
        let listener = Socket::from(bench.listener.try_clone().expect("a descriptor"));
        listener.set_send_buffer_size(4096).expect("a socket option");
        listener.set_recv_buffer_size(4096).expect("a socket option");
        bench
    }

    /// Streams `bytes` in gathered sends of `pieces` and checks what arrives. Returns how many sends were refused.
    fn stream(&mut self, bytes: u64, pieces: &[usize]) -> u32 {
        let (client, conn) = self.pair();
        let reader = reader(client);
        let mut stream = Stream::new(conn);
        while stream.offset < bytes || stream.rest.is_some() || stream.blocked {
            assert!(Instant::now() < self.deadline, "timed out at {}", stream.offset);
            stream.push(&mut self.ring, pieces);
            self.ring.enter(if stream.blocked { Wait::AtMost(Duration::from_millis(50)) } else { Wait::No }).expect("enter");
            while let Some(refused) = self.ring.pop_refused() {
                stream.refused(&mut self.ring, refused);
            }
            while let Some(seen) = self.ring.pop() {
                stream.blocked &= seen.token.kind != Kind::PollOut;
            }
        }
        self.ring.shutdown_writing(conn);
        self.ring.enter(Wait::No).expect("enter");
        assert_eq!(reader.join().expect("the reader checked every byte"), stream.offset);
        stream.refusals
    }

    /// Fills the connections' sockets in sends of `bytes` each, until none has taken anything for a while: acknowledgements that
    /// are under way make room again. Returns how many bytes each took.
    fn fill(&mut self, conns: &[ConnId], bytes: usize) -> Vec<u64> {
        let mut taken = vec![0; conns.len()];
        let mut last = Instant::now();
        while last.elapsed() < STANDSTILL {
            assert!(Instant::now() < self.deadline, "the sockets never fill up");
            for (conn, taken) in conns.iter().zip(&mut taken) {
                self.ring.push_send(*conn, one(&pattern(*taken, bytes)), 0);
                self.ring.enter(Wait::No).expect("enter");
                let refused = self.ring.pop_refused();
                let took = refused.map_or(bytes as u64, |refused| refused.outcome.expect("the connection is whole").into());
                *taken += took;
                if took > 0 {
                    last = Instant::now();
                }
            }
        }
        taken
    }
}

/// Receives everything that `count` connections send, restarting receives that end; returns the bytes per slot, and how many
/// receives ended with data.
fn receive_all(bench: &mut Bench, servers: &[ConnId], expected: usize) -> (HashMap<u32, Vec<u8>>, usize) {
    let mut got: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut last_with_data = 0;
    let mut ended = 0;
    let mut starved = Vec::new();
    for &server in servers {
        bench.ring.receive_multishot(server);
    }
    while ended < servers.len() {
        assert!(Instant::now() < bench.deadline, "{ended} of {} ended", servers.len());
        bench.ring.enter(Wait::AtMost(Duration::from_millis(20))).expect("enter");
        while let Some(seen) = bench.ring.pop() {
            let of = conn(seen.token.slot);
            last_with_data += usize::from(seen.result > 0 && !seen.more);
            if let Some(mut lease) = seen.lease {
                got.entry(of.slot).or_default().extend_from_slice(bench.ring.bytes(&mut lease));
                bench.ring.give_back(lease);
            }
            match seen.result {
                0 if seen.token.kind == Kind::Receive => ended += 1,
                _ if seen.token.kind == Kind::Receive && !seen.more => starved.push(of),
                _ => {}
            }
        }
        for of in starved.drain(..) {
            bench.ring.receive_multishot(of);
        }
    }
    assert_eq!(got.values().map(Vec::len).sum::<usize>(), expected);
    (got, last_with_data)
}
