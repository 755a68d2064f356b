//! The sysctl file in `tuning/`, so that a remedy is a line of it.

const FILE: &str = include_str!("../../../tuning/90-ringmain.conf");

/// The numbers that the file sets a knob to.
pub fn shipped(knob: &str) -> Option<Vec<u64>> {
    let line = FILE.lines().find_map(|line| {
        let rest = line.trim_start_matches('-').strip_prefix(knob)?;
        rest.trim_start().strip_prefix('=')
    })?;
    line.split_ascii_whitespace().map(|word| word.parse().ok()).collect()
}

/// The line that gives a knob a number: the file's, or a higher one where so much is needed.
pub fn line(knob: &str, needed: u64) -> String {
    let number = shipped(knob).and_then(|numbers| numbers.first().copied()).map_or(needed, |shipped| shipped.max(needed));
    format!("{knob} = {number} (sysctl; `make tune` sets all of them)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_are_found_with_and_without_a_dash() {
        assert_eq!(shipped("net.core.somaxconn"), Some(vec![4096]));
        assert_eq!(shipped("net.ipv4.tcp_mem").map(|numbers| numbers.len()), Some(3));
        assert!(shipped("net.netfilter.nf_conntrack_max").is_some());
        assert_eq!(shipped("net.core.some"), None);
    }

    #[test]
    fn a_remedy_is_at_least_what_is_needed() {
        assert!(line("net.core.somaxconn", 1).starts_with("net.core.somaxconn = 4096 "));
        assert!(line("net.core.somaxconn", 9000).starts_with("net.core.somaxconn = 9000 "));
    }
}
