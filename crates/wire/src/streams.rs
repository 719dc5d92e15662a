//! The streams of a command that a client runs in a guest (`exec_stream`): after the answer to that request, both sides of
//! the connection are chunks. A chunk is a byte for its kind, the length of its content as four bytes (little endian), and
//! the content.
//!
//! The input of the command is sent only as far as the agent has room for it, so that a signal never waits behind input
//! that the command does not read. The output is sent as fast as the connection takes it: its own flow control holds back
//! a command whose client does not read. A kind that the reader does not know is skipped, so that either side may be the
//! newer one.

use crate::exit::{Exit, generation_1};
use crate::signal::Signal;
use serde::{Deserialize, Serialize};

/// The maximum content of a chunk, in bytes.
pub const CHUNK_CAP: usize = 64 * 1024;

/// The bytes of input that a client may send before the agent has told that it has room for more.
pub const INPUT_WINDOW: usize = 256 * 1024;

/// The bytes before the content of a chunk.
const HEAD: usize = 5;

/// A stream of output of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// The standard output; with a terminal, all that is written to the terminal.
    Output,
    /// The standard error.
    Error,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// The number of rows.
    pub rows: u16,
    /// The number of columns.
    pub columns: u16,
}

/// A chunk from a client to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToCommand<'a> {
    /// A part of the standard input.
    Input(&'a [u8]),
    /// The end of the standard input.
    InputEnd,
    /// The new size of the terminal.
    Resize(TerminalSize),
    /// A signal for the process group of the command.
    Signal(Signal),
    /// Nobody reads this stream any more: a command that goes on writing to it gets SIGPIPE.
    Close(OutputStream),
}

/// A chunk from the agent to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromCommand<'a> {
    /// A part of an output stream.
    Output(OutputStream, &'a [u8]),
    /// The number of bytes of input for which there is room in addition.
    Room(u32),
    /// The end of the command; the last chunk.
    Ended(Exit),
}

/// The reason why a chunk cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// The content is longer than [`CHUNK_CAP`].
    #[error("a chunk of {0} bytes, where {CHUNK_CAP} are allowed")]
    TooLong(u32),
    /// The content does not belong to a chunk of this kind.
    #[error("a chunk of kind {0} with a content that is none of that kind")]
    Content(u8),
}

const INPUT: u8 = 0;
const INPUT_END: u8 = 1;
const RESIZE: u8 = 2;
const SIGNAL: u8 = 3;
const CLOSE: u8 = 4;
const OUTPUT: u8 = 1;
const ERROR: u8 = 2;
const ROOM: u8 = 3;
const ENDED: u8 = 4;

#[derive(Serialize, Deserialize)]
struct End {
    #[serde(with = "generation_1")]
    exit: Exit,
}

impl OutputStream {
    fn number(self) -> u8 {
        match self {
            Self::Output => OUTPUT,
            Self::Error => ERROR,
        }
    }

    fn of(number: u8) -> Option<Self> {
        match number {
            OUTPUT => Some(Self::Output),
            ERROR => Some(Self::Error),
            _ => None,
        }
    }
}

/// Appends a chunk. A content that is longer than [`CHUNK_CAP`] becomes several chunks.
fn append(to: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let mut one = |content: &[u8]| {
        let length = u32::try_from(content.len()).expect("a chunk is shorter than its cap");
        to.push(kind);
        to.extend_from_slice(&length.to_le_bytes());
        to.extend_from_slice(content);
    };
    if content.is_empty() {
        return one(content);
    }
    content.chunks(CHUNK_CAP).for_each(one);
}

impl ToCommand<'_> {
    /// Appends this chunk to what is to be sent.
    pub fn append_to(self, to: &mut Vec<u8>) {
        match self {
            Self::Input(bytes) => append(to, INPUT, bytes),
            Self::InputEnd => append(to, INPUT_END, &[]),
            Self::Resize(TerminalSize { rows, columns }) => {
                let ([a, b], [c, d]) = (rows.to_le_bytes(), columns.to_le_bytes());
                append(to, RESIZE, &[a, b, c, d]);
            }
            Self::Signal(signal) => append(to, SIGNAL, &signal.number().to_le_bytes()),
            Self::Close(stream) => append(to, CLOSE, &[stream.number()]),
        }
    }
}

impl FromCommand<'_> {
    /// Appends this chunk to what is to be sent.
    pub fn append_to(self, to: &mut Vec<u8>) {
        match self {
            Self::Output(stream, bytes) => append(to, stream.number(), bytes),
            Self::Room(more) => append(to, ROOM, &more.to_le_bytes()),
            Self::Ended(exit) => {
                let end = serde_json::to_vec(&End { exit }).expect("an exit becomes JSON");
                append(to, ENDED, &end);
            }
        }
    }
}

/// Splits received bytes into chunks. Holds at most one chunk and one read.
#[derive(Debug, Default)]
pub struct Chunks {
    buffer: Vec<u8>,
    /// The position of the first chunk that was not taken.
    start: usize,
}

impl Chunks {
    /// Adds bytes that were read. Take all chunks before more is read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the kind and the content of the next chunk; `None` when more bytes have to be read first.
    fn next(&mut self) -> Result<Option<(u8, &[u8])>, ChunkError> {
        let Some(head) = self.buffer.get(self.start..self.start + HEAD) else { return Ok(None) };
        let (kind, length) = (head[0], u32::from_le_bytes([head[1], head[2], head[3], head[4]]));
        let content = usize::try_from(length).unwrap_or(usize::MAX);
        if content > CHUNK_CAP {
            return Err(ChunkError::TooLong(length));
        }
        let from = self.start + HEAD;
        let Some(bytes) = self.buffer.get(from..from + content) else { return Ok(None) };
        self.start = from + content;
        Ok(Some((kind, bytes)))
    }

