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

/// A shell script as root of a network namespace of its own, in the repository's folder.
fn in_namespace(lines: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "--mount", "bash", "-euc", lines]);
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
