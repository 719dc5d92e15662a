//! Makes pseudo-terminals for commands (pty(7)).

use pepita_wire::streams::TerminalSize;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The side of a pseudo-terminal that the agent holds. When it is dropped, the terminal hangs up.
#[derive(Debug)]
pub(crate) struct Terminal(OwnedFd);

impl Terminal {
    /// Makes a terminal of this size. Returns it with the side that the command gets.
    ///
    /// # Errors
    /// When the kernel has no terminal left, or `/dev/ptmx` is missing.
    pub(crate) fn open(size: TerminalSize) -> io::Result<(Self, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags)?;
        grantpt(&terminal)?;
        unlockpt(&terminal)?;
        // By the descriptor, because the path would lead to another terminal where /dev/pts is not of the same instance.
        let theirs = ioctl_tiocgptpeer(&terminal, flags)?;
        let terminal = Self(terminal);
        terminal.resize(size)?;
        Ok((terminal, theirs))
    }

    /// Sets the size. The processes in the foreground of the terminal get SIGWINCH.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let TerminalSize { rows, columns } = size;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(&self.0, size)?)
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
