//! Defaults of the mode, then one assignment after the other.

use std::collections::HashMap;

use super::error::{Cause, ConfigError, Conflict, Invalid, Place};
use super::field::{Field, Raw};
use super::keys::{self, Key, RouteDraft, UpstreamDraft};
use super::source::{Assignment, Target};
use super::{Config, Mode};
use crate::hub::Namespace;
use crate::proxy::Upstream;

/// A configuration whose parts are set and whose whole is not checked yet.
#[derive(Debug)]
pub struct Draft {
    /// Its namespaces are complete; the first is `default`.
    pub config: Config,
    pub upstreams: Vec<UpstreamDraft>,
    pub routes: Vec<RouteDraft>,
    /// Where each key was last given, by its dotted name; a table's own name stands for its header.
    pub places: HashMap<String, Place>,
}

impl Draft {
    /// Where a key was given.
    pub fn place(&self, key: &str) -> Place {
        self.places.get(key).cloned().unwrap_or(Place::Default)
    }
}

/// Name of the namespace that the others inherit from.
pub const DEFAULT: &str = "default";

/// Applies assignments to the defaults. The later of two for one key wins.
pub fn assemble(mut assignments: Vec<Assignment>, from_file: bool, errors: &mut Vec<ConfigError>) -> Draft {
    let mode = mode_of(&assignments, from_file);
    let mut draft = Draft { config: Config::of(mode), upstreams: Vec::new(), routes: Vec::new(), places: HashMap::new() };
    // The others inherit, so the default comes first; the order is otherwise kept.
    assignments.sort_by_key(|assignment| assignment.target != Target::Namespace(DEFAULT.to_owned()));
    for assignment in assignments {
        let place = assignment.place.clone();
        if let Err((key, cause)) = draft.apply(assignment) {
            errors.push(ConfigError { place, key, cause });
        }
    }
    draft
}

/// The last mode that was said; without a file and a word, it is development.
fn mode_of(assignments: &[Assignment], from_file: bool) -> Mode {
    let mut mode = if from_file { Mode::Production } else { Mode::Development };
    for assignment in assignments {
        if let (Target::Table("server"), Some(("mode", raw))) = (&assignment.target, &assignment.value) {
            // What is not a mode is reported when it is applied.
            let _ = Field::Choice(&mut mode).set(raw);
        }
    }
    mode
}

impl Draft {
    fn apply(&mut self, assignment: Assignment) -> Result<(), (String, Cause)> {
        let Assignment { target, place, value } = assignment;
        let target = self.create(target, &place).map_err(|(target, cause)| (target.to_string(), cause))?;
        let Some((key, raw)) = value else {
            self.places.insert(target.to_string(), place);
            return Ok(());
        };
        let dotted = format!("{target}.{key}");
        let set = self.set(&target, key, &raw);
        self.places.insert(dotted.clone(), place);
        set.map_err(|invalid| (dotted, Cause::Value(invalid)))
    }

    /// Makes room for a namespace, upstream or route at its first mention. Returns what it is called here.
    fn create(&mut self, target: Target, place: &Place) -> Result<Target, (Target, Cause)> {
        let from_environment = matches!(place, Place::Environment(_));
        match target {
            Target::Table(_) => Ok(target),
            Target::Namespace(name) => {
                let known = self.config.shard.hub.namespaces.iter().map(|namespace| namespace.name.as_str());
                if let Some(known) = find(known, &name, from_environment) {
                    return Ok(Target::Namespace(known));
                }
                let inherited = self.config.shard.hub.namespaces.first().cloned().unwrap_or_default();
                let prefixes = vec![format!("{name}:")];
                self.config.shard.hub.namespaces.push(Namespace { name: name.clone(), prefixes, ..inherited });
                Ok(Target::Namespace(name))
            }
            Target::Upstream(name) => {
                if let Some(known) = find(self.upstreams.iter().map(|draft| draft.upstream.name.as_str()), &name, from_environment)
                {
                    return Ok(Target::Upstream(known));
                }
                let upstream = Upstream::new(name.clone(), Vec::new());
                self.upstreams.push(UpstreamDraft { upstream, servers: Vec::new() });
                Ok(Target::Upstream(name))
            }
            Target::Route(index) => {
                let next = self.routes.len();
                if index > next {
                    return Err((target, Cause::Conflict(Conflict::RouteNumber { next })));
                }
                if index == next {
                    self.routes.push(RouteDraft::default());
                }
                Ok(target)
            }
        }
    }

    fn set(&mut self, target: &Target, key: &str, raw: &Raw) -> Result<(), Invalid> {
        match target {
            Target::Table(name) => {
                let tables = keys::TABLES.iter().filter(|table| table.name == *name);
                set(tables.flat_map(|table| table.keys), key, raw, Some(&mut self.config))
            }
            Target::Namespace(name) => {
                let mut namespaces = self.config.shard.hub.namespaces.iter_mut();
                set(&keys::NAMESPACE, key, raw, namespaces.find(|namespace| namespace.name == *name))
            }
            Target::Upstream(name) => {
                set(&keys::UPSTREAM, key, raw, self.upstreams.iter_mut().find(|draft| draft.upstream.name == *name))
            }
            Target::Route(index) => set(&keys::ROUTE, key, raw, self.routes.get_mut(*index)),
        }
    }
}

/// Sets a key that the source has looked up in the same table, on something that was created before.
fn set<T: 'static>(
    keys: impl IntoIterator<Item = &'static Key<T>>,
    name: &str,
    raw: &Raw,
    configured: Option<&mut T>,
) -> Result<(), Invalid> {
    match (keys.into_iter().find(|key| key.name == name), configured) {
        (Some(key), Some(configured)) => (key.field)(configured).set(raw),
        (None, _) | (_, None) => Ok(()),
    }
}

/// The name as it is known. Variables cannot have a `-`, so there `_` stands for both.
fn find<'a>(mut known: impl Iterator<Item = &'a str>, name: &str, from_environment: bool) -> Option<String> {
    let same = |known: &str| known == name || (from_environment && known.replace('-', "_") == name);
    known.find(|known| same(known)).map(str::to_owned)
}
