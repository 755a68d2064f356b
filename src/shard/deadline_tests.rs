//! Deadlines of many connections at one instant.

use std::time::Duration;

use super::rig_tests::Rig;
use super::{EXPIRED_MAX, Options, Output};

/// Closes that the shard asks for.
fn closes(rig: &mut Rig) -> usize {
    std::iter::from_fn(|| rig.shard.poll_output()).filter(|output| matches!(output, Output::Close { .. })).count()
}

#[test]
fn deadlines_of_one_instant_are_spread_over_turns_and_none_is_forgotten() {
    let options = Options::default();
    let head_timeout = options.http.head_timeout;
    let mut rig = Rig::new(options);
    let connections = 2 * EXPIRED_MAX + 10;
    for _ in 0..connections {
        rig.accept();
    }
    let mut now = rig.now;
    now.monotonic = now.monotonic + head_timeout + Duration::from_secs(1);
    let mut turns = Vec::new();
    while rig.shard.poll_timeout().is_some_and(|at| at <= now.monotonic) && turns.len() < 9 {
        rig.shard.handle_timeout(now);
        rig.shard.flush();
        turns.push(closes(&mut rig));
    }
    assert!(turns.iter().all(|&closed| closed <= EXPIRED_MAX), "{turns:?}");
    assert_eq!(turns.iter().sum::<usize>(), connections, "{turns:?}");
}
