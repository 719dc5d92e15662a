//! The wall clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time in milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The last millisecond of the year 9999, the latest time that RFC 3339 can express.
const LATEST_MS: u64 = 253_402_300_799_999;

/// Returns a time in milliseconds since the Unix epoch as text, for people (RFC 3339). A later time than the text can
/// express reads as the latest.
pub fn to_text(unix_ms: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(unix_ms.min(LATEST_MS));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_a_time() {
        assert_eq!(to_text(0), "1970-01-01T00:00:00Z");
        assert_eq!(to_text(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
