//! Requests: which door they are for, and whether it opens.

use super::Shard;
use super::io::ListenerId;
use super::publish::PublishDoor;
use super::reply::Facts;
use super::stage::Stage;
use crate::base::{ConnId, Now};
use crate::http::HttpError;
use crate::http::cors::{self, Cors};
use crate::http::head::{Head, Method};
use crate::http::problem::Problem;
use crate::protocol::plain::api::ErrorMode;

/// What answers a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door<'a> {
    /// `/channels/NAME`, NAME still percent-encoded.
    Channel(&'a str),
    /// `/channels?channel=…`
    Channels,
    ApiPublish,
    ApiBroadcast,
    Live,
    Ready,
    Metrics,
    Echo,
    Playground,
    /// Not ours: an upstream's, or nobody's.
    Elsewhere,
}

impl Door<'_> {
    /// The value of the `door` label.
    const fn label(self) -> &'static str {
        match self {
            Self::Channel(_) | Self::Channels => "channels",
            Self::ApiPublish => "api_publish",
            Self::ApiBroadcast => "api_broadcast",
            Self::Live | Self::Ready => "health",
            Self::Metrics => "metrics",
            Self::Echo => "echo",
            Self::Playground => "playground",
            Self::Elsewhere => "proxy",
        }
    }

    /// Methods the door takes, as `Allow` lists them.
    const fn allow(self) -> &'static str {
        match self {
            Self::Channel(_) | Self::Channels => "GET, HEAD, POST, OPTIONS",
            Self::ApiPublish | Self::ApiBroadcast => "POST, OPTIONS",
            Self::Live | Self::Ready | Self::Metrics | Self::Playground | Self::Elsewhere => "GET, HEAD",
            // A handshake by HEAD would be none.
            Self::Echo => "GET",
        }
    }

    /// Whether pages of other origins that are let in may read its answers. What the others say is for the server's own people.
    const fn is_for_browsers(self) -> bool {
        matches!(self, Self::Channel(_) | Self::Channels | Self::ApiPublish | Self::ApiBroadcast | Self::Echo)
    }

    /// Whether an internal listener takes it off the public one.
    const fn is_internal(self) -> bool {
        matches!(self, Self::ApiPublish | Self::ApiBroadcast | Self::Live | Self::Ready | Self::Metrics)
    }
}

impl Shard {
    /// Reads on in a request's head; a complete one is acted on.
    pub(super) fn head_bytes(&mut self, conn: ConnId, bytes: &[u8], now: Now) -> usize {
        let Some(Stage::Head(reader)) = self.connections.get_mut(conn).map(|cell| &mut cell.stage) else { return bytes.len() };
        let first = reader.is_none();
        let mut reader = reader.take().unwrap_or_default();
        match reader.feed(bytes, &self.options.http) {
            Ok(Some((head, consumed))) => {
                self.request(conn, &head, now);
                consumed
            }
            Ok(None) => {
                self.set_stage(conn, Stage::Head(Some(reader)));
                if first {
                    self.timers.set(conn.slot, now.monotonic + self.options.http.head_timeout);
                }
                bytes.len()
            }
            Err(error) => {
                self.bad_request(conn, error, now);
                bytes.len()
            }
        }
    }

    /// Answers what cannot be read and closes: where the next request would begin is not known (RFC 9112 section 2.2).
    pub(super) fn bad_request(&mut self, conn: ConnId, error: HttpError, now: Now) {
        self.metrics.http_parse_errors.one(error.label());
        let problem = Problem::from(error);
        // Of what could not be read neither door nor method is known.
        self.metrics.http_requests.add(["none".into(), "other".into(), problem.status.into()], 1);
        let date = self.date.at(now.wall);
        let bytes = problem.response().with("Date", date).into_bytes(true, false, false);
        self.finish_response(conn, bytes, false, now);
    }

    /// The head's time is up, or the connection has been idle for as long as it may.
    pub(super) fn head_expired(&mut self, conn: ConnId, begun: bool, now: Now) {
        if begun {
            self.bad_request(conn, HttpError::HeadTimeout, now);
        } else {
            self.end(conn, now);
        }
    }

