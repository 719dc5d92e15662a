//! An event as a line for people: local wall-clock time, colour by what it means.

use anstyle::{AnsiColor, Style};
use jiff::tz::TimeZone;
use pepita_supervisor::observe::{Event, EventKind};
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BUSY: Style = AnsiColor::Cyan.on_default();
const BAD: Style = AnsiColor::Yellow.on_default();
const WORST: Style = AnsiColor::Red.on_default().bold();

/// `15:04:05.678`, where the machine is.
pub fn clock(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(time) => time.to_zoned_datetime(TimeZone::system()).strftime("%H:%M:%S%.3f").to_string(),
        // After the year 9999.
        Err(_) => "--:--:--.---".into(),
    }
}

/// How a VM's phase is shown.
pub fn style(phase: &str) -> Style {
    match phase {
        "ready" | "completed" => GOOD,
        "waiting" | "starting" | "running" | "stopping" => BUSY,
        "unhealthy" | "backoff" | "paused" => BAD,
        "failed" => WORST,
        _ => Style::new(),
    }
}

fn line(time: SystemTime, style: Style, text: &str) -> String {
    format!("{DIM}{}{DIM:#} {style}{text}{style:#}", clock(time))
}

/// An event.
pub fn event(event: &Event) -> String {
    let style = match &event.kind {
        EventKind::Vm(change) => style(change.to.word()),
        EventKind::GroupReady => GOOD,
        EventKind::GroupEnded { failed: true, .. } => WORST,
        EventKind::GroupEnded { failed: false, .. } | EventKind::Notice { .. } => Style::new(),
    };
    line(event.time, style, &event.to_string())
}

/// An event that came as JSON.
pub fn told(event: &Value) -> String {
    let word = |key: &str| event[key].as_str().unwrap_or_default();
    let style = match word("event") {
        "vm" => style(word("to")),
        "group_ready" => GOOD,
        "group_ended" if event["failed"] == true => WORST,
        _ => Style::new(),
    };
    let time = UNIX_EPOCH + Duration::from_millis(event["time_ms"].as_u64().unwrap_or_default());
    line(time, style, word("text"))
}

/// Something that the program itself has to say.
pub fn note(time: SystemTime, text: &str) -> String {
    line(time, Style::new().bold(), text)
}

/// Events that went by unread.
pub fn lagged(missed: u64) -> String {
    line(SystemTime::now(), BAD, &format!("({missed} events went by unread)"))
}

/// `12s`, `3m05s`, `2h05m`, `3d04h`.
pub fn lasting(time: Duration) -> String {
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
    fn a_time_is_told_in_its_two_largest_units() {
        let told = |secs| lasting(Duration::from_secs(secs));
        assert_eq!([0, 59, 60, 3725, 90_000].map(told), ["0s", "59s", "1m00s", "1h02m", "1d01h"]);
    }
}
