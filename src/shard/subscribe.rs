//! The channel doors: from a request to subscriptions, and from the homes' answers to items.

use std::time::Duration;

use super::audience::{Audience, Shape};
use super::poll::{HOME_TIMEOUT, Poll};
use super::reply::Facts;
use super::stage::Stage;
use super::stream::Stream;
use super::websocket::{Door, WebSocket};
use super::{Options, Shard, micros};
use crate::base::{ConnId, Key, Now, ShardId};
use crate::http::head::{Head, Method, Version};
use crate::http::problem::Problem;
use crate::hub::local::{Left, NO_SUBSCRIPTION};
use crate::hub::{Access, AudienceId, ChannelName, Message, Namespace, Start, Subscribe, home_of};
use crate::protocol::codes::Disconnect;
use crate::protocol::plain::request::{CHANNELS_MAX, Format, Limits, RequestError, SubscribeRequest, Transport, is_upgrade};
use crate::transport::event_stream;
use crate::transport::stream::{self, StreamKind};
use crate::ws::handshake::negotiate;
use crate::ws::{Accepted, Decoder, DeflateParams, Role, UpgradeRequest};

impl Shard {
    /// `GET` or `HEAD` on a channel door.
    pub(super) fn open_channels(&mut self, conn: ConnId, name: Option<&str>, head: &Head, facts: Facts, now: Now) {
        let limits = Limits { wait_max: self.options.transport.poll_wait_max, channels_max: self.channels_max() };
        let header = |field: &str| head.header_list(field);
        let request = SubscribeRequest::parse(name, head.query(), &header, limits);
        let request = match request.map_err(Refusal::Request).and_then(|request| self.admit(request, self.shows_key(head))) {
            Ok(request) => request,
            Err(refusal) if is_upgrade(&header) && !facts.head_only => {
                return self.open_websocket(conn, head, Err(refusal), facts, now);
            }
            Err(refusal) => return self.refuse_subscriber(conn, &facts, &refusal, now),
        };
        match request.transport {
            // A look is answered as a poll, whatever was accepted: that is where the position is told.
            _ if facts.head_only => self.open_poll(conn, &request, Duration::ZERO, facts, now),
            Transport::WebSocket => self.open_websocket(conn, head, Ok(request), facts, now),
            Transport::EventStream => self.open_stream(conn, &request, StreamKind::EventStream, facts, now),
            Transport::NdJson => self.open_stream(conn, &request, StreamKind::NdJson, facts, now),
            Transport::Poll { wait } => self.open_poll(conn, &request, wait, facts, now),
        }
    }

    /// Channels that a URL may name.
    pub(super) fn channels_max(&self) -> usize {
        self.options.hub.per_connection_max.min(CHANNELS_MAX)
    }

    /// Checks that every channel may be subscribed to: all or none.
    fn admit(&self, request: SubscribeRequest, key: bool) -> Result<SubscribeRequest, Refusal> {
        for channel in &request.channels {
            let namespace = self.options.hub.namespace(channel.as_str());
            let namespace = namespace.ok_or_else(|| Refusal::UnknownNamespace(channel.clone()))?;
            match namespace.allow_subscribe {
                Access::Anyone => {}
                Access::Key if key => {}
                Access::Key | Access::Nobody => return Err(Refusal::Denied(channel.clone())),
            }
        }
        Ok(request)
    }

    /// A browser cannot see the status of a refused upgrade: what is wrong with the request is told after it, by a close code.
    /// A subscriber is turned away.
    fn refuse_subscriber(&mut self, conn: ConnId, facts: &Facts, refusal: &Refusal, now: Now) {
        self.metrics.connections_refused.one(refusal.label());
        self.refuse(conn, facts, &refusal.problem(), now);
    }

