//! The pitfalls of io_uring, each provoked on the real ring. `ARCHITECTURE.md` has the table of them.

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
    Options { sq_entries: 64, cq_entries: 4096, files_max: 1024, buffers: 64, locked_bytes_max: None, refused: SetupFlags::NONE }
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

#[test]
fn bytes_go_both_ways_and_the_peer_is_known() {
    if skip::without("uring") {
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
    bench.ring.cancel(server, Kind::Receive);
    bench.until("end of receive", |_, seen| (seen.token.kind == Kind::Receive && !seen.more).then_some(()));
    bench.ring.close(server);
    bench.until("close", |_, seen| (seen.token.kind == Kind::Close).then_some(()));
    assert_eq!(client.read(&mut reply).expect("eof"), 0);
}

#[test]
fn pitfall_01_silent_short_send() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::with_tiny_buffers(&options());
    let (_client, server) = bench.pair();
    bench.ring.push_send(server, one(&pattern(0, 4 << 20)), 0);
    bench.ring.enter(Wait::No).expect("enter");
    let refused = bench.ring.pop_refused().expect("a short send is not silent");
    let taken = refused.outcome.expect("the connection is whole");
    assert!(taken > 0 && taken < 4 << 20, "{taken}");
    assert_eq!(refused.frames.bytes(), 4 << 20, "the frames come back");
}

#[test]
fn pitfall_01_every_silent_send_waits_for_all() {
    let source = include_str!("queue.rs");
    assert_eq!(source.matches("opcode::Send::new").count() + source.matches("opcode::SendMsg::new").count(), 2);
    let flagged =
        source.matches(".flags(SEND_FLAGS | extra)").count() + source.matches(".flags((SEND_FLAGS | extra) as u32)").count();
    assert_eq!(flagged, 2, "a send without SEND_FLAGS");
    const { assert!(super::queue::SEND_FLAGS & libc::MSG_WAITALL != 0 && super::queue::SEND_FLAGS & libc::MSG_DONTWAIT != 0) };
}

/// Bytes in the send queue of the connection to `client`, as the kernel counts them: unsent and unacknowledged.
fn send_queue_bytes(client: &TcpStream) -> usize {
    let [peer, own] =
        [client.local_addr(), client.peer_addr()].map(|address| format!(":{:04X}", address.expect("connected").port()));
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("/proc");
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[1].ends_with(&own) && row[2].ends_with(&peer)).expect("the connection is listed");
    let (queue, _) = row[4].split_once(':').expect("two queues");
    usize::from_str_radix(queue, 16).expect("a hexadecimal number")
}

#[test]
fn a_reader_that_has_stopped_pins_little_more_than_the_limit_of_unsent_bytes() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    Socket::from(bench.listener.try_clone().expect("a descriptor")).set_tcp_notsent_lowat(16 << 10).expect("a socket option");
    let (client, server) = bench.pair();
    assert!(bench.fill(&[server], 4096)[0] > 64 << 10, "the peer's side holds some, too");
    let bytes = send_queue_bytes(&client);
    assert!(bytes <= 40 << 10, "{bytes} bytes are pinned");
}

#[test]
fn pitfall_02_two_sends_in_one_submission() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::with_tiny_buffers(&options());
    let refusals = bench.stream(2 << 20, &[1000, 1, 3000, 7]);
    assert!(refusals > 10, "the socket was never full: nothing was tested ({refusals})");
}

#[test]
#[should_panic(expected = "two sends of one connection")]
fn pitfall_02_the_ring_refuses_a_second_send() {
    if skip::without("uring") {
        panic!("two sends of one connection (skipped)");
    }
    let mut bench = Bench::new(&options());
    let (_client, server) = bench.pair();
    bench.ring.push_send(server, one(b"a"), 0);
    bench.ring.push_send(server, one(b"b"), 0);
}

