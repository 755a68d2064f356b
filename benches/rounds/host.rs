//! The host during the run: what it is, how it is set, and what it dropped.

use std::fs;
use std::process::Command;

use serde_json::{Map, Value};

/// Settings that decide about many connections, as `/proc/sys` has them.
const SYSCTLS: [&str; 8] = [
    "net/core/somaxconn",
    "net/core/netdev_max_backlog",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_mem",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "net/ipv4/ip_local_port_range",
];

/// What the host counts, since it was started or between two looks.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Packets that found a core's queue full.
    pub softnet_drops: u64,
    /// Connections that found a listener's queue full.
    pub listen_overflows: u64,
    pub retransmits: u64,
}

impl Counters {
    /// As of now; zero where the host does not say.
    pub fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            softnet_drops: softnet_drops(&read("/proc/net/softnet_stat")),
            listen_overflows: counter(&read("/proc/net/netstat"), "TcpExt:", "ListenOverflows"),
            retransmits: counter(&read("/proc/net/snmp"), "Tcp:", "RetransSegs"),
        }
    }

    pub const fn since(self, before: &Self) -> Self {
        Self {
            softnet_drops: self.softnet_drops.saturating_sub(before.softnet_drops),
            listen_overflows: self.listen_overflows.saturating_sub(before.listen_overflows),
            retransmits: self.retransmits.saturating_sub(before.retransmits),
        }
    }

    pub fn text(self) -> String {
        let counts = self.named().map(|(name, count)| format!("{count} {}", name.replace('_', " ")));
        format!("During the run: {}.", counts.join(", "))
    }

    /// Each by its name in the results.
    pub const fn named(self) -> [(&'static str, u64); 3] {
        let Self { softnet_drops, listen_overflows, retransmits } = self;
        [("softnet_drops", softnet_drops), ("listen_overflows", listen_overflows), ("retransmits", retransmits)]
    }

    pub fn json(self) -> Value {
        self.named().into_iter().map(|(name, count)| (name.to_owned(), Value::from(count))).collect::<Map<_, _>>().into()
    }
}

/// The second column of each core's line, hexadecimal.
fn softnet_drops(text: &str) -> u64 {
    text.lines().filter_map(|line| u64::from_str_radix(line.split_ascii_whitespace().nth(1)?, 16).ok()).sum()
}

/// A named column of the table that has a line of names and a line of numbers.
fn counter(text: &str, table: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with(table));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return 0 };
    let column = names.split_ascii_whitespace().position(|column| column == name);
    column.and_then(|column| numbers.split_ascii_whitespace().nth(column)?.parse().ok()).unwrap_or(0)
}

/// Connections that were closed less than a minute ago and that the kernel still remembers (TIME-WAIT, RFC 9293 section 3.6.1).
pub fn remembered_connections() -> u64 {
    remembered(&fs::read_to_string("/proc/net/sockstat").unwrap_or_default())
}

/// `TCP: inuse N orphan N tw N …`
fn remembered(sockstat: &str) -> u64 {
    let line = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let number = line.split_ascii_whitespace().skip_while(|&word| word != "tw").nth(1);
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The settings, by name.
pub fn sysctls() -> Vec<(&'static str, String)> {
    let value = |name| {
        fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default().split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    };
    SYSCTLS.into_iter().map(|name| (name, value(name))).collect()
}

/// What the kernel does against faults of the processor, by the fault's name. Some of it makes all that the kernel does longer, and with
/// that every send.
pub fn mitigations() -> Vec<(String, String)> {
    let faults = fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten().flatten();
    let mitigated = faults.filter_map(|fault| {
        let said = fs::read_to_string(fault.path()).ok()?;
        Some((fault.file_name().into_string().ok()?, mitigation(&said)?.to_owned()))
    });
    let mut mitigated: Vec<_> = mitigated.collect();
    mitigated.sort();
    mitigated
}

/// Neither of a processor that has not the fault, nor where nothing is done about it.
fn mitigation(said: &str) -> Option<&str> {
    said.trim().strip_prefix("Mitigation: ")
}

/// Commit, kernel and processor: what a figure belongs to.
pub fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = processors.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "commit {}, kernel {}, {} × {cores}",
        said("git", &["describe", "--always", "--dirty"]),
        said("uname", &["-r"]),
        model.trim_start_matches([' ', '\t', ':'])
    )
}

/// What a command prints.
pub fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).trim().to_owned();
    if text.is_empty() { "unknown".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_the_host_is_read() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 3\nIpExt: A\nIpExt: 9\n";
        assert_eq!(counter(text, "TcpExt:", "ListenOverflows"), 22);
        assert_eq!(counter(text, "TcpExt:", "Nothing"), 0);
        assert_eq!(remembered("sockets: used 9\nTCP: inuse 5 orphan 0 tw 40008 alloc 7 mem 1\nUDP: inuse 1 mem 2\n"), 40_008);
        assert_eq!(remembered("UDP: inuse 1 tw 2\n"), 0);
        assert_eq!(["Mitigation: Safe RET\n", "Not affected\n", "Vulnerable\n"].map(mitigation), [Some("Safe RET"), None, None]);
        let counted = Counters { softnet_drops: 1, listen_overflows: 2, retransmits: 3 };
        assert_eq!(counted.text(), "During the run: 1 softnet drops, 2 listen overflows, 3 retransmits.");
        assert_eq!(softnet_drops("0000ffff 00000010 0\n00000001 00000002 0\n"), 18);
    }
}
