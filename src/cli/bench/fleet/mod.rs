//! All connections of a load: one thread, up to as many as there are descriptors.
//!
//! Received bytes are checked where they landed; only a unit that is not whole yet is copied to its connection.

mod opening;
mod returning;

use std::collections::{HashSet, VecDeque};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::cli::bench::checker::{Checker, Ledger, new_histogram};
use crate::cli::bench::error::BenchError;
use crate::cli::bench::progress::{Progress, Stall};
use crate::cli::bench::publisher::Publisher;
use crate::cli::bench::session::{Around, Echoes, Fault, Request, Session};
use crate::cli::bench::sockets::{self, Ending, Event, Io, Received, Sockets};
use returning::Returns;

/// How long the publishing connection may take to come up.
const PUBLISHER_WAIT: Duration = Duration::from_secs(10);
/// The longest sleep: progress and limits are looked at between sleeps.
const SLEEP_NANOS_MAX: u64 = 100_000_000;
/// How soon the publisher's socket is tried again when it had no room.
const PUBLISHER_RETRY_NANOS: u64 = 1_000_000;

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
    session: Session,
    /// Received, not yet whole.
    carry: Vec<u8>,
    /// When it was meant to be opened.
    opened: u64,
    /// It is not read.
    paused: bool,
}

impl Connection {
    /// Reads the whole units that there are now, and keeps what is not whole yet.
    fn read(&mut self, bytes: &[u8], around: &mut Around<'_>) -> Result<(), Fault> {
        if self.carry.is_empty() {
            let used = self.session.read(bytes, around)?;
            self.carry.extend_from_slice(&bytes[used..]);
        } else {
            self.carry.extend_from_slice(bytes);
            let used = self.session.read(&self.carry, around)?;
            self.carry.drain(..used);
        }
        Ok(())
    }
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
    sockets: Box<dyn Sockets>,
    address: SocketAddr,
    ending: Ending,
    /// The first ones may stop reading.
    aside: usize,
    request: Request,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    out: Vec<u8>,
    opened: u64,
    opening: usize,
    ready: VecDeque<usize>,
    pub checker: Checker,
    pub echoes: Echoes,
    /// From connect to subscribed.
    pub connect_latency: Histogram<u64>,
    publisher: Option<Publisher>,
    /// What the connections had received that the server closed during the load.
    departed: Vec<Ledger>,
    fault: Option<Fault>,
    pub returns: Returns,
    ends_at: u64,
    bounds: Bounds,
    pub progress: Progress,
}

