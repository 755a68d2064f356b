//! One upstream's connections on one worker: which are idle, how many there may be, who waits for one.
//!
//! ```text
//!   take ──► Connect ──connected──► in use ──put_back──► idle ──take──► in use
//!     │         └─connect_failed─┐     └─closed─┐          └─closed─┐
//!     └──► Wait ◄── a place ─────┴──────────────┴───────────────────┘   (first come, first served)
//! ```
//!
//! Invariant: `connecting + in_use + idle <= connections_max`; nobody waits while there is a place.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::Upstream;
use super::balance::{RoundRobin, ServerId};
use crate::base::ConnId;

/// The pool of one upstream. The caller says what became of every connection that it was given.
#[derive(Clone, Debug)]
pub struct Pool {
    servers: Vec<Server>,
    balance: RoundRobin,
    connecting: usize,
    in_use: usize,
    idle: usize,
    /// Downstream connections, in the order in which they came.
    waiting: VecDeque<ConnId>,
    idle_connections_max: usize,
    connections_max: usize,
    waiting_max: usize,
}

#[derive(Clone, Debug)]
struct Server {
    address: SocketAddr,
    /// The last one used is at the end and used first: it is the least likely to be closed by the server just now.
    idle: Vec<ConnId>,
}

/// What a request gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acquire {
    /// This kept connection. It may turn out to have been closed meanwhile: see [`Pool::replace`].
    Idle {
        /// To be named again when the connection is put back or closed.
        server: ServerId,
        /// Counts as in use from now on.
        conn: ConnId,
    },
    /// A new connection, which the caller opens; answered by [`Pool::connected`] or [`Pool::connect_failed`].
    Connect {
        /// To be named again when the connection is put back or closed.
        server: ServerId,
        /// That server's.
        address: SocketAddr,
    },
    /// A place in the queue; it ends in a [`Turn`] or by [`Pool::forget`].
    Wait,
    /// Too many wait already, or the upstream has no servers.
    Refused,
}

/// The request that had waited longest gets a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// The downstream connection that was told to wait.
    pub waiter: ConnId,
    /// [`Acquire::Idle`] or [`Acquire::Connect`].
    pub acquired: Acquire,
}

/// What becomes of a connection whose exchange ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutBack {
    /// It stays open, idle.
    Kept,
    /// It serves the next request at once.
    Handed(Turn),
    /// Enough are idle: the caller closes it, and need not report that.
    Close,
}

/// How many there are of each, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Connections being opened.
    pub connecting: usize,
    /// Connections that serve a request.
    pub in_use: usize,
    /// Connections kept for the next one.
    pub idle: usize,
    /// Requests without a connection.
    pub waiting: usize,
}

impl Pool {
    /// A pool without connections.
    #[must_use]
    pub fn new(upstream: &Upstream) -> Self {
        Self {
            servers: upstream.servers.iter().map(|&address| Server { address, idle: Vec::new() }).collect(),
            balance: RoundRobin::default(),
            connecting: 0,
            in_use: 0,
            idle: 0,
            waiting: VecDeque::new(),
            idle_connections_max: upstream.idle_connections_max,
            connections_max: upstream.connections_max.max(1),
            waiting_max: upstream.waiting_max,
        }
    }

    /// A connection for a request of this downstream connection.
    pub fn take(&mut self, downstream: ConnId) -> Acquire {
        let acquired = self.acquire();
        match acquired {
            Some(acquired) => acquired,
            None if self.servers.is_empty() || self.waiting.len() >= self.waiting_max => Acquire::Refused,
            None => {
                self.waiting.push_back(downstream);
                Acquire::Wait
            }
        }
    }

    /// The connection asked for by [`Acquire::Connect`] is open, and in use.
    pub fn connected(&mut self) {
        debug_assert!(self.connecting > 0);
        self.connecting = self.connecting.saturating_sub(1);
        self.in_use += 1;
        self.check();
    }

