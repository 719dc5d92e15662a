//! Tells the place of a part of the file. Knows text, lines and columns, but no TOML.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file's text, and where its lines begin.
#[derive(Debug)]
pub(super) struct Source<'t> {
    file: &'t Path,
    text: &'t str,
    starts: Vec<usize>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The name of the file, as it was given.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The character in that line, from 1.
    pub column: usize,
    /// The place in bytes of the file.
    pub span: Range<usize>,
    /// The line's text.
    pub(super) text: String,
    /// The place in bytes of the line, as far as it is in the line.
    pub(super) within: Range<usize>,
}

impl<'t> Source<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file, text, starts }
    }

    pub(super) fn place(&self, span: Range<usize>) -> Place {
        let start = self.text.floor_char_boundary(span.start);
        let end = self.text.floor_char_boundary(span.end).max(start);
        let index = self.starts.partition_point(|line| *line <= start) - 1;
        let from = self.starts[index];
        let text = self.text[from..].lines().next().unwrap_or_default();
        Place {
            file: self.file.to_owned(),
            line: index + 1,
            column: self.text[from..start].chars().count() + 1,
            span: start..end,
            text: text.to_owned(),
            within: start - from..(end - from).min(text.len()).max(start - from),
        }
    }
}

impl Place {
    /// Returns what is written there, as far as it is in the first line.
    pub fn found(&self) -> &str {
        self.text.get(self.within.clone()).unwrap_or_default()
    }
}

impl fmt::Display for Place {
    /// Writes `file:line:column`, as editors read it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        let text = "ä = 1\n\u{20ac}\u{20ac}x\r\n";
        let source = Source::new(Path::new("a.toml"), text);
        for (needle, at) in [("1", "a.toml:1:5"), ("x", "a.toml:2:3")] {
            let start = text.find(needle).expect("in the text");
            let place = source.place(start..start + 1);
            assert_eq!((place.to_string().as_str(), place.found()), (at, needle));
        }
        assert_eq!(source.place(text.len()..text.len() + 9).to_string(), "a.toml:3:1");
        assert_eq!(Source::new(Path::new("a"), "").place(0..0).to_string(), "a:1:1");
    }
}
