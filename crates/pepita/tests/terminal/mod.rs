#![allow(dead_code, reason = "each test program uses its part")]
//! A real pseudo-terminal with somebody who types on it and reads what it shows.

use crate::host::PATIENCE;
use pepita_launcher::host::wait::wait_readable;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::Instant;

/// The terminal, and what it has shown and nobody has looked at.
pub(crate) struct Typist {
    ours: OwnedFd,
    theirs: OwnedFd,
    shown: String,
}

impl Typist {
    pub(crate) fn open(rows: u16, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).expect("a terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("a terminal");
        let theirs = ioctl_tiocgptpeer(&ours, flags).expect("a terminal");
        let typist = Self { ours, theirs, shown: String::new() };
        typist.set_size(rows, columns);
        typist
    }

    fn set_size(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.ours, size).expect("a size");
    }

    /// Starts a program at this terminal, as a shell does: with a session of its own (setsid(1)).
    pub(crate) fn spawn(&mut self, command: Command, kind: &str) -> Child {
        let mut at_terminal = Command::new("setsid");
        at_terminal.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        at_terminal
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("TERM", kind);
        let theirs = || self.theirs.try_clone().expect("a descriptor");
        at_terminal.stdin(theirs()).stdout(theirs()).stderr(theirs()).spawn().expect("setsid runs")
    }

    pub(crate) fn say(&self, keys: &str) {
        let written = rustix::io::write(&self.ours, keys.as_bytes()).expect("typed");
        assert_eq!(written, keys.len());
    }

    /// Changes the size, as the window of a terminal emulator does.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        self.set_size(rows, columns);
    }

    /// Waits until the terminal has shown a text. Returns what it has shown up to it, the text included.
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown.find(text) {
                return self.shown.drain(..at + text.len()).collect();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(wait_readable(&self.ours, left), "no {text:?} after {:?}", self.shown);
            let mut buffer = [0; 4096];
            let read = rustix::io::read(&self.ours, &mut buffer).expect("shown");
            self.shown.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }

    /// Returns whether keys are again handled by the terminal itself.
    pub(crate) fn is_as_before(&self) -> bool {
        let modes = tcgetattr(&self.theirs).expect("modes");
        modes.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }
}