    /// The connection asked for by [`Acquire::Connect`] could not be opened, or is not wanted any more.
    pub fn connect_failed(&mut self) -> Option<Turn> {
        debug_assert!(self.connecting > 0);
        self.connecting = self.connecting.saturating_sub(1);
        self.next_turn()
    }

    /// The exchange ended and the connection may serve another.
    pub fn put_back(&mut self, server: ServerId, conn: ConnId) -> PutBack {
        if let Some(waiter) = self.waiting.pop_front() {
            return PutBack::Handed(Turn { waiter, acquired: Acquire::Idle { server, conn } });
        }
        debug_assert!(self.in_use > 0);
        self.in_use = self.in_use.saturating_sub(1);
        match self.servers.get_mut(usize::from(server.0)) {
            Some(kept) if self.idle < self.idle_connections_max => {
                kept.idle.push(conn);
                self.idle += 1;
                self.check();
                PutBack::Kept
            }
            Some(_) | None => PutBack::Close,
        }
    }

    /// The connection is closed or being closed, whether it was idle or in use.
    pub fn closed(&mut self, server: ServerId, conn: ConnId) -> Option<Turn> {
        if !self.remove_idle(server, conn) {
            debug_assert!(self.in_use > 0);
            self.in_use = self.in_use.saturating_sub(1);
        }
        self.next_turn()
    }

    /// The kept connection in use turned out to be closed already: its place goes to a new one for the same request, which so
    /// neither waits nor meets another stale one. `None` only if the server is unknown.
    pub fn replace(&mut self, server: ServerId) -> Option<Acquire> {
        let address = self.servers.get(usize::from(server.0))?.address;
        debug_assert!(self.in_use > 0);
        self.in_use = self.in_use.saturating_sub(1);
        self.connecting += 1;
        self.check();
        Some(Acquire::Connect { server, address })
    }

    /// This downstream connection waits no longer (it closed, or its time is up). Whether it did wait.
    pub fn forget(&mut self, downstream: ConnId) -> bool {
        let place = self.waiting.iter().position(|waiter| *waiter == downstream);
        place.and_then(|place| self.waiting.remove(place)).is_some()
    }

    /// Keeps no connection for later from now on. Returns the idle ones, which the caller closes and need not report.
    pub fn retire(&mut self) -> Vec<ConnId> {
        (self.idle, self.idle_connections_max) = (0, 0);
        self.servers.iter_mut().flat_map(|server| std::mem::take(&mut server.idle)).collect()
    }

    /// Whether nobody has or waits for a connection.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.counts() == Counts::default()
    }

    /// How many connections there are of each kind, and how many requests wait.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { connecting: self.connecting, in_use: self.in_use, idle: self.idle, waiting: self.waiting.len() }
    }

    /// A place that became free goes to whoever has waited longest.
    fn next_turn(&mut self) -> Option<Turn> {
        self.check();
        let waiter = *self.waiting.front()?;
        let acquired = self.acquire()?;
        self.waiting.pop_front();
        Some(Turn { waiter, acquired })
    }

    /// An idle connection of the server whose turn it is, else a new one to it, else an idle one of any other.
    fn acquire(&mut self) -> Option<Acquire> {
        let chosen = self.balance.choose(self.servers.len())?;
        if let Some(idle) = self.take_idle(chosen) {
            return Some(idle);
        }
        if self.connecting + self.in_use + self.idle < self.connections_max {
            let address = self.servers.get(chosen)?.address;
            self.connecting += 1;
            self.check();
            return Some(Acquire::Connect { server: server_id(chosen), address });
        }
        (0..self.servers.len()).find_map(|server| self.take_idle(server))
    }

    fn take_idle(&mut self, server: usize) -> Option<Acquire> {
        let conn = self.servers.get_mut(server)?.idle.pop()?;
        self.idle -= 1;
        self.in_use += 1;
        self.check();
        Some(Acquire::Idle { server: server_id(server), conn })
    }

    fn remove_idle(&mut self, server: ServerId, conn: ConnId) -> bool {
        let Some(server) = self.servers.get_mut(usize::from(server.0)) else { return false };
        let Some(place) = server.idle.iter().position(|idle| *idle == conn) else { return false };
        server.idle.remove(place);
        self.idle -= 1;
        true
    }

    fn check(&self) {
        debug_assert!(self.connecting + self.in_use + self.idle <= self.connections_max);
        debug_assert!(self.idle <= self.idle_connections_max);
        debug_assert!(self.waiting.len() <= self.waiting_max);
        debug_assert_eq!(self.idle, self.servers.iter().map(|server| server.idle.len()).sum::<usize>());
    }
}

