//! The signals of `pepitad`, and what each asks for.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The request that a signal makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignalAction {
    /// TERM and INT: end the supervisor.
    End,
    /// HUP: read the configuration again.
    Reload,
}

/// The signal handlers. While they are installed, none of these signals ends the process by itself.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    /// Installs the handlers.
    pub(super) fn install() -> io::Result<Self> {
        let [term, int, hup] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        Ok(Self { term: signal(term)?, int: signal(int)?, hup: signal(hup)? })
    }

    /// Waits for the next signal. Cancel safe.
    pub(super) async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.term.recv() => SignalAction::End,
            _ = self.int.recv() => SignalAction::End,
            _ = self.hup.recv() => SignalAction::Reload,
        }
    }

    /// Waits for a signal that asks for the end of the supervisor. Other signals are dropped.
    pub(super) async fn end(&mut self) {
        while self.next().await != SignalAction::End {}
    }
}
