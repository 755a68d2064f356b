//! The scripts in `tuning/`: on made-up hosts, which are folders, and on the real knobs of a network namespace of the test's own.

#[path = "support/skip.rs"]
mod skip;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(name)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn says(output: &Output, status: i32, parts: &[&str]) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    // Columns are for people.
    let lines = out.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(output.status.code(), Some(status), "{out}\n{err}");
    for part in parts {
        assert!(lines.contains(part) || err.contains(part), "{part} is not in\n{out}\n{err}");
    }
}

/// What a host has before anybody tunes it, with 32 GiB of memory.
const HOST: &[(&str, &str)] = &[
    ("sys/kernel/io_uring_disabled", "2\n"),
    ("sys/net/core/somaxconn", "128\n"),
    ("sys/net/core/netdev_max_backlog", "1000\n"),
    ("sys/net/ipv4/tcp_max_syn_backlog", "65535\n"),
    ("sys/net/ipv4/tcp_mem", "287901\t383868\t575802\n"),
    ("sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("sys/net/ipv4/tcp_tw_reuse", "2\n"),
    ("sys/net/ipv4/tcp_slow_start_after_idle", "1\n"),
    ("sys/fs/file-max", "2466177\n"),
    ("sys/fs/nr_open", "2147483584\n"),
    ("meminfo", "MemTotal:       33554432 kB\nMemFree: 1 kB\n"),
];

/// A host that is a folder.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().expect("a folder"));
        HOST.iter().for_each(|(name, value)| host.set(name, value));
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn set(&self, name: &str, value: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, value).expect("written");
    }

    /// A knob's value, with the white space that a kernel would have.
    fn value(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect(name).split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn values(&self) -> Vec<String> {
        HOST.iter().map(|(name, _)| self.value(name)).collect()
    }

    fn state(&self) -> PathBuf {
        self.path("run/sysctl.before")
    }

    fn tune(&self, verb: &str) -> Output {
        let mut command = Command::new(script("tune.sh"));
        command.arg(verb).env("TUNE_PROC", self.0.path()).env("TUNE_STATE", self.state());
        command.output().expect("the script runs")
    }
}

#[test]
fn what_was_there_comes_back_exactly() {
    let host = Host::new();
    let before = host.values();
    says(
        &host.tune("apply"),
        0,
        &[
            "kernel.io_uring_disabled 2 -> 0",
            "net.core.somaxconn 128 -> 4096",
            "net.ipv4.tcp_mem 287901 383868 575802 -> 1048576 1572864 2097152",
            "net.ipv4.ip_local_port_range 32768 60999 -> 10000 65535",
            "fs.file-max 2466177 -> 9223372036854775807",
            "net.netfilter.nf_conntrack_max not there, not needed (skipped)",
        ],
    );
    assert_eq!(host.value("sys/net/ipv4/tcp_slow_start_after_idle"), "0");
    says(&host.tune("undo"), 0, &["net.core.somaxconn 4096 -> 128", "fs.file-max 9223372036854775807 -> 2466177"]);
    assert_eq!(host.values(), before);
    assert!(!host.state().exists(), "nothing is left to put back");
    says(&host.tune("undo"), 0, &["nothing to put back"]);
}

#[test]
fn a_second_time_remembers_nothing_anew_but_what_has_come_since() {
    let host = Host::new();
    let before = host.values();
    says(&host.tune("apply"), 0, &[]);
    host.set("sys/net/core/somaxconn", "256\n");
    host.set("sys/net/netfilter/nf_conntrack_max", "262144\n");
    host.set("sys/net/netfilter/nf_conntrack_buckets", "262144\n");
    says(
        &host.tune("apply"),
        0,
        &["net.core.somaxconn 256 -> 4096", "nf_conntrack_max 262144 -> 2097152", "tcp_tw_reuse 1 (as it was)"],
    );
    says(&host.tune("undo"), 0, &["nf_conntrack_max 2097152 -> 262144"]);
    assert_eq!(host.values(), before);
    assert_eq!(host.value("sys/net/netfilter/nf_conntrack_buckets"), "262144");
}

#[test]
fn a_host_that_has_more_keeps_it() {
    let host = Host::new();
    host.set("sys/net/ipv4/tcp_mem", "900000 1600000 9000000\n");
    host.set("sys/net/ipv4/ip_local_port_range", "1024 60999\n");
    says(&host.tune("apply"), 0, &["tcp_max_syn_backlog 65535 (as it was)", "fs.nr_open 2147483584 (as it was)"]);
    assert_eq!(host.value("sys/net/ipv4/tcp_mem"), "1048576 1600000 9000000");
    assert_eq!(host.value("sys/net/ipv4/ip_local_port_range"), "1024 65535");
}

