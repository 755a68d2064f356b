//! A request on a channel door: which channels, by which transport, from where.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::name::{self, NameError};
use crate::http::path::decode;
use crate::http::problem::Problem;
use crate::hub::token::Token;
use crate::hub::{ChannelName, Start};

/// Channels one request may name at most, whatever the configuration says.
pub const CHANNELS_MAX: usize = 32;
/// Publications `history=` may ask for.
const HISTORY_MAX: u32 = 1_000_000;

/// What the configuration lets a request ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest wait of a poll.
    pub wait_max: Duration,
    /// Channels, at most [`CHANNELS_MAX`].
    pub channels_max: usize,
}

/// How the items are to ride.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// By `Upgrade: websocket`, whatever `via` and `Accept` say.
    WebSocket,
    /// `via=sse` or `Accept: text/event-stream`.
    EventStream,
    /// `via=stream` or `Accept: application/x-ndjson`.
    NdJson,
    /// One answer: with what is there, or after at most this long with nothing.
    Poll {
        /// `wait=` in whole seconds, cut to [`Limits::wait_max`]; zero where it is left out.
        wait: Duration,
    },
}

/// What an item is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// The JSON grammar of [`item`](super::item).
    Json,
    /// The payload alone.
    Raw,
}

/// A request that keeps all rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscribeRequest {
    /// Without duplicates, in the order named; at least one.
    pub channels: Vec<ChannelName>,
    /// By `Upgrade`, else `via`, else `Accept`.
    pub transport: Transport,
    /// By `format`; without it raw for an event stream of one channel, JSON for all else.
    pub format: Format,
    /// Whether the position came from `If-None-Match`: "nothing new" is then 304.
    pub if_none_match: bool,
    from: From,
}

/// Where all channels start.
#[derive(Clone, PartialEq, Eq, Debug)]
enum From {
    Same(Start),
    Token(Token),
}

/// What is wrong with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// Neither the path nor the query names one.
    NoChannel,
    /// Duplicates count once.
    TooManyChannels {
        /// [`Limits::channels_max`], for the answer's text.
        channels_max: usize,
    },
    /// In the path or in a `channel=`.
    Name(NameError),
    /// A parameter whose escapes are not text.
    Escape,
    /// Not ws, sse, stream or poll; what is printable of it, at most 40 characters.
    Via(String),
    /// `via=ws` without a handshake: 426 (RFC 9110 section 15.5.22), where all others are 400.
    NotUpgraded,
    /// Neither json nor raw; what is printable of it, at most 40 characters.
    Format(String),
    /// `format=raw` of several channels, or on NDJSON or a poll: payloads could not be told apart.
    FormatForTransport,
    /// `wait=` is empty or has anything but digits.
    Wait,
    /// `since=` cannot be read, or is the position of one channel and several are named.
    Since,
    /// `history=` is empty or has anything but digits.
    History,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoChannel => write!(f, "no channel is named: use /channels/NAME or /channels?channel=NAME"),
            Self::TooManyChannels { channels_max } => write!(f, "a request may name {channels_max} channels"),
            Self::Name(error) => error.fmt(f),
            Self::Escape => write!(f, "a parameter is not percent-encoded UTF-8"),
            Self::Via(via) => write!(f, "via={via} is unknown: ws, sse, stream or poll"),
            Self::NotUpgraded => write!(f, "via=ws needs a WebSocket handshake"),
            Self::Format(format) => write!(f, "format={format} is unknown: json or raw"),
            Self::FormatForTransport => write!(f, "format=raw needs an event stream or a WebSocket of exactly one channel"),
            Self::Wait => write!(f, "wait is a whole number of seconds"),
            Self::Since => write!(f, "since is a position, `start` or `now`"),
            Self::History => write!(f, "history is a whole number of publications"),
        }
    }
}

