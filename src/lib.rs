//! ringmain: a real-time edge proxy. Two halves and one bridge.
//!
//! ```text
//!            config ── cli ── main
//!                       │
//!   kernel ── ring ── net ── shard ─┬─ protocol ── transport        (what a message means / how it rides)
//!                                   ├─ hub                          (channels, history, subscriptions)
//!                                   ├─ http   ws                    (wire formats)
//!                                   └─ proxy                        (upstreams)
//!            impure ─────────┤├──── pure: no socket, clock, thread, file or ambient randomness
//! ```
//!
//! Read in this order: [`shard::io`] (what goes in, what comes out), [`shard`], [`hub`], [`net`], [`ring`].
//! `tests/layering.rs` keeps the arrows pointing one way.

#![deny(unsafe_code)]

pub mod admin;
pub mod base;
#[cfg(not(loom))] // tokio has no signals under the model checker, and only the doorbell is checked
pub mod cli;
#[cfg(not(loom))]
pub mod config;
pub mod http;
pub mod hub;
pub mod metrics;
#[cfg(not(loom))]
pub mod net;
pub mod protocol;
pub mod proxy;
#[allow(unsafe_code)] // the only module that may: it owns the kernel interface
pub mod ring;
pub mod shard;
pub mod transport;
pub mod ws;

/// What tests leave out where a machine lacks it.
#[cfg(test)]
#[path = "../tests/support/skip.rs"]
mod skip;
