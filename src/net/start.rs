//! Start-up: everything that can fail is tried before the first connection is taken.
//!
//! Ports are probed and bound first, then each worker makes its ring on its own thread and shows its descriptor; with all of
//! them known, the doorbells are tried; only then does anybody listen. Where a ring cannot be had and none is insisted on, all of
//! that is done again on epoll, which has neither rings to show nor doorbells to try.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::Socket;

use super::busy::Busy;
use super::interface::{Interface, Io};
use super::loads::Loads;
use super::shell::{Shell, ShellError, Times};
use super::worker::{Bells, Clock, Parcel, SendCost, State, Worker};
use super::{cpu, epoll, listen, uring};
use crate::base::{Post, ShardId, post_office};
use crate::metrics::LoopFacts;
use crate::ring::{Features, Kind, Ring, RingError, Wait};
use crate::shard::{self, ListenerId, Shard};

/// Receive buffers of all workers together, in bytes, and their limits per worker, in buffers.
const BUFFER_BYTES_TOTAL: usize = 64 << 20;
const BUFFERS_MIN: usize = 512;
const BUFFERS_MAX: usize = 4096;
/// How long a doorbell may take in the start-up test.
const DOORBELL_TEST: Duration = Duration::from_secs(1);
/// Descriptors of the process that are no connections: for the standard streams, files that are opened in passing, accepts and
/// upstream sockets on their way; and for each worker, besides its listeners.
const DESCRIPTORS_COMMON: u64 = 32;
const DESCRIPTORS_PER_WORKER: u64 = 3;
/// Workers at most: the control thread is one more, and a worker's number has 16 bits.
const WORKERS_MAX: usize = 1024;

/// What to serve, and with what.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Public; each worker has a socket of its own on each of them (SO_REUSEPORT).
    pub listen: Vec<SocketAddr>,
    /// Takes API, metrics and health off the public ones.
    pub internal_listen: Option<SocketAddr>,
    /// The kernel interface to use.
    pub io: Io,
    /// 0: one per allowed CPU.
    pub workers: usize,
    /// Congestion control of accepted connections; `None` is the system's.
    pub congestion: Option<String>,
    /// How long a connection must have been quiet to be parked (twice that at most).
    pub quiet_after: Duration,
    /// How long a connection to an upstream may take.
    pub connect_timeout: Duration,
    /// Sizes of each worker's ring. `buffers` 0 divides a fixed budget between the workers.
    pub ring: crate::ring::Options,
    /// What all workers have in common, until a reload replaces it.
    pub shard: Arc<shard::Options>,
}

impl ServeOptions {
    /// Default sizes for a shard on these addresses.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>, shard: Arc<shard::Options>) -> Self {
        let ring = crate::ring::Options { buffers: 0, ..crate::ring::Options::default() };
        Self {
            listen,
            internal_listen: None,
            io: Io::Auto,
            workers: 0,
            congestion: None,
            quiet_after: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            ring,
            shard,
        }
    }

    fn workers(&self) -> usize {
        if self.workers == 0 { cpu::default_workers() } else { self.workers }.min(WORKERS_MAX)
    }

    fn ring(&self) -> crate::ring::Options {
        let mut ring = self.ring.clone();
        if ring.buffers == 0 {
            let share = BUFFER_BYTES_TOTAL / crate::ring::BUFFER_BYTES as usize / self.workers();
            let buffers = share.clamp(BUFFERS_MIN, BUFFERS_MAX);
            ring.buffers = u16::try_from(buffers).unwrap_or(u16::MAX);
        }
        // The limit is per user: what the first rings take, the last ones lack.
        let workers = self.workers() as u64;
        ring.locked_bytes_max = ring.locked_bytes_max.or(crate::ring::locked_bytes_limit().map(|limit| limit / workers));
        ring
    }
}

