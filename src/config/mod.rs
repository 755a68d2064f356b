//! File, environment and flags → one validated, immutable configuration.
//!
//! Precedence: flags, environment (`RINGMAIN_<SECTION>__<KEY>`), file, default. [`keys`] is the only list of keys.

mod file;
mod keys;
mod value;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::hub::{Access, Namespace};
use crate::proxy::Upstream;
use crate::shard;
use keys::{KEYS, Key, NAMESPACE_KEYS, UPSTREAM_KEYS};
use value::Value;

/// What the environment's names begin with.
const ENVIRONMENT_PREFIX: &str = "RINGMAIN_";
/// Names with the prefix that are no keys.
const ENVIRONMENT_OTHERS: [&str; 2] = ["RINGMAIN_CONFIG", "RINGMAIN_TEST_SKIP"];

/// What kind of server this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Production,
    /// Open to whoever is on this machine.
    Development,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Auto,
    Human,
    Json,
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub mode: Mode,
    pub listen: Vec<SocketAddr>,
    pub internal_listen: Option<SocketAddr>,
    /// 0: one per core.
    pub workers: usize,
    pub log_level: &'static str,
    pub log_format: LogFormat,
    pub buffer_bytes: usize,
    pub congestion_control: String,
    pub shard: shard::Options,
    /// Where it came from, if from a file.
    pub path: Option<PathBuf>,
    /// Whether somebody has asked for development mode, rather than having no file.
    mode_said: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Production,
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8000))],
            internal_listen: None,
            workers: 0,
            log_level: "info",
            log_format: LogFormat::Auto,
            buffer_bytes: 64 << 20,
            congestion_control: String::new(),
            shard: shard::Options::default(),
            path: None,
            mode_said: false,
        }
    }
}

/// What the command line says; it goes before everything else.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub listen: Vec<SocketAddr>,
    pub workers: Option<usize>,
    pub mode: Option<Mode>,
}

/// Why there is no configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable { path: PathBuf, cause: String },
    /// The file is not TOML, or a key in it is not right. Lines and columns count from 1.
    File { path: PathBuf, line: usize, column: usize, problem: String },
    /// A variable of the environment is not right.
    Environment { name: String, problem: String },
    /// Values that are right alone do not go together.
    Together(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, cause } => write!(f, "{}: {cause}", path.display()),
            Self::File { path, line, column, problem } => write!(f, "{}:{line}:{column}: {problem}", path.display()),
            Self::Environment { name, problem } => write!(f, "environment variable {name}: {problem}"),
            Self::Together(problem) => f.write_str(problem),
        }
    }
}

