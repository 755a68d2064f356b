use super::*;
use crate::base::WallMs;
use crate::hub::{Payload, PayloadKind, token};

fn at(seconds: u64) -> Now {
    Now { monotonic: Nanos(seconds * 1_000_000_000), wall: WallMs(seconds * 1000) }
}

fn options(history_size: usize) -> Options {
    let mut options = Options::default();
    options.namespaces[0].history_size = history_size;
    options
}

fn name(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

fn draft(channel: &str, bytes: usize) -> Draft {
    Draft::new(name(channel), Payload { kind: PayloadKind::Text, bytes: vec![b'x'; bytes].into() })
}

struct Bench {
    home: Home,
    options: Options,
}

impl Bench {
    fn new(options: Options) -> Self {
        Self { home: Home::new(7), options }
    }

    #[track_caller]
    fn publish(&mut self, channel: &str, now: Now) -> StreamPosition {
        self.home.publish(draft(channel, 1000), &self.options, now).unwrap().stored.position
    }

    fn publish_many(&mut self, channel: &str, count: usize) {
        for _ in 0..count {
            self.publish(channel, at(0));
        }
    }

    fn ask(&mut self, channel: &str, start: Start, now: Now) -> Answer {
        let request = Subscribe { channel: name(channel), subscription: Key { index: 0, generation: 0 }, start, interest: true };
        self.home.subscribe(ShardId(1), &request, &self.options, now).unwrap()
    }

    fn look(&mut self, channel: &str, now: Now) -> StreamPosition {
        let subscription = Key { index: 0, generation: 0 };
        let request = Subscribe { channel: name(channel), subscription, start: Start::Now, interest: false };
        self.home.subscribe(ShardId(1), &request, &self.options, now).unwrap().top
    }

    /// Sweeps until nothing is overdue; returns how often that took.
    fn sweep(&mut self, now: Now) -> usize {
        let mut sweeps = 1;
        while self.home.sweep(&self.options, now) {
            sweeps += 1;
        }
        sweeps
    }
}

fn offsets(answer: &Answer) -> Vec<u64> {
    answer.page.iter().map(|publication| publication.position.offset).collect()
}

/// Reason, after, next, missed.
type Told = (GapReason, Option<u64>, u64, Option<u64>);

fn gap(answer: &Answer) -> Option<Told> {
    match answer.outcome {
        Outcome::Exact => None,
        Outcome::Gap(gap) => Some((
            gap.reason,
            gap.after.map(|after| match after {
                Shown::Position(position) => position.offset,
                Shown::Foreign(_) => u64::MAX,
            }),
            gap.next.offset,
            gap.missed,
        )),
    }
}

fn foreign(token: &str) -> Start {
    token::Token::parse(token).unwrap().start(&ChannelName::parse("c").unwrap())
}

#[test]
fn every_start_gets_what_it_asks_for_and_nothing_else() {
    let mut bench = Bench::new(options(5));
    let epoch = bench.ask("c", Start::Now, at(0)).top.epoch;
    bench.publish_many("c", 8);
    let after = |offset| Start::After(StreamPosition { epoch, offset });
    let cases: [(Start, &[u64], Option<Told>); 10] = [
        (Start::Now, &[], None),
        (Start::Beginning, &[4, 5, 6, 7, 8], None),
        (Start::Newest(2), &[7, 8], None),
        (Start::Newest(99), &[4, 5, 6, 7, 8], None),
        (after(8), &[], None),
        (after(3), &[4, 5, 6, 7, 8], None),
        (after(2), &[4, 5, 6, 7, 8], Some((GapReason::Expired, Some(2), 4, Some(1)))),
        (after(9), &[4, 5, 6, 7, 8], Some((GapReason::BadPosition, Some(9), 4, None))),
        (Start::Unreadable, &[4, 5, 6, 7, 8], Some((GapReason::BadPosition, None, 4, None))),
        (foreign("xyzA:1"), &[4, 5, 6, 7, 8], Some((GapReason::Epoch, Some(u64::MAX), 4, None))),
    ];
    for (start, expected, lost) in cases {
        let answer = bench.ask("c", start, at(0));
        assert_eq!((offsets(&answer), gap(&answer)), (expected.to_vec(), lost), "{start:?}");
        assert!(answer.head, "{start:?}");
    }
    let other = bench.ask("c", Start::After(StreamPosition { epoch: Epoch(epoch.0 ^ 1), offset: 3 }), at(0));
    assert_eq!(gap(&other), Some((GapReason::Epoch, Some(3), 4, None)));
}

#[test]
fn a_channel_without_history_serves_its_head_and_calls_the_rest_a_gap() {
    let mut bench = Bench::new(options(0));
    let epoch = bench.ask("c", Start::Now, at(0)).top.epoch;
    bench.publish_many("c", 3);
    let head = bench.ask("c", Start::After(StreamPosition { epoch, offset: 3 }), at(0));
    assert_eq!(gap(&head), None);
    let older = bench.ask("c", Start::After(StreamPosition { epoch, offset: 1 }), at(0));
    assert_eq!(gap(&older), Some((GapReason::NoHistory, Some(1), 4, Some(2))));
}

#[test]
fn an_entry_is_never_served_after_its_time() {
    let mut bench = Bench::new(options(100));
    let epoch = bench.publish("c", at(0)).epoch;
    bench.publish("c", at(200));
    let answer = bench.ask("c", Start::After(StreamPosition { epoch, offset: 0 }), at(301));
    assert_eq!((offsets(&answer), gap(&answer)), (vec![2], Some((GapReason::Expired, Some(0), 2, Some(1)))));
    let answer = bench.ask("c", Start::Beginning, at(501));
    assert!(offsets(&answer).is_empty());
    assert_eq!(bench.home.history_bytes(), 0);
}

#[test]
fn long_history_comes_in_pages_that_meet_the_head() {
    let mut bench = Bench::new(options(200));
    bench.publish_many("c", 150);
    let mut answer = bench.ask("c", Start::Beginning, at(0));
    let mut seen = offsets(&answer);
    while !answer.head {
        assert!(answer.page.iter().map(|publication| publication.bytes()).sum::<usize>() <= PAGE_BYTES_MAX);
        let last = answer.page.last().unwrap().position;
        answer = bench.home.next_page(&name("c"), last, &bench.options, at(0));
        assert_eq!(gap(&answer), None);
        seen.extend(offsets(&answer));
    }
    assert_eq!(seen, (1..=150).collect::<Vec<u64>>());
}

#[test]
fn history_trimmed_under_a_reader_is_a_gap_in_its_next_page() {
    let mut bench = Bench::new(options(60));
    bench.publish_many("c", 60);
    let first = bench.ask("c", Start::Beginning, at(0));
    assert!(!first.head);
    bench.publish_many("c", 60);
    let next = bench.home.next_page(&name("c"), first.page.last().unwrap().position, &bench.options, at(0));
    assert_eq!(gap(&next).unwrap().0, GapReason::Expired);
    assert_eq!(next.page[0].position.offset, 61);
}

#[test]
fn an_unused_channel_goes_and_comes_back_with_its_position() {
    let mut bench = Bench::new(options(0));
    bench.ask("c", Start::Now, at(0));
    let position = bench.publish("c", at(0));
    bench.home.leave(ShardId(1), &name("c"), at(10));
    bench.home.sweep(&bench.options, at(11));
    assert_eq!(bench.home.channels(), 1, "it lingers");
    bench.home.sweep(&bench.options, at(10 + LINGER.as_secs()));
    assert_eq!((bench.home.channels(), bench.home.position_records()), (0, 1));
    let answer = bench.ask("c", Start::After(position), at(1000));
    assert_eq!((answer.top, gap(&answer)), (position, None));
    assert_eq!(bench.home.position_records(), 0);
}

#[test]
fn beyond_the_bound_the_oldest_position_is_forgotten_and_the_epoch_is_new() {
    let mut bench = Bench::new(Options { position_records_max: 1, ..options(0) });
    let first = bench.publish("a", at(0));
    let second = bench.publish("b", at(1));
    bench.home.sweep(&bench.options, at(500));
    assert_eq!((bench.home.channels(), bench.home.position_records()), (0, 1));
    assert_eq!(bench.ask("b", Start::Now, at(501)).top, second);
    let again = bench.ask("a", Start::After(first), at(501));
    assert_ne!(again.top.epoch, first.epoch);
    assert_eq!(gap(&again).unwrap().0, GapReason::Epoch);
}

#[test]
fn over_the_memory_budget_the_channels_unused_for_longest_lose_their_oldest() {
    let each = {
        let mut bench = Bench::new(options(100));
        bench.publish("a", at(0));
        bench.home.history_bytes()
    };
    let mut bench = Bench::new(Options { history_bytes_max: 10 * each, ..options(100) });
    for channel in ["a", "b", "c"] {
        for _ in 0..3 {
            bench.publish(channel, at(0));
        }
    }
    bench.ask("a", Start::Now, at(0));
    for _ in 0..3 {
        bench.publish("c", at(0));
    }
    let mut kept = |channel: &str| offsets(&bench.ask(channel, Start::Beginning, at(0)));
    assert_eq!((kept("a"), kept("b")), (vec![1, 2, 3], vec![3]), "a was read since, and b needs to lose no more than two");
    assert_eq!(kept("c"), (1..=6).collect::<Vec<u64>>());
    assert_eq!((bench.home.history_bytes(), bench.home.trimmed().memory), (10 * each, 2));
    let start = Start::After(StreamPosition { offset: 0, ..bench.look("b", at(0)) });
    assert_eq!(gap(&bench.ask("b", start, at(0))), Some((GapReason::Expired, Some(0), 3, Some(2))));
}

#[test]
fn a_smaller_budget_is_reached_in_steps() {
    let mut bench = Bench::new(options(10_000));
    for _ in 0..3 * STEPS_MAX {
        bench.home.publish(draft("c", 1), &bench.options, at(0)).unwrap();
    }
    bench.options.history_bytes_max = 0;
    assert_eq!(bench.sweep(at(1)), 3);
    assert_eq!((bench.home.history_bytes(), bench.home.trimmed().memory), (0, 3 * STEPS_MAX as u64));
    bench.publish("c", at(1));
    assert_eq!(bench.home.history_bytes(), 0, "nothing is kept where nothing may be");
}

#[test]
fn what_is_trimmed_is_counted_by_its_reason() {
    let mut bench = Bench::new(options(2));
    bench.publish_many("c", 3);
    bench.ask("c", Start::Now, at(300));
    assert_eq!(bench.home.trimmed(), TrimCounts { size: 1, ttl: 2, memory: 0 });
}

#[test]
fn looking_at_a_channel_makes_none_and_says_the_same_every_time() {
    let mut bench = Bench::new(options(10));
    let seen = bench.look("a", at(0));
    assert_eq!((bench.look("a", at(500)), bench.home.channels(), bench.home.position_records()), (seen, 0, 0));
    assert_ne!(bench.look("b", at(0)).epoch, seen.epoch);
    assert_eq!(bench.ask("a", Start::After(seen), at(500)).outcome, Outcome::Exact, "what was seen can be resumed from");
    let published = bench.publish("a", at(500));
    assert_eq!((published.epoch, bench.look("a", at(500))), (seen.epoch, published));
    bench.home.leave(ShardId(1), &name("a"), at(500));
    bench.sweep(at(1000));
    assert_eq!(bench.home.channels(), 0);
    assert_eq!((bench.look("a", at(1000)), bench.look("a", at(1000))), (published, published), "a record is not used up by a look");
}

#[test]
fn a_look_keeps_nothing_alive() {
    let mut bench = Bench::new(options(0));
    bench.publish("a", at(0));
    bench.look("a", at(100));
    bench.sweep(at(LINGER.as_secs()));
    assert_eq!(bench.home.channels(), 0);
}

#[test]
fn many_unused_channels_go_as_fast_as_they_came() {
    let mut bench = Bench::new(Options { position_records_max: 10, ..options(0) });
    for channel in 0..10 * STEPS_MAX {
        bench.publish(&channel.to_string(), at(0));
    }
    assert_eq!(bench.sweep(at(LINGER.as_secs())), 11, "some in each turn, and turns until nothing is overdue");
    assert_eq!((bench.home.channels(), bench.home.position_records()), (0, 10));
}

#[test]
fn what_is_too_old_goes_from_every_channel_without_being_asked_for() {
    let mut bench = Bench::new(options(10));
    for channel in 0..3 * STEPS_MAX {
        bench.publish(&channel.to_string(), at(0));
    }
    bench.sweep(at(LINGER.as_secs()));
    bench.sweep(at(2 * LINGER.as_secs()));
    bench.sweep(at(3 * LINGER.as_secs()));
    assert_eq!((bench.home.history_bytes(), bench.home.channels()), (0, 0));
}

#[test]
fn there_are_no_more_channels_than_may_be_and_unused_ones_go_first() {
    let mut bench = Bench::new(Options { entries_max: 2, ..options(0) });
    bench.ask("a", Start::Now, at(0));
    let unused = bench.publish("b", at(0));
    bench.ask("c", Start::Now, at(1));
    assert_eq!((bench.home.channels(), bench.look("b", at(1))), (2, unused), "b is only remembered now");
    let request =
        Subscribe { channel: name("d"), subscription: Key { index: 0, generation: 0 }, start: Start::Now, interest: true };
    assert_eq!(bench.home.subscribe(ShardId(1), &request, &bench.options, at(2)).unwrap_err(), TooManyChannels);
    assert_eq!(bench.home.publish(draft("d", 1), &bench.options, at(2)).unwrap_err(), PublishError::TooManyChannels);
    assert_eq!((bench.home.channels(), bench.home.refused()), (2, 2));
    bench.publish("a", at(2));
    bench.look("d", at(2));
    bench.home.leave(ShardId(1), &name("a"), at(3));
    bench.ask("d", Start::Now, at(3));
    assert_eq!(bench.home.channels(), 2);
}

#[test]
fn a_states_value_outlives_the_time_of_histories_unless_it_has_its_own() {
    let mut options = options(0);
    options.namespaces[0].kind = ChannelKind::State;
    let mut bench = Bench::new(options);
    bench.publish("c", at(0));
    bench.sweep(at(10_000));
    assert_eq!(offsets(&bench.ask("c", Start::Now, at(10_000))), [1]);
    bench.options.namespaces[0].state_ttl = Duration::from_secs(60);
    bench.publish("c", at(10_000));
    assert_eq!(offsets(&bench.ask("c", Start::Now, at(10_059))), [2]);
    assert!(offsets(&bench.ask("c", Start::Now, at(10_060))).is_empty());
}

#[test]
fn a_states_value_that_had_to_go_for_want_of_memory_is_told_as_lost() {
    let mut options = options(0);
    options.namespaces[0].kind = ChannelKind::State;
    let mut bench = Bench::new(options);
    let had = bench.publish("c", at(0));
    let after = Start::After(had);
    assert_eq!(bench.ask("c", after, at(1)).outcome, Outcome::Exact, "it has the latest value");
    bench.publish("c", at(2));
    bench.options.history_bytes_max = 0;
    bench.sweep(at(3));
    let answer = bench.ask("c", after, at(4));
    let Outcome::Gap(gap) = answer.outcome else { panic!("{answer:?}: a newer value was lost in silence") };
    assert_eq!((gap.reason, gap.next.offset, gap.missed), (GapReason::Expired, 3, Some(1)));
    assert!(answer.head && answer.page.is_empty());
    let latest = StreamPosition { offset: 2, ..had };
    assert_eq!(bench.ask("c", Start::After(latest), at(5)).outcome, Outcome::Exact);
    bench.options.namespaces[0].state_ttl = Duration::from_secs(1);
    assert_eq!(bench.ask("c", after, at(6)).outcome, Outcome::Exact, "a value whose time is over is none");
}

#[test]
fn a_repeated_key_gets_the_first_position_and_is_not_delivered() {
    let mut bench = Bench::new(options(10));
    let keyed = || Draft { idempotency_key: Some("k".into()), ..draft("c", 5) };
    let first = bench.home.publish(keyed(), &bench.options, at(0)).unwrap();
    let again = bench.home.publish(keyed(), &bench.options, at(299)).unwrap();
    assert_eq!(again.stored, Stored { duplicate: true, ..first.stored });
    assert!(again.publication.is_none());
    let later = bench.home.publish(keyed(), &bench.options, at(301)).unwrap();
    assert_eq!((later.stored.duplicate, later.stored.position.offset), (false, 2));
}

#[test]
fn what_passes_by_takes_an_offset_and_leaves_no_gap() {
    let mut bench = Bench::new(options(10));
    let epoch = bench.publish("c", at(0)).epoch;
    bench.home.publish(Draft { store: false, ..draft("c", 5) }, &bench.options, at(0)).unwrap();
    bench.publish("c", at(0));
    let answer = bench.ask("c", Start::After(StreamPosition { epoch, offset: 1 }), at(0));
    assert_eq!((offsets(&answer), gap(&answer)), (vec![3], None));
}

#[test]
fn a_state_channel_answers_with_its_latest_value_and_never_a_gap() {
    let mut options = options(0);
    options.namespaces[0].kind = ChannelKind::State;
    let mut bench = Bench::new(options);
    assert!(offsets(&bench.ask("c", Start::Now, at(0))).is_empty());
    let epoch = bench.publish("c", at(0)).epoch;
    let latest = bench.publish("c", at(0));
    for start in [Start::Now, foreign("xyzA:1"), Start::Unreadable, Start::After(StreamPosition { epoch, offset: 1 })] {
        let answer = bench.ask("c", start, at(0));
        assert_eq!((offsets(&answer), gap(&answer)), (vec![2], None), "{start:?}");
    }
    assert!(offsets(&bench.ask("c", Start::After(latest), at(0))).is_empty());
}

#[test]
fn only_interested_workers_are_told() {
    let mut bench = Bench::new(options(10));
    bench.ask("c", Start::Now, at(0));
    let broadcast = bench.home.publish(draft("c", 1), &bench.options, at(0)).unwrap();
    assert_eq!(broadcast.publication.unwrap().1.iter().collect::<Vec<_>>(), [ShardId(1)]);
    bench.home.leave(ShardId(1), &name("c"), at(0));
    let broadcast = bench.home.publish(draft("c", 1), &bench.options, at(0)).unwrap();
    assert!(broadcast.publication.unwrap().1.is_empty());
}

#[test]
fn too_large_a_publication_is_refused_before_it_takes_an_offset() {
    let mut bench = Bench::new(options(10));
    let bytes_max = bench.options.publication_bytes_max;
    let refused = bench.home.publish(draft("c", bytes_max + 1), &bench.options, at(0));
    assert_eq!(refused.unwrap_err(), PublishError::TooLarge { bytes: bytes_max + 1, bytes_max });
    assert_eq!(bench.publish("c", at(0)).offset, 1);
}

#[test]
fn a_reload_finds_the_namespaces_of_channels_anew() {
    let mut bench = Bench::new(options(100));
    bench.publish_many("a:1", 5);
    let short = Namespace { name: "a".to_owned(), prefixes: vec!["a:".to_owned()], history_size: 2, ..Namespace::default() };
    bench.options.namespaces.push(short);
    bench.options.unknown_namespace = super::super::UnknownNamespace::Refuse;
    bench.home.reload(&bench.options);
    assert_eq!(offsets(&bench.ask("a:1", Start::Beginning, at(0))), [4, 5]);
    bench.options.namespaces.pop();
    bench.home.reload(&bench.options);
    assert_eq!(bench.home.publish(draft("a:1", 1), &bench.options, at(0)).unwrap_err(), PublishError::UnknownNamespace);
}
