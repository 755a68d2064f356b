//! What clients and publishers do, chosen by the seed; and in the end, whether everybody has everything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ringmain::base::{ConnId, Nanos};
use ringmain::hub::PayloadKind;

use crate::client::{Asked, Client, Wish, publish_frame};
use crate::publisher::{Door, Publisher, Request, content};
use crate::settings::{CHANNELS, CONFLATED_PADDING_MAX, DRAIN_LIMIT, KEYS};
use crate::truth::{First, Published};
use crate::verdict::{Breach, Judged, condemn, demand};
use crate::wire::Way;
use crate::world::World;

const CLIENTS_MAX: usize = 16;
/// Clients of an avalanche: many times what is let in at once.
const AVALANCHE: usize = 60;
/// Steps in which everybody is cut off.
const AVALANCHES_AT: [u64; 3] = [120, 220, 320];
/// How long a request may be sent again under its key, so that the key still holds.
const RETRY_WITHIN: Duration = Duration::from_secs(100);
/// A connection that has been idle for longer may be closed by the server at any time.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Turns of one instant after which it should have come to rest.
const TURNS_MAX: usize = 4000;
/// How long everything may take to arrive when nothing is in its way.
const SETTLE_MAX: Duration = Duration::from_secs(120);

/// Requests that may be sent again.
pub type Retries = Vec<Request>;

impl World {
    /// One act chosen by the seed, then a turn of a shard.
    pub fn step(&mut self, step: u64, retries: &mut Retries) {
        match self.random.between(0, 99) {
            0..=11 => self.join(),
            12..=33 => self.publish_over_http(retries),
            34..=45 => self.publish_over_websocket(),
            46..=48 => self.retry(retries),
            49..=58 => self.change_room(),
            59..=62 => self.break_somebody(retries),
            63..=70 => self.reconnect(),
            71..=72 => self.stick(),
            73..=77 => {
                let jump = self.random.between(1, 2000);
                self.jump(Duration::from_millis(if self.settings.calm { jump / 100 } else { jump }));
            }
            // Long enough for whatever nobody uses to be forgotten.
            78 if self.random.chance(self.settings.faults.clock_jump) => self.jump(Duration::from_secs(150)),
            // Until those who take nothing have been pinged, and some of them have been told that they did not answer.
            79..=80 if self.random.chance(self.settings.faults.clock_jump) => {
                let seconds = self.random.between(20, 40);
                self.pass(Duration::from_secs(seconds));
            }
            _ => self.advance(Duration::from_millis(1)),
        }
        self.operate(step);
        let at = self.pick(self.workers.len());
        self.turn(at);
    }

    /// Time passes, and workers do what falls due when it does.
    fn pass(&mut self, time: Duration) {
        let end = self.now.monotonic + time;
        while self.now.monotonic < end {
            let rested = self.rest();
            self.judge(rested);
            self.sleep();
        }
    }

    /// Workers stand still for so long, but not while somebody has something to do: what falls due meanwhile is late.
    fn jump(&mut self, step: Duration) {
        let rested = self.rest();
        self.judge(rested);
        self.judge_conflation();
        self.advance(step);
    }

    /// Everybody who reads has been given all that there is for it: of each key the newest, in a conflating channel.
    fn judge_conflation(&mut self) {
        for at in 0..self.clients.len() {
            let kept = self.clients[at].kept_newest(&self.truth);
            let kept = self.judge(kept).unwrap_or_default();
            self.totals.add("newest of a key kept", kept);
        }
    }

    /// Reload, drain and avalanche, in the runs that have them.
    fn operate(&mut self, step: u64) {
        let count = self.workers.len() as u64;
        if self.settings.reloads && (150..150 + count * 10).contains(&step) && step.is_multiple_of(10) {
            let at = usize::try_from((step - 150) / 10).unwrap_or(0);
            self.note(|| format!("worker {at} gets another configuration"));
            let options = Arc::new(self.settings.reloaded());
            self.workers[at].shard.reload(options);
            self.totals.one("reload");
        }
        if self.settings.drains && step == 250 && count > 1 {
            let at = self.pick(self.workers.len());
            self.note(|| format!("worker {at} is drained"));
            self.drain(at);
            self.totals.one("drain");
        }
        if self.settings.avalanches && AVALANCHES_AT.contains(&step) {
            self.avalanche();
        }
    }

