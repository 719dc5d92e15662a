//! Starts the processes of a VM: the VMM, its vsock back-end and the servers of its shares. No other module starts them.
//!
//! The processes outlive the monitor that starts them: no process is set up to die with its parent, and no pipe of a
//! process ends in the monitor.

mod jail;
mod process;
mod share;

pub use jail::note_limits;
pub use process::Process;
pub use share::{Server, lost};

use crate::error::{Result, call_error, io, system};
use crate::host::tap;
use crate::qemu::{self, Append, Descriptors, Handed};
use crate::rundir::files::{Sync, move_to, replace};
use crate::rundir::{layout, monitor_log};
use crate::vm_config::{Root, VmConfig, VmmKind};
use jail::{Jails, program_of};
use pepita_wire::record::{CallErrorKind, JailStatus};
use process::{command, inherit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, inotify, mkfifoat, open};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// The time limit for a process to open its socket.
const SOCKET_DEADLINE: Duration = Duration::from_secs(10);

/// The capacity of the console's pipe, in bytes: at 5 MB/s, the monitor may be late by a fifth of a second.
const CONSOLE_PIPE: usize = 1 << 20;

/// The processes of a VM that runs, and the monitor's ends of their connections.
#[derive(Debug)]
pub struct Processes {
    /// The process of the VMM.
    pub vmm: Process,
    /// The vsock back-end, on the hybrid transport.
    pub backend: Option<Process>,
    /// The servers of the shares.
    pub shares: Vec<Server>,
    /// The connection to the guest's console.
    pub console: OwnedFd,
    /// The connection to QEMU's monitor. `None` for a plain process, and while QEMU takes no connection.
    pub qmp: Option<OwnedFd>,
    /// A pair of sockets that QEMU has inherited, by which sockets are kept open when the monitor is killed.
    pub keep: Option<[UnixDatagram; 2]>,
    /// What is said of the jails of the VMM, the back-end and the servers of the shares, if they are in jails.
    pub jail: Option<JailStatus>,
}

impl Processes {
    /// Kills the VMM, the back-end and the servers of the shares.
    pub fn kill(self) {
        self.vmm.kill();
        if let Some(backend) = self.backend {
            backend.kill();
        }
        self.shares.into_iter().for_each(Server::kill);
    }
}

/// The descriptors that claim something for a VM, for the monitor and for the VMM.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    /// The lock of the CID among the VMs of the run directory.
    pub cid_lock: &'a File,
    /// The device that holds the CID, on the kernel transport.
    pub vhost: Option<&'a OwnedFd>,
    /// The sign in the kernel that the VM runs ([`crate::host::sign`]).
    pub sign: Option<&'a OwnedFd>,
    /// The claim of the user ids of the VM's processes.
    pub uids: Option<&'a File>,
    /// The disk of the root, open for reading.
    pub root: Option<&'a File>,
    /// The layer above it.
    pub layer: Option<&'a File>,
    /// The VM's disks, with their locks.
    pub disks: &'a [File],
}

/// Starts the processes of a VM. The current directory is the VM's run directory.
///
/// The VMM inherits the descriptors of `claims`, so that what they claim stays claimed as long as the VMM lives.
///
/// # Errors
/// When a program is missing or does not start. No process is left running then.
pub fn start(config: &VmConfig, token: &str, claims: &Claims<'_>) -> Result<Processes> {
    match config.request.vmm {
        VmmKind::Qemu => start_qemu(config, token, claims),
        VmmKind::Process => start_process(config, claims),
    }
}

