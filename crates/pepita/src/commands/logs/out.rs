//! Standard output as `logs` writes it: with a reader that may go away, and with stamps before the lines if they are wanted.

use super::stamps::{Stamps, stamp};
use crate::commands::output::unwritable;
use crate::error::{Result, eprint_line, system};
use crate::host::clock::unix_ms;
use std::io::{self, Write};

/// What is done when standard output cannot be written although its reader is there, for example on a full disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenUnwritable {
    /// The command fails.
    Fail,
    /// The output is lost, which is told once.
    Warn,
}

/// Standard output, which may lose its reader.
pub(super) struct Out {
    pub(super) stdout: io::Stdout,
    when_unwritable: WhenUnwritable,
    has_warned: bool,
    /// Whether the reader is gone. What is written from then on is lost.
    pub(super) is_gone: bool,
    /// The times of the output; `None` when they are not wanted.
    pub(super) stamps: Option<Stamps>,
    /// Whether the last line that was written has no end yet.
    is_line_begun: bool,
}

impl Out {
    pub(super) fn new(when_unwritable: WhenUnwritable) -> Self {
        Self {
            stdout: io::stdout(),
            when_unwritable,
            has_warned: false,
            is_gone: false,
            stamps: None,
            is_line_begun: false,
        }
    }

    /// Writes a line about the VM among its output.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn say(&mut self, incarnation: u64, what: &str) -> Result<()> {
        self.end_line()?;
        if self.is_gone {
            return Ok(());
        }
        let stamp = self.stamps.as_ref().map_or_else(String::new, |_| stamp(Some(unix_ms()), incarnation));
        let line = format!("{stamp}[pepita: {what}]\n");
        let written = self.stdout.write_all(line.as_bytes()).and_then(|()| self.stdout.flush());
        written.or_else(|e| self.failed(e)).map_err(|e| system("log", e))
    }

    /// Ends a line that has no end yet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn end_line(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.is_line_begun) || self.is_gone {
            return Ok(());
        }
        let written = self.stdout.write_all(b"\n").and_then(|()| self.stdout.flush());
        written.or_else(|e| self.failed(e)).map_err(|e| system("log", e))
    }

    /// Notes that a part of the output is not written.
    pub(super) fn skip(&mut self, bytes: u64) {
        if let Some(stamps) = &mut self.stamps {
            stamps.skip(bytes);
        }
    }

    fn failed(&mut self, error: io::Error) -> io::Result<()> {
        // A terminal that is closed gives EIO.
        let is_terminal_gone = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        if error.kind() == io::ErrorKind::BrokenPipe || is_terminal_gone {
            self.is_gone = true;
            return Ok(());
        }
        match self.when_unwritable {
            WhenUnwritable::Fail => Err(io::Error::new(error.kind(), unwritable(&error))),
            WhenUnwritable::Warn => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    let advice = "output is lost here, and `pepita logs` has all of it";
                    eprint_line(format_args!("pepita: {}; {advice}", unwritable(&error)));
                }
                Ok(())
            }
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_gone {
            return Ok(bytes.len());
        }
        if let Some(stamps) = &mut self.stamps {
            let stamped = stamps.stamp(bytes, &mut self.is_line_begun);
            return self.stdout.write_all(&stamped).or_else(|e| self.failed(e)).map(|()| bytes.len());
        }
        match self.stdout.write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => self.failed(e).map(|()| bytes.len()),
            Ok(written) => {
                self.is_line_begun =
                    written.checked_sub(1).map_or(self.is_line_begun, |last| bytes[last] != b'\n');
                Ok(written)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_gone {
            return Ok(());
        }
        self.stdout.flush().or_else(|e| self.failed(e))
    }
}
