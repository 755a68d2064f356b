//! What operators ask and order: health, metrics, drain.

use std::time::Duration;

use super::Shard;
use super::io::Output;
use super::reply::Facts;
use super::stage::Stage;
use crate::base::{ConnId, Nanos, Now, ShardId};
use crate::http::cors::is_address_or_localhost;
use crate::http::head::Head;
use crate::http::problem::Problem;
use crate::http::response::Response;
use crate::hub::Message;
use crate::metrics::{Label, LoopFacts, Snapshot, WorkerFacts};
use crate::protocol::codes::{self, Disconnect};

/// Connections told to go per step of a drain.
const DRAIN_STEP: Duration = Duration::from_millis(100);
/// Share of the drain time in which connections are told to go; the rest is left for them to say goodbye.
const DRAIN_SHARE: f64 = 0.6;

/// How long the workers have to send their counters.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);

/// A request for metrics, while the workers' counters come in.
#[derive(Debug)]
pub struct Scrape {
    pub facts: Facts,
    owed: u16,
    total: Snapshot,
}

/// A drain under way.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// Slots below this have been told.
    next_slot: u32,
    /// How many are told in each step.
    per_step: usize,
    next_step: Nanos,
    deadline: Nanos,
}

impl Shard {
    /// Starts to finish within a time: no request is kept alive, and every connection is told to go, spread over most of it.
    pub fn drain(&mut self, limit: Duration, now: Now) {
        if self.draining.is_some() {
            return;
        }
        let steps = (limit.as_secs_f64() * DRAIN_SHARE / DRAIN_STEP.as_secs_f64()).max(1.0);
        let per_step = (self.connections.clients() as f64 / steps).ceil() as usize;
        self.close_pools();
        self.draining =
            Some(Drain { next_slot: 0, per_step: per_step.max(1), next_step: now.monotonic, deadline: now.monotonic + limit });
    }

    /// Whether a drain has nothing left to wait for.
    #[must_use]
    pub fn is_drained(&self, now: Now) -> bool {
        self.draining.is_some() && self.connections.clients() == 0 || self.drain_is_over(now)
    }

    /// Whether a drain has no time left, whoever is still here.
    #[must_use]
    pub fn drain_is_over(&self, now: Now) -> bool {
        self.draining.is_some_and(|drain| drain.deadline <= now.monotonic)
    }

    pub(super) fn drain_deadline(&self) -> Option<Nanos> {
        self.draining.map(|drain| if drain.next_slot < self.connections.slots() { drain.next_step } else { drain.deadline })
    }

    pub(super) fn continue_drain(&mut self, now: Now) {
        let Some(mut drain) = self.draining.filter(|drain| drain.next_step <= now.monotonic) else { return };
        let mut left = drain.per_step;
        while left > 0 && drain.next_slot < self.connections.slots() {
            if let Some(conn) = self.connections.at(drain.next_slot) {
                self.tell_to_go(conn, now);
                left -= 1;
            }
            drain.next_slot += 1;
        }
        drain.next_step = now.monotonic + DRAIN_STEP;
        self.draining = Some(drain);
    }

    fn tell_to_go(&mut self, conn: ConnId, now: Now) {
        match self.connections.get(conn).map(|cell| &cell.stage) {
            Some(Stage::WebSocket(_)) => self.close_websocket(conn, Disconnect::Shutdown, now),
            Some(Stage::Stream(_)) => self.close_with(conn, Disconnect::Shutdown, now),
            Some(Stage::Poll(_)) => self.hurry_poll(conn, now),
            Some(Stage::Head(None)) => self.end(conn, now),
            // An idle upstream connection is nobody's; a busy one goes with its exchange.
            Some(Stage::Upstream(_)) => self.upstream_expired(conn, now),
            Some(Stage::Exchange(_)) => self.tell_exchange_to_go(conn, now),
            // Requests under way are answered; their connections close with the answer.
            Some(Stage::Head(Some(_)) | Stage::Body(_) | Stage::Waiting(_) | Stage::Scrape(_) | Stage::Closing | Stage::Vacant)
            | None => {}
        }
    }

    pub(super) fn answer_live(&mut self, conn: ConnId, facts: &Facts, now: Now) {
        self.respond(conn, facts, Response::json(200, "{\"live\":true}").with("Cache-Control", "no-store"), now);
    }

    pub(super) fn answer_ready(&mut self, conn: ConnId, facts: &Facts, now: Now) {
        if self.draining.is_some() {
            return self.refuse(conn, facts, &Problem::unavailable("draining", 1), now);
        }
        self.respond(conn, facts, Response::json(200, "{\"ready\":true}").with("Cache-Control", "no-store"), now);
    }

    /// The page holds the API key, so it goes only to who names the server by an address or as localhost: a page of another
    /// site whose name is made to lead here (DNS rebinding) counts as the same origin and could read it.
    pub(super) fn answer_playground(&mut self, conn: ConnId, host: &str, facts: &Facts, now: Now) {
        if !is_address_or_localhost(host) {
            let detail = "the playground holds the API key: open it by the server's address, as in http://127.0.0.1:8000/";
            return self.refuse(conn, facts, &Problem::forbidden(detail), now);
        }
        let page = crate::admin::playground(&self.options.server.door_prefix, &self.options.server.api_key);
        let response = Response::new(200, "text/html; charset=utf-8", page).with("Cache-Control", "no-store");
        self.respond(conn, facts, response, now);
    }