/// Starts the back-end and then QEMU.
fn start_qemu(config: &VmConfig, token: &str, claims: &Claims<'_>) -> Result<Processes> {
    let Claims { cid_lock, vhost, sign, uids, root, layer, disks } = *claims;
    make_console()?;
    let console = open_console()?;
    let (qmp, for_qmp) = listen(layout::QMP)?;
    let port = config.request.token_port.then(|| token_port(token)).transpose()?;
    let keep =
        config.needs_backend().then(UnixDatagram::pair).transpose().map_err(|e| system("a socket", e))?;
    let keep = keep.map(<[UnixDatagram; 2]>::from);
    let cmdline = qemu::cmdline(config, token);
    let append = match qemu::options_file(config, &cmdline) {
        Some(options) => {
            replace(Path::new(layout::OPTIONS), options.as_bytes(), Sync::No)?;
            Append::File(layout::OPTIONS)
        }
        None => Append::Argument(&cmdline),
    };
    let dir = std::env::current_dir().map_err(|e| system("current directory", e))?;
    let options = matches!(append, Append::File(_)).then_some(layout::OPTIONS);
    let given: Vec<&str> = [layout::CONSOLE_IN, layout::CONSOLE_OUT].into_iter().chain(options).collect();
    let mut jails = Jails::of(config, &dir, &given)?;
    let shares = share::start(config, jails.as_mut())?;
    let (shares, streams): (Vec<Server>, Vec<UnixStream>) = shares.into_iter().unzip();
    let started = match (vhost, &config.request.backend) {
        (None, Some(program)) => {
            start_backend(program, config, jails.as_mut(), uids).map(|(p, fd)| (Some(p), Some(fd)))
        }
        (Some(_), _) | (None, None) => Ok((None, None)),
    };
    let (backend, vsock) = match started {
        Ok(started) => started,
        Err(e) => {
            shares.into_iter().for_each(Server::kill);
            return Err(e);
        }
    };
    // It is there as long as QEMU has it.
    let device = match config.request.tap.as_ref().map(tap::up).transpose() {
        Ok(device) => device,
        Err(e) => {
            backend.into_iter().for_each(Process::kill);
            shares.into_iter().for_each(Server::kill);
            return Err(e);
        }
    };
    let share_fds: Vec<i32> = streams.iter().map(AsRawFd::as_raw_fd).collect();
    let disk_fds: Vec<Handed> = disks.iter().map(handed).collect();
    let vsock = vsock.as_ref().or(vhost);
    let fds = Descriptors {
        qmp: for_qmp.as_raw_fd(),
        vsock: vsock.map_or(-1, AsRawFd::as_raw_fd),
        token: port.as_ref().map(|[port, _]| port.as_raw_fd()),
        tap: device.as_ref().map(AsRawFd::as_raw_fd),
        shares: &share_fds,
        root: root.map(handed),
        layer: layer.map(handed),
        disks: &disk_fds,
    };
    // Core files of QEMU are switched off: they would contain the guest's memory, which must not get onto the host's
    // disk.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let inherited = [for_qmp.as_fd(), cid_lock.as_fd()].into_iter().chain(vsock.map(AsFd::as_fd));
    let inherited = inherited.chain(port.iter().flatten().map(AsFd::as_fd));
    let inherited = inherited.chain(keep.iter().flatten().map(AsFd::as_fd)).chain(sign.map(AsFd::as_fd));
    let inherited = inherited.chain(device.iter().map(AsFd::as_fd));
    let files = uids.into_iter().chain(root).chain(layer).chain(disks);
    let inherited = inherited.chain(files.map(AsFd::as_fd)).chain(streams.iter().map(AsFd::as_fd));
    let inherited: Vec<BorrowedFd<'_>> = inherited.collect();
    let program = program_of(&config.request.program, jails.as_ref());
    let plan = jails.as_ref().map(|jails| jails.of_vmm(config, &program, longest(root, disks)));
    let argv = qemu::argv(config, append, fds);
    match process::start(config, &program, argv, &inherited, plan) {
        Ok((vmm, report)) => {
            let jail = jails.map(|mut jails| {
                report.iter().for_each(|report| jails.note_vmm(report));
                jails.into_status()
            });
            Ok(Processes { vmm, backend, shares, console, qmp: Some(qmp), keep, jail })
        }
        Err(e) => {
            if let Some(backend) = backend {
                backend.kill();
            }
            shares.into_iter().for_each(Server::kill);
            drop(device);
            if let Some(tap) = &config.request.tap {
                tap::down(tap);
            }
            Err(e)
        }
    }
}

/// Returns a socket from which the boot token is read, and its other end. QEMU inherits both: it would drop the token
/// when the other end were closed before the guest has read it.
fn token_port(token: &str) -> Result<[UnixStream; 2]> {
    let failed = |e: std::io::Error| system("the port of the boot token", e);
    let (port, mut other) = UnixStream::pair().map_err(failed)?;
    other.write_all(token.as_bytes()).map_err(failed)?;
    Ok([port, other])
}

/// Returns a disk as QEMU inherits it.
fn handed(disk: &File) -> Handed {
    let is_device = disk.metadata().is_ok_and(|meta| meta.file_type().is_block_device());
    Handed { fd: disk.as_raw_fd(), is_device }
}

/// Returns the size to which a disk of the VM can grow, in bytes: a layer has tables beside all that the guest may write.
fn longest(root: Option<&File>, disks: &[File]) -> u64 {
    const TABLES: u64 = 16 << 20;
    let bytes = |mut file: &File| file.seek(SeekFrom::End(0)).unwrap_or(0);
    let layer = root.map(bytes).map(|bytes| bytes + bytes / 1024 + TABLES);
    layer.into_iter().chain(disks.iter().map(bytes)).max().unwrap_or(0)
}

