//! `pepita run --timings`: how long each part of a start took.

use crate::cli::TimedUntil;
use crate::error::{Result, eprint_line};
use crate::ops::follow::follow;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::record::{CallErrorKind, DaemonState};
use pepita_wire::{StatusRecord, VmId};
use std::time::Duration;

/// Waits for the end of a start. Returns the status then, or at the end of `timeout`.
///
/// # Errors
/// When there is no such VM any more, or its files cannot be read.
pub(super) fn await_start(
    run_dir: &RunDir,
    name: &VmId,
    until: TimedUntil,
    timeout: Option<Duration>,
) -> Result<StatusRecord> {
    match follow(run_dir, name, timeout, |status| is_over(status, until)) {
        Err(e) if e.kind == CallErrorKind::Timeout => reconcile::status(run_dir, name),
        status => status,
    }
}

/// Returns whether the start of a VM is over.
fn is_over(status: &StatusRecord, until: TimedUntil) -> bool {
    match (status.daemon.state, until) {
        (DaemonState::Ready | DaemonState::Exited, _) | (DaemonState::Running, TimedUntil::Started) => true,
        // It is over until a client goes on with it.
        (DaemonState::Held, _) => status.agent.ready,
        (DaemonState::Running, TimedUntil::Ready) | (DaemonState::Pending | DaemonState::Unknown, _) => false,
    }
}

/// Prints the parts of a start to standard error: a table for people, or a line of JSON.
pub(super) fn print(status: &StatusRecord, until: TimedUntil, json: bool) {
    let Some(timings) = &status.timings else { return };
    if json {
        return eprint_line(serde_json::to_string(timings).expect("a record becomes JSON"));
    }
    let name = &status.name;
    eprint_line(format_args!("pepita: {name}: the start and its parts:\n{}", timings.table()));
    if status.daemon.state == DaemonState::Running && until == TimedUntil::Ready {
        eprint_line(format_args!(
            "pepita: {name}: the daemon has not said READY=1; --timings=started does not wait for that"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_over_when_nothing_more_of_it_comes() {
        let over = |state, until| {
            let mut status = StatusRecord::default();
            status.daemon.state = state;
            is_over(&status, until)
        };
        assert!(!over(DaemonState::Pending, TimedUntil::Started));
        assert!(
            !over(DaemonState::Running, TimedUntil::Ready) && over(DaemonState::Running, TimedUntil::Started)
        );
        assert!(over(DaemonState::Ready, TimedUntil::Ready) && over(DaemonState::Exited, TimedUntil::Ready));
        // The guest of a daemon that is held has to boot.
        assert!(!over(DaemonState::Held, TimedUntil::Ready));
        let mut held = StatusRecord::default();
        (held.daemon.state, held.agent.ready) = (DaemonState::Held, true);
        assert!(is_over(&held, TimedUntil::Ready));
    }
}