    fn open_websocket(&mut self, conn: ConnId, head: &Head, request: Result<SubscribeRequest, Refusal>, facts: Facts, now: Now) {
        let format = request.as_ref().map_or(Format::Json, |request| request.format);
        let door = if format == Format::Raw { Door::PlainRaw } else { Door::PlainJson };
        let Some(deflate) = self.become_websocket(conn, head, door, &facts, now) else { return };
        // What is wrong with a request for good is said at once, also in a crowd.
        if request.is_ok()
            && let Some(disconnect) = self.turns_away(conn)
        {
            return self.close_websocket(conn, disconnect, now);
        }
        match request {
            Err(refusal) => {
                self.metrics.connections_refused.one(refusal.label());
                let (disconnect, reason) = refusal.disconnect();
                self.close_websocket_saying(conn, disconnect, &reason, now);
            }
            Ok(request) => {
                let audience = Audience { transport: Shape::WebSocket { deflate }, format, several: false };
                let audience = self.audiences.intern(audience);
                self.join_all(conn, &request, audience);
            }
        }
    }

    /// `GET /echo`.
    pub(super) fn open_echo(&mut self, conn: ConnId, head: &Head, facts: Facts, now: Now) {
        self.become_websocket(conn, head, Door::Echo, &facts, now);
    }

    /// Answers the handshake. `None` where it is refused, or where the server is going; else the compression agreed on.
    fn become_websocket(
        &mut self,
        conn: ConnId,
        head: &Head,
        door: Door,
        facts: &Facts,
        now: Now,
    ) -> Option<Option<DeflateParams>> {
        let accepted = match accept(head, &self.options.ws) {
            Ok(accepted) => accepted,
            Err(problem) => {
                self.metrics.connections_refused.one("handshake");
                self.refuse(conn, facts, &problem, now);
                return None;
            }
        };
        let deflate = accepted.deflate();
        self.count_request(facts, 101);
        self.note_handshake(conn, now);
        let mut response = Vec::with_capacity(192);
        accepted.write_response(&mut response);
        self.say(conn, response);
        let key = self.shows_key(head);
        self.set_stage(
            conn,
            Stage::WebSocket(WebSocket {
                decoder: Decoder::new(Role::Server, deflate.is_some()),
                door,
                deflate,
                awaiting_pong: false,
                close_sent: false,
                key,
                publishes: None,
            }),
        );
        let pulse = self.first_pulse(self.options.ws.ping_interval);
        self.timers.set(conn.slot, now.monotonic + pulse);
        if self.draining.is_some() {
            self.metrics.connections_refused.one("draining");
            self.close_websocket(conn, Disconnect::Shutdown, now);
            return None;
        }
        Some(deflate)
    }

    /// An EventSource gives up for good on any status but 200, so what is temporary is said inside the stream.
    fn open_stream(&mut self, conn: ConnId, request: &SubscribeRequest, kind: StreamKind, facts: Facts, now: Now) {
        let mut bytes = stream::head(kind, self.date.at(now.wall), facts.http11, &facts.cors);
        let several = request.channels.len() > 1 && kind == StreamKind::EventStream;
        let transport = Shape::Stream { kind, chunked: facts.http11 };
        let audience = Audience { transport, format: request.format, several };
        self.count_request(&facts, 200);
        self.note_handshake(conn, now);
        if let Some(disconnect) = self.turns_away(conn) {
            let retry = self.comes_back_in(disconnect);
            bytes.extend_from_slice(&self.encoder().end(&audience, disconnect, retry));
            self.say(conn, bytes);
            return self.end(conn, now);
        }
        if kind == StreamKind::EventStream {
            let mut opening = Vec::new();
            event_stream::retry(&mut opening, self.retry());
            bytes.extend_from_slice(&stream::content(opening, facts.http11));
        }
        self.say(conn, bytes);
        let (kind, audience) = (audience.kind(), self.audiences.intern(audience));
        self.set_stage(conn, Stage::Stream(Stream { kind, audience, moved: false }));
        let pulse = self.first_pulse(self.options.transport.keep_alive_interval);
        self.timers.set(conn.slot, now.monotonic + pulse);
        self.join_all(conn, request, audience);
    }

