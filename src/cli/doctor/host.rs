//! Facts about this host, read by one function. What cannot be read is `None`, and the rules say what that means.

use rustix::process::{Resource, getrlimit};

use crate::net::default_workers;
use crate::ring::{Features, Options, Ring, RingError};

/// The right to lock memory without being counted (`CAP_IPC_LOCK`).
const CAPABILITY_IPC_LOCK: u32 = 14;
/// Memory limits of version 1 control groups mean nothing from here on.
const UNLIMITED: u64 = 1 << 60;

/// What the kernel and the limits are.
#[derive(Clone, Debug)]
pub struct Host {
    /// Major and minor version.
    pub kernel: Option<(u32, u32)>,
    /// A ring as the server makes them.
    pub ring: Result<Features, RingError>,
    /// `kernel.io_uring_disabled`
    pub io_uring_disabled: Option<u64>,
    /// `Seccomp` of `/proc/self/status`: 0 none, 1 strict, 2 filtered.
    pub seccomp: Option<u64>,
    /// CPUs for us, by affinity and quota: as many workers as `workers = 0` means.
    pub cpus: u64,
    /// Of the machine, or of the control group where that has less.
    pub memory_bytes: Option<u64>,
    /// Hard limit on open files: the server raises the soft one itself. `None` is unlimited.
    pub open_files_max: Option<u64>,
    /// Bytes that may be locked. `None` is unlimited.
    pub locked_bytes_max: Option<u64>,
    /// Whether the limit on locked memory is not for this user.
    pub locks_freely: bool,
    /// `fs.file-max`
    pub file_max: Option<u64>,
    /// `fs.nr_open`
    pub nr_open: Option<u64>,
    /// `net.core.somaxconn`
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_syncookies`
    pub syn_cookies: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`
    pub syn_backlog: Option<u64>,
    /// `net.core.netdev_max_backlog`
    pub netdev_max_backlog: Option<u64>,
    /// `net.ipv4.tcp_mem` in pages: low, pressure, high.
    pub tcp_mem: Option<[u64; 3]>,
    /// `net.ipv4.ip_local_port_range`
    pub local_ports: Option<(u64, u64)>,
    /// `net.netfilter.nf_conntrack_max`; `None` where there is no tracker.
    pub conntrack_max: Option<u64>,
    /// `net.netfilter.nf_conntrack_count`
    pub conntrack_count: Option<u64>,
    /// `net.ipv4.tcp_congestion_control` and the lists of those that there are and that everybody may choose.
    pub congestion_control: Option<String>,
    pub congestion_available: Option<String>,
    pub congestion_allowed: Option<String>,
    /// Whether a thread of the kernel looks through memory for what is not used (DAMON); `None` where there is none to be seen.
    pub scans_memory: Option<bool>,
    /// Packets dropped before TCP saw them, as a core's queue was full; since the start of the machine.
    pub softnet_drops: Option<u64>,
    /// Handshakes dropped at a full accept queue.
    pub listen_overflows: Option<u64>,
}

impl Host {
    /// Reads them all.
    pub fn read() -> Self {
        let status = text("/proc/self/status").unwrap_or_default();
        let word = |path| text(path).map(|text| text.trim().to_owned());
        Self {
            kernel: kernel_version(rustix::system::uname().release().to_str().unwrap_or_default()),
            ring: Ring::new(&Options::default()).map(|ring| ring.features().clone()),
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            seccomp: field(&status, "Seccomp:"),
            cpus: default_workers() as u64,
            memory_bytes: memory_bytes(),
            open_files_max: getrlimit(Resource::Nofile).maximum,
            locked_bytes_max: getrlimit(Resource::Memlock).current,
            locks_freely: has_capability(&status, CAPABILITY_IPC_LOCK),
            file_max: number("/proc/sys/fs/file-max"),
            nr_open: number("/proc/sys/fs/nr_open"),
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            syn_cookies: number("/proc/sys/net/ipv4/tcp_syncookies"),
            syn_backlog: number("/proc/sys/net/ipv4/tcp_max_syn_backlog"),
            netdev_max_backlog: number("/proc/sys/net/core/netdev_max_backlog"),
            tcp_mem: numbers("/proc/sys/net/ipv4/tcp_mem").and_then(|pages| pages.try_into().ok()),
            local_ports: numbers("/proc/sys/net/ipv4/ip_local_port_range")
                .and_then(|ports| Some((*ports.first()?, *ports.get(1)?))),
            conntrack_max: number("/proc/sys/net/netfilter/nf_conntrack_max"),
            conntrack_count: number("/proc/sys/net/netfilter/nf_conntrack_count"),
            congestion_control: word("/proc/sys/net/ipv4/tcp_congestion_control"),
            congestion_available: word("/proc/sys/net/ipv4/tcp_available_congestion_control"),
            congestion_allowed: word("/proc/sys/net/ipv4/tcp_allowed_congestion_control"),
            scans_memory: scans_memory(),
            softnet_drops: text("/proc/net/softnet_stat").and_then(|lines| softnet_drops(&lines)),
            listen_overflows: text("/proc/net/netstat").and_then(|lines| counter(&lines, "TcpExt:", "ListenOverflows")),
        }
    }
}

