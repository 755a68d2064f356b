//! One fact, judged.

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Good,
    /// It could not be looked at from here.
    Unknown,
    /// The server starts, and does not carry the load, or not as well as the machine could.
    Improve,
    /// The server does not start.
    Fix,
}

/// What was found, what is needed, and what to do where the two differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub verdict: Verdict,
    pub what: &'static str,
    pub found: String,
    pub needed: String,
    pub remedy: Option<String>,
}

impl Finding {
    pub fn good(what: &'static str, found: impl Into<String>, needed: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, what, found: found.into(), needed: needed.into(), remedy: None }
    }

    pub fn unknown(what: &'static str, needed: impl Into<String>) -> Self {
        let remedy = "look on the host: a container, or a network namespace, does not show it";
        Self { verdict: Verdict::Unknown, remedy: Some(remedy.to_owned()), ..Self::good(what, "not to be seen here", needed) }
    }

    /// A good one that is bad all the same: `improve` this.
    #[must_use]
    pub fn improve(self, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Improve, remedy: Some(remedy.into()), ..self }
    }

    /// The same where nothing works without the remedy.
    #[must_use]
    pub fn fix(self, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fix, remedy: Some(remedy.into()), ..self }
    }

    /// To be improved unless it is good enough.
    #[must_use]
    pub fn unless(self, is_enough: bool, remedy: impl FnOnce() -> String) -> Self {
        if is_enough { self } else { self.improve(remedy()) }
    }
}
