//! What workers say to each other.

/// One message between workers.
#[derive(Debug)]
pub enum Message {}
