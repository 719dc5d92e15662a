//! Starts the programs of a guest, the daemon and the commands of hosts, each through a forerunner: a process of the agent's own
//! program that makes itself what the program is to be (user, capabilities, limits, directory, cgroup) and then executes
//! it.
//!
//! Between fork(2) and execve(2) a child of a process with threads may do hardly anything. A forerunner is a new program with
//! one thread, and does all of it with ordinary calls. Its environment and its output are those of the program. Its
//! standard input is a socket, over which it gets its orders and says why the program could not be executed; the program
//! gets `/dev/null` instead, or the input that was sent along.
//!
//! The forerunner of the daemon waits for its orders from the start of the agent on ([`Ahead`]), so that the daemon's start
//! waits for nothing. It is a copy of the agent, made while the agent has one thread.

mod ahead;

pub(crate) use ahead::Ahead;

use crate::environment::Environment;
use crate::options::FORERUNNER;
use crate::process::{not_executable, of_program, step_failed};
use crate::reaper::Reaper;
use crate::users::Ids;
use pepita_wire::Exit;
use pepita_wire::environment::WATCHDOG_PID;
use pepita_wire::world::Ulimit;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Gid, Resource, Rlimit, Uid, chdir, getrlimit, ioctl_tiocsctty, setrlimit, setsid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;

/// The agent's program. The link leads to the program that runs, also when its file was replaced meanwhile.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

/// The soft limit of open files of a program. Programs that use select(2) work with no more descriptors; others raise the
/// limit themselves, up to the hard one.
const OPEN_FILES: u64 = 1024;

/// The hard limit of open files in a guest, as systemd has it.
const OPEN_FILES_OF_A_GUEST: u64 = 524_288;

/// The capabilities that a program may have, also one of root, unless it is privileged: those of a container (Docker).
const OF_A_CONTAINER: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// The exit code of a forerunner that could not execute its program. The agent knows the reason from the socket.
const NOT_EXECUTED: u8 = 127;

/// What a forerunner says when it is what its program is to be, and waits for the word. A failure begins otherwise.
const PREPARED: [u8; 1] = [b'+'];

/// The word to execute the program.
const GO: [u8; 1] = [b'!'];

/// The maximum number of streams that are sent along with orders.
const STREAMS: usize = 3;

/// What a forerunner is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    /// The working directory; empty = `/`.
    pub(crate) directory: String,
    /// Whether the program runs in a guest. There it has the limits of systemd.
    pub(crate) is_guest: bool,
    /// The user of the program; `None` = that of the agent.
    pub(crate) ids: Option<Ids>,
    /// Whether the program has the capabilities of a container at most, and can gain no privileges.
    pub(crate) is_confined: bool,
    /// The limits that are set in addition to those that every program has.
    pub(crate) ulimits: BTreeMap<String, Ulimit>,
    /// The file to which a process of the program's cgroup writes its id.
    pub(crate) cgroup: Option<String>,
    /// Whether the program leads a session of its own, whose terminal is its standard input.
    pub(crate) has_terminal: bool,
    /// Whether the program is told its own process id (sd_watchdog_enabled(3)).
    pub(crate) is_watched: bool,
    /// The environment; `None` = the one that the forerunner was started with.
    #[serde(default)]
    pub(crate) environment: Option<Vec<(OsString, OsString)>>,
    /// Whether the program is executed only when a byte follows the orders.
    #[serde(default)]
    pub(crate) waits: bool,
}

/// The streams of a program.
#[derive(Debug)]
pub(crate) struct Streams {
    /// The standard input; `None` = `/dev/null`.
    pub(crate) input: Option<OwnedFd>,
    /// The standard output.
    pub(crate) output: OwnedFd,
    /// The standard error.
    pub(crate) error: OwnedFd,
}

/// The reason why a program was not executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Failure {
    /// The step that failed, such as `ulimit nofile`; empty = the execution of the program.
    step: String,
    errno: i32,
}

impl Failure {
    fn at(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |e| Self { step: step.into(), errno: e.raw_os_error().unwrap_or(Errno::IO.raw_os_error()) }
    }

    fn into_exit(self, program: &str) -> Exit {
        let error = io::Error::from_raw_os_error(self.errno);
        match self.step.is_empty() {
            true => not_executable(program, &error),
            false => of_program(step_failed(&self.step, &error), program),
        }
    }
}