#[test]
fn sockets_get_at_most_half_of_a_small_machine() {
    let host = Host::new();
    host.set("sys/net/ipv4/tcp_mem", "22000 29000 44000\n");
    host.set("meminfo", "MemTotal: 2097152 kB\n");
    says(&host.tune("apply"), 0, &["-> 131072 196608 262144"]);
}

#[test]
fn what_is_missing_or_refused_is_named_and_the_rest_is_set() {
    let host = Host::new();
    fs::remove_file(host.path("sys/net/ipv4/tcp_mem")).expect("removed");
    // Takes every value and keeps none.
    fs::remove_file(host.path("sys/net/core/somaxconn")).expect("removed");
    std::os::unix::fs::symlink("/dev/null", host.path("sys/net/core/somaxconn")).expect("linked");
    let named = ["net.ipv4.tcp_mem not there (skipped)", "net.core.somaxconn , could not be set to 4096", "2 could not be set"];
    says(&host.tune("apply"), 1, &named);
    assert_eq!(host.value("sys/net/core/netdev_max_backlog"), "16384");
}

#[test]
fn another_namespace_is_left_alone() {
    let host = Host::new();
    says(&host.tune("apply"), 0, &[]);
    let state = fs::read_to_string(host.state()).expect("a state");
    fs::write(host.state(), state.replace("# namespace net:[", "# namespace net:[1")).expect("written");
    let tuned = host.values();
    says(&host.tune("undo"), 2, &["another network namespace"]);
    says(&host.tune("apply"), 2, &["another network namespace"]);
    assert_eq!(host.values(), tuned);
}

#[test]
fn nothing_is_begun_without_a_verb_or_a_file() {
    let host = Host::new();
    says(&host.tune("applied"), 2, &["usage"]);
    let mut command = Command::new(script("tune.sh"));
    command.args(["apply", "/no/such/file"]).env("TUNE_PROC", host.0.path()).env("TUNE_STATE", host.state());
    says(&command.output().expect("the script runs"), 2, &["/no/such/file cannot be read"]);
}

// Real knobs ----------------------------------------------------------------------------------------------------------------

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A shell script as root of a network namespace of its own, in the repository's folder.
fn in_namespace(lines: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args((!is_root()).then_some("--map-root-user")).args(["--net", "--mount", "bash", "-euc", lines]);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("unshare runs")
}

#[test]
fn the_real_knobs_of_a_namespace_are_set_and_put_back() {
    if skip::without("netns") {
        return;
    }
    // The knobs of the namespace alone: the others are the machine's. Two of net.* are so, too, and not to be seen here.
    let output = in_namespace(
        "state=$(mktemp -d); trap 'rm -rf \"$state\"' EXIT
         export TUNE_STATE=$state/before
         grep -E '^net\\.(core|ipv4)' tuning/90-ringmain.conf >\"$state/net.conf\"
         knobs='core/somaxconn ipv4/tcp_max_syn_backlog ipv4/ip_local_port_range ipv4/tcp_tw_reuse ipv4/tcp_slow_start_after_idle'
         read_all() { (cd /proc/sys/net && cat $knobs); }
         echo 128 >/proc/sys/net/core/somaxconn
         before=$(read_all)
         tuning/tune.sh apply \"$state/net.conf\" || test $? = 1
         tuned=$(read_all)
         tuning/tune.sh apply \"$state/net.conf\" || test $? = 1
         test \"$(read_all)\" = \"$tuned\"
         tuning/tune.sh undo
         test \"$(read_all)\" = \"$before\"",
    );
    says(
        &output,
        0,
        &[
            "net.core.somaxconn 128 -> 4096",
            "net.ipv4.ip_local_port_range 32768 60999 -> 10000 65535",
            "net.core.netdev_max_backlog not there (skipped)",
            "net.ipv4.tcp_mem not there (skipped)",
            "net.core.somaxconn 4096 -> 128",
        ],
    );
}

// Network interfaces --------------------------------------------------------------------------------------------------------