    fn open_poll(&mut self, conn: ConnId, request: &SubscribeRequest, wait: Duration, facts: Facts, now: Now) {
        // Who polls on is no newcomer, and in a drain polls are answered to the last.
        let comes_in = self.draining.is_none() && self.connections.get(conn).is_some_and(|cell| cell.opened_us > 0);
        if comes_in && self.turns_away(conn).is_some() {
            let problem = Problem::unavailable("too many subscribers are coming at once", self.retry_after());
            // On a kept connection it would pass by the limit when it comes back.
            return self.refuse(conn, &Facts { keep_alive: false, ..facts }, &problem, now);
        }
        let several = request.channels.len() > 1;
        let audience = self.audiences.intern(Audience { transport: Shape::Poll, format: Format::Json, several });
        let look = facts.head_only;
        let deadline = now.monotonic + if self.draining.is_some() { Duration::ZERO } else { wait };
        self.set_stage(conn, Stage::Poll(Box::new(Poll::new(facts, request, deadline))));
        self.timers.set(conn.slot, deadline.max(now.monotonic + HOME_TIMEOUT));
        for (channel, start) in request.starts() {
            let ttl = self.options.hub.namespace(channel.as_str()).map_or(Duration::ZERO, Namespace::ttl);
            match self.local.answer_poll(&channel, start, ttl, now.monotonic).filter(|_| !look) {
                // Nothing new: what comes next is awaited where the home keeps sending it anyway.
                Some(answer) if answer.page.is_empty() => {
                    if let Some(subscription) = self.note(conn, &channel, start, audience) {
                        self.subscribed(subscription, answer, now);
                    }
                }
                Some(answer) => self.poll_items(conn, &channel, &answer),
                None => self.join(conn, &channel, start, audience, !look),
            }
        }
        self.poll_answered(conn, now);
    }

    fn join_all(&mut self, conn: ConnId, request: &SubscribeRequest, audience: AudienceId) {
        for (channel, start) in request.starts() {
            self.join(conn, &channel, start, audience, true);
        }
    }

    /// Asks the channel's home for a subscription; items follow when it has answered.
    fn join(&mut self, conn: ConnId, channel: &ChannelName, start: Start, audience: AudienceId, interest: bool) {
        let Some(subscription) = self.note(conn, channel, start, audience) else { return };
        let request = Subscribe { channel: channel.clone(), subscription, start, interest };
        self.outbox.push(self.home(channel), Message::Subscribe(Box::new(request)));
    }

    /// Chains a subscription into its connection's list.
    fn note(&mut self, conn: ConnId, channel: &ChannelName, start: Start, audience: AudienceId) -> Option<Key> {
        let cell = self.connections.get_mut(conn)?;
        let subscription = self.local.join(channel, conn, audience, start, cell.subscriptions, &self.options.hub);
        cell.subscriptions = subscription.index;
        self.subscriptions.named(namespace_of(&self.options, channel), 1);
        Some(subscription)
    }

    /// Counts every subscription anew: namespaces are others now.
    pub(super) fn recount_subscriptions(&mut self) {
        self.subscriptions = crate::metrics::Labelled::default();
        for (channel, count) in self.local.subscriptions_by_channel() {
            self.subscriptions.named(namespace_of(&self.options, channel), u64::from(count));
        }
    }

    /// An upgrade or a stream is answered: how long that took, where it is the connection's first request.
    fn note_handshake(&mut self, conn: ConnId, now: Now) {
        let Some(opened_us) = self.connections.get(conn).map(|cell| cell.opened_us).filter(|&opened| opened > 0) else { return };
        let took = micros(now).wrapping_sub(opened_us);
        self.metrics.handshake_duration.record(Duration::from_micros(took.into()));
    }

    pub(super) fn home(&self, channel: &ChannelName) -> ShardId {
        home_of(channel, self.shards)
    }

