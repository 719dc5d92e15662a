//! Sentences for people: the one place that turns endings, decisions and phases into text. Programs read
//! [`Event::to_json`](super::Event::to_json) instead.

use crate::policy::{Ending, Exit};
use std::fmt;

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(record) => {
                write!(f, "{}", record.exit)?;
                match (&record.exit, record.evidence.first()) {
                    // The kind alone does not say what a person wants to know.
                    (
                        Exit::GuestReset | Exit::HostOom | Exit::TransportLost | Exit::Unknown,
                        Some(evidence),
                    ) => {
                        write!(f, " ({evidence})")
                    }
                    (
                        Exit::GuestReset
                        | Exit::HostOom
                        | Exit::TransportLost
                        | Exit::Unknown
                        | Exit::Exited { .. }
                        | Exit::Signalled { .. }
                        | Exit::NotExecutable { .. }
                        | Exit::GuestOom
                        | Exit::GuestPanic { .. }
                        | Exit::VmmCrashed(_)
                        | Exit::VmmRefused { .. }
                        | Exit::BootTimeout
                        | Exit::AgentLost { .. }
                        | Exit::StopRequested
                        | Exit::Killed,
                        _,
                    ) => Ok(()),
                }
            }
            Self::NotLaunched { message, .. } => write!(f, "launch failed: {message}"),
            Self::StartTimeout => f.write_str("not ready in time"),
            Self::Unhealthy => f.write_str("unhealthy"),
            Self::WatchdogExpired => f.write_str("watchdog expired"),
            Self::ActorFailed => f.write_str("its actor failed"),
        }
    }
}
