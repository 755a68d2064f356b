//! What a reload changes, key by key.

use super::Config;
use super::keys::{self, Key};

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
        // Upstreams and routes refer to each other by place, so they are one thing.
        if format!("{:?}", old.shard.proxy) != format!("{:?}", new.shard.proxy) {
            changes.applied.push("upstreams and routes".to_owned());
        }
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
