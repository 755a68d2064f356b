//! The server seen through `/proc`: the CPU time and the memory of its process, and how busy its core is.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::error::BenchError;

/// `/proc/stat` counts in these units (USER_HZ is 100 on every Linux architecture we build for).
const TICK_NANOS: u64 = 10_000_000;

/// What is looked at: a process, a core, both or neither.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    pub pid: Option<u32>,
    pub cpu: Option<u32>,
}

/// CPU time so far, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// User and system time of all threads of the process.
    process: Option<u64>,
    /// Time that the core neither idled nor was taken by the hypervisor.
    core_away: Option<u64>,
    at: u64,
}

/// CPU time between two samples, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Spent {
    pub process: Option<u64>,
    pub core: Option<u64>,
}

impl Spent {
    /// The sum, of what both have or only one does.
    pub fn and(self, other: Self) -> Self {
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        Self { process: sum(self.process, other.process), core: sum(self.core, other.core) }
    }
}

impl Server {
    /// Reads the counters at `now` (nanoseconds of the load's clock).
    pub fn sample(self, now: u64) -> Result<Sample, BenchError> {
        let process = self.pid.map(|pid| process_nanos(pid).map_err(|error| BenchError::Process { pid, error })).transpose()?;
        let core_away = self.cpu.map(core_away_nanos).transpose()?;
        Ok(Sample { process, core_away, at: now })
    }

    /// Memory, where the process is known.
    pub fn memory(self) -> Result<Option<Memory>, BenchError> {
        self.pid.map(|pid| memory(pid).map_err(|error| BenchError::Process { pid, error })).transpose()
    }
}

impl Sample {
    pub fn until(self, later: Self) -> Spent {
        let between = |first: Option<u64>, last: Option<u64>| Some(last?.saturating_sub(first?));
        Spent {
            process: between(self.process, later.process),
            core: between(self.core_away, later.core_away).map(|away| (later.at - self.at).saturating_sub(away)),
        }
    }
}

/// The scheduler's own sum for each thread, in nanoseconds: `stat` rounds to ticks.
fn process_nanos(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum += first_number(&text);
    }
    Ok(sum)
}

/// Time the core was idle (or waiting, or stolen).
fn core_away_nanos(cpu: u32) -> io::Result<u64> {
    parse_core(&fs::read_to_string("/proc/stat")?, cpu).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// `cpuN user nice system idle iowait irq softirq steal …`
fn parse_core(text: &str, cpu: u32) -> Option<u64> {
    let name = format!("cpu{cpu}");
    let line = text.lines().find(|line| line.split(' ').next() == Some(&name))?;
    let fields: Vec<u64> = line.split_ascii_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    let &[_, _, _, idle, iowait, _, _, steal, ..] = fields.as_slice() else { return None };
    Some((idle + iowait + steal) * TICK_NANOS)
}

/// Bytes of a process.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Memory {
    /// Pages that are in memory, those of files (code, mostly) and those that the allocator holds free included.
    pub resident: u64,
    /// Pages that are this process's alone and written to: its own memory, without the files that it has mapped.
    pub private: u64,
    /// The kernel's small objects (sockets, polls, receives among them), of the whole host, `/proc`'s own left out.
    pub slab: u64,
}

/// `smaps_rollup` walks the page tables and so is exact; `status` keeps per-CPU remainders back (its RssAnon is the nearest
/// that it has to private dirty pages).
fn memory(pid: u32) -> io::Result<Memory> {
    let path = PathBuf::from(format!("/proc/{pid}"));
    match fs::read_to_string(path.join("smaps_rollup")) {
        Ok(text) => Ok(Memory { resident: kib(&text, "Rss:"), private: kib(&text, "Private_Dirty:"), slab: slab() }),
        Err(_) => fs::read_to_string(path.join("status")).map(|text| Memory {
            resident: kib(&text, "VmRSS:"),
            private: kib(&text, "RssAnon:"),
            slab: slab(),
        }),
    }
}

/// Without what the kernel remembers of `/proc`: whoever looks through there (an agent that watches the host, mostly) leaves behind an
/// inode and a name for every descriptor of every process, a connection's among them, and no connection needs those.
fn slab() -> u64 {
    let all = fs::read_to_string("/proc/meminfo").map_or(0, |text| kib(&text, "Slab:"));
    // Only root may read which caches there are.
    let caches = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    all.saturating_sub(remembered_of_proc(&caches).unwrap_or(0))
}

fn remembered_of_proc(slabinfo: &str) -> Option<u64> {
    let (inodes, inode_places, inode_bytes) = cache(slabinfo, "proc_inode_cache")?;
    let (names, name_places, name_bytes) = cache(slabinfo, "dentry")?;
    // The places that are empty were theirs before, or will be.
    let names_of_others = names.saturating_sub(inodes);
    Some(inode_places * inode_bytes + name_places.saturating_sub(names_of_others) * name_bytes)
}

/// Objects in use, places for objects, and the bytes of each, of one cache.
fn cache(slabinfo: &str, name: &str) -> Option<(u64, u64, u64)> {
    let fields = slabinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    let mut numbers = fields.split_ascii_whitespace().map_while(|field| field.parse().ok());
    Some((numbers.next()?, numbers.next()?, numbers.next()?))
}