    /// Everybody loses the connection and is back at once: those who were turned away before as well, whatever they were told.
    fn avalanche(&mut self) {
        self.note(|| "an avalanche".to_owned());
        while self.clients.len() < AVALANCHE {
            let wish = self.wish();
            let client = Client::new(wish, &self.truth);
            self.clients.push(client);
        }
        for client in 0..self.clients.len() {
            if let Some((at, conn)) = self.clients[client].at {
                self.reset(at, conn);
            }
        }
        for client in 0..self.clients.len() {
            self.clients[client].back_at = Nanos(0);
            self.connect(client);
        }
        self.totals.one("avalanche");
    }

    fn drain(&mut self, at: usize) {
        self.workers[at].draining = true;
        let now = self.now;
        self.workers[at].shard.drain(DRAIN_LIMIT, now);
    }

    // ---- subscribers ----

    fn join(&mut self) {
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        let wish = self.wish();
        let client = Client::new(wish, &self.truth);
        self.clients.push(client);
        self.connect(self.clients.len() - 1);
    }

    fn wish(&mut self) -> Wish {
        let way = [Way::WebSocket, Way::WebSocket, Way::EventStream, Way::EventStream, Way::NdJson, Way::Poll][self.pick(6)];
        let count = [1, 1, 1, 2, 3][self.pick(5)];
        let mut channels: Vec<usize> = Vec::new();
        while channels.len() < count {
            let channel = self.pick(CHANNELS.len());
            if !channels.contains(&channel) {
                channels.push(channel);
            }
        }
        let raw = count == 1 && matches!(way, Way::WebSocket | Way::EventStream) && self.random.chance(0.5);
        let first = match self.pick(4) {
            0 => First::Beginning,
            1 => First::Newest(self.random.between(0, 30)),
            _ => First::Now,
        };
        let (deflate, tagged) = (self.random.chance(0.4), self.random.chance(0.5));
        Wish { way, channels, raw, deflate, first, tagged }
    }

    fn reconnect(&mut self) {
        let gone: Vec<usize> = (0..self.clients.len()).filter(|&client| self.clients[client].at.is_none()).collect();
        if !gone.is_empty() {
            let client = gone[self.pick(gone.len())];
            self.connect(client);
        }
    }

    fn change_room(&mut self) {
        if self.clients.is_empty() || self.settings.calm {
            return;
        }
        let client = self.pick(self.clients.len());
        let room = [0, 50, 700, 5_000, 60_000, usize::MAX / 2][self.pick(6)];
        self.note(|| format!("client {client} has room for {room}"));
        self.give_room(client, room);
    }

    fn break_somebody(&mut self, retries: &mut Retries) {
        if !self.random.chance(self.settings.faults.reset) {
            return;
        }
        if self.random.chance(0.3) {
            return self.break_a_publisher(retries);
        }
        if self.clients.is_empty() {
            return;
        }
        let client = self.pick(self.clients.len());
        let Some((at, conn)) = self.clients[client].at else { return };
        if self.random.chance(0.3) {
            self.note(|| format!("client {client} sends no more"));
            self.clients[client].half_closed = true;
            self.half_close(at, conn);
        } else {
            self.note(|| format!("client {client} is cut off"));
            self.reset(at, conn);
        }
    }

    fn break_a_publisher(&mut self, retries: &mut Retries) {
        let Some((at, conn)) = self.some_publisher(|publisher| !publisher.half_closed) else { return };
        let Some(publisher) = self.publishers.get_mut(&(at, conn)) else { return };
        if publisher.requests.len() == 1 && self.random.chance(0.5) {
            publisher.half_closed = true;
            return self.half_close(at, conn);
        }
        let Some(publisher) = self.publishers.remove(&(at, conn)) else { return };
        self.note(|| format!("publisher {at}/{conn} is cut off with {} requests open", publisher.requests.len()));
        retries.extend(publisher.requests.into_iter().filter(|request| request.key.is_some()));
        self.reset(at, conn);
    }

