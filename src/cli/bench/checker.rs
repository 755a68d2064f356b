//! Whether every subscriber got every publication once, in order, unchanged; and how late.
//!
//! One [`Checker`] holds what all subscribers share, by [`Channel`] where it is a channel's own; each subscriber keeps a small
//! [`Ledger`]. The load's connections and publications go round its channels in turn: number `n` of either is on channel
//! `n % channels`, and a load of one channel is the case of one.
//!
//! The first copy of a publication is taken apart and checked against its number. The others are compared with that
//! copy, whole, at the place where it must come next: a match proves channel, position and content in one comparison.
//! Compressed copies are compared as they came, which proves the same, since nothing but their own bytes says what they inflate to.

use std::ops::Range;

use hdrhistogram::Histogram;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::channel::{Channel, Copies};
use super::deflate::Inflater;
use super::payload;

/// Latencies above a minute are recorded as a minute.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;
const LATENCY_DIGITS: u8 = 3;

/// How far one subscriber has come.
#[derive(Clone, Default, Debug)]
pub struct Ledger {
    /// Which of the load's channels it is subscribed to.
    channel: u32,
    /// The offset that must come next; `None` before the first position is known.
    next: Option<u64>,
    /// What was jumped over and has not come since.
    holes: Vec<Range<u64>>,
    /// A subscriber that may miss some: it is checked, but neither expected to get everything nor timed.
    pub aside: bool,
    /// It has said where it was, and was not told yet that it goes on from there.
    returning: bool,
    /// What it lacks up to here was published before it came back.
    recovers_to: u64,
}

impl Ledger {
    /// The subscriber is at `offset`: everything after it must come.
    pub fn start(&mut self, offset: u64) {
        self.next = Some(offset + 1);
    }

    /// Its place is known, to both sides.
    pub fn is_started(&self) -> bool {
        self.next.is_some() && !self.returning
    }

    /// The server says that the subscriber is at `offset`. One that has come back must be where it was.
    fn subscribed(&mut self, offset: u64, recovered: bool) -> Result<(), Corruption> {
        // Starting again would forget what has not come yet.
        if self.is_started() {
            return Err(Corruption::SubscribedAgain);
        }
        if !std::mem::take(&mut self.returning) {
            self.start(offset);
        } else if !recovered || self.next != Some(offset + 1) {
            return Err(Corruption::NotResumed);
        }
        Ok(())
    }

    /// Whether `last` came, or a later one.
    pub fn is_at(&self, last: u64) -> bool {
        self.next > Some(last)
    }

    /// Publications up to `last` that never came.
    pub fn missing(&self, last: u64) -> u64 {
        if self.aside {
            return 0;
        }
        let behind = self.next.map_or(0, |next| (last + 1).saturating_sub(next));
        behind + self.holes.iter().map(|hole| hole.end - hole.start).sum::<u64>()
    }

    fn place(&mut self, offset: u64) -> Arrival {
        let next = *self.next.get_or_insert(offset);
        if offset >= next {
            if offset > next {
                self.holes.push(next..offset);
            }
            self.next = Some(offset + 1);
            return Arrival::InOrder;
        }
        match self.holes.iter().position(|hole| hole.contains(&offset)) {
            Some(index) => {
                let hole = self.holes.swap_remove(index);
                self.holes.extend([hole.start..offset, offset + 1..hole.end].into_iter().filter(|part| !part.is_empty()));
                Arrival::Late
            }
            None => Arrival::Again,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arrival {
    /// The next one, or one further on (the hole is remembered).
    InOrder,
    /// It fills a hole: it came, but after a later one.
    Late,
    Again,
}

/// What a server may not say, as the first of it is reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Corruption {
    /// Not an item of the plain protocol.
    NotAnItem,
    /// A `subscribed` item for a channel that the connection is already subscribed to.
    SubscribedAgain,
    /// A `subscribed` item that has a subscriber that came back go on elsewhere than where it was.
    NotResumed,
    /// Another channel or epoch, or no number.
    Position,
    /// A payload that was not published, or not at this offset.
    Content,
    /// An event's `id:` that is not its item's position.
    EventId,
    /// A poll's position that is not the one of its last message.
    PollPosition,
    /// A publication's answer that names another channel, or a position that subscribers did not see.
    Answer,
    /// A compressed message that is not DEFLATE, or not whole.
    Compression,
}

impl Corruption {
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotAnItem => "not an item",
            Self::SubscribedAgain => "subscribed twice",
            Self::NotResumed => "a subscriber that came back was not where it had been",
            Self::Position => "a wrong channel, epoch or position",
            Self::Content => "a payload that was not published at this offset",
            Self::EventId => "an event's id that is not its item's position",
            Self::PollPosition => "a poll's position that is not its last message's",
            Self::Answer => "a publication's answer that is not the position subscribers got",
            Self::Compression => "a compressed message that cannot be inflated",
        }
    }
}

