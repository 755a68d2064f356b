//! Deadlines of many connections at one instant.

use std::time::Duration;

use super::harness::World;
use crate::shard::{EXPIRED_MAX, Output};

/// Closes that the shard asks for.
fn closes(world: &mut World) -> usize {
    std::iter::from_fn(|| world.shards[0].poll_output()).filter(|output| matches!(output, Output::Close { .. })).count()
}

#[test]
fn deadlines_of_one_instant_are_spread_over_turns_and_none_is_forgotten() {
    let mut world = World::new();
    let connections = 2 * EXPIRED_MAX + 10;
    for _ in 0..connections {
        world.connect();
    }
    world.jump(world.shards[0].options.http.head_timeout + Duration::from_secs(1));
    let mut turns = Vec::new();
    while world.next_deadline().is_some_and(|at| at <= world.now.monotonic) && turns.len() < 9 {
        world.shards[0].handle_timeout(world.now);
        world.shards[0].flush();
        turns.push(closes(&mut world));
    }
    assert!(turns.iter().all(|&closed| closed <= EXPIRED_MAX), "{turns:?}");
    assert_eq!(turns.iter().sum::<usize>(), connections, "{turns:?}");
}