#[test]
fn pitfall_03_close_with_receive_and_poll_armed() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    for parked in [false, true] {
        let (mut client, server) = bench.pair();
        if parked {
            bench.ring.poll_in(server);
        } else {
            bench.ring.receive_multishot(server);
        }
        bench.ring.enter(Wait::No).expect("enter");
        bench.ring.cancel(server, if parked { Kind::PollIn } else { Kind::Receive });
        let mut left = 2;
        bench.until("two ends", |_, seen| {
            left -= i32::from(!seen.more);
            (left == 0).then_some(())
        });
        bench.ring.close(server);
        bench.until("close", |_, seen| (seen.token.kind == Kind::Close).then_some(()));
        assert_eq!(client.read(&mut [0; 8]).expect("an orderly end"), 0, "the peer saw the end");
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
        bench.ring.publish_buffers();
        for of in starved.drain(..) {
            bench.ring.receive_multishot(of);
        }
    }
    assert_eq!(got.values().map(Vec::len).sum::<usize>(), expected);
    (got, last_with_data)
}

#[test]
fn pitfall_05_data_with_the_last_completion() {
    if skip::without("uring") {
        return;
    }
    for buffers in [1, 4] {
        let mut bench = Bench::new(&Options { buffers, ..options() });
        let (mut client, server) = bench.pair();
        client.write_all(&pattern(0, 10_000)).expect("connected");
        drop(client);
        let (got, _) = receive_all(&mut bench, &[server], 10_000);
        assert!(got[&server.slot] == pattern(0, 10_000), "{buffers} buffers");
    }
    // A queue too small for what comes ends receives with the data that they carry.
    let mut bench = Bench::new(&Options { sq_entries: 8, cq_entries: 16, buffers: 512, ..options() });
    let pairs: Vec<_> = (0..40).map(|_| bench.pair()).collect();
    let servers: Vec<ConnId> = pairs.iter().map(|(_, server)| *server).collect();
    for (mut client, _) in pairs {
        client.write_all(&pattern(0, 9000)).expect("connected");
    }
    let (got, last_with_data) = receive_all(&mut bench, &servers, 40 * 9000);
    assert!(last_with_data > 0, "no receive ended with data: nothing was tested");
    assert!(got.values().all(|bytes| *bytes == pattern(0, 9000)));
}

#[test]
fn pitfall_06_buffers_come_home() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let all = bench.ring.buffers_free();
    for round in 0..200 {
        let (mut client, server) = bench.pair();
        bench.ring.receive_multishot(server);
        client.write_all(&pattern(0, 100 + round * 20)).expect("connected");
        if round % 2 == 0 {
            drop(client);
        } else {
            bench.ring.enter(Wait::No).expect("enter");
            bench.ring.cancel(server, Kind::Receive);
        }
        bench.until("the receive's end", |ring, seen| {
            if let Some(lease) = seen.lease {
                ring.give_back(lease);
            }
            (seen.token.kind == Kind::Receive && !seen.more).then_some(())
        });
        bench.ring.close(server);
    }
    bench.ring.publish_buffers();
    assert_eq!(bench.ring.buffers_free(), all);
    // Counted as free is not yet free: the kernel must be able to take every one of them.
    let pairs: Vec<_> = (0..=all).map(|_| bench.pair()).collect();
    for (client, server) in &pairs {
        (&*client).write_all(b"x").expect("connected");
        bench.ring.receive_once(*server);
    }
    let (mut leases, mut refused) = (Vec::new(), 0);
    bench.until("a buffer for everybody but one", |_, seen| {
        refused += u16::from(seen.result == -libc::ENOBUFS);
        leases.extend(seen.lease);
        (leases.len() == usize::from(all) && refused == 1).then_some(())
    });
    leases.into_iter().for_each(|lease| bench.ring.give_back(lease));
}

#[test]
fn pitfall_06_large_buffers_run_out_and_come_home() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    assert_eq!(bench.ring.bulk_buffers_free(), None, "nobody has needed them");
    let pairs: Vec<_> = (0..40).map(|_| bench.pair()).collect();
    for round in 0..3 {
        let sent: Vec<u8> = pattern(round, 5000);
        for (client, server) in &pairs {
            (&*client).write_all(&sent).expect("connected");
            bench.ring.receive_bulk(*server);
        }
        // One receive brings what eight small buffers would have; who finds none asks again.
        let (mut leases, mut refused) = (Vec::new(), Vec::new());
        bench.until("everybody's first receive", |ring, mut seen| {
            match seen.lease.take() {
                Some(mut lease) => {
                    assert_eq!(ring.bytes(&mut lease), sent);
                    leases.push(lease);
                }
                None if seen.result == -libc::ENOBUFS => refused.push(seen.token.slot),
                None => {}
            }
            (leases.len() + refused.len() == pairs.len()).then_some(())
        });
        assert_eq!((leases.len(), bench.ring.bulk_buffers_free()), (32, Some(0)));
        leases.into_iter().for_each(|lease| bench.ring.give_back(lease));
        bench.ring.publish_buffers();
        for &slot in &refused {
            bench.ring.receive_bulk(conn(slot));
        }
        let mut left = refused.len();
        bench.until("everybody else's", |ring, seen| {
            if let Some(lease) = seen.lease {
                ring.give_back(lease);
                left -= 1;
            }
            (left == 0).then_some(())
        });
        bench.ring.publish_buffers();
        assert_eq!((bench.ring.bulk_buffers_free(), bench.ring.buffers_free()), (Some(32), 64));
    }
}

