//! The floor: a server that can do one thing, send the same bytes to many sockets, by the barest loop there is.
//!
//! It speaks just enough HTTP and WebSocket for `ringmain bench fan-out` to measure it as it measures ringmain: it
//! answers upgrades on `/channels/NAME`, and for each `POST /channels/NAME` it encodes one item and sends it to all
//! subscribers, by `write` (one `send` each) or by `uring` (one submission each, two thousand to an enter). The sockets
//! have ringmain's options. Subscribers are not read: a floor answers no pings and notices a closed peer when it sends.

mod http;
mod senders;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags};
use socket2::{Domain, Protocol, Socket, Type};

use http::Asked;
use senders::Sender;

const BACKLOG: i32 = 4096;
const EVENTS_MAX: usize = 256;
const RECEIVE_BYTES: usize = 64 * 1024;
const LISTENER: u64 = u64::MAX;

#[derive(Parser)]
struct Flags {
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    #[arg(long, value_enum)]
    send: SendBy,
    /// Subscribers at most.
    #[arg(long, default_value_t = 20_000)]
    sockets_max: u32,
    /// TCP congestion control; the kernel's default where it is not given.
    #[arg(long)]
    congestion: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SendBy {
    /// `send(2)`, once per socket.
    Write,
    /// io_uring: direct descriptors, silent whole sends.
    Uring,
}

fn main() -> ExitCode {
    match Floor::new(&Flags::parse()).and_then(|mut floor| floor.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A connection that still talks HTTP: on its way to be a subscriber, or the publisher.
struct Talking {
    socket: OwnedFd,
    received: Vec<u8>,
}

struct Floor {
    epoll: OwnedFd,
    listener: Socket,
    talking: Vec<Option<Talking>>,
    sender: Sender,
    offset: u64,
    frame: Vec<u8>,
}

impl Floor {
    fn new(flags: &Flags) -> io::Result<Self> {
        let listener = listen(flags)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        let sender = match flags.send {
            SendBy::Write => Sender::by_write(),
            SendBy::Uring => Sender::by_uring(flags.sockets_max)?,
        };
        Ok(Self { epoll, listener, talking: Vec::new(), sender, offset: 0, frame: Vec::new() })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    index => self.receive(usize::try_from(index).unwrap_or(usize::MAX))?,
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let socket = match rustix::net::accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let index = self.talking.iter().position(Option::is_none).unwrap_or(self.talking.len());
            epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
            let talking = Some(Talking { socket, received: Vec::new() });
            match self.talking.get_mut(index) {
                Some(place) => *place = talking,
                None => self.talking.push(talking),
            }
        }
    }

    fn receive(&mut self, index: usize) -> io::Result<()> {
        let Some(Some(talking)) = self.talking.get_mut(index) else { return Ok(()) };
        let mut bytes = [0; RECEIVE_BYTES];
        match rustix::net::recv(&talking.socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET) => self.talking[index] = None,
            Ok((received, _)) => {
                talking.received.extend_from_slice(&bytes[..received]);
                self.answer(index)?;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Answers the whole requests that a connection has sent.
    fn answer(&mut self, index: usize) -> io::Result<()> {
        while let Some(Some(talking)) = self.talking.get_mut(index) {
            match http::read(&talking.received) {
                Some(Asked::Subscribe { key, channel }) => {
                    let answer = [http::upgraded(&key), http::subscribed(&channel, self.offset)].concat();
                    let talking = self.talking[index].take();
                    talking.map_or(Ok(()), |talking| self.subscribe(talking.socket, &answer))?;
                }
                Some(Asked::Publish { channel, payload, bytes }) => {
                    self.offset += 1;
                    self.frame.clear();
                    http::encode(&mut self.frame, &channel, self.offset, &talking.received[payload]);
                    self.sender.send_to_all(&self.frame)?;
                    senders::send_all(&talking.socket, &http::published(&channel, self.offset))?;
                    talking.received.drain(..bytes);
                }
                Some(Asked::Other) => self.talking[index] = None,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn subscribe(&mut self, socket: OwnedFd, answer: &[u8]) -> io::Result<()> {
        epoll::delete(&self.epoll, &socket)?;
        senders::send_all(&socket, answer)?;
        self.sender.add(socket)
    }
}

/// A listener with the options that ringmain's connections inherit from theirs.
fn listen(flags: &Flags) -> io::Result<Socket> {
    let listener = Socket::new(Domain::for_address(flags.listen), Type::STREAM, Some(Protocol::TCP))?;
    listener.set_reuse_address(true)?;
    listener.set_nonblocking(true)?;
    listener.set_tcp_nodelay(true)?;
    listener.set_tcp_notsent_lowat(16 << 10)?;
    listener.set_tcp_user_timeout(Some(Duration::from_secs(30)))?;
    listener.set_keepalive(true)?;
    if let Some(congestion) = &flags.congestion {
        listener.set_tcp_congestion(congestion.as_bytes())?;
    }
    listener.bind(&flags.listen.into())?;
    listener.listen(BACKLOG)?;
    Ok(listener)
}
