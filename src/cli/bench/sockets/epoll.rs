//! The load's sockets on epoll.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::{Event, Opening, Received, Sockets};
use crate::cli::bench::error::BenchError;

/// Few, so that what is due waits for at most this many receives.
const EVENTS_MAX: usize = 256;
const BUFFER_BYTES: usize = 64 * 1024;
/// The number of the descriptor that is watched.
const WATCHED: u64 = u64::MAX;

struct Socket {
    descriptor: OwnedFd,
    connected: bool,
    paused: bool,
    /// Not yet taken by the socket.
    outbox: Vec<u8>,
}

pub struct EpollSockets {
    epoll: OwnedFd,
    sockets: Vec<Option<Socket>>,
    events: Vec<epoll::Event>,
    /// The next of the events.
    place: usize,
    /// Still to be read, and whether to its end: there was more, of which no event will tell.
    reading: Option<(usize, bool)>,
    buffer: Vec<u8>,
}

impl EpollSockets {
    pub fn new(count: usize) -> Result<Self, BenchError> {
        check_descriptors(count)?;
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sockets: Vec::new(),
            events: Vec::with_capacity(EVENTS_MAX),
            place: 0,
            reading: None,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    fn happened(&mut self, index: usize, flags: epoll::EventFlags) -> Result<Option<Event>, BenchError> {
        let Some(Some(socket)) = self.sockets.get_mut(index) else { return Ok(None) };
        let ended = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        let to_the_end = ended || flags.contains(epoll::EventFlags::RDHUP);
        if !socket.connected {
            if let Err(errno) = sockopt::socket_error(&socket.descriptor)? {
                return Ok(Some(Event::Failed(errno)));
            }
            if !flags.contains(epoll::EventFlags::OUT) {
                return Ok(None);
            }
            socket.connected = true;
            watch(&self.epoll, socket, index)?;
            // What has come already is an event of the registration.
            return Ok(Some(Event::Connected(index)));
        }
        if flags.contains(epoll::EventFlags::OUT) {
            flush(&self.epoll, socket, index, true)?;
        }
        if socket.paused {
            return Ok(ended.then_some(Event::Ended(index)));
        }
        if to_the_end || flags.contains(epoll::EventFlags::IN) {
            self.reading = Some((index, to_the_end));
        }
        Ok(None)
    }

    /// Reads once. Goes on with it in the next call where there may be more: the end of the stream, or what had no room.
    fn read(&mut self, index: usize, to_the_end: bool) -> Result<Option<Event>, BenchError> {
        self.reading = None;
        let Some(Some(socket)) = self.sockets.get(index) else { return Ok(None) };
        match rustix::net::recv(&socket.descriptor, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET | Errno::PIPE) => Ok(Some(Event::Ended(index))),
            Ok((received, _)) => {
                self.reading = (to_the_end || received == BUFFER_BYTES).then_some((index, to_the_end));
                Ok(Some(Event::Bytes(index, Received::Buffered(received))))
            }
            Err(Errno::INTR) => {
                self.reading = Some((index, to_the_end));
                Ok(None)
            }
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Sockets for EpollSockets {
    fn open(&mut self, index: usize, opening: &Opening) -> Result<(), BenchError> {
        let descriptor = super::socket(opening).map_err(|error| BenchError::Connect(error.into()))?;
        match rustix::net::connect(&descriptor, &opening.address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(BenchError::Connect(error.into())),
        }
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &descriptor, epoll::EventData::new_u64(index as u64), interest)?;
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        self.sockets[index] = Some(Socket { descriptor, connected: false, paused: false, outbox: Vec::new() });
        Ok(())
    }

    fn send(&mut self, index: usize, bytes: &[u8]) -> Result<(), BenchError> {
        let Some(Some(socket)) = self.sockets.get_mut(index) else { return Ok(()) };
        let waited = !socket.outbox.is_empty();
        socket.outbox.extend_from_slice(bytes);
        // While some waits, the kernel tells when there is room.
        if waited { Ok(()) } else { flush(&self.epoll, socket, index, false) }
    }

    fn pause(&mut self, index: usize, paused: bool) -> Result<(), BenchError> {
        let Some(Some(socket)) = self.sockets.get_mut(index) else { return Ok(()) };
        socket.paused = paused;
        Ok(watch(&self.epoll, socket, index)?)
    }

    fn local_address(&self, index: usize) -> Result<SocketAddr, BenchError> {
        match self.sockets.get(index) {
            Some(Some(socket)) => super::address_of(&socket.descriptor),
            Some(None) | None => Err(Errno::NOTCONN.into()),
        }
    }

    fn end(&mut self, index: usize) {
        if let Some(socket) = self.sockets.get_mut(index) {
            *socket = None;
        }
    }

    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> Result<(), BenchError> {
        let interest = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, descriptor, epoll::EventData::new_u64(WATCHED), interest)?)
    }

