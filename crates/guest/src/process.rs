//! Functions for the agent's child processes: the daemon, and commands that a host runs.

use pepita_wire::Exit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpgid, getpgrp, kill_process, kill_process_group, pidfd_open,
};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The time limit for the end of a command that was killed. A process that the kernel does not let go ends later.
pub(crate) const KILLED: Duration = Duration::from_secs(1);

/// Returns a descriptor that is readable once a child has ended. The reaper may have reaped a short command already; its
/// end is in the channel then.
///
/// # Errors
/// When no file descriptor is left.
pub(crate) fn handle_of(child: u32) -> std::io::Result<OwnedFd> {
    let handle = pid_of(child).ok_or(Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    handle.or_else(|_| {
        let (reader, writer) = std::io::pipe()?;
        drop(writer);
        Ok(reader.into())
    })
}

/// Signals the process group that a process belongs to. A group that is gone is no error.
///
/// A daemon is the leader of its group, unless it has named another process of its group as its main process. The group
/// of the agent itself is never signalled as a whole.
pub(crate) fn kill_group(pid: u32, signal: Signal) {
    let Some(process) = pid_of(pid) else { return };
    // A process that has ended is looked at no more: its number may be that of a stranger. While its group has members,
    // the number of the group is not given to another process.
    let group = is_descendant(pid).then(|| getpgid(Some(process)).ok()).flatten().unwrap_or(process);
    if group == getpgrp() {
        let _ = kill_process(process, signal);
    } else {
        let _ = kill_process_group(group, signal);
    }
}

/// Kills what is left of a process group whose leader has ended. While a group has members, its number is not given to
/// another process.
pub(crate) fn kill_rest(group: u32) {
    if let Some(group) = pid_of(group) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Returns the process group of a process that runs; of a process in the agent's own group, the number of the process,
/// which is no group.
pub(crate) fn group_of(pid: u32) -> u32 {
    let group = pid_of(pid).and_then(|pid| getpgid(Some(pid)).ok()).filter(|group| *group != getpgrp());
    group.and_then(|group| u32::try_from(group.as_raw_nonzero().get()).ok()).unwrap_or(pid)
}

/// Waits until the process of a pidfd has ended, at most until `limit` has passed. Returns whether it has ended.
pub(crate) fn wait_for_end(handle: &OwnedFd, limit: Option<Duration>) -> bool {
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let limit = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [PollFd::new(handle, PollFlags::IN)];
        // An interrupted wait is repeated.
        let has_ended = poll(&mut fds, limit.as_ref()).is_ok_and(|ready| ready > 0);
        if has_ended || left.is_some_and(|left| left.is_zero()) {
            return has_ended;
        }
    }
}

/// Returns a process by its number.
pub(crate) fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Returns the children of this process, also the orphans that it has inherited.
pub(crate) fn children() -> impl Iterator<Item = u32> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = texts
        .flat_map(|text| text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    children.into_iter()
}

/// Returns whether a process runs and descends from this one. `false` for a process that has ended and was not reaped.
pub(crate) fn is_descendant(pid: u32) -> bool {
    let own = std::process::id();
    let mut current = match stat(pid) {
        Some(Stat { has_ended: false, parent }) if pid != own => parent,
        Some(_) | None => return false,
    };
    // A tree of processes is not deeper than this.
    for _ in 0..64 {
        if current == own {
            return true;
        }
        match stat(current) {
            Some(Stat { parent, .. }) if parent > 0 => current = parent,
            Some(_) | None => return false,
        }
    }
    false
}

struct Stat {
    has_ended: bool,
    parent: u32,
}

/// Reads the state and the parent of a process from `/proc/PID/stat`.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may hold any character.
    let mut words = text.rsplit_once(") ")?.1.split_ascii_whitespace();
    let has_ended = matches!(words.next()?, "Z" | "X");
    Some(Stat { has_ended, parent: words.next()?.parse().ok()? })
}

/// Returns the end of a program that could not be executed because of `error`.
pub(crate) fn not_executable(program: &str, error: &std::io::Error) -> Exit {
    let errno = error.raw_os_error().unwrap_or(0);
    Exit::NotExecutable { path: program.to_owned(), errno, message: sentence(error) }
}

/// Returns the end of a program that was not executed because a step before that failed, such as `workdir /data`. The
/// program is added by [`of_program`].
pub(crate) fn step_failed(step: &str, error: &std::io::Error) -> Exit {
    let message = format!("{step}: {}", sentence(error));
    Exit::NotExecutable { path: String::new(), errno: error.raw_os_error().unwrap_or(0), message }
}

/// Adds the program to an end before its execution that names none.
pub(crate) fn of_program(mut exit: Exit, program: &str) -> Exit {
    if let Exit::NotExecutable { path, .. } = &mut exit
        && path.is_empty()
    {
        program.clone_into(path);
    }
    exit
}

/// Returns the text of an error without its number.
fn sentence(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
