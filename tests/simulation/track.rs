//! One channel of one client: how far it has read, and whether what comes next may come next.

use ringmain::base::{Epoch, Nanos, StreamPosition};
use serde_json::Value;

use crate::conflation::Conflation;
use crate::settings::CHANNELS;
use crate::truth::{Claim, First, Truth};
use crate::verdict::{Breach, Judged, condemn, demand};

/// What a connection asked for when it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presented {
    Fresh(First),
    /// A position that was told before.
    Own(StreamPosition),
    /// A position ahead of the channel.
    Ahead(StreamPosition),
    /// No position of this server's making.
    Foreign,
    /// What cannot be read.
    Unreadable,
}

/// A token of another server's making.
pub const FOREIGN: &str = "elsewhere:7";

/// How far the connection has come with the channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing has been told yet.
    Asked,
    /// A gap is due, and what comes next is behind this position.
    GapDue(StreamPosition),
    Going,
}

/// Circumstances that justify what a client is told.
#[derive(Clone, Copy, Debug)]
pub struct Excuses {
    pub now: Nanos,
    /// When the connection asked.
    pub asked_at: Nanos,
    /// The socket has refused bytes since the connection was made.
    pub slow: bool,
    /// Deliveries of the channel to this worker collapsed since the connection was made.
    pub collapsed: bool,
}

/// One channel of one client.
#[derive(Debug)]
pub struct Track {
    pub channel: usize,
    /// Position of the last thing read.
    pub last: Option<StreamPosition>,
    pub presented: Presented,
    /// When the channel last had this client for a subscriber, as far as it can know.
    served_at: Nanos,
    /// It came with a token that nobody gave to it, and has not been given another since.
    rewound: bool,
    /// Epochs that were over when it came with them; it may come again before it has another token.
    over: Vec<Epoch>,
    conflation: Conflation,
    stage: Stage,
    state: bool,
    /// Gaps read, by reason, and exact resumes: what a run has provoked.
    pub events: Vec<String>,
}

/// How long nobody must have used a channel before it may be forgotten.
const UNUSED: std::time::Duration = std::time::Duration::from_secs(119);

impl Track {
    pub fn new(channel: usize, truth: &Truth) -> Self {
        Self {
            channel,
            last: None,
            presented: Presented::Fresh(First::Now),
            served_at: Nanos(0),
            rewound: false,
            over: Vec::new(),
            conflation: Conflation::default(),
            stage: Stage::Asked,
            state: truth.rules(channel).state,
            events: Vec::new(),
        }
    }

    /// A connection (or a poll) asks anew.
    pub fn ask(&mut self, presented: Presented) -> Judged {
        if let (Presented::Own(position), Some(last)) = (presented, self.last)
            && !self.state
            && !self.rewound
        {
            // What a token is ahead of, its holder was never given.
            demand(position.epoch != last.epoch || position.offset <= last.offset, Breach::Lost, || {
                format!("{}: comes back with {position}, but has read no further than {last}", self.name())
            })?;
        }
        if let Presented::Own(position) = presented {
            self.last = Some(position);
        }
        self.rewound |= matches!(presented, Presented::Ahead(_) | Presented::Foreign | Presented::Unreadable);
        self.presented = presented;
        self.conflation = Conflation::default();
        self.stage = Stage::Asked;
        Ok(())
    }

    /// The connection ends.
    pub fn leave(&mut self, now: Nanos, slow: bool) {
        if self.is_answered() && !slow {
            self.served_at = now;
        }
    }

