//! One kill, and what follows until the VM is Ready again.

use crate::PATIENCE;
use crate::common::kill;
use pepita_launcher::host::process_id::ProcessId;
use pepita_launcher::host::wait::wait_readable;
use pepita_supervisor::observe::{EventKind, Received};
use pepita_supervisor::tree::Tree;
use pepita_wire::record::{Part, Timings};
use std::time::{Duration, Instant};

/// The times of one recovery, each since the kill.
#[derive(Debug, Clone)]
pub(crate) struct Recovery {
    /// The kernel tells the end of the VMM's process.
    pub(crate) gone: Duration,
    /// The supervisor has decided on it.
    pub(crate) decided: Duration,
    /// The daemon runs.
    pub(crate) running: Duration,
    /// The daemon is Ready.
    pub(crate) ready: Duration,
    /// The parts of the start that followed, as the new monitor has measured them.
    pub(crate) timings: Timings,
}

impl Recovery {
    /// Returns whether a warm spare has taken the place of the VM.
    pub(crate) fn is_warm(&self) -> bool {
        self.timings.us(Part::Promotion).is_some()
    }

    /// Returns when the end could be known: the kernel tells it, or the supervisor knows it already, from the back-end.
    pub(crate) fn noticed(&self) -> Duration {
        self.gone.min(self.decided)
    }

    /// Returns the time from the decision to Ready that is in no part of the start: the order on its way to the monitor, and
    /// the monitor's report on its way back.
    pub(crate) fn on_the_way(&self) -> Duration {
        let started = Duration::from_micros(self.timings.total_us);
        self.ready.saturating_sub(self.decided).saturating_sub(started)
    }
}

/// Kills the VMM of a VM, and follows the VM until it is Ready again.
pub(crate) async fn recover(tree: &Tree, name: &str) -> Recovery {
    let before = tree.status().vm(name).cloned().expect("there is such a VM");
    let pid = before.vmm_pid.expect("a running process");
    let mut events = tree.events();
    let watched = ProcessId::of(pid).and_then(|process| process.open()).expect("it runs");
    let began = Instant::now();
    kill(pid);
    let gone = std::thread::spawn(move || {
        wait_readable(&watched, PATIENCE);
        began.elapsed()
    });
    let (mut decided, mut running) = (Duration::ZERO, Duration::ZERO);
    let (ready, timings) = loop {
        let Some(received) = events.next().await else { panic!("the tree has ended") };
        let Received::Event(event) = received else { continue };
        let EventKind::Vm(change) = event.kind else { continue };
        if change.vm.as_str() != name {
            continue;
        }
        match change.to.word() {
            "backoff" => decided = began.elapsed(),
            "running" => running = began.elapsed(),
            "ready" if change.incarnation > before.incarnation => {
                break (began.elapsed(), *change.timings.expect("a start"));
            }
            _ => {}
        }
    };
    let gone = gone.join().expect("no panic");
    Recovery { gone, decided, running, ready, timings }
}
