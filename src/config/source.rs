//! Reads file, environment and flags into one list of assignments, in rising precedence. Knows which keys exist, not what their
//! values mean.

use std::fmt;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Sources;
use super::error::{Cause, ConfigError, ConfigErrors, Place};
use super::field::Raw;
use super::keys::{self, NAMESPACES, RESERVED, ROUTES, UPSTREAMS};

/// Prefix of environment variables; table, name and key follow, with two underscores between them.
const PREFIX: &str = "RINGMAIN_";
/// Characters of a namespace's or upstream's name.
const NAME_MAX: usize = 64;

/// What is configured.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    Table(&'static str),
    Namespace(String),
    Upstream(String),
    /// By its place in the file.
    Route(usize),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(name) => f.write_str(name),
            Self::Namespace(name) => write!(f, "{NAMESPACES}.{name}"),
            Self::Upstream(name) => write!(f, "{UPSTREAMS}.{name}"),
            Self::Route(index) => write!(f, "{ROUTES}.{index}"),
        }
    }
}

impl Target {
    /// Names of the keys that it has.
    fn keys(&self) -> Vec<&'static str> {
        match self {
            Self::Table(name) => {
                let table = keys::TABLES.iter().filter(|table| table.name == *name);
                table.flat_map(|table| table.keys).map(|key| key.name).collect()
            }
            Self::Namespace(_) => keys::NAMESPACE.iter().map(|key| key.name).collect(),
            Self::Upstream(_) => keys::UPSTREAM.iter().map(|key| key.name).collect(),
            Self::Route(_) => keys::ROUTE.iter().map(|key| key.name).collect(),
        }
    }

    fn key(&self, name: &str) -> Result<&'static str, Cause> {
        let known = self.keys();
        let found = known.iter().find(|key| **key == name);
        found.copied().ok_or_else(|| Cause::UnknownKey { nearest: nearest(name, known).map(str::to_owned) })
    }
}

/// A value for a key, or a table's header, which may be all there is of a namespace.
#[derive(Clone, Debug)]
pub struct Assignment {
    pub target: Target,
    pub place: Place,
    pub value: Option<(&'static str, Raw)>,
}

/// The name most like the given one, if any is: of three letters one may be wrong.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |known: &'a str| (strsim::osa_distance(name, known), known);
    let near = |(distance, known): &(usize, &str)| *distance <= name.len().max(known.len()) / 3;
    known.into_iter().map(distance).filter(near).min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// The file's text.
pub fn read(path: &Path) -> Result<String, ConfigErrors> {
    std::fs::read_to_string(path).map_err(|error| {
        let place = Place::File { path: path.to_owned(), line: 1, column: 1 };
        ConfigErrors(vec![ConfigError { place, key: String::new(), cause: Cause::Unreadable(error.to_string()) }])
    })
}

/// All assignments, the file's first and the flags' last.
pub fn collect(text: Option<&str>, sources: &Sources, errors: &mut Vec<ConfigError>) -> Vec<Assignment> {
    let mut assignments = Vec::new();
    if let (Some(path), Some(text)) = (&sources.file, text) {
        let mut file = File { path, text, assignments: &mut assignments, errors: &mut *errors };
        file.walk();
    }
    let mut environment = sources.environment.iter().filter_map(|(name, value)| variable(name, value, errors)).collect::<Vec<_>>();
    environment.sort_by(|one, other| one.target.cmp(&other.target));
    assignments.extend(environment);
    assignments.extend(sources.flags.iter().map(|flag| Assignment {
        target: Target::Table(flag.table),
        place: Place::Flag(flag.name),
        value: Some((flag.key, Raw::Loose(flag.value.clone()))),
    }));
    assignments
}

/// The file while it is read.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
    assignments: &'a mut Vec<Assignment>,
    errors: &'a mut Vec<ConfigError>,
}

