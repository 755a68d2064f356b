//! The `Date` field of responses (RFC 9110 section 6.6.1).

use crate::base::WallMs;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The time of responses, written once per second.
#[derive(Clone, Debug, Default)]
pub struct DateClock {
    second: u64,
    text: String,
}

impl DateClock {
    /// The value of the field now.
    pub fn at(&mut self, now: WallMs) -> &str {
        let second = now.0 / 1000;
        if self.text.is_empty() || self.second != second {
            *self = Self { second, text: imf_fixdate(second) };
        }
        &self.text
    }
}

/// Seconds since 1970 as RFC 9110 section 5.6.7 wants them.
fn imf_fixdate(second: u64) -> String {
    let (days, time) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil(days);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month]);
    format!("{weekday}, {day:02} {month} {year:04} {:02}:{:02}:{:02} GMT", time / 3600, time / 60 % 60, time % 60)
}

/// Year, month from 0 and day from 1 of a day since 1970, by years that begin in March, so that leap days come last.
fn civil(days: u64) -> (u64, usize, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12;
    (era * 400 + year + u64::from(month < 2), month as usize, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_the_rfc_does() {
        for (second, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_704_067_199, "Sun, 31 Dec 2023 23:59:59 GMT"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(imf_fixdate(second), expected);
            assert_eq!(DateClock::default().at(WallMs(second * 1000 + 999)), expected);
        }
        let mut clock = DateClock::default();
        clock.at(WallMs(0));
        assert!(clock.at(WallMs(1000)).contains("00:00:01"));
    }
}
