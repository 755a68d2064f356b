//! Values as users write them: sizes, durations, lists.

use std::fmt;
use std::time::Duration;

/// A value from a file, the environment or a flag, before its key says what it must be.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    List(Vec<String>),
}

/// What a value should have been.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected(pub String);

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn expected<T>(what: impl Into<String>) -> Result<T, Expected> {
    Err(Expected(what.into()))
}

impl Value {
    /// A value from the environment, where everything is text.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        match text.trim() {
            "true" => Self::Bool(true),
            "false" => Self::Bool(false),
            number if number.parse::<i64>().is_ok() => Self::Integer(number.parse().unwrap_or(0)),
            other => Self::Text(other.to_owned()),
        }
    }

    pub fn text(&self) -> Result<String, Expected> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            // A key or a name may look like a number in the environment.
            Self::Integer(number) => Ok(number.to_string()),
            Self::Bool(_) | Self::List(_) => expected("a text in quotes"),
        }
    }

    pub fn bool(&self) -> Result<bool, Expected> {
        match self {
            Self::Bool(value) => Ok(*value),
            Self::Text(_) | Self::Integer(_) | Self::List(_) => expected("true or false"),
        }
    }

    /// A whole number in a range.
    pub fn count(&self, low: usize, high: usize) -> Result<usize, Expected> {
        let what = || Expected(format!("a whole number from {low} to {high}"));
        match self {
            Self::Integer(number) => usize::try_from(*number).ok().filter(|number| (low..=high).contains(number)).ok_or_else(what),
            Self::Text(_) | Self::Bool(_) | Self::List(_) => Err(what()),
        }
    }

    /// Bytes: `"64KiB"`, `"1MiB"`, `"512B"` or a plain number.
    pub fn size(&self, low: usize, high: usize) -> Result<usize, Expected> {
        let what = || Expected(format!("a size from {low} to {high} bytes such as \"64KiB\", \"2MiB\" or 4096"));
        let bytes = match self {
            Self::Integer(number) => usize::try_from(*number).ok(),
            Self::Text(text) => parse_size(text),
            Self::Bool(_) | Self::List(_) => None,
        };
        bytes.filter(|bytes| (low..=high).contains(bytes)).ok_or_else(what)
    }

    /// A duration: `"30s"`, `"10ms"`, `"5m"`, `"720h"`.
    pub fn duration(&self, low: Duration, high: Duration) -> Result<Duration, Expected> {
        let what =
            || Expected(format!("a duration from {} to {} such as \"30s\", \"10ms\", \"5m\" or \"720h\"", Shown(low), Shown(high)));
        let duration = match self {
            Self::Text(text) => parse_duration(text),
            Self::Integer(0) => Some(Duration::ZERO),
            Self::Integer(_) | Self::Bool(_) | Self::List(_) => None,
        };
        duration.filter(|duration| (low..=high).contains(duration)).ok_or_else(what)
    }

    /// A list of texts; a single text is split at commas (for the environment).
    pub fn list(&self) -> Result<Vec<String>, Expected> {
        match self {
            Self::List(items) => Ok(items.clone()),
            Self::Text(text) if text.is_empty() => Ok(Vec::new()),
            Self::Text(text) => Ok(text.split(',').map(|item| item.trim().to_owned()).collect()),
            Self::Integer(_) | Self::Bool(_) => expected("a list of texts"),
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, Expected> {
        let text = self.text().unwrap_or_default();
        let known = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        let list: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        known.ok_or_else(|| Expected(format!("one of {}", list.join(", "))))
    }
}

fn parse_size(text: &str) -> Option<usize> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: usize = text[..at].parse().ok()?;
    let unit = match text[at..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..at].parse().ok()?;
    let unit_ms = match text[at..].trim() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

/// A duration as it would be written in a config file.
pub struct Shown(pub Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match (ms % 3_600_000, ms % 60_000, ms % 1000) {
            (0, _, _) if ms > 0 => write!(f, "{}h", ms / 3_600_000),
            (_, 0, _) if ms > 0 => write!(f, "{}m", ms / 60_000),
            (_, _, 0) => write!(f, "{}s", ms / 1000),
            _ => write!(f, "{ms}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_with_their_units() {
        let size = |text: &str| Value::from_text(text).size(0, 1 << 40).ok();
        assert_eq!(
            [size("64KiB"), size("4096"), size("2 MiB"), size("512B"), size("1GiB")],
            [Some(65536), Some(4096), Some(2 << 20), Some(512), Some(1 << 30)]
        );
        assert_eq!([size("64kb"), size("KiB"), size("-1"), size("99999999999999999999GiB")], [None; 4]);
        let duration =
            |text: &str| Value::from_text(text).duration(Duration::ZERO, Duration::MAX).ok().map(|duration| duration.as_millis());
        assert_eq!(
            [duration("30s"), duration("10ms"), duration("5m"), duration("720h"), duration("0")],
            [Some(30_000), Some(10), Some(300_000), Some(2_592_000_000), Some(0)]
        );
        assert_eq!([duration("30"), duration("s"), duration("1d"), duration("99999999999999999h")], [None; 4]);
    }

    #[test]
    fn what_is_out_of_range_is_told_the_range() {
        assert_eq!(Value::Integer(0).count(1, 9).unwrap_err().0, "a whole number from 1 to 9");
        let error = Value::from_text("2h").duration(Duration::from_secs(1), Duration::from_secs(3600)).unwrap_err();
        assert!(error.0.starts_with("a duration from 1s to 1h"), "{error}");
    }
}
