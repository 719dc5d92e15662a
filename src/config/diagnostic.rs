//! Diagnostics about a configuration, for people and for programs: mistakes and advice. Knows no key.

use super::source::{Place, Source};
use annotate_snippets as snippets;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A mistake or a piece of advice. `Display` writes the message and the place, the line with a mark, and a suggestion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The severity of the diagnostic.
    pub level: Level,
    /// The place in the file.
    pub place: Place,
    /// The key in full, such as `group "web" vm "api": restart.policy`. Empty when the file is not TOML at all.
    pub path: String,
    /// The mistake or the advice.
    pub message: String,
    /// A suggestion of what would be right.
    pub help: Option<String>,
}

/// The severity of a [`Diagnostic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub enum Level {
    /// A mistake: there is no specification.
    Error,
    /// Allowed, but probably not intended.
    Warning,
    /// A note for information.
    Info,
}

/// The reason why there is no specification: the file cannot be read, or all its mistakes, in file order.
#[derive(Debug, thiserror::Error)]
pub enum ConfigErrors {
    /// The file cannot be read.
    #[error("{}: {source}", .file.display())]
    Unreadable {
        /// The path of the configuration file.
        file: PathBuf,
        /// The reason why the file cannot be read.
        source: std::io::Error,
    },
    /// The file has mistakes.
    #[error("{}", all(file, mistakes))]
    Wrong {
        /// The path of the configuration file.
        file: PathBuf,
        /// The mistakes, at least one.
        mistakes: Vec<Diagnostic>,
    },
}

impl ConfigErrors {
    /// Returns the mistakes; none when the file could not be read.
    pub fn mistakes(&self) -> &[Diagnostic] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Wrong { mistakes, .. } => mistakes,
        }
    }
}

/// Returns the text of all mistakes of a file, with an empty line between them, and their number.
fn all(file: &Path, mistakes: &[Diagnostic]) -> String {
    let count = match mistakes.len() {
        1 => "1 mistake".to_owned(),
        count => format!("{count} mistakes"),
    };
    let shown: String = mistakes.iter().map(|mistake| format!("{mistake}\n\n")).collect();
    format!("{shown}{}: {count}", file.display())
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { file, line, text, within, .. } = &self.place;
        let colon = if self.path.is_empty() { "" } else { ": " };
        let title = format!("{}{colon}{}", self.path, self.message);
        let level = match self.level {
            Level::Error => snippets::Level::ERROR,
            Level::Warning => snippets::Level::WARNING,
            Level::Info => snippets::Level::INFO,
        };
        let mark = snippets::AnnotationKind::Primary.span(within.clone()).label(self.help.as_deref());
        let file = file.to_string_lossy();
        let excerpt = snippets::Snippet::source(text).line_start(*line).path(file.as_ref()).annotation(mark);
        f.write_str(&snippets::Renderer::plain().render(&[level.primary_title(title).element(excerpt)]))
    }
}

/// The diagnostics so far.
#[derive(Debug)]
pub(super) struct Log<'t> {
    source: Source<'t>,
    all: RefCell<Vec<Diagnostic>>,
}

impl<'t> Log<'t> {
    pub(super) fn new(source: Source<'t>) -> Self {
        Self { source, all: RefCell::default() }
    }

    /// Returns the line of the file that contains a place.
    pub(super) fn line(&self, at: Range<usize>) -> usize {
        self.source.place(at).line
    }

    /// Notes that a value or key in the file is wrong.
    pub(super) fn wrong(
        &self,
        at: Range<usize>,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.note(Level::Error, at, path, message.into(), help);
    }

    /// Notes that a value or key is missing; `at` is the place where it belongs.
    pub(super) fn missing(&self, at: Range<usize>, path: &str, help: &str) {
        self.note(Level::Error, at, path, "missing".to_owned(), Some(help.to_owned()));
    }

    /// Notes a piece of advice about the text at `at`.
    pub(super) fn advise(&self, level: Level, at: Range<usize>, path: &str, message: String) {
        self.note(level, at, path, message, None);
    }

    fn note(&self, level: Level, at: Range<usize>, path: &str, message: String, help: Option<String>) {
        let (place, path) = (self.source.place(at), path.to_owned());
        self.all.borrow_mut().push(Diagnostic { level, place, path, message, help });
    }

    /// Returns all diagnostics, in file order. A diagnostic about a value that several VMs inherit was noted for each
    /// of them and is reported once.
    pub(super) fn take(&self) -> Vec<Diagnostic> {
        let mut all = self.all.take();
        all.sort_by(|a, b| (a.place.span.start, &a.message).cmp(&(b.place.span.start, &b.message)));
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, at: Range<usize>) -> String {
        let log = Log::new(Source::new(Path::new("a.toml"), text));
        log.wrong(at, "key", "is wrong", Some("here".into()));
        log.take()[0].to_string()
    }

    #[test]
    fn the_mark_stands_under_what_is_meant_and_nothing_steers_the_terminal() {
        let text = "x = 1\n\tkey = \"wrong\" # \u{1b}[2J\n";
        let start = text.find("\"wrong").expect("in the text");
        assert_eq!(
            shown(text, start..start + 7),
            "error: key: is wrong\n --> a.toml:2:8\n  |\n2 |     key = \"wrong\" # ␛[2J\n  |           ^^^^^^^ here"
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}X{}", "a".repeat(1000), "b".repeat(1000));
        let shown = shown(&text, 1000..1001);
        assert!(shown.lines().all(|line| line.chars().count() < 170), "{shown}");
        let column = |c| shown.lines().find_map(|line| line.chars().position(|found| found == c));
        assert_eq!(column('X'), column('^'), "{shown}");
    }
}
