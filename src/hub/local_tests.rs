use super::*;
use crate::base::WallMs;
use crate::hub::{Draft, Namespace, Outcome, Payload, PayloadKind};

const TTL: Duration = Duration::from_secs(300);
const WINDOW: Duration = Duration::from_millis(200);
const TOP: StreamPosition = StreamPosition { epoch: Epoch(9), offset: 10 };

fn name(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

fn after(offset: u64) -> Start {
    Start::After(StreamPosition { offset, ..TOP })
}

fn milliseconds(milliseconds: u64) -> Nanos {
    Nanos(milliseconds * 1_000_000)
}

fn seconds(seconds: u64) -> Nanos {
    Nanos(seconds * 1_000_000_000)
}

fn windowed(coalesce: Duration) -> Options {
    Options { namespaces: vec![Namespace { coalesce, ..Namespace::default() }], ..Options::default() }
}

/// One worker's channel `c`, whose home is at [`TOP`].
#[derive(Default)]
struct Bench {
    local: Local,
    slots: u32,
}

impl Bench {
    fn join(&mut self) -> Key {
        self.slots += 1;
        let conn = ConnId { slot: self.slots, generation: 1 };
        let key = self.local.join(&name("c"), conn, AudienceId(0), Start::Now, NO_SUBSCRIPTION, &Options::default());
        let answer = Answer { top: TOP, from: TOP, outcome: Outcome::Exact, page: Vec::new(), head: true };
        assert!(matches!(self.local.answered(key, &answer), Some(Phase::Live { .. })));
        key
    }

    fn publish(&mut self, offset: u64, window: Duration, now: Nanos) {
        let payload = Payload { kind: PayloadKind::Text, bytes: vec![b'x'; 100].into() };
        let position = StreamPosition { offset, ..TOP };
        let publication = Draft::new(name("c"), payload).into_publication(position, false, WallMs(0));
        let publication = Publication { stored: now, ..publication };
        self.local.publication(Arc::new(publication), &windowed(window), now);
    }

    /// Hands out whatever may go now; returns how many publications went.
    fn hand_out(&mut self, window: Duration, now: Nanos) -> usize {
        let mut count = 0;
        while let Some(key) = self.local.next_active(now) {
            let Some(cursor) = self.local.open(key, RUN_PUBLICATIONS_MAX, now) else { continue };
            count += match &cursor.run {
                Run::Publications(run) => run.len(),
                Run::Lost(_) => 0,
            };
            self.local.finish(key, window, now);
        }
        count
    }

    /// A poll of one channel has come and gone.
    fn poll(&mut self, now: Nanos) {
        let key = self.join();
        self.local.linger(key, now);
        assert_eq!(self.local.leave(key), Left::Wanted, "a polled channel stays for the next poll");
    }
}

#[test]
fn a_window_begins_with_the_runs_before_it_and_a_quarter_of_it_comes_after_them() {
    const WINDOW: Duration = Duration::from_millis(10);
    let mut bench = Bench::default();
    bench.join();
    let mut hand_out_for = |from: u64, to: u64| {
        bench.publish(from, WINDOW, milliseconds(from));
        let channel = bench.local.next_active(milliseconds(from)).unwrap();
        let cursor = bench.local.open(channel, RUN_PUBLICATIONS_MAX, milliseconds(from)).unwrap();
        bench.local.suspend(channel, cursor);
        bench.publish(to, WINDOW, milliseconds(to));
        assert_eq!(bench.local.next_active(milliseconds(to)), Some(channel), "the rest of it");
        bench.local.open(channel, RUN_PUBLICATIONS_MAX, milliseconds(to)).unwrap();
        bench.local.finish(channel, WINDOW, milliseconds(to));
        let next = bench.local.next_deadline();
        (next, bench.hand_out(WINDOW, next.unwrap().max(milliseconds(to))))
    };
    assert_eq!(hand_out_for(100, 107), (Some(milliseconds(110)), 1));
    let quarter = WINDOW.as_nanos() as u64 / 4;
    assert_eq!(hand_out_for(200, 208), (Some(Nanos(208_000_000 + quarter)), 1));
    assert_eq!(hand_out_for(300, 315), (Some(Nanos(315_000_000 + quarter)), 1), "it took longer than a window");
}

#[test]
fn a_window_delays_what_comes_in_it_but_limits_nothing() {
    let mut bench = Bench::default();
    bench.join();
    bench.publish(11, WINDOW, milliseconds(0));
    assert_eq!(bench.hand_out(WINDOW, milliseconds(0)), 1, "a quiet channel sends at once");
    for offset in 12..=1011 {
        bench.publish(offset, WINDOW, milliseconds(1));
    }
    assert_eq!(bench.hand_out(WINDOW, milliseconds(199)), 0);
    assert_eq!(bench.local.next_deadline(), Some(milliseconds(200)));
    assert_eq!(bench.hand_out(WINDOW, milliseconds(200)), 1000, "more than one run holds, and all of it");
    bench.publish(1012, WINDOW, milliseconds(201));
    assert_eq!(bench.hand_out(WINDOW, milliseconds(399)), 0, "the next window follows");
    assert_eq!(bench.hand_out(WINDOW, milliseconds(400)), 1);
    assert_eq!(bench.hand_out(WINDOW, milliseconds(600)), 0);
    assert_eq!(bench.local.next_deadline(), None, "a quiet channel leaves nothing behind");
}

#[test]
fn a_channel_that_is_not_handed_out_fast_enough_stays_bounded_and_says_so() {
    let mut bench = Bench::default();
    bench.join();
    let publications = 20 << 10;
    for offset in 1..=publications {
        let payload = Payload { kind: PayloadKind::Binary, bytes: vec![0; 1000].into() };
        let position = StreamPosition { offset: TOP.offset + offset, ..TOP };
        let publication = Draft::new(name("c"), payload).into_publication(position, false, WallMs(0));
        bench.local.publication(Arc::new(publication), &windowed(WINDOW), milliseconds(0));
    }
    let collapsed = bench.local.collapsed() as usize;
    assert!(collapsed > 0);
    assert_eq!(bench.hand_out(WINDOW, milliseconds(0)) + collapsed, publications as usize);
}

#[test]
fn entries_keep_their_places_under_an_open_cursor() {
    let mut bench = Bench::default();
    let keys: Vec<Key> = (0..4).map(|_| bench.join()).collect();
    bench.publish(11, Duration::ZERO, seconds(0));
    let channel = bench.local.next_active(seconds(0)).unwrap();
    let cursor = bench.local.open(channel, RUN_PUBLICATIONS_MAX, seconds(0)).unwrap();
    bench.local.suspend(channel, cursor);
    bench.local.leave(keys[0]);
    let slots: Vec<u32> = bench.local.groups(channel)[0].entries.iter().map(|entry| entry.slot).collect();
    assert_eq!(slots, [1, 2, 3, 4], "the first one left a tombstone");
    bench.local.open(channel, RUN_PUBLICATIONS_MAX, seconds(0)).unwrap();
    bench.local.finish(channel, Duration::ZERO, seconds(0));
    assert_eq!(bench.local.groups(channel)[0].entries.len(), 3);
    for key in &keys[1..] {
        assert!(bench.local.served(bench.local.subscription(*key).unwrap()).is_some());
    }
}

#[test]
fn a_poll_is_answered_here_from_what_has_come_since_the_last_one() {
    let mut bench = Bench::default();
    assert!(bench.local.answer_poll(&name("c"), after(10), TTL, seconds(0)).is_none(), "nobody has polled yet");
    bench.poll(seconds(0));
    let head = bench.local.answer_poll(&name("c"), after(10), TTL, seconds(1)).unwrap();
    assert_eq!((head.top, head.page.len()), (TOP, 0), "at the head there is nothing to ask the home for");
    bench.publish(11, Duration::ZERO, seconds(2));
    let news = bench.local.answer_poll(&name("c"), after(10), TTL, seconds(3)).unwrap();
    assert_eq!((news.top.offset, news.page.len(), news.head), (11, 1, true));
    for elsewhere in [after(9), after(12), Start::Now, Start::Beginning] {
        assert!(bench.local.answer_poll(&name("c"), elsewhere, TTL, seconds(3)).is_none(), "{elsewhere:?}");
    }
    let other = Start::After(StreamPosition { epoch: Epoch(8), offset: 10 });
    assert!(bench.local.answer_poll(&name("c"), other, TTL, seconds(3)).is_none());
    assert!(bench.local.answer_poll(&name("c"), after(10), TTL, seconds(302)).is_none(), "it is never served after its time");
}

#[test]
fn a_channel_lingers_after_its_last_poll_and_then_the_home_is_told() {
    let mut bench = Bench::default();
    bench.poll(seconds(0));
    bench.poll(seconds(100));
    assert_eq!(bench.local.stop_lingering(seconds(120)), (vec![], false), "it was polled again");
    assert_eq!(bench.local.stop_lingering(seconds(219)), (vec![], false));
    assert_eq!(bench.local.stop_lingering(seconds(220)), (vec![name("c")], false));
    assert_eq!(bench.local.stop_lingering(seconds(220)), (vec![], false));
}

#[test]
fn letting_go_of_many_channels_is_cut_into_steps() {
    let mut local = Local::default();
    for channel in 0..LINGERING_STEPS_MAX + 1 {
        let conn = ConnId { slot: 1, generation: 1 };
        let key = local.join(&name(&channel.to_string()), conn, AudienceId(0), Start::Now, NO_SUBSCRIPTION, &Options::default());
        local.answered(key, &Answer { top: TOP, from: TOP, outcome: Outcome::Exact, page: Vec::new(), head: true });
        local.linger(key, seconds(0));
        local.leave(key);
    }
    let (first, more) = local.stop_lingering(seconds(120));
    assert_eq!((first.len(), more), (LINGERING_STEPS_MAX, true));
    let (rest, more) = local.stop_lingering(seconds(120));
    assert_eq!((rest.len(), more), (1, false));
}

#[test]
fn the_last_subscriber_to_leave_ends_the_interest() {
    let mut bench = Bench::default();
    let (first, second) = (bench.join(), bench.join());
    assert_eq!(bench.local.leave(first), Left::Wanted);
    assert_eq!(bench.local.leave(second), Left::Unwanted(name("c")));
    assert_eq!(bench.local.leave(second), Left::Wanted, "a stale name means nothing");
    assert_eq!(bench.local.subscriptions(), 0);
}

#[test]
fn what_an_answer_already_held_is_not_handed_out_again() {
    let mut bench = Bench::default();
    bench.join();
    bench.publish(11, Duration::ZERO, seconds(0));
    let late = bench.local.join(
        &name("c"),
        ConnId { slot: 9, generation: 1 },
        AudienceId(0),
        Start::Now,
        NO_SUBSCRIPTION,
        &Options::default(),
    );
    let top = StreamPosition { offset: 11, ..TOP };
    let answer = Answer { top, from: top, outcome: Outcome::Exact, page: Vec::new(), head: true };
    bench.local.answered(late, &answer);
    let channel = bench.local.next_active(seconds(0)).unwrap();
    let cursor = bench.local.open(channel, RUN_PUBLICATIONS_MAX, seconds(0)).unwrap();
    let due: Vec<u32> = bench.local.groups(channel)[0]
        .entries
        .iter()
        .filter(|entry| entry.live_after < cursor.run.last())
        .map(|entry| entry.slot)
        .collect();
    assert_eq!(due, [1]);
}

#[test]
fn a_reload_finds_the_namespaces_of_open_channels_anew() {
    let mut bench = Bench::default();
    bench.join();
    bench.publish(11, Duration::ZERO, seconds(0));
    let channel = bench.local.next_active(seconds(0)).unwrap();
    let mut options = Options::default();
    options.namespaces.push(Namespace { name: "c".to_owned(), prefixes: vec!["c".to_owned()], ..Namespace::default() });
    let name_of = |local: &Local, options: &Options| options.policy(local.namespace_of(channel)).unwrap().name.clone();
    assert_eq!(name_of(&bench.local, &options), "default");
    bench.local.reload(&options);
    assert_eq!(name_of(&bench.local, &options), "c");
}

#[test]
fn an_answer_ahead_of_what_came_leaves_older_polls_to_the_home() {
    let mut bench = Bench::default();
    bench.poll(seconds(0));
    let key = bench.local.join(
        &name("c"),
        ConnId { slot: 70, generation: 1 },
        AudienceId(0),
        Start::Now,
        NO_SUBSCRIPTION,
        &Options::default(),
    );
    // The publications up to 14 were in front of this answer and have been given up for a loss up to 16 behind it.
    let top = StreamPosition { offset: 14, ..TOP };
    bench.local.answered(key, &Answer { top, from: top, outcome: Outcome::Exact, page: Vec::new(), head: true });
    assert!(bench.local.answer_poll(&name("c"), after(10), TTL, seconds(1)).is_none(), "11 to 14 never came here");
    let head = bench.local.answer_poll(&name("c"), after(14), TTL, seconds(1)).unwrap();
    assert_eq!((head.top, head.page.len()), (top, 0));
}