/// What was seen so far. Everything but `deliveries` must be zero in a sound run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Publications that reached a subscriber for the first time, unchanged.
    pub deliveries: u64,
    pub repeated: u64,
    pub disordered: u64,
    /// Wrong channel, epoch, place or content, or not an item at all.
    pub corrupt: u64,
    /// Gap and end items: the server saying itself that it lost something.
    pub gaps: u64,
}

/// What came to subscribers that may miss some.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Aside {
    pub deliveries: u64,
    pub gaps: u64,
}

/// One of the load's publications.
pub struct Publication<'a> {
    pub number: u64,
    pub channel: &'a str,
    /// Publications of its channel before it.
    pub nth: u64,
}

/// What was published, and what came of it.
pub struct Checker {
    channels: Vec<Channel>,
    payload_bytes: usize,
    inflater: Inflater,
    /// When publication `n` was meant to be sent, in nanoseconds of the load's clock.
    intended: Vec<u64>,
    scratch: Vec<u8>,
    pub tally: Tally,
    pub aside: Aside,
    /// Deliveries of the tally that came compressed.
    pub compressed_deliveries: u64,
    /// Deliveries of the tally that had been published before their subscriber came back.
    pub recovered_deliveries: u64,
    pub first_corruption: Option<Corruption>,
    /// When the last delivery came.
    pub delivered_at: u64,
    /// Pings of the server, each of which was answered.
    pub pings: u64,
    latency: Histogram<u64>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, default)]
    channel: Option<&'a str>,
    #[serde(borrow, default)]
    position: Option<&'a str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    subscribed: Option<Subscribed<'a>>,
    #[serde(borrow, default)]
    gap: Option<&'a RawValue>,
    #[serde(borrow, default)]
    end: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Subscribed<'a> {
    channel: &'a str,
    position: &'a str,
    #[serde(default)]
    recovered: bool,
}

impl Checker {
    /// For a load of one channel.
    pub fn new(channel: &str, payload_bytes: usize) -> Self {
        Self::of(vec![Channel::new(channel.to_owned())], payload_bytes)
    }

    /// For a load of so many, named by their numbers after `prefix`.
    pub fn with_channels(prefix: &str, count: usize, payload_bytes: usize) -> Self {
        let channels = (0..count.max(1)).map(|number| Channel::new(format!("{prefix}{number}")));
        Self::of(channels.collect(), payload_bytes)
    }

    fn of(channels: Vec<Channel>, payload_bytes: usize) -> Self {
        Self {
            channels,
            payload_bytes,
            inflater: Inflater::default(),
            intended: Vec::new(),
            scratch: Vec::new(),
            tally: Tally::default(),
            aside: Aside::default(),
            compressed_deliveries: 0,
            recovered_deliveries: 0,
            first_corruption: None,
            delivered_at: 0,
            pings: 0,
            latency: new_histogram(),
        }
    }

    /// The ledger of connection `index`.
    pub fn ledger(&self, index: usize) -> Ledger {
        Ledger { channel: (index % self.channels.len()) as u32, ..Ledger::default() }
    }

    /// The names of the channels.
    pub fn channels(&self) -> impl Iterator<Item = &str> {
        self.channels.iter().map(Channel::name)
    }

    pub const fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Notes the next publication's intended time and returns its number.
    pub fn intend(&mut self, at: u64) -> u64 {
        self.intended.push(at);
        self.intended.len() as u64 - 1
    }

