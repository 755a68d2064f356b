//! Everything that can be said about a host under a load. Pure: the facts are in [`Host`], the needs in [`Load`].

use super::finding::Finding;
use super::host::Host;
use super::load::Load;
use super::{limits, network, system};

/// What keeps a server from starting comes first, then limits, then the network, then what has been seen already.
pub fn examine(host: &Host, load: &Load) -> Vec<Finding> {
    let findings = [
        system::kernel(host, load),
        system::ring(host, load),
        system::disabled(host, load),
        system::seccomp(host, load),
        system::interface(host, load),
        network::congestion_control(host, load),
        Some(system::cpus(host, load, limits::workers_for_descriptors(host, load))),
        Some(system::memory(host, load)),
        system::memory_scans(host),
        Some(limits::open_files(host, load)),
        Some(limits::nr_open(host, load)),
        Some(limits::file_max(host, load)),
        limits::locked_memory(host, load),
        Some(network::tcp_memory(host, load)),
        Some(network::somaxconn(host, load)),
        network::syn_backlog(host, load),
        Some(network::netdev_backlog(host)),
        network::local_ports(host, load),
        network::conntrack(host, load),
        Some(network::softnet_drops(host)),
        Some(network::listen_overflows(host, load)),
    ];
    findings.into_iter().flatten().collect()
}