/// Four CPUs, and a virtio card `eth0` with two queues each way, whose PCI device has its interrupts.
fn card() -> Host {
    let host = Host(tempfile::tempdir().expect("a folder"));
    let names = ["config", "input.0", "output.0", "input.1", "output.1"];
    let mut interrupts = "           CPU0       CPU1\n".to_owned();
    for (at, name) in names.iter().enumerate() {
        let number = 40 + at;
        interrupts += &format!(" {number}:   1   2 PCI-MSIX-0000:00:03.0   {at}-edge      virtio2-{name}\n");
        host.set(&format!("sys/devices/0000:00:03.0/msi_irqs/{number}"), "msix\n");
        host.set(&format!("proc/irq/{number}/smp_affinity_list"), "0-3\n");
    }
    host.set("proc/interrupts", &interrupts);
    host.set("proc/1/comm", "init\n");
    host.set("sys/devices/0000:00:03.0/virtio2/vendor", "0x1af4\n");
    host.set("sys/devices/system/cpu/online", "0-3\n");
    host.set("sys/class/net/eth0/ifindex", "2\n");
    for queue in ["0", "1"] {
        host.set(&format!("sys/class/net/eth0/queues/rx-{queue}/rps_cpus"), "0\n");
        host.set(&format!("sys/class/net/eth0/queues/tx-{queue}/xps_cpus"), "0\n");
    }
    let device = host.path("sys/devices/0000:00:03.0/virtio2");
    std::os::unix::fs::symlink(device, host.path("sys/class/net/eth0/device")).expect("linked");
    host
}

/// Every file of the card that can be set.
fn card_values(host: &Host) -> Vec<String> {
    let interrupts = (40..45).map(|number| format!("proc/irq/{number}/smp_affinity_list"));
    let queues = ["rx-0/rps_cpus", "rx-1/rps_cpus", "tx-0/xps_cpus", "tx-1/xps_cpus"];
    let queues = queues.map(|queue| format!("sys/class/net/eth0/queues/{queue}"));
    interrupts.chain(queues).map(|name| host.value(&name)).collect()
}

