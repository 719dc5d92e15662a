//! Splits a byte stream into lines and enforces the cap on their length. Knows nothing about JSON and does no I/O.

use crate::protocol::LINE_CAP;

/// The capacity of the buffer that is kept when no byte waits: more than a ping or its answer has.
const KEPT: usize = 128;

/// Splits bytes into lines. Memory never exceeds the cap plus one read, independent of the peer's data.
#[derive(Debug)]
pub struct Lines {
    cap: usize,
    buffer: Vec<u8>,
    /// The position at which the search for the next newline continues, so that no byte is searched twice.
    scanned: usize,
    /// The position at which the unread part of `buffer` begins.
    start: usize,
    skipping: bool,
}

/// A line that cannot be returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The line is longer than this cap. Its bytes are dropped up to the next newline.
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
}

impl Default for Lines {
    fn default() -> Self {
        Self::with_cap(LINE_CAP)
    }
}

impl Lines {
    /// Begins a stream whose lines have at most [`LINE_CAP`] bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a stream whose lines have at most `cap` bytes, newline included.
    pub fn with_cap(cap: usize) -> Self {
        Self { cap, buffer: Vec::new(), scanned: 0, start: 0, skipping: false }
    }

    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete line, without its newline; `None` when more bytes have to be read first.
    pub fn next_line(&mut self) -> Option<Result<&[u8], LineError>> {
        loop {
            let found = self.buffer[self.scanned..].iter().position(|b| *b == b'\n');
            let Some(offset) = found else {
                self.scanned = self.buffer.len();
                let pending = self.buffer.len() - self.start;
                if pending == 0 {
                    self.give_back();
                }
                if pending < self.cap {
                    return None;
                }
                self.buffer.clear();
                (self.start, self.scanned) = (0, 0);
                // The rest of this line is dropped as it comes, and the error is returned only once.
                if std::mem::replace(&mut self.skipping, true) {
                    return None;
                }
                return Some(Err(LineError::TooLong(self.cap)));
            };
            let (from, to) = (self.start, self.scanned + offset);
            self.start = to + 1;
            self.scanned = to + 1;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if to - from >= self.cap {
                return Some(Err(LineError::TooLong(self.cap)));
            }
            return Some(Ok(&self.buffer[from..to]));
        }
    }

    /// Empties the buffer, of which every line was returned. Connections are silent most of the time, and a long line would
    /// keep its memory for all of it.
    fn give_back(&mut self) {
        (self.start, self.scanned) = (0, 0);
        match self.buffer.capacity() > KEPT {
            true => self.buffer = Vec::new(),
            false => self.buffer.clear(),
        }
    }

    /// Returns the bytes after the last returned line, with which a bulk stream begins.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.buffer.split_off(self.start)
    }

    /// Returns the number of buffered bytes.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines) -> Vec<Result<Vec<u8>, LineError>> {
        let mut out = Vec::new();
        while let Some(line) = lines.next_line() {
            out.push(line.map(<[u8]>::to_vec));
        }
        out
    }

    #[test]
    fn a_long_line_keeps_no_memory_once_it_was_returned() {
        let mut lines = Lines::new();
        lines.push(&[b'x'; 100_000]);
        lines.push(b"\nrest");
        assert_eq!(all(&mut lines), [Ok(vec![b'x'; 100_000])]);
        assert_eq!(lines.pending(), 4);
        lines.push(b"\n");
        assert_eq!(all(&mut lines), [Ok(b"rest".to_vec())]);
        assert!(lines.buffer.capacity() <= KEPT, "{}", lines.buffer.capacity());
        lines.push(b"next\n");
        assert_eq!(all(&mut lines), [Ok(b"next".to_vec())]);
    }

    #[test]
    fn lines_come_out_whole_however_they_are_cut() {
        let text = b"one\n\ntwo\nthree";
        for cut in 0..text.len() {
            let mut lines = Lines::new();
            lines.push(&text[..cut]);
            let mut got = all(&mut lines);
            lines.push(&text[cut..]);
            got.extend(all(&mut lines));
            assert_eq!(got, [Ok(b"one".to_vec()), Ok(Vec::new()), Ok(b"two".to_vec())]);
            assert_eq!(lines.into_rest(), b"three");
        }
    }

    #[test]
    fn a_line_over_the_cap_is_told_once_and_the_next_one_reads() {
        let mut lines = Lines::new();
        let mut errors = 0;
        for _ in 0..5 {
            lines.push(&vec![b'x'; LINE_CAP / 2]);
            errors += all(&mut lines).len();
            assert!(lines.pending() < LINE_CAP);
        }
        assert_eq!(errors, 1);
        lines.push(b"tail\nfine\n");
        assert_eq!(all(&mut lines), [Ok(b"fine".to_vec())]);
    }

    #[test]
    fn a_line_of_exactly_the_cap_is_accepted() {
        let mut lines = Lines::new();
        lines.push(&vec![b'x'; LINE_CAP - 1]);
        assert!(lines.next_line().is_none());
        lines.push(b"\n");
        assert_eq!(lines.next_line().map(|l| l.map(<[u8]>::len)), Some(Ok(LINE_CAP - 1)));
    }
}