    fn some_publisher(&mut self, fits: impl Fn(&Publisher) -> bool) -> Option<(usize, ConnId)> {
        let mut all: Vec<(usize, ConnId)> =
            self.publishers.iter().filter(|(_, publisher)| fits(publisher)).map(|(place, _)| *place).collect();
        // A map's order is no part of the seed.
        all.sort_unstable_by_key(|(at, conn)| (*at, conn.slot));
        if all.is_empty() { None } else { Some(all[self.pick(all.len())]) }
    }

    /// A worker is too busy to read one of its mailboxes for a while.
    fn stick(&mut self) {
        if !self.random.chance(self.settings.faults.stuck_mailbox * 20.0) {
            return;
        }
        let (from, to) = (self.pick(self.workers.len()), self.pick(self.workers.len()));
        self.note(|| format!("worker {to} does not read what {from} says"));
        self.stuck[from][to] = u32::try_from(self.random.between(5, 40)).unwrap_or(5);
    }

    // ---- publishers ----

    /// The payload of a publication to a channel, noted as asked for by a connection. `keyed`: where its door takes a key.
    fn compose(&mut self, channels: Vec<usize>, kind: PayloadKind, kept: bool, keyed: bool, by: u64) -> u64 {
        let number = self.truth.next_number();
        let bulk = channels.iter().all(|&channel| self.truth.rules(channel).bulk);
        let conflates = channels.iter().any(|&channel| self.truth.rules(channel).conflates);
        let size = match (bulk, conflates) {
            (true, _) => self.random.between(8 << 10, 40 << 10),
            (false, true) => self.random.between(0, CONFLATED_PADDING_MAX),
            (false, false) => self.random.between(0, 300),
        };
        let event = (kind == PayloadKind::Text && self.random.chance(0.5)).then_some("up");
        let mut content = content(number, kind, event, usize::try_from(size).unwrap_or(0), &mut self.random);
        content.key = Some(number % (KEYS + 1)).filter(|key| keyed && conflates && *key < KEYS);
        let asked_at = self.now.monotonic;
        self.truth.publish(number, Published { content, channels, asked_at, kept, twice: false, sent_again: false }, by);
        number
    }

    fn publish_over_http(&mut self, retries: &mut Retries) {
        let open: Vec<usize> = (0..self.workers.len()).filter(|&worker| !self.workers[worker].draining).collect();
        let now = self.now.monotonic;
        let usable = |publisher: &Publisher| publisher.keep && !publisher.half_closed && now.since(publisher.used_at) < IDLE_MAX;
        let kept_open = self.some_publisher(usable);
        let (at, conn) = match kept_open.filter(|(at, _)| open.contains(at)) {
            Some(place) if self.random.chance(0.5) => place,
            _ => {
                let at = open[self.pick(open.len())];
                let conn = self.accept(at);
                let keep = self.random.chance(0.4);
                self.publishers.insert((at, conn), Publisher::new(VecDeque::new(), keep));
                (at, conn)
            }
        };
        let pipelined = if self.publishers[&(at, conn)].keep { self.random.between(1, 3) } else { 1 };
        let channel = self.pick(CHANNELS.len());
        for _ in 0..pipelined {
            let request = self.request(channel, stream_of(at, conn));
            if request.key.is_some() && self.random.chance(0.3) {
                retries.push(request.clone());
            }
            self.send_request(at, conn, request);
        }
    }