/// What came of it, for the start-up lines.
#[derive(Clone, Debug)]
pub struct Bound {
    /// In the order of [`ServeOptions::listen`], with the ports that were chosen.
    pub listen: Vec<SocketAddr>,
    /// With the port that was chosen.
    pub internal_listen: Option<SocketAddr>,
    /// Threads that serve; the control thread is one more.
    pub workers: usize,
    /// What the workers run on.
    pub interface: Interface,
}

/// Why nothing is served.
#[derive(Debug)]
pub enum ServeError {
    /// Somebody listens there already.
    InUse {
        /// As it was asked for.
        address: SocketAddr,
    },
    /// Any other refusal: a low port, an address that is not of this host, an unknown congestion control.
    Bind {
        /// As it was asked for, but for the port where any was welcome.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// One could not be made, or became unusable while it served.
    Ring {
        /// Its number, from 0.
        worker: usize,
        /// Ends with what to do about it.
        error: RingError,
    },
    /// epoll refused a worker at start, or became unusable while it served.
    Epoll {
        /// Its number, from 0.
        worker: usize,
        /// What the system said.
        error: ShellError,
    },
    /// No thread, eventfd or signal handler could be had.
    System {
        /// With its article, as in "a thread".
        what: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
    /// A worker ended without saying why.
    Worker {
        /// Its number, from 0.
        worker: usize,
    },
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { address } => write!(
                f,
                "{address} is already in use: stop the process that listens there (`ss -ltnp`), or choose another address with --listen"
            ),
            Self::Bind { address, error } => write!(f, "cannot listen on {address}: {error}"),
            Self::Ring { worker, error } => write!(f, "worker {worker}: {error}"),
            Self::Epoll { worker, error } => write!(f, "worker {worker}: {error}"),
            Self::System { what, error } => write!(f, "cannot make {what}: {error}"),
            Self::Worker { worker } => write!(f, "worker {worker} ended unexpectedly"),
        }
    }
}

impl std::error::Error for ServeError {}

impl ServeError {
    pub(super) fn of(worker: usize, error: ShellError) -> Self {
        match error {
            ShellError::Ring(error) => Self::Ring { worker, error },
            ShellError::Epoll(_) => Self::Epoll { worker, error },
        }
    }
}

/// A server at work.
pub struct Running {
    /// What it listens on and found in the kernel.
    pub bound: Bound,
    pub(super) post: Post<Parcel>,
    pub(super) bells: Bells,
    /// Where workers ring for the control thread.
    pub(super) bell: UnixStream,
    pub(super) loads: Loads,
    pub(super) threads: Vec<JoinHandle<Result<LoopFacts, ShellError>>>,
}

/// Starts all workers. They serve when this returns.
///
/// # Errors
/// When a port, a kernel interface or a thread cannot be had; then nothing runs.
pub fn start(options: &ServeOptions) -> Result<Running, ServeError> {
    raise_descriptor_limit();
    // Until all workers listen: from then on a probe finds them.
    let _claim = listen::Claim::wait(options.listen.iter().chain(&options.internal_listen).map(SocketAddr::port));
    match options.io {
        Io::Uring => start_on(options, On::Rings),
        Io::Epoll => start_on(options, On::epoll(options, None)),
        Io::Auto => match start_on(options, On::Rings) {
            Err(ServeError::Ring { error, .. }) => start_on(options, On::epoll(options, Some(error))),
            result => result,
        },
    }
}

/// The kernel interface of one attempt to start.
#[derive(Clone, Copy)]
enum On {
    Rings,
    Epoll { connections: u32, refused: Option<RingError> },
}

impl On {
    fn epoll(options: &ServeOptions, refused: Option<RingError>) -> Self {
        let listeners = options.listen.len() + usize::from(options.internal_listen.is_some());
        let limit = getrlimit(Resource::Nofile).current;
        let connections = share_of(limit, options.workers() as u64, listeners as u64).min(options.ring.files_max);
        Self::Epoll { connections, refused }
    }
}

