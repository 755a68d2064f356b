//! What a run is condemned for.

use std::fmt;

/// Which promise was broken. Each deliberate bug of `base/mutant.rs` must be condemned for one that it breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breach {
    /// The bytes of a stream make no sense, or more was sent than the socket allowed.
    Torn,
    /// Something was left out and no gap says so.
    Lost,
    /// The newest publication of a key was dropped for a reader of a conflating channel.
    NewestDropped,
    /// Something came a second time, or after what follows it.
    Repeated,
    /// A gap that nothing justifies, or whose facts are wrong.
    FalseGap,
    /// A payload, event name or kind is not what was published.
    Altered,
    /// Two publications were told under one position.
    TwoAtOnePosition,
    /// One publication was stored under two positions.
    StoredTwice,
    /// Something was received that nobody published there.
    Invented,
    /// A subscription began at the wrong place.
    WrongStart,
    /// A resume was called exact and was not, or the other way round.
    WrongResume,
    /// A resume token does not say what its holder has received.
    WrongToken,
    /// One connection's publications to a channel changed their order.
    Disordered,
    /// A request was never answered.
    Unanswered,
    /// A request was refused without a cause.
    Refused,
    /// A connection was ended without a cause, or in the wrong way.
    Closed,
    /// Somebody who is connected and reads did not get what there is.
    Behind,
    /// More waited for a connection than its bounds allow.
    Unbounded,
    /// Deliveries were given up although nothing was in their way.
    NeedlessCollapse,
    /// The rules between shard and shell were broken.
    Contract,
}

/// A broken promise and how it showed.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub breach: Breach,
    pub what: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.breach, self.what)
    }
}

pub type Judged<T = ()> = Result<T, Verdict>;

/// A verdict as an error.
pub fn condemn<T>(breach: Breach, what: impl Into<String>) -> Judged<T> {
    Err(Verdict { breach, what: what.into() })
}

/// What must hold, or the verdict.
pub fn demand(holds: bool, breach: Breach, what: impl FnOnce() -> String) -> Judged {
    if holds { Ok(()) } else { condemn(breach, what()) }
}