/// Starts the vsock back-end, and connects to it for QEMU.
fn start_backend(
    program: &Path,
    config: &VmConfig,
    mut jails: Option<&mut Jails>,
    uids: Option<&File>,
) -> Result<(Process, OwnedFd)> {
    let program = program_of(program, jails.as_deref());
    // In a jail the back-end has a directory of its own.
    let place = Path::new(if jails.is_some() { layout::VSOCK } else { "" });
    let plan = match &mut jails {
        Some(jails) => {
            jails.make_sockets_dir()?;
            Some(jails.of_backend(&program))
        }
        None => None,
    };
    let [socket, uds] = [layout::BACKEND, layout::HYBRID].map(|name| place.join(name));
    let cid = config.cid.to_string();
    let args = [
        "--guest-cid".into(),
        cid.into(),
        "--socket".into(),
        (&socket).into(),
        "--uds-path".into(),
        (&uds).into(),
    ];
    let inherited: Vec<BorrowedFd<'_>> = uids.map(AsFd::as_fd).into_iter().collect();
    let (process, report) = process::start(config, &program, args.into(), &inherited, plan)?;
    if let (Some(jails), Some(report)) = (jails, &report) {
        jails.note_backend(report);
    }
    let connected = connect(&socket, &process).and_then(|stream| {
        if place != Path::new("") {
            take_out(&uds)?;
        }
        Ok(stream)
    });
    match connected {
        Ok(stream) => Ok((process, stream.into())),
        Err(e) => {
            process.kill();
            Err(e)
        }
    }
}

/// Moves the socket of the back-end out of the directory that belongs to it, where it could put a link to another socket of
/// the host in its place, and removes the directory.
fn take_out(uds: &Path) -> Result<()> {
    let path = Path::new(layout::HYBRID);
    move_to(uds, path)?;
    let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Err(system("the vsock back-end", "what it has made is no socket"));
    }
    // What is left is the socket for QEMU, whose connection is made.
    let _ = std::fs::remove_dir_all(layout::VSOCK);
    Ok(())
}

/// Starts the agent as a plain process.
fn start_process(config: &VmConfig, claims: &Claims<'_>) -> Result<Processes> {
    let VmConfig { cid, incarnation, request, .. } = config;
    let mut command = command(&request.program, config)?;
    let (console, for_console) = listen(layout::CONSOLE)?;
    command.stdin(OwnedFd::from(for_console));
    command.arg("--process").args(["--uds", layout::HYBRID]);
    command.args(["--token-file", layout::BOOT_TOKEN, "--notify", layout::NOTIFY]);
    command.args(["--port", &request.port.to_string(), "--incarnation", &incarnation.to_string()]);
    command.args(["--cid", &cid.to_string()]);
    if let Root::Host(Some(image)) = &request.root {
        command.arg("--image").arg(image);
    }
    let inherited = [claims.cid_lock.as_fd()].into_iter().chain(claims.sign.map(AsFd::as_fd));
    let vmm = inherit(inherited).and_then(|()| Process::spawn(&mut command))?;
    Ok(Processes { vmm, backend: None, shares: Vec::new(), console, qmp: None, keep: None, jail: None })
}

/// Creates the pipes of the guest's console. QEMU discards output that the reader of the console does not take at once.
/// A pipe buffers several times more than a socket, and keeps its contents while there is no monitor.
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
/// When the pipe does not exist.
pub fn open_console() -> Result<OwnedFd> {
    let path = Path::new(layout::CONSOLE_OUT);
    // The pipe is opened for writing as well. Otherwise a read would return the end of the file until QEMU has opened
    // the pipe.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let console = open(path, flags, Mode::empty()).map_err(|e| io(path, e))?;
    // An ordinary user may not be allowed this capacity. The pipe also works with a smaller one.
    let _ = rustix::pipe::fcntl_setpipe_size(&console, CONSOLE_PIPE);
    Ok(console)
}

/// Creates a listening socket for the VMM to inherit, and connects to it before the VMM starts, so that no byte is
/// missed.
fn listen(name: &str) -> Result<(OwnedFd, UnixListener)> {
    let path = Path::new(name);
    let listener = UnixListener::bind(path).map_err(|e| io(path, e))?;
    let stream = UnixStream::connect(path).map_err(|e| io(path, e))?;
    stream.set_nonblocking(true).map_err(|e| io(path, e))?;
    Ok((stream.into(), listener))
}