impl Host {
    /// `nic.sh` on this host, with an ethtool that keeps the number of queues in a file, eight at most.
    fn nic(&self, arguments: &[&str]) -> Output {
        const ETHTOOL: &str = "#!/bin/sh
            file=$(dirname \"$0\")/queues
            if [ \"$1\" = -L ]; then test \"$4\" -le 8 && echo \"$4\" >\"$file\"; exit; fi
            printf 'Pre-set maximums:\\nRX:\\t\\tn/a\\nCombined:\\t8\\nCurrent hardware settings:\\nRX:\\t\\tn/a\\nCombined:\\t%s\\n' $(cat \"$file\")
        ";
        let tools = self.path("tools");
        if !tools.exists() {
            self.set("tools/ethtool", ETHTOOL);
            self.set("tools/queues", "2\n");
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(self.path("tools/ethtool"), executable).expect("executable");
        }
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(script("nic.sh"));
        command.args(arguments).env("PATH", path).env("TUNE_STATE", self.state());
        command.env("NIC_SYS", self.path("sys")).env("NIC_PROC", self.path("proc"));
        command.output().expect("the script runs")
    }
}

#[test]
fn a_cards_work_is_spread_and_comes_back() {
    let host = card();
    let before = card_values(&host);
    says(&host.nic(&["eth0", "show"]), 0, &["queues rx 2, tx 2", "irq 43 (virtio2-input.1) 0-3"]);
    says(
        &host.nic(&["eth0", "apply"]),
        0,
        &["irq 43 (virtio2-input.1) 0-3 -> 1", "rx-0/rps_cpus 0 -> 00000005", "tx-1/xps_cpus 0 -> 0000000a"],
    );
    assert_eq!(card_values(&host), ["0-3", "0", "0", "1", "1", "00000005", "0000000a", "00000005", "0000000a"]);
    says(&host.nic(&["eth0", "apply", "--cpus", "2-3"]), 0, &["irq 43 (virtio2-input.1) 1 -> 3", "RPS left alone"]);
    says(&host.nic(&["eth0", "undo"]), 0, &["irq 43 3 -> 0-3", "rx-0/rps_cpus 00000005 -> 0"]);
    assert_eq!(card_values(&host), before);
    says(&host.nic(&["eth0", "undo"]), 0, &["nothing to put back"]);
}

#[test]
fn masks_have_words_of_32_cpus() {
    let host = card();
    says(&host.nic(&["eth0", "apply", "--cpus", "1,33,64-65"]), 0, &["rx-0/rps_cpus 0 -> 00000001,00000000,00000002"]);
    assert_eq!(host.value("sys/class/net/eth0/queues/rx-1/rps_cpus"), "00000002,00000002,00000000");
}

#[test]
fn the_number_of_queues_is_changed_only_when_asked_for() {
    let host = card();
    says(&host.nic(&["eth0", "apply"]), 0, &[]);
    assert_eq!(host.value("tools/queues"), "2");
    says(&host.nic(&["eth0", "apply", "--queues", "4"]), 0, &["queues combined 2 -> combined 4"]);
    says(&host.nic(&["eth0", "apply", "--queues", "9"]), 1, &["queues combined 4, could not be set to combined 9"]);
    says(&host.nic(&["eth0", "undo"]), 0, &["queues combined 4 -> combined 2"]);
    assert_eq!(host.value("tools/queues"), "2");
}

#[test]
fn what_an_interface_lacks_is_named() {
    let host = card();
    fs::remove_dir_all(host.path("sys/devices/0000:00:03.0/msi_irqs")).expect("removed");
    fs::remove_file(host.path("sys/class/net/eth0/queues/rx-0/rps_cpus")).expect("removed");
    fs::remove_dir_all(host.path("sys/class/net/eth0/queues/tx-1")).expect("removed");
    let named = [
        "interrupts eth0 has none of its own (skipped)",
        "RPS not in this kernel (skipped)",
        "XPS 1 send queue: nothing to choose",
    ];
    says(&host.nic(&["eth0", "apply"]), 0, &named);
}

#[test]
fn interrupts_that_something_else_moves_are_left_alone() {
    let host = card();
    host.set("proc/77/comm", "irqbalance\n");
    says(&host.nic(&["eth0", "apply"]), 1, &["interrupts irqbalance runs", "tx-0/xps_cpus 0 -> 00000005"]);
    assert_eq!(host.value("proc/irq/43/smp_affinity_list"), "0-3");
}

#[test]
fn what_is_no_card_is_refused() {
    let host = card();
    host.set("sys/class/net/lo/ifindex", "1\n");
    host.set("sys/class/net/bond0/ifindex", "3\n");
    host.set("sys/class/net/bond0/lower_eth0/ifindex", "2\n");
    says(&host.nic(&["lo", "apply"]), 2, &["loopback has no queues"]);
    says(&host.nic(&["bond0", "apply"]), 2, &["steer what is below it: eth0"]);
    says(&host.nic(&["eth1", "apply"]), 2, &["there is no interface eth1"]);
    says(&host.nic(&["../../etc", "apply"]), 2, &["usage"]);
    for wrong in [["--cpus", "a"], ["--queues", "0"], ["--loud", "1"]] {
        says(&host.nic(&["eth0", "apply", wrong[0], wrong[1]]), 2, &["nic.sh: "]);
    }
    // An interface of the same name, not the same one.
    says(&host.nic(&["eth0", "apply"]), 0, &[]);
    host.set("sys/class/net/eth0/ifindex", "9\n");
    says(&host.nic(&["eth0", "undo"]), 2, &["a former eth0"]);
}

#[test]
fn the_queues_of_a_real_interface_are_steered_and_put_back() {
    if skip::without("netns") {
        return;
    }
    let output = in_namespace(
        "state=$(mktemp -d); trap 'rm -rf \"$state\"' EXIT
         export TUNE_STATE=$state/before
         mount -t sysfs none /sys
         ip link add v0 numrxqueues 4 numtxqueues 4 type veth peer name v1
         tuning/nic.sh v0 show >\"$state/one\"
         tuning/nic.sh v0 apply --cpus 0 || test $? = 1
         tuning/nic.sh v1 undo && exit 9 || test $? = 2
         tuning/nic.sh v0 undo
         tuning/nic.sh v0 show >\"$state/two\"
         diff \"$state/one\" \"$state/two\"",
    );
    says(
        &output,
        0,
        &["interrupts v0 has none of its own (skipped)", "RPS left alone: 4 receive queues for 1 CPUs", "a former v1"],
    );
    // Only the machine's root may steer queues, even those of a namespace of one's own.
    let steered = if is_root() { "tx-3/xps_cpus 0 -> 00000001" } else { "tx-3/xps_cpus 0, could not be set to 00000001" };
    says(&output, 0, &[steered]);
}
