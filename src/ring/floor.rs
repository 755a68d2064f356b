//! The floor for fan-out: what the kernel takes to send the same bytes to many sockets through a ring, and nothing else.
//!
//! No queues, timers, receives or connection state: only the benches use it, to say how far [`super::Ring`] with
//! everything above it is from a bare loop. It has the same ring flags, direct descriptors and silent whole sends.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::types::Fixed;
use io_uring::{IoUring, opcode, squeue};

const SQ_ENTRIES: u32 = 4096;
const CQ_ENTRIES: u32 = 65_536;
/// Sends between two enters.
const SENDS_PER_ENTER: usize = 2000;
const ENTER_GETEVENTS: u32 = 1;

/// A ring that knows one thing: to send a frame to sockets.
pub struct FloorRing {
    ring: IoUring,
    /// What is being sent. Never freed: should an enter fail, the kernel may still read it.
    frame: ManuallyDrop<Vec<u8>>,
    /// An enter failed, and submissions that point to `frame` may be left: it must not change any more.
    failed: bool,
}

/// A socket that did not take the whole frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// As given to [`FloorRing::adopt`].
    pub slot: u32,
    /// Where [`FloorRing::finish`] has to go on from, if there is anything to finish.
    pub sent: Sent,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
/// How far a refused send came.
pub enum Sent {
    /// Fewer bytes than the frame has (0: the socket was full).
    Part(usize),
    /// The connection is gone.
    Gone,
}

impl FloorRing {
    /// A ring for the calling thread, with room for `sockets_max` sockets.
    ///
    /// # Errors
    /// What `io_uring_setup` or the registration of the descriptor table says.
    pub fn new(sockets_max: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_cqsize(CQ_ENTRIES)
            .setup_clamp()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_no_sqarray()
            .build(SQ_ENTRIES)?;
        ring.submitter().register_files_sparse(sockets_max)?;
        Ok(Self { ring, frame: ManuallyDrop::new(Vec::new()), failed: false })
    }

    /// Moves a socket into the table of direct descriptors; its ordinary descriptor is closed.
    ///
    /// # Errors
    /// When `slot` is outside of the table.
    pub fn adopt(&mut self, slot: u32, socket: &OwnedFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(slot, &[socket.as_raw_fd()]).map(|_| ())
    }

    /// Sends `frame` to each of `slots` once, and reports those that did not take all of it.
    ///
    /// # Errors
    /// When the kernel refuses an enter. The ring is of no use after that.
    pub fn send_to_all(&mut self, slots: &[u32], frame: &[u8], refused: &mut Vec<Refusal>) -> io::Result<()> {
        self.load(frame)?;
        let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        for batch in slots.chunks(SENDS_PER_ENTER) {
            self.push(batch, 0, flags, squeue::Flags::SKIP_SUCCESS);
            self.enter(0)?;
            self.read_refusals(refused);
        }
        Ok(())
    }

    /// Sends the rest of the last frame, from byte `from`, waiting until the socket took it; false when it is gone.
    ///
    /// # Errors
    /// When the kernel refuses an enter.
    pub fn finish(&mut self, slot: u32, from: usize) -> io::Result<bool> {
        self.check()?;
        self.push(&[slot], from.min(self.frame.len()), libc::MSG_WAITALL | libc::MSG_NOSIGNAL, squeue::Flags::empty());
        loop {
            self.enter(1)?;
            if let Some(completion) = self.ring.completion().next() {
                return Ok(completion.result() >= 0);
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.failed { Err(io::Error::from(io::ErrorKind::BrokenPipe)) } else { Ok(()) }
    }

    fn load(&mut self, frame: &[u8]) -> io::Result<()> {
        self.check()?;
        self.frame.clear();
        self.frame.extend_from_slice(frame);
        Ok(())
    }

    /// Queues sends of `frame[from..]`; at most [`SENDS_PER_ENTER`], and every push is followed by an enter that empties
    /// the queue, so there is room.
    fn push(&mut self, slots: &[u32], from: usize, flags: i32, entry_flags: squeue::Flags) {
        let bytes = &self.frame[from..];
        let (start, length) = (bytes.as_ptr(), u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let mut queue = self.ring.submission();
        for &slot in slots {
            let entry = opcode::Send::new(Fixed(slot), start, length).flags(flags).build();
            let entry = entry.flags(entry_flags).user_data(u64::from(slot));
            // SAFETY: `start` and `length` are `frame`'s, which is replaced or changed only in `load`: after
            // `send_to_all` or `finish` returned with all their sends finished, never once an enter failed.
            // A send with DONTWAIT is finished when its enter returns; one without is waited for in `finish`.
            let pushed = unsafe { queue.push(&entry) };
            debug_assert!(pushed.is_ok(), "the queue has room for a batch");
        }
    }

    /// Enters until the kernel consumed all submissions.
    fn enter(&mut self, wait_for: u32) -> io::Result<()> {
        loop {
            let left = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
            // SAFETY: no argument is passed; what the entries point to is upheld in `push`.
            match unsafe { self.ring.submitter().enter::<libc::sigset_t>(left, wait_for, ENTER_GETEVENTS, None) } {
                Ok(consumed) if consumed >= left as usize => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
            }
        }
    }

    fn read_refusals(&mut self, refused: &mut Vec<Refusal>) {
        refused.extend(self.ring.completion().map(|completion| Refusal {
            slot: u32::try_from(completion.user_data()).unwrap_or(u32::MAX),
            sent: match completion.result() {
                part @ 0.. => Sent::Part(usize::try_from(part).unwrap_or(0)),
                error if error == -libc::EAGAIN => Sent::Part(0),
                _ => Sent::Gone,
            },
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn ring(sockets: u32) -> (FloorRing, Vec<UnixStream>) {
        let mut ring = FloorRing::new(sockets).expect("io_uring");
        let peers = (0..sockets).map(|slot| {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            ring.adopt(slot, &ours.into()).expect("a slot");
            theirs
        });
        let peers = peers.collect();
        (ring, peers)
    }

    #[test]
    fn every_socket_gets_every_frame_whole() {
        let (mut ring, peers) = ring(100);
        let slots: Vec<u32> = (0..100).cycle().take(5000).collect();
        let mut refused = Vec::new();
        ring.send_to_all(&slots, b"0123456789", &mut refused).expect("a live ring");
        assert_eq!(refused, []);
        for mut peer in peers {
            let mut bytes = [0; 500];
            peer.read_exact(&mut bytes).expect("50 frames");
            assert!(bytes.chunks(10).all(|frame| frame == b"0123456789"));
        }
    }

    #[test]
    fn a_full_socket_and_a_dead_one_are_reported() {
        let (mut ring, mut peers) = ring(2);
        drop(peers.remove(1));
        let frame = vec![b'x'; 4 << 20];
        let mut refused = Vec::new();
        ring.send_to_all(&[0, 1], &frame, &mut refused).expect("a live ring");
        let Some(&Refusal { slot: 0, sent: Sent::Part(part) }) = refused.iter().find(|refusal| refusal.slot == 0) else {
            panic!("{refused:?}")
        };
        assert!(part < frame.len());
        assert!(refused.contains(&Refusal { slot: 1, sent: Sent::Gone }));
        let mut peer = peers.remove(0);
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 4 << 20];
            peer.read_exact(&mut bytes).map(|()| bytes)
        });
        assert!(ring.finish(0, part).expect("a live ring"));
        assert_eq!(reader.join().expect("no panic").expect("the whole frame"), frame);
    }
}
