//! Rules about the kernel, its io_uring and the machine: what keeps a server from starting, or from io_uring; memory and CPUs.

use super::finding::Finding;
use super::host::Host;
use super::load::Load;
use crate::ring::SetupFlags;

/// Oldest kernel that has what the loop on io_uring needs, and the one on epoll.
const KERNEL_MIN: (u32, u32) = (6, 1);
const EPOLL_KERNEL_MIN: (u32, u32) = (5, 11);
/// Kernel from which accepts can be multishot and still know their peers.
const KERNEL_BEST: (u32, u32) = (6, 7);

/// An idle connection in the kernel: a socket and a poll.
const KERNEL_BYTES_PER_CONNECTION: u64 = 4096;
/// An idle connection with one subscription in our own memory.
const USER_BYTES_PER_CONNECTION: u64 = 300;
/// What a socket that holds anything unread or unsent is charged at least.
pub const PAGE_BYTES: u64 = 4096;
/// Receive buffers of all workers, and room for the program itself.
const BASE_BYTES: u64 = 128 << 20;
/// Rings of one worker.
pub const RING_BYTES_PER_WORKER: u64 = 2 << 20;

pub fn kernel(host: &Host) -> Option<Finding> {
    let version @ (major, minor) = host.kernel?;
    let finding = Finding::good("kernel", format!("Linux {major}.{minor}"), "Linux 6.1, better 6.7");
    Some(if version < KERNEL_MIN {
        finding.improve("install Linux 6.1 or newer: from there on io_uring is used")
    } else {
        finding.unless(version >= KERNEL_BEST, || "from Linux 6.7 on, connections are accepted many at a time".to_owned())
    })
}

pub fn ring(host: &Host) -> Finding {
    const NEEDED: &str = "a ring with every set-up flag";
    match &host.ring {
        Ok(features) => Finding::good("io_uring", features.to_string(), NEEDED)
            .unless(features.missing == SetupFlags::NONE, || {
                "a newer kernel has what is missing; each is a few percent".to_owned()
            }),
        Err(error) => Finding::good("io_uring", "no ring can be made", NEEDED).improve(error.to_string()),
    }
}

/// What `[server] io = "auto"` comes to here.
pub fn interface(host: &Host) -> Finding {
    let finding = |found| Finding::good("[server] io = auto", found, "io_uring");
    match &host.ring {
        Ok(_) => finding("io_uring"),
        Err(_) if host.kernel.is_some_and(|version| version < EPOLL_KERNEL_MIN) => {
            finding("neither io_uring nor epoll_pwait2").fix("install Linux 6.1, or at least 5.11 for epoll")
        }
        Err(_) => finding("epoll").improve("let io_uring through, as above; what is lost without it: tuning/README.md"),
    }
}

pub fn disabled(host: &Host) -> Option<Finding> {
    let level = host.io_uring_disabled?;
    let finding = |found: String| Finding::good("kernel.io_uring_disabled", found, "0, or 1 and a member of kernel.io_uring_group");
    Some(match (level, &host.ring) {
        (0, _) => finding("0: for everybody".to_owned()),
        (_, Ok(_)) => finding(format!("{level}, and this user may all the same")),
        (_, Err(_)) => finding(level.to_string()).improve("kernel.io_uring_disabled = 0 (sysctl)"),
    })
}

pub fn seccomp(host: &Host) -> Option<Finding> {
    let finding = |found| Finding::good("seccomp", found, "no filter, or one that lets io_uring through");
    Some(match (host.seccomp?, &host.ring) {
        (0, _) => finding("no filter"),
        (_, Ok(_)) => finding("filtered, and io_uring is let through"),
        (_, Err(_)) => {
            finding("filtered").improve("in a container: --security-opt seccomp=tuning/seccomp.json (see tuning/README.md)")
        }
    })
}

pub fn cpus(host: &Host, load: &Load, workers_for_descriptors: u64) -> Finding {
    let (workers, cpus) = (load.workers, host.cpus);
    let finding =
        Finding::good("workers", format!("{workers} on {cpus} CPUs"), "one for each CPU, more only for want of descriptors");
    finding.unless(workers <= cpus.max(workers_for_descriptors), || format!("[server] workers = 0, or {cpus}: they share cores"))
}

/// Idle connections, and one page more for each while a broadcast to all of them is unread.
pub fn memory(host: &Host, load: &Load) -> Finding {
    const WHAT: &str = "memory";
    let idle = load.connections.saturating_mul(KERNEL_BYTES_PER_CONNECTION + USER_BYTES_PER_CONNECTION);
    let unread = load.connections.saturating_mul(PAGE_BYTES);
    let base = BASE_BYTES + load.workers * RING_BYTES_PER_WORKER;
    let total = idle.saturating_add(unread).saturating_add(base);
    let needed = format!(
        "{} ({} idle, {} while each has something unread), history not counted",
        mebibytes(total),
        mebibytes(idle + base),
        mebibytes(unread)
    );
    let Some(found) = host.memory_bytes else { return Finding::unknown(WHAT, needed) };
    Finding::good(WHAT, mebibytes(found), needed).unless(found >= total, || {
        if found < idle + base { "more memory, or fewer connections" } else { "more memory, or pace broadcasts (`coalesce`)" }
            .to_owned()
    })
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
