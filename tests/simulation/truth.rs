//! What was published, and what anybody was told about it: the truth that subscribers are held against.
//!
//! A home worker is not asked where it is: what is known is when something was asked for and when its place was first told. Claims
//! that depend on the rest (why history did not reach back, where a subscription begins) are kept and judged when all is known.

use std::collections::HashMap;
use std::time::Duration;

use ringmain::base::{Epoch, Nanos, StreamPosition};
use ringmain::hub::PayloadKind;

use crate::settings::{CHANNELS, Rules, Settings};
use crate::verdict::{Breach, Judged, condemn, demand};

/// What a publication says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Content {
    pub kind: PayloadKind,
    pub bytes: Vec<u8>,
    pub event: Option<&'static str>,
    /// Conflation key.
    pub key: Option<u64>,
}

/// One publication, by its number.
#[derive(Clone, Debug)]
pub struct Published {
    pub content: Content,
    pub channels: Vec<usize>,
    pub asked_at: Nanos,
    /// Whether it is to be kept in history.
    pub kept: bool,
    /// May rightly have been stored a second time: it was sent again after its idempotency key had run out.
    pub twice: bool,
    /// Was sent again over another connection, which may have overtaken the first.
    pub sent_again: bool,
}

/// Where a subscriber wanted to begin, having no position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum First {
    Now,
    Beginning,
    Newest(u64),
}

/// Something a subscriber was told that is judged at the end.
#[derive(Clone, Debug)]
pub enum Claim {
    /// Everything behind the position was said to be gone by then.
    Expired { channel: usize, before: StreamPosition, at: Nanos },
    /// The channel was said to have come this far.
    Reached { channel: usize, position: StreamPosition, at: Nanos },
    /// A subscription began behind the position.
    Began { channel: usize, first: First, position: StreamPosition, asked_at: Nanos, at: Nanos },
    /// Offsets between the two were passed over without a word.
    Skipped { channel: usize, after: StreamPosition, next: u64 },
    /// What a reader without positions got, in order; `whole`: up to the end.
    Run { channel: usize, numbers: Vec<u64>, whole: bool },
}

#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    /// When anybody was first told.
    told_at: Nanos,
}

pub struct Truth {
    settings: Settings,
    rules: Vec<Rules>,
    published: HashMap<u64, Published>,
    at: HashMap<(usize, StreamPosition), Place>,
    of: HashMap<(usize, u64), StreamPosition>,
    /// Epochs of every channel in the order in which they were first seen, each with its highest known offset.
    epochs: Vec<Vec<(Epoch, u64)>>,
    claims: Vec<Claim>,
    /// Publications of one connection to one channel, in order.
    streams: HashMap<(u64, usize), Vec<u64>>,
    last_number: u64,
}