#[test]
fn pitfall_08_cancel_races() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let (mut client, server) = bench.pair();
    bench.ring.cancel(server, Kind::Receive);
    let result = bench.until("cancel of nothing", |_, seen| (seen.token.kind == Kind::Cancel).then_some(seen.result));
    assert_eq!(result, -libc::ENOENT);
    bench.ring.receive_multishot(server);
    bench.ring.enter(Wait::No).expect("enter");
    bench.ring.cancel(server, Kind::Receive);
    let mut results = Vec::new();
    bench.until("cancel of a waiting receive", |_, seen| {
        results.push((seen.token.kind, seen.result));
        (results.len() == 2).then_some(())
    });
    assert!(results.contains(&(Kind::Cancel, 0)) && results.contains(&(Kind::Receive, -libc::ECANCELED)), "{results:?}");
    let mut ways = std::collections::BTreeSet::new();
    for round in 0..100 {
        bench.ring.receive_multishot(server);
        if round % 2 == 0 {
            bench.ring.enter(Wait::No).expect("enter");
        }
        // The cancel may find the receive waiting, busy or ended; either completion may come first; each comes exactly once.
        client.write_all(b"x").expect("connected");
        bench.ring.cancel(server, Kind::Receive);
        let (mut ends, mut cancels) = (0, 0);
        bench.until("both ends", |ring, seen| {
            if let Some(lease) = seen.lease {
                ring.give_back(lease);
            }
            match seen.token.kind {
                Kind::Receive if seen.more => _ = ways.insert("data, and goes on"),
                Kind::Receive => {
                    ways.insert(if cancels == 0 { "ends first" } else { "is cancelled first" });
                    ends += 1;
                }
                Kind::Cancel => {
                    assert!([0, -libc::ENOENT, -libc::EALREADY].contains(&seen.result), "{}", seen.result);
                    cancels += 1;
                }
                _ => {}
            }
            (ends == 1 && cancels == 1).then_some(())
        });
    }
    assert!(ways.contains("is cancelled first"), "{ways:?}: nothing was tested");
    // The other order: the receive is over before its cancel is looked at.
    client.write_all(b"x").expect("connected");
    bench.ring.receive_once(server);
    bench.ring.cancel(server, Kind::ReceiveOnce);
    let mut order = Vec::new();
    bench.until("an end and a cancel of nothing", |ring, seen| {
        order.push((seen.token.kind, seen.result));
        seen.lease.into_iter().for_each(|lease| ring.give_back(lease));
        (order.len() == 2).then_some(())
    });
    assert_eq!(order[1], (Kind::Cancel, -libc::ENOENT), "{order:?}");
}

#[test]
fn pitfall_09_completion_queue_overflow() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&Options { sq_entries: 8, cq_entries: 16, buffers: 512, ..options() });
    let pairs: Vec<_> = (0..40).map(|_| bench.pair()).collect();
    let servers: Vec<ConnId> = pairs.iter().map(|(_, server)| *server).collect();
    for (mut client, server) in pairs {
        client.write_all(&pattern(u64::from(server.slot), 9000)).expect("connected");
    }
    // An overflow also ends multishot receives in the middle of their data: those are armed again.
    let (got, _) = receive_all(&mut bench, &servers, 40 * 9000);
    assert!(bench.ring.counters().cq_overflows > 0, "the queue never overflowed: nothing was tested");
    for server in servers {
        assert!(got[&server.slot] == pattern(u64::from(server.slot), 9000), "{server}");
    }
}

