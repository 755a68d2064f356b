//! Every rule on made-up hosts: a healthy one under a million connections, with one thing changed.

use std::net::SocketAddr;

use super::finding::{Finding, Verdict};
use super::findings::examine;
use super::host::Host;
use super::load::Load;
use super::{report, sysctl};
use crate::net::Io;
use crate::ring::{Features, RingError, SetupFlags};

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

fn shipped(knob: &str) -> Vec<u64> {
    sysctl::shipped(knob).unwrap_or_else(|| panic!("{knob} is not in the file"))
}

/// With what we ship, and 16 GiB.
fn healthy() -> Host {
    let first = |knob| Some(shipped(knob)[0]);
    Host {
        kernel: Some((6, 12)),
        ring: Ok(features()),
        io_uring_disabled: first("kernel.io_uring_disabled"),
        seccomp: Some(0),
        cpus: 4,
        memory_bytes: Some(16 << 30),
        open_files_max: Some(1 << 20),
        locked_bytes_max: None,
        locks_freely: false,
        file_max: first("fs.file-max"),
        nr_open: first("fs.nr_open"),
        somaxconn: first("net.core.somaxconn"),
        syn_cookies: Some(0),
        syn_backlog: first("net.ipv4.tcp_max_syn_backlog"),
        netdev_max_backlog: first("net.core.netdev_max_backlog"),
        tcp_mem: shipped("net.ipv4.tcp_mem").try_into().ok(),
        local_ports: Some((shipped("net.ipv4.ip_local_port_range")[0], shipped("net.ipv4.ip_local_port_range")[1])),
        conntrack_max: first("net.netfilter.nf_conntrack_max"),
        conntrack_count: Some(7),
        congestion_control: Some("cubic".to_owned()),
        congestion_available: Some("reno cubic bbr".to_owned()),
        congestion_allowed: Some("reno cubic".to_owned()),
        scans_memory: Some(false),
        softnet_drops: Some(0),
        listen_overflows: Some(0),
    }
}

fn upstream() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 80))
}

fn million() -> Load {
    Load {
        connections: 1_000_000,
        workers: 4,
        io: Io::Auto,
        backlog: 4096,
        upstreams: vec![(upstream(), 4096)],
        congestion_control: None,
    }
}

/// The one finding about something, with a change to the host and the load.
#[track_caller]
fn finding(what: &str, change: impl FnOnce(&mut Host, &mut Load)) -> Finding {
    let (mut host, mut load) = (healthy(), million());
    change(&mut host, &mut load);
    let mut findings = examine(&host, &load);
    findings.retain(|finding| finding.what == what);
    assert_eq!(findings.len(), 1, "about {what}: {findings:?}");
    findings.remove(0)
}

#[track_caller]
fn check(what: &str, change: impl FnOnce(&mut Host, &mut Load), verdict: Verdict, remedy: &str) {
    let finding = finding(what, change);
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    assert_eq!(finding.remedy.is_some(), verdict != Verdict::Good, "{finding:?}");
    assert!(finding.remedy.as_deref().unwrap_or_default().contains(remedy), "{finding:?}");
}

#[track_caller]
fn improves(what: &str, change: impl FnOnce(&mut Host, &mut Load), remedy: &str) {
    check(what, change, Verdict::Improve, remedy);
}

#[track_caller]
fn is_good(what: &str, change: impl FnOnce(&mut Host, &mut Load)) {
    check(what, change, Verdict::Good, "");
}

#[test]
fn what_we_ship_carries_a_million() {
    let findings = examine(&healthy(), &million());
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:#?}");
    assert_eq!(findings.len(), 21, "every rule speaks");
    assert_eq!(report::status(&findings), 0);
}

#[test]
fn what_keeps_io_uring_from_being_used_is_to_be_improved() {
    improves("kernel", |host, _| host.kernel = Some((5, 15)), "6.1");
    improves("io_uring", |host, _| host.ring = Err(RingError::Seccomp), "seccomp");
    improves("[server] io = auto", |host, _| host.ring = Err(RingError::Seccomp), "RLIMIT_NOFILE bounds all workers together");
    let blocked = |host: &mut Host, _: &mut Load| (host.ring, host.seccomp) = (Err(RingError::Seccomp), Some(2));
    improves("seccomp", blocked, "tuning/seccomp.json");
    let off =
        |host: &mut Host, _: &mut Load| (host.ring, host.io_uring_disabled) = (Err(RingError::Disabled { level: 2 }), Some(2));
    improves("kernel.io_uring_disabled", off, "kernel.io_uring_disabled = 0");
    let few = |host: &mut Host, load: &mut Load| {
        (host.ring, host.open_files_max) = (Err(RingError::Seccomp), Some(load.connections * 3 / 4));
    };
    improves("RLIMIT_NOFILE", few, "LimitNOFILE");
}

