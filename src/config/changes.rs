//! What a reload changes, key by key.

use super::Config;
use super::keys::{self, Key};
use crate::proxy;

/// Dotted keys whose values differ between two configurations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// In force from the reload on.
    pub applied: Vec<String>,
    /// In force after a restart.
    pub restart: Vec<String>,
}

impl Config {
    /// What is different in `fresh`.
    #[must_use]
    pub fn changes(&self, fresh: &Self) -> Changes {
        let (mut old, mut new) = (self.clone(), fresh.clone());
        let mut changes = Changes::default();
        for table in &keys::TABLES {
            changes.compare(table.name, table.keys, &mut old, &mut new);
        }
        changes.compare_namespaces(&mut old, &mut new);
        changes.compare_proxy(&old.shard.proxy, &new.shard.proxy);
        changes
    }
}

impl Changes {
    fn compare<T>(&mut self, table: &str, keys: &[Key<T>], old: &mut T, new: &mut T) {
        for key in keys {
            if (key.field)(old).show() != (key.field)(new).show() {
                let list = if key.live { &mut self.applied } else { &mut self.restart };
                list.push(format!("{table}.{}", key.name));
            }
        }
    }

    fn compare_proxy(&mut self, old: &proxy::Options, new: &proxy::Options) {
        let mut names: Vec<&str> = old.upstreams.iter().chain(&new.upstreams).map(|upstream| upstream.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let of = |options: &proxy::Options| {
                options.upstreams.iter().find(|upstream| upstream.name == name).map(|upstream| format!("{upstream:?}"))
            };
            if of(old) != of(new) {
                self.applied.push(format!("{}.{name}", keys::UPSTREAMS));
            }
        }
        // Places in the list of upstreams mean nothing by themselves.
        let routes = |options: &proxy::Options| {
            let name = |route: &proxy::Route| options.upstreams.get(route.upstream).map(|upstream| upstream.name.clone());
            options.routes.iter().map(|route| (route.host.clone(), route.path.clone(), name(route))).collect::<Vec<_>>()
        };
        if routes(old) != routes(new) {
            self.applied.push(keys::ROUTES.to_owned());
        }
    }

    fn compare_namespaces(&mut self, old: &mut Config, new: &mut Config) {
        for namespace in &mut new.shard.hub.namespaces {
            let table = format!("{}.{}", keys::NAMESPACES, namespace.name);
            match old.shard.hub.namespaces.iter_mut().find(|known| known.name == namespace.name) {
                Some(known) => self.compare(&table, &keys::NAMESPACE, known, namespace),
                None => self.applied.push(table),
            }
        }
        let gone = old.shard.hub.namespaces.iter().filter(|old| !new.shard.hub.namespaces.iter().any(|new| new.name == old.name));
        self.applied.extend(gone.map(|old| format!("{}.{}", keys::NAMESPACES, old.name)));
    }
}
