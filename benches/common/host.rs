//! What the processes of VMs cost the host, as `/proc` tells it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The processes of a tree that runs: those of the supervisor with its launch server, and those of the VMs.
#[derive(Default)]
pub(crate) struct Processes {
    pub(crate) supervisor: Vec<u32>,
    pub(crate) monitors: Vec<u32>,
    pub(crate) agents: Vec<u32>,
    pub(crate) daemons: Vec<u32>,
}

impl Processes {
    /// Returns the processes of a supervisor and of the VMs with these agents.
    ///
    /// # Panics
    ///
    /// When an agent has no parent: it has ended, or its monitor has.
    pub(crate) fn of(supervisor: u32, agents: Vec<u32>) -> Self {
        let monitors: Vec<u32> = agents.iter().map(|agent| parent(*agent).expect("a parent")).collect();
        let daemons = agents.iter().flat_map(|agent| children(*agent)).collect();
        // The launch server has started the monitors. They are its children, or those of the process that inherits them.
        let mut all = vec![supervisor];
        let mut at = 0;
        while let Some(process) = all.get(at).copied() {
            all.extend(children(process).into_iter().filter(|child| !monitors.contains(child)));
            at += 1;
        }
        Self { supervisor: all, monitors, agents, daemons }
    }
}

fn read(pid: u32, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = read(pid, "stat")?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok().filter(|parent| *parent > 1)
}

/// Returns the threads of a process, as folders.
fn threads(pid: u32) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    tasks.into_iter().flatten().flatten().map(|task| task.path()).collect()
}

fn children(pid: u32) -> Vec<u32> {
    let texts =
        threads(pid).into_iter().filter_map(|task| std::fs::read_to_string(task.join("children")).ok());
    texts
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Returns the memory of these processes together, in KiB; a page that several processes share is divided among them.
pub(crate) fn pss_kib(pids: &[u32]) -> usize {
    let pss = |pid: &u32| {
        let text = read(*pid, "smaps_rollup")?;
        let line = text.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<usize>().ok()
    };
    pids.iter().filter_map(pss).sum()
}

/// What the threads of processes have done since they were started.
#[derive(Default)]
pub(crate) struct Work(HashMap<PathBuf, Done>);

/// What threads have done.
#[derive(Clone, Copy, Default)]
pub(crate) struct Done {
    /// The processor time, in nanoseconds as the scheduler counts it.
    pub(crate) time: Duration,
    /// How often a thread has begun to run after it had waited.
    pub(crate) wake_ups: u64,
}

impl Work {
    /// Returns the work of these processes until now.
    pub(crate) fn of(pids: &[u32]) -> Self {
        let threads = pids.iter().flat_map(|pid| threads(*pid));
        Self(threads.filter_map(|thread| Some((thread.clone(), Done::of(&thread)?))).collect())
    }

    /// Returns what was done since an earlier moment, but for the threads that have ended since.
    pub(crate) fn since(&self, earlier: &Self) -> Done {
        let mut sum = Done::default();
        for (thread, done) in &self.0 {
            let before = earlier.0.get(thread).copied().unwrap_or_default();
            sum.time += done.time.saturating_sub(before.time);
            sum.wake_ups += done.wake_ups.saturating_sub(before.wake_ups);
        }
        sum
    }
}

impl Done {
    fn of(thread: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(thread.join("schedstat")).ok()?;
        let time = Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?);
        let status = std::fs::read_to_string(thread.join("status")).ok()?;
        let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        Some(Self { time, wake_ups: switches.trim().parse().ok()? })
    }
}
