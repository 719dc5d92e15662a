//! Connects a monitor with its VM: the monitor launches the VM, or adopts a VM whose monitor has died.
//!
//! `pepita run` and `pepita adopt` start the monitor as a process of its own, give it an `Order` on its standard input
//! and read one line from its standard output: the VM's status, or the reason why there is no VM. `pepita run` then takes
//! the VM, with one more line on the monitor's standard input; when that input closes without it, the monitor ends the VM
//! and removes it.
//!
//! ```text
//!            claim                start                 watch
//! Requested ───────> Claimed ────────────> Started ────────────> Monitor::run
//!     │                 │                                            ^
//!     │ refused:        │ failed: processes and limits end,          │ watch
//!     │ what a former   │ the claim of the CID is given back,        │
//!     │ VM has left     │ the run directory is removed,           Orphan <─── Order::Adopt
//!     v stays           v the name is free                           │ failed: the VM runs on,
//!   error             error                                          v its lock is free
//! ```
//!
//! Each stage owns the resources that it has taken, and releases them when the next step fails. A `Started` VM has a
//! monitor, which records the VM's end from then on.

mod adopt;
mod claim;
mod setup;
mod start;

pub(crate) use claim::Requested;

use crate::error::{About, Result, call_error, system};
use crate::host::clock::monotonic_us;
use crate::host::inherited;
use crate::monitor::{Starter, Timeline};
use crate::rundir::RunDir;
use adopt::Adoption;
use pepita_wire::record::{CallErrorKind, Part};
use pepita_wire::serve::LaunchAnswer;
use pepita_wire::{LaunchSpec, VmId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use start::Started;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

/// The order that a monitor gets when it starts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// Launch this VM.
    Launch(Box<Requested>),
    /// Adopt the VM of this name.
    Adopt(VmId),
}

/// Runs the monitor's process. `run_dir` is the directory of run directories.
pub fn main(run_dir: &Path) {
    let (order, starter) = begin();
    let carried_out = RunDir::choose(Some(run_dir)).and_then(|run_dir| Ok((order?, run_dir)));
    match carried_out {
        Ok((Order::Launch(requested), run_dir)) => launch(*requested, &run_dir, starter),
        // An adopted VM runs on, whether or not it is taken.
        Ok((Order::Adopt(name), run_dir)) => take_over(&name, &run_dir, Starter::on_stdout()),
        Err(e) => drop(starter.answer(&LaunchAnswer::Failed(e))),
    }
}

/// The request for a VM, completed by a launch server's copy, and the image that is held until its VMM has it open.
pub(crate) struct Prepared<Held> {
    /// The directory of run directories.
    pub run_dir: RunDir,
    /// The request.
    pub requested: Requested,
    /// The image.
    pub held: Held,
}

/// Runs this process, a copy that a launch server has made, as a monitor. Its order is the specification of a launch, which
/// `prepare` completes.
pub(crate) fn serve<Held>(prepare: impl FnOnce(LaunchSpec) -> Result<Prepared<Held>>) {
    let (order, starter) = begin();
    let mut timeline = Timeline::begin(Instant::now());
    match order.and_then(prepare) {
        Ok(Prepared { run_dir, requested, held }) => {
            timeline.passed(Part::Request, Instant::now());
            let name = requested.request.name.clone();
            let started = start(requested, timeline, &run_dir, &starter);
            drop(held);
            watch(started, &name, starter);
        }
        Err(e) => drop(starter.answer(&LaunchAnswer::Failed(e))),
    }
}

/// Makes this process a monitor, and reads its order.
fn begin<T: DeserializeOwned>() -> (Result<T>, Starter) {
    inherited::give_up();
    // In a session of its own, the monitor gets no signals from a terminal or from a shell's job control.
    let _ = rustix::process::setsid();
    // The host's OOM killer must choose VMs and not the monitors that watch them.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    let (order, pipe) = read_order();
    let starter = Starter::on_stdout();
    match pipe {
        Some(pipe) => (order, starter.with_pipe(pipe)),
        None => (order, starter),
    }
}

/// Reads the order, one line on standard input. Returns the rest of standard input as a pipe on which the caller takes
/// the VM; a caller of an earlier version closes its end without a newline, and says nothing.
///
/// Without a descriptor for that pipe there is no order: a monitor could not tell that its caller is gone.
fn read_order<T: DeserializeOwned>() -> (Result<T>, Option<OwnedFd>) {
    let pipe = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(pipe) => pipe,
        Err(e) => return (Err(system("standard input", e)), None),
    };
    let mut line = Vec::new();
    let read = BufReader::new(std::io::stdin()).read_until(b'\n', &mut line);
    if let Ok(null) = File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(null);
    }
    let bad = |e: String| call_error(CallErrorKind::Usage, format!("the monitor's order: {e}"));
    let order = read.map_err(|e| bad(e.to_string()));
    let order = order.and_then(|_| serde_json::from_slice(&line).map_err(|e| bad(e.to_string())));
    (order, line.ends_with(b"\n").then_some(pipe))
}

fn launch(requested: Requested, run_dir: &RunDir, starter: Starter) {
    let now = Instant::now();
    let timeline = match requested.before {
        Some(before) => Timeline::after(before, now, monotonic_us()),
        None => Timeline::begin(now),
    };
    let name = requested.request.name.clone();
    let started = start(requested, timeline, run_dir, &starter);
    watch(started, &name, starter);
}

fn start(
    requested: Requested,
    mut timeline: Timeline,
    run_dir: &RunDir,
    starter: &Starter,
) -> Result<Started> {
    let claimed = requested.claim(run_dir)?;
    timeline.passed(Part::Claims, Instant::now());
    Started::of(claimed, timeline, starter)
}

fn watch(started: Result<Started>, name: &str, starter: Starter) {
    match started.about(name) {
        Ok(started) => started.watch(starter).run(),
        Err(e) => drop(starter.answer(&LaunchAnswer::Failed(e))),
    }
}

fn take_over(name: &VmId, run_dir: &RunDir, starter: Starter) {
    match adopt::adopt(run_dir, name).about(name.as_str()) {
        Ok(Adoption::Orphan(orphan)) => orphan.watch(starter).run(),
        Ok(Adoption::Ended(status)) => drop(starter.started(&status)),
        Err(e) => drop(starter.answer(&LaunchAnswer::Failed(e))),
    }
}