/// Connects to the socket that a process opens, as soon as the socket is there.
fn connect(path: &Path, process: &Process) -> Result<UnixStream> {
    let deadline = Instant::now() + SOCKET_DEADLINE;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .and_then(|watch| {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            inotify::add_watch(&watch, dir, inotify::WatchFlags::CREATE)?;
            Ok(watch)
        })
        .map_err(|e| system("inotify", e))?;
    loop {
        // The first attempt comes after the watch began, so that the socket cannot appear unseen in between.
        let refused = match UnixStream::connect(path) {
            Ok(stream) => {
                // The kernel closes a watch only after a grace period (synchronize_srcu) of about 20 ms, so another
                // thread closes it, or this one if the system refuses a thread.
                let _ = std::thread::Builder::new().spawn(|| drop(watch));
                return Ok(stream);
            }
            Err(e) => e.kind() == ErrorKind::ConnectionRefused,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        // A refused connection means that the socket is bound and does not listen yet. The process listens within
        // microseconds, and no event reports that moment.
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
            // The event has to be read, because the next wait would otherwise end at once.
            let _ = rustix::io::read(&watch, &mut [0; 4096]);
        }
    }
}

/// Returns the last three lines that the VMM or the back-end wrote to the monitor's log, in the current directory.
pub fn last_words() -> String {
    worst_first(&end_of_log(2048))
}

/// Returns the lines about the last panic of a program in Rust, as the back-end is, at the end of the monitor's log in
/// the current directory.
pub fn panic_words() -> Option<String> {
    last_panic(&end_of_log(16 * 1024))
}

/// Returns at most the last `length` bytes of the monitor's log in the current directory.
fn end_of_log(length: u32) -> String {
    use std::io::Read;
    monitor_log::carry_now();
    let mut bytes = Vec::new();
    if let Ok(mut log) = File::open(layout::MONITOR_LOG) {
        // Only the end of a long log is read. For a shorter log the seek fails, and the log is read from its beginning.
        let _ = log.seek(SeekFrom::End(-i64::from(length)));
        let _ = log.take(length.into()).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the last panic in a text, on one line: its place without the directories, and its reason.
fn last_panic(text: &str) -> Option<String> {
    let (_, panic) = text.rsplit_once("panicked at ")?;
    let mut lines = panic.lines();
    let place = lines.next()?.trim_end_matches(':');
    let place = place.rsplit('/').next().unwrap_or(place);
    let reason = lines.next().unwrap_or_default().trim();
    Some(format!("panicked at {place}: {reason}"))
}

/// Returns the last lines of a program, three at most: errors before warnings, and notes only when there is nothing
/// else. (QEMU begins with the note that it waits for a connection.)
fn worst_first(text: &str) -> String {
    let rank = |line: &str| match line {
        // The others are lines of virtiofsd about its start.
        line if ["info: ", "virtio_session_mount: ", "virtio_loop: "]
            .iter()
            .any(|part| line.contains(part)) =>
        {
            2
        }
        line if line.contains("warning: ") => 1,
        _ => 0,
    };
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let worst = lines.iter().map(|line| rank(line)).min().unwrap_or_default();
    lines.retain(|line| rank(line) <= worst.max(1));
    let mut lines = lines.split_off(lines.len().saturating_sub(3));
    lines.sort_by_key(|line| rank(line));
    lines.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_panic_is_told_with_its_place_and_its_reason() {
        let said = "x\nthread 'vring_worker' (28884) panicked at /root/.cargo/registry/v-0.3.0/src/conn.rs:238:64:\n\
                    called `Result::unwrap()` on an `Err` value: Broken pipe\nstack backtrace:\n   0: __rustc\n";
        let expected = "panicked at conn.rs:238:64: called `Result::unwrap()` on an `Err` value: Broken pipe";
        assert_eq!(last_panic(said).as_deref(), Some(expected));
        assert_eq!(last_panic("qemu: warning: TCG is slow"), None);
    }

    #[test]
    fn the_words_of_a_vmm_begin_with_its_error() {
        let info = "qemu: info: QEMU waiting for connection on: disconnected:unix:qmp.sock,server=on";
        let (warning, error) = ("qemu: warning: TCG is slow", "qemu: could not load kernel '/k'");
        for (said, expected) in [
            (vec![info, error], error.to_owned()),
            (vec![info, warning, error, ""], format!("{error} | {warning}")),
            (vec!["a", "b", "c", "d"], "b | c | d".to_owned()),
            (vec![info], info.to_owned()),
            (vec![], String::new()),
        ] {
            assert_eq!(worst_first(&said.join("\n")), expected);
        }
    }
}
