//! Seeded simulation of the pure half: real shards, fake sockets, fake mailboxes, fake clock.
//!
//! `SEED=123 cargo test --test simulation` replays one run; `SEEDS=5000` runs that many. Every run checks, for every subscriber,
//! that no publication was lost without a gap, repeated, reordered or changed, that every gap is true, that every request is
//! answered, and that in the end everybody has everything. All runs together must have provoked what is worth proving.

mod acts;
mod client;
mod conflation;
mod post;
mod publisher;
mod settings;
mod totals;
mod track;
mod truth;
mod verdict;
mod wire;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use totals::Totals;
use verdict::Verdict;
use world::World;

const STEPS: u64 = 400;
/// Runs that CI makes.
const SEEDS: u64 = 4000;

/// How a run was condemned, and when.
struct Failure {
    verdict: Verdict,
    step: Option<u64>,
    events: Vec<String>,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(seed: u64, traced: bool) -> Result<Totals, Failure> {
    let mut world = World::new(seed, traced);
    let mut retries = Vec::new();
    for step in 0..STEPS {
        world.step(step, &mut retries);
        world.check().map_err(|verdict| failure(&world, verdict, Some(step)))?;
    }
    world
        .settle()
        .and_then(|()| world.finish())
        .and_then(|()| world.truth.verify())
        .map_err(|verdict| failure(&world, verdict, None))?;
    Ok(world.totals)
}

fn failure(world: &World, verdict: Verdict, step: Option<u64>) -> Failure {
    Failure { verdict, step, events: world.events().cloned().collect() }
}

/// Runs a seed again, to tell its story.
fn report(seed: u64) -> String {
    let Err(Failure { verdict, step, events }) = run(seed, true) else { return format!("seed {seed} failed, and then did not") };
    let when = step.map_or_else(|| "after settling".to_owned(), |step| format!("in step {step}"));
    let story = events.join("\n");
    format!("{story}\n\nseed {seed} {when}: {verdict}\nreplay with: SEED={seed} cargo test --test simulation -- --nocapture")
}

/// Runs the seeds on all cores. Returns what they provoked, and the lowest seed that was condemned.
fn run_all(seeds: u64) -> (Totals, Option<u64>) {
    let (next, totals, failed) = (AtomicU64::new(0), Mutex::new(Totals::default()), AtomicU64::new(u64::MAX));
    let work = || {
        let mut own = Totals::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.min(failed.load(Ordering::Relaxed)) {
                break totals.lock().expect("no panic holds it").merge(&own);
            }
            match std::panic::catch_unwind(|| run(seed, false)) {
                Ok(Ok(provoked)) => own.merge(&provoked),
                Ok(Err(_)) | Err(_) => _ = failed.fetch_min(seed, Ordering::Relaxed),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(work);
        }
    });
    let failed = Some(failed.into_inner()).filter(|seed| *seed != u64::MAX);
    (totals.into_inner().expect("no panic holds it"), failed)
}

#[test]
fn no_subscriber_loses_repeats_or_reorders_a_publication() {
    if let Some(seed) = number("SEED") {
        match run(seed, false) {
            Ok(totals) => return totals.print(),
            Err(_) => panic!("{}", report(seed)),
        }
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let (totals, failed) = run_all(seeds);
    if let Some(seed) = failed {
        // Said first, in case the run ends in a panic instead of a verdict.
        println!("seed {seed} failed");
        panic!("{}", report(seed));
    }
    println!("{seeds} runs provoked:");
    totals.print();
    totals.check(seeds);
}

/// Proves that the test above can fail: each deliberate bug must be condemned, within the seeds that CI runs, for breaking the
/// promise that it breaks. A panic is no verdict.
#[cfg(feature = "mutants")]
mod mutants {
    use super::*;
    use ringmain::base::Mutant;
    use verdict::Breach;

    /// What each bug must be found guilty of, one of these.
    const fn guilty(mutant: Mutant) -> &'static [Breach] {
        match mutant {
            // What was published between the two is neither in the answer nor live.
            Mutant::ReplyOutsideFifo => &[Breach::Lost],
            Mutant::SwapUnderCursor => &[Breach::Lost, Breach::Behind],
            Mutant::DropBegunFrame => &[Breach::Torn],
            Mutant::SpillReorders => &[Breach::Lost, Breach::Disordered],
            Mutant::DropWithoutGap => &[Breach::Lost],
            Mutant::EpochReused => &[Breach::TwoAtOnePosition, Breach::WrongResume],
            Mutant::RefusalIgnored => &[Breach::Torn],
            Mutant::ResumeOffByOne => &[Breach::WrongResume, Breach::Lost],
            Mutant::PublishForgotten => &[Breach::Unanswered],
            Mutant::ConflateKeepsOldest => &[Breach::NewestDropped],
        }
    }

    /// The first seed that finds a bug guilty, the verdict, and in how many seeds before it the bug made something else of it.
    fn convict(mutant: Mutant, seeds: u64) -> Result<(u64, Verdict), Vec<String>> {
        let mut otherwise = Vec::new();
        for seed in 0..seeds {
            match std::panic::catch_unwind(|| run(seed, false)) {
                Ok(Ok(_)) => {}
                Ok(Err(Failure { verdict, .. })) if guilty(mutant).contains(&verdict.breach) => return Ok((seed, verdict)),
                Ok(Err(Failure { verdict, .. })) => otherwise.push(format!("seed {seed}: {verdict}")),
                Err(_) => otherwise.push(format!("seed {seed} panicked")),
            }
        }
        Err(otherwise)
    }

    #[test]
    fn every_mutant_is_caught() {
        let seeds = number("SEEDS").unwrap_or(SEEDS);
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let convicting = Mutant::ALL.map(|mutant| {
                let thread = scope.spawn(move || {
                    // On this thread only.
                    Mutant::turn_on(Some(mutant));
                    convict(mutant, seeds)
                });
                (mutant, thread)
            });
            convicting.into_iter().map(|(mutant, thread)| (mutant, thread.join().expect("the panics of runs are caught"))).collect()
        });
        for (mutant, outcome) in &outcomes {
            match outcome {
                Ok((seed, verdict)) => println!("{mutant:?}: caught by seed {seed}: {verdict}"),
                Err(otherwise) => println!("{mutant:?}: survived {seeds} seeds; {otherwise:#?}"),
            }
        }
        assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "a deliberate bug was not found guilty of what it does");
    }
}
