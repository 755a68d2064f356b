//! The load's sockets: one thread, one epoll, up to as many connections as there are descriptors.
//!
//! Received bytes land in one shared buffer and are checked there; only a unit that is not whole yet is copied to its
//! connection. Connections are opened from many loopback addresses, so that ephemeral ports never run out.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::checker::{Checker, Ledger, new_histogram};
use super::error::BenchError;
use super::publisher::Publisher;
use super::session::{Around, Echoes, Fault, Request, Session};
use super::wire::UNIT_BYTES_MAX;

/// Few, so that a due publication waits for at most this many receives.
const EVENTS_MAX: usize = 256;
/// Room for a whole unit and what one receive adds.
const BUFFER_BYTES: usize = UNIT_BYTES_MAX + 64 * 1024;
/// Connections opened from one loopback address before the next one's turn.
const PORTS_PER_SOURCE: u64 = 8192;
const SOURCES: u64 = 128;
/// How long the publishing connection may take to come up.
const PUBLISHER_WAIT: Duration = Duration::from_secs(10);
/// The longest sleep: progress and limits are looked at between sleeps.
const SLEEP_NANOS_MAX: u64 = 100_000_000;
const PUBLISHER: u64 = u64::MAX;

/// Nanoseconds since the run began.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

struct Connection {
    socket: OwnedFd,
    session: Session,
    /// Received, not yet whole.
    carry: Vec<u8>,
    /// Not yet taken by the socket.
    outbox: Vec<u8>,
    opened: u64,
    connected: bool,
}

/// What ends a load that does not end by itself.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub time_max_seconds: u64,
    /// Without a sign of life.
    pub stall_seconds: u64,
}

/// All connections of a load.
pub struct Fleet {
    pub clock: Clock,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    address: SocketAddr,
    request: Request,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    out: Vec<u8>,
    opened: u64,
    opening: usize,
    ready: VecDeque<usize>,
    pub checker: Checker,
    pub echoes: Echoes,
    /// From connect to subscribed.
    pub connect_latency: Histogram<u64>,
    publisher: Option<Publisher>,
    publisher_blocked: bool,
    /// What the connections had received that the server closed during the load.
    departed: Vec<Ledger>,
    fault: Option<Fault>,
    ends_at: u64,
    bounds: Bounds,
    spoke_at: u64,
}

impl Fleet {
    pub fn new(address: SocketAddr, request: Request, checker: Checker, bounds: Bounds) -> Result<Self, BenchError> {
        Ok(Self {
            clock: Clock::start(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS_MAX),
            address,
            request,
            connections: Vec::new(),
            free: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            out: Vec::new(),
            opened: 0,
            opening: 0,
            ready: VecDeque::new(),
            checker,
            echoes: Echoes::new(),
            connect_latency: new_histogram(),
            publisher: None,
            publisher_blocked: false,
            departed: Vec::new(),
            fault: None,
            ends_at: bounds.time_max_seconds.saturating_mul(1_000_000_000),
            bounds,
            spoke_at: 0,
        })
    }

    /// Opens connections until `count` are subscribed, at most `window` at a time.
    pub fn open(&mut self, count: usize, window: usize) -> Result<(), BenchError> {
        let mut stall = self.stall("opening connections");
        while self.ready.len() < count {
            while self.opening < window && self.ready.len() + self.opening < count {
                self.open_one()?;
            }
            self.opening_turn(&mut stall)?;
            self.say(|fleet| format!("{} of {count} connections are up", fleet.ready.len()));
        }
        Ok(())
    }

    /// Opens `count` connections one after the other and closes the oldest whenever more than `hold` are subscribed.
    pub fn churn(&mut self, count: u64, window: usize, hold: usize) -> Result<(), BenchError> {
        let last = self.opened + count;
        let mut stall = self.stall("opening connections");
        while self.opened < last || self.opening > 0 {
            while self.opening < window && self.opened < last {
                self.open_one()?;
            }
            self.opening_turn(&mut stall)?;
            self.close_beyond(hold);
            self.say(|fleet| format!("{} of {count} connections have come", count - (last - fleet.opened)));
        }
        self.close_beyond(0);
        Ok(())
    }

    fn opening_turn(&mut self, stall: &mut Stall) -> Result<(), BenchError> {
        self.turn(u64::MAX)?;
        match self.fault.take() {
            Some(fault) => Err(BenchError::Opening(fault)),
            None if self.departed.is_empty() => stall.check(self.opened - self.opening as u64, self.clock.now()),
            None => Err(BenchError::ClosedWhileOpening),
        }
    }

    fn close_beyond(&mut self, hold: usize) {
        while self.ready.len() > hold {
            if let Some(index) = self.ready.pop_front() {
                self.connections[index] = None;
                self.free.push(index);
            }
        }
    }

