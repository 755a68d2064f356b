//! Making a ring on whatever kernel there is: each flag, size and feature is asked for, and given up one by one.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{IoUring, Probe, opcode};

use super::buffers::{Buffers, Group};
use super::options::{Features, Options, Queues, RingError, SetupFlags};
use super::sys::{self, RingFd};
use super::token::{Kind, Token};

/// How long the kernel takes to give back the locked memory of a ring that was closed.
const TAKEN_APART: Duration = Duration::from_millis(50);

/// A ring's parts, before anything was submitted.
pub struct Parts {
    pub io: IoUring,
    pub fd: RingFd,
    pub buffers: Buffers,
    pub features: Features,
}

/// Builds a ring for the calling thread, which alone may use it. Where memory that may be locked is short, with smaller queues.
pub fn build(options: &Options) -> Result<Parts, RingError> {
    let mut queues = Queues::fitting(options);
    loop {
        match build_with(options, &mut queues) {
            // Buffers and descriptors are charged to the same limit as the queues.
            Err(RingError::Memlock) => {
                queues = queues.smaller().ok_or(RingError::Memlock)?;
                std::thread::sleep(TAKEN_APART);
            }
            result => return result,
        }
    }
}

/// Builds a ring with queues of at most these sizes; notes which it got.
fn build_with(options: &Options, queues: &mut Queues) -> Result<Parts, RingError> {
    let (io, setup) = build_queues(options, queues)?;
    let shrunk = *queues != Queues { sq: options.sq_entries, cq: options.cq_entries };
    check_operations(&io)?;
    let files = register_files(&io, options.files_max)?;
    let count = prev_power_of_two(options.buffers.clamp(1, 1 << 15));
    let buffers = Buffers::register(&io.submitter(), Group::Small, count, options.buffer_bytes)
        .map_err(|error| lacking("provided buffer rings", &error))?;
    let raw = io.as_raw_fd();
    let fd = RingFd { fd: raw, registered: sys::register_ring_fd(raw) };
    let mut parts = Parts {
        features: Features {
            setup,
            missing: all_flags().without(setup),
            registered_ring: fd.registered.is_some(),
            peer_name: false,
            sq_entries: io.params().sq_entries(),
            cq_entries: io.params().cq_entries(),
            shrunk,
            files,
            buffers: count,
        },
        io,
        fd,
        buffers,
    };
    parts.features.peer_name = probe_socket_commands(&mut parts);
    Ok(parts)
}

fn all_flags() -> SetupFlags {
    SetupFlags::ALL.into_iter().fold(SetupFlags::NONE, |all, (flag, _)| all | flag)
}

/// Gives up flags, newest first, while the kernel says EINVAL, and queue entries while it says ENOMEM.
fn build_queues(options: &Options, queues: &mut Queues) -> Result<(IoUring, SetupFlags), RingError> {
    let mut flags = all_flags();
    loop {
        let error = match attempt(options, flags, *queues) {
            Ok(io) => return Ok((io, flags)),
            Err(error) => error,
        };
        match (error.raw_os_error(), queues.smaller()) {
            (Some(libc::EINVAL), _) if flags != SetupFlags::NONE => {
                let newest = SetupFlags::ALL.into_iter().map(|(flag, _)| flag).find(|&flag| flags.contains(flag));
                flags = flags.without(newest.unwrap_or(flags));
            }
            (Some(libc::ENOMEM), Some(smaller)) => *queues = smaller,
            (errno, _) => return Err(refusal(errno.unwrap_or(0))),
        }
    }
}

fn attempt(options: &Options, flags: SetupFlags, queues: Queues) -> io::Result<IoUring> {
    if flags.intersects(options.refused) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut builder = IoUring::builder();
    builder.setup_clamp().setup_cqsize(queues.cq.max(queues.sq));
    if flags.contains(SetupFlags::NO_SQARRAY) {
        builder.setup_no_sqarray();
    }
    if flags.contains(SetupFlags::DEFER_TASKRUN) {
        builder.setup_defer_taskrun();
    }
    if flags.contains(SetupFlags::SINGLE_ISSUER) {
        builder.setup_single_issuer();
    }
    if flags.contains(SetupFlags::COOP_TASKRUN) {
        // As old as it, and refused without it.
        builder.setup_coop_taskrun().setup_taskrun_flag();
    }
    if flags.contains(SetupFlags::SUBMIT_ALL) {
        builder.setup_submit_all();
    }
    builder.build(queues.sq)
}

