//! Formats events and notes as lines for people, with the local wall-clock time and a colour for the kind of event.

use anstyle::{AnsiColor, Style};
use jiff::tz::TimeZone;
use pepita_supervisor::delay_in_words;
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::Write as _;
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
        "ready" | "completed" | "idle" => GOOD,
        "waiting" | "starting" | "running" | "stopping" => BUSY,
        "unhealthy" | "backoff" | "paused" | "unknown" => BAD,
        "failed" => WORST,
        _ => Style::new(),
    }
}

/// Returns a text without the characters that steer a terminal or change the layout: `\x1b` in place of an escape. A
/// sentence may hold words of a guest.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    without(text, steers)
}

/// Returns a text of several lines without the characters that steer a terminal.
pub(crate) fn shown_lines(text: &str) -> Cow<'_, str> {
    without(text, |c| c != '\n' && steers(c))
}

/// Returns JSON as one line without the characters that steer a terminal: JSON itself lets some of them through.
pub(crate) fn shown_json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(steers) {
        return text;
    }
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match steers(c) {
            // Outside of its texts JSON has no such characters.
            true => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            false => line.push(c),
        }
    }
    line
}

/// Returns whether a character steers a terminal (controls of C0 and C1), or changes the direction or the lines of the
/// text around it. All of them lie in the first plane of Unicode.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn without(text: &str, is_out: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_out) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            c if !is_out(c) => shown.push(c),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            // Writing to a text cannot fail.
            c if c.is_control() => drop(write!(shown, "\\x{:02x}", u32::from(c))),
            c => drop(write!(shown, "\\u{{{:x}}}", u32::from(c))),
        }
    }
    Cow::Owned(shown)
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
    let time = Duration::from_millis(event["time_ms"].as_u64().unwrap_or_default());
    let time = UNIX_EPOCH.checked_add(time).unwrap_or(UNIX_EPOCH);
    format_line(time, style, &shown(word("text")))
}

/// Formats a note of the program itself.
pub(crate) fn format_note(time: SystemTime, text: &str) -> String {
    format_line(time, Style::new().bold(), &shown_lines(text))
}

/// Formats the message that a reader was too slow and has missed events.
pub(crate) fn format_lagged(missed: u64) -> String {
    format_line(SystemTime::now(), BAD, &format!("({missed} events were dropped before they were read)"))
}

/// Formats a duration in whole seconds: `12s`, and longer ones as [`delay_in_words`] does.
pub(crate) fn format_duration(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..60 => format!("{s}s"),
        _ => delay_in_words(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown_and_does_not_steer() {
        let evil = "red \x1b[31m\r\n\ttitle \x1b]0;x\x07 c1 \u{9b}2J del \x7f rtl \u{202e}gnp.exe";
        let safe = r"red \x1b[31m\r\n\ttitle \x1b]0;x\x07 c1 \x9b2J del \x7f rtl \u{202e}gnp.exe";
        assert_eq!(shown(evil), safe);
        assert_eq!(shown_lines("one\ntwo\x1b"), "one\ntwo\\x1b");
        assert!(matches!(shown("plain: é 漢 😀"), Cow::Borrowed(_)));
        let json = serde_json::json!({ "text": evil, "é": ["漢"] });
        let line = shown_json(&json);
        assert!(!line.contains(steers), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).expect("still JSON"), json);
        let event = serde_json::json!({ "event": "vm", "to": "failed", "text": evil, "time_ms": u64::MAX });
        let line = anstream::adapter::strip_str(&format_event(&event)).to_string();
        assert!(line.ends_with(safe), "{line}");
    }

    #[test]
    fn a_duration_is_shown_in_its_two_largest_units() {
        let shown = |secs| format_duration(Duration::from_secs(secs));
        assert_eq!([0, 59, 60, 3725, 90_000].map(shown), ["0s", "59s", "1m00s", "1h02m", "1d01h"]);
    }
}