impl RequestError {
    /// The answer to the subscriber.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::NotUpgraded => Problem::handshake(426, &self.to_string()),
            Self::NoChannel
            | Self::TooManyChannels { .. }
            | Self::Name(_)
            | Self::Escape
            | Self::Via(_)
            | Self::Format(_)
            | Self::FormatForTransport
            | Self::Wait
            | Self::Since
            | Self::History => Problem::bad_request(self.to_string()),
        }
    }
}

/// The query parameters that mean something here; others are ignored.
#[derive(Default)]
struct Parameters {
    channels: Vec<ChannelName>,
    via: Option<String>,
    format: Option<String>,
    wait: Option<String>,
    since: Option<String>,
    history: Option<String>,
}

impl SubscribeRequest {
    /// Reads `GET /channels/NAME?QUERY`. `name` is what follows `/channels/`, still escaped; `header` finds a field's
    /// value, several lines of it joined as a list.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn parse<'a>(
        name: Option<&str>,
        query: Option<&str>,
        header: &dyn Fn(&str) -> Option<Cow<'a, str>>,
        limits: Limits,
    ) -> Result<Self, RequestError> {
        let parameters = Parameters::parse(name, query.unwrap_or_default(), limits.channels_max)?;
        let transport = parameters.transport(header, limits.wait_max)?;
        let format = parameters.format(transport)?;
        let (from, if_none_match) = parameters.start(header)?;
        Ok(Self { channels: parameters.channels, transport, format, if_none_match, from })
    }

    /// Where each channel starts, in order.
    #[must_use]
    pub fn starts(&self) -> Vec<(ChannelName, Start)> {
        let start = |channel: &ChannelName| match &self.from {
            From::Same(start) => *start,
            // A position of one channel says nothing about several.
            From::Token(Token::Single(_) | Token::Foreign(_)) if self.channels.len() > 1 => Start::Unreadable,
            From::Token(token) => token.start(channel),
        };
        self.channels.iter().map(|channel| (channel.clone(), start(channel))).collect()
    }
}

impl Parameters {
    fn parse(name: Option<&str>, query: &str, channels_max: usize) -> Result<Self, RequestError> {
        let mut parameters = Self::default();
        if let Some(name) = name {
            parameters.add_channel(name::in_path(name), channels_max)?;
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if key == "channel" {
                parameters.add_channel(name::in_query(value), channels_max)?;
                continue;
            }
            let place = match key {
                "via" => &mut parameters.via,
                "format" => &mut parameters.format,
                "wait" => &mut parameters.wait,
                "since" => &mut parameters.since,
                "history" => &mut parameters.history,
                _ => continue,
            };
            let value = decode(value, true).and_then(|value| String::from_utf8(value).ok()).ok_or(RequestError::Escape)?;
            *place = Some(value);
        }
        if parameters.channels.is_empty() { Err(RequestError::NoChannel) } else { Ok(parameters) }
    }

    fn add_channel(&mut self, channel: Result<ChannelName, NameError>, channels_max: usize) -> Result<(), RequestError> {
        let channel = channel.map_err(RequestError::Name)?;
        if !self.channels.contains(&channel) {
            self.channels.push(channel);
        }
        if self.channels.len() > channels_max { Err(RequestError::TooManyChannels { channels_max }) } else { Ok(()) }
    }

