//! Judges a host. The thresholds are those of `tuning/`, where each is explained; a test keeps the two together.

use super::host::Host;
use crate::ring::SetupFlags;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Good,
    /// The server starts, and will do less than the machine could.
    Advice,
    /// The server does not start.
    Problem,
}

/// One fact, judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub verdict: Verdict,
    pub what: &'static str,
    pub found: String,
    pub remedy: Option<String>,
}

/// Oldest kernel that has what the loop needs.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// Kernel from which accepts can be multishot and still know their peers.
const KERNEL_BEST: (u32, u32) = (6, 7);
const OPEN_FILES_MIN: u64 = 65_536;
/// Memory locked for one worker's rings and buffers.
const LOCKED_BYTES_PER_WORKER: u64 = 2 << 20;
/// The length of our listen queues.
const SOMAXCONN_MIN: u64 = 4096;
const NETDEV_BACKLOG_MIN: u64 = 4096;
/// Each socket that holds unread data is charged a page: 1 GiB of them.
const TCP_PAGES_MIN: u64 = 262_144;
/// What Linux gives by default.
const LOCAL_PORTS_MIN: u64 = 28_000;
const CONNTRACK_MIN: u64 = 1 << 20;
const FILE_MAX_MIN: u64 = 1 << 20;

/// Everything that can be said about a host.
pub fn examine(host: &Host) -> Vec<Finding> {
    let findings = [
        kernel(host),
        Some(ring(host)),
        disabled(host),
        seccomp(host),
        Some(open_files(host)),
        Some(locked_memory(host)),
        at_least("net.core.somaxconn", host.somaxconn, SOMAXCONN_MIN, "connections wait for their accept in a queue this long"),
        at_least(
            "netdev_max_backlog",
            host.netdev_max_backlog,
            NETDEV_BACKLOG_MIN,
            "packets wait for a busy core in a queue this long",
        ),
        at_least(
            "net.ipv4.tcp_mem",
            host.tcp_mem.map(|[_, pressure, _]| pressure),
            TCP_PAGES_MIN,
            "pages of unread data of all sockets",
        ),
        local_ports(host),
        at_least("nf_conntrack_max", host.conntrack_max, CONNTRACK_MIN, "connections are tracked; more are dropped"),
        at_least("fs.file-max", host.file_max, FILE_MAX_MIN, "open files of the whole machine; each connection is one"),
        huge_pages(host),
    ];
    findings.into_iter().flatten().collect()
}

fn good(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Good, what, found: found.into(), remedy: None }
}

fn advice(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Advice, what, found: found.into(), remedy: Some(remedy.into()) }
}

fn problem(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Problem, what, found: found.into(), remedy: Some(remedy.into()) }
}

fn kernel(host: &Host) -> Option<Finding> {
    let version @ (major, minor) = host.kernel?;
    let found = format!("Linux {major}.{minor}");
    Some(if version < KERNEL_MIN {
        problem("kernel", found, "Linux 6.1 or newer is needed")
    } else if version < KERNEL_BEST {
        advice("kernel", found, "from Linux 6.7 on, connections are accepted many at a time")
    } else {
        good("kernel", found)
    })
}

fn ring(host: &Host) -> Finding {
    match &host.ring {
        Ok(features) if features.missing == SetupFlags::NONE => good("io_uring", features.to_string()),
        Ok(features) => advice("io_uring", features.to_string(), "a newer kernel has what is missing; each is a few percent"),
        Err(error) => problem("io_uring", "no ring can be made", error.to_string()),
    }
}

fn disabled(host: &Host) -> Option<Finding> {
    const WHAT: &str = "io_uring_disabled";
    Some(match (host.io_uring_disabled?, &host.ring) {
        (0, _) => good(WHAT, "0: for everybody"),
        (level, Ok(_)) => good(WHAT, format!("{level}, and this user may all the same")),
        (level, Err(_)) => problem(WHAT, level.to_string(), "sysctl -w kernel.io_uring_disabled=0"),
    })
}

