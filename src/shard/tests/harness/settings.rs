//! What the server of a world is configured to do.

use crate::hub::{Access, Namespace};
use crate::proxy::{Route, Upstream};
use crate::shard::Options;

pub const KEY: &str = "test-key";

/// A server with a key that lets everybody in.
pub fn options() -> Options {
    let mut options = Options::default();
    options.server.api_key = KEY.to_owned();
    let everybody = Namespace { allow_subscribe: Access::Anyone, allow_publish: Access::Anyone, ..Namespace::default() };
    options.hub.namespaces = vec![everybody];
    options
}

/// A namespace beside `default`, as open as that is.
pub fn namespace(name: &str) -> Namespace {
    let prefixes = vec![format!("{name}:")];
    Namespace { name: name.to_owned(), prefixes, ..options().hub.namespaces.remove(0) }
}

/// An echo, and an upstream `app` behind `/app`.
pub fn proxied(options: &mut Options) {
    options.server.echo = true;
    options.proxy.upstreams = vec![Upstream::new("app", vec![([127, 0, 0, 1], 3000).into()])];
    options.proxy.routes = vec![Route { host: None, path: "/app".to_owned(), upstream: 0 }];
}
