//! The signals that ask a command in the foreground to end, as a descriptor to wait for.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The signals that ask for an end: Ctrl-C, a stop, a terminal that is closed, Ctrl-\.
const ENDINGS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The signals that ask for an end. They no longer end the process by themselves.
#[derive(Debug)]
pub struct EndSignals(SignalFd);

impl EndSignals {
    /// Takes the signals from now on, also those that the caller of this program has set to be ignored: the kernel keeps
    /// an ignored signal as long as it is blocked. Has to be called before the first thread is started.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn take() -> io::Result<Self> {
        Self::take_those(&ENDINGS)
    }

    /// Takes, in addition, the signal that tells of a new size of the terminal.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn take_with_resize() -> io::Result<Self> {
        Self::take_those(&[&ENDINGS[..], &[Signal::SIGWINCH]].concat())
    }

    fn take_those(signals: &[Signal]) -> io::Result<Self> {
        let signals: SigSet = signals.iter().copied().collect();
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Returns the number of the next signal that has come, if one has.
    pub fn next(&self) -> Option<u32> {
        self.0.read_signal().ok().flatten().map(|signal| signal.ssi_signo)
    }
}

impl AsFd for EndSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
