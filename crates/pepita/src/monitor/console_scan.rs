//! Scans the stream of the console: takes the agent's notes out, keeps the last lines, and recognises a kernel panic.
//! Uses at most a few KiB of memory, independent of the guest's output.

use pepita_wire::console::{MARK, Note, decode};
use pepita_wire::text::shown_up_to;
use std::collections::VecDeque;

/// The longest note, in bytes. A longer line counts as output.
const NOTE_CAP: usize = 4096;

/// The number of lines that are kept for the exit record.
const LINES_KEPT: usize = 20;

/// The number of bytes that are kept of a line.
const LINE_KEPT: usize = 200;

/// The text that the Linux kernel writes when it panics.
const PANIC: &str = "Kernel panic - not syncing";

/// The scanner of the output of one console.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Bytes that may be the beginning of a note.
    held: Vec<u8>,
    /// Whether the next byte begins a line: the last output ended with a newline, or there was no output yet.
    fresh: bool,
    line: Vec<u8>,
    last: VecDeque<String>,
    /// The lines around the first line that reports a panic. Any program in the guest can write such a line, so they
    /// stand in for the last lines only when the panic is proven.
    panic: Option<Panic>,
}

/// The lines around a line that reports a panic.
#[derive(Debug)]
struct Panic {
    line: String,
    around: Vec<String>,
}

impl Scanner {
    /// Returns a scanner for a console of which nothing was read yet.
    pub fn new() -> Self {
        Self { fresh: true, ..Self::default() }
    }

    /// Scans the next bytes. Returns the notes that have one of `tokens`, and appends everything else to `output`.
    pub fn push(&mut self, bytes: &[u8], tokens: &[&str], output: &mut Vec<u8>) -> Vec<Note> {
        let mut notes = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.held.is_empty() {
                // The bytes before a possible beginning of a note are output.
                let end = self.plain(rest);
                self.give(&rest[..end], output);
                rest = &rest[end..];
                if let Some((byte, more)) = rest.split_first() {
                    self.held.push(*byte);
                    rest = more;
                }
                continue;
            }
            let (byte, more) = (rest[0], &rest[1..]);
            self.held.push(byte);
            rest = more;
            if byte == b'\n' && self.held.len() > 1 {
                let held = std::mem::take(&mut self.held);
                let line = held.strip_prefix(b"\n").unwrap_or(&held);
                match decode(line.strip_suffix(b"\n").unwrap_or(line), tokens) {
                    Some(note) => notes.push(note),
                    None => self.give(&held, output),
                }
            } else if !self.may_be_note() {
                let held = std::mem::take(&mut self.held);
                self.give(&held, output);
            }
        }
        notes
    }

    /// Returns the number of leading bytes that cannot belong to a note. A note is a whole line and begins with a
    /// newline of its own. That newline is held back only where it would make an empty line.
    fn plain(&self, bytes: &[u8]) -> usize {
        let mut fresh = self.fresh;
        for (at, byte) in bytes.iter().enumerate() {
            if fresh && (*byte == b'\n' || *byte == MARK.as_bytes()[0]) {
                return at;
            }
            fresh = *byte == b'\n';
        }
        bytes.len()
    }

    fn may_be_note(&self) -> bool {
        let line = self.held.strip_prefix(b"\n").unwrap_or(&self.held);
        let known = line.len().min(MARK.len());
        self.held.len() <= NOTE_CAP && line[..known] == MARK.as_bytes()[..known]
    }

    fn give(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        let Some(last) = bytes.last() else { return };
        self.fresh = *last == b'\n';
        output.extend_from_slice(bytes);
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let room = LINE_KEPT.saturating_sub(self.line.len());
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = text_of(&line);
        if line.is_empty() {
            return;
        }
        if self.panic.is_none() && line.contains(PANIC) {
            // The trace that follows a panic is longer than the kept lines, and its first lines are the most useful, so
            // only a few lines before the panic stay.
            let before = self.last.len().saturating_sub(LINES_KEPT / 4);
            self.panic =
                Some(Panic { line: line.clone(), around: self.last.iter().skip(before).cloned().collect() });
        }
        if let Some(panic) = &mut self.panic
            && panic.around.len() < LINES_KEPT
        {
            panic.around.push(line.clone());
        }
        if self.last.len() == LINES_KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    fn unfinished(&self) -> Option<String> {
        let unfinished = text_of(&self.line);
        (!unfinished.is_empty()).then_some(unfinished)
    }

    /// Returns the last lines, including an unfinished line.
    pub fn last_lines(&self) -> Vec<String> {
        self.last.iter().cloned().chain(self.unfinished()).collect()
    }

    /// Returns the first line that reports a panic of the guest's kernel. The kernel may have written it, or any program
    /// in the guest.
    pub fn panic_line(&self) -> Option<&str> {
        self.panic.as_ref().map(|panic| panic.line.as_str())
    }

    /// Returns the lines around that line, including an unfinished line.
    pub fn lines_around_panic(&self) -> Vec<String> {
        let Some(panic) = &self.panic else { return Vec::new() };
        let unfinished = self.unfinished().filter(|_| panic.around.len() < LINES_KEPT);
        panic.around.iter().cloned().chain(unfinished).collect()
    }
}