    fn request(&mut self, channel: usize, by: u64) -> Request {
        let door = [Door::Channel, Door::Channel, Door::Channel, Door::Api, Door::Broadcast][self.pick(5)];
        let kind = [PayloadKind::Json, PayloadKind::Json, PayloadKind::Text, PayloadKind::Binary][self.pick(4)];
        // The API knows JSON and bytes, and no event names.
        let kind = if door != Door::Channel && kind == PayloadKind::Text { PayloadKind::Json } else { kind };
        let mut channels = vec![channel];
        if door == Door::Broadcast {
            for _ in 0..self.pick(4) {
                let other = self.pick(CHANNELS.len());
                if !channels.contains(&other) {
                    channels.push(other);
                }
            }
        }
        let fleeting = channels.iter().all(|&channel| self.truth.rules(channel).fleeting);
        let kept = !(fleeting && door == Door::Api && self.random.chance(0.5));
        let number = self.compose(channels.clone(), kind, kept, door == Door::Channel, by);
        let key = self.random.chance(0.3).then(|| format!("key {number}"));
        let now = self.now.monotonic;
        Request { door, number, channels, key, kept, asked_at: now, first_at: now }
    }

    fn send_request(&mut self, at: usize, conn: ConnId, request: Request) {
        let Some(publisher) = self.publishers.get_mut(&(at, conn)) else { return };
        let Some(content) = self.truth.content(request.number) else { return };
        let bytes = request.bytes(content, !publisher.keep);
        publisher.requests.push_back(request.clone());
        publisher.used_at = self.now.monotonic;
        self.note(|| {
            let names: Vec<_> = request.channels.iter().map(|&channel| CHANNELS[channel]).collect();
            format!("publisher {at}/{conn} publishes {} to {names:?} by {:?}, key {:?}", request.number, request.door, request.key)
        });
        self.feed(at, conn, &bytes);
    }

    /// A publisher that does not know what became of its request sends it again.
    fn retry(&mut self, retries: &mut Retries) {
        let now = self.now.monotonic;
        retries.retain(|request| now.since(request.first_at) < RETRY_WITHIN);
        if retries.is_empty() {
            return;
        }
        let request = retries.swap_remove(self.pick(retries.len()));
        let open: Vec<usize> = (0..self.workers.len()).filter(|&worker| !self.workers[worker].draining).collect();
        let at = open[self.pick(open.len())];
        let conn = self.accept(at);
        self.publishers.insert((at, conn), Publisher::new(VecDeque::new(), false));
        self.totals.one("retry");
        self.truth.send_again(request.number);
        self.send_request(at, conn, Request { asked_at: now, ..request });
    }

    fn publish_over_websocket(&mut self) {
        let able: Vec<usize> = (0..self.clients.len())
            .filter(|&client| {
                let client = &self.clients[client];
                let ready = client.tracks.iter().all(|track| track.is_answered());
                client.wish.way == Way::WebSocket
                    && client.at.is_some()
                    && !client.half_closed
                    && client.told_end.is_none()
                    && ready
                    && !client.wish.raw
            })
            .collect();
        if able.is_empty() {
            return;
        }
        let client = able[self.pick(able.len())];
        let several = self.clients[client].wish.channels.len() > 1;
        for _ in 0..=self.pick(4) {
            let Some((at, conn)) = self.clients[client].at else { return };
            let channels = &self.clients[client].wish.channels;
            let channel = channels[self.random.between(0, channels.len() as u64 - 1) as usize];
            let number = self.compose(vec![channel], PayloadKind::Json, true, true, stream_of(at, conn));
            let Some(content) = self.truth.content(number) else { return };
            let frame = publish_frame(number, several.then_some(CHANNELS[channel]), content);
            self.clients[client].asked.push_back(Asked { number, channel, at: self.now.monotonic });
            self.note(|| format!("client {client} publishes {number} to {}", CHANNELS[channel]));
            self.feed(at, conn, &frame);
        }
    }

    // ---- the end ----

    /// Lets everything arrive, waking workers only as their shells would, then asks whether everybody has everything.
    pub fn settle(&mut self) -> Judged {
        self.settling = true;
        self.note(|| "settling".to_owned());
        for client in 0..self.clients.len() {
            self.give_room(client, usize::MAX / 2);
        }
        let end = self.now.monotonic + SETTLE_MAX;
        loop {
            for client in 0..self.clients.len() {
                if self.clients[client].at.is_none() {
                    self.connect(client);
                }
                self.give_room(client, usize::MAX / 2);
            }
            self.rest()?;
            match self.unsettled() {
                Ok(()) => break,
                Err(verdict) if self.now.monotonic > end => return Err(verdict),
                Err(_) => self.sleep(),
            }
        }
        // What comes too much comes now.
        for _ in 0..3 {
            self.sleep();
            self.rest()?;
        }
        self.judge_conflation();
        self.check()?;
        self.unsettled()
    }

