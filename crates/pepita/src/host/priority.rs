//! The CPU priority of a VM that boots while nobody waits for it: a warm spare must not slow its neighbours down.

use rustix::process::{Pid, Resource, getpriority_process, getrlimit, setpriority_process};
use rustix::thread::{CapabilitySet, capabilities};

/// The nice value (sched(7)) of a VM that nobody waits for, above that of this process, and the greatest one.
const LOWER_BY: i32 = 5;
const LOWEST: i32 = 19;

/// The soft limit RLIMIT_NICE with which a process may set a nice value is this number minus the value (getrlimit(2)).
const LIMIT_OF_ZERO: i32 = 20;

/// Lowers the priority of a process and of the threads that it starts from now on, if this process may raise it again.
pub fn lower(pid: u32) {
    if may_raise() {
        set(pid, (own() + LOWER_BY).min(LOWEST));
    }
}

/// Gives all threads of a process the priority of this process.
pub fn restore(pid: u32) {
    set(pid, own());
}

/// Returns whether the priority of a process is lower than that of this process.
pub fn is_low(pid: u32) -> bool {
    of(pid).is_some_and(|pid| getpriority_process(Some(pid)).is_ok_and(|nice| nice > own()))
}

fn own() -> i32 {
    getpriority_process(None).unwrap_or_default()
}

fn may_raise() -> bool {
    let is_capable = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_NICE));
    let needed = u64::try_from(LIMIT_OF_ZERO - own()).unwrap_or_default();
    is_capable || getrlimit(Resource::Nice).current.is_none_or(|limit| limit >= needed)
}

fn set(pid: u32, nice: i32) {
    // The nice value belongs to a thread, as Linux sees it.
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for (task, path) in
        tasks.filter_map(|task| Some((of(task.file_name().to_str()?.parse().ok()?)?, task.path())))
    {
        // The thread may have ended meanwhile.
        let _ = setpriority_process(Some(task), nice);
        // The children have inherited the value, such as the process that an agent has made ahead.
        let children = std::fs::read_to_string(path.join("children")).unwrap_or_default();
        children.split_whitespace().filter_map(|child| child.parse().ok()).for_each(|child| set(child, nice));
    }
    // Between sessions, the nice values of their groups count (sched(7), "The autogroup feature").
    let _ = std::fs::write(format!("/proc/{pid}/autogroup"), nice.to_string());
}

fn of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}
