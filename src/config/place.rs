//! Where something stands in the file, and how that line is shown. Knows text, lines and columns; no TOML, no meaning.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The most characters of a line that an excerpt shows, and how many of them stand before the place.
const SHOWN: usize = 160;
const BEFORE: usize = 80;

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
    /// The file, as it was named to us.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// The character in that line, from 1.
    pub column: usize,
    /// The same in bytes of the file.
    pub span: Range<usize>,
    excerpt: Excerpt,
}

/// One line of the file, cut and cleaned for a terminal, and which of its characters are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    line: String,
    start: usize,
    width: usize,
}

impl<'t> Source<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file, text, starts }
    }

    /// What stands there; at most a line of it.
    pub(super) fn slice(&self, span: Range<usize>) -> &'t str {
        let (start, end) = self.clamp(span);
        self.text[start..end].lines().next().unwrap_or_default()
    }

    pub(super) fn place(&self, span: Range<usize>) -> Place {
        let (start, end) = self.clamp(span);
        let index = self.starts.partition_point(|line| *line <= start) - 1;
        let from = self.starts[index];
        let line = self.text[from..].lines().next().unwrap_or_default();
        let before = self.text[from..start].chars().count();
        let width = self.text[start..end].lines().next().unwrap_or_default().chars().count();
        Place {
            file: self.file.to_owned(),
            line: index + 1,
            column: before + 1,
            span: start..end,
            excerpt: Excerpt::new(line, before, width),
        }
    }

    fn clamp(&self, span: Range<usize>) -> (usize, usize) {
        let start = self.text.floor_char_boundary(span.start);
        (start, self.text.floor_char_boundary(span.end).max(start))
    }
}

impl Excerpt {
    fn new(line: &str, before: usize, width: usize) -> Self {
        let skipped = before.saturating_sub(BEFORE);
        // A comment may hold what would steer a terminal.
        let clean = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
        let mut shown: String = line.chars().skip(skipped).take(SHOWN).map(clean).collect();
        if line.chars().nth(skipped + SHOWN).is_some() {
            shown.push('…');
        }
        let start = before - skipped;
        let width = width.min(shown.chars().count().saturating_sub(start)).max(1);
        Self { line: shown, start, width }
    }
}

impl Place {
    /// The line with a caret under what is meant, and a word beside it.
    pub(super) fn excerpt(&self, f: &mut fmt::Formatter<'_>, label: &str) -> fmt::Result {
        let Excerpt { line, start, width } = &self.excerpt;
        let gutter = " ".repeat(self.line.to_string().len());
        // Tabs stay tabs, so that the caret stands where the reader's terminal puts the text.
        let indent: String = line.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).take(*start).collect();
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{} | {line}", self.line)?;
        let under = format!("{gutter} | {indent}{} {label}", "^".repeat(*width));
        f.write_str(under.trim_end())
    }
}

impl fmt::Display for Place {
    /// `file:line:column`, as editors read it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Shown(Place);
    impl fmt::Display for Shown {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.excerpt(f, "here")
        }
    }

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        let text = "ä = 1\n\u{20ac}\u{20ac}x\r\n";
        let source = Source::new(Path::new("a.toml"), text);
        for (needle, at) in [("1", "a.toml:1:5"), ("x", "a.toml:2:3")] {
            let start = text.find(needle).expect("in the text");
            assert_eq!(source.place(start..start + 1).to_string(), at);
        }
        assert_eq!(source.place(text.len()..text.len() + 9).to_string(), "a.toml:3:1");
        assert_eq!(Source::new(Path::new("a"), "").place(0..0).to_string(), "a:1:1");
    }

    #[test]
    fn the_caret_stands_under_what_is_meant() {
        let text = "x = 1\n\tkey = \"wrong\" # \u{1b}[2J\n";
        let start = text.find("\"wrong").expect("in the text");
        let shown = Shown(Source::new(Path::new("a"), text).place(start..start + 7)).to_string();
        assert_eq!(shown, "  |\n2 | \tkey = \"wrong\" # \u{fffd}[2J\n  | \t      ^^^^^^^ here");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}X{}", "a".repeat(1000), "b".repeat(1000));
        let shown = Shown(Source::new(Path::new("a"), &text).place(1000..1001)).to_string();
        assert!(shown.lines().all(|line| line.chars().count() < SHOWN + 8), "{shown}");
        let column = |line: usize, c| shown.lines().nth(line).and_then(|l| l.chars().position(|x| x == c));
        assert_eq!(column(1, 'X'), column(2, '^'));
    }
}
