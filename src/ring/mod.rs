//! io_uring: the loop's kernel interface, buffer ring, leases. The only `unsafe` in the crate.
//!
//! ```text
//!   push_*  ──►  submission queue ──enter──►  kernel ──►  completion queue ──drain──►  refused sends │ completions
//!     │                                         ▲                                            │
//!     └── frames: owned by the batch table ─────┘◄───── released when everything is drained ─┘
//! ```
//!
//! Rules that make it sound, each upheld here and nowhere else:
//! - What the kernel reads (frames, gather lists, addresses) is owned by the [`Ring`] from the push until the completion queue
//!   has been read after the enter that consumed the submission.
//! - What the kernel writes into (receive buffers) lives in a mapping that outlives its registration; received bytes are
//!   reachable only through the one [`Lease`] that their completion minted.
//! - No operation carries a pointer that this module did not make.
//!
//! Invariant: knows no connection state, no protocol and no policy. It imports `base` and `metrics` only.

mod buffers;
pub mod floor;
mod gather;
mod options;
mod queue;
mod sends;
mod setup;
mod sockaddr;
mod sys;
mod token;

pub use buffers::Lease;
pub use options::{BUFFER_BYTES, Features, Options, RingError, SetupFlags};
pub use queue::{Completion, Ring, UNJOINED_BYTES_MIN, Wait};
pub use sends::{GATHER_MAX, Refused, is_no_room};
pub use setup::locked_bytes_limit;
pub use token::{Kind, Token};

#[cfg(test)]
mod tests;
