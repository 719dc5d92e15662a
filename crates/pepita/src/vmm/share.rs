//! Starts the servers of a VM's shares: virtiofsd, one process for each share, in a jail of ours or, without one, in the
//! sandbox that virtiofsd makes itself.

use super::jail::{Jails, program_of};
use super::process::{self, Process, command, inherit};
use crate::error::{CallError, Result, call_error, system};
use crate::host::view::in_own_view;
use crate::rundir::layout;
use crate::vm_config::VmConfig;
use pepita_jail::{Layer, Report};
use pepita_wire::record::CallErrorKind;
use pepita_wire::storage::ShareSpec;
use rustix::process::{Resource, Rlimit, Signal, geteuid, getrlimit, setrlimit};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// What virtiofsd is to add to the capabilities that it keeps, and to take from them: it makes no device files and, as it
/// knows no extended attributes, gives no file capabilities.
const CAPABILITIES: &str = "-mknod:-setfcap";

/// The same for a share that is read-only: it keeps the rights to read every file, and to leave no trace of that.
const CAPABILITIES_READ_ONLY: &str =
    "-mknod:-setfcap:-chown:-dac_override:-fsetid:-setgid:-setuid:+dac_read_search";

/// The server of a share.
#[derive(Debug)]
pub struct Server {
    /// The directory in the guest, by which the share is named.
    pub mount: String,
    /// The process.
    pub process: Process,
}

impl Server {
    /// Kills the server with the process that it has started in a process namespace of its own, and waits for its end.
    pub fn kill(self) {
        self.process.identity.signal_group(Signal::KILL);
        self.process.kill();
    }

    /// Returns the sentence about the end of the server, which is gone.
    pub fn ended(mut self) -> String {
        let how = match self.process.end() {
            Some(exit) => exit.code.map_or(format!("died of {exit}"), |code| format!("exited with {code}")),
            None => "is gone".to_owned(),
        };
        lost(&self.mount, &how)
    }
}

/// Returns the sentence about a share without its server.
pub fn lost(mount: &str, how: &str) -> String {
    format!("share {mount}: its server (virtiofsd) {how}")
}

/// Starts the servers of all shares, in jails or without. Returns each with a connection for QEMU.
///
/// # Errors
/// When one does not start, or its directory cannot be shown as it has to be. None is left running then.
pub(super) fn start(config: &VmConfig, mut jails: Option<&mut Jails>) -> Result<Vec<(Server, UnixStream)>> {
    let mut servers: Vec<(Server, UnixStream)> = Vec::new();
    for share in &config.request.shares {
        match start_one(config, share, jails.as_deref_mut()) {
            Ok(server) => servers.push(server),
            Err(e) => {
                servers.into_iter().for_each(|(server, _)| server.kill());
                return Err(e);
            }
        }
    }
    Ok(servers)
}

fn start_one(
    config: &VmConfig,
    share: &ShareSpec,
    jails: Option<&mut Jails>,
) -> Result<(Server, UnixStream)> {
    let failed = |e: std::io::Error| system("the socket of a share", e);
    let Some(program) = &config.request.virtiofsd else {
        return Err(call_error(CallErrorKind::VmmMissing, "no virtiofsd is named for the shares"));
    };
    // The server waits for one connection, which is made before it starts. No other process can make a second one.
    let path = Path::new(layout::SHARE);
    let listener = UnixListener::bind(path).map_err(failed)?;
    let stream = UnixStream::connect(path).map_err(failed)?;
    std::fs::remove_file(path).map_err(failed)?;
    let process = match jails {
        Some(jails) => in_jail(config, share, program, &listener, jails)?,
        None => in_sandbox(config, share, program, &listener)?,
    };
    Ok((Server { mount: share.mount.clone(), process }, stream))
}

