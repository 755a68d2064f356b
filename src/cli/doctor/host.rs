//! Facts about this host. What cannot be read is `None`, and then nothing is said about it.

use rustix::process::{Resource, getrlimit};

use crate::net::default_workers;
use crate::ring::{Features, Options, Ring, RingError};

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
    /// Workers that `workers = 0` means.
    pub workers: u64,
    /// Hard limit on open files: the server raises the soft one itself. `None` is unlimited.
    pub open_files_max: Option<u64>,
    /// Bytes that may be locked. `None` is unlimited.
    pub locked_bytes_max: Option<u64>,
    /// `net.core.somaxconn`
    pub somaxconn: Option<u64>,
    /// `net.core.netdev_max_backlog`
    pub netdev_max_backlog: Option<u64>,
    /// `net.ipv4.tcp_mem` in pages: low, pressure, high.
    pub tcp_mem: Option<[u64; 3]>,
    /// `net.ipv4.ip_local_port_range`
    pub local_ports: Option<(u64, u64)>,
    /// `net.netfilter.nf_conntrack_max`; `None` where connections are not tracked.
    pub conntrack_max: Option<u64>,
    /// `fs.file-max`
    pub file_max: Option<u64>,
    /// The chosen word of `transparent_hugepage/enabled`.
    pub huge_pages: Option<String>,
}

impl Host {
    /// Reads them all.
    pub fn read() -> Self {
        Self {
            kernel: kernel_version(rustix::system::uname().release().to_str().unwrap_or_default()),
            ring: Ring::new(&Options::default()).map(|ring| ring.features().clone()),
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            seccomp: text("/proc/self/status").and_then(|status| field(&status, "Seccomp:")),
            workers: default_workers() as u64,
            open_files_max: getrlimit(Resource::Nofile).maximum,
            locked_bytes_max: getrlimit(Resource::Memlock).current,
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            netdev_max_backlog: number("/proc/sys/net/core/netdev_max_backlog"),
            tcp_mem: numbers("/proc/sys/net/ipv4/tcp_mem").and_then(|pages| pages.try_into().ok()),
            local_ports: numbers("/proc/sys/net/ipv4/ip_local_port_range")
                .and_then(|ports| Some((*ports.first()?, *ports.get(1)?))),
            conntrack_max: number("/proc/sys/net/netfilter/nf_conntrack_max"),
            file_max: number("/proc/sys/fs/file-max"),
            huge_pages: text("/sys/kernel/mm/transparent_hugepage/enabled").and_then(|words| chosen(&words)),
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

/// The number behind a name in a file like `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Of `always [madvise] never` the one in brackets.
fn chosen(words: &str) -> Option<String> {
    let word = words.split_ascii_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    word.map(str::to_owned)
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
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
    }

    #[test]
    fn this_host_can_be_read() {
        let host = Host::read();
        assert!(host.kernel.is_some() && host.seccomp.is_some() && host.somaxconn.is_some() && host.file_max.is_some());
        assert!(host.workers > 0);
    }
}
