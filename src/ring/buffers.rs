//! Receive buffers that the kernel picks from, and the leases by which received bytes are reached.
//!
//! ```text
//! mapping: [ ring entries, page-aligned ][ buffer 0 ][ buffer 1 ] ...        one mmap, prefaulted
//! a buffer is: in the ring (the kernel may take it)  ──completion──►  leased (ours)  ──give_back──►  spare (a stack)
//!              ▲──────────────────────────────── publish ─────────────────────────────────────────────┘
//! ```
//! The kernel takes buffers in the order in which they were published, so a ring that holds all of them receives into the one that
//! is longest out of the processor's caches. Hence the window: no more are in the ring than one enter may need, and what is
//! published is what was given back last.
//!
//! Invariant: `in the ring + leased + spare == count`. The mapping is never freed while it is registered.

use std::io;
use std::num::Wrapping;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// A ring's buffer groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Small buffers, for clients.
    Small,
    /// Large ones, for peers that send much at a time.
    Bulk,
}

impl Group {
    /// The kernel's name for it.
    pub const fn id(self) -> u16 {
        self as u16
    }
}

const PAGE_BYTES: usize = 4096;
/// Buffers in the ring at least, if there are so many: a burst finds these before the window has grown.
const WINDOW_MIN: u16 = 256;
/// The part of what was needed that is forgotten with each publish.
const FORGOTTEN: u16 = 64;

/// Numbers the `Buffers` of this process, so that a lease of one is never read through another.
static NEXT_ID: AtomicU32 = AtomicU32::new(0);

/// Received bytes: the only way to the buffer until it is given back.
#[derive(Debug)]
#[must_use = "a lease that is not given back loses its buffer"]
pub struct Lease {
    /// Which `Buffers` it belongs to.
    owner: u32,
    buffer: u16,
    length: u32,
}

impl Lease {
    /// Bytes received.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether it holds no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// The buffers of one group of a ring.
pub struct Buffers {
    id: u32,
    group: Group,
    /// Bytes of each.
    size: u32,
    base: NonNull<u8>,
    map_bytes: usize,
    count: u16,
    tail: Wrapping<u16>,
    /// Not in the ring and not leased; what was given back last is on top.
    spare: Vec<u16>,
    leased: u16,
    /// Leased since the last publish.
    taken: u16,
    /// The most that was taken between two publishes of late.
    needed: u16,
    /// Receives that will look for one in the next enter.
    asked: usize,
    registered: bool,
}

impl Buffers {
    /// Maps and registers `count` buffers (a power of two, at most 32,768) of `size` bytes.
    pub fn register(submitter: &Submitter<'_>, group: Group, count: u16, size: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 1 << 15);
        let map_bytes = entries_bytes(count) + usize::from(count) * size as usize;
        let base = map(map_bytes)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let mut buffers = Self {
            id,
            group,
            size,
            base,
            map_bytes,
            count,
            tail: Wrapping(0),
            spare: (0..count).rev().collect(),
            leased: 0,
            taken: 0,
            needed: 0,
            asked: 0,
            registered: false,
        };
        // SAFETY: the mapping is page-aligned, holds `count` entries, and stays until `unregister` or for ever.
        unsafe { submitter.register_buf_ring_with_flags(base.as_ptr() as u64, count, group.id(), 0) }?;
        buffers.registered = true;
        buffers.publish();
        Ok(buffers)
    }

    /// Must be called before the ring goes, with nothing in flight; a mapping that stays registered is leaked, not freed.
    pub fn unregister(&mut self, submitter: &Submitter<'_>) {
        self.registered = self.registered && submitter.unregister_buf_ring(self.group.id()).is_err();
    }

    /// Buffers that are not leased, those that the kernel has taken without our having seen it included.
    pub const fn free(&self) -> u16 {
        self.count - self.leased
    }

