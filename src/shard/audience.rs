//! Kinds of receivers, numbered: connections with the same number get the same bytes.

use std::collections::HashMap;

use crate::http::cors::Cors;
use crate::hub::AudienceId;
use crate::metrics::TransportKind;
use crate::protocol::plain::request::Format;
use crate::transport::stream::StreamKind;
use crate::ws::DeflateParams;

/// What decides a receiver's bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Audience {
    pub transport: Shape,
    pub format: Format,
    /// Whether each receiver needs bytes of its own: it holds several channels, and its position names them all.
    pub single: bool,
}

/// How the bytes ride.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Shape {
    /// `deflate`: the window bits agreed on, where compression was.
    WebSocket {
        deflate: Option<DeflateParams>,
    },
    Stream {
        kind: StreamKind,
        chunked: bool,
    },
    /// A whole response.
    Poll {
        cors: Cors,
        http11: bool,
        keep: bool,
    },
}

impl Audience {
    /// How metrics name its connections.
    #[must_use]
    pub const fn kind(&self) -> TransportKind {
        match &self.transport {
            Shape::WebSocket { .. } => TransportKind::WebSocket,
            Shape::Stream { kind: StreamKind::EventStream, .. } => TransportKind::EventStream,
            Shape::Stream { kind: StreamKind::NdJson, .. } => TransportKind::Stream,
            Shape::Poll { .. } => TransportKind::Poll,
        }
    }

    /// Whether a loss can be told: a raw WebSocket has nothing but payloads.
    #[must_use]
    pub fn can_say_gaps(&self) -> bool {
        !(matches!(self.transport, Shape::WebSocket { .. }) && self.format == Format::Raw)
    }
}

/// The kinds a worker has met. They are few (transports × formats × origins) and never forgotten.
#[derive(Debug, Default)]
pub struct Audiences {
    known: Vec<Audience>,
    ids: HashMap<Audience, AudienceId, ahash::RandomState>,
}

/// Kinds a worker tells apart. Only echoed origins can multiply them, and those are bounded by what globs of the config match.
const AUDIENCES_MAX: usize = 4096;

impl Audiences {
    /// The number of a kind; `None` when there are too many.
    pub fn intern(&mut self, audience: Audience) -> Option<AudienceId> {
        if let Some(&id) = self.ids.get(&audience) {
            return Some(id);
        }
        if self.known.len() == AUDIENCES_MAX {
            return None;
        }
        let id = AudienceId(u16::try_from(self.known.len()).ok()?);
        self.known.push(audience.clone());
        self.ids.insert(audience, id);
        Some(id)
    }

    /// The kind behind a number that [`Audiences::intern`] gave.
    #[must_use]
    pub fn get(&self, id: AudienceId) -> &Audience {
        &self.known[id.0 as usize]
    }
}
