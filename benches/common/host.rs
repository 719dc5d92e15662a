//! What the processes of VMs cost the host, as `/proc` tells it.

use std::path::PathBuf;
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

/// What processes have done since they were started.
#[derive(Clone, Copy, Default)]
pub(crate) struct Work {
    /// The processor time, in nanoseconds as the scheduler counts it. The time of threads that have ended is not in it.
    pub(crate) time: Duration,
    /// How often a thread has begun to run after it had waited.
    pub(crate) wake_ups: u64,
}

impl Work {
    /// Returns the work of these processes until now.
    pub(crate) fn of(pids: &[u32]) -> Self {
        let mut work = Self::default();
        for thread in pids.iter().flat_map(|pid| threads(*pid)) {
            let text = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
            let mut fields = text.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
            let nanoseconds = fields.next().unwrap_or_default();
            work.time += Duration::from_nanos(nanoseconds);
            let status = std::fs::read_to_string(thread.join("status")).unwrap_or_default();
            let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            work.wake_ups += switches.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or_default();
        }
        work
    }

    /// Returns the work since an earlier moment.
    pub(crate) fn since(self, earlier: Self) -> Self {
        let time = self.time.saturating_sub(earlier.time);
        Self { time, wake_ups: self.wake_ups.saturating_sub(earlier.wake_ups) }
    }
}
