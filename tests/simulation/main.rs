//! Seeded simulation of the pure half: real shards, fake sockets, fake mailboxes, fake clock.
//!
//! `SEED=123 cargo test --test simulation` replays one run; `SEEDS=5000` runs that many. Every run checks, for every subscriber,
//! that no publication was lost without a gap, repeated, reordered or changed, and that in the end everybody has everything.

mod client;
mod model;
mod world;

use world::{Faults, World};

const STEPS: usize = 400;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(seed: u64) {
    let shards = [2, 3, 5, 1][usize::try_from(seed % 4).unwrap_or(0)];
    let faults = Faults { short_send: 0.25, reset: 0.01, stall: 0.1, mailbox_delay: 0.3, slices: seed % 3 + 1 };
    let mut world = World::new(seed, shards, faults);
    for step in 0..STEPS {
        world.step();
        if let Err(error) = world.check() {
            panic!("seed {seed} step {step}: {error}");
        }
    }
    if let Err(error) = world.settle() {
        panic!("seed {seed} after settling: {error}");
    }
}

#[test]
fn no_subscriber_loses_repeats_or_reorders_a_publication() {
    if let Some(seed) = number("SEED") {
        return run(seed);
    }
    let seeds = number("SEEDS").unwrap_or(2000);
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        if let Err(panic) = result {
            eprintln!("replay with SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Proves that the test above can fail: each deliberate bug must be noticed within the seeds that CI runs.
#[cfg(feature = "mutants")]
#[test]
fn every_mutant_is_caught() {
    use ringmain::base::Mutant;
    let seeds = number("SEEDS").unwrap_or(2000);
    std::panic::set_hook(Box::new(|_| {}));
    let survivors: Vec<Mutant> = Mutant::ALL
        .into_iter()
        .filter(|&mutant| {
            Mutant::turn_on(Some(mutant));
            let caught = (0..seeds).find(|&seed| std::panic::catch_unwind(|| run(seed)).is_err());
            Mutant::turn_on(None);
            match caught {
                Some(seed) => println!("{mutant:?}: caught by seed {seed}"),
                None => println!("{mutant:?}: survived {seeds} seeds"),
            }
            caught.is_none()
        })
        .collect();
    let _ = std::panic::take_hook();
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}
