//! What the kernel cannot be made to refuse on demand: accepts that fail for want of something, told to a worker's sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::accepting::{Accepting, Listener};
use super::{Peers, Sockets};
use crate::base::{Nanos, Now, ShardId, WallMs};
use crate::metrics::Label;
use crate::net::listen;
use crate::net::loads::Loads;
use crate::net::retry::FULL_RETRY;
use crate::net::shell::{Handed, Shell, Times};
use crate::net::worker::Bells;
use crate::ring::{self, Completion, Kind, Ring, Token, Wait};
use crate::shard::{ListenerId, Options, Shard};
use crate::skip;

const REQUEST: &[u8] = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// New connections heard per turn.
const NEWCOMERS: usize = 64;

/// A worker's sockets on a real ring, with one listener.
struct Bench {
    sockets: Sockets,
    shard: Shard,
    address: SocketAddr,
    bells: Bells,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        Self::of(16_384, 1)
    }

    /// The first of so many workers, with a table of so many slots; the others exist by their rings and tables only.
    fn of(files_max: u32, workers: usize) -> Self {
        let ring = Ring::new(&ring::Options { files_max, buffers: 64, ..ring::Options::default() })
            .unwrap_or_else(|error| panic!("{error} (or RINGMAIN_TEST_SKIP=uring)"));
        let loads = Loads::new(workers);
        (0..workers).for_each(|worker| loads.set_capacity(worker, ring.features().files));
        let rings: Vec<_> = (0..workers).map(|_| ring.as_fd().try_clone_to_owned().expect("a descriptor")).collect();
        let rings = Arc::from(rings);
        let socket = listen::bind(SocketAddr::from(([127, 0, 0, 1], 0)), None).expect("a port");
        listen::listen(&socket).expect("listening");
        let address = socket.local_addr().expect("bound").as_socket().expect("an address");
        let listener = Listener::new(socket.into(), ListenerId::Public, listen::family_of(address));
        let times = Times { quiet_after: Duration::from_secs(5), connect_timeout: Duration::from_secs(5) };
        let now = Now { monotonic: Nanos(1_000_000_000), wall: WallMs(0) };
        let mut sockets = Sockets::new(ring, vec![listener], Peers { me: 0, rings, loads }, times);
        sockets.start_accepting();
        let shard = Shard::new(ShardId(0), 1, Arc::new(Options::default()), 1, now);
        let bells = Bells { rings: None, eventfds: Arc::from([]) };
        Self { sockets, shard, address, bells, now }
    }

    /// The armed accept ends with an errno.
    fn refuse(&mut self, errno: i32) {
        let token = Token::numbered(Kind::Accept, 0);
        let refused = Completion { token, result: -errno, more: false, nonempty: false, lease: None, address: None };
        self.sockets.interpret(refused, &mut self.shard, self.now);
    }

    /// A client that has asked for something.
    fn client(&self) -> TcpStream {
        let mut client = TcpStream::connect(self.address).expect("a listener");
        client.write_all(REQUEST).expect("connected");
        client
    }

    fn turns_until(&mut self, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so(self) {
            assert!(Instant::now() < deadline, "timed out with {} answers", self.answers());
            self.turn();
        }
    }

    fn turn(&mut self) {
        let Self { sockets, shard, now, .. } = self;
        sockets.enter(Wait::AtMost(Duration::from_millis(1))).expect("the ring works");
        sockets.report(shard, *now);
        while sockets.apply_next(&self.bells, shard, *now) {}
        shard.flush();
        while let Some(output) = shard.poll_output() {
            sockets.perform(output, *now);
        }
        sockets.end_turn(NEWCOMERS, *now);
    }

    fn answers(&self) -> u64 {
        self.sockets.ring.counters().sends
    }

    fn state(&self) -> Accepting {
        self.sockets.listeners[0].state
    }

    fn advance(&mut self, time: Duration) {
        self.now.monotonic = self.now.monotonic + time;
        self.sockets.handle_timeout(&mut self.shard, self.now);
    }

    /// How long the worker would sleep.
    fn pause(&self) -> Duration {
        self.sockets.poll_timeout().expect("it comes back by itself").since(self.now.monotonic)
    }
}

#[test]
fn a_table_without_a_slot_passes_on_to_one_that_has_room_again() {
    if skip::without("uring") {
        return;
    }
    const SLOTS: u32 = 64;
    let mut bench = Bench::of(SLOTS, 2);
    let loads = bench.sockets.peers.loads.clone();
    (0..SLOTS).for_each(|_| loads.add_connection(1));
    let clients: Vec<_> = (0..SLOTS + 5).map(|_| bench.client()).collect();
    bench.turns_until(|bench| bench.state() == Accepting::Full);
    // As when two accepts that were armed together both got somebody.
    while loads.connections(0) < SLOTS {
        loads.add_connection(0);
    }
    let here = bench.sockets.facts.accepted as usize;
    bench.advance(FULL_RETRY);
    assert!(bench.sockets.poll_handed().is_none(), "nobody has room");
    (0..2).for_each(|_| loads.remove_connection(1));
    bench.advance(FULL_RETRY);
    let (to, handed) = bench.sockets.poll_handed().expect("the other worker has room for one more than it holds back");
    assert_eq!(to, ShardId(1));
    assert_eq!(handed.peer, clients[here].local_addr().expect("connected"));
    assert!(bench.sockets.poll_handed().is_none());
    assert_eq!((loads.connections(1), bench.sockets.facts.handed_over), (SLOTS - 1, 1));
    // Its mailbox was full: it is tried again, not lost.
    let peer = handed.peer;
    bench.sockets.take_back(to, handed, &mut bench.shard, bench.now);
    assert!(bench.sockets.poll_handed().is_none(), "not in the same turn");
    bench.turn();
    assert!(bench.sockets.has_work());
    assert_eq!(bench.sockets.poll_handed().expect("the same again").1.peer, peer);
}