/// Starts a server in a jail of ours. The directory that the server sees is its root, too, as soon as it has its connection.
fn in_jail(
    config: &VmConfig,
    share: &ShareSpec,
    program: &Path,
    listener: &UnixListener,
    jails: &mut Jails,
) -> Result<Process> {
    let program = &program_of(program, Some(jails));
    let fd = format!("--fd={}", listener.as_raw_fd());
    let capabilities = if share.read_only { CAPABILITIES_READ_ONLY } else { CAPABILITIES };
    let capabilities = format!("modcaps={capabilities}");
    let (plan, dir) = jails.of_share(share, program);
    let source = format!("source={}", dir.display());
    // Its jail has set the limit of open files.
    let args = [&fd, "--rlimit-nofile=0", "-o", &source, "-o", "sandbox=chroot", "-o", &capabilities];
    let args = args.iter().map(OsString::from).collect();
    let started = process::start(config, program, args, &[listener.as_fd()], Some(plan));
    let (process, report) = started.map_err(|e| about(share, program, e))?;
    let report = report.unwrap_or_default();
    if let Err(why) = shown_as_asked(share, &report, geteuid().is_root()) {
        process.kill();
        let (path, program) = (share.path.display(), program.display());
        return Err(call_error(CallErrorKind::TryAgain, format!("share {path} with {program}: {why}")));
    }
    jails.note_share(&share.mount, &report);
    Ok(process)
}

/// Checks that a server without some layers can serve its share as it has to be.
fn shown_as_asked(share: &ShareSpec, report: &Report, is_root: bool) -> std::result::Result<(), String> {
    let missing = |layer| report.missing().find_map(|(other, why)| (other == layer).then_some(why));
    if let Some(why) = missing(Layer::UserNamespace).filter(|_| !is_root) {
        return Err(format!("an ordinary user shares a directory in a user namespace of its own: {why}"));
    }
    match missing(Layer::Root) {
        Some(why) if share.read_only => Err(format!("it cannot be made read-only on this host: {why}")),
        Some(_) | None => Ok(()),
    }
}

/// Returns the error about a server that was not started in its jail. What is missing now may be there later.
fn about(share: &ShareSpec, program: &Path, e: CallError) -> CallError {
    let kind = match e.kind {
        CallErrorKind::Io => CallErrorKind::TryAgain,
        kind => kind,
    };
    call_error(kind, format!("share {} with {}: {}", share.path.display(), program.display(), e.message))
}

/// Starts a server without a jail of ours, in the sandbox that it makes itself.
fn in_sandbox(
    config: &VmConfig,
    share: &ShareSpec,
    program: &Path,
    listener: &UnixListener,
) -> Result<Process> {
    let mut command = command(program, config)?;
    command.arg(format!("--fd={}", listener.as_raw_fd()));
    let source = share.path.to_string_lossy();
    // The server shows its clients nothing but this tree, whatever links in it say, and makes no device files.
    command.args(["-o", &format!("source={source}"), "-o", "sandbox=namespace", "-o", "modcaps=-mknod"]);
    if !geteuid().is_root() {
        // An ordinary user cannot raise its limit of open files.
        command.arg("--rlimit-nofile=0");
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    in_own_view(&mut command, &share.path, share.read_only).map_err(|e| system(&source, e))?;
    inherit([listener.as_fd()].into_iter())?;
    let spawned = command.spawn().map_err(|e| refusal(share, program, &e));
    Process::of_child(spawned?, program)
}

/// Returns the error about a share that cannot be shown as it has to be.
fn refusal(share: &ShareSpec, program: &Path, e: &std::io::Error) -> CallError {
    let why = match e.kind() {
        ErrorKind::PermissionDenied if !geteuid().is_root() => {
            ": an ordinary user shares a directory in a user namespace of its own, and this system allows none \
             (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces), or the directory may not be read"
        }
        ErrorKind::InvalidInput if !geteuid().is_root() => {
            ": file systems are mounted below it, which only root may leave out; share the directories below them"
        }
        ErrorKind::NotFound => ": the directory or the program is gone",
        _ => "",
    };
    let (path, program) = (share.path.display(), program.display());
    call_error(CallErrorKind::TryAgain, format!("share {path} with {program}: {e}{why}"))
}
