//! Launches or adopts a VM: starts a monitor, waits for its answer, and takes the VM.

use crate::boot::Order;
use crate::error::{About, Result, call_error, system};
use crate::host::{cgroup, inherited};
use crate::monitor::{Answer, TAKEN};
use crate::ops::resolve::resolve;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{LaunchSpec, StatusRecord, VmId};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The maximum size of a monitor's answer, in bytes.
const ANSWER_CAP: u64 = 1 << 20;

/// The number of attempts of an adoption while monitors start and end, and the pause between two attempts.
const ADOPT_TRIES: usize = 50;
const ADOPT_PAUSE: Duration = Duration::from_millis(20);

/// The caller of a launch, which decides whether the VM stays once it is up.
pub(crate) trait Caller {
    /// Returns the descriptor that is readable when the caller gives the launch up; `None` = it never does.
    fn gives_up(&self) -> Option<BorrowedFd<'_>>;
    /// Returns whether somebody hears of the VM that is up now.
    fn is_heard(&self) -> bool;
}

/// A caller that takes every VM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patient;

impl Caller for Patient {
    fn gives_up(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_heard(&self) -> bool {
        true
    }
}

/// Starts the VM `name` as `spec` describes it. Returns its status when its VMM runs.
///
/// # Errors
/// When the request cannot be met, or the caller has given up. Nothing of the VM is left then.
pub(crate) fn launch(
    run_dir: &RunDir,
    name: &VmId,
    spec: LaunchSpec,
    caller: &impl Caller,
) -> Result<StatusRecord> {
    let launched = || {
        // The length of the path is checked first, so that no directory is created that no VM can use.
        run_dir.checked_vm(name)?;
        run_dir.create()?;
        let requested = resolve(run_dir, name, spec)?;
        start_monitor(run_dir, &Order::Launch(Box::new(requested)), caller)
    };
    launched().about(name.as_str())
}

/// Gives a VM a new monitor when it has none. Returns the status of the VM.
///
/// # Errors
/// When there is no such VM, or its files cannot be read.
pub(crate) fn adopt(run_dir: &RunDir, name: &VmId) -> Result<StatusRecord> {
    for _ in 0..ADOPT_TRIES {
        let status = reconcile::status(run_dir, name)?;
        if let Some(why) = &status.unreadable {
            return Err(reconcile::unreadable(why)).about(name.as_str());
        }
        if status.monitor_pid.is_some() || status.state.is_terminal() {
            return Ok(status);
        }
        match start_monitor(run_dir, &Order::Adopt(name.clone()), &Patient) {
            // Another adoption was faster, and its monitor watches the VM.
            Err(e) if e.kind == CallErrorKind::TryAgain => std::thread::sleep(ADOPT_PAUSE),
            result => return result.about(name.as_str()),
        }
    }
    Err(call_error(CallErrorKind::TryAgain, "its monitors come and go; try again")).about(name.as_str())
}

/// Starts a monitor and waits for its answer. The monitor outlives this process.
fn start_monitor(run_dir: &RunDir, order: &Order, caller: &impl Caller) -> Result<StatusRecord> {
    let own = std::env::current_exe().map_err(|e| system("our own program", e))?;
    let mut command = Command::new(own);
    inherited::clean_environment(&mut command);
    // The monitor makes the cgroup of the VM.
    command.envs(std::env::var_os(cgroup::ENVIRONMENT).map(|place| (cgroup::ENVIRONMENT, place)));
    let mut child = command
        .arg("monitor")
        .arg(run_dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| call_error(CallErrorKind::TryAgain, format!("cannot start a monitor: {e}")))?;
    let mut pipe = child.stdin.take();
    if let Some(stdin) = &mut pipe {
        let mut order = serde_json::to_vec(order).expect("an order becomes JSON");
        order.push(b'\n');
        stdin.write_all(&order).map_err(|e| system("the monitor", e))?;
    }
    let mut line = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let gave_up = caller.gives_up().is_some_and(|signal| !wait_for_answer(&stdout, signal));
        if gave_up {
            pipe = None;
        }
        // The output is read to its end: the monitor closes it when the answer is complete.
        stdout.take(ANSWER_CAP).read_to_end(&mut line).map_err(|e| system("the monitor", e))?;
    }
    match serde_json::from_slice(&line) {
        Ok(Answer::Up(status)) => {
            if let Some(mut pipe) = pipe.filter(|_| caller.is_heard()) {
                // A VM that has ended meanwhile takes its monitor along, and leaves its exit record.
                let _ = pipe.write_all(TAKEN);
                return Ok(*status);
            }
            // The monitor ends the VM, and then itself.
            let _ = child.wait();
            Err(call_error(CallErrorKind::TryAgain, "given up before it was up; nothing of it is left"))
        }
        Ok(Answer::Failed(e)) => {
            let _ = child.wait();
            Err(e)
        }
        Err(_) => {
            // A monitor that could not write its answer waits for its starter: it ends the VM when the pipe closes.
            drop(pipe);
            let how = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
            Err(call_error(CallErrorKind::Internal, format!("the monitor ended without an answer ({how})")))
        }
    }
}

/// Waits until the monitor answers. Returns `false` when the caller gave up before.
fn wait_for_answer(answer: &impl AsFd, signal: BorrowedFd<'_>) -> bool {
    loop {
        let mut fds = [PollFd::new(answer, PollFlags::IN), PollFd::from_borrowed_fd(signal, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return false,
            Ok(_) if !fds[0].revents().is_empty() => return true,
            Ok(_) | Err(Errno::INTR) => {}
            // Without a wait for both, the answer is awaited.
            Err(_) => return true,
        }
    }
}
