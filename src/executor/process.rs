//! Runs the launcher: the only place of the library that spawns a process.

use super::reserve::{self, Borrowed};
use pepita_wire::rundir;
use pepita_wire::serve::SERVE;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// The limit of a call's standard output, in bytes; a list of ten thousand VMs fits.
const STDOUT_CAP: u64 = 32 << 20;

/// The limit of a call's standard error, in bytes.
const STDERR_CAP: u64 = 64 << 10;

/// The variables of this process that the launcher gets: where programs, data and run directories are, how text is written,
/// and how a registry of images is reached. No other variable reaches the launcher: it may be a secret, or meant for this
/// process alone. The launcher passes fewer on to monitors and daemons.
const VARIABLES: &[&str] = &[
    "DOCKER_CONFIG",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "NO_PROXY",
    "PATH",
    "RUST_BACKTRACE",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The beginning of the names of the launcher's own variables.
const OWN_VARIABLES: &str = "PEPITA_";

/// The output of a call, and how it ended.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

/// The reason why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallFailure {
    /// The program was not started.
    #[error("cannot be run: {0}")]
    NotStarted(io::Error),
    /// The program was started, and its end was not seen.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer within {0:?}; killed")]
    Timeout(Duration),
}

/// Calls a program and waits for its end; a program that has not ended by the deadline is killed, with the processes that
/// it has started and that have not left its process group.
pub(super) async fn call(
    program: &Path,
    environment: &[(&str, &OsStr)],
    argv: Vec<OsString>,
    stdin: Vec<u8>,
    deadline: Duration,
) -> Result<Output, CallFailure> {
    let mut command = Command::new(program);
    command.args(argv).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // The launcher gets a process group of its own: a Ctrl-C at the host program's terminal must not interrupt a launch
    // under way.
    command.process_group(0);
    command.env_clear().envs(inherited());
    command.stdin(if stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.envs(environment.iter().copied());
    let (mut child, borrowed) = spawn(&mut command).await.map_err(CallFailure::NotStarted)?;
    let group = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    let (stdout, stderr, input) = (child.stdout.take(), child.stderr.take(), child.stdin.take());
    let work = async {
        let feed = async {
            if let Some(mut input) = input {
                // The exit of a program that does not read its input tells the reason.
                let _ = input.write_all(&stdin).await;
            }
        };
        let ((), stdout, stderr) = tokio::join!(feed, read(stdout, STDOUT_CAP), read(stderr, STDERR_CAP));
        let status = child.wait().await?;
        Ok(Output { status, stdout, stderr: String::from_utf8_lossy(&stderr).trim().to_owned() })
    };
    match reserve::beside(borrowed, tokio::time::timeout(deadline, work)).await {
        Ok(output) => output,
        Err(_) => {
            // The child was not waited for, so that its number still belongs to its group.
            if let Some(group) = group {
                // The group may have ended by now.
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            Err(CallFailure::Timeout(deadline))
        }
    }
}

/// The launch server of a launcher. Dropping it ends the server, and none of the monitors that it has made.
#[derive(Debug)]
pub(super) struct Served {
    /// The connection with the server.
    pub(super) socket: UnixStream,
    server: Child,
}

impl Served {
    /// Returns whether the server has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.server.try_wait(), Ok(None))
    }
}

/// Starts the launch server of a launcher.
pub(super) fn serve(program: &Path, environment: &[(&str, &OsStr)]) -> io::Result<Served> {
    let run_dir = environment.iter().find(|(name, _)| *name == rundir::ENVIRONMENT);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new(program);
    command.arg("monitor").arg(run_dir.map_or(OsStr::new(""), |(_, dir)| dir)).arg(SERVE);
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true).process_group(0);
    command.env_clear().envs(inherited()).envs(environment.iter().copied());
    let server = command.spawn()?;
    Ok(Served { socket: UnixStream::from_std(ours)?, server })
}

