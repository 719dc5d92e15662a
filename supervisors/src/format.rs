//! Formats events and notes as lines for people, with the local wall-clock time and a colour for the kind of event.

use anstyle::{AnsiColor, Style};
use jiff::tz::TimeZone;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BUSY: Style = AnsiColor::Cyan.on_default();
const BAD: Style = AnsiColor::Yellow.on_default();
const WORST: Style = AnsiColor::Red.on_default().bold();

/// Formats a time as `15:04:05.678`, in the machine's time zone.
fn format_time(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(time) => time.to_zoned_datetime(TimeZone::system()).strftime("%H:%M:%S%.3f").to_string(),
        // After the year 9999.
        Err(_) => "--:--:--.---".into(),
    }
}

/// Returns the style of a VM's phase, given by its word.
pub(crate) fn phase_style(phase: &str) -> Style {
    match phase {
        "ready" | "completed" => GOOD,
        "waiting" | "starting" | "running" | "stopping" => BUSY,
        "unhealthy" | "backoff" | "paused" => BAD,
        "failed" => WORST,
        _ => Style::new(),
    }
}

fn format_line(time: SystemTime, style: Style, text: &str) -> String {
    format!("{DIM}{}{DIM:#} {style}{text}{style:#}", format_time(time))
}

/// Formats an event, given in the JSON of [`pepita_supervisor::Event::to_json`]. Its sentence is the library's.
pub(crate) fn format_event(event: &Value) -> String {
    let word = |key: &str| event[key].as_str().unwrap_or_default();
    let style = match word("event") {
        "vm" => phase_style(word("to")),
        "group-ready" => GOOD,
        "group-ended" | "tree-ended" if event["failed"] == true => WORST,
        _ => Style::new(),
    };
    let time = UNIX_EPOCH + Duration::from_millis(event["time_ms"].as_u64().unwrap_or_default());
    format_line(time, style, word("text"))
}

/// Formats a note of the program itself.
pub(crate) fn format_note(time: SystemTime, text: &str) -> String {
    format_line(time, Style::new().bold(), text)
}

/// Formats the message that a reader was too slow and has missed events.
pub(crate) fn format_lagged(missed: u64) -> String {
    format_line(SystemTime::now(), BAD, &format!("({missed} events were dropped before they were read)"))
}

/// Formats a duration in its two largest units: `12s`, `3m05s`, `2h05m`, `3d04h`.
pub(crate) fn format_duration(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        s @ 3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        s => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_shown_in_its_two_largest_units() {
        let shown = |secs| format_duration(Duration::from_secs(secs));
        assert_eq!([0, 59, 60, 3725, 90_000].map(shown), ["0s", "59s", "1m00s", "1h02m", "1d01h"]);
    }
}
