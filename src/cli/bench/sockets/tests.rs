//! Both kinds of sockets, on the real kernel, against peers that are plain sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::*;
use crate::skip;

const PATIENCE: Duration = Duration::from_secs(20);

/// The sockets, whoever they connect to, and what has happened to number 0.
struct Load {
    sockets: Box<dyn Sockets>,
    listener: TcpListener,
    deadline: Instant,
    received: Vec<u8>,
    ended: bool,
    watched: u32,
    connected: u32,
    failed: Option<Errno>,
}

/// The interfaces that are to be tested here.
fn both() -> impl Iterator<Item = Io> {
    [Io::Uring, Io::Epoll].into_iter().filter(|&io| io == Io::Epoll || !skip::without("uring"))
}

impl Load {
    fn new(io: Io) -> Self {
        Self {
            sockets: super::new(io, 4).unwrap_or_else(|error| panic!("{error} (or RINGMAIN_TEST_SKIP=uring)")),
            listener: TcpListener::bind("127.0.0.1:0").expect("a port"),
            deadline: Instant::now() + PATIENCE,
            received: Vec::new(),
            ended: false,
            watched: 0,
            connected: 0,
            failed: None,
        }
    }

    fn opening(&self) -> Opening {
        let address = self.listener.local_addr().expect("bound");
        Opening { address, source: None, ending: Ending::Reset, aside: false }
    }

    /// Opens connection 0; returns its other end.
    fn pair(&mut self, opening: &Opening) -> TcpStream {
        let before = self.connected;
        self.sockets.open(0, opening).expect("a socket");
        self.until("connected", |load| load.connected > before);
        let (peer, _) = self.listener.accept().expect("a peer");
        peer.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        peer
    }

    /// Waits once and takes in what happened.
    fn turn(&mut self, limit: Duration) {
        self.sockets.wait(limit).expect("the interface works");
        while let Some(event) = self.sockets.next().expect("the interface works") {
            match event {
                Event::Connected(_) => self.connected += 1,
                Event::Failed(errno) => self.failed = Some(errno),
                Event::Bytes(_, mut received) => {
                    self.received.extend_from_slice(self.sockets.bytes(&mut received));
                    self.sockets.give_back(received);
                }
                Event::Ended(_) => self.ended = true,
                Event::Watched => self.watched += 1,
            }
        }
    }

    #[track_caller]
    fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) {
        while !reached(self) {
            assert!(Instant::now() < self.deadline, "timed out: {what}");
            self.turn(Duration::from_millis(20));
        }
    }

    /// Lets everything happen that is about to.
    fn settle(&mut self) {
        (0..5).for_each(|_| self.turn(Duration::from_millis(10)));
    }
}

/// Reads once. A ring that goes away on this thread interrupts what it does.
fn read(peer: &mut TcpStream) -> Result<usize, ErrorKind> {
    loop {
        match peer.read(&mut [0; 8]).map_err(|error| error.kind()) {
            Err(ErrorKind::Interrupted) => {}
            read => return read,
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place ^ place >> 8 ^ place >> 16) as u8).collect()
}

#[test]
fn bytes_go_both_ways_and_the_end_is_told() {
    for io in both() {
        let mut load = Load::new(io);
        let mut peer = load.pair(&load.opening());
        load.sockets.send(0, b"hel").expect("a socket");
        load.sockets.send(0, b"lo").expect("a socket");
        peer.write_all(b"welcome").expect("a load");
        load.until("bytes", |load| load.received == b"welcome");
        let mut got = [0; 5];
        peer.read_exact(&mut got).expect("bytes");
        assert_eq!(&got, b"hello");
        assert!(!load.ended);
        peer.write_all(b", and good bye").expect("a load");
        drop(peer);
        load.until("the end", |load| load.ended);
        assert_eq!(load.received, b"welcome, and good bye", "{io:?}");
    }
}

#[test]
fn what_a_full_socket_does_not_take_follows_in_order() {
    for io in both() {
        let mut load = Load::new(io);
        let mut peer = load.pair(&load.opening());
        let bytes = pattern(8 << 20);
        for part in bytes.chunks(3 << 20) {
            load.sockets.send(0, part).expect("a socket");
            load.settle();
        }
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; 8 << 20];
            peer.read_exact(&mut got).map(|()| (got, peer))
        });
        load.until("everything read", |_| reader.is_finished());
        let (got, _peer) = reader.join().expect("no panic").expect("all of it");
        assert!(got == bytes, "{io:?}");
    }
}

#[test]
fn much_is_received_whole_and_in_order() {
    for io in both() {
        let mut load = Load::new(io);
        let mut peer = load.pair(&load.opening());
        let bytes = pattern(8 << 20);
        let writer = std::thread::spawn(move || peer.write_all(&pattern(8 << 20)).map(|()| peer));
        load.until("everything", |load| load.received.len() >= 8 << 20);
        assert!(load.received == bytes, "{io:?}");
        writer.join().expect("no panic").expect("a load");
    }
}

