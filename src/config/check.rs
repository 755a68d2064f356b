//! What no single value can say: whether the values go together. Then names become addresses and places in lists.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use super::assemble::{DEFAULT, Draft};
use super::error::{Cause, ConfigError, Conflict};
use super::keys::{RouteDraft, UpstreamDraft};
use super::source::nearest;
use super::units::show_duration;
use super::{Config, Mode, Warning};
use crate::hub::Access;
use crate::proxy::{Route, Upstream};

/// A key shorter than this is warned about.
const KEY_BYTES_MIN: usize = 16;

/// Checks the whole and completes it. The result is of use only if no error was added.
pub fn finish(mut draft: Draft, file: Option<PathBuf>, errors: &mut Vec<ConfigError>) -> Config {
    let mut check = Check { draft: &draft, errors };
    check.addresses();
    check.timeouts();
    check.namespaces();
    check.routes();
    let upstreams = check.resolve();
    let routes = routes(&draft.routes, &draft.upstreams);
    draft.config.shard.proxy.upstreams = upstreams;
    draft.config.shard.proxy.routes = routes;
    draft.config.config_path = file;
    complete(draft.config)
}

/// Fills in what follows from the rest.
fn complete(mut config: Config) -> Config {
    config.shard.server.development = config.mode == Mode::Development;
    config.shard.server.internal_listener = config.internal_listen.is_some();
    config.shard.server.loopback = config.listen.iter().all(is_loopback);
    if config.mode == Mode::Development && config.shard.server.api_key.is_empty() {
        match generate_key() {
            Some(key) => (config.shard.server.api_key, config.key_is_generated) = (key, true),
            None => config.warnings.push(Warning::NoRandomness),
        }
    }
    let warnings = warnings(&config);
    config.warnings.extend(warnings);
    config
}

/// 128 random bits.
fn generate_key() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn warnings(config: &Config) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let key = &config.shard.server.api_key;
    match (config.mode, key.len()) {
        (Mode::Production, 0) => warnings.push(Warning::NoKey),
        (Mode::Production, bytes @ 1..KEY_BYTES_MIN) => warnings.push(Warning::ShortKey { bytes }),
        (Mode::Production | Mode::Development, _) => {}
    }
    if config.shard.hub.namespaces.iter().all(|namespace| namespace.allow_subscribe == Access::Nobody) {
        warnings.push(Warning::NobodySubscribes);
    }
    for (index, upstream) in config.shard.proxy.upstreams.iter().enumerate() {
        if upstream.servers.len() > 1 {
            warnings.push(Warning::OneServer { upstream: upstream.name.clone(), servers: upstream.servers.len() });
        }
        if config.shard.proxy.routes.iter().all(|route| route.upstream != index) {
            warnings.push(Warning::Unrouted { upstream: upstream.name.clone() });
        }
    }
    warnings
}

fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Routes with their upstreams' places. Those that lead nowhere have been reported.
fn routes(drafts: &[RouteDraft], upstreams: &[UpstreamDraft]) -> Vec<Route> {
    let index = |name: &str| upstreams.iter().position(|draft| draft.upstream.name == name);
    let route = |draft: &RouteDraft| {
        let host = (!draft.host.is_empty()).then(|| draft.host.to_ascii_lowercase());
        let path = crate::http::path::normalise(&draft.path).map_or_else(|| draft.path.clone(), String::from);
        Some(Route { host, path, upstream: index(&draft.to)? })
    };
    drafts.iter().filter_map(route).collect()
}

/// The checks, and where they report.
struct Check<'a> {
    draft: &'a Draft,
    errors: &'a mut Vec<ConfigError>,
}

