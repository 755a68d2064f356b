//! The batch table: frames that the kernel may still read, until the completion queue has told how each send went.
//!
//! A silent send completes inside the enter that consumes it and says nothing when all bytes were taken. So a send is known
//! to have succeeded only when the whole completion queue has been read after that enter: until then its frames stay here.

use std::collections::VecDeque;

use crate::base::{ConnId, Frames};

/// Pieces gathered into one send at most; what is beyond comes back as not taken.
pub const GATHER_MAX: usize = 64;

/// A send that the kernel did not take whole. The frames come back for the caller to keep.
#[derive(Debug)]
pub struct Refused {
    /// Whose send it was, as of the push.
    pub conn: ConnId,
    /// All that the send had, those that were taken included.
    pub frames: Frames,
    /// Bytes of the first frame that were left out.
    pub skip: u32,
    /// Bytes taken, or the errno of a connection that is broken.
    pub outcome: Result<u32, i32>,
    /// The socket took all it was offered, which was only the first [`GATHER_MAX`] pieces: it may well take more.
    pub cut: bool,
}

struct InFlight {
    conn: ConnId,
    frames: Frames,
    skip: u32,
    /// What was offered: all frames but the first `skip` bytes, at most [`GATHER_MAX`] pieces.
    offered: u32,
    /// Offered less than all: even a silent success leaves a rest.
    cut: bool,
    /// The number of its submission.
    submission: u32,
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// Nothing heard: taken whole, once everything has been read.
    Silent,
    Short(u32),
    Broken(i32),
}

/// Sends between push and release, oldest first.
#[derive(Default)]
pub struct Sends {
    in_flight: VecDeque<InFlight>,
    /// Some of them offer only a part, which nothing but their release will tell.
    any_cut: bool,
    /// The number of the oldest one; numbers wrap.
    first: u32,
    /// One bit per slot: has a send in this table.
    busy: Vec<u64>,
}

impl Sends {
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// The number that the next send will have.
    pub fn next_number(&self) -> u32 {
        self.first.wrapping_add(u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX))
    }

    /// Whether the connection has a send in the table: then another one could overtake the rest of the first.
    pub fn is_busy(&self, conn: ConnId) -> bool {
        self.busy.get(conn.slot as usize / 64).is_some_and(|word| word & bit(conn.slot) != 0)
    }

    /// Takes the frames of a send into the table.
    ///
    /// # Panics
    /// When the connection already has one there: the one thing that would tear its stream.
    pub fn add(&mut self, conn: ConnId, frames: Frames, skip: u32, submission: u32) {
        assert!(!self.is_busy(conn), "two sends of one connection in one submission");
        let word = conn.slot as usize / 64;
        if self.busy.len() <= word {
            self.busy.resize(word + 1, 0);
        }
        self.busy[word] |= bit(conn.slot);
        let pieces = frames.as_slice();
        let cut = pieces.len() > GATHER_MAX;
        self.any_cut |= cut;
        let bytes: usize = pieces.iter().take(GATHER_MAX).map(|frame| frame.blob.len()).sum();
        let offered = u32::try_from(bytes).unwrap_or(u32::MAX).saturating_sub(skip);
        self.in_flight.push_back(InFlight { conn, frames, skip, offered, cut, submission, outcome: Outcome::Silent });
    }

    /// Whether a release will hand something back that no completion announces: then an enter must not wait for one.
    pub const fn any_cut(&self) -> bool {
        self.any_cut
    }

    /// The pieces of the newest send, without the skipped bytes.
    pub fn newest_parts(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let (frames, skip) = match self.in_flight.back() {
            Some(send) => (send.frames.as_slice(), send.skip as usize),
            None => (&[][..], 0),
        };
        let count = frames.len().min(GATHER_MAX);
        frames[..count].iter().enumerate().map(move |(index, frame)| {
            let from = if index == 0 { skip.min(frame.blob.len()) } else { 0 };
            &frame.blob[from..]
        })
    }

    /// Bytes that the newest send offers.
    pub fn newest_bytes(&self) -> usize {
        self.in_flight.back().map_or(0, |send| send.offered as usize)
    }

    /// Notes a completion of send `number`. False when there is no such send.
    pub fn heard(&mut self, number: u32, of: impl Fn(ConnId) -> bool, result: i32) -> bool {
        let Some(send) = self.in_flight.get_mut(number.wrapping_sub(self.first) as usize) else { return false };
        if !of(send.conn) {
            return false;
        }
        send.outcome = match u32::try_from(result) {
            Ok(taken) => Outcome::Short(taken),
            Err(_) if is_no_room(-result) => Outcome::Short(0),
            Err(_) => Outcome::Broken(-result),
        };
        true
    }

    /// Releases every send that the kernel has consumed, after the completion queue was read to its end. The refused ones go
    /// to `refused`; returns sends and bytes taken.
    pub fn release(&mut self, consumed: u32, refused: &mut VecDeque<Refused>) -> (u64, u64) {
        let (mut sends, mut bytes) = (0, 0);
        while let Some(send) = self.in_flight.front() {
            // Submission numbers wrap; at most a queue's worth is ever outstanding.
            if consumed.wrapping_sub(send.submission).wrapping_sub(1) >= u32::MAX / 2 {
                break;
            }
            let Some(send) = self.in_flight.pop_front() else { break };
            self.first = self.first.wrapping_add(1);
            self.busy[send.conn.slot as usize / 64] &= !bit(send.conn.slot);
            sends += 1;
            let outcome = match send.outcome {
                Outcome::Silent if !send.cut => {
                    bytes += u64::from(send.offered);
                    continue;
                }
                Outcome::Silent => Ok(send.offered),
                Outcome::Short(taken) => Ok(taken),
                Outcome::Broken(errno) => Err(errno),
            };
            bytes += u64::from(outcome.unwrap_or(0));
            let cut = send.outcome == Outcome::Silent;
            refused.push_back(Refused { conn: send.conn, frames: send.frames, skip: send.skip, outcome, cut });
        }
        self.any_cut &= !self.in_flight.is_empty();
        (sends, bytes)
    }
}