/// Why `io_uring_setup` said no.
pub fn refusal(errno: i32) -> RingError {
    match errno {
        libc::EPERM => match disabled_level() {
            level @ 1..=2 => RingError::Disabled { level },
            _ => RingError::Seccomp,
        },
        libc::ENOSYS => RingError::OldKernel,
        libc::ENOMEM => RingError::Memlock,
        libc::EMFILE | libc::ENFILE => RingError::Descriptors,
        errno => RingError::Missing { feature: "the queues", errno },
    }
}

fn disabled_level() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn lacking(feature: &'static str, error: &io::Error) -> RingError {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => RingError::Memlock,
        errno => RingError::Missing { feature, errno: errno.unwrap_or(0) },
    }
}

/// Operations without which there is no loop. (Multishot receive, 6.0, has no probe of its own: SEND_ZC came with it.)
fn check_operations(io: &IoUring) -> Result<(), RingError> {
    let mut probe = Probe::new();
    io.submitter().register_probe(&mut probe).map_err(|error| lacking("the operation probe", &error))?;
    let needed = [
        (opcode::AcceptMulti::CODE, "accept"),
        (opcode::Shutdown::CODE, "shutdown"),
        (opcode::MsgRingData::CODE, "ring messages"),
        (opcode::FilesUpdate::CODE, "direct descriptors"),
        (opcode::SendZc::CODE, "multishot receive"),
    ];
    match needed.into_iter().find(|&(code, _)| !probe.is_supported(code)) {
        Some((_, feature)) => Err(RingError::Missing { feature, errno: libc::EOPNOTSUPP }),
        None => Ok(()),
    }
}

/// A sparse table of as many direct descriptors as the limits allow.
fn register_files(io: &IoUring, files_max: u32) -> Result<u32, RingError> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let mut files = files_max.min(u32::try_from(limit).unwrap_or(u32::MAX)).max(1);
    loop {
        match io.submitter().register_files_sparse(files) {
            Ok(()) => return Ok(files),
            Err(error) if files > 1024 && matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EMFILE)) => files /= 2,
            Err(error) => return Err(lacking("the sparse descriptor table", &error)),
        }
    }
}

/// Whether socket options can be read through the ring: tried on a real socket, as no probe tells.
fn probe_socket_commands(parts: &mut Parts) -> bool {
    let Ok(socket) = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None) else {
        return false;
    };
    // Forgotten, not freed, unless its completion was seen: until then the kernel may write to it.
    let mut value = std::mem::ManuallyDrop::new(Box::new(0i32));
    let entry = opcode::GetSockOpt::new(
        Fd(socket.as_fd().as_raw_fd()),
        libc::SOL_SOCKET as u32,
        libc::SO_TYPE as u32,
        std::ptr::from_mut(value.as_mut()).cast(),
        size_of::<i32>() as u32,
    )
    .build()
    // Should the wait for it be interrupted, the loop must not take it for anything of its own.
    .user_data(Token::numbered(Kind::None, 0).bits());
    // SAFETY: `value` is on the heap and is not freed before the completion; the command never waits.
    if unsafe { parts.io.submission().push(&entry) }.is_err() || sys::enter(parts.fd, 1, 1, None).is_err() {
        return false;
    }
    let Some(completion) = parts.io.completion().next() else { return false };
    let value = std::mem::ManuallyDrop::into_inner(value);
    completion.result() >= 0 && *value == libc::SOCK_STREAM
}

/// The largest power of two that is not above `count`, which is not zero.
const fn prev_power_of_two(count: u16) -> u16 {
    1 << (u16::BITS - 1 - count.leading_zeros())
}

/// Bytes that this user's processes may lock together. `None` where no limit applies.
pub fn locked_bytes_limit() -> Option<u64> {
    let exempt =
        rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::IPC_LOCK));
    if exempt { None } else { rustix::process::getrlimit(rustix::process::Resource::Memlock).current }
}
