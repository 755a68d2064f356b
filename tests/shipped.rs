//! What lies beside the code and must not drift from it: the documentation of the configuration, the files in `tuning/`.
//!
//! `UPDATE_DOCS=1 cargo test --test shipped` writes the documentation anew.

use std::path::PathBuf;

use serde_json::Value;

const BEGIN: &str = "<!-- ringmain config default -->\n```toml\n";
const END: &str = "```\n<!-- end -->\n";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_documented_configuration_is_the_default() {
    const FILE: &str = "docs/configuration.md";
    let text = read(FILE);
    let (before, rest) = text.split_once(BEGIN).expect("the beginning of the default configuration");
    let (_, after) = rest.split_once(END).expect("the end of the default configuration");
    let fresh = format!("{before}{BEGIN}{}{END}{after}", ringmain::config::print_default());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path(FILE), &fresh).expect("written");
    } else {
        assert!(text == fresh, "{FILE} is out of date: UPDATE_DOCS=1 cargo test --test shipped");
    }
}

/// Calls that a rule without conditions allows.
fn allowed(profile: &Value) -> Vec<&str> {
    let rules = profile["syscalls"].as_array().expect("rules");
    let open = rules.iter().filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule["args"].is_null());
    open.flat_map(|rule| rule["names"].as_array().expect("names")).map(|name| name.as_str().expect("a name")).collect()
}

#[test]
fn the_seccomp_profile_lets_io_uring_through_and_nothing_that_leads_out() {
    let profile: Value = serde_json::from_str(&read("tuning/seccomp.json")).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let allowed = allowed(&profile);
    for needed in ["io_uring_setup", "io_uring_enter", "io_uring_register", "eventfd2", "sched_setaffinity", "prlimit64", "mmap"] {
        assert!(allowed.contains(&needed), "{needed}");
    }
    for outward in
        ["mount", "unshare", "setns", "ptrace", "bpf", "kexec_load", "init_module", "open_by_handle_at", "userfaultfd", "clone3"]
    {
        assert!(!allowed.contains(&outward), "{outward}");
    }
    let mut once = allowed.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), allowed.len(), "a call is listed twice");
}

#[test]
fn the_unit_gives_what_the_doctor_asks_for() {
    let unit = read("tuning/ringmain.service");
    let lines = ["LimitMEMLOCK=infinity", "LimitNOFILE=1048576", "ExecReload=/bin/kill -HUP $MAINPID"];
    for line in lines {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    let seconds = |name: &str| {
        let value = unit.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        value.trim_end_matches('s').parse::<u64>().expect("seconds")
    };
    let drain = ringmain::config::Config::default().shard.server.drain_timeout;
    assert!(seconds("TimeoutStopSec=") > drain.as_secs(), "a drain would be cut short");
}

#[test]
fn the_files_that_messages_name_are_there() {
    for name in ["tuning/seccomp.json", "tuning/90-ringmain.conf", "tuning/README.md", "tuning/tune.sh", "tuning/nic.sh"] {
        assert!(path(name).exists(), "{name}");
    }
    for name in ["docs/delivery.md", "docs/plain.md", "docs/bench.md", "docs/tuning.md"] {
        assert!(path(name).exists(), "{name}");
    }
}

#[test]
fn every_knob_has_its_reason_beside_it_and_in_the_documentation() {
    let (file, page) = (read("tuning/90-ringmain.conf"), read("docs/tuning.md"));
    let mut reason = "";
    for line in file.lines() {
        // One comment may stand above several knobs.
        if line.starts_with('#') || line.is_empty() {
            reason = line;
            continue;
        }
        let knob = line.trim_start_matches('-').split_once(" = ").expect("knob = value").0;
        assert!(reason.starts_with('#'), "{knob} has no reason");
        let short = knob.rsplit('.').next().expect("a name");
        assert!(page.contains(short), "{knob} is not in docs/tuning.md");
    }
}

#[test]
fn every_file_in_tuning_is_said_what_for() {
    let readme = read("tuning/README.md");
    for entry in std::fs::read_dir(path("tuning")).expect("a folder") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(name == "README.md" || readme.contains(&format!("`{name}`")), "{name} is not in tuning/README.md");
    }
}