/// Errors after which the connection is as whole as before: no room now, or no memory now.
#[must_use]
pub fn is_no_room(errno: i32) -> bool {
    matches!(errno, libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM)
}

const fn bit(slot: u32) -> u64 {
    1 << (slot % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Frame;

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 5 }
    }

    fn one(bytes: &[u8]) -> Frames {
        Frames::One(Frame::reply(bytes))
    }

    #[test]
    fn silence_is_success_and_a_refusal_brings_the_frames_back() {
        let mut sends = Sends::default();
        let mut refused = VecDeque::new();
        let number = sends.next_number();
        sends.add(conn(1), one(b"abc"), 1, 0);
        sends.add(conn(2), one(b"defg"), 0, 1);
        assert!(sends.heard(number.wrapping_add(1), |of| of == conn(2), 3));
        assert_eq!(sends.release(2, &mut refused), (2, 5));
        let Refused { conn: of, frames, outcome, .. } = refused.pop_front().expect("the short one");
        assert_eq!((of, frames, outcome), (conn(2), one(b"defg"), Ok(3)));
        assert!(refused.is_empty() && sends.is_empty() && !sends.is_busy(conn(1)));
    }

    #[test]
    fn what_the_kernel_has_not_consumed_is_not_released() {
        let mut sends = Sends::default();
        let mut refused = VecDeque::new();
        sends.add(conn(1), one(b"a"), 0, u32::MAX);
        sends.add(conn(2), one(b"b"), 0, 0);
        assert_eq!(sends.release(0, &mut refused), (1, 1), "numbers wrap");
        assert!(!sends.is_busy(conn(1)) && sends.is_busy(conn(2)));
        assert_eq!(sends.release(1, &mut refused), (1, 1));
    }

    #[test]
    #[should_panic(expected = "two sends of one connection")]
    fn a_second_send_of_a_connection_is_a_bug() {
        let mut sends = Sends::default();
        sends.add(conn(1), one(b"a"), 0, 0);
        sends.add(conn(1), one(b"b"), 0, 1);
    }

    #[test]
    fn more_pieces_than_fit_come_back_as_a_rest() {
        let mut sends = Sends::default();
        let mut refused = VecDeque::new();
        sends.add(conn(0), Frames::Many(vec![Frame::reply(&b"xy"[..]); GATHER_MAX + 1]), 1, 0);
        assert!(sends.any_cut());
        assert_eq!(sends.newest_parts().len(), GATHER_MAX);
        assert_eq!(sends.newest_parts().map(<[u8]>::len).sum::<usize>(), 2 * GATHER_MAX - 1);
        sends.release(1, &mut refused);
        assert_eq!((refused[0].outcome, refused[0].cut), (Ok(2 * GATHER_MAX as u32 - 1), true));
        assert!(!sends.any_cut());
    }

    #[test]
    fn a_full_socket_is_no_error_and_a_broken_one_is() {
        for (result, outcome) in [(-libc::EAGAIN, Ok(0)), (-libc::ENOMEM, Ok(0)), (-libc::EPIPE, Err(libc::EPIPE))] {
            let mut sends = Sends::default();
            let mut refused = VecDeque::new();
            sends.add(conn(0), one(b"a"), 0, 0);
            assert!(sends.heard(0, |_| true, result));
            sends.release(1, &mut refused);
            assert_eq!(refused[0].outcome, outcome);
        }
    }
}
