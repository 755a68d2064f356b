//! The two system calls that the `io-uring` crate does not make in the form needed here: enter by a registered ring
//! descriptor that is kept across calls, and the registration of that descriptor.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// How to name a ring to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct RingFd {
    pub fd: RawFd,
    /// Index in the thread's table of registered ring descriptors, if it could be registered.
    pub registered: Option<u32>,
}

#[repr(C)]
struct GetEventsArg {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_us: u32,
    timespec: u64,
}

#[repr(C)]
struct RsrcUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// Submits `to_submit` entries and waits for `min_complete` completions, at most for `timeout` (`None`: unbounded).
///
/// Always asks for events: with deferred task work, completions appear only inside such an enter.
pub fn enter(ring: RingFd, to_submit: u32, min_complete: u32, timeout: Option<Duration>) -> io::Result<u32> {
    let timespec = timeout.map(|wait| libc::timespec {
        tv_sec: libc::time_t::try_from(wait.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(wait.subsec_nanos()),
    });
    let arg = GetEventsArg {
        sigmask: 0,
        sigmask_bytes: 0,
        min_wait_us: 0,
        timespec: timespec.as_ref().map_or(0, |timespec| std::ptr::from_ref(timespec) as u64),
    };
    let (fd, registered) = match ring.registered {
        Some(index) => (libc::c_long::from(index), ENTER_REGISTERED_RING),
        None => (libc::c_long::from(ring.fd), 0),
    };
    let flags = ENTER_GETEVENTS | ENTER_EXT_ARG | registered;
    // SAFETY: `arg` and the timespec that it points to live until the call returns, and the size is that of `arg`. What the
    // submitted entries point to was argued where they were pushed, which is itself unsafe.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            fd,
            to_submit,
            min_complete,
            flags,
            std::ptr::from_ref(&arg),
            size_of::<GetEventsArg>(),
        )
    };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Registers the ring's descriptor for this thread, which saves its lookup in every enter. `None` where the kernel cannot.
pub fn register_ring_fd(fd: RawFd) -> Option<u32> {
    let mut update = RsrcUpdate { offset: u32::MAX, reserved: 0, data: u64::try_from(fd).ok()? };
    // SAFETY: the kernel reads and writes exactly one `RsrcUpdate`, which lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RING_FDS, std::ptr::from_mut(&mut update), 1) };
    (result == 1).then_some(update.offset)
}

/// Takes the registration back; a registered descriptor would keep the ring alive until its thread ends.
pub fn unregister_ring_fd(fd: RawFd, index: u32) {
    let update = RsrcUpdate { offset: index, reserved: 0, data: 0 };
    // SAFETY: the kernel reads exactly one `RsrcUpdate`, which lives until the call returns.
    unsafe { libc::syscall(libc::SYS_io_uring_register, fd, UNREGISTER_RING_FDS, std::ptr::from_ref(&update), 1) };
}
