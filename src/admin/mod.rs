//! What people look at: the playground page.

const PLAYGROUND: &str = include_str!("playground.html");

/// The playground, filled in for this server.
#[must_use]
pub fn playground(door_prefix: &str, api_key: &str) -> String {
    PLAYGROUND.replace("{{DOOR_PREFIX}}", door_prefix).replace("{{API_KEY}}", api_key)
}
