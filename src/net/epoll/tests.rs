//! What cannot be provoked from outside: a worker's sockets on epoll, with one listener, turned by hand.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::base::WallMs;
use crate::net::listen;
use crate::shard::{ListenerId, Options};

/// New connections heard per round.
const NEWCOMERS: usize = 8;

struct Bench {
    sockets: Sockets,
    shard: Shard,
    bells: Bells,
    address: SocketAddr,
    now: Now,
}

impl Bench {
    fn new(connections: u32) -> Self {
        let loads = Loads::new(1);
        loads.set_capacity(0, connections);
        let socket = listen::bind(SocketAddr::from(([127, 0, 0, 1], 0)), None).expect("a port");
        listen::listen(&socket).expect("listening");
        let address = socket.local_addr().expect("bound").as_socket().expect("an address");
        let listeners = vec![Listener::new(socket.into(), ListenerId::Public)];
        let times = Times { quiet_after: Duration::from_secs(5), connect_timeout: Duration::from_secs(5) };
        let now = Now { monotonic: Nanos(1_000_000_000), wall: WallMs(0) };
        let mut sockets = Sockets::new(create().expect("epoll"), listeners, Place { me: 0, connections, loads }, times);
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("an eventfd");
        sockets.listen(bell.as_fd()).expect("a registration");
        let bells = Bells { rings: None, eventfds: Arc::from([bell]) };
        let shard = Shard::new(ShardId(0), 1, Arc::new(Options::default()), 1, now);
        Self { sockets, shard, bells, address, now }
    }

    /// One round, and how many events there were. Waits for the first as long as anything may take.
    fn round(&mut self, wait: Wait) -> usize {
        self.sockets.enter(wait).expect("epoll works");
        let events = self.sockets.events.len();
        self.sockets.report(&mut self.shard, self.now);
        while self.sockets.apply_next(&self.bells, &mut self.shard, self.now) {}
        self.sockets.end_turn(NEWCOMERS, self.now);
        events
    }

    /// A client and the connection that it has here, which has told all that it had to tell.
    fn connection(&mut self) -> (TcpStream, ConnId) {
        let client = TcpStream::connect(self.address).expect("listening");
        assert_eq!(self.round(Wait::AtMost(Duration::from_secs(10))), 1, "somebody knocks");
        assert_eq!(self.round(Wait::AtMost(Duration::from_secs(10))), 1, "a fresh connection has room");
        let slot = self.sockets.table.len() - 1;
        (client, ConnId { slot, generation: 0 })
    }
}

#[test]
fn where_nothing_was_taken_the_kernel_says_again_whether_there_is_room() {
    let mut bench = Bench::new(10);
    let (_client, conn) = bench.connection();
    assert_eq!(bench.round(Wait::No), 0, "nothing changes");
    // As out of socket memory: refused though there is room, with nothing on its way that could be acknowledged.
    bench.sockets.await_room(conn, false, bench.now);
    assert_eq!(bench.round(Wait::No), 1);
    assert!(bench.sockets.table.of(conn).is_some_and(|cell| cell.room.is_to_be_proven() && !cell.room.is_awaited()));
    // Twice woken for nothing: then a pause, whatever the kernel says.
    bench.sockets.await_room(conn, false, bench.now);
    bench.round(Wait::No);
    bench.sockets.await_room(conn, false, bench.now);
    bench.round(Wait::No);
    assert!(bench.sockets.table.of(conn).is_some_and(|cell| cell.flags.has(Flags::RESTING) && cell.room.is_awaited()));
    bench.now.monotonic = bench.now.monotonic + Duration::from_secs(1);
    bench.sockets.handle_timeout(&mut bench.shard, bench.now);
    assert!(bench.sockets.table.of(conn).is_some_and(|cell| !cell.flags.has(Flags::RESTING) && !cell.room.is_awaited()));
}

#[test]
fn newcomers_stand_in_line_once_they_have_something_to_say() {
    let mut bench = Bench::new(100);
    let mut clients: Vec<_> = (0..3 * NEWCOMERS).map(|_| bench.connection().0).collect();
    assert!(bench.sockets.line.is_empty(), "they have room, and have said nothing");
    let heard = |bench: &Bench| bench.sockets.facts.ring.received_bytes;
    for client in &mut clients {
        client.write_all(b"GET /health/live HTTP/1.1\r\n").expect("connected");
    }
    bench.round(Wait::AtMost(Duration::from_secs(10)));
    assert_eq!(heard(&bench), 0, "all of them stand in line");
    for rounds in 1..=3 {
        bench.round(Wait::No);
        assert_eq!(heard(&bench), (rounds * NEWCOMERS * 27) as u64);
    }
}

#[test]
fn a_listener_that_is_turned_away_again_and_again_has_one_deadline() {
    let mut bench = Bench::new(1);
    let _clients: Vec<_> = (0..20).map(|_| TcpStream::connect(bench.address).expect("listening")).collect();
    bench.round(Wait::AtMost(Duration::from_secs(10)));
    for generation in 0..19 {
        // One goes, the next one is let in, and whoever stands behind it is turned away.
        bench.sockets.fail(ConnId { slot: 0, generation }, Errno::CONNRESET, &mut bench.shard, bench.now);
        while bench.sockets.has_work() {
            bench.round(Wait::No);
        }
        assert_eq!(bench.sockets.facts.accepted, u64::from(generation) + 2);
    }
    let deadlines = std::iter::from_fn(|| bench.sockets.deadlines.expire(Nanos(u64::MAX)));
    assert_eq!(deadlines.collect::<Vec<_>>(), [Due::Accept(0)]);
}
