//! Signals of clients for the daemon. A client may signal a VM at any moment, also while the VM boots or while its agent
//! cannot be reached: what the signal asks for happens as soon as it can. Only a daemon that is paused gets none.

use super::{Effect, Event, Life};
use pepita_wire::record::DaemonState;
use pepita_wire::{Ask, ErrorKind, Signal, WireError};
use std::time::Duration;

/// The grace of a daemon that is stopped by a signal before it was known to run.
const GRACE: Duration = Duration::from_secs(30);

/// The highest number of a signal that an agent passes on; real-time signals are refused.
const LAST_NAMED: i32 = 31;

/// What is done with a client's signal.
#[derive(Debug, PartialEq)]
pub(crate) enum Route {
    /// The agent is asked now, and its answer is the answer for the client.
    Ask(Ask),
    /// The client is told that its signal was accepted, and this event happens.
    Accept(Event),
    /// The client is refused.
    Refuse(WireError),
}

impl Life {
    /// Returns what is done with a client's signal, except SIGKILL, SIGSTOP and SIGCONT, which are meant for the VM.
    pub(crate) fn route(&self, signal: Signal) -> Route {
        if signal.number() > LAST_NAMED {
            let why = format!("{signal} has no name and is not forwarded");
            return Route::Refuse(WireError::new(ErrorKind::BadRequest, why));
        }
        let is_paused = self.is_paused();
        match (self.status.daemon.state, self.agent.is_up()) {
            // Nothing runs yet that could end by itself, so the VM is stopped.
            (DaemonState::Pending | DaemonState::Held, _) if signal.asks_to_end() => {
                Route::Accept(Event::Stop { signal, grace: GRACE })
            }
            // A paused agent answers nobody. A signal that it found after the pause would be one that the client has given up.
            (DaemonState::Running | DaemonState::Ready | DaemonState::Unknown, _) if is_paused => {
                let why = "the VM is paused; resume it first, or kill it";
                Route::Refuse(WireError::new(ErrorKind::Conflict, why))
            }
            (DaemonState::Pending | DaemonState::Held, _)
            | (DaemonState::Running | DaemonState::Ready | DaemonState::Unknown, false) => {
                Route::Accept(Event::Signal(signal))
            }
            (DaemonState::Running | DaemonState::Ready | DaemonState::Unknown, true) => {
                Route::Ask(Ask::Signal(signal))
            }
            (DaemonState::Exited, _) => {
                Route::Refuse(WireError::new(ErrorKind::Conflict, "the daemon has ended"))
            }
        }
    }

    /// Returns the answer to a request whose own answer was lost, because the agent hung up. A signal to a daemon that has
    /// ended meanwhile is no error, as it is none for a process that nobody has waited for yet.
    pub(crate) fn unanswered(&self, is_signal: bool) -> Result<(), WireError> {
        match is_signal && self.status.daemon.state == DaemonState::Exited {
            true => Ok(()),
            false => Err(WireError::new(ErrorKind::Os, "the agent hung up")),
        }
    }

    /// Keeps a signal until the daemon runs and its agent can be reached.
    pub(super) fn on_signal(&mut self, signal: Signal) {
        // As for a process, a signal that is pending already is not counted twice.
        if !self.pending_signals.contains(&signal) {
            self.pending_signals.push(signal);
        }
        self.send_pending_signals();
    }

    /// Sends the daemon the signals that came before it could be reached, in the order in which they came.
    pub(super) fn send_pending_signals(&mut self) {
        match self.status.daemon.state {
            DaemonState::Running | DaemonState::Ready if self.agent.is_up() => {
                let pending = std::mem::take(&mut self.pending_signals);
                self.effects.extend(pending.into_iter().map(|signal| Effect::Tell(Ask::Signal(signal))));
            }
            DaemonState::Running
            | DaemonState::Ready
            | DaemonState::Pending
            | DaemonState::Held
            | DaemonState::Exited
            | DaemonState::Unknown => {}
        }
    }
}