    pub fn publication(&self, number: u64) -> Publication<'_> {
        let (channel, nth) = self.turn(number);
        Publication { number, channel: self.channels[channel].name(), nth }
    }

    /// The channel whose turn it is with `number`, and its turns before.
    fn turn(&self, number: u64) -> (usize, u64) {
        let count = self.channels.len() as u64;
        ((number % count) as usize, number / count)
    }

    /// Publications so far.
    pub fn published(&self) -> u64 {
        self.intended.len() as u64
    }

    /// Forgets the latencies of the warm-up.
    pub fn reset_latency(&mut self) {
        self.latency.reset();
    }

    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// The offset of the last publication of this subscriber's channel, once one was seen.
    pub fn last_offset(&self, ledger: &Ledger) -> Option<u64> {
        Some(self.channel(ledger).first_offset()? + self.published_to(ledger).checked_sub(1)?)
    }

    /// Publications to this subscriber's channel.
    fn published_to(&self, ledger: &Ledger) -> u64 {
        let before = u64::from(ledger.channel);
        self.published().saturating_sub(before).div_ceil(self.channels.len() as u64)
    }

    /// Publications that never came to this subscriber.
    pub fn missing(&self, ledger: &Ledger) -> u64 {
        self.last_offset(ledger).map_or(0, |last| ledger.missing(last))
    }

    /// Publications that a subscriber who is gone will never get: all of them where nobody has seen one.
    pub fn missed(&self, ledger: &Ledger) -> u64 {
        self.last_offset(ledger).map_or_else(|| self.published_to(ledger), |last| ledger.missing(last))
    }

    fn channel(&self, ledger: &Ledger) -> &Channel {
        &self.channels[ledger.channel as usize]
    }

    fn channel_mut(&mut self, ledger: &Ledger) -> &mut Channel {
        &mut self.channels[ledger.channel as usize]
    }

    /// Takes one item of a WebSocket message, a stream or a poll, received at `now`. Returns the offset that it says it
    /// has, where it is a publication.
    pub fn item(&mut self, ledger: &mut Ledger, item: &[u8], now: u64) -> Option<u64> {
        if let Some(offset) = next_of(&self.channel(ledger).known, ledger, item) {
            self.deliver_next(ledger, offset, now);
            return Some(offset);
        }
        self.unknown_item(ledger, item, now).unwrap_or_else(|corruption| {
            self.corrupt(corruption);
            None
        })
    }

    /// Takes a compressed message, which holds one item.
    pub fn compressed_item(&mut self, ledger: &mut Ledger, compressed: &[u8], now: u64) {
        let before = self.tally.deliveries;
        if let Some(offset) = next_of(&self.channel(ledger).known_compressed, ledger, compressed) {
            self.deliver_next(ledger, offset, now);
        } else {
            self.inflate(ledger, compressed, now);
        }
        self.compressed_deliveries += self.tally.deliveries - before;
    }

    fn inflate(&mut self, ledger: &mut Ledger, compressed: &[u8], now: u64) {
        let mut inflater = std::mem::take(&mut self.inflater);
        match inflater.inflate(compressed) {
            Some(item) => {
                if let Some(offset) = self.item(ledger, item, now) {
                    self.channel_mut(ledger).known_compressed.remember(offset, compressed);
                }
            }
            None => self.corrupt(Corruption::Compression),
        }
        self.inflater = inflater;
    }

    /// Takes an item that came as an event: its `id:` must be its position, or a reconnect would resume elsewhere.
    pub fn event(&mut self, ledger: &mut Ledger, id: Option<&[u8]>, item: &[u8], now: u64) {
        let Some(offset) = self.item(ledger, item, now) else { return };
        let id = id.and_then(|id| std::str::from_utf8(id).ok()).and_then(|id| self.token(ledger, id));
        if id != Some(offset) {
            self.corrupt(Corruption::EventId);
        }
    }

    /// Takes the position that a poll ends at: where the subscriber already is.
    pub fn poll_position(&mut self, ledger: &Ledger, position: &str) {
        let offset = self.token(ledger, position);
        if offset.is_none_or(|offset| ledger.next != Some(offset + 1)) {
            self.corrupt(Corruption::PollPosition);
        }
    }

    /// Takes the answer to publication `number`.
    pub fn answer(&mut self, number: u64, channel: &str, position: &str) {
        let (index, nth) = self.turn(number);
        let asked = &mut self.channels[index];
        let offset = asked.offset(channel, position);
        if offset.is_none_or(|offset| !asked.answered(nth, offset)) {
            self.corrupt(Corruption::Answer);
        }
    }

    /// This subscriber is about to come back. What has been answered by now, and it does not have, it can only recover.
    pub fn returns(&self, ledger: &mut Ledger) {
        ledger.returning = ledger.next.is_some();
        ledger.recovers_to = self.channel(ledger).last_answered();
    }

    /// The position that a subscriber that comes back has.
    pub fn position(&self, ledger: &Ledger) -> Option<String> {
        let next = ledger.next.filter(|_| ledger.returning)?;
        Some(format!("{}:{}", self.channel(ledger).epoch()?, next - 1))
    }

    /// The server says itself that this subscriber missed something.
    pub fn admitted(&mut self, ledger: &Ledger) {
        match ledger.aside {
            true => self.aside.gaps += 1,
            false => self.tally.gaps += 1,
        }
    }

    /// Counts what the server may not say.
    pub fn corrupt(&mut self, corruption: Corruption) {
        self.tally.corrupt += 1;
        self.first_corruption.get_or_insert(corruption);
    }

    fn deliver_next(&mut self, ledger: &mut Ledger, offset: u64, now: u64) {
        ledger.next = Some(offset + 1);
        self.deliver(ledger, offset, now);
    }

    fn deliver(&mut self, ledger: &Ledger, offset: u64, now: u64) {
        if ledger.aside {
            self.aside.deliveries += 1;
            return;
        }
        self.tally.deliveries += 1;
        self.recovered_deliveries += u64::from(offset <= ledger.recovers_to);
        self.delivered_at = now;
        if let Some(intended) = self.intended(ledger, offset) {
            self.latency.saturating_record(now.saturating_sub(intended).max(1));
        }
    }

    fn intended(&self, ledger: &Ledger, offset: u64) -> Option<u64> {
        let nth = offset.checked_sub(self.channel(ledger).first_offset()?)?;
        let number = usize::try_from(nth).ok()?.checked_mul(self.channels.len())?.checked_add(ledger.channel as usize)?;
        self.intended.get(number).copied()
    }

    fn unknown_item(&mut self, ledger: &mut Ledger, bytes: &[u8], now: u64) -> Result<Option<u64>, Corruption> {
        let item: Item<'_> = serde_json::from_slice(bytes).map_err(|_| Corruption::NotAnItem)?;
        if item.gap.is_some() || item.end.is_some() {
            self.admitted(ledger);
            return Ok(None);
        }
        if let Some(Subscribed { channel, position, recovered }) = item.subscribed {
            let offset = self.channel_mut(ledger).offset(channel, position).ok_or(Corruption::Position)?;
            return ledger.subscribed(offset, recovered).map(|()| None);
        }
        let (Some(channel), Some(position), Some(data)) = (item.channel, item.position, item.data) else {
            return Err(Corruption::NotAnItem);
        };
        let offset = self.channel_mut(ledger).offset(channel, position).ok_or(Corruption::Position)?;
        if !self.holds(ledger, offset, data.get().as_bytes()) {
            return Err(Corruption::Content);
        }
        self.arrive(ledger, offset, bytes, now);
        Ok(Some(offset))
    }

    fn arrive(&mut self, ledger: &mut Ledger, offset: u64, bytes: &[u8], now: u64) {
        match ledger.place(offset) {
            Arrival::Again => self.tally.repeated += 1,
            arrival => {
                self.tally.disordered += u64::from(arrival == Arrival::Late);
                self.deliver(ledger, offset, now);
                self.channel_mut(ledger).known.remember(offset, bytes);
            }
        }
    }

    /// Takes a position alone, of this subscriber's channel.
    pub fn token(&mut self, ledger: &Ledger, position: &str) -> Option<u64> {
        self.channel_mut(ledger).token(position)
    }

    /// Whether the payload is right in every byte and its number is the one of this offset.
    fn holds(&mut self, ledger: &Ledger, offset: u64, data: &[u8]) -> bool {
        let number = payload::verify(data, self.payload_bytes, &mut self.scratch);
        let Some(number) = number.filter(|&number| number < self.published()) else { return false };
        let (channel, nth) = self.turn(number);
        channel == ledger.channel as usize && self.channels[channel].stored(nth, offset)
    }
}