#[test]
fn pitfall_10_submission_queue_full_in_a_slice() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&Options { sq_entries: 8, ..options() });
    let mut pairs: Vec<_> = (0..100).map(|_| bench.pair()).collect();
    for (_, server) in &pairs {
        bench.ring.push_send(*server, one(&pattern(u64::from(server.slot), 500)), 0);
    }
    bench.ring.enter(Wait::No).expect("enter");
    assert!(bench.ring.counters().sq_full >= 10);
    assert!(bench.ring.pop_refused().is_none());
    for (client, server) in &mut pairs {
        let mut got = [0; 500];
        client.read_exact(&mut got).expect("the frame");
        assert!(got[..] == pattern(u64::from(server.slot), 500));
    }
}

#[test]
fn pitfall_10_the_kernel_takes_fewer_than_offered() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let mut pairs: Vec<_> = (0..5).map(|_| bench.pair()).collect();
    for (_, server) in &pairs {
        bench.ring.push_send(*server, one(b"frame"), 0);
    }
    bench.ring.enter_partly(2).expect("enter");
    let busy: Vec<bool> = pairs.iter().map(|(_, server)| bench.ring.is_sending(*server)).collect();
    assert_eq!(busy, [false, false, true, true, true], "what was not consumed is not sent");
    bench.ring.enter(Wait::No).expect("enter");
    assert!(!bench.ring.has_undecided_sends());
    for (client, _) in &mut pairs {
        client.read_exact(&mut [0; 5]).expect("the frame");
    }
}

#[test]
fn pitfall_12_send_to_a_dead_peer() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let (client, server) = bench.pair();
    let client = Socket::from(client);
    client.set_linger(Some(Duration::ZERO)).expect("a socket option");
    drop(client);
    let mut errors = Vec::new();
    while errors.is_empty() {
        assert!(Instant::now() < bench.deadline);
        bench.ring.push_send(server, one(b"to nobody"), 0);
        bench.ring.enter(Wait::No).expect("enter");
        while let Some(refused) = bench.ring.pop_refused() {
            errors.push(refused.outcome);
        }
    }
    assert!(matches!(errors[..], [Err(libc::EPIPE | libc::ECONNRESET)]), "{errors:?}");
}

#[test]
fn pitfall_13_poll_edges() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let (mut client, server) = bench.pair();
    bench.ring.poll_in(server);
    for round in 0..300u32 {
        client.write_all(&[round as u8]).expect("connected");
        bench.until("readiness", |_, seen| (seen.token.kind == Kind::PollIn && seen.more).then_some(()));
        bench.ring.receive_once(server);
        // A byte that arrives around the receive must wake the poll again, or be in this receive.
        if round % 3 == 0 {
            client.write_all(&[round as u8]).expect("connected");
        }
        let mut owed = 1 + usize::from(round % 3 == 0);
        bench.until("the bytes", |ring, seen| {
            match seen.token.kind {
                Kind::PollIn if owed > 0 => ring.receive_once(server),
                Kind::ReceiveOnce => owed -= usize::try_from(seen.result).unwrap_or(0),
                _ => {}
            }
            if let Some(lease) = seen.lease {
                ring.give_back(lease);
            }
            (owed == 0).then_some(())
        });
        // Receives that found nothing are over before the next round.
        bench.ring.enter(Wait::No).expect("enter");
        while bench.ring.pop().is_some() {}
    }
    client.write_all(b"last words").expect("connected");
    client.shutdown(Shutdown::Write).expect("connected");
    let hang_up = libc::POLLRDHUP as i32;
    bench.until("hang-up", |_, seen| (seen.token.kind == Kind::PollIn && seen.result & hang_up != 0).then_some(()));
    let mut results = Vec::new();
    for _ in 0..2 {
        bench.ring.receive_once(server);
        results.push(bench.until("receive", |ring, seen| {
            if let Some(lease) = seen.lease {
                ring.give_back(lease);
            }
            (seen.token.kind == Kind::ReceiveOnce).then_some((seen.result, seen.nonempty))
        }));
    }
    assert_eq!(results[0].0, 10, "data comes before the end of data");
    assert_eq!(results[1].0, 0);
}

