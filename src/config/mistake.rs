//! What is wrong with a configuration, for people and for programs. Knows nothing of what the keys mean.

use super::place::Place;
use std::fmt;
use std::path::PathBuf;

/// One mistake. Its `Display` is a few lines: where and what, the line with a caret, what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub place: Place,
    /// The key, in full: `group "web" vm "api": restart.policy`. Empty when the file is not TOML at all.
    pub path: String,
    /// What was written there; `None` when something is missing.
    pub found: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub help: Option<String>,
}

/// Something that is allowed and will not do what one may think. Its `Display` is that of a [`Mistake`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// How much it matters.
    pub level: Level,
    /// Where.
    pub place: Place,
    /// The key, in full.
    pub path: String,
    /// What to know.
    pub text: String,
}

/// How much an [`Advice`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Good to know.
    Info,
    /// Hardly what was meant.
    Warning,
}

/// Why there is no tree: the file cannot be read, or all that is wrong in it, in file order.
#[derive(Debug, thiserror::Error)]
pub enum ConfigErrors {
    /// It cannot be read.
    #[error("{}: {source}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is wrong.
    #[error("{}", All { file, mistakes })]
    Wrong {
        /// The file.
        file: PathBuf,
        /// At least one.
        mistakes: Vec<Mistake>,
    },
}

impl ConfigErrors {
    /// The mistakes; none when the file could not be read.
    pub fn mistakes(&self) -> &[Mistake] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Wrong { mistakes, .. } => mistakes,
        }
    }
}

/// The mistakes of a file with a line between them, and how many they are.
struct All<'e> {
    file: &'e PathBuf,
    mistakes: &'e [Mistake],
}

impl fmt::Display for All<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in self.mistakes {
            write!(f, "{mistake}\n\n")?;
        }
        let plural = if self.mistakes.len() == 1 { "" } else { "s" };
        write!(f, "{}: {} mistake{plural}", self.file.display(), self.mistakes.len())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: error: ", self.place)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        writeln!(f, "{}", self.problem)?;
        self.place.excerpt(f, self.help.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}: {}: {}", self.place, self.level, self.path, self.text)?;
        self.place.excerpt(f, "")
    }
}
