//! `ringmain config default`: every key with what it does and its default, as a file that can be used.

use std::time::Duration;

use super::keys::{self, Key, RouteDraft, UpstreamDraft};
use super::{Config, field};
use crate::hub::{ChannelKind, Namespace};
use crate::proxy::Upstream;

const HEAD: &str = "\
# ringmain's configuration: every key with its default.
#
# Precedence: flags, environment, this file, default. Any key can be given by environment, with two underscores between
# its parts: RINGMAIN_API__KEY, RINGMAIN_NAMESPACES__TICKER__KIND, RINGMAIN_ROUTES__0__TO; lists with commas.
# Sizes have units (B, KiB, MiB, GiB), durations too (ms, s, m, h, d).
#
# A server with a file denies by default: nobody may subscribe until allow_subscribe says so. Without a file ringmain runs
# in development mode: anyone may subscribe and publish, all origins are allowed, and an API key is generated.
";

const NAMESPACES: &str = "\
# Policy of channels. The other namespaces inherit what they do not say from this one.
";

const EXAMPLES: &str = "\
# Examples follow: remove the # in front to use them.
";

/// The default configuration as commented TOML.
#[must_use]
pub fn print_default() -> String {
    let mut text = HEAD.to_owned();
    let mut config = Config::default();
    for table in &keys::TABLES {
        text.push_str(&format!("\n[{}]\n", table.name));
        print_keys(&mut text, table.keys, &mut config, |_| true, "");
    }
    text.push_str(&format!("\n{NAMESPACES}[namespaces.default]\n"));
    print_keys(&mut text, &keys::NAMESPACE, &mut Namespace::default(), |key| key != "match", "");
    text.push_str(&format!("\n{EXAMPLES}"));
    text.push_str("\n#[namespaces.ticker]\n");
    print_keys(&mut text, &keys::NAMESPACE, &mut ticker(), |key| ["match", "kind", "coalesce"].contains(&key), "#");
    text.push_str("\n#[upstreams.app]\n");
    print_keys(&mut text, &keys::UPSTREAM, &mut app(), |_| true, "#");
    text.push_str("\n#[[routes]]\n");
    print_keys(&mut text, &keys::ROUTE, &mut root(), |_| true, "#");
    text
}

fn print_keys<T>(text: &mut String, keys: &[Key<T>], configured: &mut T, wanted: impl Fn(&str) -> bool, mark: &str) {
    for key in keys.iter().filter(|key| wanted(key.name)) {
        let value: field::Field<'_> = (key.field)(configured);
        text.push_str(&format!("# {}\n{mark}{} = {}\n", key.doc, key.name, value.show()));
    }
}

fn ticker() -> Namespace {
    Namespace {
        prefixes: vec!["ticker:".to_owned()],
        kind: ChannelKind::State,
        coalesce: Duration::from_millis(10),
        ..Namespace::default()
    }
}

fn app() -> UpstreamDraft {
    UpstreamDraft { upstream: Upstream::new("app", Vec::new()), servers: vec!["127.0.0.1:3000".to_owned()] }
}

fn root() -> RouteDraft {
    RouteDraft { path: "/".to_owned(), to: "app".to_owned(), ..RouteDraft::default() }
}