fn seccomp(host: &Host) -> Option<Finding> {
    Some(match (host.seccomp?, &host.ring) {
        (0, _) => good("seccomp", "no filter"),
        (_, Ok(_)) => good("seccomp", "filtered, and io_uring is let through"),
        (_, Err(_)) => {
            problem("seccomp", "filtered", "in a container: --security-opt seccomp=tuning/seccomp.json (see tuning/README.md)")
        }
    })
}

fn open_files(host: &Host) -> Finding {
    const WHAT: &str = "RLIMIT_NOFILE";
    match host.open_files_max {
        Some(limit) if limit < OPEN_FILES_MIN => advice(
            WHAT,
            format!("{limit}: connections that one worker can hold"),
            "LimitNOFILE=1048576 in the unit, `ulimit -Hn`, or more workers: the limit is per worker",
        ),
        Some(limit) => good(WHAT, format!("{limit} connections per worker")),
        None => good(WHAT, "no limit"),
    }
}

fn locked_memory(host: &Host) -> Finding {
    const WHAT: &str = "RLIMIT_MEMLOCK";
    let needed = host.workers * LOCKED_BYTES_PER_WORKER;
    match host.locked_bytes_max {
        Some(limit) if limit < needed => advice(
            WHAT,
            format!("{} KiB; {} workers lock up to {} KiB", limit >> 10, host.workers, needed >> 10),
            "LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`; with less, completion queues are shrunk",
        ),
        Some(limit) => good(WHAT, format!("{} KiB for {} workers", limit >> 10, host.workers)),
        None => good(WHAT, "no limit"),
    }
}

/// A number that is better the larger it is. Names without a dot are shortened.
fn at_least(what: &'static str, found: Option<u64>, wanted: u64, why: &str) -> Option<Finding> {
    let found = found?;
    Some(if found < wanted {
        advice(what, format!("{found}: {why}"), format!("at least {wanted}: install tuning/90-ringmain.conf in /etc/sysctl.d"))
    } else {
        good(what, found.to_string())
    })
}

fn local_ports(host: &Host) -> Option<Finding> {
    const WHAT: &str = "ip_local_port_range";
    let (low, high) = host.local_ports?;
    let count = (high + 1).saturating_sub(low);
    Some(if count < LOCAL_PORTS_MIN {
        advice(
            WHAT,
            format!("{low} to {high}: {count} connections to one upstream address"),
            "install tuning/90-ringmain.conf in /etc/sysctl.d",
        )
    } else {
        good(WHAT, format!("{count} connections to one upstream address"))
    })
}