/// Connections of each worker where all descriptors are the process's.
fn share_of(limit: Option<u64>, workers: u64, listeners: u64) -> u32 {
    let others = DESCRIPTORS_COMMON + workers * (DESCRIPTORS_PER_WORKER + listeners);
    let share = limit.unwrap_or(u64::MAX).saturating_sub(others) / workers;
    u32::try_from(share).unwrap_or(u32::MAX).max(1)
}

fn start_on(options: &ServeOptions, on: On) -> Result<Running, ServeError> {
    let workers = options.workers();
    let (mut listeners, addresses) = bind_all(options, workers)?;
    let (bell, control_bell) = make_bell()?;
    let eventfds = make_eventfds(workers, control_bell)?;
    if matches!(on, On::Epoll { .. }) {
        epoll::grow_descriptor_table(eventfds[0].as_fd());
    }
    let peers = u16::try_from(workers + 1).unwrap_or(u16::MAX);
    let mut posts = post_office::<Parcel>(peers);
    let Some(control) = posts.pop() else { return Err(ServeError::Worker { worker: 0 }) };
    let loads = Loads::new(workers);
    let clock = Clock::started_now();
    let mut started = Started { threads: Vec::new(), hands: Vec::new() };
    for (index, post) in posts.into_iter().enumerate() {
        let plan = Plan {
            index,
            workers,
            listeners: std::mem::take(&mut listeners[index]),
            ring: options.ring(),
            shard: options.shard.clone(),
            times: Times { quiet_after: options.quiet_after, connect_timeout: options.connect_timeout },
            post,
            eventfds: eventfds.clone(),
            loads: loads.clone(),
            clock,
        };
        started.spawn(plan, on)?;
    }
    let interface = match started.meet(on) {
        Ok(interface) => interface,
        Err(error) => {
            // A ring is refused before anybody serves.
            if matches!(error, ServeError::Ring { .. }) {
                started.wait_for_the_end();
            }
            return Err(error);
        }
    };
    let Started { threads, .. } = started;
    let internal_listen = options.internal_listen.and(addresses.last().copied());
    let listen = addresses[..options.listen.len()].to_vec();
    let bound = Bound { listen, internal_listen, workers, interface };
    Ok(Running { bound, post: control, bells: Bells { rings: None, eventfds }, bell, loads, threads })
}

impl Running {
    /// Connections of each worker now, those included that are being opened or closed.
    #[must_use]
    pub fn connections(&self) -> Vec<u32> {
        (0..self.loads.len()).map(|worker| self.loads.connections(worker)).collect()
    }
}

/// Direct descriptors are limited by the soft limit on open files; the hard one is ours to use.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

type Listeners = Vec<(Socket, ListenerId, SocketAddr)>;

/// Binds every address once per worker. A port of 0 is chosen once.
fn bind_all(options: &ServeOptions, workers: usize) -> Result<(Vec<Listeners>, Vec<SocketAddr>), ServeError> {
    let public = options.listen.iter().map(|&address| (address, ListenerId::Public));
    let internal = options.internal_listen.iter().map(|&address| (address, ListenerId::Internal));
    let mut listeners: Vec<Listeners> = (0..workers).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for (mut address, id) in public.chain(internal) {
        if address.port() != 0 {
            listen::probe(address).map_err(|error| bind_error(address, error))?;
        }
        for of_worker in &mut listeners {
            let socket = listen::bind(address, options.congestion.as_deref()).map_err(|error| bind_error(address, error))?;
            let bound = socket.local_addr().map_err(|error| bind_error(address, error))?;
            address = bound.as_socket().unwrap_or(address);
            of_worker.push((socket, id, address));
        }
        addresses.push(address);
    }
    Ok((listeners, addresses))
}

fn bind_error(address: SocketAddr, error: std::io::Error) -> ServeError {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => ServeError::InUse { address },
        _ => ServeError::Bind { address, error },
    }
}