    fn open_one(&mut self) -> Result<(), BenchError> {
        let socket = self.connecting_socket().map_err(|error| BenchError::Connect(error.into()))?;
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(index as u64), interest)?;
        self.connections[index] = Some(Connection {
            socket,
            session: Session::new(index),
            carry: Vec::new(),
            outbox: Vec::new(),
            opened: self.clock.now(),
            connected: false,
        });
        self.opened += 1;
        self.opening += 1;
        Ok(())
    }

    fn connecting_socket(&self) -> Result<OwnedFd, Errno> {
        let family = if self.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if self.address.ip().is_loopback() && self.address.is_ipv4() {
            rustix::net::bind(&socket, &source(self.opened, std::process::id()))?;
        }
        match rustix::net::connect(&socket, &self.address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error),
        }
    }

    /// Opens the connection that publishes to the load's channel.
    pub fn open_publisher(&mut self, api_key: &str, payload_bytes: usize) -> Result<(), BenchError> {
        let socket = TcpStream::connect_timeout(&self.address, PUBLISHER_WAIT).map_err(BenchError::Connect)?;
        socket.set_nodelay(true)?;
        let socket = OwnedFd::from(socket);
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(PUBLISHER), epoll::EventFlags::IN)?;
        self.publisher = Some(Publisher::new(socket, &self.request.path, &self.request.host, api_key, payload_bytes));
        Ok(())
    }

    /// Publishes, once [`Fleet::turn`] finds room in the socket.
    pub fn publish(&mut self, intended: u64) {
        if let Some(publisher) = &mut self.publisher {
            publisher.publish(&mut self.checker, intended);
        }
    }

    /// Publications without a reply.
    pub fn in_flight(&self) -> usize {
        self.publisher.as_ref().map_or(0, Publisher::in_flight)
    }

    /// Sends each ready connection's first echo.
    pub fn start_echoes(&mut self) -> Result<(), BenchError> {
        for index in 0..self.connections.len() {
            self.with_session(index, |session, around| {
                session.start_echo(around);
                Ok(())
            });
            self.send(index)?;
        }
        Ok(())
    }

    /// Connections that the server closed during the load, and the last reason it gave.
    pub fn closed(&self) -> (u64, Option<Fault>) {
        (self.departed.len() as u64, self.fault)
    }

    /// Publications that subscribers did not get.
    pub fn missing(&self) -> u64 {
        let Some(last) = self.checker.last_offset() else { return 0 };
        let present = self.connections.iter().flatten().map(|connection| &connection.session.ledger);
        present.chain(&self.departed).map(|ledger| ledger.missing(last)).sum()
    }

    /// Sleeps until something happens, at most until `until`; then handles what did.
    pub fn turn(&mut self, until: u64) -> Result<(), BenchError> {
        let now = self.clock.now();
        if now > self.ends_at {
            return Err(BenchError::OutOfTime { seconds: self.bounds.time_max_seconds });
        }
        self.flush_publisher()?;
        let sleep = Duration::from_nanos(until.saturating_sub(now).min(SLEEP_NANOS_MAX));
        let timeout = Timespec { tv_sec: 0, tv_nsec: sleep.subsec_nanos().into() };
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for index in 0..self.events.len() {
            let event = self.events[index];
            match (event.data.u64(), &mut self.publisher) {
                (PUBLISHER, Some(publisher)) => publisher.receive(&mut self.checker)?,
                (token, _) => self.happened(usize::try_from(token).unwrap_or(usize::MAX), event.flags)?,
            }
        }
        Ok(())
    }

    fn flush_publisher(&mut self) -> Result<(), BenchError> {
        let Some(publisher) = &mut self.publisher else { return Ok(()) };
        let blocked = !publisher.flush()?;
        if blocked != self.publisher_blocked {
            let out = if blocked { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            epoll::modify(&self.epoll, publisher.socket(), epoll::EventData::new_u64(PUBLISHER), epoll::EventFlags::IN | out)?;
            self.publisher_blocked = blocked;
        }
        Ok(())
    }

    fn happened(&mut self, index: usize, flags: epoll::EventFlags) -> Result<(), BenchError> {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return Ok(()) };
        if !connection.connected && flags.intersects(epoll::EventFlags::OUT | epoll::EventFlags::ERR) {
            sockopt::socket_error(&connection.socket)?.map_err(|error| BenchError::Connect(error.into()))?;
            connection.connected = true;
            epoll::modify(&self.epoll, &connection.socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
            self.out.clear();
            self.request.write(&mut self.out, index);
            self.send(index)?;
        } else if flags.contains(epoll::EventFlags::OUT) {
            self.out.clear();
            self.send(index)?;
        }
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            self.receive(index)?;
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) -> Result<(), BenchError> {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return Ok(()) };
        let carried = connection.carry.len();
        self.buffer[..carried].copy_from_slice(&connection.carry);
        match rustix::net::recv(&connection.socket, &mut self.buffer[carried..], RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET | Errno::PIPE) => {
                self.depart(index);
                Ok(())
            }
            Ok((received, _)) => self.read(index, carried + received),
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the first `length` bytes of the buffer to the session and keeps what it did not use.
    fn read(&mut self, index: usize, length: usize) -> Result<(), BenchError> {
        let buffer = std::mem::take(&mut self.buffer);
        let used = self.with_session(index, |session, around| session.read(&buffer[..length], around));
        if let (Some(used), Some(Some(connection))) = (used, self.connections.get_mut(index)) {
            connection.carry.clear();
            connection.carry.extend_from_slice(&buffer[used..length]);
        }
        self.buffer = buffer;
        self.send(index)
    }

    /// Lets the session act and notes what became of it; `None` when it is gone.
    fn with_session<T>(&mut self, index: usize, act: impl FnOnce(&mut Session, &mut Around<'_>) -> Result<T, Fault>) -> Option<T> {
        let connection = self.connections.get_mut(index)?.as_mut()?;
        let was_ready = connection.session.is_ready();
        self.out.clear();
        let mut around = Around {
            request: &self.request,
            checker: &mut self.checker,
            echoes: &mut self.echoes,
            now: self.clock.now(),
            out: &mut self.out,
        };
        let now = around.now;
        let result = act(&mut connection.session, &mut around);
        if connection.session.is_ready() && !was_ready {
            self.opening -= 1;
            self.ready.push_back(index);
            self.connect_latency.saturating_record(now - connection.opened);
        }
        match result {
            Ok(value) => Some(value),
            Err(fault) => {
                self.fault = Some(fault);
                self.depart(index);
                None
            }
        }
    }

    /// The server ended this connection.
    fn depart(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index).and_then(Option::take) {
            self.departed.push(connection.session.ledger);
        }
    }

    /// Sends `out`, after what is still waiting.
    fn send(&mut self, index: usize) -> Result<(), BenchError> {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return Ok(()) };
        let waited = !connection.outbox.is_empty();
        connection.outbox.extend_from_slice(&self.out);
        self.out.clear();
        if connection.outbox.is_empty() {
            return Ok(());
        }
        match rustix::net::send(&connection.socket, &connection.outbox, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => drop(connection.outbox.drain(..sent)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::CONNRESET | Errno::PIPE) => {
                self.depart(index);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        let waits = !connection.outbox.is_empty();
        if waits != waited {
            let out = if waits { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &connection.socket, data, epoll::EventFlags::IN | out)?;
        }
        Ok(())
    }

    /// Starts to watch for a sign of life.
    pub fn stall(&self, doing: &'static str) -> Stall {
        Stall { doing, count: 0, since: self.clock.now(), seconds: self.bounds.stall_seconds }
    }

    /// Says how far the run is, once a second, on standard error.
    pub fn say(&mut self, line: impl FnOnce(&Self) -> String) {
        let now = self.clock.now();
        if now - self.spoke_at >= 1_000_000_000 {
            self.spoke_at = now;
            eprintln!("{:>4} s  {}", now / 1_000_000_000, line(self));
        }
    }
}

/// Gives up when a count has not changed for too long.
pub struct Stall {
    doing: &'static str,
    count: u64,
    since: u64,
    seconds: u64,
}

impl Stall {
    /// # Errors
    /// [`BenchError::Stalled`].
    pub fn check(&mut self, count: u64, now: u64) -> Result<(), BenchError> {
        if count != self.count {
            (self.count, self.since) = (count, now);
        }
        if now.saturating_sub(self.since) > self.seconds.saturating_mul(1_000_000_000) {
            return Err(BenchError::Stalled { doing: self.doing, seconds: self.seconds });
        }
        Ok(())
    }
}

/// 127.A.B.1 for the first connections, then 127.A.B.2 and so on, around; A.B is this process's, as the ports of the
/// process before may still be waiting out their minute.
fn source(opened: u64, process: u32) -> SocketAddr {
    let [_, _, a, b] = process.to_be_bytes();
    let last = 1 + (opened / PORTS_PER_SOURCE % SOURCES) as u8;
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, a, b, last), 0))
}