#[test]
fn a_server_that_insists_on_io_uring_does_not_start_without() {
    let refused = |host: &mut Host, load: &mut Load| {
        load.io = Io::Uring;
        (host.ring, host.kernel) = (Err(RingError::Disabled { level: 2 }), Some((5, 15)));
        (host.io_uring_disabled, host.seccomp) = (Some(2), Some(2));
    };
    for (what, remedy) in [
        ("[server] io = uring", "[server] io = \"auto\""),
        ("io_uring", "sysctl kernel.io_uring_disabled=0"),
        ("kernel.io_uring_disabled", "kernel.io_uring_disabled = 0"),
        ("kernel", "6.1"),
        ("seccomp", "tuning/seccomp.json"),
    ] {
        check(what, refused, Verdict::Fix, remedy);
    }
    is_good("[server] io = uring", |_, load| load.io = Io::Uring);
    let few = |host: &mut Host, load: &mut Load| {
        refused(host, load);
        host.open_files_max = Some(264_235);
    };
    improves("RLIMIT_NOFILE", few, "the limit is per worker");
}

#[test]
fn a_server_on_epoll_is_told_nothing_of_io_uring() {
    let load = Load { io: Io::Epoll, ..million() };
    let chosen = Host { open_files_max: Some(1_056_944), ..healthy() };
    let refused = Host {
        kernel: Some((5, 11)),
        ring: Err(RingError::Seccomp),
        io_uring_disabled: Some(2),
        seccomp: Some(2),
        locked_bytes_max: Some(0),
        ..chosen.clone()
    };
    for host in [chosen, refused] {
        let findings = examine(&host, &load);
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:#?}");
        let said = report::text(&load, &findings);
        assert!(!["io_uring", "seccomp", "rings", "per worker,"].iter().any(|word| said.contains(word)), "{said}");
    }
    let old = |host: &mut Host, load: &mut Load| (host.kernel, load.io) = (Some((5, 10)), Io::Epoll);
    check("kernel", old, Verdict::Fix, "5.11");
}

#[test]
fn on_epoll_workers_share_their_descriptors() {
    for (io, ring) in [(Io::Epoll, Ok(features())), (Io::Auto, Err(RingError::Seccomp))] {
        let with = |change: fn(&mut Host)| {
            let ring = ring.clone();
            move |host: &mut Host, load: &mut Load| {
                (load.io, host.ring) = (io, ring);
                change(host);
            }
        };
        is_good("RLIMIT_NOFILE", with(|host| host.open_files_max = Some(1_056_944)));
        improves("RLIMIT_NOFILE", with(|host| host.open_files_max = Some(1_056_943)), "LimitNOFILE=1056944");
        improves("fs.nr_open", with(|host| host.nr_open = Some(1_056_943)), "fs.nr_open = 1073741816");
        // 53 workers hold no more than 4.
        let many = |host: &mut Host, load: &mut Load| {
            with(|host| host.open_files_max = Some(20_000))(host, load);
            load.workers = 53;
        };
        improves("workers", many, "workers = 0, or 4");
    }
}

#[test]
fn what_keeps_the_server_from_starting_is_to_be_fixed() {
    let old = |host: &mut Host, _: &mut Load| (host.ring, host.kernel) = (Err(RingError::OldKernel), Some((5, 10)));
    check("[server] io = auto", old, Verdict::Fix, "5.11");
    let unheard = |_: &mut Host, load: &mut Load| load.congestion_control = Some("vegas".to_owned());
    check("congestion control", unheard, Verdict::Fix, "modprobe tcp_vegas");
}

#[test]
fn kernels() {
    improves("kernel", |host, _| host.kernel = Some((6, 1)), "6.7");
    improves("io_uring", |host, _| host.ring = Ok(Features { missing: SetupFlags::NO_SQARRAY, ..features() }), "newer kernel");
    is_good("kernel.io_uring_disabled", |host, _| host.io_uring_disabled = Some(1));
    is_good("seccomp", |host, _| host.seccomp = Some(2));
}