    /// A receive is submitted that takes a buffer at once, if there is something to read.
    pub const fn ask(&mut self) {
        self.asked += 1;
    }

    /// A receive has found the ring empty: the window was too small, or everything is leased.
    pub const fn ran_out(&mut self) {
        self.needed = self.count;
    }

    /// The lease for a completion that carries `buffer` with `length` received bytes. `None` if the kernel named no such buffer.
    pub fn lease(&mut self, buffer: u16, length: u32) -> Option<Lease> {
        if buffer >= self.count || length > self.size {
            return None;
        }
        self.leased += 1;
        self.taken += 1;
        Some(Lease { owner: self.id, buffer, length })
    }

    /// Whether it is for this lease to be read and given back.
    pub const fn owns(&self, lease: &Lease) -> bool {
        lease.owner == self.id
    }

    /// The received bytes.
    pub fn bytes<'a>(&'a mut self, lease: &'a mut Lease) -> &'a mut [u8] {
        assert_eq!(lease.owner, self.id);
        assert!(lease.buffer < self.count && lease.length <= self.size);
        // SAFETY: the offset and length are inside the mapping. The kernel gave this buffer up with the completion that minted
        // the lease, and gets it back only through `give_back`, which consumes the lease; both are mutably borrowed here.
        unsafe { std::slice::from_raw_parts_mut(self.buffer(lease.buffer), lease.length as usize) }
    }

    /// Takes a buffer back; the kernel sees it after one of the next [`Self::publish`].
    pub fn give_back(&mut self, lease: Lease) {
        assert_eq!(lease.owner, self.id);
        self.leased -= 1;
        self.spare.push(lease.buffer);
    }

    /// Fills the ring up to what the next enter may need, with one store.
    pub fn publish(&mut self) {
        self.needed = std::mem::take(&mut self.taken).max(self.needed - self.needed.div_ceil(FORGOTTEN));
        let window = usize::from(self.needed.saturating_mul(2).max(WINDOW_MIN)) + std::mem::take(&mut self.asked);
        let in_ring = usize::from(self.count - self.leased) - self.spare.len();
        let missing = window.saturating_sub(in_ring).min(self.spare.len());
        if missing == 0 {
            return;
        }
        let mask = self.count - 1;
        for _ in 0..missing {
            let Some(buffer) = self.spare.pop() else { break };
            let address = self.buffer(buffer) as u64;
            // SAFETY: the index is below `count`, so the entry lies in the ring part of the mapping; entries between the
            // published tail and the kernel's head are ours alone, and the kernel writes to none. The stores leave `resv` alone,
            // which in entry 0 is the tail that the kernel reads: nothing but `addr`, `len` and `bid` is touched.
            let entry = unsafe { &mut *self.base.cast::<BufRingEntry>().as_ptr().add(usize::from(self.tail.0 & mask)) };
            entry.set_addr(address);
            entry.set_len(self.size);
            entry.set_bid(buffer);
            self.tail += 1;
        }
        // SAFETY: `tail` is the u16 inside the first entry of a live, page-aligned mapping that the kernel only reads.
        unsafe {
            let tail = BufRingEntry::tail(self.base.cast::<BufRingEntry>().as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail.0, Ordering::Release);
        }
    }

    fn buffer(&self, index: u16) -> *mut u8 {
        assert!(index < self.count);
        // SAFETY: the index is below `count`, so the offset is inside the mapping.
        unsafe { self.base.as_ptr().add(entries_bytes(self.count) + usize::from(index) * self.size as usize) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if !self.registered {
            // SAFETY: our own mapping, no longer known to the kernel, and no lease can be read without `self`.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.map_bytes) };
        }
    }
}

/// Bytes of the ring entries, in whole pages.
fn entries_bytes(count: u16) -> usize {
    (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(PAGE_BYTES)
}

/// Anonymous memory, touched now, so that it never shows up later as memory per connection.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    // SAFETY: a fresh anonymous mapping, no address asked for.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}