/// Starts a program, as the leader of a process group of its own, or of a session. Returns its process id, and the receiver of its end,
/// when it was executed.
///
/// # Errors
/// [`Exit::NotExecutable`] with the program, or the step before its execution, that failed.
pub(crate) fn spawn(
    reaper: &Reaper,
    orders: &Orders,
    environment: &Environment,
    streams: Streams,
) -> Result<(u32, mpsc::Receiver<Exit>), Exit> {
    let failed = |e: io::Error| failed_execution(orders, &e);
    let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut command = Command::new(OWN_PROGRAM);
    command.arg(format!("--{FORERUNNER}")).env_clear().envs(environment);
    if !orders.has_terminal {
        // The leader of a group cannot begin a session.
        command.process_group(0);
    }
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    give(&streams, orders);
    command.stdout(streams.output).stderr(streams.error);
    let (child, end) = reaper.spawn(&mut command).map_err(failed)?;
    // The agent's copies of the streams are closed, so that they end with the program.
    drop(command);
    let input: Vec<BorrowedFd<'_>> = streams.input.iter().map(AsFd::as_fd).collect();
    let answer = order(&mut ours, orders, &input).and_then(|()| answer_of(&mut ours));
    begun(orders, child.id(), end, &answer.unwrap_or_default())
}

/// Returns the process of a program that was executed, after the answer of its forerunner.
fn begun(
    orders: &Orders,
    pid: u32,
    end: mpsc::Receiver<Exit>,
    answer: &[u8],
) -> Result<(u32, mpsc::Receiver<Exit>), Exit> {
    // The socket ended with the execution of the program. (A forerunner that was killed has said nothing either.)
    if answer.is_empty() {
        return Ok((pid, end));
    }
    // The process is gone when it is said that the program did not run.
    let _ = end.recv();
    Err(failure_of(orders, answer))
}

/// Returns why a program was not executed, as its forerunner has said.
fn failure_of(orders: &Orders, said: &[u8]) -> Exit {
    let failure = serde_json::from_slice::<Failure>(said);
    let program = orders.argv.first().map_or("", String::as_str);
    failure.map_or_else(|e| failed_execution(orders, &e.into()), |failure| failure.into_exit(program))
}

fn failed_execution(orders: &Orders, error: &io::Error) -> Exit {
    not_executable(orders.argv.first().map_or("", String::as_str), error)
}

/// Gives the output of a program to its user. Otherwise the program could not open it by the name /dev/stdout.
fn give(streams: &Streams, orders: &Orders) {
    if let Some(Ids { uid, gid, .. }) = &orders.ids {
        for stream in [&streams.output, &streams.error] {
            let _ = fchown(stream, Some(*uid), Some(*gid));
        }
    }
}

/// Sends a forerunner its orders.
fn order(socket: &mut UnixStream, orders: &Orders, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut sent_along = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        sent_along.push(SendAncillaryMessage::ScmRights(fds));
    }
    let text = serde_json::to_vec(orders)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?.to_le_bytes();
    let sent = sendmsg(&socket, &[IoSlice::new(&length)], &mut sent_along, SendFlags::NOSIGNAL)?;
    socket.write_all(&length[sent..])?;
    socket.write_all(&text)
}

/// Waits for the end of what a forerunner says: nothing when it has executed its program.
fn answer_of(socket: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Runs this process as a forerunner. Returns only when the program could not be executed.
pub(crate) fn run() -> ExitCode {
    ExitCode::from(run_with(false))
}

/// Runs this process as a forerunner, which gets its output with its orders when it `is_ahead`.
fn run_with(is_ahead: bool) -> u8 {
    // The copy is closed by an execution.
    if let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() {
        let mut socket = UnixStream::from(socket);
        let failure = become_the_program(&mut socket, is_ahead);
        let _ = socket.write_all(&serde_json::to_vec(&failure).expect("texts and numbers become JSON"));
    }
    NOT_EXECUTED
}

fn become_the_program(socket: &mut UnixStream, is_ahead: bool) -> Failure {
    let orders = receive(socket).and_then(|(orders, fds)| {
        let mut fds = fds.into_iter();
        if is_ahead {
            let missing = || io::Error::from(Errno::BADF);
            rustix::stdio::dup2_stdout(fds.next().ok_or_else(missing)?)?;
            rustix::stdio::dup2_stderr(fds.next().ok_or_else(missing)?)?;
        }
        match fds.next() {
            Some(input) => rustix::stdio::dup2_stdin(input)?,
            None => rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?,
        }
        Ok(orders)
    });
    let orders = match orders.map_err(Failure::at("the orders of the forerunner")) {
        Ok(orders) => orders,
        Err(failure) => return failure,
    };
    if let Err(failure) = prepare(&orders) {
        return failure;
    }
    if orders.waits {
        // Without the word the agent has ended, and so does this process.
        let word = socket.write_all(&PREPARED).and_then(|()| socket.read_exact(&mut [0; GO.len()]));
        if let Err(e) = word {
            return Failure::at("the word to go on")(e);
        }
        // What is at the directory's path may be another one by now. A user that may not look there keeps the one that
        // was entered with the agent's rights.
        match enter(&orders) {
            Err(failure) if failure.errno != Errno::ACCESS.raw_os_error() => return failure,
            Ok(()) | Err(_) => {}
        }
    }
    let Some((program, args)) = orders.argv.split_first() else {
        return Failure::at("")(Errno::INVAL.into());
    };
    let mut command = Command::new(program);
    command.args(args);
    if let Some(environment) = orders.environment {
        command.env_clear().envs(environment);
    }
    if orders.is_watched {
        command.env(WATCHDOG_PID, std::process::id().to_string());
    }
    Failure::at("")(command.exec())
}

fn receive(socket: &mut UnixStream) -> io::Result<(Orders, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut came_along = RecvAncillaryBuffer::new(&mut space);
    let mut length = [0; 4];
    let first =
        recvmsg(&socket, &mut [IoSliceMut::new(&mut length)], &mut came_along, RecvFlags::CMSG_CLOEXEC)?;
    let mut received = Vec::new();
    for message in came_along.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            received.extend(fds);
        }
    }
    socket.read_exact(&mut length[first.bytes..])?;
    let mut text = vec![0; usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?];
    socket.read_exact(&mut text)?;
    Ok((serde_json::from_slice(&text)?, received))
}

