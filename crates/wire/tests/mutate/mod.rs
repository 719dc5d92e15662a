//! Generates nearly correct inputs: good lines with bytes changed, removed, inserted and repeated.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Debug, Clone)]
enum Edit {
    Put(Index, Vec<u8>),
    Take(Index, usize),
    Change(Index, u8),
    Repeat(Index, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let words: &[&[u8]] = &[
        b"\"",
        b"{",
        b"[",
        b"}",
        b"]",
        b",",
        b":",
        b"null",
        b"-1",
        b"1e999",
        b"18446744073709551616",
        b"\\u0000",
        b"\n",
    ];
    let word = prop_oneof![proptest::sample::select(words).prop_map(<[u8]>::to_vec), vec(any::<u8>(), 1..8),];
    prop_oneof![
        (any::<Index>(), word).prop_map(|(at, word)| Edit::Put(at, word)),
        (any::<Index>(), 1_usize..40).prop_map(|(at, length)| Edit::Take(at, length)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Change(at, byte)),
        (any::<Index>(), 1_usize..40).prop_map(|(at, length)| Edit::Repeat(at, length)),
    ]
}

fn apply(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let length = bytes.len();
        match edit {
            Edit::Put(at, word) => {
                let at = at.index(length + 1);
                bytes.splice(at..at, word.iter().copied());
            }
            Edit::Take(at, count) if length > 0 => {
                let from = at.index(length);
                bytes.drain(from..(from + count).min(length));
            }
            Edit::Change(at, byte) if length > 0 => bytes[at.index(length)] = *byte,
            Edit::Repeat(at, count) if length > 0 => {
                let from = at.index(length);
                let piece = bytes[from..(from + count).min(length)].to_vec();
                bytes.splice(from..from, piece);
            }
            Edit::Take(..) | Edit::Change(..) | Edit::Repeat(..) => {}
        }
    }
    bytes
}

/// Returns a mutation of one of the good inputs, or, one time in ten, random bytes.
pub(crate) fn mutated(good: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let near =
        (proptest::sample::select(good), vec(edit(), 0..8)).prop_map(|(good, edits)| apply(good, &edits));
    prop_oneof![9 => near, 1 => vec(any::<u8>(), 0..400)]
}

/// Returns the lines of a text.
pub(crate) fn lines(text: &str) -> Vec<Vec<u8>> {
    text.lines().map(|line| line.as_bytes().to_vec()).collect()
}
