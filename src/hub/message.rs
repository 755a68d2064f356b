//! What workers say to each other. Every pair of workers has one FIFO; all order promises rest on it.

use std::sync::Arc;

use super::home::{Outcome, PublishError};
use super::publication::{ChannelName, Draft, Publication};
use super::token::Foreign;
use crate::base::{ConnId, Key, StreamPosition};
use crate::metrics::Snapshot;

/// One message between workers.
#[derive(Debug)]
pub enum Message {
    /// To the home: a subscriber wants the channel; answered by `Subscribed`.
    Subscribe(Box<Subscribe>),
    /// To the home: a catching-up subscriber has room for more; answered by `Page`.
    NextPage {
        /// By its name: a home knows no subscriptions.
        channel: ChannelName,
        /// Comes back with the `Page`.
        subscription: Key,
        /// The last position that has been queued for the subscription.
        after: StreamPosition,
    },
    /// To the home: nobody here wants the channel any more.
    Leave {
        /// The one that the sending worker gets no publications of from then on.
        channel: ChannelName,
    },
    /// To the home: store and broadcast; answered by `Published`.
    Publish {
        /// Comes back with the `Published`.
        request: PublishRef,
        /// Has no offset yet: the home gives it one.
        draft: Box<Draft>,
    },
    /// From the home: answer to `Subscribe`, in the same FIFO as later publications.
    Subscribed {
        /// As the `Subscribe` had it; it may have gone meanwhile.
        subscription: Key,
        /// Has the first page, and what is missing before it.
        answer: Box<Answer>,
    },
    /// From the home: the subscription cannot be had now; there are too many channels.
    Refused {
        /// As the `Subscribe` had it; its connection is told to come back.
        subscription: Key,
    },
    /// From the home: answer to `NextPage`, in the same FIFO as later publications.
    Page {
        /// As the `NextPage` had it; it may have gone meanwhile.
        subscription: Key,
        /// Has a gap where history let go of something between two pages.
        answer: Box<Answer>,
    },
    /// From the home: a publication for this worker's subscribers.
    Publication(Arc<Publication>),
    /// From the home: publications up to `to` could not be brought here.
    Lost {
        /// Its subscribers here have missed something.
        channel: ChannelName,
        /// What comes of the channel later in this FIFO lies behind it.
        to: StreamPosition,
    },
    /// From the home: what became of a `Publish`.
    Published {
        /// As the `Publish` had it; its connection may have gone meanwhile.
        request: PublishRef,
        /// Where it is, or why it is nowhere.
        result: Result<Stored, PublishError>,
    },
    /// To everybody: send me your counters.
    Scrape {
        /// The connection that wants metrics, on the sending worker.
        request: ConnId,
    },
    /// The counters.
    Scraped {
        /// As the `Scrape` had it.
        request: ConnId,
        /// This worker's share of what the connection is answered.
        snapshot: Box<Snapshot>,
    },
}

impl Message {
    /// Bytes that wait with this message in a full mailbox, for the bounds of the spill.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Subscribe(subscribe) => size_of::<Subscribe>() + subscribe.channel.as_str().len(),
                Self::Publish { draft, .. } => draft.bytes(),
                Self::Subscribed { answer, .. } | Self::Page { answer, .. } => size_of::<Answer>() + answer.page.len() * 8,
                Self::Publication(publication) => publication.bytes(),
                Self::Scraped { .. } => size_of::<Snapshot>(),
                Self::Refused { .. }
                | Self::NextPage { .. }
                | Self::Leave { .. }
                | Self::Lost { .. }
                | Self::Published { .. }
                | Self::Scrape { .. } => 0,
            }
    }
}

/// A request to subscribe, as the home sees it.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// Its home is the worker that this goes to.
    pub channel: ChannelName,
    /// The subscription on the asking worker.
    pub subscription: Key,
    /// Decides what the first page holds and whether there is a gap before it.
    pub start: Start,
    /// False for a look only: the home answers and forgets.
    pub interest: bool,
}

/// Where a subscriber wants to start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// From the next publication.
    Now,
    /// Everything retained, then live.
    Beginning,
    /// The newest so many, then live.
    Newest(u32),
    /// Whatever comes after the position.
    After(StreamPosition),
    /// After a position of a history that this server does not know.
    Elsewhere(Foreign),
    /// After a position that cannot be read.
    Unreadable,
}

/// The home's answer to a subscribe or a page request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The channel's position now.
    pub top: StreamPosition,
    /// Where this subscriber starts: the position before the page's first publication.
    pub from: StreamPosition,
    /// Whether the asked position and `from` meet.
    pub outcome: Outcome,
    /// At most [`PAGE_BYTES_MAX`](super::home::PAGE_BYTES_MAX), in order.
    pub page: Vec<Arc<Publication>>,
    /// Whether the page reaches `top`: what follows in this FIFO is live.
    pub head: bool,
}

/// Which request of which connection a publication answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublishRef {
    /// On the worker that the publication came in by.
    pub conn: ConnId,
    /// The connection's own number for the request.
    pub request: u32,
    /// Place among the request's channels.
    pub place: u32,
    /// Which door it came in by.
    pub via: Via,
}

/// The door by which a publication came in, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// `POST /channels/NAME`
    Channels,
    /// `POST /api/publish`
    ApiPublish,
    /// `POST /api/broadcast`
    ApiBroadcast,
    /// A message of a subscribed WebSocket.
    WebSocket,
}

impl Via {
    /// The value of the `door` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Channels => "channels",
            Self::ApiPublish => "api_publish",
            Self::ApiBroadcast => "api_broadcast",
            Self::WebSocket => "ws",
        }
    }
}

/// A stored publication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Its place in the channel; a duplicate's is where the first one is, an outdated version's the channel's top.
    pub position: StreamPosition,
    /// Whether the position can be resumed from (the channel keeps history and the publication is in it).
    pub kept: bool,
    /// An earlier publication with the same idempotency key.
    pub duplicate: bool,
}
