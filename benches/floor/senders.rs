//! The two bare loops.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use ringmain::ring::floor::{FloorRing, Refusal, Sent};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;

/// All subscribers, and the way they are sent to.
pub enum Sender {
    Write { sockets: Vec<OwnedFd> },
    Uring { ring: Box<FloorRing>, slots: Vec<u32>, refused: Vec<Refusal> },
}

impl Sender {
    pub fn by_write() -> Self {
        Self::Write { sockets: Vec::new() }
    }

    pub fn by_uring(sockets_max: u32) -> io::Result<Self> {
        let ring = Box::new(FloorRing::new(sockets_max)?);
        Ok(Self::Uring { ring, slots: Vec::new(), refused: Vec::new() })
    }

    pub fn add(&mut self, socket: OwnedFd) -> io::Result<()> {
        match self {
            Self::Write { sockets } => sockets.push(socket),
            Self::Uring { ring, slots, .. } => {
                // A slot whose socket is gone stays unused: a floor serves one run.
                let slot = slots.last().map_or(0, |last| last + 1);
                ring.adopt(slot, &socket)?;
                slots.push(slot);
            }
        }
        Ok(())
    }

    /// Sends the frame to all. A full socket is waited for: a floor has no queues.
    pub fn send_to_all(&mut self, frame: &[u8]) -> io::Result<()> {
        match self {
            Self::Write { sockets } => {
                write_to_all(sockets, frame);
                Ok(())
            }
            Self::Uring { ring, slots, refused } => {
                refused.clear();
                ring.send_to_all(slots, frame, refused)?;
                for refusal in refused.iter() {
                    let lives = match refusal.sent {
                        Sent::Part(bytes) => ring.finish(refusal.slot, bytes)?,
                        Sent::Gone => false,
                    };
                    if !lives {
                        slots.retain(|&slot| slot != refusal.slot);
                    }
                }
                Ok(())
            }
        }
    }
}

fn write_to_all(sockets: &mut Vec<OwnedFd>, frame: &[u8]) {
    sockets.retain(|socket| match rustix::net::send(socket, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(sent) if sent == frame.len() => true,
        Ok(sent) => send_all(socket, &frame[sent..]).is_ok(),
        Err(Errno::AGAIN) => send_all(socket, frame).is_ok(),
        Err(_) => false,
    });
}

/// Sends all of `bytes`, waiting for the socket where it is full.
pub fn send_all(socket: &impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::AGAIN) => {
                rustix::event::poll(&mut [PollFd::new(socket, PollFlags::OUT)], None)?;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
