//! What a host is to carry: the configuration's share of the question, in numbers.

use std::net::SocketAddr;

use crate::config::Config;
use crate::net::{Io, LISTEN_BACKLOG};

/// The load that a host is compared with.
#[derive(Clone, Debug)]
pub struct Load {
    /// Clients' connections at the same time.
    pub connections: u64,
    /// Threads that share them.
    pub workers: u64,
    /// The kernel interface that the server is told to use.
    pub io: Io,
    /// Connections that wait for their accept, per worker and address.
    pub backlog: u64,
    /// Upstreams' addresses, with the most connections that all workers together open to each.
    pub upstreams: Vec<(SocketAddr, u64)>,
    /// Of accepted connections; `None` leaves it to the system.
    pub congestion_control: Option<String>,
}

impl Load {
    /// What a configuration means with so many connections, where `workers = 0` is `default_workers`.
    pub fn new(config: &Config, connections: u64, default_workers: u64) -> Self {
        let workers = if config.workers == 0 { default_workers } else { config.workers as u64 }.max(1);
        let upstreams = config.shard.proxy.upstreams.iter();
        // Nobody opens more of them than there are clients, but each worker keeps one at least.
        let most = |per_worker: usize| (per_worker as u64).saturating_mul(workers).min(connections.max(workers));
        let congestion = &config.io.congestion_control;
        Self {
            connections,
            workers,
            io: config.interface,
            backlog: u64::from(LISTEN_BACKLOG.unsigned_abs()),
            upstreams: upstreams
                .flat_map(|upstream| upstream.servers.first().map(|&server| (server, most(upstream.connections_max))))
                .collect(),
            congestion_control: (!congestion.is_empty()).then(|| congestion.clone()),
        }
    }

    /// Connections of both sides: each is a socket, an open file and an entry of a table.
    pub fn sockets(&self) -> u64 {
        self.upstreams.iter().fold(self.connections, |sum, (_, count)| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn load(environment: &[(&str, &str)], connections: u64) -> Load {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = Config::load(&Sources { environment, ..Sources::default() }).expect("a config");
        Load::new(&config, connections, 4)
    }

    #[test]
    fn a_configuration_says_what_is_needed() {
        let plain = load(&[], 1000);
        assert_eq!((plain.workers, plain.backlog, plain.sockets(), plain.congestion_control), (4, 4096, 1000, None));
        assert_eq!(plain.io, Io::Auto);
        let told = load(
            &[("RINGMAIN_SERVER__WORKERS", "2"), ("RINGMAIN_SERVER__IO", "epoll"), ("RINGMAIN_IO__CONGESTION_CONTROL", "cubic")],
            1000,
        );
        assert_eq!((told.workers, told.io, told.congestion_control.as_deref()), (2, Io::Epoll, Some("cubic")));
    }

    #[test]
    fn upstreams_get_at_most_a_connection_for_each_client() {
        let mut config = Config { workers: 2, ..Config::default() };
        let upstream = crate::proxy::Upstream {
            connections_max: 1000,
            ..crate::proxy::Upstream::new("app", vec![([127, 0, 0, 1], 1).into()])
        };
        config.shard.proxy.upstreams = vec![upstream];
        assert_eq!(Load::new(&config, 100_000, 4).sockets(), 102_000);
        assert_eq!(Load::new(&config, 500, 4).sockets(), 1000);
        assert_eq!(Load::new(&config, 0, 4).sockets(), 2);
    }
}