/// The offset of `bytes`, where they are a copy of what must come next.
fn next_of(copies: &Copies, ledger: &Ledger, bytes: &[u8]) -> Option<u64> {
    ledger.next.filter(|&next| copies.at(next) == Some(bytes))
}

/// A histogram of nanoseconds, for latencies of up to a minute.
pub fn new_histogram() -> Histogram<u64> {
    match Histogram::new_with_max(LATENCY_NANOS_MAX, LATENCY_DIGITS) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("constant bounds: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::deflate::compressed;

    const BYTES: usize = 64;

    fn item(channel: &str, position: &str, number: u64) -> Vec<u8> {
        let mut item = format!("{{\"channel\":\"{channel}\",\"position\":\"{position}\",\"data\":").into_bytes();
        payload::write(&mut item, number, BYTES);
        item.push(b'}');
        item
    }

    /// Two subscribers at offset 9, ten publications: number `n` has offset `10 + n`. The second sees `second`.
    fn run(second: &[Vec<u8>]) -> (Tally, u64) {
        let mut checker = Checker::new("news", BYTES);
        let (mut first_ledger, mut second_ledger) = (Ledger::default(), Ledger::default());
        for ledger in [&mut first_ledger, &mut second_ledger] {
            checker.item(ledger, br#"{"subscribed":{"channel":"news","position":"E:9","recovered":true}}"#, 0);
        }
        for number in 0..10 {
            assert_eq!(checker.intend(100 * number), number);
            checker.item(&mut first_ledger, &good(number), 100 * number + 7);
        }
        assert_eq!(checker.tally, Tally { deliveries: 10, ..Tally::default() });
        for item in second {
            checker.item(&mut second_ledger, item, 5_000);
        }
        let last = checker.last_offset(&first_ledger).expect("published");
        assert_eq!((last, first_ledger.missing(last)), (19, 0));
        checker.tally.deliveries -= 10;
        (checker.tally, second_ledger.missing(last))
    }

    fn good(number: u64) -> Vec<u8> {
        item("news", &format!("E:{}", number + 10), number)
    }

    #[track_caller]
    fn check(numbers: &[u64], expected: Tally, missing: u64) {
        let items: Vec<_> = numbers.iter().map(|&number| good(number)).collect();
        assert_eq!(run(&items), (expected, missing));
    }

    #[test]
    fn order_loss_and_repeats_are_told_apart() {
        let sound = Tally { deliveries: 10, ..Tally::default() };
        check(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], sound, 0);
        check(&[0, 1, 2, 3, 4, 5, 6, 7], Tally { deliveries: 8, ..sound }, 2);
        check(&[0, 1, 2, 6, 7, 8, 9], Tally { deliveries: 7, ..sound }, 3);
        check(&[1, 2, 3, 4, 5, 6, 7, 8, 9], Tally { deliveries: 9, ..sound }, 1);
        check(&[0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9], Tally { repeated: 1, ..sound }, 0);
        check(&[0, 2, 1, 3, 4, 5, 6, 7, 8, 9], Tally { disordered: 1, ..sound }, 0);
        check(&[0, 5, 3, 3, 6, 7, 8, 9], Tally { deliveries: 7, disordered: 1, repeated: 1, ..sound }, 3);
    }

    #[track_caller]
    fn check_corrupt(item: Vec<u8>) {
        assert_eq!(run(&[item]).0, Tally { corrupt: 1, ..Tally::default() });
    }

    #[test]
    fn a_wrong_frame_is_noticed() {
        check_corrupt(item("olds", "E:10", 0));
        check_corrupt(item("news", "F:10", 0));
        check_corrupt(item("news", "E:10", 1));
        check_corrupt(item("news", "E:99", 89));
        check_corrupt(b"{".to_vec());
        check_corrupt(b"{}".to_vec());
        check_corrupt(br#"{"channel":"news","position":"E:10"}"#.to_vec());
        for at in good(0).windows(8).position(|window| window == b"\"fill\":\"").map(|at| at + 9).into_iter() {
            let mut changed = good(0);
            changed[at] ^= 1;
            check_corrupt(changed);
        }
    }

    #[test]
    fn subscribing_again_forgives_nothing() {
        let again = br#"{"subscribed":{"channel":"news","position":"E:19","recovered":true}}"#.to_vec();
        assert_eq!(run(&[again]), (Tally { corrupt: 1, ..Tally::default() }, 10));
    }

    #[test]
    fn an_events_id_is_its_position() {
        for (id, corrupt) in [(Some(&b"E:10"[..]), 0), (Some(b"E:11"), 1), (Some(b"F:10"), 1), (Some(b"E"), 1), (None, 1)] {
            let (mut checker, mut ledger) = (Checker::new("news", BYTES), Ledger::default());
            checker.item(&mut ledger, br#"{"subscribed":{"channel":"news","position":"E:9","recovered":true}}"#, 0);
            checker.intend(0);
            checker.event(&mut ledger, id, &good(0), 1);
            assert_eq!(checker.tally, Tally { deliveries: 1, corrupt, ..Tally::default() }, "{id:?}");
        }
    }

    #[test]
    fn an_answer_is_the_position_that_subscribers_got() {
        for (channel, position, corrupt) in [("news", "E:10", 0), ("news", "E:11", 1), ("news", "F:10", 1), ("olds", "E:10", 1)] {
            let (mut checker, mut ledger) = (Checker::new("news", BYTES), Ledger::default());
            checker.item(&mut ledger, br#"{"subscribed":{"channel":"news","position":"E:9","recovered":true}}"#, 0);
            checker.intend(0);
            checker.item(&mut ledger, &good(0), 1);
            checker.answer(0, channel, position);
            assert_eq!(checker.tally, Tally { deliveries: 1, corrupt, ..Tally::default() }, "{channel} {position}");
        }
    }

    /// Two subscribers, one publication: the first gets it compressed by one level, the second what is given.
    #[track_caller]
    fn check_compressed(second: &[u8], expected: Tally, compressed_deliveries: u64) {
        let (mut checker, mut ledgers) = (Checker::new("news", BYTES), [Ledger::default(), Ledger::default()]);
        ledgers.iter_mut().for_each(|ledger| ledger.start(9));
        checker.intend(0);
        checker.compressed_item(&mut ledgers[0], &compressed(&good(0), 6), 1);
        assert_eq!((checker.tally.deliveries, checker.compressed_deliveries), (1, 1));
        checker.compressed_item(&mut ledgers[1], second, 1);
        assert_eq!((checker.tally, checker.compressed_deliveries), (expected, compressed_deliveries));
    }

    #[test]
    fn compressed_copies_are_compared_as_they_came_or_inflated() {
        let both = Tally { deliveries: 2, ..Tally::default() };
        let wrong = Tally { deliveries: 1, corrupt: 1, ..Tally::default() };
        check_compressed(&compressed(&good(0), 6), both, 2);
        check_compressed(&compressed(&good(0), 0), both, 2);
        check_compressed(&compressed(&item("news", "E:10", 1), 6), wrong, 1);
        check_compressed(&compressed(&good(0), 6)[1..], wrong, 1);
    }

    #[test]
    fn a_compressed_copy_is_the_publication_that_must_come_next() {
        let (mut checker, mut ledgers) = (Checker::new("news", BYTES), [Ledger::default(), Ledger::default()]);
        ledgers.iter_mut().for_each(|ledger| ledger.start(9));
        for number in 0..3 {
            checker.intend(0);
            checker.compressed_item(&mut ledgers[0], &compressed(&good(number), 6), 1);
        }
        for number in [0, 0, 2] {
            checker.compressed_item(&mut ledgers[1], &compressed(&good(number), 6), 1);
        }
        // One came uncompressed, as small ones may.
        checker.item(&mut ledgers[1], &good(1), 1);
        assert_eq!(checker.tally, Tally { deliveries: 6, repeated: 1, disordered: 1, ..Tally::default() });
        assert_eq!((checker.compressed_deliveries, ledgers[1].missing(12)), (5, 0));
    }

    #[test]
    fn who_comes_back_goes_on_where_it_was() {
        for (position, recovered, items, corrupt, expected) in [
            ("E:11", true, [2, 3], 0, Tally { deliveries: 2, ..Tally::default() }),
            ("E:11", true, [1, 2], 0, Tally { deliveries: 1, repeated: 1, ..Tally::default() }),
            ("E:11", true, [3, 2], 0, Tally { deliveries: 2, disordered: 1, ..Tally::default() }),
            ("E:11", false, [2, 3], 1, Tally { deliveries: 2, ..Tally::default() }),
            ("E:10", true, [2, 3], 1, Tally { deliveries: 2, ..Tally::default() }),
            ("E:13", true, [2, 3], 1, Tally { deliveries: 2, ..Tally::default() }),
            ("F:11", true, [2, 3], 1, Tally { deliveries: 2, ..Tally::default() }),
        ] {
            let (mut checker, mut ledger) = (Checker::new("news", BYTES), Ledger::default());
            checker.returns(&mut ledger);
            assert_eq!((checker.position(&ledger), ledger.is_started()), (None, false), "it comes for the first time");
            checker.item(&mut ledger, br#"{"subscribed":{"channel":"news","position":"E:9","recovered":true}}"#, 0);
            (0..4).for_each(|_| _ = checker.intend(0));
            (0..2).for_each(|number| _ = checker.item(&mut ledger, &good(number), 1));
            checker.answer(2, "news", "E:12");
            checker.returns(&mut ledger);
            assert_eq!((checker.position(&ledger).as_deref(), ledger.is_started()), (Some("E:11"), false));
            checker.tally = Tally::default();
            let hello = format!(r#"{{"subscribed":{{"channel":"news","position":"{position}","recovered":{recovered}}}}}"#);
            checker.item(&mut ledger, hello.as_bytes(), 2);
            items.iter().for_each(|&number| _ = checker.item(&mut ledger, &good(number), 3));
            assert_eq!(checker.tally, Tally { corrupt, ..expected }, "{position} {recovered} {items:?}");
            assert_eq!(checker.recovered_deliveries, 1, "only the one that was answered before can have been missed");
        }
    }

    #[test]
    fn what_the_server_admits_is_counted() {
        let gap = br#"{"gap":{"channel":"news","after":"E:9","next":null,"missed":null,"reason":"slow"}}"#.to_vec();
        let end = br#"{"end":{"code":3001,"reason":"shutdown","reconnect":true,"retry_ms":1}}"#.to_vec();
        assert_eq!(run(&[gap, end]).0, Tally { gaps: 2, ..Tally::default() });
    }

    #[test]
    fn who_stands_aside_may_miss_some_but_not_get_wrong_ones() {
        let (mut checker, mut ledger) = (Checker::new("news", BYTES), Ledger { aside: true, ..Ledger::default() });
        ledger.start(9);
        (0..3).for_each(|_| _ = checker.intend(0));
        let gap = br#"{"gap":{"channel":"news","after":"E:9","next":"E:12","missed":2,"reason":"slow"}}"#;
        checker.item(&mut ledger, gap, 1);
        checker.item(&mut ledger, &good(2), 1);
        assert_eq!((checker.tally, checker.aside), (Tally::default(), Aside { deliveries: 1, gaps: 1 }));
        assert_eq!((checker.latency().len(), ledger.missing(12), ledger.is_at(12), ledger.is_at(13)), (0, 0, true, false));
        checker.item(&mut ledger, &good(2), 1);
        assert_eq!(checker.tally, Tally { repeated: 1, ..Tally::default() });
    }

    #[test]
    fn latency_counts_from_the_intended_time() {
        let mut checker = Checker::new("news", BYTES);
        let mut ledger = Ledger::default();
        ledger.start(9);
        checker.intend(1_000);
        checker.item(&mut ledger, &good(0), 501_000);
        assert!((499_000..=501_000).contains(&checker.latency().max()), "{}", checker.latency().max());
    }
}