/// Makes this process what the program is to be. The order matters: what needs privileges comes before they are given up.
fn prepare(orders: &Orders) -> Result<(), Failure> {
    if orders.has_terminal {
        let leads = setsid().and_then(|_| ioctl_tiocsctty(rustix::stdio::stdin()));
        leads.map_err(|e| Failure::at("terminal")(e.into()))?;
    }
    if let Some(path) = &orders.cgroup {
        // A guest without cgroup2 works all the same.
        let _ = std::fs::write(path, "0");
    }
    // The agent's own score, the lowest, is not for its children.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    set_usual_limits(orders.is_guest);
    for (name, limit) in &orders.ulimits {
        let value = Rlimit { current: limit.soft, maximum: limit.hard };
        let set = resource(name).ok_or(Errno::INVAL).and_then(|resource| setrlimit(resource, value));
        set.map_err(|e| Failure::at(format!("ulimit {name}"))(e.into()))?;
    }
    enter(orders)?;
    if orders.is_confined {
        confine().map_err(|e| Failure::at("capabilities")(e.into()))?;
    }
    if let Some(ids) = &orders.ids {
        switch_user(ids).map_err(|e| Failure::at(format!("user {}:{}", ids.uid, ids.gid))(e.into()))?;
    }
    if orders.is_confined {
        rustix::thread::set_no_new_privs(true).map_err(|e| Failure::at("no_new_privs")(e.into()))?;
    }
    Ok(())
}

/// Sets the limits that programs expect, whatever the agent has raised its own to.
fn set_usual_limits(is_guest: bool) {
    let hard = if is_guest { Some(OPEN_FILES_OF_A_GUEST) } else { getrlimit(Resource::Nofile).maximum };
    let soft = hard.map_or(OPEN_FILES, |hard| hard.min(OPEN_FILES));
    // A process without privileges cannot raise the hard limit; then the inherited limits stay.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: hard });
    if is_guest {
        // The cgroup limits the processes of a program. This limit counts those of a user, and a daemon could take them
        // away from the commands of hosts.
        let _ = setrlimit(Resource::Nproc, Rlimit { current: None, maximum: None });
    }
}

/// Changes to the working directory.
fn enter(orders: &Orders) -> Result<(), Failure> {
    let directory = if orders.directory.is_empty() { "/" } else { &orders.directory };
    chdir(directory).map_err(|e| Failure::at(format!("workdir {directory}"))(e.into()))
}

/// Takes every capability that a container has not out of what this process, and all that it executes, can ever have.
fn confine() -> rustix::io::Result<()> {
    let every = (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number));
    for capability in every.filter(|capability| !OF_A_CONTAINER.contains(*capability)) {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The kernel does not know a capability of this number.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(e) => return Err(e),
        }
    }
    let own = rustix::thread::capabilities(None)?;
    let sets = CapabilitySets { inheritable: CapabilitySet::empty(), ..own };
    rustix::thread::set_capabilities(None, sets)?;
    match rustix::thread::clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(e) => Err(e),
    }
}

fn switch_user(ids: &Ids) -> rustix::io::Result<()> {
    // The highest number means "unchanged" to the kernel. It is refused before it comes here.
    let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
    let groups: Vec<Gid> = ids.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    // With the user the capabilities go, too.
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Returns the resource with a name of `docker run --ulimit`.
fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_that_the_launcher_accepts_is_a_limit_of_the_kernel() {
        for name in pepita_wire::world::ULIMITS {
            assert!(resource(name).is_some(), "{name}");
        }
        assert!(resource("files").is_none());
    }

    #[test]
    fn orders_and_an_input_come_through_the_socket() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        let orders = Orders { argv: vec!["/bin/x".into()], is_watched: true, ..Orders::default() };
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let sent = orders.clone();
        let sender = std::thread::spawn(move || {
            order(&mut ours, &sent, &[writer.as_fd()])?;
            answer_of(&mut ours)
        });
        let (received, input) = receive(&mut theirs).expect("received");
        assert_eq!(received, orders);
        std::fs::File::from(input.into_iter().next().expect("an input")).write_all(b"x").expect("written");
        drop(theirs);
        assert_eq!(sender.join().expect("no panic").expect("answered"), b"");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "x");
    }
}