    /// Forgets all subscriptions of a connection.
    pub(super) fn leave_all(&mut self, conn: ConnId) {
        let Some(cell) = self.connections.get_mut(conn) else { return };
        self.admission.over(conn.slot);
        let mut index = std::mem::replace(&mut cell.subscriptions, NO_SUBSCRIPTION);
        while index != NO_SUBSCRIPTION {
            let Some((key, subscription)) = self.local.subscription_at(index) else { break };
            index = subscription.next;
            self.subscriptions.unnamed(namespace_of(&self.options, self.local.channel_name(subscription)));
            if let Left::Unwanted(channel) = self.local.leave(key) {
                self.tell_home_left(channel);
            }
        }
    }

    /// The home has no room for the channel: come back later.
    pub(super) fn subscription_refused(&mut self, subscription: Key, now: Now) {
        let Some(conn) = self.local.subscription(subscription).map(|entry| entry.conn) else { return };
        if !matches!(self.connections.get(conn).map(|cell| &cell.stage), Some(Stage::Poll(_))) {
            return self.close_with(conn, Disconnect::Overload, now);
        }
        self.leave_all(conn);
        let Some(Stage::Poll(poll)) = self.take_stage(conn) else { return };
        let problem = Problem::unavailable("too many channels are in use: see entries_max in [channels]", self.retry_after());
        self.refuse(conn, &poll.facts, &problem, now);
    }

    pub(super) fn tell_home_left(&mut self, channel: ChannelName) {
        self.outbox.push(self.home(&channel), Message::Leave { channel });
    }
}

/// The name under which a channel's subscriptions are counted.
fn namespace_of<'a>(options: &'a Options, channel: &ChannelName) -> &'a str {
    options.hub.namespace(channel.as_str()).map_or("", |namespace| namespace.name.as_str())
}

/// Why a request on a channel door is not served.
#[derive(Debug)]
enum Refusal {
    Request(RequestError),
    UnknownNamespace(ChannelName),
    Denied(ChannelName),
}

impl Refusal {
    /// The value of the `reason` label.
    const fn label(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::UnknownNamespace(_) => "unknown_namespace",
            Self::Denied(_) => "denied",
        }
    }

    fn problem(&self) -> Problem {
        match self {
            Self::Request(error) => error.problem(),
            Self::UnknownNamespace(channel) => {
                Problem::new(404, format!("the namespace of channel {channel} is not configured, and unknown ones are refused"))
            }
            Self::Denied(channel) => {
                let detail = format!("channel {channel} may not be subscribed to here: set allow_subscribe in its namespace");
                Problem::forbidden(detail)
            }
        }
    }

    /// The same to a WebSocket: a close code and its reason, which is cut where it does not fit.
    fn disconnect(&self) -> (Disconnect, String) {
        match self {
            Self::Request(error) => (Disconnect::BadRequest, error.to_string()),
            Self::UnknownNamespace(channel) => (Disconnect::BadRequest, format!("unknown namespace: {channel}")),
            Self::Denied(channel) => (Disconnect::PermissionDenied, format!("permission denied: {channel}")),
        }
    }
}

/// Decides the handshake of a request.
fn accept(head: &Head, options: &crate::ws::Options) -> Result<Accepted<'static>, Problem> {
    if head.has_body() {
        return Err(Problem::bad_request("a WebSocket handshake has no body"));
    }
    let field = |name| head.header_list(name);
    let (upgrade, connection, key) = (field("upgrade"), field("connection"), field("sec-websocket-key"));
    let version = field("sec-websocket-version");
    let (protocols, extensions) = (field("sec-websocket-protocol"), field("sec-websocket-extensions"));
    let request = UpgradeRequest {
        get: head.method() == Method::Get,
        http11: head.version() == Version::Http11,
        upgrade: upgrade.as_deref(),
        connection: connection.as_deref(),
        key: key.as_deref(),
        version: version.as_deref(),
        protocols: protocols.as_deref(),
        extensions: extensions.as_deref(),
    };
    negotiate(&request, options, &[]).map_err(|error| {
        let problem = Problem::new(error.status(), error.to_string());
        error.fields().iter().fold(problem, |problem, (name, value)| problem.with(name, value))
    })
}
