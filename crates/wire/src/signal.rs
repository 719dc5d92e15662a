//! Signals by name and number, as Linux numbers them on every architecture that QEMU's microvm runs on.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A signal number, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Signal(u8);

/// A text that is neither the name nor the number of a signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown signal {0:?}; use a name such as TERM or a number from 1 to 64")]
pub struct UnknownSignal(pub String);

const NAMES: [(&str, u8); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

impl Signal {
    /// SIGHUP: the terminal is gone; by convention, asks a daemon to read its configuration again.
    pub const HUP: Self = Self(1);
    /// SIGINT: an interrupt from the keyboard.
    pub const INT: Self = Self(2);
    /// SIGQUIT: ends a process with a core dump.
    pub const QUIT: Self = Self(3);
    /// SIGKILL: ends a process at once; cannot be caught.
    pub const KILL: Self = Self(9);
    /// SIGUSR1: a signal whose meaning each program defines.
    pub const USR1: Self = Self(10);
    /// SIGUSR2: a second signal whose meaning each program defines.
    pub const USR2: Self = Self(12);
    /// SIGTERM: asks a process to end.
    pub const TERM: Self = Self(15);
    /// SIGCONT: continues a stopped process.
    pub const CONT: Self = Self(18);
    /// SIGSTOP: pauses a process; cannot be caught.
    pub const STOP: Self = Self(19);

    /// Returns the signal with this number, 1 to 64.
    pub fn new(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| (1..=64).contains(n)).map(Self)
    }

    /// Returns whether the signal asks a process to end: SIGTERM, SIGINT and SIGQUIT.
    pub fn asks_to_end(self) -> bool {
        [Self::TERM, Self::INT, Self::QUIT].contains(&self)
    }

    /// Returns the number of the signal.
    pub fn number(self) -> i32 {
        self.0.into()
    }
}

impl fmt::Display for Signal {
    /// Writes `SIGTERM`, or `signal 40` for a signal without a name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, n)| *n == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;
    /// Reads `TERM`, `SIGTERM`, `term` and `15`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownSignal(text.to_owned());
        if let Ok(number) = text.parse::<i32>() {
            return Self::new(number).ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        NAMES.iter().find(|(name, _)| *name == bare).map(|(_, n)| Self(*n)).ok_or_else(unknown)
    }
}

impl TryFrom<i32> for Signal {
    type Error = UnknownSignal;
    fn try_from(number: i32) -> Result<Self, Self::Error> {
        Self::new(number).ok_or_else(|| UnknownSignal(number.to_string()))
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> Self {
        signal.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_in_every_dialect() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(text.parse(), Ok(Signal::TERM));
        }
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
        assert_eq!("40".parse::<Signal>().map(|s| s.to_string()), Ok("signal 40".to_owned()));
        for text in ["0", "65", "-1", "TERMINATE", ""] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
