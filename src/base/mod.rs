//! The vocabulary every other module speaks. Depends on nothing else in the crate.
//!
//! Invariant: pure values and containers; nothing here knows a socket, a clock or a protocol.

mod blob;
mod id;
mod position;
mod random;
mod time;

pub use blob::{Blob, Frame, FrameTag, Frames};
pub use id::{ConnId, ShardId};
pub use position::{Epoch, StreamPosition};
pub use random::Random;
pub use time::{Nanos, Now, WallMs};