    /// Returns the next chunk of a client; `None` when more bytes have to be read first.
    ///
    /// # Errors
    /// When the bytes are no chunks.
    pub fn next_to_command(&mut self) -> Result<Option<ToCommand<'_>>, ChunkError> {
        // A loop would borrow the buffer twice, so the kind of the next chunk is looked at first.
        while self.peek().is_some_and(|kind| kind > CLOSE) {
            if self.next()?.is_none() {
                return Ok(None);
            }
        }
        let Some((kind, content)) = self.next()? else { return Ok(None) };
        let wrong = ChunkError::Content(kind);
        let chunk = match (kind, content) {
            (INPUT, bytes) => ToCommand::Input(bytes),
            (INPUT_END, _) => ToCommand::InputEnd,
            (RESIZE, &[a, b, c, d]) => ToCommand::Resize(TerminalSize {
                rows: u16::from_le_bytes([a, b]),
                columns: u16::from_le_bytes([c, d]),
            }),
            (SIGNAL, &[a, b, c, d]) => {
                ToCommand::Signal(Signal::new(i32::from_le_bytes([a, b, c, d])).ok_or(wrong)?)
            }
            (CLOSE, &[number]) => ToCommand::Close(OutputStream::of(number).ok_or(wrong)?),
            (_, _) => return Err(wrong),
        };
        Ok(Some(chunk))
    }

    /// Returns the next chunk of an agent; `None` when more bytes have to be read first. Texts of the guest become fit to
    /// be shown; the output of the command stays as it is.
    ///
    /// # Errors
    /// When the bytes are no chunks.
    pub fn next_from_command(&mut self) -> Result<Option<FromCommand<'_>>, ChunkError> {
        while self.peek().is_some_and(|kind| !(OUTPUT..=ENDED).contains(&kind)) {
            if self.next()?.is_none() {
                return Ok(None);
            }
        }
        let Some((kind, content)) = self.next()? else { return Ok(None) };
        let wrong = ChunkError::Content(kind);
        let chunk = match (kind, content) {
            (ROOM, &[a, b, c, d]) => FromCommand::Room(u32::from_le_bytes([a, b, c, d])),
            (ENDED, json) => {
                let End { exit } = serde_json::from_slice(json).map_err(|_| wrong)?;
                FromCommand::Ended(exit.shown())
            }
            (number, bytes) => FromCommand::Output(OutputStream::of(number).ok_or(wrong)?, bytes),
        };
        Ok(Some(chunk))
    }

    fn peek(&self) -> Option<u8> {
        self.buffer.get(self.start).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: TerminalSize = TerminalSize { rows: 24, columns: 300 };

    #[test]
    fn what_a_client_says_arrives_whatever_the_pieces_are() {
        let said = [
            ToCommand::Input(b"\0\n\xff"),
            ToCommand::Resize(SIZE),
            ToCommand::Signal(Signal::INT),
            ToCommand::Close(OutputStream::Error),
            ToCommand::Input(b""),
            ToCommand::InputEnd,
        ];
        let mut bytes = Vec::new();
        append(&mut bytes, 77, b"of a newer client");
        said.into_iter().for_each(|chunk| chunk.append_to(&mut bytes));
        for piece in [1, 3, bytes.len()] {
            let (mut chunks, mut heard) = (Chunks::default(), 0);
            for part in bytes.chunks(piece) {
                chunks.push(part);
                while let Some(chunk) = chunks.next_to_command().expect("chunks") {
                    assert_eq!(chunk, said[heard]);
                    heard += 1;
                }
            }
            assert_eq!(heard, said.len());
        }
    }

    #[test]
    fn what_an_agent_says_arrives_and_its_texts_are_fit_to_be_shown() {
        let mut bytes = Vec::new();
        FromCommand::Output(OutputStream::Output, &[7; CHUNK_CAP + 1]).append_to(&mut bytes);
        FromCommand::Room(9).append_to(&mut bytes);
        append(&mut bytes, 0, b"of a newer agent");
        let message = "\x1b[2J".to_owned();
        FromCommand::Ended(Exit::NotExecutable { path: "x".into(), errno: 2, message }).append_to(&mut bytes);
        let mut chunks = Chunks::default();
        chunks.push(&bytes);
        for length in [CHUNK_CAP, 1] {
            let expected = vec![7; length];
            let next = chunks.next_from_command().expect("a chunk");
            assert_eq!(next, Some(FromCommand::Output(OutputStream::Output, &expected)));
        }
        assert_eq!(chunks.next_from_command().expect("a chunk"), Some(FromCommand::Room(9)));
        let end = chunks.next_from_command().expect("a chunk");
        let Some(FromCommand::Ended(Exit::NotExecutable { message, .. })) = end else { panic!("{end:?}") };
        assert_eq!(message, r"\x1b[2J");
        assert_eq!(chunks.next_from_command().expect("nothing"), None);
    }

    #[test]
    fn a_length_beyond_the_cap_is_refused_before_its_content_comes() {
        let mut chunks = Chunks::default();
        chunks.push(&[OUTPUT, 0, 0, 0, 0xff]);
        assert!(matches!(chunks.next_from_command(), Err(ChunkError::TooLong(0xff00_0000))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut chunks = Chunks::default();
            chunks.push(&bytes);
            while let Ok(Some(_)) = chunks.next_from_command() {}
            let mut chunks = Chunks::default();
            chunks.push(&bytes);
            while let Ok(Some(_)) = chunks.next_to_command() {}
        }
    }
}