    fn request(&mut self, conn: ConnId, head: &Head, now: Now) {
        let door = self.door(head.path());
        let Some(listener) = self.connections.get(conn).map(|cell| cell.listener) else { return };
        let hidden = match listener {
            ListenerId::Public => self.options.server.internal_listener && door.is_internal(),
            ListenerId::Internal => !door.is_internal(),
        };
        let door = if hidden { Door::Elsewhere } else { door };
        if door == Door::Elsewhere && listener == ListenerId::Public {
            return self.pass_on(conn, head, now);
        }
        if !head.is_text() {
            return self.bad_request(conn, HttpError::Syntax, now);
        }
        let facts = Facts::new(head, door.label(), Cors::None);
        // Joined, so that a second one is not overlooked.
        match self.origins.check(head.header_list("origin").as_deref(), head.host()) {
            Ok(cors) if door.is_for_browsers() => self.open_door(conn, door, head, Facts { cors, ..facts }, now),
            Ok(_) => self.open_door(conn, door, head, facts, now),
            Err(problem) => {
                self.metrics.connections_refused.one("origin");
                self.refuse(conn, &facts, &problem, now);
            }
        }
    }

    /// Which door a normalised path names.
    fn door<'a>(&self, path: &'a str) -> Door<'a> {
        let server = &self.options.server;
        let Some(path) = path.strip_prefix(server.door_prefix.as_str()) else { return Door::Elsewhere };
        match path {
            "/channels" => Door::Channels,
            "/api/publish" => Door::ApiPublish,
            "/api/broadcast" => Door::ApiBroadcast,
            "/health/live" => Door::Live,
            "/health/ready" => Door::Ready,
            "/metrics" => Door::Metrics,
            "/echo" if server.echo => Door::Echo,
            "/" if server.development && self.options.proxy.routes.is_empty() => Door::Playground,
            _ => path.strip_prefix("/channels/").map_or(Door::Elsewhere, Door::Channel),
        }
    }

    fn open_door(&mut self, conn: ConnId, door: Door<'_>, head: &Head, facts: Facts, now: Now) {
        match (door, head.method()) {
            (Door::Channel(_) | Door::Channels | Door::ApiPublish | Door::ApiBroadcast, Method::Options) => {
                self.respond(conn, &facts, cors::preflight(door.allow()), now);
            }
            (Door::Channel(name), Method::Get | Method::Head) => self.open_channels(conn, Some(name), head, facts, now),
            (Door::Channels, Method::Get | Method::Head) => self.open_channels(conn, None, head, facts, now),
            (Door::Channel(name), Method::Post) => self.open_publish(conn, PublishDoor::Channel, Some(name), head, facts, now),
            (Door::Channels, Method::Post) => self.open_publish(conn, PublishDoor::Channels, None, head, facts, now),
            (Door::ApiPublish, Method::Post) => {
                self.open_publish(conn, PublishDoor::ApiPublish(error_mode(head)), None, head, facts, now);
            }
            (Door::ApiBroadcast, Method::Post) => {
                self.open_publish(conn, PublishDoor::ApiBroadcast(error_mode(head)), None, head, facts, now);
            }
            (Door::Echo, Method::Get) => self.open_echo(conn, head, facts, now),
            (Door::Live, Method::Get | Method::Head) => self.answer_live(conn, &facts, now),
            (Door::Ready, Method::Get | Method::Head) => self.answer_ready(conn, &facts, now),
            (Door::Metrics, Method::Get | Method::Head) => self.open_metrics(conn, head, facts, now),
            (Door::Playground, Method::Get | Method::Head) => self.answer_playground(conn, head.host(), &facts, now),
            (Door::Elsewhere, _) => self.refuse(conn, &facts, &Problem::not_found(head.path()), now),
            (_, _) => self.refuse(conn, &facts, &Problem::method_not_allowed(door.allow()), now),
        }
    }

    /// Whether the request shows the API key.
    pub(super) fn shows_key(&self, head: &Head) -> bool {
        let key = self.options.server.api_key.as_bytes();
        let shown = head.header("x-api-key").or_else(|| {
            let (scheme, key) = head.header("authorization")?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("apikey").then(|| key.trim())
        });
        !key.is_empty() && shown.is_some_and(|shown| equal_in_constant_time(shown.as_bytes(), key))
    }
}

fn error_mode(head: &Head) -> ErrorMode {
    ErrorMode::of(head.header("x-centrifugo-error-mode"))
}

/// Compares without telling by its time how much was right.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
