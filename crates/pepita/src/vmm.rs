//! Starts the processes behind a VM: the VMM, and its vsock back-end. The only place of the launcher that does.
//!
//! They outlive the monitor that starts them: nothing dies with it, no pipe of theirs ends there.

use crate::error::{Result, call_error, io, system};
use crate::host::process_id::ProcessId;
use crate::host::wait::wait_readable;
use crate::host::{setsid, strays};
use crate::qemu::{self, Descriptors};
use crate::rundir::layout;
use crate::vm_config::{Root, VmConfig};
use pepita_wire::ProcessExit;
use pepita_wire::record::CallErrorKind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, inotify, mkfifoat, open};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, pidfd_send_signal, setrlimit};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For a process to open its socket.
const SOCKET_DEADLINE: Duration = Duration::from_secs(10);

/// Output of the guest that waits for its monitor: at 5 MB/s, a fifth of a second.
const CONSOLE_PIPE: usize = 1 << 20;

/// How the VMM's process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VmmEnd {
    /// It has not, as far as we know.
    #[default]
    Runs,
    /// Its parent saw it.
    Seen(ProcessExit),
    /// It is gone, and its parent was gone before it.
    Unseen,
}

/// A process of a VM, ours or a former monitor's.
#[derive(Debug)]
pub struct Process {
    /// Which it is.
    pub identity: ProcessId,
    child: Option<Child>,
    handle: OwnedFd,
}

impl Process {
    fn spawn(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => {
                call_error(CallErrorKind::VmmMissing, format!("{program}: {e}"))
            }
            _ => call_error(CallErrorKind::TryAgain, format!("{program}: {e}")),
        })?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let handle = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Not reaped yet, so it is there even if it has ended.
        let identity = ProcessId::of_child(child.id());
        match handle {
            Some(handle) => Ok(Self { identity, child: Some(child), handle }),
            None => Err(system(&program, "no handle on the process")),
        }
    }

    /// One that a former monitor started, if it still runs.
    pub fn adopt(identity: ProcessId) -> Option<Self> {
        identity.open().map(|handle| Self { identity, child: None, handle })
    }

    /// Readable once it has ended.
    pub fn handle(&self) -> &OwnedFd {
        &self.handle
    }

    /// Signals it.
    pub fn signal(&self, signal: Signal) {
        // It may end at this very moment.
        let _ = pidfd_send_signal(&self.handle, signal);
    }

    /// How it ended, once its handle says that it has.
    pub fn end(&mut self) -> VmmEnd {
        let Some(child) = &mut self.child else { return VmmEnd::Unseen };
        match child.wait() {
            Ok(status) => VmmEnd::Seen(ProcessExit { code: status.code(), signal: status.signal() }),
            Err(_) => VmmEnd::Unseen,
        }
    }

    /// Ends it and waits until it is gone.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        wait_readable(&self.handle, Duration::from_secs(5));
        if self.child.is_some() {
            self.end();
        }
    }
}

/// What a started VM consists of.
#[derive(Debug)]
pub struct Started {
    /// The VMM.
    pub vmm: Process,
    /// The vsock back-end, on the hybrid transport.
    pub backend: Option<Process>,
    /// Connected to the guest's console.
    pub console: OwnedFd,
    /// Connected to QEMU's monitor.
    pub qmp: Option<OwnedFd>,
}

/// Starts QEMU, and the back-end before it. The current directory is the VM's run directory.
///
/// `cid_lock` is inherited by QEMU, so that the CID stays claimed as long as it lives.
///
/// # Errors
/// When a program is missing or does not come up; nothing is left running then.
pub fn start_qemu(plan: &VmConfig, token: &str, cid_lock: &File, vhost: Option<&OwnedFd>) -> Result<Started> {
    make_console()?;
    let console = open_console()?;
    let (qmp, for_qmp) = listen(layout::QMP)?;
    let mut backend = None;
    let mut vsock = None;
    if let (None, Some(program)) = (vhost, &plan.backend) {
        let mut command = command(program)?;
        command.args(["--guest-cid", &plan.cid.unwrap_or_default().to_string()]);
        command.args(["--socket", layout::BACKEND, "--uds-path", layout::HYBRID]);
        let process = Process::spawn(&mut command)?;
        match connect(Path::new(layout::BACKEND), &process) {
            Ok(stream) => (backend, vsock) = (Some(process), Some(OwnedFd::from(stream))),
            Err(e) => {
                process.kill();
                return Err(e);
            }
        }
    }
    let fds = Descriptors {
        qmp: for_qmp.as_raw_fd(),
        vsock: vsock.as_ref().or(vhost).map_or(-1, AsRawFd::as_raw_fd),
    };
    // Its memory is the guest's, which has no business on the host's disk.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let mut command = command(&plan.program)?;
    command.args(qemu::argv(plan, &qemu::cmdline(plan, token), fds));
    let inherited = [for_qmp.as_fd(), cid_lock.as_fd()];
    let inherited = inherited.into_iter().chain(vsock.as_ref().or(vhost).map(AsFd::as_fd));
    let spawned = inherit(inherited).and_then(|()| Process::spawn(&mut command));
    match spawned {
        Ok(vmm) => Ok(Started { vmm, backend, console, qmp: Some(qmp) }),
        Err(e) => {
            if let Some(backend) = backend {
                backend.kill();
            }
            Err(e)
        }
    }
}

