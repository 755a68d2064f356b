//! Where frames begin in a raw WebSocket's bytes, which pass as they are: only there may a word of ours go between them.

use crate::ws::{FrameError, HEADER_BYTES_MAX, Header, Role};

/// Both directions of a tunnel.
#[derive(Debug)]
pub struct Tunnel {
    /// Toward the client.
    pub down: FrameWalk,
    /// Toward the upstream.
    pub up: FrameWalk,
}

impl Default for Tunnel {
    fn default() -> Self {
        // Roles are ours: what goes down is what a client would read.
        Self { down: FrameWalk::new(Role::Client), up: FrameWalk::new(Role::Server) }
    }
}

/// Follows the frames of one direction.
#[derive(Debug)]
pub struct FrameWalk {
    role: Role,
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: usize,
    /// Bytes of the frame's payload to come.
    payload_left: u64,
    /// These are no frames that we know: they still pass, but nobody knows where one ends.
    lost: bool,
}

impl FrameWalk {
    const fn new(role: Role) -> Self {
        Self { role, header: [0; HEADER_BYTES_MAX], header_bytes: 0, payload_left: 0, lost: false }
    }

    /// Bytes pass.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            if self.payload_left > 0 {
                let passed = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= passed as u64;
                bytes = &bytes[passed..];
            } else {
                self.header[self.header_bytes] = bytes[0];
                self.header_bytes += 1;
                bytes = &bytes[1..];
                match self.header() {
                    Ok(Some(header)) => (self.header_bytes, self.payload_left) = (0, header.length),
                    Ok(None) => self.lost = self.header_bytes == HEADER_BYTES_MAX,
                    Err(_) => self.lost = true,
                }
            }
        }
    }

    /// Whether the last frame is whole.
    #[must_use]
    pub const fn is_at_boundary(&self) -> bool {
        !self.lost && self.header_bytes == 0 && self.payload_left == 0
    }

    /// Whether it cannot be known where a frame ends.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    fn header(&self) -> Result<Option<Header>, FrameError> {
        Ok(Header::parse(&self.header[..self.header_bytes], self.role)?.map(|(header, _)| header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::Opcode;
    use crate::ws::encode::{frame, masked};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn boundaries_are_where_frames_end_whatever_the_split(lengths in prop::collection::vec(0usize..70_000, 1..5), step in 1usize..5000) {
            let mut tunnel = Tunnel::default();
            let mut ends = vec![0];
            let (mut down, mut up) = (Vec::new(), Vec::new());
            for length in lengths {
                down.extend(frame(Opcode::Binary, &vec![0x81; length]));
                up.extend(masked(Opcode::Text, &vec![b'x'; length], [1, 2, 3, 4]));
                ends.push(down.len());
            }
            let mut passed = 0;
            for piece in down.chunks(step) {
                tunnel.down.pass(piece);
                passed += piece.len();
                prop_assert_eq!(tunnel.down.is_at_boundary(), ends.contains(&passed));
            }
            up.chunks(step).for_each(|piece| tunnel.up.pass(piece));
            prop_assert!(tunnel.up.is_at_boundary());
        }
    }

    #[test]
    fn what_is_no_frame_has_no_boundary() {
        let mut tunnel = Tunnel::default();
        tunnel.down.pass(b"\xffnonsense");
        tunnel.up.pass(&frame(Opcode::Text, b"unmasked"));
        for walk in [tunnel.down, tunnel.up] {
            assert!(walk.is_lost() && !walk.is_at_boundary());
        }
    }
}