#[test]
fn pitfall_14_doorbells_into_a_full_or_closing_ring() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&Options { cq_entries: 64, ..options() });
    let (give, take) = std::sync::mpsc::channel();
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let receiver = std::thread::spawn(move || {
        let mut receiver = Bench::new(&Options { sq_entries: 8, cq_entries: 16, ..options() });
        give.send(receiver.ring.as_fd().try_clone_to_owned().expect("a descriptor")).expect("the test waits");
        finished.recv().expect("the test rings first");
        let mut rung = 0;
        receiver.until("forty bells", |_, seen| {
            rung += i32::from(seen.token.kind == Kind::Doorbell);
            (rung == 40).then_some(())
        });
    });
    let ring = take.recv().expect("the receiver started");
    for number in 0..40 {
        bench.ring.ring_doorbell(ring.as_fd(), number);
    }
    bench.ring.enter(Wait::No).expect("enter");
    done.send(()).expect("the receiver waits");
    receiver.join().expect("no bell was lost");
    // Its thread is gone: a bell for it fails here and is told, or reaches a ring that nobody reads; it harms nobody.
    bench.ring.ring_doorbell(ring.as_fd(), 7);
    bench.ring.enter(Wait::No).expect("enter");
    if let Some(failed) = bench.ring.pop() {
        assert_eq!((failed.token.kind, failed.token.slot), (Kind::DoorbellFailed, 7));
    }
    drop(ring);
    // A descriptor that is no ring at all.
    bench.ring.ring_doorbell(bench.listener.as_fd(), 8);
    let failed = bench.until("failure", |_, seen| (seen.token.kind == Kind::DoorbellFailed).then_some(seen.token.slot));
    assert_eq!(failed, 8);
}

#[test]
fn pitfall_16_every_flag_refused() {
    if skip::without("uring") {
        return;
    }
    let mut all = SetupFlags::NONE;
    for (flag, name) in SetupFlags::ALL {
        all |= flag;
        for refused in [flag, all] {
            let mut bench = Bench::with_tiny_buffers(&Options { refused, ..options() });
            let features = bench.ring.features();
            assert!(features.missing.contains(flag) && !features.setup.intersects(refused), "{name}: {features}");
            bench.stream(100_000, &[3000, 10]);
        }
    }
}

#[test]
fn pitfall_16_the_reason_is_named() {
    for (errno, error) in
        [(libc::EPERM, RingError::Seccomp), (libc::ENOSYS, RingError::OldKernel), (libc::ENOMEM, RingError::Memlock)]
    {
        let said = super::setup::refusal(errno);
        // Where the sysctl is set, EPERM means that.
        assert!(said == error || matches!((errno, said), (libc::EPERM, RingError::Disabled { .. })), "{said}");
    }
}

#[test]
fn pitfall_18_only_its_own_thread_may_enter() {
    if skip::without("uring") {
        return;
    }
    let bench = Bench::new(&options());
    if !bench.ring.features().setup.contains(SetupFlags::SINGLE_ISSUER) {
        return;
    }
    let fd = bench.ring.as_fd().as_raw_fd();
    let refused = std::thread::spawn(move || {
        let ring = super::sys::RingFd { fd, registered: None };
        super::sys::enter(ring, 0, 0, Some(Duration::ZERO)).err().and_then(|error| error.raw_os_error())
    });
    assert_eq!(refused.join().expect("no panic"), Some(libc::EEXIST));
    let flags = rustix::io::fcntl_getfd(bench.ring.as_fd()).expect("flags");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "a child process must not inherit the ring");
}

#[test]
fn pitfall_18_a_ring_may_go_with_everything_in_flight() {
    if skip::without("uring") {
        return;
    }
    for _ in 0..20 {
        let mut bench = Bench::new(&options());
        let pairs: Vec<_> = (0..10).map(|_| bench.pair()).collect();
        for (client, server) in &pairs {
            bench.ring.receive_multishot(*server);
            bench.ring.poll_out(*server);
            bench.ring.enter(Wait::No).expect("enter");
            (&*client).write_all(b"too late").expect("connected");
            bench.ring.push_send(*server, one(b"never entered"), 0);
        }
        drop(bench);
        // The sockets went with the ring: each client sees its connection end.
        for (mut client, _) in pairs {
            while client.read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0) {}
        }
    }
}