/// The control thread's bell: its own end, and the one that workers write to.
fn make_bell() -> Result<(UnixStream, OwnedFd), ServeError> {
    let failed = |error| ServeError::System { what: "the control thread's bell", error };
    let (own, theirs) = UnixStream::pair().map_err(failed)?;
    own.set_nonblocking(true).map_err(failed)?;
    theirs.set_nonblocking(true).map_err(failed)?;
    Ok((own, theirs.into()))
}

/// One eventfd per worker, and the control thread's bell behind them.
fn make_eventfds(workers: usize, control_bell: OwnedFd) -> Result<Arc<[OwnedFd]>, ServeError> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let mut eventfds = Vec::with_capacity(workers + 1);
    for _ in 0..workers {
        let eventfd = eventfd(0, flags).map_err(|error| ServeError::System { what: "an eventfd", error: error.into() })?;
        eventfds.push(eventfd);
    }
    eventfds.push(control_bell);
    Ok(eventfds.into())
}

/// What a worker tells the starting thread, in this order. On epoll it begins with `Listening`.
enum Report {
    Ring(OwnedFd, Features),
    Refused(ShellError),
    Heard(bool),
    Listening,
    NoListen(SocketAddr, std::io::Error),
}

/// What a worker is told: all rings, then whether doorbells work.
enum Order {
    Peers(Arc<[OwnedFd]>),
    Go { ring_doorbells: bool },
}

/// The workers started so far, and the lines to them.
struct Started {
    threads: Vec<JoinHandle<Result<LoopFacts, ShellError>>>,
    hands: Vec<(mpsc::Sender<Order>, mpsc::Receiver<Report>)>,
}

impl Started {
    fn spawn(&mut self, plan: Plan, on: On) -> Result<(), ServeError> {
        let (orders, to_worker) = mpsc::channel();
        let (from_worker, reports) = mpsc::channel();
        let line = Line { orders: to_worker, reports: from_worker };
        let thread = std::thread::Builder::new()
            .name(format!("worker-{}", plan.index))
            .spawn(move || match on {
                On::Rings => plan.run_on_ring(&line),
                On::Epoll { connections, .. } => plan.run_on_epoll(connections, &line),
            })
            .map_err(|error| ServeError::System { what: "a thread", error })?;
        self.threads.push(thread);
        self.hands.push((orders, reports));
        Ok(())
    }

    /// Walks all workers through start-up together. When one fails, dropping the lines ends the others.
    fn meet(&mut self, on: On) -> Result<Interface, ServeError> {
        let interface = match on {
            On::Rings => self.meet_by_rings()?,
            On::Epoll { connections, refused } => Interface::Epoll { connections, refused },
        };
        let ring_doorbells = matches!(interface, Interface::Uring { ring_doorbells: true, .. });
        self.order(|| Order::Go { ring_doorbells });
        for (worker, report) in self.reports() {
            match report? {
                Report::Listening => {}
                Report::NoListen(address, error) => return Err(bind_error(address, error)),
                Report::Refused(error) => return Err(ServeError::of(worker, error)),
                Report::Ring(..) | Report::Heard(_) => return Err(ServeError::Worker { worker }),
            }
        }
        Ok(interface)
    }

    /// Shows every worker all rings, and learns whether they can wake each other.
    fn meet_by_rings(&mut self) -> Result<Interface, ServeError> {
        let mut rings = Vec::new();
        let mut first: Option<Features> = None;
        for (worker, report) in self.reports() {
            match report? {
                Report::Ring(ring, features) => {
                    rings.push(ring);
                    let shrunk = features.shrunk;
                    first.get_or_insert(features).shrunk |= shrunk;
                }
                Report::Refused(error) => return Err(ServeError::of(worker, error)),
                Report::Heard(_) | Report::Listening | Report::NoListen(..) => return Err(ServeError::Worker { worker }),
            }
        }
        let rings: Arc<[OwnedFd]> = rings.into();
        self.order(|| Order::Peers(rings.clone()));
        let mut ring_doorbells = true;
        for (worker, report) in self.reports() {
            match report? {
                Report::Heard(heard) => ring_doorbells &= heard,
                Report::Refused(error) => return Err(ServeError::of(worker, error)),
                Report::Ring(..) | Report::Listening | Report::NoListen(..) => return Err(ServeError::Worker { worker }),
            }
        }
        first.map(|features| Interface::Uring { features, ring_doorbells }).ok_or(ServeError::Worker { worker: 0 })
    }

