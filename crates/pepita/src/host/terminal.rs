//! The terminal of this program: its size, and its raw mode.

use pepita_wire::streams::TerminalSize;
use rustix::process::getpgrp;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp,
    tcgetwinsize, tcsetattr,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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

/// A terminal that hands on each key at once and does not show it. Keys that are signals stay signals. Dropping this value
/// restores the terminal.
#[derive(Debug)]
pub struct Keys {
    terminal: OwnedFd,
    before: Termios,
}

impl Keys {
    /// Takes the keys of a terminal, if this process is in its foreground. `None` for what is no terminal, and in the
    /// background: the kernel stops a process there that reads its terminal.
    pub fn begin(terminal: impl AsFd) -> Option<Self> {
        if tcgetpgrp(&terminal).ok()? != getpgrp() {
            return None;
        }
        let terminal = terminal.as_fd().try_clone_to_owned().ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let mut keys = before.clone();
        // Ctrl-S and Ctrl-Q are keys like all others.
        keys.input_modes.remove(InputModes::IXON);
        keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN);
        keys.special_codes[SpecialCodeIndex::VMIN] = 1;
        keys.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&terminal, OptionalActions::Now, &keys).ok()?;
        Some(Self { terminal, before })
    }

    /// Waits for a sequence of keys. Returns whether it was typed; false when the terminal is gone.
    pub fn wait_for(terminal: impl AsFd, sequence: &[u8]) -> bool {
        let (mut typed, mut key) = (0, [0]);
        while typed < sequence.len() {
            match rustix::io::read(&terminal, &mut key) {
                Ok(1) if key[0] == sequence[typed] => typed += 1,
                Ok(1) => typed = usize::from(key[0] == sequence[0]),
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(self.terminal, OptionalActions::Drain, &self.before);
    }
}