/// Whether `count` connections and a few files more fit the descriptor limit.
pub fn check_descriptors(count: usize) -> Result<(), BenchError> {
    const OTHERS: u64 = 32;
    let needed = count as u64 + OTHERS;
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        Some(limit) if limit < needed => Err(BenchError::Descriptors { needed, limit }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_loopback_and_last() {
        let address = |opened| source(opened, 0x0001_0203).ip();
        assert_eq!([address(0), address(8191), address(8192)].map(|ip| ip.to_string()), ["127.2.3.1", "127.2.3.1", "127.2.3.2"]);
        assert!((0..1 << 22).step_by(4096).all(|opened| address(opened).is_loopback()));
        assert_eq!(address(PORTS_PER_SOURCE * SOURCES), address(0));
    }

    #[test]
    fn a_stall_is_a_count_that_stays() {
        let mut stall = Stall { doing: "waiting", count: 0, since: 0, seconds: 10 };
        let second = 1_000_000_000;
        assert!(stall.check(1, 9 * second).is_ok());
        assert!(stall.check(1, 19 * second).is_ok());
        assert!(stall.check(2, 20 * second).is_ok());
        assert!(matches!(stall.check(2, 31 * second), Err(BenchError::Stalled { doing: "waiting", seconds: 10 })));
    }
}