#[test]
fn pitfall_19_completions_come_only_inside_enter() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new(&options());
    let (mut client, server) = bench.pair();
    bench.ring.receive_multishot(server);
    bench.ring.enter(Wait::No).expect("enter");
    client.write_all(b"x").expect("connected");
    client.shutdown(Shutdown::Write).expect("connected");
    assert_eq!(bench.ring.unread_completions(), 0, "nothing comes by itself");
    // An enter that submits and waits for nothing still asks for events.
    bench.ring.enter(Wait::No).expect("enter");
    assert!(bench.ring.has_completions());
}

#[test]
fn pitfall_21_a_refusal_behind_thousands_of_receives() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::with_tiny_buffers(&Options { sq_entries: 256, cq_entries: 16_384, buffers: 8192, ..options() });
    let (full_client, full) = bench.pair();
    let listener = Socket::from(bench.listener.try_clone().expect("a descriptor"));
    listener.set_recv_buffer_size(1 << 20).expect("a socket option");
    let pairs: Vec<_> = (0..200).map(|_| bench.pair()).collect();
    for (client, _) in &pairs {
        (&*client).write_all(&pattern(0, 33 * 2048)).expect("room");
    }
    // Last of all: a late acknowledgement would make room again.
    let taken = bench.fill(&[full], 65_536)[0];
    for (_, server) in &pairs {
        bench.ring.receive_multishot(*server);
    }
    bench.ring.push_send(full, one(&pattern(taken, 100)), 0);
    bench.ring.enter(Wait::No).expect("enter");
    // Known before a single receive was looked at.
    let refused = bench.ring.pop_refused().expect("the socket is full");
    assert_eq!((refused.conn, refused.outcome), (full, Ok(0)));
    let mut receives = 0;
    while let Some(seen) = bench.ring.pop() {
        receives += u32::from(seen.lease.is_some());
        if let Some(lease) = seen.lease {
            bench.ring.give_back(lease);
        }
    }
    assert!(receives >= 5000, "{receives} receives are too few to test anything");
    let reader = reader(full_client);
    let mut stream = Stream { offset: taken + 100, ..Stream::new(full) };
    stream.refused(&mut bench.ring, refused);
    bench.until("room", |_, seen| (seen.token.kind == Kind::PollOut).then_some(()));
    stream.blocked = false;
    stream.push(&mut bench.ring, &[]);
    bench.ring.enter(Wait::No).expect("enter");
    bench.ring.shutdown_writing(full);
    bench.ring.enter(Wait::No).expect("enter");
    assert_eq!(reader.join().expect("every byte in its place"), taken + 100);
}

#[test]
fn pitfall_22_refusals_in_an_overflowed_queue() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::with_tiny_buffers(&Options { sq_entries: 8, cq_entries: 16, ..options() });
    let pairs: Vec<_> = (0..60).map(|_| bench.pair()).collect();
    let servers: Vec<ConnId> = pairs.iter().map(|(_, server)| *server).collect();
    let taken = bench.fill(&servers, 65_536);
    let before = bench.ring.counters().cq_overflows;
    for (_, server) in &pairs {
        bench.ring.receive_multishot(*server);
    }
    bench.ring.enter(Wait::No).expect("enter");
    // The receives complete in the enter that carries the sends, more of them than the queue holds.
    for (client, _) in &pairs {
        (&*client).write_all(b"also something to read").expect("connected");
    }
    for (number, (_, server)) in pairs.iter().enumerate() {
        bench.ring.push_send(*server, one(&pattern(taken[number], 4 << 20)), 0);
    }
    bench.ring.enter(Wait::No).expect("enter");
    let mut refused = std::collections::HashSet::new();
    while let Some(seen) = bench.ring.pop_refused() {
        assert!(seen.outcome.is_ok_and(|taken| taken < 4 << 20), "{:?}", seen.outcome);
        refused.insert(seen.conn.slot);
    }
    assert_eq!(refused.len(), 60, "every refusal is known after one enter");
    assert!(bench.ring.counters().cq_overflows > before, "the queue never overflowed: nothing was tested");
    // And a whole stream through the same small queues stays whole.
    drop(pairs);
    assert!(bench.stream(2 << 20, &[1000, 1, 3000, 7]) > 0);
}