    /// `GET /metrics`: asks every worker for its counters.
    pub(super) fn open_metrics(&mut self, conn: ConnId, head: &Head, facts: Facts, now: Now) {
        let server = &self.options.server;
        if !server.internal_listener && !server.loopback && !self.shows_key(head) {
            return self.refuse(conn, &facts, &Problem::unauthorized(server.api_key.is_empty()), now);
        }
        let scrape = Scrape { facts, owed: self.shards, total: Snapshot::default() };
        self.set_stage(conn, Stage::Scrape(Box::new(scrape)));
        self.timers.set(conn.slot, now.monotonic + SCRAPE_TIMEOUT);
        for worker in 0..self.shards {
            self.outbox.push(ShardId(worker), Message::Scrape { request: conn });
        }
    }

    /// Another worker wants this one's counters.
    pub(super) fn scrape(&mut self, from: ShardId, request: ConnId) {
        if self.scrapes.is_empty() {
            self.connections.output(Output::AskFacts);
        }
        self.scrapes.push((from, request));
    }

    /// The shell has said what it counts: with that everybody who asked can be answered.
    pub(super) fn answer_scrapes(&mut self, facts: &LoopFacts) {
        for (from, request) in std::mem::take(&mut self.scrapes) {
            let snapshot = Box::new(self.snapshot(facts.clone()));
            self.outbox.push(from, Message::Scraped { request, snapshot });
        }
    }

    /// A worker has sent its counters.
    pub(super) fn scraped(&mut self, request: ConnId, snapshot: Snapshot, now: Now) {
        let Some(Stage::Scrape(scrape)) = self.connections.get_mut(request).map(|cell| &mut cell.stage) else { return };
        scrape.total.merge(snapshot);
        scrape.owed = scrape.owed.saturating_sub(1);
        if scrape.owed == 0 {
            self.answer_metrics(request, now);
        }
    }

    /// All workers have answered.
    fn answer_metrics(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Scrape(mut scrape)) = self.take_stage(conn) else { return };
        scrape.total.workers.sort_by_key(|facts| facts.worker);
        let text = scrape.total.render(self.draining.is_some());
        self.respond(conn, &scrape.facts, Response::new(200, "text/plain; version=0.0.4; charset=utf-8", text), now);
    }

    /// A worker has not answered in time: half the truth is worse than none.
    pub(super) fn scrape_expired(&mut self, conn: ConnId, now: Now) {
        let Some(Stage::Scrape(scrape)) = self.take_stage(conn) else { return };
        self.refuse(conn, &scrape.facts, &Problem::unavailable("a worker did not send its counters in time", 1), now);
    }

    fn snapshot(&self, shell: LoopFacts) -> Snapshot {
        let mut counters = self.metrics.clone();
        counters.sent_bytes = self.connections.sent_bytes;
        counters.publications_per_send = self.connections.publications_per_send;
        let label = |label: Label| [label, Label::None, Label::None];
        counters.mailbox_spilled.add(label(self.id.0.into()), self.outbox.spilled());
        counters.publications_collapsed.add(label("mailbox".into()), self.outbox.collapsed());
        counters.publications_collapsed.add(label("fan_out".into()), self.local.collapsed());
        let trimmed = self.home.trimmed();
        for (reason, count) in [("size", trimmed.size), ("ttl", trimmed.ttl), ("memory", trimmed.memory)] {
            counters.history_trimmed.add(label(reason.into()), count);
        }
        counters.channels_refused = self.home.refused();
        Snapshot {
            counters,
            connections: self.connections.kinds(),
            subscriptions: self.subscriptions.clone(),
            channels: self.home.channels() as u64,
            position_records: self.home.position_records() as u64,
            history_bytes: self.home.history_bytes() as u64,
            send_queue_bytes: self.connections.queued_bytes() as u64,
            upstream_connections: self.upstreams.counts(),
            workers: vec![WorkerFacts {
                worker: self.id.0,
                timers: self.timers.len() as u64,
                handshakes_in_flight: self.handshakes_in_flight() as u64,
                handshake_capacity: self.admission.cost.per_second() as u64,
                publish_to_last_write: self.publish_to_last_write.clone(),
                shell,
            }],
        }
    }

    /// A subscriber or WebSocket is going, with this code.
    pub(super) fn disconnected(&mut self, conn: ConnId, code: u16) {
        let Some(cell) = self.connections.get(conn) else { return };
        let transport = match &cell.stage {
            Stage::WebSocket(_) | Stage::Stream(_) | Stage::Poll(_) => cell.stage.kind().label(),
            _ => return,
        };
        // Whom the server gave up on is worth a line; who left by himself is not.
        match code {
            3008 | 3010 | 3012 => tracing::info!(%conn, peer = %cell.peer(), transport, code, "given up"),
            _ => tracing::debug!(%conn, peer = %cell.peer(), transport, code, "disconnected"),
        }
        self.metrics.disconnects.two(transport, codes::label(code));
    }
}
