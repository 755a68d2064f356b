//! Typed places that values go to: what each kind of value looks like, its bounds, and how it is written back.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Invalid;
use super::units::{parse_bytes, parse_duration, show_bytes, show_duration};
use crate::hub::Access;

/// A value as given, not yet understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Raw {
    Text(String),
    Integer(i64),
    Switch(bool),
    List(Vec<Self>),
    /// Floats, dates, tables: nothing here is one. Holds what to call it.
    Other(&'static str),
    /// From the environment or a flag, where everything is text.
    Loose(String),
}

/// Where a value goes, borrowed from what is being configured.
pub enum Field<'a> {
    Bytes(&'a mut usize, RangeInclusive<usize>),
    Count(&'a mut usize, RangeInclusive<usize>),
    Count32(&'a mut u32, RangeInclusive<u32>),
    Duration(&'a mut Duration, RangeInclusive<Duration>),
    Durations(&'a mut [Duration; 2], RangeInclusive<Duration>),
    Switch(&'a mut bool),
    Text(&'a mut String),
    /// A shared secret that travels in a header; may be empty.
    Secret(&'a mut String),
    /// A path prefix without a final slash; may be empty.
    Prefix(&'a mut String),
    /// An absolute path.
    Path(&'a mut String),
    Texts(&'a mut Vec<String>),
    /// `host:port`, the host to be resolved.
    Servers(&'a mut Vec<String>),
    Addresses(&'a mut Vec<SocketAddr>),
    /// One address; empty for none.
    Address(&'a mut Option<SocketAddr>),
    /// Prefixes, written with a final `*`.
    Patterns(&'a mut Vec<String>),
    Access(&'a mut Access),
    Choice(&'a mut dyn Choice),
}

/// A value that is one of a few words.
pub trait Choice {
    fn words(&self) -> &'static [&'static str];
    fn word(&self) -> &'static str;
    /// Takes the word's value; false where it is not one.
    fn choose(&mut self, word: &str) -> bool;
}

/// A closed set of values, each with its word.
pub trait Words: Copy + PartialEq + 'static {
    const WORDS: &'static [&'static str];
    /// In the order of the words.
    const VALUES: &'static [Self];
}

impl<T: Words> Choice for T {
    fn words(&self) -> &'static [&'static str] {
        T::WORDS
    }

    fn word(&self) -> &'static str {
        let index = T::VALUES.iter().position(|value| value == self);
        index.and_then(|index| T::WORDS.get(index)).copied().unwrap_or_default()
    }

    fn choose(&mut self, word: &str) -> bool {
        let value = T::WORDS.iter().position(|known| *known == word).and_then(|index| T::VALUES.get(index));
        value.map(|value| *self = *value).is_some()
    }
}

impl Field<'_> {
    /// Takes a value.
    ///
    /// # Errors
    /// Why it is not one; the field is as it was.
    pub fn set(self, raw: &Raw) -> Result<(), Invalid> {
        match self {
            Self::Bytes(field, range) => *field = within(raw.bytes()?, &range, |bytes| show_bytes(*bytes))?,
            Self::Count(field, range) => *field = within(raw.count()?, &range, usize::to_string)?,
            Self::Count32(field, range) => {
                let count = u32::try_from(raw.count()?).unwrap_or(u32::MAX);
                *field = within(count, &range, u32::to_string)?;
            }
            Self::Duration(field, range) => *field = duration(raw, &range)?,
            Self::Durations(field, range) => *field = two_durations(raw, &range)?,
            Self::Switch(field) => *field = raw.switch()?,
            Self::Text(field) => *field = raw.text()?.to_owned(),
            Self::Secret(field) => *field = raw.check(is_secret, |_| Invalid::Secret)?,
            Self::Prefix(field) => *field = raw.check(is_prefix, |got| Invalid::Prefix { got })?,
            Self::Path(field) => *field = raw.check(is_path, |got| Invalid::Path { got })?,
            Self::Texts(field) => *field = raw.texts(TEXTS)?,
            Self::Servers(field) => *field = raw.checked_list(TEXTS, server)?,
            Self::Addresses(field) => *field = raw.checked_list(TEXTS, address)?,
            Self::Address(field) => {
                let text = raw.text()?;
                *field = if text.is_empty() { None } else { Some(address(text)?) };
            }
            Self::Patterns(field) => *field = raw.checked_list("a pattern or a list of them", prefix)?,
            Self::Access(field) => *field = access(&raw.texts(TEXTS)?)?,
            Self::Choice(field) => {
                let word = raw.text()?;
                if !field.choose(word) {
                    return Err(Invalid::Word { got: quoted(word), words: field.words() });
                }
            }
        }
        Ok(())
    }

    /// The value as TOML.
    #[must_use]
    pub fn show(&self) -> String {
        match self {
            Self::Bytes(field, _) => quoted(&show_bytes(**field)),
            Self::Count(field, _) => field.to_string(),
            Self::Count32(field, _) => field.to_string(),
            Self::Duration(field, _) => quoted(&show_duration(**field)),
            Self::Durations(field, _) => list(field.iter().map(|duration| show_duration(*duration))),
            Self::Switch(field) => field.to_string(),
            Self::Text(field) | Self::Secret(field) | Self::Prefix(field) | Self::Path(field) => quoted(field),
            Self::Texts(field) | Self::Servers(field) => list(field.iter().cloned()),
            Self::Addresses(field) => list(field.iter().map(SocketAddr::to_string)),
            Self::Address(field) => quoted(&field.map(|address| address.to_string()).unwrap_or_default()),
            Self::Patterns(field) => list(field.iter().map(|prefix| format!("{prefix}*"))),
            Self::Access(field) => match field {
                Access::Nobody => "[]".to_owned(),
                Access::Key => r#"["key"]"#.to_owned(),
                Access::Anyone => r#"["anyone"]"#.to_owned(),
            },
            Self::Choice(field) => quoted(field.word()),
        }
    }
}

const TEXTS: &str = "a list of texts: write [\"…\", \"…\"]";

impl Raw {
    /// As error messages show it.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) | Self::Loose(text) => quoted(text),
            Self::Integer(integer) => integer.to_string(),
            Self::Switch(switch) => switch.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(name) => (*name).to_owned(),
        }
    }

    fn is_not(&self, wanted: &'static str) -> Invalid {
        Invalid::Type { got: self.shown(), wanted }
    }

    fn text(&self) -> Result<&str, Invalid> {
        match self {
            Self::Text(text) | Self::Loose(text) => Ok(text),
            Self::Integer(_) | Self::Switch(_) | Self::List(_) | Self::Other(_) => {
                Err(self.is_not("a text: write it in quotes, \"…\""))
            }
        }
    }

    fn check(&self, is_good: impl Fn(&str) -> bool, bad: impl Fn(String) -> Invalid) -> Result<String, Invalid> {
        let text = self.text()?;
        if is_good(text) { Ok(text.to_owned()) } else { Err(bad(quoted(text))) }
    }

    fn count(&self) -> Result<usize, Invalid> {
        let count = match self {
            Self::Integer(integer) => usize::try_from(*integer).ok(),
            Self::Loose(text) => text.trim().parse().ok(),
            Self::Text(_) | Self::Switch(_) | Self::List(_) | Self::Other(_) => None,
        };
        count.ok_or_else(|| self.is_not("a whole number: write one like 100, without quotes"))
    }

    fn switch(&self) -> Result<bool, Invalid> {
        match self {
            Self::Switch(switch) => Ok(*switch),
            Self::Loose(text) if text == "true" => Ok(true),
            Self::Loose(text) if text == "false" => Ok(false),
            Self::Text(_) | Self::Integer(_) | Self::List(_) | Self::Other(_) | Self::Loose(_) => {
                Err(self.is_not("true or false: write one of them, without quotes"))
            }
        }
    }

    fn bytes(&self) -> Result<usize, Invalid> {
        let bytes = match self {
            Self::Text(text) | Self::Loose(text) => parse_bytes(text),
            Self::Integer(0) => Some(0),
            Self::Integer(_) | Self::Switch(_) | Self::List(_) | Self::Other(_) => None,
        };
        bytes.ok_or_else(|| self.is_not("a size with its unit: write one like \"64KiB\" or \"512B\""))
    }

    fn duration(&self) -> Result<Duration, Invalid> {
        let duration = match self {
            Self::Text(text) | Self::Loose(text) => parse_duration(text),
            Self::Integer(0) => Some(Duration::ZERO),
            Self::Integer(_) | Self::Switch(_) | Self::List(_) | Self::Other(_) => None,
        };
        duration.ok_or_else(|| self.is_not("a duration with its unit: write one like \"30s\", \"10ms\" or \"5m\""))
    }

    /// A list of texts. Outside of TOML one may be written with commas, or as TOML.
    fn texts(&self, wanted: &'static str) -> Result<Vec<String>, Invalid> {
        match self {
            Self::List(items) => items.iter().map(|item| item.text().map(str::to_owned)).collect(),
            Self::Loose(text) if text.trim_start().starts_with('[') => toml_list(text).ok_or_else(|| self.is_not(wanted)),
            Self::Loose(text) => Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()),
            Self::Text(_) | Self::Integer(_) | Self::Switch(_) | Self::Other(_) => Err(self.is_not(wanted)),
        }
    }

    fn checked_list<T>(&self, wanted: &'static str, read: impl Fn(&str) -> Result<T, Invalid>) -> Result<Vec<T>, Invalid> {
        match self {
            // One address or pattern may stand alone.
            Self::Text(text) => Ok(vec![read(text)?]),
            Self::Integer(_) | Self::Switch(_) | Self::List(_) | Self::Other(_) | Self::Loose(_) => {
                self.texts(wanted)?.iter().map(|text| read(text)).collect()
            }
        }
    }
}

/// A list of texts written as TOML in an environment variable.
fn toml_list(text: &str) -> Option<Vec<String>> {
    let value = toml::de::DeValue::parse(text.trim()).ok()?;
    let items = value.get_ref().as_array()?;
    items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
}

fn within<T: PartialOrd>(value: T, range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> Result<T, Invalid> {
    if range.contains(&value) { Ok(value) } else { Err(Invalid::range(value, range, show)) }
}

fn duration(raw: &Raw, range: &RangeInclusive<Duration>) -> Result<Duration, Invalid> {
    within(raw.duration()?, range, |duration| show_duration(*duration))
}

fn two_durations(raw: &Raw, range: &RangeInclusive<Duration>) -> Result<[Duration; 2], Invalid> {
    const WANTED: &str = "two durations: write them like [\"1s\", \"4s\"]";
    let texts = raw.texts(WANTED)?;
    let [low, high] = texts.as_slice() else { return Err(raw.is_not(WANTED)) };
    Ok([duration(&Raw::Text(low.clone()), range)?, duration(&Raw::Text(high.clone()), range)?])
}

fn address(text: &str) -> Result<SocketAddr, Invalid> {
    text.parse().map_err(|_| Invalid::Address { got: quoted(text) })
}

fn server(text: &str) -> Result<String, Invalid> {
    let good = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_is_good = bare.map_or(!host.is_empty() && !host.contains([':', '/', '[', ']', ' ']), |bare| bare.contains(':'));
        host_is_good && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if good { Ok(text.to_owned()) } else { Err(Invalid::Upstream { got: quoted(text) }) }
}

fn prefix(text: &str) -> Result<String, Invalid> {
    let bare = text.strip_suffix('*').filter(|bare| !bare.is_empty() && !bare.contains('*') && is_graphic(bare));
    bare.map(str::to_owned).ok_or_else(|| Invalid::Pattern { got: quoted(text) })
}

fn access(words: &[String]) -> Result<Access, Invalid> {
    words.iter().try_fold(Access::Nobody, |access, word| match (word.as_str(), access) {
        ("anyone", _) | ("key", Access::Anyone) => Ok(Access::Anyone),
        ("key", _) => Ok(Access::Key),
        _ => Err(Invalid::Access { got: quoted(word) }),
    })
}

fn is_graphic(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_secret(text: &str) -> bool {
    text.len() <= 256 && is_graphic(text)
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && is_graphic(text) && !text.contains(['?', '#'])
}

fn is_prefix(text: &str) -> bool {
    text.is_empty() || (is_path(text) && !text.ends_with('/') && !text.contains("//"))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.map(|item| quoted(&item)).collect::<Vec<_>>().join(", "))
}

/// Text as a TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loose(text: &str) -> Raw {
        Raw::Loose(text.to_owned())
    }

    #[test]
    fn lists_outside_of_toml_have_commas_or_are_toml() {
        for text in ["a,b", " a , b ,", r#"["a", "b"]"#, "[\n'a', 'b']"] {
            assert_eq!(loose(text).texts(TEXTS), Ok(vec!["a".to_owned(), "b".to_owned()]), "{text}");
        }
        assert_eq!(loose("").texts(TEXTS), Ok(vec![]));
        assert!(loose("[1]").texts(TEXTS).is_err());
        assert!(loose("[a").texts(TEXTS).is_err());
    }

    #[test]
    fn servers_have_a_host_and_a_port() {
        for (text, good) in [
            ("127.0.0.1:3000", true),
            ("app:80", true),
            ("[::1]:80", true),
            ("::1:80", false),
            ("app", false),
            (":80", false),
            ("app:0", false),
            ("http://app:80", false),
            ("app:99999", false),
        ] {
            assert_eq!(server(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn texts_are_quoted_as_toml_reads_them() {
        let text = "a\"b\\c\n\u{7f}é";
        let value = toml::de::DeValue::parse(Box::leak(quoted(text).into_boxed_str())).expect("a value");
        assert_eq!(value.get_ref().as_str(), Some(text));
    }

    #[test]
    fn anyone_includes_whoever_has_the_key() {
        let words = |words: &[&str]| access(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(&[]), Ok(Access::Nobody));
        assert_eq!(words(&["key"]), Ok(Access::Key));
        assert_eq!(words(&["anyone", "key"]), Ok(Access::Anyone));
        assert_eq!(words(&["key", "anyone"]), Ok(Access::Anyone));
        assert!(words(&["everyone"]).is_err());
    }
}
