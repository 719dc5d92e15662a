//! Reads the durations and moments of a command line. Asks no clock.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::time::Duration;

/// The longest duration that is read: moments are sums of such durations, and must exist.
const LONGEST: Duration = Duration::from_secs(100 * 31_557_600);

/// The smallest bare number that is read as seconds since 1970 and not as seconds ago, which would be three years: Docker
/// and others write moments in that way.
const EPOCHS: i64 = 100_000_000;

/// The last second of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

/// The help for a wrong duration.
const DURATIONS: &str =
    "use a number of seconds, or a number and a unit such as 500ms, 30s, 5min or 1h, at most 100years";

/// The help for a wrong moment.
const MOMENTS: &str = "use a time such as 2026-11-26T16:00:00Z or 2026-11-26 16:00 (local time), @1790000000 or \
    1790000000 (seconds since 1970), or how long ago: 90s, 5min, 2h";

/// A moment as it is written on a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A time of the wall clock, in milliseconds since 1970; negative before that.
    At(i64),
    /// This long ago.
    Ago(Duration),
}

impl Moment {
    /// Returns the moment in milliseconds since 1970, for a clock that shows `now_ms`. No moment is before the epoch, also
    /// when the clock was never set.
    pub fn unix_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::At(ms) => u64::try_from(ms).unwrap_or(0),
            Self::Ago(ago) => now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Parses `30`, `30s`, `5min`; a bare number is a number of seconds.
///
/// # Errors
/// Returns an error that says what is right, with the range.
pub fn duration(text: &str) -> Result<Duration, String> {
    // humantime 2.4 panics on sums that just miss the largest `Duration`. Such a sum is longer than the limit here in any
    // case.
    let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or_default();
    if digits == 0 || text.len() > 64 {
        return Err(DURATIONS.to_owned());
    }
    let read = match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) if digits > 10 => None,
        Err(_) => Some(humantime::parse_duration(text).map_err(|_| DURATIONS.to_owned())?),
    };
    read.filter(|duration| *duration <= LONGEST).ok_or_else(|| format!("too long: {DURATIONS}"))
}

/// Parses a moment: a time in the form of RFC 3339, a local time without an offset, `@` and seconds since 1970, or a
/// duration that says how long ago. A bare number of nine digits or more is one of seconds since 1970.
///
/// # Errors
/// Returns an error that says what is right.
pub fn moment(text: &str) -> Result<Moment, String> {
    let text = text.trim();
    if let Some(seconds) = text.strip_prefix('@') {
        let seconds = seconds.parse::<i64>().map_err(|_| MOMENTS.to_owned())?;
        return seconds.checked_mul(1000).map(Moment::At).ok_or_else(|| format!("out of range: {MOMENTS}"));
    }
    if text == "now" {
        return Ok(Moment::Ago(Duration::ZERO));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Moment::At(time.as_millisecond()));
    }
    if let Ok(local) = text.parse::<DateTime>() {
        let time = TimeZone::system().to_timestamp(local).map_err(|_| format!("out of range: {MOMENTS}"))?;
        return Ok(Moment::At(time.as_millisecond()));
    }
    if let Ok(seconds) = text.parse::<i64>()
        && seconds >= EPOCHS
    {
        // A greater number is one of milliseconds.
        let is_read = seconds <= LAST_SECOND;
        return if is_read {
            Ok(Moment::At(seconds * 1000))
        } else {
            Err(format!("out of range: {MOMENTS}"))
        };
    }
    let ago = text.strip_suffix("ago").unwrap_or(text).trim();
    match duration(ago.strip_prefix('-').unwrap_or(ago)) {
        Ok(ago) => Ok(Moment::Ago(ago)),
        Err(why) if why.starts_with("too long") => Err(format!("too long ago: {MOMENTS}")),
        Err(_) => Err(MOMENTS.to_owned()),
    }
}

/// Returns whether a moment lies between two others; an absent one is no bound.
pub fn is_between(ms: u64, since: Option<u64>, until: Option<u64>) -> bool {
    since.is_none_or(|since| ms >= since) && until.is_none_or(|until| ms <= until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_within_their_range() {
        for (text, seconds) in
            [("0", 0), ("90", 90), ("5min", 300), ("1h 30min", 5400), ("100years", 3_155_760_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "s",
            "-1",
            "1.5",
            "soon",
            "18446744073709551615",
            "18446744073709551616",
            "101years",
            "99999999999999999999s",
            "18446744073709551615s 999999999ns 1ns",
            "9999999999999999years",
            "584542046090years 999999999ns",
            "1e9",
            "0x10",
            "NaN",
            "inf",
            "\u{661}s",
        ] {
            assert!(duration(text).is_err_and(|why| why.contains("100years")), "{text}");
        }
        assert!(duration(&"1s".repeat(100_000)).is_err());
    }

    #[test]
    fn moments_are_read_and_never_lie_before_the_epoch() {
        let now = 1_790_000_000_000;
        for (text, ms) in [
            ("1970-01-01T00:00:01Z", 1000),
            ("2026-09-21T13:33:20+02:00", 1_789_990_400_000),
            ("2026-09-21T11:33:20.5Z", 1_789_990_400_500),
            ("@1790000000", now),
            ("1790000000", now),
            ("99999999", now - 99_999_999_000),
            ("100000000", 100_000_000_000),
            ("now", now),
            ("90", now - 90_000),
            ("5min", now - 300_000),
            ("5min ago", now - 300_000),
            ("-5min", now - 300_000),
            // Before the epoch: everything is later.
            ("1969-12-31T23:59:59Z", 0),
            ("@-5", 0),
            ("100years", 0),
        ] {
            assert_eq!(moment(text).map(|moment| moment.unix_ms(now)), Ok(ms), "{text}");
        }
        // A clock that was never set.
        assert_eq!(moment("1h").map(|moment| moment.unix_ms(0)), Ok(0));
        // In the future.
        assert_eq!(moment("9999-01-01T00:00:00Z").map(|m| m.unix_ms(now) > now), Ok(true));
        for text in [
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "@9223372036854775807",
            "@x",
            "99999999999y",
            "--since",
            "1790000000000",
        ] {
            assert!(moment(text).is_err_and(|why| why.contains("2026-11-26T16:00:00Z")), "{text}");
        }
        // Without an offset it is local time, whichever that is here.
        assert!(matches!(moment("2026-11-26 16:00"), Ok(Moment::At(_))));
        assert!(matches!(moment("2026-11-26"), Ok(Moment::At(_))));
    }

    #[test]
    fn bounds_are_included_and_may_be_absent() {
        assert!(is_between(5, None, None) && is_between(5, Some(5), Some(5)));
        assert!(!is_between(5, Some(6), None) && !is_between(5, None, Some(4)));
    }
}