impl Truth {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            rules: (0..CHANNELS.len()).map(|channel| Rules::of(channel, &settings)).collect(),
            published: HashMap::new(),
            at: HashMap::new(),
            of: HashMap::new(),
            epochs: vec![Vec::new(); CHANNELS.len()],
            claims: Vec::new(),
            streams: HashMap::new(),
            last_number: 0,
        }
    }

    pub fn rules(&self, channel: usize) -> &Rules {
        &self.rules[channel]
    }

    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The number of the next publication.
    pub const fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// A publication is being asked for, as the next one of a connection.
    pub fn publish(&mut self, number: u64, published: Published, connection: u64) {
        for &channel in &published.channels {
            self.streams.entry((connection, channel)).or_default().push(number);
        }
        self.published.insert(number, published);
    }

    /// Its idempotency key had run out before it was answered.
    pub fn allow_twice(&mut self, number: u64) {
        if let Some(published) = self.published.get_mut(&number) {
            published.twice = true;
        }
    }

    /// It is being sent again over another connection.
    pub fn send_again(&mut self, number: u64) {
        if let Some(published) = self.published.get_mut(&number) {
            published.sent_again = true;
        }
    }

    pub fn content(&self, number: u64) -> Option<&Content> {
        self.published.get(&number).map(|published| &published.content)
    }

    /// The publication at a position, if anybody was told of it.
    pub fn content_at(&self, channel: usize, position: StreamPosition) -> Option<&Content> {
        self.content(self.at.get(&(channel, position))?.number)
    }

    pub fn asked_at(&self, number: u64) -> Nanos {
        self.published.get(&number).map_or(Nanos(0), |published| published.asked_at)
    }

    /// Somebody was told where a publication is; all who are told must agree.
    pub fn witness(&mut self, channel: usize, position: StreamPosition, number: u64, now: Nanos) -> Judged {
        let name = CHANNELS[channel];
        let Some(published) = self.published.get(&number).filter(|published| published.channels.contains(&channel)) else {
            return condemn(Breach::Invented, format!("{name} {position}: nobody published {number} there"));
        };
        let place = self.at.entry((channel, position)).or_insert(Place { number, told_at: now });
        if place.number != number {
            let what = format!("{name} {position} held {} and then {number}", place.number);
            return condemn(Breach::TwoAtOnePosition, what);
        }
        let other = *self.of.entry((channel, number)).or_insert(position);
        demand(other == position || published.twice, Breach::StoredTwice, || {
            format!("{name}: publication {number} is at {other} and at {position}")
        })?;
        let epochs = &mut self.epochs[channel];
        match epochs.iter_mut().find(|(epoch, _)| *epoch == position.epoch) {
            Some((_, top)) => *top = (*top).max(position.offset),
            None => epochs.push((position.epoch, position.offset)),
        }
        Ok(())
    }

    pub fn claim(&mut self, claim: Claim) {
        self.claims.push(claim);
    }

    /// The last position of a channel, as far as anybody was told.
    pub fn top(&self, channel: usize) -> Option<StreamPosition> {
        self.epochs[channel].last().map(|&(epoch, offset)| StreamPosition { epoch, offset })
    }

    /// Whether nothing is missing between a reader and the head: what was not to be kept need not be told to who came later.
    pub fn is_at_head(&self, channel: usize, last: StreamPosition, top: StreamPosition) -> bool {
        let mut missing = (last.offset + 1..=top.offset).map(|offset| StreamPosition { offset, ..top });
        missing.all(|position| self.verify_skip(channel, position).is_ok())
    }

    /// Whether anybody was told of a publication of that epoch.
    pub fn knows(&self, channel: usize, epoch: Epoch) -> bool {
        self.epochs[channel].iter().any(|(known, _)| *known == epoch)
    }

    /// Judges what could not be judged before everything was known.
    pub fn verify(&self) -> Judged {
        self.claims.iter().try_for_each(|claim| self.verify_claim(claim))?;
        self.streams.iter().try_for_each(|(&(_, channel), numbers)| self.verify_order(channel, numbers))
    }

    fn verify_claim(&self, claim: &Claim) -> Judged {
        match claim {
            Claim::Expired { channel, before, at } => demand(self.may_be_gone(*channel, *before, *at), Breach::FalseGap, || {
                format!("{} {before} was still to be kept when it was said to have expired", CHANNELS[*channel])
            }),
            Claim::Reached { channel, position, at } => {
                let most = self.reached_at_most(*channel, position.epoch, *at);
                demand(position.offset <= most, Breach::FalseGap, || {
                    format!("{} was said to be at {position}, when {most} was the most it could be", CHANNELS[*channel])
                })
            }
            &Claim::Began { channel, first, position, asked_at, at } => self.verify_start(channel, first, position, asked_at, at),
            &Claim::Skipped { channel, after, next } => {
                (after.offset + 1..next).try_for_each(|offset| self.verify_skip(channel, StreamPosition { offset, ..after }))
            }
            Claim::Run { channel, numbers, whole } => self.verify_run(*channel, numbers, *whole),
        }
    }

    fn verify_start(&self, channel: usize, first: First, from: StreamPosition, asked_at: Nanos, at: Nanos) -> Judged {
        let least = self.reached_at_least(channel, from.epoch, asked_at);
        let most = self.reached_at_most(channel, from.epoch, at);
        let gone = self.may_be_gone(channel, from, at);
        // Between publications that are kept there may be others, so that the newest few reach further back.
        let exact = !self.rules(channel).fleeting;
        let fits = match first {
            First::Now => (least..=most).contains(&from.offset),
            First::Beginning => gone && from.offset <= most,
            First::Newest(count) => {
                let end = from.offset + count;
                from.offset <= most && (end >= least || !exact) && (gone || end <= most)
            }
        };
        demand(fits, Breach::WrongStart, || {
            format!("{} began behind {from} ({first:?}), the channel was between {least} and {most}", CHANNELS[channel])
        })
    }

    fn verify_skip(&self, channel: usize, position: StreamPosition) -> Judged {
        let fleeting = match self.at.get(&(channel, position)) {
            Some(place) => self.published.get(&place.number).is_some_and(|published| !published.kept),
            None => self.unplaced(channel, Nanos(u64::MAX), |published| !published.kept) > 0,
        };
        demand(fleeting, Breach::Lost, || format!("{} {position} was passed over without a gap", CHANNELS[channel]))
    }

    fn verify_run(&self, channel: usize, numbers: &[u64], whole: bool) -> Judged {
        let places: Vec<StreamPosition> = numbers.iter().filter_map(|number| self.of.get(&(channel, *number)).copied()).collect();
        let name = CHANNELS[channel];
        for pair in places.windows(2) {
            demand(pair[0].epoch == pair[1].epoch, Breach::Lost, || format!("{name}: {} and then {} raw", pair[0], pair[1]))?;
            demand(pair[0].offset < pair[1].offset, Breach::Repeated, || format!("{name}: {} and then {} raw", pair[0], pair[1]))?;
            if places.len() == numbers.len() && !self.rules(channel).state {
                let after = pair[0];
                let between = (after.offset + 1..pair[1].offset).map(|offset| StreamPosition { offset, ..after });
                between.into_iter().try_for_each(|position| self.verify_skip(channel, position))?;
            }
        }
        match (places.last(), self.top(channel)) {
            (Some(last), Some(top)) if whole && last.epoch == top.epoch => {
                demand(last.offset >= top.offset, Breach::Behind, || {
                    format!("{name}: a raw reader stopped at {last}, not at {top}")
                })
            }
            _ => Ok(()),
        }
    }

    /// Publications of one connection to one channel keep their order.
    fn verify_order(&self, channel: usize, numbers: &[u64]) -> Judged {
        let mut before: Option<(u64, StreamPosition)> = None;
        for number in numbers.iter().filter(|number| !self.published[number].sent_again) {
            let Some(&position) = self.of.get(&(channel, *number)) else { continue };
            if let Some((earlier, place)) = before
                && place.epoch == position.epoch
            {
                demand(place.offset < position.offset, Breach::Disordered, || {
                    format!(
                        "{}: {earlier} was published before {number}, but is at {place} and it at {position}",
                        CHANNELS[channel]
                    )
                })?;
            }
            before = Some((*number, position));
        }
        Ok(())
    }

    /// Whether the publication at a position may have been trimmed by then.
    fn may_be_gone(&self, channel: usize, mut position: StreamPosition, at: Nanos) -> bool {
        let rules = self.rules(channel);
        // What was never kept is as gone as what is before it.
        while position.offset > 0 && self.verify_skip(channel, position).is_ok() {
            position.offset -= 1;
        }
        if position.offset == 0 || rules.history_size == 0 || self.settings.tight_memory {
            return true;
        }
        let by_size = self.reached_at_most(channel, position.epoch, at) >= position.offset + rules.history_size;
        let by_time = match self.at.get(&(channel, position)) {
            Some(place) => at.since(self.asked_at(place.number)) >= rules.history_ttl,
            // Nobody was ever told what is there.
            None => true,
        };
        by_size || by_time
    }

    /// The highest offset that a channel can have had.
    fn reached_at_most(&self, channel: usize, epoch: Epoch, at: Nanos) -> u64 {
        let known = self.places(channel, epoch).filter(|(_, place)| self.asked_at(place.number) <= at).map(|(offset, _)| offset);
        known.max().unwrap_or(0) + self.unplaced(channel, at, |_| true)
    }

    /// The highest offset that a channel must have had: somebody had been told by then.
    fn reached_at_least(&self, channel: usize, epoch: Epoch, at: Nanos) -> u64 {
        self.places(channel, epoch).filter(|(_, place)| place.told_at < at).map(|(offset, _)| offset).max().unwrap_or(0)
    }

    fn places(&self, channel: usize, epoch: Epoch) -> impl Iterator<Item = (u64, &Place)> {
        let top = self.epochs[channel].iter().find(|(known, _)| *known == epoch).map_or(0, |(_, top)| *top);
        (1..=top).filter_map(move |offset| Some((offset, self.at.get(&(channel, StreamPosition { epoch, offset }))?)))
    }

    /// Publications asked for by then whose place nobody was ever told: their publisher was cut off.
    fn unplaced(&self, channel: usize, at: Nanos, which: impl Fn(&Published) -> bool) -> u64 {
        let unplaced = self.published.iter().filter(|(number, published)| {
            published.channels.contains(&channel)
                && published.asked_at <= at
                && !self.of.contains_key(&(channel, **number))
                && which(published)
        });
        unplaced.count() as u64
    }
}

/// How long an idempotency key is good.
pub const KEY_LIFE: Duration = Duration::from_secs(300);
