//! Tells a person at a terminal what is being done.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The time between two lines about a download.
const PAUSE: Duration = Duration::from_millis(200);

/// The progress of one image. Only a terminal is told of it.
#[derive(Debug)]
pub struct Progress {
    name: String,
    is_shown: bool,
    last: Cell<Option<Instant>>,
}

impl Progress {
    /// Returns the progress of an image.
    pub fn of(name: &str, quiet: bool) -> Self {
        Self {
            name: name.to_owned(),
            is_shown: !quiet && std::io::stderr().is_terminal(),
            last: Cell::new(None),
        }
    }

    /// Tells what is being done.
    pub fn say(&self, what: &str) {
        if self.is_shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K{}: {what}", self.name);
        }
    }

    /// Tells how far a download is, but not too often.
    pub fn downloaded(&self, what: &str, bytes: u64, of: u64) {
        let now = Instant::now();
        if bytes == of || self.last.get().is_none_or(|last| now.duration_since(last) >= PAUSE) {
            self.last.set(Some(now));
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            self.say(&format!("{what}: {:.1} of {:.1} MiB", mib(bytes), mib(of)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