impl Config {
    /// Reads the file if one is named, then the environment, then the flags.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what would be right.
    pub fn load(flags: &Flags, environment: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut environment: Vec<(String, String)> = environment.filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect();
        environment.sort();
        let named = environment.iter().find(|(name, _)| name == ENVIRONMENT_OTHERS[0]).map(|(_, path)| PathBuf::from(path));
        let mut config = Self { path: flags.config.clone().or(named), ..Self::default() };
        if config.path.is_none() {
            config.become_development();
        }
        if let Some(path) = config.path.clone() {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| ConfigError::Unreadable { path: path.clone(), cause: error.to_string() })?;
            config.apply_file(&path, &text)?;
        }
        for (name, text) in environment.iter().filter(|(name, _)| !ENVIRONMENT_OTHERS.contains(&name.as_str())) {
            config.apply_variable(name, text)?;
        }
        config.apply_flags(flags);
        config.finish()?;
        Ok(config)
    }

    fn apply_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        file::apply(self, text).map_err(|error| {
            let (line, column) = file::place(text, error.at);
            ConfigError::File { path: path.to_owned(), line, column, problem: error.problem }
        })
    }

    /// What is open in development: everything, to this machine.
    fn become_development(&mut self) {
        self.mode = Mode::Development;
        self.shard.http.allowed_origins = vec!["*".to_owned()];
        for namespace in &mut self.shard.hub.namespaces {
            namespace.allow_subscribe = Access::Anyone;
            namespace.allow_publish = Access::Anyone;
        }
    }

    fn apply_variable(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let failed = |problem: String| ConfigError::Environment { name: name.to_owned(), problem };
        let path = name.trim_start_matches(ENVIRONMENT_PREFIX).to_ascii_lowercase();
        let parts: Vec<&str> = path.split("__").collect();
        let value = Value::from_text(text);
        match parts.as_slice() {
            [section, key] => self.set(section, key, &value).map_err(failed),
            ["namespaces", namespace, key] => self.set_namespace(namespace, key, &value).map_err(failed),
            ["upstreams", upstream, key] => self.set_upstream(upstream, key, &value).map_err(failed),
            _ => Err(failed("names a key as RINGMAIN_<SECTION>__<KEY>, such as RINGMAIN_API__KEY".to_owned())),
        }
    }

    fn apply_flags(&mut self, flags: &Flags) {
        if !flags.listen.is_empty() {
            self.listen.clone_from(&flags.listen);
        }
        if let Some(workers) = flags.workers {
            self.workers = workers;
        }
        if let Some(mode) = flags.mode {
            self.mode = mode;
            self.mode_said = true;
        }
    }

    /// Sets one key; the problem is told in words.
    fn set(&mut self, section: &str, name: &str, value: &Value) -> Result<(), String> {
        if file::RESERVED.contains(&section) {
            return Err(format!("[{section}] is not in this version"));
        }
        if !KEYS.iter().any(|key| key.section == section) {
            return Err(unknown("section", section, KEYS.iter().map(|key| key.section)));
        }
        apply(KEYS.iter().filter(|key| key.section == section), self, name, value)
    }

    fn set_namespace(&mut self, namespace: &str, name: &str, value: &Value) -> Result<(), String> {
        let namespaces = &mut self.shard.hub.namespaces;
        let at = namespaces.iter().position(|known| known.name == namespace).unwrap_or_else(|| {
            let inherited = namespaces.first().cloned().unwrap_or_default();
            namespaces.push(Namespace { name: namespace.to_owned(), prefixes: vec![format!("{namespace}:")], ..inherited });
            namespaces.len() - 1
        });
        apply(NAMESPACE_KEYS.iter(), &mut namespaces[at], name, value)
    }

    fn set_upstream(&mut self, upstream: &str, name: &str, value: &Value) -> Result<(), String> {
        let upstreams = &mut self.shard.proxy.upstreams;
        let at = upstreams.iter().position(|known| known.name == upstream).unwrap_or_else(|| {
            upstreams.push(Upstream::new(upstream, Vec::new()));
            upstreams.len() - 1
        });
        apply(UPSTREAM_KEYS.iter(), &mut upstreams[at], name, value)
    }

    /// Fills in what follows from the rest and checks that it goes together.
    fn finish(&mut self) -> Result<(), ConfigError> {
        let server = &mut self.shard.server;
        server.development = self.mode == Mode::Development;
        server.internal_listener = self.internal_listen.is_some();
        server.loopback = self.listen.iter().all(|address| address.ip().is_loopback());
        if self.mode == Mode::Development && !server.loopback && self.path.is_none() && !self.mode_said {
            let problem = "development mode listens on loopback only, since it lets everybody in: say --mode development to mean it, or give a --config";
            return Err(ConfigError::Together(problem.to_owned()));
        }
        if self.shard.ws.pong_timeout >= self.shard.ws.ping_interval {
            return Err(ConfigError::Together("[websocket] pong_timeout must be shorter than ping_interval".to_owned()));
        }
        if let Some(upstream) = self.shard.proxy.upstreams.iter().find(|upstream| upstream.servers.is_empty()) {
            return Err(ConfigError::Together(format!("[upstreams.{}] has no servers", upstream.name)));
        }
        Ok(())
    }

    /// The whole default configuration, commented, as a file that says nothing new.
    #[must_use]
    pub fn default_text() -> String {
        let mut text = String::from("# Every key with its default. Any of them by environment: RINGMAIN_<SECTION>__<KEY>.\n");
        let mut section = "";
        for key in KEYS {
            if key.section != section {
                section = key.section;
                text.push_str(&format!("\n[{section}]\n"));
            }
            describe(&mut text, "", key);
        }
        text.push_str("\n# The others inherit from it; a name `chat:room` belongs to [namespaces.chat].\n[namespaces.default]\n");
        NAMESPACE_KEYS.iter().filter(|key| key.name != "match").for_each(|key| describe(&mut text, "", key));
        text.push_str("\n# [namespaces.chat]\n");
        NAMESPACE_KEYS.iter().filter(|key| key.name == "match").for_each(|key| describe(&mut text, "# ", key));
        text.push_str("\n# [upstreams.app]\n");
        UPSTREAM_KEYS.iter().for_each(|key| describe(&mut text, "# ", key));
        text.push_str("\n# [[routes]]\n# path = \"/\"       # whole segments; the longest wins\n# host = \"\"        # empty: every host\n# to = \"app\"\n");
        text
    }
}

fn describe<T>(text: &mut String, comment: &str, key: &Key<T>) {
    text.push_str(&format!("{comment}{} = {:<24} # {}\n", key.name, key.default, key.doc));
}

fn apply<T: 'static>(
    mut keys: impl Iterator<Item = &'static Key<T>> + Clone,
    target: &mut T,
    name: &str,
    value: &Value,
) -> Result<(), String> {
    let all = keys.clone();
    match keys.find(|key| key.name == name) {
        Some(key) => (key.set)(target, value).map_err(|expected| format!("{name} must be {expected}")),
        None => Err(unknown("key", name, all.map(|key| key.name))),
    }
}

/// "unknown key `lisen`: did you mean `listen`?"
fn unknown(what: &str, name: &str, known: impl Iterator<Item = &'static str>) -> String {
    let nearest = known.map(|known| (strsim::damerau_levenshtein(known, name), known)).min().filter(|(distance, _)| *distance <= 3);
    match nearest {
        Some((_, known)) => format!("unknown {what} `{name}`: did you mean `{known}`?"),
        None => format!("unknown {what} `{name}`: `ringmain config default` prints all there are"),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