    /// Turns workers until none has anything to do.
    fn rest(&mut self) -> Judged {
        for _ in 0..TURNS_MAX {
            let due: Vec<usize> = (0..self.workers.len()).filter(|&at| self.is_due(at)).collect();
            if due.is_empty() {
                return Ok(());
            }
            for at in due {
                self.turn(at);
                self.check()?;
            }
        }
        let due: Vec<_> = (0..self.workers.len()).map(|at| self.why_due(at)).collect();
        condemn(Breach::Contract, format!("the workers do not come to rest: {due:?}"))
    }

    /// Until the first deadline.
    fn sleep(&mut self) {
        let next = self.next_deadline().since(self.now.monotonic);
        self.advance(next.clamp(Duration::from_millis(1), Duration::from_secs(1)));
        // One whose drain is over would have stopped; here its channels are still needed.
        for at in 0..self.workers.len() {
            if self.workers[at].shard.is_drained(self.now) {
                self.turn(at);
            }
        }
    }

    fn unsettled(&self) -> Judged {
        for publisher in self.publishers.values() {
            let open = publisher.requests.front();
            demand(open.is_none(), Breach::Unanswered, || format!("never answered: {open:?}"))?;
        }
        for (at, client) in self.clients.iter().enumerate() {
            let stays = client.at.is_some_and(|(at, _)| !self.workers[at].draining);
            demand(stays, Breach::Behind, || format!("client {at} cannot stay connected: {:?}", client.wish))?;
            let asked = client.asked.front();
            demand(asked.is_none(), Breach::Unanswered, || format!("client {at}: never answered: {asked:?}"))?;
            if client.is_blind() {
                continue;
            }
            for track in &client.tracks {
                let Some(top) = self.truth.top(track.channel) else { continue };
                // A publication whose publisher was cut off may be known to nobody but the channel, and so may be the epoch of a
                // channel that was forgotten and has had none that anybody saw since.
                let there = track.last.is_some_and(|last| {
                    if last.epoch == top.epoch {
                        self.truth.is_at_head(track.channel, last, top)
                    } else {
                        !self.truth.knows(track.channel, last.epoch)
                    }
                });
                demand(there, Breach::Behind, || {
                    format!("client {at} ended at {:?}, {} is at {top}: {:?}", track.last, CHANNELS[track.channel], client.wish)
                })?;
            }
        }
        Ok(())
    }

    /// Every worker drains: everybody is told and let go, in time.
    pub fn finish(&mut self) -> Judged {
        self.note(|| "draining".to_owned());
        (0..self.workers.len()).for_each(|at| self.drain(at));
        let end = self.now.monotonic + DRAIN_LIMIT;
        while self.now.monotonic < end && self.workers.iter().any(|worker| !worker.shard.is_drained(self.now)) {
            self.rest()?;
            self.sleep();
        }
        for (at, client) in self.clients.iter().enumerate() {
            demand(client.at.is_none(), Breach::Closed, || format!("client {at} outlived the drain: {:?}", client.wish))?;
        }
        let in_flight: usize = self.workers.iter().map(|worker| worker.shard.handshakes_in_flight()).sum();
        demand(in_flight == 0, Breach::Unbounded, || format!("{in_flight} handshakes of nobody would keep others out"))?;
        demand(self.workers.iter().all(|worker| worker.shard.is_drained(self.now)), Breach::Closed, || "not drained".to_owned())
    }
}

/// Names a connection's life.
fn stream_of(at: usize, conn: ConnId) -> u64 {
    (at as u64) << 56 | u64::from(conn.slot) << 28 | u64::from(conn.generation)
}
