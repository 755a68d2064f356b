//! The load's sockets: one thread, one epoll, up to as many connections as there are descriptors.
//!
//! Received bytes land in one shared buffer and are checked there; only a unit that is not whole yet is copied to its
//! connection.

mod opening;
mod returning;

pub use opening::Ending;

use std::collections::{HashSet, VecDeque};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use crate::cli::bench::checker::{Checker, Ledger, new_histogram};
use crate::cli::bench::error::BenchError;
use crate::cli::bench::progress::{Progress, Stall};
use crate::cli::bench::publisher::Publisher;
use crate::cli::bench::session::{Around, Echoes, Fault, Request, Session};
use crate::cli::bench::wire::UNIT_BYTES_MAX;
use returning::Returns;

/// Few, so that a due publication waits for at most this many receives.
const EVENTS_MAX: usize = 256;
/// Room for a whole unit and what one receive adds.
const BUFFER_BYTES: usize = UNIT_BYTES_MAX + 64 * 1024;
/// How long the publishing connection may take to come up.
const PUBLISHER_WAIT: Duration = Duration::from_secs(10);
/// The longest sleep: progress and limits are looked at between sleeps.
const SLEEP_NANOS_MAX: u64 = 100_000_000;
/// What the kernel gives a fresh socket, as it counts (twice this).
const ASIDE_RECEIVE_BYTES: usize = 64 * 1024;
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
    /// When it was meant to be opened.
    opened: u64,
    connected: bool,
    /// Its socket is not read.
    paused: bool,
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
    pub returns: Returns,
    ends_at: u64,
    bounds: Bounds,
    pub progress: Progress,
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
            returns: Returns::new(),
            ends_at: bounds.time_max_seconds.saturating_mul(1_000_000_000),
            bounds,
            progress: Progress::new(),
        })
    }

    /// Opens the connection that publishes to the load's channels.
    pub fn open_publisher(&mut self, api_key: &str) -> Result<(), BenchError> {
        let socket = TcpStream::connect_timeout(&self.address, PUBLISHER_WAIT).map_err(BenchError::Connect)?;
        socket.set_nodelay(true)?;
        let socket = OwnedFd::from(socket);
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(PUBLISHER), epoll::EventFlags::IN)?;
        let Request { dialect, host, .. } = &self.request;
        self.publisher = Some(Publisher::new(socket, *dialect, &self.checker, host, api_key));
        Ok(())
    }

    /// Closes that connection.
    pub fn close_publisher(&mut self) {
        self.publisher = None;
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

    /// Connections that are up.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Connections that are on their way up.
    pub fn opening(&self) -> usize {
        self.opening
    }

    /// Sends an echo, meant for `intended`, on a connection that is up.
    pub fn echo(&mut self, ready: usize, intended: u64) -> Result<(), BenchError> {
        let Some(&index) = self.ready.get(ready) else { return Ok(()) };
        self.with_session(index, |session, around| {
            session.send_echo(intended, around);
            Ok(())
        });
        self.send(index)
    }

    /// Connections that the server closed during the load, and the last reason it gave.
    pub fn closed(&self) -> (u64, Option<Fault>) {
        (self.departed.len() as u64, self.fault)
    }

    /// Sets the first `count` connections aside: they may miss some.
    pub fn set_aside(&mut self, count: usize) -> Result<(), BenchError> {
        for &index in self.ready.iter().take(count) {
            if let Some(Some(connection)) = self.connections.get_mut(index) {
                connection.session.ledger.aside = true;
                // Or the kernel lets it grow, and what the server sends ends up here.
                sockopt::set_socket_recv_buffer_size(&connection.socket, ASIDE_RECEIVE_BYTES)?;
            }
        }
        Ok(())
    }

    /// Stops reading the first `count` of those set aside; reads the others.
    pub fn pause_aside(&mut self, count: usize) -> Result<(), BenchError> {
        let connections = self.connections.iter_mut().enumerate().filter_map(|(index, place)| Some((index, place.as_mut()?)));
        let aside = connections.filter(|(_, connection)| connection.session.ledger.aside);
        for (place, (index, connection)) in aside.enumerate() {
            connection.paused = place < count;
            watch(&self.epoll, connection, index)?;
        }
        Ok(())
    }

    fn aside(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().flatten().filter(|connection| connection.session.ledger.aside)
    }

    /// How many of those set aside are not at the last publication.
    pub fn aside_behind(&self) -> usize {
        let is_behind = |ledger: &Ledger| !ledger.is_at(self.checker.last_offset(ledger).unwrap_or(0));
        self.aside().filter(|connection| is_behind(&connection.session.ledger)).count()
    }

    /// Where those that are not read connect from.
    pub fn paused_addresses(&self) -> Result<HashSet<SocketAddr>, BenchError> {
        self.aside()
            .filter(|connection| connection.paused)
            .map(|connection| {
                let address = rustix::net::getsockname(&connection.socket)?;
                Ok(SocketAddr::try_from(address)?)
            })
            .collect()
    }

    /// Deliveries that `subscribers` of each channel did not get: by count, and by place where that is more.
    pub fn missing(&self, subscribers: usize) -> u64 {
        let by_count = (self.checker.published() * subscribers as u64).saturating_sub(self.checker.tally.deliveries);
        let present = self.connections.iter().flatten().map(|connection| &connection.session.ledger);
        by_count.max(present.chain(&self.departed).map(|ledger| self.checker.missing(ledger)).sum())
    }

    pub fn is_out_of_time(&self) -> bool {
        self.clock.now() > self.ends_at
    }

    /// Sleeps until something happens, at most until `until`; then handles what did.
    pub fn turn(&mut self, until: u64) -> Result<(), BenchError> {
        let now = self.clock.now();
        if self.is_out_of_time() {
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
            watch(&self.epoll, connection, index)?;
            self.with_session(index, |session, around| {
                session.open(index, around);
                Ok(())
            });
            self.send(index)?;
        } else if flags.contains(epoll::EventFlags::OUT) {
            self.out.clear();
            self.send(index)?;
        }
        let ended = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        let to_the_end = ended || flags.contains(epoll::EventFlags::RDHUP);
        match self.connections.get(index) {
            Some(Some(Connection { paused: true, .. })) if ended => self.depart(index),
            Some(Some(Connection { paused: false, .. })) if to_the_end || flags.contains(epoll::EventFlags::IN) => {
                while self.receive(index, to_the_end)? {}
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Reads once; whether there may be more, of which no event will tell: the end of the stream, or what had no room.
    fn receive(&mut self, index: usize, to_the_end: bool) -> Result<bool, BenchError> {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return Ok(false) };
        let carried = connection.carry.len();
        self.buffer[..carried].copy_from_slice(&connection.carry);
        match rustix::net::recv(&connection.socket, &mut self.buffer[carried..], RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET | Errno::PIPE) => {
                self.depart(index);
                Ok(false)
            }
            Ok((received, _)) => {
                self.read(index, carried + received)?;
                Ok(to_the_end || carried + received == BUFFER_BYTES)
            }
            Err(Errno::INTR) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
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
            self.returns.came(now);
        }
        match result {
            Ok(value) => Some(value),
            Err(Fault::ComeBack { millis }) if self.returns.is_obeyed() && !was_ready => {
                self.turned_away(index, millis, now);
                None
            }
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
            watch(&self.epoll, connection, index)?;
        }
        Ok(())
    }

    /// Starts to watch for a sign of life.
    pub fn stall(&self, doing: &'static str) -> Stall {
        Stall::new(doing, self.clock.now(), self.bounds.stall_seconds)
    }

    /// Says how far the run is, now and then.
    pub fn say(&mut self, line: impl FnOnce(&Self) -> String) {
        let now = self.clock.now();
        if self.progress.is_due(now) {
            let line = line(self);
            self.progress.say(now, &line);
        }
    }
}

/// A load ends by resets. Else the kernel remembers each of its connections for a minute and forgets all of them in one go, which
/// keeps a core for a microsecond each: whatever load runs there then has that as its last percentile.
impl Drop for Fleet {
    fn drop(&mut self) {
        self.connections.iter().flatten().for_each(reset);
    }
}

/// Ends the connection by a reset when it is dropped.
fn reset(connection: &Connection) {
    // Where it is refused, the connection ends like any other.
    _ = sockopt::set_socket_linger(&connection.socket, Some(Duration::ZERO));
}

/// Tells epoll what the connection waits for. By edges: else the kernel looks in each wait at all that were ready in the one before,
/// and with fifteen thousand of them lets nobody else have the core for ten milliseconds.
fn watch(epoll: &OwnedFd, connection: &Connection, index: usize) -> Result<(), Errno> {
    let mut interest = epoll::EventFlags::ET | epoll::EventFlags::RDHUP;
    interest.set(epoll::EventFlags::IN, !connection.paused);
    interest.set(epoll::EventFlags::OUT, !connection.outbox.is_empty());
    epoll::modify(epoll, &connection.socket, epoll::EventData::new_u64(index as u64), interest)
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