#[test]
fn a_paused_connection_is_read_when_it_goes_on() {
    for io in both() {
        let mut load = Load::new(io);
        let mut peer = load.pair(&Opening { aside: true, ..load.opening() });
        assert_eq!(load.sockets.local_address(0).expect("kept"), peer.peer_addr().expect("connected"));
        load.sockets.pause(0, true).expect("a socket");
        peer.write_all(b"unread").expect("a load");
        load.settle();
        assert_eq!((load.received.as_slice(), load.ended), (&b""[..], false), "{io:?}");
        load.sockets.pause(0, false).expect("a socket");
        load.until("bytes", |load| load.received == b"unread");
        peer.write_all(b", read").expect("a load");
        load.until("more bytes", |load| load.received == b"unread, read");
        // Its end is told even while it is not read, when it is no half-closing.
        load.sockets.pause(0, true).expect("a socket");
        rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).expect("a socket option");
        drop(peer);
        load.until("the end", |load| load.ended);
    }
}

#[test]
fn an_end_is_the_one_that_was_asked_for() {
    for (io, ending) in both().flat_map(|io| [(io, Ending::Reset), (io, Ending::Close)]) {
        let mut load = Load::new(io);
        let mut peer = load.pair(&Opening { ending, ..load.opening() });
        load.sockets.end(0);
        load.settle();
        let end = read(&mut peer);
        let expected = if ending == Ending::Reset { Err(ErrorKind::ConnectionReset) } else { Ok(0) };
        assert_eq!(end, expected, "{io:?}");
        // And without an end of its own it ends with the load.
        let mut peer = load.pair(&Opening { ending: Ending::Reset, ..load.opening() });
        drop(load);
        assert_eq!(read(&mut peer), Err(ErrorKind::ConnectionReset), "{io:?}");
    }
}

#[test]
fn a_number_is_opened_again_and_again() {
    for io in both() {
        let mut load = Load::new(io);
        load.deadline += PATIENCE;
        for round in 0..1500u32 {
            // More of them than there are slots for, and each with something on its way both ways as it ends.
            let mut peer = load.pair(&load.opening());
            peer.write_all(&round.to_be_bytes()).expect("a load");
            load.sockets.send(0, b"x").expect("a socket");
            if round % 3 == 0 {
                load.until("bytes", |load| load.received == round.to_be_bytes());
            }
            load.sockets.end(0);
            load.received.clear();
        }
        let mut peer = load.pair(&load.opening());
        load.received.clear();
        peer.write_all(b"the last").expect("a load");
        load.until("bytes of this one alone", |load| load.received == b"the last");
        assert!(!load.ended, "{io:?}: no end of an earlier one is this one's");
    }
}

#[test]
fn more_connections_than_slots_are_an_error_that_says_so() {
    if skip::without("uring") {
        return;
    }
    let mut load = Load::new(Io::Uring);
    let opening = load.opening();
    let error = (0..2000).find_map(|index| {
        let error = load.sockets.open(index, &opening).err();
        // The listener's queue is short.
        (index % 100 == 99).then(|| load.settle());
        (0..100).filter(|_| index % 100 == 99).for_each(|_| _ = load.listener.accept());
        error
    });
    assert!(matches!(error, Some(BenchError::Descriptors { .. })), "{error:?}");
}

#[test]
fn a_refused_connection_has_failed() {
    for io in both() {
        let mut load = Load::new(io);
        let opening = load.opening();
        load.listener = TcpListener::bind("127.0.0.1:0").expect("another port");
        // On loopback epoll's connect may say so at once.
        match load.sockets.open(0, &opening) {
            Ok(()) => load.until("failed", |load| load.failed.is_some()),
            Err(BenchError::Connect(error)) => load.failed = Errno::from_io_error(&error),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(load.failed, Some(Errno::CONNREFUSED), "{io:?}");
    }
}

#[test]
fn a_descriptor_is_watched_until_it_is_not() {
    for io in both() {
        let mut load = Load::new(io);
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("an option");
        load.sockets.watch(ours.as_fd()).expect("a descriptor");
        for round in 0..3u8 {
            let before = load.watched;
            theirs.write_all(&[round]).expect("a load");
            load.until("told", |load| load.watched > before);
            assert_eq!((&ours).read(&mut [0; 8]).expect("a byte"), 1);
        }
        load.settle();
        let before = load.watched;
        load.sockets.unwatch(ours.as_fd());
        theirs.write_all(b"x").expect("nobody reads it");
        load.settle();
        assert_eq!(load.watched, before, "{io:?}");
        // And nothing holds it open.
        drop(ours);
        load.settle();
        let ended = theirs.read(&mut [0; 8]);
        assert!(matches!(ended, Ok(0)) || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{io:?}");
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        load.sockets.watch(ours.as_fd()).expect("a descriptor");
        theirs.write_all(b"x").expect("a load");
        load.until("told of the next one", |load| load.watched > before);
    }
}
