//! Watches the vsock back-end: its process, and within it the thread that carries all data of the guest.
//!
//! vhost-device-vsock does not end when that thread panics: its sockets stay open, and nothing gets into the guest or out
//! of it any more. The panic is written to standard error before the thread ends, so the threads are looked at for a
//! while after the back-end has written anything. (The end of a thread cannot be awaited before Linux 6.9.)

use crate::host::patience::{patiently, read_text};
use crate::host::process_id::ProcessId;
use crate::vmm::{self, Process};
use rustix::process::Signal;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The name of the thread that carries the data of the guest.
const WORKER: &str = "vring_worker";

/// The pause between two looks at the threads, and the number of looks after an output: a thread that panics writes a
/// trace of its calls before it ends, which takes a while on a busy host.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
const LOOKS: u32 = 50;

/// The back-end of a VM.
#[derive(Debug)]
pub(super) struct Backend {
    process: Process,
    /// Whether the thread was ever seen. Another program in the place of the back-end may have no such thread.
    had_worker: bool,
    looks_left: u32,
    look_at: Option<Instant>,
}

impl Backend {
    /// Returns the watch over the process of a back-end.
    pub(super) fn new(process: Process) -> Self {
        Self { process, had_worker: false, looks_left: 0, look_at: None }
    }

    /// Returns the identity of the process.
    pub(super) fn identity(&self) -> &ProcessId {
        &self.process.identity
    }

    /// Returns the pidfd, which is readable once the process has ended.
    pub(super) fn handle(&self) -> &OwnedFd {
        self.process.handle()
    }

    /// Returns the time at which [`Backend::tick`] has to be called.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Begins to look at the threads: the back-end or the VMM has written something.
    pub(super) fn has_written(&mut self, now: Instant) {
        (self.looks_left, self.look_at) = (LOOKS, Some(now));
    }

    /// Notes the thread, if it is there.
    pub(super) fn note_worker(&mut self) {
        self.had_worker |= self.has_worker() == Some(true);
    }

    /// Looks at the threads when the time has come. Returns whether the back-end has lost its thread.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        if self.look_at.is_none_or(|at| now < at) {
            return false;
        }
        self.looks_left = self.looks_left.saturating_sub(1);
        self.look_at = (self.looks_left > 0).then_some(now + LOOK_PAUSE);
        let has_worker = self.has_worker();
        self.had_worker |= has_worker == Some(true);
        self.had_worker && has_worker == Some(false)
    }

    /// Returns whether the thread runs; `None` when the threads cannot be listed.
    fn has_worker(&self) -> Option<bool> {
        let tasks = format!("/proc/{}/task", self.process.identity.pid);
        let tasks = patiently(|| std::fs::read_dir(&tasks)).ok()?;
        let mut names = tasks.flatten().map(|task| read_text(task.path().join("comm")));
        Some(names.any(|name| name.trim_end() == WORKER))
    }

    /// Kills the process of a back-end that has lost its thread. Returns the sentence about its end.
    pub(super) fn end_broken(self) -> String {
        self.process.kill();
        let words = vmm::panic_words().map(|words| format!(": {words}")).unwrap_or_default();
        format!("its thread {WORKER} has ended{words}")
    }

    /// Returns the sentence about the end of the process, which is gone; `None` when nobody knows how it ended.
    pub(super) fn ended(mut self) -> Option<String> {
        let exit = self.process.end()?;
        Some(match exit.code {
            Some(code) => format!("it exited with {code}"),
            None => format!("it died of {exit}"),
        })
    }

    /// Kills the process; [`Backend::kill`] waits for its end.
    pub(super) fn begin_kill(&self) {
        self.process.signal(Signal::KILL);
    }

    /// Kills the process and waits until the process is gone.
    pub(super) fn kill(self) {
        self.process.kill();
    }
}
