//! Rules about TCP: queues, socket memory, ports, the connection tracker, and what the counters already tell.

use super::finding::Finding;
use super::host::Host;
use super::limits::at_least;
use super::load::Load;
use super::sysctl;

/// What Linux gives by default. More only where packets have been dropped: broadcasts to 19,000 connections on loopback drop none.
const NETDEV_BACKLOG_MIN: u64 = 1000;

pub fn somaxconn(host: &Host, load: &Load) -> Finding {
    at_least("net.core.somaxconn", host.somaxconn, load.backlog, "connections that wait for their accept, per worker and address")
}

/// With SYN cookies, half-open connections are limited by the queue of the listener alone; without, to three quarters of this.
pub fn syn_backlog(host: &Host, load: &Load) -> Option<Finding> {
    const WHAT: &str = "net.ipv4.tcp_max_syn_backlog";
    let needed = (load.backlog * 4).div_ceil(3);
    Some(match host.syn_cookies? {
        0 => at_least(WHAT, host.syn_backlog, needed, "half-open connections, as SYN cookies are off"),
        _ => Finding::good(WHAT, "not looked at: SYN cookies are on", "nothing"),
    })
}

pub fn netdev_backlog(host: &Host) -> Finding {
    at_least("net.core.netdev_max_backlog", host.netdev_max_backlog, NETDEV_BACKLOG_MIN, "packets that wait for a busy core")
}

/// Sends are refused above the second of the three numbers.
pub fn tcp_memory(host: &Host, load: &Load) -> Finding {
    const WHAT: &str = "net.ipv4.tcp_mem";
    let pages = load.sockets();
    let needed = format!("{pages} pages as the second number: one for each connection that holds anything unread");
    let Some([low, pressure, high]) = host.tcp_mem else { return Finding::unknown(WHAT, needed) };
    Finding::good(WHAT, format!("{low} {pressure} {high}"), needed).unless(pressure >= pages, || {
        let (second, third) = (pages.saturating_mul(3) / 2, pages.saturating_mul(2));
        format!("{WHAT} = {} {} {} (sysctl; `make tune` sets all of them)", pages.max(low), second, third.max(high))
    })
}

/// Only towards upstreams: each address takes as many connections as there are ports.
pub fn local_ports(host: &Host, load: &Load) -> Option<Finding> {
    const WHAT: &str = "net.ipv4.ip_local_port_range";
    let (address, most) = load.upstreams.iter().max_by_key(|(_, most)| *most)?;
    let needed = format!("{most} ports for connections to {address}");
    let Some((low, high)) = host.local_ports else { return Some(Finding::unknown(WHAT, needed)) };
    let ports = (high + 1).saturating_sub(low);
    Some(Finding::good(WHAT, format!("{low} {high}: {ports} ports"), needed).unless(ports >= *most, || {
        let range = sysctl::shipped(WHAT).unwrap_or_default();
        let room = range.last().zip(range.first()).map_or(0, |(high, low)| high + 1 - low);
        let range = range.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        let rest = if room < *most { "; the rest waits, or a lower connections_max" } else { "" };
        format!("{WHAT} = {range} (sysctl; `make tune` sets all of them){rest}")
    }))
}

/// Nothing where the tracker is not loaded.
pub fn conntrack(host: &Host, load: &Load) -> Option<Finding> {
    const WHAT: &str = "net.netfilter.nf_conntrack_max";
    let max = host.conntrack_max?;
    // A quarter more for those that have been closed and whose entries remain for a while.
    let entries = load.sockets().saturating_mul(5) / 4;
    let needed = format!("{entries} entries, or connections that are not tracked");
    let finding = |found: String| Finding::good(WHAT, found, needed);
    Some(match host.conntrack_count {
        Some(0) => finding(format!("{max}, and nothing is tracked")),
        _ => finding(max.to_string())
            .unless(max >= entries, || format!("{}, or notrack rules (docs/tuning.md)", sysctl::line(WHAT, entries))),
    })
}

/// Packets for which the queue of a core had no room. They say nothing about now once the queue is as long as we would have it.
pub fn softnet_drops(host: &Host) -> Finding {
    const WHAT: &str = "softnet drops";
    const KNOB: &str = "net.core.netdev_max_backlog";
    const NEEDED: &str = "none";
    let Some(drops) = host.softnet_drops else { return Finding::unknown(WHAT, NEEDED) };
    let shipped = sysctl::shipped(KNOB).and_then(|numbers| numbers.first().copied()).unwrap_or(0);
    let is_raised = host.netdev_max_backlog.is_some_and(|length| length >= shipped);
    let note = if drops > 0 && is_raised { ", perhaps before the queue was as long as now: see if it grows" } else { "" };
    Finding::good(WHAT, format!("{drops} since the start of the machine{note}"), NEEDED)
        .unless(drops == 0 || is_raised, || sysctl::line(KNOB, shipped))
}

pub fn listen_overflows(host: &Host, load: &Load) -> Finding {
    const WHAT: &str = "listen overflows";
    const NEEDED: &str = "none";
    let Some(overflows) = host.listen_overflows else { return Finding::unknown(WHAT, NEEDED) };
    let found = format!("{overflows} handshakes dropped at a full accept queue since the start, of all servers here");
    Finding::good(WHAT, found, NEEDED).unless(overflows == 0, || match host.somaxconn {
        Some(length) if length < load.backlog => sysctl::line("net.core.somaxconn", load.backlog),
        _ => "more workers, or CPU time for them; `nstat -az TcpExtListenOverflows` tells if it still grows".to_owned(),
    })
}

pub fn congestion_control(host: &Host, load: &Load) -> Option<Finding> {
    const WHAT: &str = "congestion control";
    let Some(name) = &load.congestion_control else {
        let system = host.congestion_control.as_deref()?;
        return Some(Finding::good(WHAT, format!("{system}, the system's"), "any"));
    };
    let needed = format!("{name}, as configured");
    let (Some(available), Some(allowed)) = (&host.congestion_available, &host.congestion_allowed) else {
        return Some(Finding::unknown(WHAT, needed));
    };
    let finding = Finding::good(WHAT, format!("available: {available}; for everybody: {allowed}"), needed);
    let has = |list: &str| list.split_ascii_whitespace().any(|word| word == name);
    Some(if !has(available) {
        finding.fix(format!("modprobe tcp_{name}, or another io.congestion_control: the server cannot listen"))
    } else {
        finding.unless(has(allowed), || {
            format!("net.ipv4.tcp_allowed_congestion_control = {allowed} {name} (sysctl), or CAP_NET_ADMIN for the server")
        })
    })
}
