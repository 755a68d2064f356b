//! What a server says when it is ready: where it listens, what the kernel gives it, and where to look first.

use std::net::SocketAddr;

use rustix::process::{Resource, getrlimit};

use crate::config::{Config, Mode};
use crate::net::{Bound, Interface};

/// Descriptors that a worker may have open; `None` where there is no limit.
pub fn open_files_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// All lines, the last one empty.
pub fn lines(config: &Config, bound: &Bound, open_files_max: Option<u64>) -> Vec<String> {
    let mut lines = vec![format!("ringmain {} ({})", env!("CARGO_PKG_VERSION"), origin(config))];
    lines.extend(bound.listen.iter().map(|address| format!("listening on http://{address}")));
    lines.extend(bound.internal_listen.map(|address| format!("API, metrics and health on http://{address}")));
    let doorbells = if matches!(bound.interface, Interface::Uring { ring_doorbells: true, .. }) { "ring" } else { "eventfd" };
    let workers = if bound.workers == 1 { "worker" } else { "workers" };
    lines.push(format!("{} {workers}, woken by {doorbells}", bound.workers));
    lines.push(format!("kernel: {}", bound.interface));
    if let Interface::Epoll { refused: Some(error), .. } = &bound.interface {
        lines.push(format!("        epoll serves the same with more system calls, as there is no ring: {error}"));
    }
    lines.push(match (open_files_max, &bound.interface) {
        (Some(limit), Interface::Uring { .. }) => format!("open files: {limit} per worker (RLIMIT_NOFILE)"),
        (Some(limit), Interface::Epoll { .. }) => format!("open files: {limit}, shared by all workers (RLIMIT_NOFILE)"),
        (None, _) => "open files: no limit".to_owned(),
    });
    if config.mode == Mode::Development
        && let Some(address) = bound.listen.first()
    {
        lines.extend(hints(config, reachable(*address)));
    }
    lines.push(String::new());
    lines
}

fn origin(config: &Config) -> String {
    match (&config.config_path, config.mode) {
        (Some(path), Mode::Production) => path.display().to_string(),
        (Some(path), Mode::Development) => format!("{}, development mode: everybody is let in", path.display()),
        (None, Mode::Production) => "no config file".to_owned(),
        (None, Mode::Development) => "no config file: development mode, everybody is let in".to_owned(),
    }
}

/// An address to type where the server listens on all of them.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, v6.port())),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

/// Four lines to paste.
fn hints(config: &Config, address: SocketAddr) -> Vec<String> {
    let server = &config.shard.server;
    let (prefix, key) = (&server.door_prefix, &server.api_key);
    let channel = format!("http://{address}{prefix}/channels/news");
    let mut lines = vec![
        String::new(),
        format!("  event stream   curl -N '{channel}?via=sse'"),
        format!("  poll           curl '{channel}?history=10&wait=20'"),
    ];
    // With routes, the page at / is an upstream's.
    if config.shard.proxy.routes.is_empty() {
        lines.push(format!("  playground     http://{address}{prefix}/"));
    }
    lines.push(format!("  publish        curl -H 'X-API-Key: {key}' -d '{{\"hello\":\"world\"}}' '{channel}'"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::ring::{Features, RingError, SetupFlags};

    fn features() -> Features {
        Features {
            setup: SetupFlags::SUBMIT_ALL,
            missing: SetupFlags::DEFER_TASKRUN,
            registered_ring: true,
            peer_name: true,
            sq_entries: 4096,
            cq_entries: 65_536,
            shrunk: false,
            files: 20_000,
            buffers: 4096,
        }
    }

    fn text(environment: &[(&str, &str)], address: &str) -> String {
        text_on(Interface::Uring { features: features(), ring_doorbells: true }, environment, address)
    }

    fn text_on(interface: Interface, environment: &[(&str, &str)], address: &str) -> String {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = Config::load(&Sources { environment, ..Sources::default() }).expect("a config");
        let listen = vec![address.parse().expect("an address")];
        let internal_listen = config.internal_listen;
        let bound = Bound { listen, internal_listen, workers: 2, interface };
        lines(&config, &bound, Some(20_000)).join("\n")
    }

    #[test]
    fn everything_is_said_that_one_needs_to_know() {
        let text = text(&[("RINGMAIN_API__KEY", "secret")], "127.0.0.1:8123");
        for part in [
            "development mode",
            "listening on http://127.0.0.1:8123\n",
            "2 workers",
            "without DEFER_TASKRUN",
            "open files: 20000 per worker",
            "curl -N 'http://127.0.0.1:8123/channels/news?via=sse'",
            "wait=20'",
            "playground     http://127.0.0.1:8123/\n",
            "-H 'X-API-Key: secret' -d '{\"hello\":\"world\"}' 'http://127.0.0.1:8123/channels/news'\n",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn who_serves_without_a_ring_is_told_why_and_what_to_do() {
        let text = text_on(Interface::Epoll { connections: 9980, refused: Some(RingError::Seccomp) }, &[], "127.0.0.1:80");
        for part in [
            "woken by eventfd",
            "kernel: epoll: 9980 connections per worker\n",
            "seccomp=tuning/seccomp.json",
            "20000, shared by all workers",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let text = text_on(Interface::Epoll { connections: 9980, refused: None }, &[], "127.0.0.1:80");
        assert!(!text.contains("no ring"), "{text}");
    }

    #[test]
    fn addresses_can_be_typed_as_they_are_shown() {
        let open = [("RINGMAIN_SERVER__MODE", "development"), ("RINGMAIN_SERVER__DOOR_PREFIX", "/_rt")];
        assert!(text(&open, "0.0.0.0:80").contains("'http://127.0.0.1:80/_rt/channels/news?via=sse'"));
        assert!(text(&open, "[::]:80").contains("'http://[::1]:80/_rt/channels/news?via=sse'"));
    }

    #[test]
    fn a_production_server_shows_no_key() {
        let text = text(&[("RINGMAIN_SERVER__MODE", "production"), ("RINGMAIN_API__KEY", "secret")], "127.0.0.1:80");
        assert!(!text.contains("secret") && !text.contains("curl"), "{text}");
    }
}
