//! File, environment and flags → one validated, immutable configuration.
//!
//! ```text
//!   file ──┐
//!   env  ──┼─► source: assignments, each with its place ─► assemble: defaults, then each in turn ─► checks ─► Config
//!   flags ─┘                         └── keys: the one table of what there is ──┘
//! ```
//! Later assignments win: flags over environment over file over defaults. Everything that is wrong is reported at once, with its
//! place. Invariant: a [`Config`] that exists is one that can be served; what the modules below need is in their own options.

mod assemble;
mod changes;
mod check;
mod error;
mod field;
mod keys;
mod print;
mod source;
#[cfg(test)]
mod tests;
mod units;

pub use changes::Changes;
pub use error::ConfigErrors;
pub use print::print_default;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::hub::Access;
use crate::net::Io;
use crate::shard;

/// Port of a server that was not told where to listen.
const PORT: u16 = 8000;

/// Everything a server is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Decides what the other defaults are; `Development` by itself only where there is no file.
    pub mode: Mode,
    /// Public listeners; port 0 is any free one.
    pub listen: Vec<SocketAddr>,
    /// Where the server API, metrics and health are, if not at `listen`.
    pub internal_listen: Option<SocketAddr>,
    /// 0: one per core.
    pub workers: usize,
    /// The kernel interface of the workers; a change needs a restart.
    pub interface: Io,
    /// The shell's and the rings' share; a change needs a restart.
    pub io: IoOptions,
    /// Read once at start; a change needs a restart.
    pub log: LogOptions,
    /// What the workers are configured with.
    pub shard: shard::Options,
    /// The file it came from.
    pub config_path: Option<PathBuf>,
    /// Whether the API key was drawn at random, because development mode was given none.
    pub key_is_generated: bool,
    /// What is allowed and yet probably not meant.
    pub warnings: Vec<Warning>,
}

/// How much is allowed by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// What is not allowed is denied.
    Production,
    /// Anyone may subscribe and publish; loopback only, unless it is asked for by name.
    Development,
}

/// `[io]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IoOptions {
    /// Receive buffers per worker; 0 for a share of a fixed budget.
    pub buffers: usize,
    /// Of accepted connections; empty for the system's default.
    pub congestion_control: String,
    /// Silence after which a connection is only polled.
    pub park_after: Duration,
}

/// `[log]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// `[log] level`.
    pub level: LogLevel,
    /// `[log] format`.
    pub format: LogFormat,
}

/// Least important lines that are still written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogLevel {
    /// What failed: a reload that was refused, a worker that hangs.
    Error,
    /// Besides, what works and is probably not meant.
    Warn,
    /// Besides, starts, reloads and drains, failed upstreams, and whom the server gave up on. The default.
    Info,
    /// Besides, the end of every connection.
    Debug,
    /// No line of ours is so unimportant yet.
    Trace,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// A line of text each, in colour, without the module's name.
    Human,
    /// An object on each line, its fields at the top.
    Json,
}

impl Default for Config {
    /// A production server without a file.
    fn default() -> Self {
        Self {
            mode: Mode::Production,
            listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT)],
            internal_listen: None,
            workers: 0,
            interface: Io::Auto,
            io: IoOptions { buffers: 0, congestion_control: String::new(), park_after: Duration::from_secs(5) },
            log: LogOptions { level: LogLevel::Info, format: LogFormat::Auto },
            shard: shard::Options::default(),
            config_path: None,
            key_is_generated: false,
            warnings: Vec::new(),
        }
    }
}

impl Config {
    /// What a mode starts from.
    #[must_use]
    pub fn of(mode: Mode) -> Self {
        let mut config = Self { mode, ..Self::default() };
        match mode {
            Mode::Production => {}
            Mode::Development => {
                config.shard.http.allowed_origins = vec!["*".to_owned()];
                for namespace in &mut config.shard.hub.namespaces {
                    namespace.allow_subscribe = Access::Anyone;
                    namespace.allow_publish = Access::Anyone;
                }
            }
        }
        config
    }

    /// Reads the file, puts environment and flags over it, checks the whole and resolves the upstreams' names.
    ///
    /// # Errors
    /// Everything that is wrong, each with its place and remedy.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let text = match &sources.file {
            None => None,
            Some(path) => Some(source::read(path)?),
        };
        Self::from_text(text.as_deref(), sources)
    }

    /// [`Self::load`] with the file's text at hand.
    fn from_text(text: Option<&str>, sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let assignments = source::collect(text, sources, &mut errors);
        let draft = assemble::assemble(assignments, sources.file.is_some(), &mut errors);
        let config = check::finish(draft, sources.file.clone(), &mut errors);
        errors.sort_by(|one, other| one.place.cmp(&other.place));
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }
}

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`; without one, and without a word, the mode is development.
    pub file: Option<PathBuf>,
    /// Variables and their values; those that do not begin with `RINGMAIN_` are passed over.
    pub environment: Vec<(String, String)>,
    /// Put over file and environment; of two for one key the later wins.
    pub flags: Vec<Flag>,
}

/// A flag that sets a key.
#[derive(Clone, Debug)]
pub struct Flag {
    /// With its dashes.
    pub name: &'static str,
    /// One whose name is fixed, as `server`.
    pub table: &'static str,
    /// As the file has it.
    pub key: &'static str,
    /// As typed; it is read as a variable's would be.
    pub value: String,
}

/// What is allowed and yet probably not meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Warning {
    /// The API is closed: nobody can publish over HTTP.
    NoKey,
    /// The key can be guessed.
    ShortKey {
        /// How long it is, where 16 would do.
        bytes: usize,
    },
    /// Nobody may subscribe to anything.
    NobodySubscribes,
    /// This version sends everything to the first server.
    OneServer {
        /// As in `[upstreams.NAME]`.
        upstream: String,
        /// Addresses after resolving: one name may have several.
        servers: usize,
    },
    /// No route leads there.
    Unrouted {
        /// As in `[upstreams.NAME]`.
        upstream: String,
    },
    /// The system gave no random bytes, so there is no generated key.
    NoRandomness,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => write!(f, "api.key is empty: publishing over HTTP is refused; set it here or by RINGMAIN_API__KEY"),
            Self::ShortKey { bytes } => write!(f, "api.key has only {bytes} characters: use 16 or more random ones"),
            Self::NobodySubscribes => {
                write!(
                    f,
                    "no namespace lets anyone subscribe: set allow_subscribe = [\"anyone\"] or [\"key\"] in [namespaces.default]"
                )
            }
            Self::OneServer { upstream, servers } => {
                write!(f, "upstreams.{upstream}: only the first of its {servers} addresses is used in this version")
            }
            Self::Unrouted { upstream } => write!(f, "upstreams.{upstream}: no route leads to it; add one to [[routes]]"),
            Self::NoRandomness => write!(f, "the system gave no random bytes for an API key: set RINGMAIN_API__KEY"),
        }
    }
}
