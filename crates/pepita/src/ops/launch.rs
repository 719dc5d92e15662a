//! Launches or adopts a VM: starts a monitor, waits for its answer, and takes the VM.

use crate::boot::{Order, Prepared};
use crate::error::{About, CallError, Result, call_error, system};
use crate::host::clock::monotonic_us;
use crate::host::process_id::ProcessId;
use crate::host::wait::wait_readable;
use crate::host::{cgroup, inherited, open_files};
use crate::monitor::Before;
use crate::ops::container::{self, Held};
use crate::ops::resolve::resolve;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::record::{CallErrorKind, Reach};
use pepita_wire::serve::{LaunchAnswer, TAKEN};
use pepita_wire::{LaunchSpec, StatusRecord, VmId};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The maximum size of a monitor's answer, in bytes.
const ANSWER_CAP: u64 = 1 << 20;

/// The number of attempts of an adoption while monitors start and end, and the pause between two attempts.
const ADOPT_TRIES: usize = 50;
const ADOPT_PAUSE: Duration = Duration::from_millis(20);

/// The time for which a monitor may be silent while it starts or ends, on a busy host.
const SETTLED: Duration = Duration::from_secs(5);

/// The time limit for a monitor that has given no answer to serve or to end. A monitor has one thread and never blocks.
const PATIENCE: Duration = Duration::from_secs(10);

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
    let asked_us = monotonic_us();
    let launched = || {
        let Prepared { run_dir, mut requested, held: _held } = prepare(run_dir, name, spec)?;
        requested.before = Some(Before { asked_us, completed_us: monotonic_us() });
        start_monitor(&run_dir, &Order::Launch(Box::new(requested)), caller)
    };
    launched().about(name.as_str())
}

/// Completes the request for a VM.
///
/// # Errors
/// When the request cannot be met.
pub(crate) fn prepare(run_dir: &RunDir, name: &VmId, spec: LaunchSpec) -> Result<Prepared<Option<Held>>> {
    open_files::check()?;
    // The length of the path is checked first, so that no directory is created that no VM can use.
    run_dir.checked_vm(name)?;
    run_dir.create()?;
    // Held until the VMM has the root open.
    let held = container::hold(&spec)?;
    let (spec, image) = match &held {
        Some(held) => (container::with_image(spec, &held.record)?, Some(&held.record)),
        None => (spec, None),
    };
    let requested = resolve(run_dir, name, spec, image)?;
    Ok(Prepared { run_dir: run_dir.clone(), requested, held })
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
        open_files::check().about(name.as_str())?;
        match start_monitor(run_dir, &Order::Adopt(name.clone()), &Patient) {
            // Another adoption was faster, and its monitor watches the VM.
            Err(e) if e.kind == CallErrorKind::TryAgain => std::thread::sleep(ADOPT_PAUSE),
            result => return result.about(name.as_str()),
        }
    }
    Err(call_error(CallErrorKind::TryAgain, "its monitors come and go; try again")).about(name.as_str())
}

/// Gives a VM a new monitor when it has none, as [`adopt`] does. A monitor that is just starting or ending is waited for:
/// what is silent in the end ([`Reach::Silent`]) has been so for [`SETTLED`].
///
/// # Errors
/// The errors of [`adopt`].
pub(crate) fn adopt_settled(run_dir: &RunDir, name: &VmId) -> Result<StatusRecord> {
    let deadline = Instant::now() + SETTLED;
    loop {
        let status = adopt(run_dir, name)?;
        if status.reach != Reach::Silent || Instant::now() >= deadline {
            return Ok(status);
        }
        std::thread::sleep(ADOPT_PAUSE);
    }
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
        // An answer that cannot be read is none.
        let _ = BufReader::new(stdout.take(ANSWER_CAP)).read_until(b'\n', &mut line);
    }
    match serde_json::from_slice(&line) {
        Ok(LaunchAnswer::Up(status)) => {
            if is_taken(order, pipe, caller) {
                return Ok(*status);
            }
            // The monitor ends the VM, and then itself.
            let _ = child.wait();
            Err(call_error(CallErrorKind::TryAgain, "given up before it was up; nothing of it is left"))
        }
        Ok(LaunchAnswer::Failed(e)) => {
            let _ = child.wait();
            Err(e)
        }
        Err(_) => {
            // A monitor that could not write its answer waits for its starter: it ends the VM when the pipe closes.
            drop(pipe);
            match order {
                Order::Launch(_) => Err(no_answer(child.wait())),
                Order::Adopt(name) => unanswered(run_dir, name, &mut child),
            }
        }
    }
}

/// Takes the VM that a monitor was ordered to have. Returns `false` when the monitor ends the VM, because the caller has
/// given it up, or the monitor could not be told.
fn is_taken(order: &Order, pipe: Option<ChildStdin>, caller: &impl Caller) -> bool {
    match order {
        Order::Launch(_) => pipe.filter(|_| caller.is_heard()).is_some_and(|mut pipe| {
            // A VM that has ended meanwhile takes its monitor along, and leaves its exit record.
            pipe.write_all(TAKEN).map_or_else(|e| e.kind() == ErrorKind::BrokenPipe, |()| true)
        }),
        // An adopted VM runs on in any case.
        Order::Adopt(_) => true,
    }
}

/// Returns the status of a VM whose new monitor could not write its answer, as soon as the monitor serves.
///
/// # Errors
/// When the monitor has ended, or serves nobody for [`PATIENCE`].
fn unanswered(run_dir: &RunDir, name: &VmId, monitor: &mut Child) -> Result<StatusRecord> {
    let (pid, deadline) = (monitor.id(), Instant::now() + PATIENCE);
    loop {
        if let Some(ended) = monitor.try_wait().transpose() {
            return Err(no_answer(ended));
        }
        match reconcile::status(run_dir, name) {
            Ok(status) if status.monitor_pid == Some(pid) => return Ok(status),
            Ok(_) | Err(_) if Instant::now() < deadline => {
                if let Some(running) = ProcessId::of(pid).and_then(|monitor| monitor.open()) {
                    wait_readable(&running, ADOPT_PAUSE);
                }
            }
            Ok(_) | Err(_) => {
                let why = format!("its new monitor, process {pid}, neither answers nor ends");
                return Err(call_error(CallErrorKind::Timeout, why));
            }
        }
    }
}

/// Returns the error for a monitor that has ended without an answer.
fn no_answer(ended: io::Result<ExitStatus>) -> CallError {
    let how = ended.map_or_else(|e| e.to_string(), |status| status.to_string());
    call_error(CallErrorKind::Internal, format!("the monitor ended without an answer ({how})"))
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
