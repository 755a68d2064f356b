//! Bytes out: one send per connection and flush, all of them before the wait; what the kernel refuses goes back to the shard.

use std::io::IoSlice;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};

use super::Sockets;
use super::table::{Flags, Stage};
use crate::base::{ConnId, Frames, Now};
use crate::net::deadlines::Due;
use crate::net::room::BACKOFF_MAX;
use crate::ring::{GATHER_MAX, Refused, UNJOINED_BYTES_MIN, is_no_room};
use crate::shard::{Input, Shard};

/// A send that the next enter makes.
pub struct Outgoing {
    pub conn: ConnId,
    pub frames: Frames,
    pub skip: u32,
}

impl Outgoing {
    /// Offers it to the socket: bytes offered, and what the kernel took of them.
    fn offer(&self, socket: std::os::fd::BorrowedFd<'_>) -> (usize, Result<usize, Errno>) {
        let skip = self.skip as usize;
        let frames = match self.frames.as_slice() {
            [frame] => {
                let bytes = &frame.blob[skip.min(frame.blob.len())..];
                return (bytes.len(), send(socket, bytes, flags(bytes.len())));
            }
            frames => &frames[..frames.len().min(GATHER_MAX)],
        };
        let mut pieces = [IoSlice::new(&[]); GATHER_MAX];
        for (index, (piece, frame)) in pieces.iter_mut().zip(frames).enumerate() {
            let from = if index == 0 { skip.min(frame.blob.len()) } else { 0 };
            *piece = IoSlice::new(&frame.blob[from..]);
        }
        let pieces = &pieces[..frames.len()];
        let offered = pieces.iter().map(|piece| piece.len()).sum();
        (offered, sendmsg(socket, pieces, &mut SendAncillaryBuffer::default(), flags(offered)))
    }
}

/// From some size on a send must not be joined to the next one: as on a ring.
fn flags(bytes: usize) -> SendFlags {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if bytes < UNJOINED_BYTES_MIN { flags } else { flags | SendFlags::EOR }
}

impl Sockets {
    /// Makes every send that was asked for.
    pub(super) fn send_all(&mut self) {
        while let Some(outgoing) = self.outgoing.pop_front() {
            self.send(outgoing);
        }
    }

    fn send(&mut self, outgoing: Outgoing) {
        let conn = outgoing.conn;
        // Closed since it was asked for: then nothing of it is wanted any more.
        let Some(cell) = self.table.in_stage(conn, Stage::Open) else { return };
        debug_assert!(!cell.room.is_awaited(), "a send to a connection that waits for room");
        if cell.room.is_to_be_proven() {
            self.proving.push(conn);
        }
        let Some(socket) = self.table.socket(conn) else { return };
        let (offered, taken) = outgoing.offer(socket);
        let outcome = match taken {
            Ok(taken) => Ok(u32::try_from(taken).unwrap_or(u32::MAX)),
            Err(error) if is_no_room(error.raw_os_error()) => Ok(0),
            Err(error) => Err(error.raw_os_error()),
        };
        self.facts.ring.sends += 1;
        self.facts.ring.sent_bytes += u64::from(outcome.unwrap_or(0));
        let Outgoing { frames, skip, .. } = outgoing;
        let whole = outcome == Ok(u32::try_from(offered).unwrap_or(u32::MAX));
        let cut = whole && frames.as_slice().len() > GATHER_MAX;
        if !whole || cut {
            self.refused.push(Refused { conn, frames, skip, outcome, cut });
        }
    }

    /// Tells the shard of every send that was not taken whole.
    pub(super) fn apply_refusals(&mut self, shard: &mut Shard, now: Now) {
        for refused in std::mem::take(&mut self.refused) {
            self.refused(refused, shard, now);
        }
        self.forget_stalls();
    }

    fn refused(&mut self, refused: Refused, shard: &mut Shard, now: Now) {
        let Refused { conn, frames, skip, outcome, cut } = refused;
        let taken = match outcome {
            Ok(taken) => taken,
            Err(errno) => return self.fail(conn, Errno::from_raw_os_error(errno), shard, now),
        };
        if self.table.in_stage(conn, Stage::Open).is_none() {
            return;
        }
        if !cut {
            self.await_room(conn, taken > 0, now);
        }
        shard.handle(Input::Taken { conn, frames, skip, taken }, now);
        if cut {
            shard.handle(Input::Writable { conn }, now);
        }
    }

    /// The kernel will tell when there is room; after wakes that brought nothing, a pause is believed more.
    pub(super) fn await_room(&mut self, conn: ConnId, progress: bool, now: Now) {
        let Some(cell) = self.table.of(conn) else { return };
        let pause = cell.room.refused(progress);
        // Where nothing was taken nothing may be on its way either (out of socket memory), so that no acknowledgement would make
        // the edge that is waited for: the kernel is to say whether there is room already.
        let asked = pause.is_some() || progress || self.ask_again(conn).is_ok();
        let pause = pause.or(if asked { None } else { Some(BACKOFF_MAX) });
        if let (Some(pause), Some(cell)) = (pause, self.table.of(conn)) {
            cell.flags.set(Flags::RESTING);
            self.deadlines.set(now.monotonic + pause, Due::Write(conn));
        }
    }

    /// A send after a wake that was not refused is progress.
    fn forget_stalls(&mut self) {
        for conn in self.proving.drain(..) {
            if let Some(cell) = self.table.of(conn) {
                cell.room.prove();
            }
        }
    }

    /// There is room, or it is time to try.
    pub(super) fn write_again(&mut self, conn: ConnId, shard: &mut Shard, now: Now) {
        let Some(cell) = self.table.of(conn) else { return };
        cell.flags.clear(Flags::RESTING);
        if cell.room.wake() && cell.stage == Stage::Open {
            shard.handle(Input::Writable { conn }, now);
        }
    }
}