#[test]
fn descriptors_of_a_worker() {
    // A quarter of 1,004,096, and a twentieth more.
    is_good("RLIMIT_NOFILE", |host, _| host.open_files_max = Some(264_236));
    improves("RLIMIT_NOFILE", |host, _| host.open_files_max = Some(264_235), "LimitNOFILE=1048576");
    improves("RLIMIT_NOFILE", |host, _| host.open_files_max = Some(20_000), "workers = 53");
    is_good("RLIMIT_NOFILE", |host, load| (host.open_files_max, load.workers) = (Some(20_000), 53));
    is_good("RLIMIT_NOFILE", |host, _| host.open_files_max = None);
    improves("RLIMIT_NOFILE", |host, load| (host.open_files_max, load.connections) = (None, 8_000_000), "workers = 9");
    improves("fs.nr_open", |host, _| host.nr_open = Some(65_536), "fs.nr_open = 1073741816");
}

#[test]
fn descriptors_of_the_machine() {
    is_good("fs.file-max", |host, _| host.file_max = Some(1_014_096));
    improves("fs.file-max", |host, _| host.file_max = Some(1_014_095), "fs.file-max = 9223372036854775807");
}

#[test]
fn locked_memory() {
    is_good("RLIMIT_MEMLOCK", |host, _| host.locked_bytes_max = Some(8 << 20));
    improves("RLIMIT_MEMLOCK", |host, _| host.locked_bytes_max = Some(7 << 20), "LimitMEMLOCK=infinity");
    is_good("RLIMIT_MEMLOCK", |host, _| (host.locked_bytes_max, host.locks_freely) = (Some(0), true));
}

#[test]
fn memory_of_connections() {
    // A million idle ones and their unread pages are 8,000 MiB, and a little for the rest.
    is_good("memory", |host, _| host.memory_bytes = Some(8300 << 20));
    improves("memory", |host, _| host.memory_bytes = Some(6 << 30), "coalesce");
    improves("memory", |host, _| host.memory_bytes = Some(4 << 30), "fewer connections");
    check("memory", |host, _| host.memory_bytes = None, Verdict::Unknown, "on the host");
}

#[test]
fn workers_and_cpus() {
    is_good("workers", |_, load| load.workers = 2);
    improves("workers", |_, load| load.workers = 5, "workers = 0, or 4");
    // So many are needed where the limit is low.
    is_good("workers", |host, load| (host.open_files_max, load.workers) = (Some(20_000), 53));
}

#[test]
fn socket_memory() {
    is_good("net.ipv4.tcp_mem", |host, _| host.tcp_mem = Some([1, 1_004_096, 1_004_097]));
    let little = |host: &mut Host, _: &mut Load| host.tcp_mem = Some([287_901, 383_868, 575_802]);
    improves("net.ipv4.tcp_mem", little, "net.ipv4.tcp_mem = 1004096 1506144 2008192");
    let finding = finding("net.ipv4.tcp_mem", little);
    assert!(finding.found.contains("383868") && finding.needed.contains("1004096"), "{finding:?}");
    check("net.ipv4.tcp_mem", |host, _| host.tcp_mem = None, Verdict::Unknown, "on the host");
}

#[test]
fn queues() {
    improves("net.core.somaxconn", |host, _| host.somaxconn = Some(128), "net.core.somaxconn = 4096");
    improves("net.core.somaxconn", |_, load| load.backlog = 6000, "net.core.somaxconn = 6000");
    improves("net.ipv4.tcp_max_syn_backlog", |host, _| host.syn_backlog = Some(4096), "net.ipv4.tcp_max_syn_backlog = 8192");
    is_good("net.ipv4.tcp_max_syn_backlog", |host, _| (host.syn_backlog, host.syn_cookies) = (Some(128), Some(1)));
    is_good("net.core.netdev_max_backlog", |host, _| host.netdev_max_backlog = Some(1000));
    improves("net.core.netdev_max_backlog", |host, _| host.netdev_max_backlog = Some(300), "net.core.netdev_max_backlog = 16384");
    check("net.core.netdev_max_backlog", |host, _| host.netdev_max_backlog = None, Verdict::Unknown, "on the host");
}