/// Starts the agent as a plain process. The current directory is the VM's run directory.
///
/// # Errors
/// When the agent is missing or does not come up; nothing is left running then.
pub fn start_process(plan: &VmConfig, cid_lock: &File) -> Result<Started> {
    let mut command = command(&plan.program)?;
    let (console, for_console) = listen(layout::CONSOLE)?;
    command.stdin(OwnedFd::from(for_console));
    command.arg("--process").args(["--uds", layout::HYBRID]);
    command.args(["--token-file", layout::BOOT_TOKEN, "--notify", layout::NOTIFY]);
    command.args(["--port", &plan.port.to_string(), "--incarnation", &plan.incarnation.to_string()]);
    command.args(["--cid", &plan.cid.unwrap_or_default().to_string()]);
    if let Root::Host(Some(image)) = &plan.root {
        command.arg("--image").arg(image);
    }
    let vmm = inherit([cid_lock.as_fd()].into_iter()).and_then(|()| Process::spawn(&mut command))?;
    Ok(Started { vmm, backend: None, console, qmp: None })
}

/// Makes the pipes of the guest's console. Pipes, because QEMU throws away what a console's reader does not take at once:
/// a pipe holds several times what a socket does, and goes on holding it while there is no monitor.
fn make_console() -> Result<()> {
    for name in [layout::CONSOLE_IN, layout::CONSOLE_OUT] {
        let mode = Mode::RUSR | Mode::WUSR;
        mkfifoat(CWD, name, mode).map_err(|e| io(Path::new(name), e))?;
    }
    Ok(())
}

/// Opens the reading end of the guest's console, in the current directory.
///
/// # Errors
/// When it is not there.
pub fn open_console() -> Result<OwnedFd> {
    let path = Path::new(layout::CONSOLE_OUT);
    // For writing, too: else it would be at its end until QEMU has opened it.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let console = open(path, flags, Mode::empty()).map_err(|e| io(path, e))?;
    // As much as an ordinary user may; less is no reason to fail.
    let _ = rustix::pipe::fcntl_setpipe_size(&console, CONSOLE_PIPE);
    Ok(console)
}

/// A listening socket for the VMM to inherit, and our own connection to it, made already: not a byte is missed.
fn listen(name: &str) -> Result<(OwnedFd, UnixListener)> {
    let path = Path::new(name);
    let listener = UnixListener::bind(path).map_err(|e| io(path, e))?;
    let stream = UnixStream::connect(path).map_err(|e| io(path, e))?;
    stream.set_nonblocking(true).map_err(|e| io(path, e))?;
    Ok((stream.into(), listener))
}

fn command(program: &Path) -> Result<Command> {
    let path = Path::new(layout::MONITOR_LOG);
    let log = File::options().create(true).append(true).open(path).map_err(|e| io(path, e))?;
    let same = log.try_clone().map_err(|e| io(path, e))?;
    let here = std::env::current_dir().map_err(|e| system("current directory", e))?;
    let mut command = Command::new(program);
    command.env(strays::MARK, here);
    command.stdin(Stdio::null()).stdout(log).stderr(same);
    setsid::of_its_own(&mut command);
    Ok(command)
}

/// Lets the next process inherit descriptors. The monitor has one thread, so no other spawn can come in between.
fn inherit<'a>(fds: impl Iterator<Item = std::os::fd::BorrowedFd<'a>>) -> Result<()> {
    for fd in fds {
        fcntl_setfd(fd, FdFlags::empty()).map_err(|e| system("descriptor", e))?;
    }
    Ok(())
}

/// Connects to the socket that a process opens, as soon as it is there.
fn connect(path: &Path, process: &Process) -> Result<UnixStream> {
    let deadline = Instant::now() + SOCKET_DEADLINE;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .and_then(|watch| {
            inotify::add_watch(&watch, ".", inotify::WatchFlags::CREATE)?;
            Ok(watch)
        })
        .map_err(|e| system("inotify", e))?;
    loop {
        // Looked at after the watch began, so that nothing falls in between.
        let refused = match UnixStream::connect(path) {
            Ok(stream) => {
                // The kernel lets nobody close a watch before a grace period is over (synchronize_srcu), some 20 ms.
                std::thread::spawn(|| drop(watch));
                return Ok(stream);
            }
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionRefused,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        // Bound, but not listening yet: that takes microseconds, and no event tells.
        let limit = if refused { left.min(Duration::from_millis(1)) } else { left };
        let limit = Timespec::try_from(limit).ok();
        let mut fds = [PollFd::new(&watch, PollFlags::IN), PollFd::new(process.handle(), PollFlags::IN)];
        let _ = poll(&mut fds, limit.as_ref());
        let (created, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        let shown = path.display();
        if ended {
            return Err(call_error(
                CallErrorKind::TryAgain,
                format!("a process of the VM ended before it opened {shown}: {}", last_words()),
            ));
        }
        if left.is_zero() {
            return Err(call_error(CallErrorKind::Timeout, format!("{shown} was not opened in time")));
        }
        if created {
            // Read away, or the next wait would end at once.
            let _ = rustix::io::read(&watch, &mut [0; 4096]);
        }
    }
}

/// The last line that the VMM or the back-end wrote to the monitor's log, in the current directory.
pub fn last_words() -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    if let Ok(mut log) = File::open(layout::MONITOR_LOG) {
        // Of a log that is long only the end; one that is shorter than that is read from its beginning.
        let _ = log.seek(SeekFrom::End(-2048));
        let _ = log.take(2048).read_to_end(&mut bytes);
    }
    let tail = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = tail.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}
