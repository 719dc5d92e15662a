//! Notes: lines that an agent writes on the console for its monitor.
//!
//! Notes travel among the daemon's output, so each carries the token; a line with another token is output like any
//! other. `up` is a hint to dial, so that the monitor need not poll for the agent; `exited` is back-up evidence for when
//! the report over vsock was lost.

use crate::exit::{Exit, generation_1};
use serde::{Deserialize, Serialize};

/// The beginning of each note: the ASCII record separator, then a name.
pub const MARK: &str = "\u{1e}pepita ";

/// What a note says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// The agent listens on its port.
    Up,
    /// The daemon has ended in this way.
    Exited(#[serde(with = "generation_1")] Exit),
    /// The agent cannot go on, for this reason.
    Failed(String),
}

#[derive(Serialize, Deserialize)]
struct Marked {
    token: String,
    note: Note,
}

/// Returns the line of a note, newline included. It begins with a newline, so that half a line of output before it does
/// no harm.
pub fn encode(token: &str, note: &Note) -> String {
    let marked = Marked { token: token.to_owned(), note: note.clone() };
    let json = serde_json::to_string(&marked).expect("plain structs become JSON");
    format!("\n{MARK}{json}\n")
}

/// Reads a line of the console, with or without the carriage return that a tty adds. Returns `None` for a line that is
/// no note with one of these tokens.
pub fn decode(line: &[u8], tokens: &[&str]) -> Option<Note> {
    let json = line.strip_prefix(MARK.as_bytes())?;
    let marked: Marked = serde_json::from_slice(json).ok()?;
    // An empty token would make every note a true one.
    tokens.iter().any(|t| !t.is_empty() && *t == marked.token).then_some(marked.note)
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