    /// After a failure: ends those that wait, and returns when nothing of them is left. Their ports can be bound again then.
    fn wait_for_the_end(self) {
        drop(self.hands);
        for thread in self.threads {
            let _ = thread.join();
        }
    }

    /// The next report of each worker.
    fn reports(&self) -> impl Iterator<Item = (usize, Result<Report, ServeError>)> {
        self.hands
            .iter()
            .enumerate()
            .map(|(worker, (_, reports))| (worker, reports.recv().map_err(|mpsc::RecvError| ServeError::Worker { worker })))
    }

    fn order(&self, order: impl Fn() -> Order) {
        for (orders, _) in &self.hands {
            // A worker that is gone is found out by its missing report.
            let _ = orders.send(order());
        }
    }
}

/// A worker's end of the line.
struct Line {
    orders: mpsc::Receiver<Order>,
    reports: mpsc::Sender<Report>,
}

/// What a worker needs to become one.
struct Plan {
    index: usize,
    workers: usize,
    listeners: Listeners,
    ring: crate::ring::Options,
    shard: Arc<shard::Options>,
    times: Times,
    post: Post<Parcel>,
    eventfds: Arc<[OwnedFd]>,
    loads: Loads,
    clock: Clock,
}

impl Plan {
    /// Start-up on the worker's own thread, then the work. Ends quietly when the starting thread gives up.
    fn run_on_ring(self, line: &Line) -> Result<LoopFacts, ShellError> {
        cpu::pin(self.index);
        let mut ring = match self.make_ring() {
            Ok((ring, descriptor)) => {
                let _ = line.reports.send(Report::Ring(descriptor, ring.features().clone()));
                ring
            }
            Err(error) => {
                let _ = line.reports.send(Report::Refused(error.into()));
                return Err(error.into());
            }
        };
        let Ok(Order::Peers(rings)) = line.orders.recv() else { return Ok(LoopFacts::default()) };
        let heard = self.test_doorbell(&mut ring, &rings);
        let _ = line.reports.send(heard.map_or_else(|error| Report::Refused(error.into()), Report::Heard));
        let Ok(Order::Go { ring_doorbells }) = line.orders.recv() else { return Ok(LoopFacts::default()) };
        if !self.listen(line) {
            return Ok(LoopFacts::default());
        }
        self.into_worker_on_ring(ring, rings, ring_doorbells).run()
    }

    /// The same, where there is nothing to show to each other.
    fn run_on_epoll(self, connections: u32, line: &Line) -> Result<LoopFacts, ShellError> {
        cpu::pin(self.index);
        self.loads.set_capacity(self.index, connections);
        // Only when all have said how much room they have: a fresh connection may be handed over.
        let Ok(Order::Go { .. }) = line.orders.recv() else { return Ok(LoopFacts::default()) };
        let epoll = match epoll::create() {
            Ok(epoll) => epoll,
            Err(error) => {
                let _ = line.reports.send(Report::Refused(error.into()));
                return Ok(LoopFacts::default());
            }
        };
        if !self.listen(line) {
            return Ok(LoopFacts::default());
        }
        self.into_worker_on_epoll(epoll, connections).run()
    }

    /// Listens at all addresses, and says so. False where that is refused.
    fn listen(&self, line: &Line) -> bool {
        for (socket, _, address) in &self.listeners {
            if let Err(error) = listen::listen(socket) {
                let _ = line.reports.send(Report::NoListen(*address, error));
                return false;
            }
        }
        line.reports.send(Report::Listening).is_ok()
    }