impl File<'_> {
    fn walk(&mut self) {
        match DeTable::parse(self.text) {
            Ok(document) => {
                for (name, value) in document.get_ref() {
                    self.top(name.get_ref(), name.span().start, value);
                }
            }
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                self.wrong(at, String::new(), Cause::Syntax(error.message().lines().collect::<Vec<_>>().join(", ")));
            }
        }
    }

    /// One name at the top of the document.
    fn top(&mut self, name: &str, at: usize, value: &Spanned<DeValue<'_>>) {
        let table = keys::TABLES.iter().find(|table| table.name == name);
        match (table, name) {
            (Some(table), _) => self.table(Target::Table(table.name), "[server]", value),
            (None, NAMESPACES) => self.named(name, "[namespaces.NAME]", Target::Namespace, value),
            (None, UPSTREAMS) => self.named(name, "[upstreams.NAME]", Target::Upstream, value),
            (None, ROUTES) => self.routes(value),
            (None, _) if RESERVED.contains(&name) => self.wrong(at, name.to_owned(), Cause::Reserved),
            (None, _) => {
                let tables = keys::TABLES.iter().map(|table| table.name).chain([NAMESPACES, UPSTREAMS, ROUTES]);
                let cause = Cause::UnknownTable { nearest: nearest(name, tables) };
                self.wrong(at, name.to_owned(), cause);
            }
        }
    }

    /// A table of named tables.
    fn named(&mut self, kind: &str, example: &'static str, target: fn(String) -> Target, value: &Spanned<DeValue<'_>>) {
        let Some(tables) = value.get_ref().as_table() else {
            return self.wrong(value.span().start, kind.to_owned(), Cause::NotATable { example });
        };
        for (name, value) in tables {
            if is_name(name.get_ref()) {
                self.table(target(name.get_ref().to_string()), example, value);
            } else {
                self.wrong(name.span().start, format!("{kind}.{}", name.get_ref()), Cause::Name);
            }
        }
    }

    fn routes(&mut self, value: &Spanned<DeValue<'_>>) {
        let Some(routes) = value.get_ref().as_array() else {
            return self.wrong(value.span().start, ROUTES.to_owned(), Cause::NotATable { example: "[[routes]]" });
        };
        for (index, route) in routes.iter().enumerate() {
            self.table(Target::Route(index), "[[routes]]", route);
        }
    }

    fn table(&mut self, target: Target, example: &'static str, value: &Spanned<DeValue<'_>>) {
        let Some(table) = value.get_ref().as_table() else {
            return self.wrong(value.span().start, target.to_string(), Cause::NotATable { example });
        };
        self.assignments.push(Assignment { target: target.clone(), place: self.place(value.span().start), value: None });
        for (name, value) in table {
            match target.key(name.get_ref()) {
                Ok(key) => {
                    let place = self.place(value.span().start);
                    self.assignments.push(Assignment { target: target.clone(), place, value: Some((key, raw(value.get_ref()))) });
                }
                Err(cause) => self.wrong(name.span().start, format!("{target}.{}", name.get_ref()), cause),
            }
        }
    }

    fn wrong(&mut self, at: usize, key: String, cause: Cause) {
        self.errors.push(ConfigError { place: self.place(at), key, cause });
    }

    /// Line and column of a byte.
    fn place(&self, at: usize) -> Place {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        Place::File { path: self.path.to_owned(), line, column }
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(integer) => {
            let digits = integer.as_str();
            i64::from_str_radix(digits, integer.radix()).map_or(Raw::Other("a number of that size"), Raw::Integer)
        }
        DeValue::Boolean(switch) => Raw::Switch(*switch),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Float(_) => Raw::Other("a number with a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

/// The assignment that a variable is, if it is meant for us.
fn variable(name: &str, value: &str, errors: &mut Vec<ConfigError>) -> Option<Assignment> {
    let place = Place::Environment(name.to_owned());
    let path = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
    let found = match path.split_once("__") {
        Some((table, rest)) => target_of(table, rest),
        // Other variables may well begin with the same word, but not by dropping an underscore.
        None => Err((String::new(), Cause::Underscores { meant: with_underscores(&path)? })),
    };
    match found {
        Ok((target, key)) => Some(Assignment { target, place, value: Some((key, Raw::Loose(value.to_owned()))) }),
        Err((key, cause)) => {
            errors.push(ConfigError { place, key, cause });
            None
        }
    }
}

fn target_of(table: &str, rest: &str) -> Result<(Target, &'static str), (String, Cause)> {
    let dotted = || format!("{table}.{}", rest.replace("__", "."));
    let (target, key) = match (keys::TABLES.iter().find(|known| known.name == table), rest.rsplit_once("__")) {
        (Some(known), _) => (Target::Table(known.name), rest),
        (None, Some((name, key))) if table == NAMESPACES && is_name(name) => (Target::Namespace(name.to_owned()), key),
        (None, Some((name, key))) if table == UPSTREAMS && is_name(name) => (Target::Upstream(name.to_owned()), key),
        (None, Some((index, key))) if table == ROUTES && index.parse::<u16>().is_ok() => {
            (Target::Route(index.parse().unwrap_or_default()), key)
        }
        (None, _) if RESERVED.contains(&table) => return Err((dotted(), Cause::Reserved)),
        (None, _) if [NAMESPACES, UPSTREAMS, ROUTES].contains(&table) => {
            return Err((dotted(), Cause::UnknownKey { nearest: Some(format!("{}{}__NAME__KEY", PREFIX, table.to_uppercase())) }));
        }
        (None, _) => {
            let nearest = nearest(table, keys::TABLES.iter().map(|table| table.name).chain([NAMESPACES, UPSTREAMS, ROUTES]));
            return Err((dotted(), Cause::UnknownTable { nearest }));
        }
    };
    let key = target.key(key).map_err(|cause| (dotted(), cause))?;
    Ok((target, key))
}

/// The variable that was meant by one whose underscores are single, if there is such a key.
fn with_underscores(path: &str) -> Option<String> {
    keys::TABLES.iter().find_map(|table| {
        let key = path.strip_prefix(table.name)?.strip_prefix('_')?;
        let known = table.keys.iter().any(|known| known.name == key);
        known.then(|| format!("{PREFIX}{}__{}", table.name.to_uppercase(), key.to_uppercase()))
    })
}

fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(good)
}
