//! The terminal of this program: its size, and its raw mode.

use pepita_wire::streams::TerminalSize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Returns the size of the terminal behind a descriptor; `None` when there is no terminal, or it does not know its size.
pub fn size_of(fd: impl AsFd) -> Option<TerminalSize> {
    let size = tcgetwinsize(fd).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0)?;
    Some(TerminalSize { rows: size.ws_row, columns: size.ws_col })
}

/// Returns whether a descriptor is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    isatty(fd)
}

/// A terminal in raw mode: each key is handed on as it is, and nothing is done with it here. Dropping this value restores
/// the terminal.
#[derive(Debug)]
pub struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    /// Puts a terminal into raw mode.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn begin(terminal: BorrowedFd<'a>) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Drain, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(self.terminal, OptionalActions::Drain, &self.before);
    }
}