impl Fleet {
    /// For `count` connections at a time, which end by resets.
    pub fn new(
        io: Io,
        count: usize,
        address: SocketAddr,
        request: Request,
        checker: Checker,
        bounds: Bounds,
    ) -> Result<Self, BenchError> {
        Ok(Self {
            sockets: sockets::new(io, count)?,
            clock: Clock::start(),
            address,
            ending: Ending::Reset,
            aside: 0,
            request,
            connections: Vec::new(),
            free: Vec::new(),
            out: Vec::new(),
            opened: 0,
            opening: 0,
            ready: VecDeque::new(),
            checker,
            echoes: Echoes::new(),
            connect_latency: new_histogram(),
            publisher: None,
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
        self.sockets.watch(socket.as_fd())?;
        let Request { dialect, host, .. } = &self.request;
        self.publisher = Some(Publisher::new(socket, *dialect, &self.checker, host, api_key));
        Ok(())
    }

    /// Closes that connection.
    pub fn close_publisher(&mut self) {
        if let Some(publisher) = self.publisher.take() {
            self.sockets.unwatch(publisher.socket());
        }
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
        self.with_session(index, |connection, around, _| {
            connection.session.send_echo(intended, around);
            Ok(())
        });
        self.send(index)
    }

    /// Connections that the server closed during the load, and the last reason it gave.
    pub fn closed(&self) -> (u64, Option<Fault>) {
        (self.departed.len() as u64, self.fault)
    }

    /// Connections end as clients end them, from now on.
    pub fn end_as_clients_do(&mut self) {
        self.ending = Ending::Close;
    }

    /// Sets the first `count` connections aside, which are not open yet: they may miss some.
    pub fn set_aside(&mut self, count: usize) {
        self.aside = count;
    }

    /// Stops reading the first `count` of those set aside; reads the others.
    pub fn pause_aside(&mut self, count: usize) -> Result<(), BenchError> {
        for index in 0..self.aside.min(self.connections.len()) {
            if let Some(connection) = &mut self.connections[index] {
                connection.paused = index < count;
                self.sockets.pause(index, connection.paused)?;
            }
        }
        Ok(())
    }

    fn aside(&self) -> impl Iterator<Item = (usize, &Connection)> {
        let aside = self.connections.iter().enumerate().take(self.aside);
        aside.filter_map(|(index, place)| Some((index, place.as_ref()?)))
    }

    /// How many of those set aside are not at the last publication.
    pub fn aside_behind(&self) -> usize {
        let is_behind = |ledger: &Ledger| !ledger.is_at(self.checker.last_offset(ledger).unwrap_or(0));
        self.aside().filter(|(_, connection)| is_behind(&connection.session.ledger)).count()
    }

    /// Where those that are not read connect from.
    pub fn paused_addresses(&self) -> Result<HashSet<SocketAddr>, BenchError> {
        let paused = self.aside().filter(|(_, connection)| connection.paused);
        paused.map(|(index, _)| self.sockets.local_address(index)).collect()
    }

    /// Deliveries that `subscribers` of each channel did not get: by count, and by place where that is more.
    pub fn missing(&self, subscribers: usize) -> u64 {
        let by_count = (self.checker.published() * subscribers as u64).saturating_sub(self.checker.tally.deliveries);
        let present = self.connections.iter().flatten().map(|connection| &connection.session.ledger);
        by_count.max(present.chain(&self.departed).map(|ledger| self.checker.missing(ledger)).sum())
    }

    /// Deliveries that connections will never get, as the server has closed them.
    pub fn missed(&self) -> u64 {
        self.departed.iter().map(|ledger| self.checker.missed(ledger)).sum()
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
        let until = if self.flush_publisher()? { until } else { until.min(now + PUBLISHER_RETRY_NANOS) };
        self.sockets.wait(Duration::from_nanos(until.saturating_sub(now).min(SLEEP_NANOS_MAX)))?;
        while let Some(event) = self.sockets.next()? {
            self.happened(event)?;
        }
        Ok(())
    }

    /// Sends what was published; false while the socket has no room for all of it.
    fn flush_publisher(&mut self) -> Result<bool, BenchError> {
        self.publisher.as_mut().map_or(Ok(true), Publisher::flush)
    }

    fn happened(&mut self, event: Event) -> Result<(), BenchError> {
        match event {
            Event::Connected(index) => {
                self.with_session(index, |connection, around, _| {
                    connection.session.open(index, around);
                    Ok(())
                });
                self.send(index)
            }
            Event::Failed(errno) => Err(BenchError::Connect(errno.into())),
            Event::Bytes(index, received) => self.read(index, received),
            Event::Ended(index) => {
                self.depart(index);
                Ok(())
            }
            Event::Watched => self.publisher.as_mut().map_or(Ok(()), |publisher| publisher.receive(&mut self.checker)),
        }
    }

    /// Gives what was received to the session.
    fn read(&mut self, index: usize, mut received: Received) -> Result<(), BenchError> {
        self.with_session(index, |connection, around, sockets| connection.read(sockets.bytes(&mut received), around));
        self.sockets.give_back(received);
        self.send(index)
    }

    /// Lets the connection's session act and notes what became of it.
    fn with_session(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Connection, &mut Around<'_>, &mut dyn Sockets) -> Result<(), Fault>,
    ) {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        let was_ready = connection.session.is_ready();
        self.out.clear();
        let now = self.clock.now();
        let mut around =
            Around { request: &self.request, checker: &mut self.checker, echoes: &mut self.echoes, now, out: &mut self.out };
        let result = act(connection, &mut around, &mut *self.sockets);
        if connection.session.is_ready() && !was_ready {
            self.opening -= 1;
            self.ready.push_back(index);
            self.connect_latency.saturating_record(now - connection.opened);
            self.returns.came(now);
        }
        match result {
            Ok(()) => {}
            Err(Fault::ComeBack { millis }) if self.returns.is_obeyed() && !was_ready => self.turned_away(index, millis, now),
            Err(fault) => {
                self.fault = Some(fault);
                self.depart(index);
            }
        }
    }

    /// The server ended this connection.
    fn depart(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index).and_then(Option::take) {
            self.sockets.end(index);
            self.departed.push(connection.session.ledger);
        }
    }

    /// Sends what the session has said.
    fn send(&mut self, index: usize) -> Result<(), BenchError> {
        if !self.out.is_empty() {
            self.sockets.send(index, &self.out)?;
            self.out.clear();
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
