//! What the publishers did: the truth that subscribers are held against.

use std::collections::HashMap;

/// Every publication that can be seen, by channel and position.
#[derive(Default)]
pub struct Model {
    published: HashMap<(String, String), u64>,
    tops: HashMap<String, String>,
}

impl Model {
    /// Notes what a position holds; the same position may be told by several witnesses, who must agree.
    pub fn witness(&mut self, channel: &str, position: &str, number: u64) -> Result<(), String> {
        let top = self.tops.entry(channel.to_owned()).or_insert_with(|| position.to_owned());
        // A channel that was forgotten comes back under another epoch; what is seen last is what there is.
        if split(position).0 != split(top).0 || split(position).1 > split(top).1 {
            *top = position.to_owned();
        }
        match self.published.insert((channel.to_owned(), position.to_owned()), number) {
            Some(other) if other != number => Err(format!("{channel} {position} held {other} and then {number}")),
            _ => Ok(()),
        }
    }

    /// The last position of a channel, as far as anybody has seen it.
    pub fn top(&self, channel: &str) -> Option<&str> {
        self.tops.get(channel).map(String::as_str)
    }
}

/// Epoch and offset of a position.
pub fn split(position: &str) -> (&str, u64) {
    let (epoch, offset) = position.split_once(':').expect("a position has a colon");
    (epoch, offset.parse().expect("an offset is a number"))
}