fn huge_pages(host: &Host) -> Option<Finding> {
    const WHAT: &str = "huge pages";
    let word = host.huge_pages.as_deref()?;
    Some(if word == "always" {
        advice(
            WHAT,
            "transparent ones always: memory is taken 2 MiB at a time, used or not",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    } else {
        good(WHAT, word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Features, RingError};

    fn features() -> Features {
        Features {
            setup: SetupFlags::SUBMIT_ALL,
            missing: SetupFlags::NONE,
            registered_ring: true,
            peer_name: true,
            sq_entries: 4096,
            cq_entries: 65_536,
            shrunk: false,
            files: 1 << 20,
            buffers: 4096,
        }
    }

    fn healthy() -> Host {
        Host {
            kernel: Some((6, 12)),
            ring: Ok(features()),
            io_uring_disabled: Some(0),
            seccomp: Some(0),
            workers: 4,
            open_files_max: Some(1 << 20),
            locked_bytes_max: None,
            somaxconn: Some(65_535),
            netdev_max_backlog: Some(16_384),
            tcp_mem: Some([524_288, 1_048_576, 2_097_152]),
            local_ports: Some((1024, 65_535)),
            conntrack_max: None,
            file_max: Some(u64::MAX),
            huge_pages: Some("madvise".to_owned()),
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Host), what: &str, verdict: Verdict, remedy: &str) {
        let mut host = healthy();
        change(&mut host);
        let findings = examine(&host);
        let finding = findings.iter().find(|finding| finding.what == what).unwrap_or_else(|| panic!("nothing about {what}"));
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        let told = finding.remedy.as_deref().unwrap_or_default();
        assert!(told.contains(remedy), "{finding:?}");
    }

    #[test]
    fn a_healthy_host_has_nothing_to_improve() {
        let findings = examine(&healthy());
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:?}");
    }

    #[test]
    fn what_keeps_the_server_from_starting_is_a_problem() {
        check(|host| host.kernel = Some((5, 15)), "kernel", Verdict::Problem, "6.1");
        check(|host| host.ring = Err(RingError::Seccomp), "io_uring", Verdict::Problem, "seccomp");
        let blocked = |host: &mut Host| (host.ring, host.seccomp) = (Err(RingError::Seccomp), Some(2));
        check(blocked, "seccomp", Verdict::Problem, "tuning/seccomp.json");
        let off = |host: &mut Host| (host.ring, host.io_uring_disabled) = (Err(RingError::Disabled { level: 2 }), Some(2));
        check(off, "io_uring_disabled", Verdict::Problem, "sysctl -w kernel.io_uring_disabled=0");
    }

    #[test]
    fn what_is_in_the_way_of_many_connections_is_advice() {
        check(|host| host.kernel = Some((6, 1)), "kernel", Verdict::Advice, "6.7");
        check(|host| host.open_files_max = Some(4096), "RLIMIT_NOFILE", Verdict::Advice, "LimitNOFILE");
        check(|host| host.locked_bytes_max = Some(7 << 20), "RLIMIT_MEMLOCK", Verdict::Advice, "LimitMEMLOCK=infinity");
        check(|host| host.somaxconn = Some(128), "net.core.somaxconn", Verdict::Advice, "4096");
        check(|host| host.netdev_max_backlog = Some(1000), "netdev_max_backlog", Verdict::Advice, "sysctl.d");
        check(|host| host.tcp_mem = Some([1, 2, u64::MAX]), "net.ipv4.tcp_mem", Verdict::Advice, "sysctl.d");
        check(|host| host.local_ports = Some((60_000, 61_000)), "ip_local_port_range", Verdict::Advice, "sysctl.d");
        check(|host| host.conntrack_max = Some(65_536), "nf_conntrack_max", Verdict::Advice, "sysctl.d");
        check(|host| host.file_max = Some(100_000), "fs.file-max", Verdict::Advice, "sysctl.d");
        check(|host| host.huge_pages = Some("always".to_owned()), "huge pages", Verdict::Advice, "madvise");
    }

    #[test]
    fn a_group_that_may_and_a_filter_that_lets_through_are_good() {
        check(|host| host.io_uring_disabled = Some(1), "io_uring_disabled", Verdict::Good, "");
        check(|host| host.seccomp = Some(2), "seccomp", Verdict::Good, "");
        check(|host| host.locked_bytes_max = Some(8 << 20), "RLIMIT_MEMLOCK", Verdict::Good, "");
    }

    /// A value of the file of sysctls that we ship.
    fn shipped(name: &str) -> Vec<u64> {
        let file = include_str!("../../../tuning/90-ringmain.conf");
        let line = file.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='));
        let line = line.unwrap_or_else(|| panic!("{name} is not in the file"));
        line.split_ascii_whitespace().map(|word| word.parse().expect("a number")).collect()
    }

    #[test]
    fn what_we_ship_is_good_enough_for_ourselves() {
        let mut host = healthy();
        host.somaxconn = Some(shipped("net.core.somaxconn")[0]);
        host.netdev_max_backlog = Some(shipped("net.core.netdev_max_backlog")[0]);
        host.tcp_mem = shipped("net.ipv4.tcp_mem").try_into().ok();
        host.local_ports = Some((shipped("net.ipv4.ip_local_port_range")[0], shipped("net.ipv4.ip_local_port_range")[1]));
        host.conntrack_max = Some(shipped("-net.netfilter.nf_conntrack_max")[0]);
        host.file_max = Some(shipped("fs.file-max")[0]);
        let findings = examine(&host);
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:?}");
    }
}
