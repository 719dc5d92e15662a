//! Notes: lines that an agent writes on the console for its monitor.
//!
//! Notes are mixed with the daemon's output, so each note contains the token; a line with another token counts as
//! output. `up` is a hint to dial, so that the monitor does not have to poll for the agent. `exited` is back-up
//! evidence in case that the report over vsock is lost.

use crate::exit::{Exit, generation_1};
use crate::text::shown;
use serde::{Deserialize, Serialize};

/// The beginning of each note: the ASCII record separator, then a name.
pub const MARK: &str = "\u{1e}pepita ";

/// The contents of a note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// The agent listens on its port.
    Up,
    /// The daemon has ended, with this exit.
    Exited(#[serde(with = "generation_1")] Exit),
    /// The agent cannot continue, for this reason.
    Failed(String),
}

#[derive(Serialize, Deserialize)]
struct Marked {
    token: String,
    note: Note,
}

/// Returns the line of a note, including its newline. The text begins with a newline, too, so that the note is a line
/// of its own even after an unfinished line of output.
pub fn encode(token: &str, note: &Note) -> String {
    let marked = Marked { token: token.to_owned(), note: note.clone() };
    let json = serde_json::to_string(&marked).expect("plain structs become JSON");
    format!("\n{MARK}{json}\n")
}

/// Parses a line of the console, with or without the carriage return that a tty adds. Returns `None` for a line that is
/// not a note with one of these tokens.
pub fn decode(line: &[u8], tokens: &[&str]) -> Option<Note> {
    let json = line.strip_prefix(MARK.as_bytes())?;
    let marked: Marked = serde_json::from_slice(json).ok()?;
    // An empty token is skipped, because it would make forged notes valid.
    tokens.iter().any(|t| !t.is_empty() && *t == marked.token).then_some(match marked.note {
        Note::Failed(why) => Note::Failed(shown(&why)),
        note @ (Note::Up | Note::Exited(_)) => note,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_only_with_its_token() {
        let text = encode("s3cret", &Note::Exited(Exit::code(3)));
        let line = text.trim_matches('\n').as_bytes();
        assert_eq!(decode(line, &["other", "s3cret"]), Some(Note::Exited(Exit::code(3))));
        assert_eq!(decode(line, &["other"]), None);
        assert_eq!(decode(b"plain output", &["s3cret"]), None);
        let forged = encode("", &Note::Up);
        assert_eq!(decode(forged.trim_matches('\n').as_bytes(), &[""]), None);
    }

    #[test]
    fn a_carriage_return_of_the_tty_does_no_harm() {
        let text = encode("t", &Note::Up).replace('\n', "\r\n");
        let line = text.trim_matches('\n').trim_start_matches("\r\n");
        assert_eq!(decode(line.as_bytes(), &["t"]), Some(Note::Up));
    }
}
