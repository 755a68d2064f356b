//! Rules about the kernel, its io_uring and the machine: what keeps a server from starting, or from io_uring; memory and CPUs.

use super::finding::Finding;
use super::host::Host;
use super::load::Load;
use crate::net::Io;
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
/// What is lost without io_uring.
const ON_EPOLL: &str = "on epoll every send and every read is a system call, and RLIMIT_NOFILE bounds all workers together, see \
                        tuning/README.md";
/// Rings of one worker.
pub const RING_BYTES_PER_WORKER: u64 = 2 << 20;

/// Whether it is epoll that serves here.
pub fn is_on_epoll(host: &Host, load: &Load) -> bool {
    match load.io {
        Io::Auto => host.ring.is_err(),
        Io::Uring => false,
        Io::Epoll => true,
    }
}

pub fn kernel(host: &Host, load: &Load) -> Option<Finding> {
    let version @ (major, minor) = host.kernel?;
    let found = format!("Linux {major}.{minor}");
    if load.io == Io::Epoll {
        let finding = Finding::good("kernel", found, "Linux 5.11 for epoll");
        return Some(if version < EPOLL_KERNEL_MIN {
            finding.fix("install Linux 5.11 or newer: it has no epoll_pwait2")
        } else {
            finding
        });
    }
    let finding = Finding::good("kernel", found, "Linux 6.1, better 6.7");
    Some(if version < KERNEL_MIN {
        refusing(finding, host, load, "install Linux 6.1 or newer: from there on io_uring is used")
    } else {
        finding.unless(version >= KERNEL_BEST, || "from Linux 6.7 on, connections are accepted many at a time".to_owned())
    })
}

pub fn ring(host: &Host, load: &Load) -> Option<Finding> {
    const NEEDED: &str = "a ring with every set-up flag";
    if load.io == Io::Epoll {
        return None;
    }
    Some(match &host.ring {
        Ok(features) => Finding::good("io_uring", features.to_string(), NEEDED)
            .unless(features.missing == SetupFlags::NONE, || {
                "a newer kernel has what is missing; each is a few percent".to_owned()
            }),
        Err(error) => refusing(Finding::good("io_uring", "no ring can be made", NEEDED), host, load, error.to_string()),
    })
}

/// What `[server] io` comes to here. Where it is "epoll", the kernel has all the say.
pub fn interface(host: &Host, load: &Load) -> Option<Finding> {
    let what = match load.io {
        Io::Auto => "[server] io = auto",
        Io::Uring => "[server] io = uring",
        Io::Epoll => return None,
    };
    let finding = |found| Finding::good(what, found, "io_uring");
    Some(match &host.ring {
        Ok(_) => finding("io_uring"),
        Err(_) if load.io == Io::Uring => {
            let remedy = format!("let io_uring through, as above, or [server] io = \"auto\": {ON_EPOLL}");
            finding("the server does not start without io_uring").fix(remedy)
        }
        Err(_) if host.kernel.is_some_and(|version| version < EPOLL_KERNEL_MIN) => {
            finding("neither io_uring nor epoll_pwait2").fix("install Linux 6.1, or at least 5.11 for epoll")
        }
        Err(_) => finding("epoll will be used").improve(format!("let io_uring through, as above: {ON_EPOLL}")),
    })
}

pub fn disabled(host: &Host, load: &Load) -> Option<Finding> {
    let level = host.io_uring_disabled.filter(|_| load.io != Io::Epoll)?;
    let finding = |found: String| Finding::good("kernel.io_uring_disabled", found, "0, or 1 and a member of kernel.io_uring_group");
    Some(match (level, &host.ring) {
        (0, _) => finding("0: for everybody".to_owned()),
        (_, Ok(_)) => finding(format!("{level}, and this user may all the same")),
        (_, Err(_)) => refusing(finding(level.to_string()), host, load, "kernel.io_uring_disabled = 0 (sysctl)"),
    })
}

pub fn seccomp(host: &Host, load: &Load) -> Option<Finding> {
    let finding = |found| Finding::good("seccomp", found, "no filter, or one that lets io_uring through");
    let level = host.seccomp.filter(|_| load.io != Io::Epoll)?;
    Some(match (level, &host.ring) {
        (0, _) => finding("no filter"),
        (_, Ok(_)) => finding("filtered, and io_uring is let through"),
        (_, Err(_)) => {
            let remedy = "in a container: --security-opt seccomp=tuning/seccomp.json (see tuning/README.md)";
            refusing(finding("filtered"), host, load, remedy)
        }
    })
}

/// What may keep io_uring from being used. With `io = "uring"` that keeps the server from starting, where it does.
fn refusing(finding: Finding, host: &Host, load: &Load, remedy: impl Into<String>) -> Finding {
    if load.io == Io::Uring && host.ring.is_err() { finding.fix(remedy) } else { finding.improve(remedy) }
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
    let rings = if is_on_epoll(host, load) { 0 } else { load.workers * RING_BYTES_PER_WORKER };
    let base = BASE_BYTES + rings;
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

/// A kernel that is not preemptible lets nothing else have the core while it does.
pub fn memory_scans(host: &Host) -> Option<Finding> {
    let scans = host.scans_memory?;
    let finding = Finding::good("DAMON", if scans { "on" } else { "off" }, "off, where a late millisecond in a thousand matters");
    Some(finding.unless(!scans, || {
        "turn it off: its thread (kdamond) keeps a core for milliseconds, several times a second. See /sys/kernel/mm/damon/admin/kdamonds/*/state \
         and /sys/module/damon_*/parameters/enabled"
            .to_owned()
    }))
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
