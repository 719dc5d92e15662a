//! Reads the output of a launcher line by line, and gives each line its name.

use anstyle::AnsiColor;
use jiff::Timestamp;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::time::timeout;

/// The longest part of a line that is printed as one line, in bytes: a daemon may print without any end of line.
const LINE_CAP: usize = 64 << 10;

/// The colours of the names, one after the other. Red is not among them: it means a failure.
const COLOURS: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightCyan,
];

/// The form in which output is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Byte for byte.
    AsItCame,
    /// Line by line, each with the name of its VM.
    Named,
    /// Line by line, each with the name of its VM, its time and its incarnation.
    NamedAndStamped,
}

/// A piece of output that is printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The time at which it came, in milliseconds since 1970; 0 when nothing is known.
    pub(super) at_ms: i64,
    pub(super) text: Vec<u8>,
}

/// What stands before each line of a VM.
#[derive(Debug)]
pub(super) struct Prefix {
    form: Form,
    /// The name with what separates it from the line.
    name: Vec<u8>,
    /// The time and the stamp of the last line, with which a line goes on that was too long.
    at_ms: i64,
    stamp: Vec<u8>,
    is_begun: bool,
}

impl Prefix {
    /// Returns what stands before the lines of a VM. `number` is its place among the VMs; without it the name has no colour.
    pub(super) fn new(vm: &str, form: Form, number: Option<usize>) -> Self {
        let colour = number.map(|number| COLOURS[number % COLOURS.len()].on_default());
        let style = colour.unwrap_or_default();
        let name = format!("{style}{vm} |{style:#} ").into_bytes();
        Self { form, name, at_ms: 0, stamp: Vec::new(), is_begun: false }
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// Returns a piece of output, which the launcher has stamped, as it is printed: a line has the name of its VM, and an end.
    pub(super) fn line(&mut self, piece: Vec<u8>) -> Line {
        if self.form == Form::AsItCame {
            return Line { at_ms: 0, text: piece };
        }
        let stamp = if self.is_begun { 0 } else { self.read_stamp(&piece) };
        self.is_begun = piece.last() != Some(&b'\n');
        let mut text = self.name.clone();
        if self.form == Form::NamedAndStamped {
            text.extend_from_slice(&self.stamp);
        }
        text.extend_from_slice(&piece[stamp..]);
        if self.is_begun {
            text.push(b'\n');
        }
        Line { at_ms: self.at_ms, text }
    }

    /// Reads the stamp of a line, and returns its length. A line without a known time counts as old as the line before.
    fn read_stamp(&mut self, line: &[u8]) -> usize {
        let length = stamp_length(line).unwrap_or(0);
        self.stamp = line[..length].to_vec();
        let time = line[..length].split(|byte| *byte == b' ').next().unwrap_or_default();
        let time = std::str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok());
        self.at_ms = time.map_or(self.at_ms, Timestamp::as_millisecond);
        length
    }
}

/// Returns the length of `2026-11-27T07:39:06.123Z #3 ` at the beginning of a line.
fn stamp_length(line: &[u8]) -> Option<usize> {
    let time = line.iter().position(|byte| *byte == b' ')? + 1;
    let number = line[time..].iter().position(|byte| *byte == b' ')? + 1;
    (line.get(time) == Some(&b'#')).then_some(time + number)
}

/// Reads into `line` until a piece of output is there that can be printed: a whole line, or, if lines are not wanted, what
/// there is. After a silence of this length the beginning of a line is such a piece, too. Returns whether the output is
/// over. What was read when this future is dropped stays in `line`.
pub(super) async fn fill(
    line: &mut Vec<u8>,
    form: Form,
    output: &mut BufReader<impl AsyncRead + Unpin>,
    patience: Option<Duration>,
) -> bool {
    loop {
        let read = match patience.filter(|_| !line.is_empty()) {
            None => output.fill_buf().await,
            Some(patience) => match timeout(patience, output.fill_buf()).await {
                Ok(read) => read,
                Err(_) => return false,
            },
        };
        // An error ends the output, like its end.
        let bytes = read.unwrap_or_default();
        if bytes.is_empty() {
            return true;
        }
        let part = &bytes[..bytes.len().min(LINE_CAP - line.len())];
        let end = part.iter().position(|byte| *byte == b'\n');
        let part = match (form, end) {
            (Form::Named | Form::NamedAndStamped, Some(end)) => &part[..=end],
            (Form::Named | Form::NamedAndStamped, None) | (Form::AsItCame, _) => part,
        };
        let length = part.len();
        line.extend_from_slice(part);
        output.consume(length);
        if form == Form::AsItCame || end.is_some() || line.len() == LINE_CAP {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::logs::SILENCE;
    use tokio::io::AsyncWriteExt;

    fn text(line: Line) -> (i64, String) {
        (line.at_ms, String::from_utf8(line.text).expect("text"))
    }

    #[tokio::test(start_paused = true)]
    async fn the_beginning_of_a_line_is_printed_after_a_silence_when_output_is_followed() {
        let (mut daemon, output) = tokio::io::duplex(1024);
        let mut output = BufReader::new(output);
        daemon.write_all(b"- #1 one\n- #1 two").await.expect("room");
        let (mut line, mut prefix) = (Vec::new(), Prefix::new("a", Form::Named, None));
        let mut next = async |patience| {
            let is_over = fill(&mut line, Form::Named, &mut output, patience).await;
            let piece = std::mem::take(&mut line);
            let printed = if piece.is_empty() { String::new() } else { text(prefix.line(piece)).1 };
            (printed, is_over)
        };
        assert_eq!(next(Some(SILENCE)).await, ("a | one\n".into(), false));
        assert_eq!(next(Some(SILENCE)).await, ("a | two\n".into(), false));
        daemon.write_all(b" and more").await.expect("room");
        assert!(timeout(SILENCE * 10, next(None)).await.is_err(), "without a limit lines are whole");
        drop(daemon);
        assert_eq!(next(None).await, ("a |  and more\n".into(), true), "what was read is not lost");
        assert_eq!(next(None).await, (String::new(), true));
    }

    #[test]
    fn a_stamp_is_read_and_printed_if_it_is_wanted_and_goes_on_over_a_long_line() {
        let stamp = "1970-01-01T00:00:07.500Z #3 ";
        for (form, printed) in [(Form::Named, ""), (Form::NamedAndStamped, stamp)] {
            let mut prefix = Prefix::new("a", form, None);
            let mut line = |piece: &str| text(prefix.line(piece.as_bytes().to_vec()));
            assert_eq!(line(&format!("{stamp}one two\n")), (7500, format!("a | {printed}one two\n")));
            let unknown = if form == Form::Named { "" } else { "- #3 " };
            assert_eq!(line("- #3 x\n"), (7500, format!("a | {unknown}x\n")), "as old as the line before");
            assert_eq!(line(&format!("{stamp}begun")), (7500, format!("a | {printed}begun\n")));
            assert_eq!(line("9 #9 goes on\n"), (7500, format!("a | {printed}9 #9 goes on\n")));
            assert_eq!(line("no stamp\n"), (7500, "a | no stamp\n".into()));
        }
        let mut raw = Prefix::new("a", Form::AsItCame, None);
        assert_eq!(text(raw.line(b"\x00- #1 x".to_vec())).1, "\x00- #1 x");
        let coloured = text(Prefix::new("a", Form::Named, Some(7)).line(b"- #1 x\n".to_vec())).1;
        assert_eq!(coloured, "\x1b[33ma |\x1b[0m x\n");
    }
}
