//! Channel names as they stand in a URL: escaped once, with `/` only as `%2F` where it would otherwise end a path segment.

use std::fmt;

use crate::http::path::decode;
use crate::hub::{ChannelName, ChannelNameError};

/// Why a part of a URL names no channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameError {
    /// A percent sign without two hexadecimal digits.
    Escape,
    /// A bare slash in the path.
    Slash,
    /// It is read without fault and is no channel's name.
    Rule(ChannelNameError),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Escape => write!(f, "a percent escape is not two hexadecimal digits"),
            Self::Slash => write!(f, "a slash in a channel name is written %2F"),
            Self::Rule(error) => error.fmt(f),
        }
    }
}

/// The channel of `/channels/NAME`, NAME still escaped.
///
/// # Errors
/// The first rule the name breaks.
pub fn in_path(escaped: &str) -> Result<ChannelName, NameError> {
    if escaped.contains('/') {
        return Err(NameError::Slash);
    }
    parse(escaped, false)
}

/// The channel of `channel=NAME` in a query, where a slash needs no escape and a plus sign does (WHATWG URL section 5.1).
///
/// # Errors
/// The first rule the name breaks.
pub fn in_query(escaped: &str) -> Result<ChannelName, NameError> {
    parse(escaped, true)
}

fn parse(escaped: &str, plus: bool) -> Result<ChannelName, NameError> {
    let name = decode(escaped, plus).ok_or(NameError::Escape)?;
    // What is not UTF-8 is not ASCII either; the rule names the byte.
    match std::str::from_utf8(&name) {
        Ok(name) => ChannelName::parse(name).map_err(NameError::Rule),
        Err(error) => Err(NameError::Rule(ChannelNameError::Character(name.get(error.valid_up_to()).copied().unwrap_or(0)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slash_is_escaped_in_paths_and_free_in_queries() {
        let name = |result: Result<ChannelName, NameError>| result.map(|name| name.as_str().to_owned());
        assert_eq!(name(in_path("a%2Fb%23")), Ok("a/b#".to_owned()));
        assert_eq!(name(in_path("a/b")), Err(NameError::Slash));
        assert_eq!(name(in_query("a/b%2B")), Ok("a/b+".to_owned()));
        assert_eq!(name(in_path("a+b")), Ok("a+b".to_owned()));
        assert_eq!(name(in_query("a+b")), Err(NameError::Rule(ChannelNameError::Character(b' '))));
    }

    #[test]
    fn names_are_decoded_once_and_held_to_the_rules() {
        assert_eq!(in_path("%2541").unwrap().as_str(), "%41");
        for (escaped, error) in [
            ("", NameError::Rule(ChannelNameError::Empty)),
            ("%2", NameError::Escape),
            ("%zz", NameError::Escape),
            ("a%0A", NameError::Rule(ChannelNameError::Character(b'\n'))),
            ("a%FF", NameError::Rule(ChannelNameError::Character(0xff))),
            ("%E2%82%AC", NameError::Rule(ChannelNameError::Character(0xe2))),
        ] {
            assert_eq!(in_path(escaped), Err(error), "{escaped}");
        }
    }

    proptest! {
        #[test]
        fn an_escaped_name_reads_back(name in "[!-~]{1,80}") {
            let escaped: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let expected = ChannelName::parse(&name);
            prop_assert_eq!(in_path(&escaped).ok(), expected.clone().ok());
            prop_assert_eq!(in_query(&escaped).ok(), expected.ok());
        }
    }
}
