//! Which CPUs there are for us, and staying on one of them.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs that this process may run on, in order. Empty when the kernel does not say.
pub fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// Workers when nobody says how many: one per allowed CPU, but no more than the control group's quota pays for.
pub fn default_workers() -> usize {
    let cpus = allowed().len().max(1);
    quota().map_or(cpus, |quota| quota.min(cpus))
}

/// Keeps the calling thread on one of the allowed CPUs; more workers than CPUs share them in turn.
pub fn pin(worker: usize) {
    let cpus = allowed();
    let Some(&cpu) = cpus.get(worker % cpus.len().max(1)) else { return };
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(worker, cpu, %error, "cannot pin the worker");
    }
}

/// Whole CPUs that the control group's quota amounts to, rounded up.
fn quota() -> Option<usize> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limits = [format!("/sys/fs/cgroup{}/cpu.max", path.trim_end_matches('/')), "/sys/fs/cgroup/cpu.max".to_owned()];
    limits.iter().filter_map(|file| std::fs::read_to_string(file).ok()).find_map(|text| parse_quota(&text))
}

/// `cpu.max` holds `QUOTA PERIOD` in microseconds, or `max PERIOD`.
fn parse_quota(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    usize::try_from(quota.div_ceil(period.max(1))).ok().map(|cpus| cpus.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_round_up_to_whole_cpus() {
        for (text, cpus) in
            [("max 100000\n", None), ("200000 100000\n", Some(2)), ("150000 100000", Some(2)), ("1000 100000", Some(1)), ("", None)]
        {
            assert_eq!(parse_quota(text), cpus, "{text:?}");
        }
    }

    #[test]
    fn there_is_always_somebody_to_work() {
        assert!(default_workers() >= 1);
        assert!(!allowed().is_empty());
    }
}