fn server_id(index: usize) -> ServerId {
    ServerId(u16::try_from(index).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn pool(servers: u16, connections_max: usize, idle_connections_max: usize, waiting_max: usize) -> Pool {
        let servers = (0..servers).map(address).collect();
        Pool::new(&Upstream { connections_max, idle_connections_max, waiting_max, ..Upstream::new("app", servers) })
    }

    fn connect(server: u16) -> Acquire {
        Acquire::Connect { server: ServerId(server), address: address(server) }
    }

    fn idle(server: u16, slot: u32) -> Acquire {
        Acquire::Idle { server: ServerId(server), conn: conn(slot) }
    }

    const SERVER: ServerId = ServerId(0);

    #[test]
    fn a_connection_is_opened_kept_and_used_again() {
        let mut pool = pool(1, 2, 2, 0);
        assert_eq!(pool.take(conn(1)), connect(0));
        pool.connected();
        assert_eq!(pool.put_back(SERVER, conn(10)), PutBack::Kept);
        assert_eq!(pool.take(conn(2)), idle(0, 10));
        assert_eq!(pool.take(conn(3)), connect(0));
        assert_eq!(pool.take(conn(4)), Acquire::Refused);
        assert_eq!(pool.counts(), Counts { connecting: 1, in_use: 1, idle: 0, waiting: 0 });
    }

    #[test]
    fn the_last_used_comes_first_and_too_many_idle_are_closed() {
        let mut pool = pool(1, 3, 2, 0);
        for slot in 1..=3 {
            assert_eq!(pool.take(conn(slot)), connect(0));
            pool.connected();
        }
        assert_eq!(pool.put_back(SERVER, conn(10)), PutBack::Kept);
        assert_eq!(pool.put_back(SERVER, conn(11)), PutBack::Kept);
        assert_eq!(pool.put_back(SERVER, conn(12)), PutBack::Close);
        assert_eq!(pool.take(conn(4)), idle(0, 11));
        assert_eq!(pool.closed(SERVER, conn(10)), None);
        assert_eq!(pool.counts(), Counts { connecting: 0, in_use: 1, idle: 0, waiting: 0 });
    }

    #[test]
    fn who_waits_is_served_in_order() {
        let mut pool = pool(1, 1, 1, 3);
        assert_eq!(pool.take(conn(1)), connect(0));
        for slot in 2..=4 {
            assert_eq!(pool.take(conn(slot)), Acquire::Wait);
        }
        assert_eq!(pool.take(conn(5)), Acquire::Refused);
        assert!(pool.forget(conn(3)) && !pool.forget(conn(3)));
        pool.connected();
        assert_eq!(pool.put_back(SERVER, conn(10)), PutBack::Handed(Turn { waiter: conn(2), acquired: idle(0, 10) }));
        assert_eq!(pool.closed(SERVER, conn(10)), Some(Turn { waiter: conn(4), acquired: connect(0) }));
        assert_eq!(pool.take(conn(6)), Acquire::Wait);
        assert_eq!(pool.connect_failed(), Some(Turn { waiter: conn(6), acquired: connect(0) }));
        assert_eq!(pool.connect_failed(), None);
        assert_eq!(pool.counts(), Counts::default());
    }

    #[test]
    fn a_stale_connection_is_replaced_before_anyone_who_waits() {
        let mut pool = pool(1, 1, 1, 1);
        assert_eq!(pool.take(conn(1)), connect(0));
        pool.connected();
        assert_eq!(pool.put_back(SERVER, conn(10)), PutBack::Kept);
        assert_eq!(pool.take(conn(2)), idle(0, 10));
        assert_eq!(pool.take(conn(3)), Acquire::Wait);
        assert_eq!(pool.replace(SERVER), Some(connect(0)));
        assert_eq!(pool.counts(), Counts { connecting: 1, in_use: 0, idle: 0, waiting: 1 });
    }

    #[test]
    fn servers_take_turns_and_idle_ones_elsewhere_help_out() {
        let mut pool = pool(2, 2, 2, 0);
        assert_eq!(pool.take(conn(1)), connect(0));
        assert_eq!(pool.take(conn(2)), connect(1));
        pool.connected();
        pool.connected();
        assert_eq!(pool.put_back(ServerId(1), conn(11)), PutBack::Kept);
        assert_eq!(pool.take(conn(3)), idle(1, 11)); // the turn of 0, which has none and may not have another
    }

    #[test]
    fn no_servers_refuse() {
        assert_eq!(pool(0, 1, 1, 1).take(conn(1)), Acquire::Refused);
    }

    /// Everything a worker may do with a pool, at random, against a shadow of who has what.
    #[derive(Default)]
    struct Shadow {
        connecting: u32,
        in_use: Vec<(ServerId, ConnId)>,
        waiting: VecDeque<ConnId>,
        next_slot: u32,
    }

    impl Shadow {
        fn acquired(&mut self, acquired: Acquire) {
            match acquired {
                Acquire::Idle { server, conn } => self.in_use.push((server, conn)),
                Acquire::Connect { .. } => self.connecting += 1,
                Acquire::Wait | Acquire::Refused => {}
            }
        }

        fn turn(&mut self, turn: Option<Turn>) {
            if let Some(turn) = turn {
                assert_eq!(self.waiting.pop_front(), Some(turn.waiter), "out of order");
                self.acquired(turn.acquired);
            }
        }

        fn step(&mut self, pool: &mut Pool, act: u8) {
            self.next_slot += 1;
            match (act % 5, self.in_use.is_empty()) {
                (0, _) => match pool.take(conn(self.next_slot)) {
                    Acquire::Wait => self.waiting.push_back(conn(self.next_slot)),
                    acquired => self.acquired(acquired),
                },
                (1, _) if self.connecting > 0 => {
                    self.connecting -= 1;
                    pool.connected();
                    self.in_use.push((SERVER, conn(self.next_slot)));
                }
                (2, _) if self.connecting > 0 => {
                    self.connecting -= 1;
                    let turn = pool.connect_failed();
                    self.turn(turn);
                }
                (3, false) => {
                    let (server, conn) = self.in_use.swap_remove(usize::from(act) % self.in_use.len());
                    if let PutBack::Handed(turn) = pool.put_back(server, conn) {
                        self.turn(Some(turn));
                    }
                }
                (4, false) => {
                    let (server, conn) = self.in_use.swap_remove(usize::from(act) % self.in_use.len());
                    let turn = pool.closed(server, conn);
                    self.turn(turn);
                }
                (_, _) => {}
            }
        }
    }

    proptest! {
        #[test]
        fn counts_agree_with_a_shadow(acts in proptest::collection::vec(any::<u8>(), 0..200), max in 1usize..4, idle in 0usize..4) {
            let mut pool = pool(2, max, idle, 3);
            let mut shadow = Shadow::default();
            for act in acts {
                shadow.step(&mut pool, act);
                let counts = pool.counts();
                prop_assert_eq!(counts.in_use, shadow.in_use.len());
                prop_assert_eq!(counts.connecting, shadow.connecting as usize);
                prop_assert_eq!(counts.waiting, shadow.waiting.len());
                prop_assert!(counts.waiting == 0 || counts.connecting + counts.in_use == max, "someone waits beside a free place");
            }
        }
    }
}