    fn transport<'a>(&self, header: &dyn Fn(&str) -> Option<Cow<'a, str>>, wait_max: Duration) -> Result<Transport, RequestError> {
        if is_upgrade(header) {
            return Ok(Transport::WebSocket);
        }
        match self.via.as_deref() {
            Some("ws") => Err(RequestError::NotUpgraded),
            Some("sse") => Ok(Transport::EventStream),
            Some("stream") => Ok(Transport::NdJson),
            Some("poll") => self.poll(wait_max),
            Some(via) => Err(RequestError::Via(printable(via))),
            None => match preferred(&header("accept").unwrap_or_default()) {
                Preferred::EventStream => Ok(Transport::EventStream),
                Preferred::NdJson => Ok(Transport::NdJson),
                Preferred::Json => self.poll(wait_max),
            },
        }
    }

    fn poll(&self, wait_max: Duration) -> Result<Transport, RequestError> {
        let seconds: u64 = self.wait.as_deref().map_or(Ok(0), |wait| whole(wait).ok_or(RequestError::Wait))?;
        Ok(Transport::Poll { wait: Duration::from_secs(seconds).min(wait_max) })
    }

    fn format(&self, transport: Transport) -> Result<Format, RequestError> {
        let one = self.channels.len() == 1;
        let format = match self.format.as_deref() {
            Some("json") => Format::Json,
            Some("raw") => Format::Raw,
            Some(format) => return Err(RequestError::Format(printable(format))),
            None if one && transport == Transport::EventStream => Format::Raw,
            None => Format::Json,
        };
        let raw_fits = one && matches!(transport, Transport::EventStream | Transport::WebSocket);
        if format == Format::Raw && !raw_fits { Err(RequestError::FormatForTransport) } else { Ok(format) }
    }

    /// `Last-Event-ID` before `since=` before `If-None-Match`: an EventSource reconnects to the same URL, so the URL must not win.
    fn start<'a>(&self, header: &dyn Fn(&str) -> Option<Cow<'a, str>>) -> Result<(From, bool), RequestError> {
        let unreadable = From::Same(Start::Unreadable);
        if let Some(id) = header("last-event-id").filter(|id| !id.is_empty()) {
            return Ok((Token::parse(&id).map_or(unreadable, From::Token), false));
        }
        if let Some(since) = self.since.as_deref() {
            let from = match since {
                "start" => From::Same(Start::Beginning),
                "now" => From::Same(Start::Now),
                token => self.token(token).ok_or(RequestError::Since)?,
            };
            return Ok((from, false));
        }
        if let Some(tag) = header("if-none-match") {
            return Ok((tagged(&tag).map_or(unreadable, From::Token), true));
        }
        let history = self.history.as_deref().map(|history| whole(history).ok_or(RequestError::History)).transpose()?;
        let newest = history.map(|count| Start::Newest(u32::try_from(count).unwrap_or(HISTORY_MAX).min(HISTORY_MAX)));
        Ok((From::Same(newest.unwrap_or(Start::Now)), false))
    }

    fn token(&self, text: &str) -> Option<From> {
        let token = Token::parse(text)?;
        let fits = self.channels.len() == 1 || matches!(token, Token::Several(_));
        fits.then_some(From::Token(token))
    }
}

/// Whether the request asks for a WebSocket.
pub fn is_upgrade<'a>(header: &dyn Fn(&str) -> Option<Cow<'a, str>>) -> bool {
    header("upgrade").is_some_and(|upgrade| upgrade.split(',').any(|item| item.trim().eq_ignore_ascii_case("websocket")))
}

/// The first token among the tags of `If-None-Match` (RFC 9110 section 13.1.2). What compresses on the way weakens a tag.
fn tagged(tags: &str) -> Option<Token> {
    tags.split(',').find_map(|tag| Token::parse(tag.trim().trim_start_matches("W/").trim_matches('"')))
}

fn whole(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

fn printable(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(40).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Preferred {
    EventStream,
    NdJson,
    Json,
}

/// The medium an `Accept` field likes best (RFC 9110 section 12.5.1); of equals the first named; JSON where it likes none.
fn preferred(accept: &str) -> Preferred {
    let mut best = (Preferred::Json, 0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let medium = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "text/event-stream" => Preferred::EventStream,
            "application/x-ndjson" => Preferred::NdJson,
            "application/json" | "application/*" | "*/*" => Preferred::Json,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="))).map_or(1000, thousandths);
        if weight > best.1 {
            best = (medium, weight);
        }
    }
    best.0
}

/// `0.5` → 500; what is no weight counts as none.
fn thousandths(weight: &str) -> u32 {
    weight.parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight)).map_or(0, |weight| (weight * 1000.0) as u32)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