    pub fn name(&self) -> &'static str {
        CHANNELS[self.channel]
    }

    /// How many keys show that the newest of them was kept for this reader, who has all that there is for it.
    pub fn kept_newest(&mut self, truth: &Truth) -> Judged<u64> {
        if truth.rules(self.channel).conflates { self.conflation.judge(self.channel, truth) } else { Ok(0) }
    }

    /// Whether the home has answered, as far as this client can see.
    pub fn is_answered(&self) -> bool {
        self.stage != Stage::Asked
    }

    /// Where the server says that this subscriber begins. `recovered` is `None` where the transport does not say it.
    pub fn began(&mut self, position: StreamPosition, recovered: Option<bool>, excuses: &Excuses, truth: &mut Truth) -> Judged {
        demand(self.stage == Stage::Asked, Breach::WrongStart, || format!("{}: began twice on one connection", self.name()))?;
        if self.state {
            self.go_on(position, excuses);
            return Ok(());
        }
        let exact = matches!(self.presented, Presented::Own(own) if own == position);
        let fresh = matches!(self.presented, Presented::Fresh(_));
        demand(recovered.is_none_or(|recovered| recovered == exact), Breach::WrongResume, || {
            format!("{}: recovered={recovered:?} at {position}, asked for {:?}", self.name(), self.presented)
        })?;
        match self.presented {
            Presented::Fresh(first) => self.begin(first, position, excuses, truth),
            _ if exact => {
                self.events.push("resume exact".to_owned());
                self.go_on(position, excuses);
            }
            _ => self.stage = Stage::GapDue(position),
        }
        demand(!fresh || self.last == Some(position), Breach::WrongStart, || "unreachable".to_owned())
    }

    fn begin(&mut self, first: First, position: StreamPosition, excuses: &Excuses, truth: &mut Truth) {
        let (channel, asked_at, at) = (self.channel, excuses.asked_at, excuses.now);
        if !self.state {
            truth.claim(Claim::Began { channel, first, position, asked_at, at });
        }
        self.go_on(position, excuses);
    }

    fn go_on(&mut self, position: StreamPosition, excuses: &Excuses) {
        // What a slow reader reads may be all that is left of a subscription that has been given up.
        if !excuses.slow {
            self.served_at = excuses.now;
        }
        self.last = Some(position);
        self.stage = Stage::Going;
    }

    /// A gap was read.
    pub fn gap(&mut self, gap: &Value, excuses: &Excuses, truth: &mut Truth) -> Judged {
        let name = self.name();
        if self.state {
            return self.value_lost(gap, excuses, truth);
        }
        let after = match (self.presented, gap["after"].as_str()) {
            // What some other server made is told as it was shown.
            (Presented::Foreign, shown) if self.stage != Stage::Going => {
                demand(shown == Some(FOREIGN), Breach::FalseGap, || format!("{name}: {FOREIGN} was shown, not as in {gap}"))?;
                None
            }
            (_, shown) => shown.map(position).transpose()?,
        };
        let Some(next) = gap["next"].as_str() else { return condemn(Breach::FalseGap, format!("{name}: no next in {gap}")) };
        let next = position(next)?;
        let reason = gap["reason"].as_str().unwrap_or_default();
        let before = StreamPosition { offset: next.offset - 1, ..next };
        // A poll that waited at its place does not say so before it tells what was lost behind it.
        if let ("slow", Stage::Asked, Some(after)) = (reason, self.stage, after) {
            match self.presented {
                Presented::Fresh(first) => self.begin(first, after, excuses, truth),
                Presented::Own(position) => self.go_on(position, excuses),
                Presented::Ahead(_) | Presented::Foreign | Presented::Unreadable => {}
            }
        }
        let due = match self.stage {
            Stage::Going => self.last,
            Stage::Asked | Stage::GapDue(_) => match self.presented {
                Presented::Own(position) | Presented::Ahead(position) => Some(position),
                Presented::Foreign | Presented::Unreadable => None,
                Presented::Fresh(_) => return condemn(Breach::FalseGap, format!("{name}: a gap before anything: {gap}")),
            },
        };
        // What was not to be kept is passed over in silence by who came later.
        let over = truth.rules(self.channel).fleeting
            && after.zip(due).is_some_and(|(after, due)| after.epoch == due.epoch && after.offset > due.offset);
        if let (true, Some(after), Some(due)) = (over, after, due) {
            truth.claim(Claim::Skipped { channel: self.channel, after: due, next: after.offset + 1 });
        }
        demand(after == due || over, Breach::FalseGap, || format!("{name}: {gap}, but {due:?} was read last"))?;
        if let Stage::GapDue(position) = self.stage {
            demand(position == before, Breach::FalseGap, || format!("{name}: began at {position}, then {gap}"))?;
        }
        self.extent(gap, after, next, reason)?;
        self.reason(gap, after, next, reason, excuses, truth)?;
        truth.claim(Claim::Reached { channel: self.channel, position: before, at: excuses.now });
        self.events.push(format!("gap {reason}"));
        self.over.extend(after.filter(|_| reason == "epoch").map(|after| after.epoch));
        if reason == "slow" && !excuses.collapsed {
            self.events.push(format!("dropped by {}", name.split(':').next().unwrap_or_default()));
            self.conflation.dropped(after, before.offset);
        }
        self.go_on(before, excuses);
        Ok(())
    }

    /// A gap of a state channel: its value had to go for want of memory, and is newer than what this subscriber has.
    fn value_lost(&mut self, gap: &Value, excuses: &Excuses, truth: &mut Truth) -> Judged {
        let [after, next] = ["after", "next"].map(|end| gap[end].as_str().map(position));
        let (Some(after), Some(next)) = (after.transpose()?, next.transpose()?) else {
            return condemn(Breach::FalseGap, format!("{}: a state channel's {gap}", self.name()));
        };
        let fits = gap["reason"] == "expired" && truth.settings().tight_memory && after.epoch == next.epoch;
        demand(fits, Breach::FalseGap, || format!("{}: a state channel told of {gap}", self.name()))?;
        self.extent(gap, Some(after), next, "expired")?;
        self.events.push("gap of a state channel".to_owned());
        self.go_on(StreamPosition { offset: next.offset - 1, ..next }, excuses);
        Ok(())
    }

    /// `next` and `missed` are what they must be.
    fn extent(&self, gap: &Value, after: Option<StreamPosition>, next: StreamPosition, reason: &str) -> Judged {
        let missed = gap["missed"].as_u64();
        let expected = match after {
            Some(after) if after.epoch == next.epoch && reason != "bad_position" => {
                demand(next.offset > after.offset + 1, Breach::FalseGap, || {
                    format!("{}: nothing is missing in {gap}", self.name())
                })?;
                Some(next.offset - after.offset - 1)
            }
            Some(_) | None => None,
        };
        demand(missed == expected, Breach::FalseGap, || format!("{}: {expected:?} were missed, not as in {gap}", self.name()))
    }

    fn reason(
        &self,
        gap: &Value,
        after: Option<StreamPosition>,
        next: StreamPosition,
        reason: &str,
        excuses: &Excuses,
        truth: &mut Truth,
    ) -> Judged {
        let rules = *truth.rules(self.channel);
        let opening = self.stage != Stage::Going;
        let same_epoch = after.is_some_and(|after| after.epoch == next.epoch);
        let fits = match (reason, self.presented) {
            ("slow", _) => !opening && same_epoch && (excuses.slow || excuses.collapsed),
            // At the beginning, or page by page for whoever catches up.
            ("expired", Presented::Own(_)) => same_epoch && rules.history_size > 0,
            ("expired", _) => !opening && same_epoch && rules.history_size > 0,
            ("no_history", Presented::Own(_)) => opening && same_epoch && rules.history_size == 0,
            ("bad_position", Presented::Ahead(_)) => opening && same_epoch,
            ("bad_position", Presented::Unreadable) | ("epoch", Presented::Foreign) => opening,
            ("epoch", Presented::Own(_) | Presented::Ahead(_)) => {
                let known = after.is_some_and(|after| self.over.contains(&after.epoch));
                let forgotten = truth.settings().forgetful && (known || excuses.now.since(self.served_at) >= UNUSED);
                opening && !same_epoch && forgotten
            }
            _ => false,
        };
        demand(fits, Breach::FalseGap, || {
            format!("{}: no cause for {gap}: asked for {:?}, {excuses:?}", self.name(), self.presented)
        })?;
        if reason == "expired" {
            let before = StreamPosition { offset: next.offset - 1, ..next };
            truth.claim(Claim::Expired { channel: self.channel, before, at: excuses.now });
        }
        Ok(())
    }

    /// A publication was read.
    pub fn publication(&mut self, at: StreamPosition, number: u64, excuses: &Excuses, truth: &mut Truth) -> Judged {
        let name = self.name();
        truth.witness(self.channel, at, number, excuses.now)?;
        if self.stage == Stage::Asked {
            let before = StreamPosition { offset: at.offset - 1, ..at };
            match self.presented {
                Presented::Fresh(first) => self.begin(first, before, excuses, truth),
                Presented::Own(position) => self.go_on(position, excuses),
                Presented::Ahead(_) | Presented::Foreign | Presented::Unreadable if self.state => self.go_on(before, excuses),
                Presented::Ahead(_) | Presented::Foreign | Presented::Unreadable => {
                    return condemn(Breach::Lost, format!("{name}: {at} came for {:?} without a gap", self.presented));
                }
            }
        }
        if let Stage::GapDue(position) = self.stage {
            return condemn(Breach::Lost, format!("{name}: {at} came, but not the gap before {position}"));
        }
        let Some(last) = self.last else { return condemn(Breach::WrongStart, format!("{name}: {at} came before the beginning")) };
        self.last = Some(at);
        self.conflation.read(at.offset, truth.content(number).and_then(|content| content.key));
        if self.state {
            let fits = last.epoch != at.epoch || last.offset < at.offset;
            return demand(fits, Breach::Repeated, || format!("{name}: {at} came after {last}"));
        }
        demand(last.epoch == at.epoch, Breach::Lost, || format!("{name}: {at} came after {last}"))?;
        demand(at.offset > last.offset, Breach::Repeated, || format!("{name}: {at} came after {last}"))?;
        if at.offset > last.offset + 1 {
            let fleeting = truth.rules(self.channel).fleeting;
            demand(fleeting, Breach::Lost, || format!("{name}: {at} came after {last}"))?;
            truth.claim(Claim::Skipped { channel: self.channel, after: last, next: at.offset });
        }
        Ok(())
    }

    /// A token was read: the channel's part of it must be where the reader is.
    pub fn token(&mut self, told: Option<StreamPosition>, excuses: &Excuses, truth: &mut Truth, poll: bool) -> Judged {
        let name = self.name();
        match (told, self.stage) {
            // A poll's token is the first that a new subscriber hears; so is the bare id of a raw event stream.
            (Some(told), Stage::Asked) if poll => match self.presented {
                Presented::Fresh(first) => {
                    self.begin(first, told, excuses, truth);
                    Ok(())
                }
                Presented::Own(own) => {
                    self.go_on(told, excuses);
                    demand(own == told || self.state, Breach::WrongToken, || {
                        format!("{name}: {told} for {own}, and nothing between")
                    })
                }
                _ if self.state => {
                    self.go_on(told, excuses);
                    Ok(())
                }
                _ => condemn(Breach::Lost, format!("{name}: {told} for {:?} without a gap", self.presented)),
            },
            // An id covers all channels, and so none is told before every home has answered.
            (told, Stage::Asked) => condemn(Breach::WrongToken, format!("{name}: {told:?} before the answer")),
            (told, Stage::GapDue(_)) => condemn(Breach::WrongToken, format!("{name}: {told:?} before the gap")),
            (told, Stage::Going) => {
                self.rewound = false;
                // A value of a state channel may have been passed over for a newer one that is still to come.
                let ahead = self.state && told.zip(self.last).is_some_and(|(told, last)| told.offset >= last.offset);
                if let (Some(told), Some(last)) = (told, self.last)
                    && truth.rules(self.channel).fleeting
                    && told.epoch == last.epoch
                    && told.offset > last.offset
                {
                    truth.claim(Claim::Skipped { channel: self.channel, after: last, next: told.offset + 1 });
                    self.last = Some(told);
                }
                demand(told == self.last || ahead, Breach::WrongToken, || {
                    format!("{name}: the token says {told:?}, {:?} was read last", self.last)
                })
            }
        }
    }
}

/// Reads a position.
pub fn position(text: &str) -> Judged<StreamPosition> {
    match StreamPosition::parse(text) {
        Some(position) => Ok(position),
        None => condemn(Breach::Torn, format!("{text:?} is no position")),
    }
}
