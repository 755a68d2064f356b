//! The vocabulary every other module speaks. Depends on nothing else in the crate.
//!
//! Invariant: pure values and containers; nothing here knows a socket, a clock or a protocol.

mod arena;
mod blob;
mod doorbell;
mod id;
mod mailbox;
mod mutant;
mod position;
mod random;
mod slots;
mod time;
mod wheel;

pub use arena::{Arena, Key};
pub use blob::{Blob, Extent, Frame, FrameTag, Frames};
pub use doorbell::Doorbell;
pub use id::{ConnId, ShardId};
pub use mailbox::{MAILBOX_ENTRIES, MAILBOX_ENTRIES_MANY, PEERS_FEW_MAX, Post, post_office};
pub use mutant::{Mutant, mutated};
pub use position::{Epoch, StreamPosition};
pub use random::Random;
pub use slots::Slots;
pub use time::{Nanos, Now, STOOD_STILL, WallMs};
pub use wheel::{TICK, Wheel};
