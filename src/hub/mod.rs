//! Channels, subscriptions, publications, history. Pure; one hub per worker.
//!
//! A channel has a **home** worker (by hash of its name) that assigns offsets and keeps history ([`home`]); every worker keeps
//! the subscribers of its own connections ([`local`]). The two halves speak only by [`Message`], also on one worker.

mod message;
mod options;
mod publication;

pub use message::Message;
pub use options::{Access, ChannelKind, Namespace, Options, SlowConsumer, UnknownNamespace};
pub use publication::{ChannelName, ChannelNameError, Extension, Payload, PayloadKind, Publication};
