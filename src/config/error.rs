//! What is wrong with a configuration: where, what, and what to write instead.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Where a value was given.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// Nowhere: it is the default.
    Default,
    /// Lines and columns count from 1, columns in characters.
    File { path: PathBuf, line: usize, column: usize },
    /// The variable's name.
    Environment(String),
    /// The flag as typed, with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Everything that is wrong, in the order of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for error in &self.0 {
            write!(f, "{separator}{error}")?;
            separator = "\n";
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Sorts the errors: as precedence does, and within the file from its beginning.
    pub place: Place,
    /// Dotted, as in `http.head_bytes_max`; empty where the place alone says it.
    pub key: String,
    /// What is wrong there, and the remedy.
    pub cause: Cause,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, cause } = self;
        if key.is_empty() { write!(f, "{place}: {cause}") } else { write!(f, "{place}: {key}: {cause}") }
    }
}

/// What is wrong. Each text ends with the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The file's, in the system's words.
    Unreadable(String),
    /// Of the file, in the parser's words: nothing else in it was looked at.
    Syntax(String),
    /// Also of a variable, whose table stands before the first two underscores.
    UnknownTable { nearest: Option<&'static str> },
    /// The table is known.
    UnknownKey { nearest: Option<String> },
    /// A variable that would be a key if it had two underscores.
    Underscores { meant: String },
    /// A table that a later version will have: nobody is to believe it in force.
    Reserved,
    /// A value stands where keys or named tables are due.
    NotATable { example: &'static str },
    /// Of a namespace's or an upstream's table in the file.
    Name,
    /// The one value by itself.
    Value(Invalid),
    /// Values that are each right and wrong together.
    Conflict(Conflict),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot be read: {error}; name another file with --config"),
            Self::Syntax(error) => write!(f, "this is not TOML: {error}"),
            Self::UnknownTable { nearest: Some(nearest) } => write!(f, "unknown table; did you mean [{nearest}]?"),
            Self::UnknownTable { nearest: None } => write!(f, "unknown table; `ringmain config default` lists them all"),
            Self::UnknownKey { nearest: Some(nearest) } => write!(f, "unknown key; did you mean `{nearest}`?"),
            Self::UnknownKey { nearest: None } => write!(f, "unknown key; `ringmain config default` lists them all"),
            Self::Underscores { meant } => write!(f, "not a key; did you mean {meant}, with two underscores?"),
            Self::Reserved => write!(f, "not in this version; remove it"),
            Self::NotATable { example } => write!(f, "must be a table: write {example}"),
            Self::Name => write!(f, "a name is 1 to 64 lower-case letters, digits, `_` or `-`"),
            Self::Value(invalid) => invalid.fmt(f),
            Self::Conflict(conflict) => conflict.fmt(f),
        }
    }
}

/// Why a value cannot be that key's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Invalid {
    /// Neither the right type nor readable as it.
    Type { got: String, wanted: &'static str },
    /// Of the right type, beyond what the key's bounds allow.
    Range { got: String, range: String },
    /// One of a few words was due.
    Word { got: String, words: &'static [&'static str] },
    /// To listen on: an IP address and a port, nothing to be resolved.
    Address { got: String },
    /// `host:port`; whether the host exists is [`Conflict::Unresolved`]'s.
    Upstream { got: String },
    /// Of a namespace's `match`.
    Pattern { got: String },
    /// Of `allow_subscribe` or `allow_publish`.
    Access { got: String },
    /// Of the doors; without a final slash.
    Prefix { got: String },
    /// Of a route.
    Path { got: String },
    /// Not said back: it would stand in a log.
    Secret,
}