/// Returns a line as the exit record has it.
fn text_of(line: &[u8]) -> String {
    shown_up_to(String::from_utf8_lossy(line).trim_end(), LINE_KEPT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pepita_wire::Exit;
    use pepita_wire::console::encode;
    use proptest::prelude::*;

    fn scan(chunks: &[&[u8]]) -> (String, Vec<Note>, Scanner) {
        let (mut scanner, mut output, mut notes) = (Scanner::new(), Vec::new(), Vec::new());
        for chunk in chunks {
            notes.extend(scanner.push(chunk, &["t"], &mut output));
        }
        (String::from_utf8_lossy(&output).into_owned(), notes, scanner)
    }

    #[test]
    fn notes_are_taken_out_however_they_are_cut_and_the_rest_stays() {
        let note = Note::Exited(Exit::code(3));
        let text = format!("one\n{}two\n", encode("t", &note)).into_bytes();
        for cut in 0..text.len() {
            let (output, notes, _) = scan(&[&text[..cut], &text[cut..]]);
            assert_eq!((output.as_str(), &notes[..]), ("one\ntwo\n", &[note.clone()][..]), "cut at {cut}");
        }
    }

    #[test]
    fn a_forged_note_is_output() {
        let forged = encode("guess", &Note::Exited(Exit::code(0)));
        let (output, notes, _) = scan(&[forged.as_bytes()]);
        assert_eq!((output, notes.len()), (forged, 0));
    }

    #[test]
    fn a_panic_is_seen_and_the_last_lines_are_kept() {
        let mut text = String::new();
        for n in 0..100 {
            text.push_str(&format!("line {n} {}\n", "x".repeat(500)));
        }
        text.push_str("[    1.2] Kernel panic - not syncing: sysrq triggered crash\nlast");
        let (_, _, scanner) = scan(&[text.as_bytes()]);
        assert!(scanner.panic_line().is_some_and(|line| line.contains("sysrq")));
        let lines = scanner.lines_around_panic();
        assert_eq!((lines.len(), lines[6].as_str()), (7, "last"));
        assert!(lines[4].starts_with("line 99 ") && lines[5].contains("sysrq"));
        assert!(lines.iter().all(|line| line.len() <= LINE_KEPT));
        // A daemon that prints such a line hides nothing that follows.
        let mut text = text + "\n";
        for n in 0..100 {
            text.push_str(&format!("later {n}\n"));
        }
        let (_, _, scanner) = scan(&[text.as_bytes()]);
        assert_eq!(scanner.last_lines().last().map(String::as_str), Some("later 99"));
        let around = scanner.lines_around_panic();
        assert_eq!((around.len(), around[6].as_str()), (LINES_KEPT, "last"));
    }

    proptest! {
        #[test]
        fn whatever_a_guest_writes_comes_out_unless_it_is_a_note(
            chunks in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), Just(0x1e), Just(b'p'), any::<u8>()], 0..60), 0..20),
        ) {
            let (mut scanner, mut output) = (Scanner::new(), Vec::new());
            for chunk in &chunks {
                prop_assert!(scanner.push(chunk, &["t"], &mut output).is_empty());
                prop_assert!(scanner.held.len() <= NOTE_CAP + 1);
            }
            let all = chunks.concat();
            prop_assert_eq!(&output[..], &all[..output.len()]);
            prop_assert_eq!(&scanner.held[..], &all[output.len()..]);
        }
    }
}