    fn make_ring(&self) -> Result<(Ring, OwnedFd), RingError> {
        let ring = Ring::new(&self.ring)?;
        self.loads.set_capacity(self.index, ring.features().files);
        let descriptor = ring.as_fd().try_clone_to_owned();
        let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(0);
        let descriptor = descriptor.map_err(|error| RingError::Missing { feature: "a free descriptor", errno: errno(error) })?;
        Ok((ring, descriptor))
    }

    /// Rings the next worker and waits to be rung by the one before. True when that works on this kernel.
    fn test_doorbell(&self, ring: &mut Ring, rings: &[OwnedFd]) -> Result<bool, RingError> {
        if rings.len() < 2 {
            return Ok(true);
        }
        let next = (self.index + 1) % rings.len();
        ring.ring_doorbell(rings[next].as_fd(), u32::try_from(next).unwrap_or(0));
        let end = Instant::now() + DOORBELL_TEST;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            ring.enter(if left.is_zero() { Wait::No } else { Wait::AtMost(left) })?;
            while let Some(completion) = ring.pop() {
                match completion.token.kind {
                    Kind::Doorbell => return Ok(true),
                    Kind::DoorbellFailed => return Ok(false),
                    _ => {}
                }
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    fn into_worker_on_ring(mut self, ring: Ring, rings: Arc<[OwnedFd]>, ring_doorbells: bool) -> Worker<uring::Sockets> {
        let listeners = std::mem::take(&mut self.listeners).into_iter();
        let listeners =
            listeners.map(|(socket, id, address)| uring::Listener::new(socket.into(), id, listen::family_of(address))).collect();
        let peers = uring::Peers { me: self.index, rings: rings.clone(), loads: self.loads.clone() };
        let sockets = uring::Sockets::new(ring, listeners, peers, self.times);
        self.into_worker(sockets, ring_doorbells.then_some(rings), "uring")
    }

    fn into_worker_on_epoll(mut self, epoll: OwnedFd, connections: u32) -> Worker<epoll::Sockets> {
        let listeners = std::mem::take(&mut self.listeners).into_iter();
        let listeners = listeners.map(|(socket, id, _)| epoll::Listener::new(socket.into(), id)).collect();
        let place = epoll::Place { me: self.index, connections, loads: self.loads.clone() };
        let sockets = epoll::Sockets::new(epoll, listeners, place, self.times);
        self.into_worker(sockets, None, "epoll")
    }

    fn into_worker<S: Shell>(self, mut shell: S, rings: Option<Arc<[OwnedFd]>>, io: &'static str) -> Worker<S> {
        let id = ShardId(u16::try_from(self.index).unwrap_or(u16::MAX));
        let shards = u16::try_from(self.workers).unwrap_or(u16::MAX);
        let seed = getrandom::u64().unwrap_or(self.clock.monotonic().0);
        let now = self.clock.now();
        let process = &mut shell.facts().process;
        process.start_ms = now.wall.0.saturating_sub(now.monotonic.0 / 1_000_000);
        process.io = io;
        Worker {
            id,
            shard: Shard::new(id, shards, self.shard, seed, now),
            shell,
            post: self.post,
            bells: Bells { rings, eventfds: self.eventfds },
            clock: self.clock,
            state: State::Serving,
            cost: SendCost::default(),
            more_fan_out: false,
            inputs: 0,
            busy: Busy::default(),
            turn_time: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_descriptors_of_the_process() {
        assert_eq!(share_of(Some(1024), 2, 1), (1024 - 32 - 2 * 4) / 2);
        assert_eq!(share_of(Some(20), 4, 2), 1, "too few for anything: connections wait their turn");
        assert_eq!(share_of(None, 3, 1), u32::MAX);
    }
}