fn text(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn number(path: &str) -> Option<u64> {
    numbers(path)?.first().copied()
}

fn numbers(path: &str) -> Option<Vec<u64>> {
    text(path)?.split_ascii_whitespace().map(|word| word.parse().ok()).collect()
}

/// The least of what the machine has and what the control group, of either version, may use.
fn memory_bytes() -> Option<u64> {
    let machine = text("/proc/meminfo").and_then(|lines| memory_total(&lines));
    let groups = text("/proc/self/cgroup").unwrap_or_default();
    let limits = group_files(&groups).into_iter().filter_map(|file| number(&file)).filter(|limit| *limit < UNLIMITED);
    limits.chain(machine).min()
}

/// By what its users have set up, or by one of the modules that set it up themselves.
fn scans_memory() -> Option<bool> {
    let kdamonds = std::fs::read_dir("/sys/kernel/mm/damon/admin/kdamonds").into_iter().flatten().flatten();
    let states = kdamonds.filter_map(|kdamond| std::fs::read_to_string(kdamond.path().join("state")).ok());
    let modules = ["damon_reclaim", "damon_lru_sort", "damon_stat"];
    let modules = modules.into_iter().filter_map(|module| text(&format!("/sys/module/{module}/parameters/enabled")));
    states.chain(modules).map(|state| matches!(state.trim(), "on" | "Y")).reduce(|any, one| any | one)
}

/// Where the limits of our control group are, and those of the root as a container sees it.
fn group_files(groups: &str) -> Vec<String> {
    let path = |line: &str| line.rsplit(':').next().unwrap_or_default().trim_end_matches('/').to_owned();
    let files = groups.lines().filter_map(|line| match line.split(':').nth(1)? {
        "" => Some((path(line), "/sys/fs/cgroup", "memory.max")),
        names if names.split(',').any(|name| name == "memory") => {
            Some((path(line), "/sys/fs/cgroup/memory", "memory.limit_in_bytes"))
        }
        _ => None,
    });
    files.flat_map(|(group, root, name)| [format!("{root}{group}/{name}"), format!("{root}/{name}")]).collect()
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn memory_total(lines: &str) -> Option<u64> {
    let line = lines.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Whether a capability is in the effective set of `/proc/self/status`.
fn has_capability(status: &str, number: u32) -> bool {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| (set >> number) & 1 == 1)
}

/// One line per CPU, in hexadecimal; the second number counts packets that found the queue full.
fn softnet_drops(lines: &str) -> Option<u64> {
    lines.lines().map(|line| u64::from_str_radix(line.split_ascii_whitespace().nth(1)?, 16).ok()).sum()
}

/// A counter of a file in which a line of names is followed by one of values.
fn counter(lines: &str, table: &str, name: &str) -> Option<u64> {
    let mut rows = lines.lines().filter_map(|line| line.strip_prefix(table));
    let at = rows.next()?.split_ascii_whitespace().position(|word| word == name)?;
    rows.next()?.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// The number behind a name in a file like `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// The first two numbers of a release such as `6.12.3-amd64`.
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_texts_are_read() {
        assert_eq!(kernel_version("6.12.3-amd64"), Some((6, 12)));
        assert_eq!(kernel_version("5.4"), Some((5, 4)));
        assert_eq!(kernel_version("unknown"), None);
        assert_eq!(field("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n", "Seccomp:"), Some(2));
        assert_eq!(memory_total("MemTotal:       24639232 kB\nMemFree: 1 kB\n"), Some(24_639_232 << 10));
    }

    #[test]
    fn counters_are_read() {
        assert_eq!(softnet_drops("0a 000044c2 09\n0b 00000001 04\n"), Some(0x44c3));
        assert_eq!(softnet_drops("0a\n"), None);
        let netstat = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 23 4\nIpExt: InNoRoutes\nIpExt: 9\n";
        assert_eq!(counter(netstat, "TcpExt:", "ListenOverflows"), Some(23));
        assert_eq!(counter(netstat, "TcpExt:", "Unheard"), None);
        assert_eq!(counter("", "TcpExt:", "ListenOverflows"), None);
    }

    #[test]
    fn capabilities_are_bits() {
        assert!(has_capability("CapEff:\t000001fffeffffff\n", CAPABILITY_IPC_LOCK));
        assert!(!has_capability("CapEff:\t0000000000000400\n", CAPABILITY_IPC_LOCK));
        assert!(!has_capability("", CAPABILITY_IPC_LOCK));
    }

    #[test]
    fn control_groups_of_both_versions_are_looked_at() {
        assert_eq!(
            group_files("0::/system.slice/ringmain.service\n"),
            ["/sys/fs/cgroup/system.slice/ringmain.service/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(
            group_files("5:cpu,cpuacct:/a\n4:memory:/b\n"),
            ["/sys/fs/cgroup/memory/b/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
    }

    #[test]
    fn this_host_can_be_read() {
        let host = Host::read();
        assert!(host.kernel.is_some() && host.seccomp.is_some() && host.somaxconn.is_some() && host.file_max.is_some());
        assert!(host.memory_bytes.is_some() && host.softnet_drops.is_some() && host.listen_overflows.is_some());
        assert!(host.cpus > 0);
    }
}
