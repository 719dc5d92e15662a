//! Waits for the end of the daemon, or for an order to end at once.

use crate::agent::Agent;
use crate::process::kill_group;
use crate::state::{Daemon, Next};
use pepita_wire::console::Note;
use rustix::process::Signal;
use std::time::Instant;

/// Returns when the agent has to end: the daemon has ended and a host has acknowledged the end (or has not done so in
/// time), or a host has asked for a power-off. The daemon's end is also written on the console, as evidence for the
/// case that no host receives the report over vsock.
pub(crate) fn wait(agent: &Agent) {
    let mut noted = false;
    let mut state = agent.lock();
    loop {
        if let Daemon::Exited { exit, .. } = &state.daemon
            && !noted
        {
            let note = Note::Exited(exit.clone());
            // The lock is released first, because writing on the console may take long.
            drop(state);
            agent.note(&note);
            noted = true;
            state = agent.lock();
        }
        match state.next(Instant::now()) {
            Next::Wait(limit) => state = agent.wait(state, limit),
            Next::Kill(pid) => return kill_group(pid, Signal::KILL),
            Next::End => return,
        }
    }
}
