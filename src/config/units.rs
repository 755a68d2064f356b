//! Sizes and durations as people write them: `"64KiB"`, `"30s"`. A bare number of seconds or kilobytes is nobody's friend, so a
//! unit is required; only zero needs none.

use std::time::Duration;

/// Units of sizes, largest first: the order in which [`show_bytes`] tries them.
const BYTE_UNITS: [(&str, u64); 7] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000), ("B", 1)];

/// Units of durations, largest first, in milliseconds.
const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Units that durations are printed in: days and hours are read but `720h` is the customary way to write a month.
const TIME_UNITS_SHOWN: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a size such as `64KiB`. `None` is not a size.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<usize> {
    let (number, unit) = split(text)?;
    let scale = match unit {
        "" if number == 0 => 1,
        _ => BYTE_UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    usize::try_from(number.checked_mul(scale)?).ok()
}

/// Reads a duration such as `30s`, `5m` or `10ms`. `None` is not a duration.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let scale = match unit {
        "" if number == 0 => 1,
        _ => TIME_UNITS.into_iter().find(|&(name, _)| name == unit)?.1,
    };
    Some(Duration::from_millis(number.checked_mul(scale)?))
}

/// A size in its largest whole binary unit.
#[must_use]
pub fn show_bytes(bytes: usize) -> String {
    show(bytes as u64, &BYTE_UNITS, "B")
}

/// A duration in its largest whole unit; below a millisecond nothing is kept.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &TIME_UNITS_SHOWN, "s")
}

fn show(number: u64, units: &[(&str, u64)], unit_of_zero: &str) -> String {
    let unit = units.iter().find(|(_, scale)| number > 0 && number.is_multiple_of(*scale));
    unit.map_or_else(|| format!("0{unit_of_zero}"), |(name, scale)| format!("{}{name}", number / scale))
}

/// The whole number in front and the letters behind it, blanks between them allowed.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("64KiB", Some(65_536)),
            ("1 MiB", Some(1 << 20)),
            ("2GiB", Some(2 << 30)),
            ("10kb", Some(10_000)),
            ("7B", Some(7)),
            ("0", Some(0)),
            ("64", None),
            ("64K", None),
            ("1.5MiB", None),
            ("-1B", None),
            ("", None),
            ("KiB", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("720h", Some(2_592_000_000)),
            ("2d", Some(172_800_000)),
            ("10ms", Some(10)),
            ("0", Some(0)),
            ("30", None),
            ("5M", None),
            ("1h30m", None),
            ("s", None),
            ("999999999999999999d", None),
        ] {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn shown_as_people_write_them() {
        assert_eq!(show_bytes(65_536), "64KiB");
        assert_eq!(show_bytes(256 << 20), "256MiB");
        assert_eq!(show_bytes(0), "0B");
        assert_eq!(show_duration(Duration::from_secs(720 * 3600)), "720h");
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(number in 0..u64::from(u32::MAX)) {
            prop_assert_eq!(parse_bytes(&show_bytes(number as usize)), Some(number as usize));
            let duration = Duration::from_millis(number);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }

        #[test]
        fn nothing_panics(text in ".*") {
            let _ = parse_bytes(&text);
            let _ = parse_duration(&text);
        }
    }
}
