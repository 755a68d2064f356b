//! A worker's upstreams: routes, and a pool for each upstream, which outlives its place in the configuration while it is in use.
//!
//! Exchanges name an upstream by its place in a list. A reload never moves or empties a place that anybody may still name: an
//! upstream whose servers or limits changed gets a new place beside the old one, which serves nobody new and ends with the last
//! exchange it has.

use std::net::SocketAddr;

use super::upstream::Connecting;
use crate::base::{Arena, ConnId};
use crate::metrics::{Label, Labelled};
use crate::proxy::{Options, Pool, Route, Router, Upstream};

/// Routes and pools.
#[derive(Debug)]
pub struct Upstreams {
    router: Router,
    places: Vec<Place>,
    /// Connections being opened.
    pub connecting: Arena<Connecting>,
}

/// One upstream, as it was configured when its pool was made; timeouts are as they are now.
#[derive(Debug)]
struct Place {
    options: Upstream,
    pool: Pool,
    /// It is not configured like this any more: what is under way ends here, nothing new begins.
    retired: bool,
}

impl Upstreams {
    /// Pools without connections.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let mut fresh = Self { router: Router::default(), places: Vec::new(), connecting: Arena::default() };
        fresh.reload(options);
        fresh
    }

    /// Takes new routes and upstreams. Returns the idle connections of those that are gone, which the caller closes.
    pub fn reload(&mut self, options: &Options) -> Vec<ConnId> {
        let kept: Vec<usize> = options.upstreams.iter().map(|upstream| self.place_for(upstream)).collect();
        let mut idle = Vec::new();
        for (index, place) in self.places.iter_mut().enumerate() {
            if !place.retired && !kept.contains(&index) {
                place.retired = true;
                idle.extend(place.pool.retire());
            }
        }
        let routes =
            options.routes.iter().filter_map(|route| Some(Route { upstream: *kept.get(route.upstream)?, ..route.clone() }));
        self.router = Router::new(routes);
        idle
    }

    /// Keeps no connection for later from now on. Returns the idle ones, which the caller closes.
    pub fn retire_all(&mut self) -> Vec<ConnId> {
        self.places.iter_mut().flat_map(|place| place.pool.retire()).collect()
    }

    /// Where a request goes: the upstream's place, and the server that stands for it where the client names none.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<(usize, SocketAddr)> {
        let place = self.router.find(host, path)?;
        Some((place, *self.options(place).servers.first()?))
    }

    /// How the upstream is configured.
    #[must_use]
    pub fn options(&self, place: usize) -> &Upstream {
        &self.places[place].options
    }

    /// The upstream's connections.
    pub fn pool(&mut self, place: usize) -> &mut Pool {
        &mut self.places[place].pool
    }

    /// Connections by upstream and state, and requests that wait for one.
    #[must_use]
    pub fn counts(&self) -> Labelled {
        let mut counts = Labelled::default();
        for Place { options, pool, .. } in &self.places {
            let now = pool.counts();
            for (state, count) in
                [("connecting", now.connecting), ("in_use", now.in_use), ("idle", now.idle), ("waiting", now.waiting)]
            {
                counts.add([Label::Name(options.name.as_str().into()), state.into(), Label::None], count as u64);
            }
        }
        counts
    }

    /// The place of an upstream that is configured like this: the one it has, one that nobody uses any more, or a new one.
    fn place_for(&mut self, upstream: &Upstream) -> usize {
        let has = self.places.iter().position(|place| !place.retired && place.options.shares_pool_with(upstream));
        if let Some(index) = has {
            self.places[index].options = upstream.clone();
            return index;
        }
        let place = Place { options: upstream.clone(), pool: Pool::new(upstream), retired: false };
        match self.places.iter().position(|place| place.retired && place.pool.is_unused()) {
            Some(index) => {
                self.places[index] = place;
                index
            }
            None => {
                self.places.push(place);
                self.places.len() - 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{Acquire, PutBack, ServerId};

    fn upstream(name: &str, port: u16) -> Upstream {
        Upstream::new(name, vec![SocketAddr::from(([127, 0, 0, 1], port))])
    }

    fn options(upstreams: &[Upstream]) -> Options {
        let route = |upstream: usize| Route { host: None, path: format!("/{}", upstreams[upstream].name), upstream };
        Options { upstreams: upstreams.to_vec(), routes: (0..upstreams.len()).map(route).collect() }
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    #[test]
    fn a_reload_moves_nothing_that_is_in_use() {
        let mut upstreams = Upstreams::new(&options(&[upstream("a", 1), upstream("b", 2)]));
        assert_eq!(upstreams.find("h", "/b").unwrap().0, 1);
        assert!(matches!(upstreams.pool(1).take(conn(1)), Acquire::Connect { .. }));
        upstreams.pool(1).connected();
        // The order in the file means nothing; other servers are another pool.
        let mut slower = upstream("a", 1);
        slower.response_timeout = std::time::Duration::from_secs(1);
        assert_eq!(upstreams.reload(&options(&[upstream("b", 3), slower])), []);
        assert_eq!((upstreams.find("h", "/a").unwrap().0, upstreams.options(0).response_timeout.as_secs()), (0, 1));
        let (place, server) = upstreams.find("h", "/b").unwrap();
        assert_eq!((place, server.port()), (2, 3));
        assert_eq!(upstreams.options(1).servers[0].port(), 2, "who is there stays");
        // The old pool keeps nothing; once nobody uses it, its place is free for the next.
        assert_eq!(upstreams.pool(1).put_back(ServerId(0), conn(9)), PutBack::Close);
        upstreams.reload(&options(&[upstream("b", 3), upstream("c", 4)]));
        assert_eq!(upstreams.find("h", "/c").unwrap().0, 1);
        assert_eq!(upstreams.find("h", "/a"), None);
    }

    #[test]
    fn idle_connections_of_what_is_gone_are_closed() {
        let mut upstreams = Upstreams::new(&options(&[upstream("a", 1)]));
        assert!(matches!(upstreams.pool(0).take(conn(1)), Acquire::Connect { .. }));
        upstreams.pool(0).connected();
        assert_eq!(upstreams.pool(0).put_back(ServerId(0), conn(9)), PutBack::Kept);
        let label = |state| [Label::Name("a".into()), Label::Word(state), Label::None];
        assert_eq!(upstreams.counts().get(&label("idle")), 1);
        assert_eq!(upstreams.reload(&options(&[])), [conn(9)]);
        assert_eq!(upstreams.counts().get(&label("idle")), 0);
    }
}
