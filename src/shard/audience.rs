//! Kinds of receivers, numbered: connections with the same number get the same bytes.

use std::collections::HashMap;

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
    /// Whether its position names several channels, and so cannot ride with a publication that others get too.
    pub several: bool,
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
    /// A response, behind the part of its head that is the receiver's own.
    Poll,
}

impl Audience {
    /// How metrics name its connections.
    #[must_use]
    pub const fn kind(&self) -> TransportKind {
        match &self.transport {
            Shape::WebSocket { .. } => TransportKind::WebSocket,
            Shape::Stream { kind: StreamKind::EventStream, .. } => TransportKind::EventStream,
            Shape::Stream { kind: StreamKind::NdJson, .. } => TransportKind::Stream,
            Shape::Poll => TransportKind::Poll,
        }
    }

    /// Whether a loss can be told: a raw WebSocket has nothing but payloads.
    #[must_use]
    pub fn can_say_gaps(&self) -> bool {
        !(matches!(self.transport, Shape::WebSocket { .. }) && self.format == Format::Raw)
    }
}

/// The kinds a worker has met. Nothing that a client may choose freely tells two kinds apart, so they are few and never forgotten.
#[derive(Debug, Default)]
pub struct Audiences {
    known: Vec<Audience>,
    ids: HashMap<Audience, AudienceId, ahash::RandomState>,
}

impl Audiences {
    /// The number of a kind.
    pub fn intern(&mut self, audience: Audience) -> AudienceId {
        let next = AudienceId(u16::try_from(self.known.len()).unwrap_or(u16::MAX));
        let id = *self.ids.entry(audience.clone()).or_insert(next);
        if id == next {
            self.known.push(audience);
        }
        id
    }

    /// How many kinds there are.
    #[cfg(test)]
    pub const fn len(&self) -> usize {
        self.known.len()
    }

    /// The kind behind a number that [`Audiences::intern`] gave.
    #[must_use]
    pub fn get(&self, id: AudienceId) -> &Audience {
        &self.known[id.0 as usize]
    }
}