impl Invalid {
    /// A value outside its bounds, both shown in the key's unit.
    pub fn range<T>(got: T, range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> Self {
        Self::Range { got: show(&got), range: format!("{} to {}", show(range.start()), show(range.end())) }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { got, wanted } => write!(f, "{got} is not {wanted}"),
            Self::Range { got, range } => write!(f, "{got} is out of bounds: {range}"),
            Self::Word { got, words } => write!(f, "{got} is none of \"{}\"", words.join("\", \"")),
            Self::Address { got } => {
                write!(f, "{got} is not an address with a port: write \"127.0.0.1:8000\" or \"[::]:8000\"")
            }
            Self::Upstream { got } => write!(f, "{got} is not a server: write \"host:port\", as in \"127.0.0.1:3000\""),
            Self::Pattern { got } => write!(f, "{got} is not a pattern: write a prefix and a final `*`, as in \"chat:*\""),
            Self::Access { got } => write!(f, "{got} is nobody known: write [\"anyone\"], [\"key\"] or []"),
            Self::Prefix { got } => write!(f, "{got} is not a path prefix: write \"\" or one like \"/_rt\""),
            Self::Path { got } => write!(f, "{got} is not a path: write one that begins with `/` and has no `?` or `#`"),
            Self::Secret => write!(f, "a key is 1 to 256 printable ASCII characters without blanks"),
        }
    }
}

/// What does not go together, or is missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Conflict {
    /// The next ping would be due while the last one may still be answered.
    PongTimeout { ping_interval: String },
    /// Delays are drawn between the two.
    RetryOrder,
    /// `listen` is an empty list.
    NoListener,
    /// Among the public ones; port 0 is another port each time.
    ListenTwice { address: String },
    /// What is to be internal would be public.
    InternalListen,
    /// Development mode on an address that others can reach.
    Exposed { address: String },
    /// Neither of the two namespaces would be the longer match.
    SharedPrefix { prefix: String, other: String },
    /// `default` was given patterns.
    DefaultMatch,
    /// A route leads to nothing.
    UnknownUpstream { name: String, nearest: Option<String> },
    /// Left out: a path that is wrong is [`Invalid::Path`].
    NoRoutePath,
    /// Left out or empty.
    NoRouteTarget,
    /// The later of two would never be taken.
    RouteTwice { earlier: usize },
    /// Left out or an empty list.
    NoServers,
    /// At start or at a reload, which is refused then.
    Unresolved { server: String, error: String },
    /// Routes are numbered from 0 without holes.
    RouteNumber { next: usize },
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PongTimeout { ping_interval } => {
                write!(f, "must be shorter than websocket.ping_interval, which is {ping_interval}")
            }
            Self::RetryOrder => write!(f, "the first delay is the shorter one: write [\"1s\", \"4s\"]"),
            Self::NoListener => write!(f, "there is nothing to listen on: write [\"127.0.0.1:8000\"]"),
            Self::ListenTwice { address } => write!(f, "{address} is listed twice; remove one"),
            Self::InternalListen => write!(f, "is also in server.listen; give it an address of its own"),
            Self::Exposed { address } => write!(
                f,
                "development mode lets anyone subscribe and publish, and {address} can be reached from elsewhere; \
                 listen on 127.0.0.1, write a config file, or say --mode development if that is what you want"
            ),
            Self::SharedPrefix { prefix, other } => {
                write!(f, "\"{prefix}*\" is also matched by namespace {other}; a pattern belongs to one namespace")
            }
            Self::DefaultMatch => write!(f, "the default namespace takes what no other matches; remove it"),
            Self::UnknownUpstream { name, nearest: Some(nearest) } => {
                write!(f, "there is no [upstreams.{name}]; did you mean \"{nearest}\"?")
            }
            Self::UnknownUpstream { name, nearest: None } => {
                write!(f, "there is no [upstreams.{name}]; add it with its servers")
            }
            Self::NoRoutePath => write!(f, "a route needs a path: write path = \"/\""),
            Self::NoRouteTarget => write!(f, "a route needs an upstream: write to = \"NAME\" of an [upstreams.NAME]"),
            Self::RouteTwice { earlier } => write!(f, "route {earlier} has the same host and path; remove one"),
            Self::NoServers => write!(f, "an upstream needs a server: write servers = [\"127.0.0.1:3000\"]"),
            Self::Unresolved { server, error } => {
                write!(f, "{server} cannot be resolved: {error}; check the name, or write an IP address")
            }
            Self::RouteNumber { next } => write!(f, "routes are numbered without holes; the next one is {next}"),
        }
    }
}