/// Spawns the program, in need with the descriptors of the reserve.
async fn spawn(command: &mut Command) -> io::Result<(Child, Option<Borrowed>)> {
    match command.spawn() {
        Err(e) if reserve::is_exhausted(&e) => {
            let borrowed = reserve::borrow().await;
            Ok((command.spawn()?, Some(borrowed)))
        }
        spawned => {
            reserve::fill();
            Ok((spawned?, None))
        }
    }
}

fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| is_passed(&name.to_string_lossy()))
}

/// Returns whether the launcher gets a variable of this process.
fn is_passed(name: &str) -> bool {
    VARIABLES.contains(&name) || name.starts_with(OWN_VARIABLES)
}

async fn read(from: Option<impl AsyncRead + Unpin>, cap: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // Output that was read before an error still helps to explain it.
        let _ = from.take(cap).read_to_end(&mut bytes).await;
    }
    bytes
}

/// The error that there is no such program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no program {name:?}; looked in {}", .looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
pub struct NotFound {
    /// The program that was looked for.
    pub name: PathBuf,
    /// The places where it was looked for, in this order.
    pub looked: Vec<PathBuf>,
}

/// Returns the path of the launcher: a path is taken as it is, a bare name is looked for beside the running program,
/// then in PATH.
///
/// # Errors
/// Returns all the places that were searched without success.
pub fn find(program: &Path) -> Result<PathBuf, NotFound> {
    if program.components().count() > 1 {
        return if is_program(program) {
            Ok(program.to_owned())
        } else {
            Err(NotFound { name: program.to_owned(), looked: vec![program.to_owned()] })
        };
    }
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A test or an example lies one folder below the programs it is built with.
    let above = beside.as_deref().filter(|dir| dir.ends_with("deps") || dir.ends_with("examples"));
    let above = above.and_then(Path::parent).map(Path::to_owned);
    let looked: Vec<PathBuf> =
        beside.clone().into_iter().chain(above).chain(std::env::split_paths(&path)).collect();
    looked
        .iter()
        .map(|dir| dir.join(program))
        .find(|file| is_program(file))
        .ok_or_else(|| NotFound { name: program.to_owned(), looked })
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Returns whether a process runs; one that has ended and was not waited for does not.
    fn runs(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[test]
    fn the_launcher_learns_where_data_and_registries_are_and_none_of_this_process_s_own_variables() {
        for name in [
            "XDG_DATA_HOME",
            "DOCKER_CONFIG",
            "HTTPS_PROXY",
            "https_proxy",
            "SSL_CERT_FILE",
            "PEPITA_DATA_DIR",
        ] {
            assert!(is_passed(name), "{name}");
        }
        for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "RUST_LOG", "TOKEN", "XDG_DATA_HOME_2"] {
            assert!(!is_passed(name), "{name}");
        }
    }

    #[tokio::test]
    async fn a_program_without_an_answer_is_killed_with_what_it_has_started() {
        let dir = tempfile::tempdir().expect("a directory");
        let (program, pid) = (dir.path().join("pepita"), dir.path().join("pid"));
        let text = format!("#!/bin/sh\nsleep 1000 &\necho $! >{pid:?}.new\nmv {pid:?}.new {pid:?}\nwait\n");
        std::fs::write(&program, text).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let mut deadline = Duration::from_millis(100);
        // On a busy host the program may need longer than that to begin.
        while !pid.exists() {
            deadline *= 2;
            let answer = call(&program, &[], Vec::new(), Vec::new(), deadline).await;
            assert!(matches!(answer, Err(CallFailure::Timeout(_))), "{answer:?}");
        }
        let pid = std::fs::read_to_string(&pid).expect("there").trim().to_owned();
        while runs(&pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let missing = call(&dir.path().join("none"), &[], Vec::new(), Vec::new(), deadline).await;
        assert!(matches!(missing, Err(CallFailure::NotStarted(_))), "{missing:?}");
    }
}
