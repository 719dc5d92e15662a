//! The form of a forwarded connection on its way between host and guest agent, after the answer to `dial`.
//!
//! Each direction is a row of chunks: two bytes with the length of the chunk (little-endian), and the bytes. The length 0
//! ends the direction, as shutdown(2) does; the other direction goes on. A connection that is closed before both
//! directions have ended was reset. Plain bytes would not do: vhost-device-vsock 0.3.0 closes both directions when one is
//! shut down.

/// The length of the header of a chunk, in bytes.
pub const HEADER: usize = 2;

/// The maximum number of bytes in a chunk.
pub const CHUNK_CAP: usize = u16::MAX as usize;

/// Returns the header of a chunk of this length; 0 is the end of the direction.
///
/// # Panics
/// When a chunk cannot be that long.
pub fn header(length: usize) -> [u8; HEADER] {
    u16::try_from(length).expect("a chunk has at most 65,535 bytes").to_le_bytes()
}

/// A part of what has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes of a chunk.
    Bytes(&'a [u8]),
    /// The direction has ended.
    End,
}

/// Takes chunks apart, however the bytes are cut.
#[derive(Debug, Default)]
pub struct Chunks {
    /// The first byte of a header, when the second has not come yet.
    half: Option<u8>,
    /// The bytes of the present chunk that have not come yet.
    left: usize,
    has_ended: bool,
}

impl Chunks {
    /// Returns the next piece of `bytes`, and takes it off them; `None` when more bytes have to be read first. Bytes
    /// after the end of the direction mean nothing and are dropped.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        loop {
            if self.has_ended {
                *bytes = &[];
            }
            let (&first, rest) = bytes.split_first()?;
            if self.left > 0 {
                let (piece, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= piece.len();
                *bytes = rest;
                return Some(Piece::Bytes(piece));
            }
            *bytes = rest;
            let Some(low) = self.half.take() else {
                self.half = Some(first);
                continue;
            };
            self.left = usize::from(u16::from_le_bytes([low, first]));
            if self.left == 0 {
                self.has_ended = true;
                return Some(Piece::End);
            }
        }
    }

    /// Returns whether the direction has ended.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_come_out_as_they_went_in_however_they_are_cut(
            sent in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8),
            cut in 1_usize..64,
        ) {
            let mut wire = Vec::new();
            for chunk in &sent {
                wire.extend_from_slice(&header(chunk.len()));
                wire.extend_from_slice(chunk);
            }
            wire.extend_from_slice(&header(0));
            wire.extend_from_slice(b"dropped");
            let (mut chunks, mut got, mut ends) = (Chunks::default(), Vec::new(), 0);
            for mut part in wire.chunks(cut) {
                while let Some(piece) = chunks.next(&mut part) {
                    match piece {
                        Piece::Bytes(bytes) => got.extend_from_slice(bytes),
                        Piece::End => ends += 1,
                    }
                }
            }
            prop_assert_eq!((got, ends, chunks.has_ended()), (sent.concat(), 1, true));
        }
    }
}