#[test]
fn what_came_as_a_descriptor_is_served_and_not_passed_on_again() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::of(1024, 2);
    // Nobody is at the other worker, so a connection of its own would go there.
    (0..1000).for_each(|_| bench.sockets.peers.loads.add_connection(0));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
    client.write_all(REQUEST).expect("connected");
    let (socket, peer) = listener.accept().expect("a connection");
    assert!(bench.sockets.peers.loads.book_hand_over(0));
    bench.sockets.take_over(Handed { socket: socket.into(), listener: ListenerId::Public, peer }, &mut bench.shard, bench.now);
    bench.turns_until(|bench| bench.answers() == 1);
    client.read_exact(&mut [0; 12]).expect("an answer");
    assert_eq!((bench.sockets.peers.loads.connections(0), bench.sockets.facts.handed_over), (1001, 0));
    drop(client);
    bench.turns_until(|bench| bench.sockets.peers.loads.connections(0) == 1000);
}

#[test]
fn newcomers_stand_in_line_and_who_is_here_does_not() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new();
    let mut here = bench.client();
    bench.turns_until(|bench| bench.answers() == 1);
    here.read_exact(&mut [0; 12]).expect("an answer");
    let newcomers: Vec<_> = (0..400).map(|_| bench.client()).collect();
    bench.turns_until(|bench| !bench.sockets.line.is_empty());
    here.write_all(REQUEST).expect("connected");
    here.set_nonblocking(true).expect("a socket option");
    let mut answered_before = 0;
    bench.turns_until(|bench| {
        let answers = bench.answers();
        assert!(answers - answered_before <= NEWCOMERS as u64 + 1, "{} in one turn", answers - answered_before);
        answered_before = answers;
        // What is left of the first answer has no status line.
        let mut bytes = [0; 4096];
        here.read(&mut bytes).is_ok_and(|read| String::from_utf8_lossy(&bytes[..read]).contains("HTTP/1.1 200"))
    });
    assert!(bench.answers() < 300, "{} newcomers went before", bench.answers());
    bench.turns_until(|bench| bench.answers() as usize == newcomers.len() + 2);
}

#[test]
fn a_newcomer_that_has_said_all_is_heard_to_its_end() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new();
    let mut client = bench.client();
    client.shutdown(Shutdown::Write).expect("connected");
    client.set_nonblocking(true).expect("a socket option");
    let mut answer = Vec::new();
    bench.turns_until(|_| client.read_to_end(&mut answer).is_ok());
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn pitfall_11_a_refused_accept_is_tried_again_later_and_ever_later() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new();
    assert_eq!(bench.state(), Accepting::Multishot);
    for (errno, pause) in [(libc::ENFILE, 50), (libc::EMFILE, 100), (libc::ENOBUFS, 200), (libc::ENOMEM, 400), (libc::ENFILE, 800)]
    {
        bench.refuse(errno);
        assert_eq!(bench.state(), Accepting::BackingOff, "armed again at once it would fail at once");
        assert_eq!(bench.pause(), Duration::from_millis(pause));
        bench.advance(Duration::from_millis(pause - 1));
        assert_eq!(bench.state(), Accepting::BackingOff);
        bench.advance(Duration::from_millis(1));
        assert_eq!(bench.state(), Accepting::Multishot);
    }
    let pauses =
        |errno: i32| bench.sockets.facts.accept_backoff.get(&[Label::Number(errno.unsigned_abs()), Label::None, Label::None]);
    assert_eq!([libc::ENFILE, libc::EMFILE, libc::ENOBUFS, libc::ENOMEM, libc::EINTR].map(pauses), [2, 1, 1, 1, 0]);
}

#[test]
fn pitfall_11_what_concerns_one_connection_does_not_stop_accepting() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new();
    for errno in [libc::ECONNABORTED, libc::EINTR, libc::EPROTO, libc::EHOSTUNREACH] {
        bench.refuse(errno);
        assert_eq!(bench.state(), Accepting::Multishot);
    }
}

#[test]
fn pitfall_11_who_came_meanwhile_is_accepted_when_something_is_free() {
    if skip::without("uring") {
        return;
    }
    let mut bench = Bench::new();
    bench.refuse(libc::ENFILE);
    let _client = TcpStream::connect(bench.address).expect("listening");
    // As when a connection of this worker has closed: sooner than the pause ends.
    bench.sockets.accept_if_room(bench.now);
    assert_eq!(bench.state(), Accepting::Multishot);
    for _ in 0..100 {
        bench.sockets.ring.enter(Wait::AtMost(Duration::from_millis(50))).expect("the ring works");
        while let Some(completion) = bench.sockets.ring.pop() {
            bench.sockets.interpret(completion, &mut bench.shard, bench.now);
        }
        if bench.sockets.facts.accepted > 0 {
            return;
        }
    }
    panic!("the client still waits");
}