#[test]
fn ports_towards_upstreams() {
    const WHAT: &str = "net.ipv4.ip_local_port_range";
    is_good(WHAT, |host, _| host.local_ports = Some((32_768, 60_999)));
    improves(WHAT, |host, _| host.local_ports = Some((60_000, 61_000)), "ip_local_port_range = 10000 65535");
    improves(WHAT, |_, load| load.upstreams = vec![(upstream(), 1), (upstream(), 60_000)], "the rest waits");
    let (host, load) = (healthy(), Load { upstreams: Vec::new(), ..million() });
    assert!(examine(&host, &load).iter().all(|finding| finding.what != WHAT), "nothing is said where there is no upstream");
}

#[test]
fn tracked_connections() {
    const WHAT: &str = "net.netfilter.nf_conntrack_max";
    improves(WHAT, |host, _| host.conntrack_max = Some(262_144), "net.netfilter.nf_conntrack_max = 2097152");
    improves(WHAT, |_, load| load.connections = 2_000_000, "nf_conntrack_max = 2505120");
    is_good(WHAT, |host, _| (host.conntrack_max, host.conntrack_count) = (Some(262_144), Some(0)));
    let host = Host { conntrack_max: None, ..healthy() };
    assert!(examine(&host, &million()).iter().all(|finding| finding.what != WHAT), "nothing is said where nothing tracks");
}

#[test]
fn what_has_been_seen_already() {
    let dropped =
        |length| move |host: &mut Host, _: &mut Load| (host.softnet_drops, host.netdev_max_backlog) = (Some(9), Some(length));
    improves("softnet drops", dropped(1000), "net.core.netdev_max_backlog = 16384");
    is_good("softnet drops", dropped(16_384));
    improves("listen overflows", |host, _| host.listen_overflows = Some(1), "more workers");
    improves("listen overflows", |host, _| (host.listen_overflows, host.somaxconn) = (Some(1), Some(128)), "net.core.somaxconn");
    check("softnet drops", |host, _| host.softnet_drops = None, Verdict::Unknown, "on the host");
    check("listen overflows", |host, _| host.listen_overflows = None, Verdict::Unknown, "on the host");
}

#[test]
fn congestion_controls() {
    let chosen = |name: &'static str| move |_: &mut Host, load: &mut Load| load.congestion_control = Some(name.to_owned());
    is_good("congestion control", chosen("reno"));
    improves("congestion control", chosen("bbr"), "tcp_allowed_congestion_control = reno cubic bbr");
    is_good("congestion control", |host, _| host.congestion_control = Some("bbr".to_owned()));
}

#[test]
fn a_small_load_needs_little() {
    let load = Load { connections: 10_000, workers: 4, ..million() };
    let host = Host {
        memory_bytes: Some(1 << 30),
        open_files_max: Some(4096),
        tcp_mem: Some([22_000, 29_000, 44_000]),
        file_max: Some(100_000),
        netdev_max_backlog: Some(1000),
        conntrack_max: Some(65_536),
        ..healthy()
    };
    let findings = examine(&host, &load);
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:#?}");
}

#[test]
fn reports_say_all_of_it() {
    let host = Host { somaxconn: Some(128), tcp_mem: None, ..healthy() };
    let findings = examine(&host, &million());
    assert_eq!(report::status(&findings), 1);
    let text = report::text(&million(), &findings);
    for part in [
        "for 1000000 connections on 4 workers:\n",
        "improve net.core.somaxconn: 128\n          needed: 4096 connections",
        "          remedy: net.core.somaxconn = 4096 (sysctl",
        "19 good, 1 to improve, 0 to fix first, 1 not to be seen\n",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&report::json(&million(), &findings)).expect("JSON");
    assert_eq!((&json["connections"], &json["improve"], &json["unknown"]), (&1_000_000.into(), &1.into(), &1.into()));
    let entries = json["findings"].as_array().expect("a list");
    let entry = entries.iter().find(|entry| entry["what"] == "net.core.somaxconn").expect("the finding");
    assert_eq!((&entry["verdict"], &entry["found"]), (&"improve".into(), &"128".into()));
}

#[test]
fn what_could_not_be_seen_is_not_called_good() {
    let findings = examine(&Host { tcp_mem: None, ..healthy() }, &million());
    assert_eq!(report::status(&findings), 2);
}

#[test]
fn a_kernel_that_scans_memory_keeps_a_core() {
    check("DAMON", |_, _| {}, Verdict::Good, "");
    check("DAMON", |host, _| host.scans_memory = Some(true), Verdict::Improve, "kdamond");
    assert_eq!(
        examine(&Host { scans_memory: None, ..healthy() }, &million()).iter().filter(|found| found.what == "DAMON").count(),
        0
    );
}
