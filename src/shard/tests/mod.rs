//! Shards driven by hand: what goes in over their sockets and mailboxes, and what comes of it. `harness` has the hands.

mod admission;
mod deadlines;
mod doors;
mod draining;
mod harness;
mod held;
mod mail;
mod metrics;
mod origins;
mod publishing;
mod pulse;
mod replaying;
mod requests;
mod several;
mod slow;
mod state;
mod subscribing;
mod upstream;
