//! Deliberate bugs, to prove that the simulation would notice the real ones. Compiled in only with the feature `mutants`, and
//! even then off until a test turns one on.

/// One bug that a change could bring in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A subscribe's answer leaves behind later publications.
    ReplyOutsideFifo,
    /// A subscriber leaves and the last one takes its place while a cursor is open.
    SwapUnderCursor,
    /// A policy drops a frame of which part is in the kernel.
    DropBegunFrame,
    /// Messages that waited for a full mailbox overtake each other.
    SpillReorders,
    /// A policy drops publications and says nothing.
    DropWithoutGap,
    /// A channel that comes back counts anew under its old epoch.
    EpochReused,
    /// What the kernel did not take is forgotten.
    RefusalIgnored,
    /// A resume begins one publication too late.
    ResumeOffByOne,
    /// Homes forget every publication that comes to them.
    PublishForgotten,
    /// A slow reader is left with the oldest publication of each key.
    ConflateKeepsOldest,
}

#[cfg(feature = "mutants")]
impl Mutant {
    /// Each of them must be found out by `make sim-mutants`.
    pub const ALL: [Self; 10] = [
        Self::ReplyOutsideFifo,
        Self::SwapUnderCursor,
        Self::DropBegunFrame,
        Self::SpillReorders,
        Self::DropWithoutGap,
        Self::EpochReused,
        Self::RefusalIgnored,
        Self::ResumeOffByOne,
        Self::PublishForgotten,
        Self::ConflateKeepsOldest,
    ];

    /// Turns this bug on, or all off, for the current thread.
    pub fn turn_on(mutant: Option<Self>) {
        ACTIVE.set(mutant);
    }
}

#[cfg(feature = "mutants")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether the bug is on; always false in a build without the feature.
#[must_use]
#[inline]
pub fn mutated(mutant: Mutant) -> bool {
    #[cfg(feature = "mutants")]
    return ACTIVE.get() == Some(mutant);
    #[cfg(not(feature = "mutants"))]
    {
        let _ = mutant;
        false
    }
}
