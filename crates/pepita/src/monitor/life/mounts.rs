//! The disks of a VM that are to be mounted before its daemon starts.

use pepita_wire::record::DaemonState;
use pepita_wire::storage::Mount;

/// The mounts of a VM.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Mounts {
    /// The agent is to be asked for these.
    Wanted(Vec<Mount>),
    /// The agent was asked for these on the present connection.
    Asked(Vec<Mount>),
    /// All are made, or there are none.
    Made,
}

impl Mounts {
    pub(super) fn of(mounts: Vec<Mount>) -> Self {
        if mounts.is_empty() { Self::Made } else { Self::Wanted(mounts) }
    }

    pub(super) fn are_made(&self) -> bool {
        match self {
            Self::Made => true,
            Self::Wanted(_) | Self::Asked(_) => false,
        }
    }

    /// Forgets that the agent was asked: the answer was lost with the connection.
    pub(super) fn ask_again(&mut self) {
        if let Self::Asked(mounts) = self {
            *self = Self::Wanted(std::mem::take(mounts));
        }
    }

    /// Draws the conclusion from the daemon of an adopted VM: a daemon that was started has its disks.
    pub(super) fn know(&mut self, daemon: DaemonState) {
        match daemon {
            DaemonState::Running | DaemonState::Ready | DaemonState::Exited => *self = Self::Made,
            // The agent makes no mount a second time.
            DaemonState::Pending | DaemonState::Held | DaemonState::Unknown => {}
        }
    }
}