/// What the kernel holds to be sent (and not yet acknowledged) on the server's sockets to `peers`: SIOCOUTQ, seen from
/// outside. Direct descriptors are in no process's table, but their sockets are listed like any other.
pub fn kernel_queues(pid: Option<u32>, server: SocketAddr, peers: &HashSet<SocketAddr>) -> io::Result<Vec<u64>> {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let mut queues = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = match fs::read_to_string(format!("/proc/{process}/net/{table}")) {
            Ok(text) => text,
            // There is no such table where there is no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        queues.extend(text.lines().filter_map(|line| kernel_queue(line, server.port(), peers)));
    }
    Ok(queues)
}

/// `sl: LOCAL:PORT REMOTE:PORT st TX:RX …`, all hexadecimal.
fn kernel_queue(line: &str, port: u16, peers: &HashSet<SocketAddr>) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (fields.next()?, fields.next()?);
    let queues = fields.nth(1)?;
    let ours = local.rsplit_once(':').is_some_and(|(_, text)| u16::from_str_radix(text, 16) == Ok(port));
    if !ours || !peers.contains(&address(remote)?) {
        return None;
    }
    u64::from_str_radix(queues.split_once(':')?.0, 16).ok()
}

/// An address as the kernel prints it: words of four bytes as the machine reads them.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let bytes: Vec<u8> = words
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<Vec<_>>>()?
        .concat();
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => IpAddr::from(four),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).to_canonical(),
    };
    Some(SocketAddr::new(ip, port))
}

fn kib(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |rest| first_number(rest) * 1024)
}

fn first_number(text: &str) -> u64 {
    text.split_ascii_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_busy_where_it_is_not_away() {
        let stat = |idle| format!("cpu  1 1 1 1 1 1 1 1 0 0\ncpu1 9 9 9 9 9 9 9 9 0 0\ncpu10 5 0 5 {idle} 2 1 1 3 0 0\n");
        assert_eq!(parse_core(&stat(100), 10), Some(105 * TICK_NANOS));
        assert_eq!(parse_core(&stat(100), 2), None);
        let sample = |idle, at| Sample { process: Some(at / 2), core_away: parse_core(&stat(idle), 10), at };
        let spent = sample(100, 1_000_000_000).until(sample(160, 2_000_000_000));
        assert_eq!(spent, Spent { process: Some(500_000_000), core: Some(400_000_000) });
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "00400000-7fff rollup\nRss:               12 kB\nPss_Dirty: 3 kB\nPrivate_Dirty:      8 kB\n";
        assert_eq!((kib(text, "Rss:"), kib(text, "Private_Dirty:"), kib(text, "Swap:")), (12 << 10, 8 << 10, 0));
    }

    #[test]
    fn what_is_remembered_of_proc_is_no_connections() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\n\
                    proc_inode_cache_of_others 9 9 9 1 1 : tunables 0 0 0\n\
                    proc_inode_cache     952   1702    696   23    4 : tunables    0    0    0 : slabdata     74     74      0\n\
                    dentry             84219 100149    192   21    1 : tunables    0    0    0 : slabdata   4769   4769      0\n";
        assert_eq!(remembered_of_proc(text), Some(1702 * 696 + (952 + 100_149 - 84_219) * 192));
        assert_eq!(remembered_of_proc(""), None);
    }

    #[test]
    fn a_full_socket_is_found_with_what_it_holds() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let open = || {
            let client = std::net::TcpStream::connect(address).expect("a listener");
            (client.local_addr().expect("connected"), client, listener.accept().expect("a client").0)
        };
        let (full, idle) = (open(), open());
        full.2.set_nonblocking(true).expect("a socket");
        while (&full.2).write(&[0; 65_536]).is_ok() {}
        let queues = |peer| kernel_queues(None, address, &HashSet::from([peer])).expect("/proc/self/net");
        let [held] = queues(full.0)[..] else { panic!("one socket has this peer") };
        assert!((1 << 12..64 << 20).contains(&held), "{held}");
        assert_eq!((queues(idle.0), queues(address)), (vec![0], vec![]));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_of_both_families_are_read() {
        let line = |local: &str, remote: &str| format!("  7: {local}:1F90 {remote}:D431 01 00001A2B:00000000 00:00000000 00000000");
        let queue = |local: &str, remote: &str, peer: &str| {
            kernel_queue(&line(local, remote), 8080, &HashSet::from([peer.parse().expect("an address")]))
        };
        assert_eq!(queue("0100007F", "0203007F", "127.0.3.2:54321"), Some(0x1a2b));
        let (loopback, mapped) = ("00000000000000000000000001000000", "0000000000000000FFFF00000203007F");
        assert_eq!(queue(loopback, loopback, "[::1]:54321"), Some(0x1a2b));
        assert_eq!(queue(loopback, mapped, "127.0.3.2:54321"), Some(0x1a2b));
        assert_eq!(queue(loopback, mapped, "127.0.3.3:54321"), None);
        assert_eq!(
            kernel_queue(&line("0100007F", "0203007F"), 8081, &HashSet::from(["127.0.3.2:54321".parse().expect("one")])),
            None
        );
    }

    #[test]
    fn this_process_can_be_read() {
        let server = Server { pid: Some(std::process::id()), cpu: None };
        let first = server.sample(0).expect("a live process");
        let mut held = vec![0u8; 64 << 20];
        held.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        let spent = first.until(server.sample(1).expect("a live process"));
        assert!(spent.process.is_some_and(|nanos| nanos > 0) && spent.core.is_none(), "{spent:?}");
        let memory = server.memory().expect("a live process").expect("a pid was given");
        assert!(memory.private >= 64 << 20 && memory.private <= memory.resident, "{memory:?}");
        assert!(Server { pid: Some(u32::MAX), cpu: None }.sample(0).is_err());
        drop(held);
    }
}