impl Check<'_> {
    fn wrong(&mut self, key: impl Into<String>, conflict: Conflict) {
        let key = key.into();
        let place = self.draft.place(&key);
        self.errors.push(ConfigError { place, key, cause: Cause::Conflict(conflict) });
    }

    fn addresses(&mut self) {
        let Config { listen, internal_listen, mode, .. } = &self.draft.config;
        if listen.is_empty() {
            self.wrong("server.listen", Conflict::NoListener);
        }
        // Port 0 is another port each time.
        let twice = |index: usize, address: &SocketAddr| address.port() != 0 && listen[..index].contains(address);
        if let Some((_, address)) = listen.iter().enumerate().find(|(index, address)| twice(*index, address)) {
            self.wrong("server.listen", Conflict::ListenTwice { address: address.to_string() });
        }
        if internal_listen.is_some_and(|address| address.port() != 0 && listen.contains(&address)) {
            self.wrong("server.internal_listen", Conflict::InternalListen);
        }
        let said = self.draft.places.contains_key("server.mode");
        if *mode == Mode::Development && !said {
            if let Some(address) = listen.iter().find(|address| !is_loopback(address)) {
                self.wrong("server.listen", Conflict::Exposed { address: address.to_string() });
            }
            if let Some(address) = internal_listen.filter(|address| !is_loopback(address)) {
                self.wrong("server.internal_listen", Conflict::Exposed { address: address.to_string() });
            }
        }
    }

    fn timeouts(&mut self) {
        let shard = &self.draft.config.shard;
        if shard.ws.pong_timeout >= shard.ws.ping_interval {
            let ping_interval = show_duration(shard.ws.ping_interval);
            self.wrong("websocket.pong_timeout", Conflict::PongTimeout { ping_interval });
        }
        let [low, high] = shard.transport.retry;
        if low > high {
            self.wrong("stream.retry", Conflict::RetryOrder);
        }
    }

    fn namespaces(&mut self) {
        let namespaces = &self.draft.config.shard.hub.namespaces;
        if self.draft.places.contains_key("namespaces.default.match") {
            self.wrong("namespaces.default.match", Conflict::DefaultMatch);
        }
        for (index, namespace) in namespaces.iter().enumerate().skip(1) {
            for prefix in &namespace.prefixes {
                let mut earlier = namespaces.iter().take(index).filter(|other| other.name != DEFAULT);
                if let Some(other) = earlier.find(|other| other.prefixes.contains(prefix)) {
                    let conflict = Conflict::SharedPrefix { prefix: prefix.clone(), other: other.name.clone() };
                    self.wrong(self.nearest_place(&format!("namespaces.{}", namespace.name), "match"), conflict);
                }
            }
        }
    }

    /// The key if it was given, else the table that lacks it.
    fn nearest_place(&self, table: &str, key: &str) -> String {
        let dotted = format!("{table}.{key}");
        if self.draft.places.contains_key(&dotted) { dotted } else { table.to_owned() }
    }

    fn routes(&mut self) {
        let draft = self.draft;
        for (index, route) in draft.routes.iter().enumerate() {
            let table = format!("routes.{index}");
            if route.path.is_empty() && !draft.places.contains_key(&format!("{table}.path")) {
                self.wrong(&table, Conflict::NoRoutePath);
            }
            if route.to.is_empty() {
                self.wrong(self.nearest_place(&table, "to"), Conflict::NoRouteTarget);
            } else if !draft.upstreams.iter().any(|known| known.upstream.name == route.to) {
                let known = draft.upstreams.iter().map(|known| known.upstream.name.as_str());
                let nearest = nearest(&route.to, known).map(str::to_owned);
                self.wrong(format!("{table}.to"), Conflict::UnknownUpstream { name: route.to.clone(), nearest });
            }
            let same = |other: &RouteDraft| other.path == route.path && other.host.eq_ignore_ascii_case(&route.host);
            if let Some(earlier) = draft.routes.iter().take(index).position(same).filter(|_| !route.path.is_empty()) {
                self.wrong(self.nearest_place(&table, "path"), Conflict::RouteTwice { earlier });
            }
        }
    }

    /// Upstreams with their addresses.
    fn resolve(&mut self) -> Vec<Upstream> {
        let draft = self.draft;
        let resolved = draft.upstreams.iter().map(|upstream| {
            let table = format!("upstreams.{}", upstream.upstream.name);
            let key = self.nearest_place(&table, "servers");
            if upstream.servers.is_empty() && !self.is_reported(&key) {
                self.wrong(&key, Conflict::NoServers);
            }
            let servers = upstream.servers.iter().flat_map(|server| self.addresses_of(&key, server)).collect();
            Upstream { servers, ..upstream.upstream.clone() }
        });
        resolved.collect()
    }

    /// Whether the value itself was refused, which makes what follows from its absence no news.
    fn is_reported(&self, key: &str) -> bool {
        self.errors.iter().any(|error| error.key == key)
    }

    fn addresses_of(&mut self, key: &str, server: &str) -> Vec<SocketAddr> {
        match server.to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                self.wrong(key, Conflict::Unresolved { server: server.to_owned(), error: error.to_string() });
                Vec::new()
            }
        }
    }
}
