//! Rules about limits: descriptors of a worker, of a process and of the machine; locked memory.

use super::finding::Finding;
use super::host::Host;
use super::load::Load;
use super::sysctl;
use super::system::{RING_BYTES_PER_WORKER, is_on_epoll};
use crate::net::Io;
use crate::ring;

/// `LimitNOFILE=` of the unit that we ship.
const SHIPPED_FILES_MAX: u64 = 1 << 20;
/// Open files of everything else on the machine.
const OTHER_FILES: u64 = 10_000;

/// Entries of one worker's table: its share, which may be a twentieth short of full before connections go to another worker.
fn table_of(sockets: u64, workers: u64) -> u64 {
    (u128::from(sockets) * 20).div_ceil(u128::from(workers.max(1)) * 19).try_into().unwrap_or(u64::MAX)
}

/// Workers that are needed for the descriptors that they have: on epoll they share what there is.
pub fn workers_for_descriptors(host: &Host, load: &Load) -> u64 {
    if is_on_epoll(host, load) { 1 } else { workers_for(load.sockets(), host.open_files_max) }
}

/// Workers that together have a table large enough, with this limit for each.
fn workers_for(sockets: u64, open_files_max: Option<u64>) -> u64 {
    let largest = u64::from(ring::Options::default().files_max);
    table_of(sockets, open_files_max.map_or(largest, |limit| limit.min(largest)).max(1))
}

pub fn open_files(host: &Host, load: &Load) -> Finding {
    let largest = u64::from(ring::Options::default().files_max);
    if is_on_epoll(host, load) {
        return open_files_on_epoll(host, load);
    }
    let table = table_of(load.sockets(), load.workers);
    let limit = host.open_files_max;
    let found = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("{limit} per worker"));
    let needed = format!("{table} per worker, for {} connections on {}", load.sockets(), load.workers);
    let finding = Finding::good("RLIMIT_NOFILE", found, needed);
    let workers = workers_for(load.sockets(), limit);
    if table > largest {
        return finding.improve(format!("[server] workers = {workers}: a worker's table has at most {largest} entries"));
    }
    finding.unless(limit.is_none_or(|limit| limit >= table), || {
        format!(
            "LimitNOFILE={SHIPPED_FILES_MAX} in the unit (`ulimit -Hn`), or [server] workers = {workers}: the limit is per worker"
        )
    })
}

/// Descriptors are the process's then, and no number of workers makes more of them.
fn open_files_on_epoll(host: &Host, load: &Load) -> Finding {
    let (limit, table) = (host.open_files_max, table_of(load.sockets(), 1));
    let found = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("{limit} for all workers together"));
    let finding = Finding::good("RLIMIT_NOFILE", found, format!("{table} on epoll, for {} connections", load.sockets()));
    finding.unless(limit.is_none_or(|limit| limit >= table), || {
        format!("LimitNOFILE={} in the unit (`ulimit -Hn`)", table.max(SHIPPED_FILES_MAX))
    })
}

pub fn nr_open(host: &Host, load: &Load) -> Finding {
    const WHAT: &str = "fs.nr_open";
    let needed = if is_on_epoll(host, load) {
        table_of(load.sockets(), 1)
    } else {
        table_of(load.sockets(), load.workers).min(u64::from(ring::Options::default().files_max))
    };
    at_least(WHAT, host.nr_open, needed, "to be allowed as RLIMIT_NOFILE")
}

pub fn file_max(host: &Host, load: &Load) -> Finding {
    at_least("fs.file-max", host.file_max, load.sockets().saturating_add(OTHER_FILES), "open files of the whole machine")
}

/// Rings need it, and nothing else does.
pub fn locked_memory(host: &Host, load: &Load) -> Option<Finding> {
    const WHAT: &str = "RLIMIT_MEMLOCK";
    if load.io == Io::Epoll {
        return None;
    }
    let kib = (load.workers * RING_BYTES_PER_WORKER) >> 10;
    let needed = format!("{kib} KiB, for the rings of {} workers", load.workers);
    Some(match host.locked_bytes_max {
        None => Finding::good(WHAT, "no limit", needed),
        Some(limit) if host.locks_freely => {
            Finding::good(WHAT, format!("{} KiB, which this user need not keep to", limit >> 10), needed)
        }
        Some(limit) => Finding::good(WHAT, format!("{} KiB", limit >> 10), needed).unless(limit >> 10 >= kib, || {
            "LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`; with less, completion queues are shrunk".to_owned()
        }),
    })
}

/// A number that is better the larger it is, of a knob that is a line of our file.
pub fn at_least(knob: &'static str, found: Option<u64>, needed: u64, why: &str) -> Finding {
    let wanted = format!("{needed} {why}");
    let Some(found) = found else { return Finding::unknown(knob, wanted) };
    Finding::good(knob, found.to_string(), wanted).unless(found >= needed, || sysctl::line(knob, needed))
}