    fn unwatch(&mut self, descriptor: BorrowedFd<'_>) {
        // It is closed next, which does the same.
        _ = epoll::delete(&self.epoll, descriptor);
    }

    fn wait(&mut self, limit: Duration) -> Result<(), BenchError> {
        let limit = if self.reading.is_some() || self.place < self.events.len() { Duration::ZERO } else { limit };
        self.events.drain(..self.place);
        self.place = 0;
        if !self.events.is_empty() {
            return Ok(());
        }
        let timeout = Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: limit.subsec_nanos().into() };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn next(&mut self) -> Result<Option<Event>, BenchError> {
        loop {
            let event = match self.reading {
                Some((index, to_the_end)) => self.read(index, to_the_end)?,
                None => {
                    let Some(&event) = self.events.get(self.place) else { return Ok(None) };
                    self.place += 1;
                    match event.data.u64() {
                        WATCHED => Some(Event::Watched),
                        token => self.happened(usize::try_from(token).unwrap_or(usize::MAX), event.flags)?,
                    }
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn bytes<'a>(&'a mut self, received: &'a mut Received) -> &'a [u8] {
        match received {
            Received::Buffered(length) => &self.buffer[..*length],
            Received::Leased(_) => &[],
        }
    }

    fn give_back(&mut self, _: Received) {}
}

/// Sends what waits, of which epoll was told where it had `waited` before.
fn flush(epoll: &OwnedFd, socket: &mut Socket, index: usize, waited: bool) -> Result<(), BenchError> {
    if socket.outbox.is_empty() {
        return Ok(());
    }
    match rustix::net::send(&socket.descriptor, &socket.outbox, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(sent) => drop(socket.outbox.drain(..sent)),
        Err(Errno::AGAIN | Errno::INTR) => {}
        // The end is an event of its own.
        Err(Errno::CONNRESET | Errno::PIPE) => socket.outbox.clear(),
        Err(error) => return Err(error.into()),
    }
    if socket.outbox.is_empty() == waited {
        watch(epoll, socket, index)?;
    }
    Ok(())
}

/// Tells epoll what the connection waits for. By edges: else the kernel looks in each wait at all that were ready in the one before,
/// and with fifteen thousand of them lets nobody else have the core for ten milliseconds.
fn watch(epoll: &OwnedFd, socket: &Socket, index: usize) -> Result<(), Errno> {
    let mut interest = epoll::EventFlags::ET | epoll::EventFlags::RDHUP;
    interest.set(epoll::EventFlags::IN, !socket.paused);
    interest.set(epoll::EventFlags::OUT, !socket.outbox.is_empty());
    epoll::modify(epoll, &socket.descriptor, epoll::EventData::new_u64(index as u64), interest)
}

/// Whether `count` connections and a few files more fit the descriptor limit.
fn check_descriptors(count: usize) -> Result<(), BenchError> {
    const OTHERS: u64 = 32;
    let needed = count as u64 + OTHERS;
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        Some(limit) if limit < needed => Err(BenchError::Descriptors { needed, limit }),
        Some(_) | None => Ok(()),
    }
}
