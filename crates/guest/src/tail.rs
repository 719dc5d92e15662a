//! Keeps the last output of the daemon in memory, for clients that ask for it later.

use std::collections::VecDeque;

/// The number of bytes of output that are kept.
pub(crate) const TAIL_CAP: usize = 64 * 1024;

/// The last [`TAIL_CAP`] bytes of the daemon's output, and their position in the whole stream.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    /// The number of bytes that were written in all.
    written: u64,
}

impl Tail {
    /// Appends output and drops the oldest bytes over the cap.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_CAP)..];
        let over = (self.bytes.len() + bytes.len()).saturating_sub(TAIL_CAP);
        self.bytes.drain(..over);
        self.bytes.extend(bytes);
    }

    /// Returns the kept bytes after position `from`, and the position after them.
    pub(crate) fn since(&self, from: u64) -> (Vec<u8>, u64) {
        let oldest = self.written - self.bytes.len() as u64;
        let skip = usize::try_from(from.saturating_sub(oldest)).unwrap_or(usize::MAX).min(self.bytes.len());
        (self.bytes.iter().skip(skip).copied().collect(), self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_what_is_new_and_never_more_than_is_kept() {
        let mut tail = Tail::default();
        tail.push(b"hello ");
        tail.push(b"world");
        assert_eq!(tail.since(0), (b"hello world".to_vec(), 11));
        assert_eq!(tail.since(6), (b"world".to_vec(), 11));
        tail.push(&vec![b'x'; TAIL_CAP * 2]);
        let (bytes, end) = tail.since(11);
        assert_eq!((bytes.len(), end), (TAIL_CAP, 11 + 2 * TAIL_CAP as u64));
    }
}
