//! Scratch for gathered sends: message headers and their lists of pieces, at addresses that stay put until reset.
//!
//! Chunked, so that growing never moves what the kernel was told; everything is given out in order and reset together once
//! no submission refers to it any more.

use std::ptr;

/// Pieces per chunk. A list never spans two chunks.
const PIECES_PER_CHUNK: usize = 1024;
const HEADERS_PER_CHUNK: usize = 128;

/// The scratch memory of one ring.
#[derive(Default)]
pub struct Gather {
    pieces: Vec<Vec<libc::iovec>>,
    headers: Vec<Vec<libc::msghdr>>,
    /// Chunks before these are full.
    pieces_at: usize,
    headers_at: usize,
}

impl Gather {
    /// A header over `parts`, whose bytes the caller keeps alive until [`Self::reset`]; so does the header's address.
    pub fn header<'a>(&mut self, parts: impl ExactSizeIterator<Item = &'a [u8]>) -> *const libc::msghdr {
        let (list, count) = self.list(parts);
        let chunk = chunk_with_room(&mut self.headers, &mut self.headers_at, HEADERS_PER_CHUNK, 1);
        chunk.push(libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: list,
            msg_iovlen: count,
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        });
        ptr::from_ref(&chunk[chunk.len() - 1])
    }

    fn list<'a>(&mut self, parts: impl ExactSizeIterator<Item = &'a [u8]>) -> (*mut libc::iovec, usize) {
        let count = parts.len();
        assert!(count > 0 && count <= PIECES_PER_CHUNK);
        let chunk = chunk_with_room(&mut self.pieces, &mut self.pieces_at, PIECES_PER_CHUNK, count);
        let start = chunk.len();
        chunk.extend(parts.map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() }));
        (chunk[start..].as_mut_ptr(), count)
    }

    /// Forgets everything given out. The caller vouches that the kernel has consumed all of it.
    pub fn reset(&mut self) {
        for chunk in self.pieces.iter_mut().take(self.pieces_at + 1) {
            chunk.clear();
        }
        for chunk in self.headers.iter_mut().take(self.headers_at + 1) {
            chunk.clear();
        }
        self.pieces_at = 0;
        self.headers_at = 0;
    }
}

/// The first chunk from `at` on with room for `count` more; chunks never grow beyond their capacity, so nothing moves.
fn chunk_with_room<'a, T>(chunks: &'a mut Vec<Vec<T>>, at: &mut usize, capacity: usize, count: usize) -> &'a mut Vec<T> {
    if chunks.get(*at).is_some_and(|chunk| chunk.len() + count > capacity) {
        *at += 1;
    }
    if chunks.len() == *at {
        chunks.push(Vec::with_capacity(capacity));
    }
    &mut chunks[*at]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_moves_nothing_that_was_given_out() {
        let part = [7u8; 3];
        let mut gather = Gather::default();
        for _ in 0..2 {
            let headers: Vec<*const libc::msghdr> = (0..500).map(|n| gather.header((0..n % 64 + 1).map(|_| &part[..]))).collect();
            for (n, header) in headers.into_iter().enumerate() {
                // SAFETY: given out since the last reset.
                let (header, list) = unsafe { (&*header, std::slice::from_raw_parts((*header).msg_iov, (*header).msg_iovlen)) };
                assert_eq!(header.msg_iovlen, n % 64 + 1);
                assert!(list.iter().all(|piece| piece.iov_base.cast_const() == part.as_ptr().cast() && piece.iov_len == 3));
            }
            gather.reset();
        }
    }
}
