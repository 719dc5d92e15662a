//! The end: what is left is killed, the record is written before anything else goes, watchers are told last.

use super::Monitor;
use crate::rundir;
use crate::rundir::files::{self, Sync};
use crate::rundir::layout;
use crate::rundir::lock::{Lock, Wait};
use crate::vm_config::VmmKind;
use pepita_wire::{ExitRecord, StatusRecord};
use rustix::event::{PollFd, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::path::Path;
use std::time::{Duration, Instant};

/// For clients to take their last answer.
const FAREWELL: Duration = Duration::from_secs(1);

impl Monitor {
    pub(super) fn finish(&mut self, exit: &ExitRecord) {
        self.is_over = true;
        // On a disk that is full by now, there is room for this all the same.
        let _ = std::fs::remove_file(layout::RESERVE);
        if let Err(e) = files::write(Path::new(layout::EXIT), exit, Sync::Yes) {
            // The state still has it, if that can be written.
            crate::error::eprint_line(format_args!("pepita monitor: exit record: {}", e.message));
        }
        if let Some(backend) = self.backend.take() {
            backend.kill();
        }
        self.kill_daemon();
        if self.config.request.vmm == VmmKind::Process {
            kill_orphans();
            if !self.daemon_heard {
                // The agent may have started it at the very end, and told nobody.
                crate::host::strays::end_strays(&self.dir);
            }
        }
        self.limits.remove();
        for name in layout::TRANSIENT {
            let _ = std::fs::remove_file(name);
        }
        // The claim of the CID goes with us; its file has no more use. One that the VMM held is somebody else's by now
        // if it is locked.
        let cid = self.cid.take().or_else(|| Lock::take(&self.cid_path, Wait::No).ok().flatten());
        if cid.is_some() {
            let _ = std::fs::remove_file(&self.cid_path);
        }
        drop(cid);
        self.save();
        let status = self.status();
        match self.starter.take() {
            // The VM came up and ended before its starter was told.
            Some(starter) if self.life.vmm_ran() => starter.started(&status),
            Some(starter) => {
                starter.ended(&status);
                // No program was told of this VM, so nothing of it stays.
                let _ = rundir::remove(&self.dir);
            }
            None => {}
        }
        // Clients that are connected are told last: what they find then is all that stays.
        let _ = std::fs::remove_file(layout::CONTROL);
        self.control.tell(&status);
        self.say_goodbye(&status);
    }

    fn say_goodbye(&mut self, status: &StatusRecord) {
        let deadline = Instant::now() + FAREWELL;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if (self.control.is_flushed() && !self.control.owes(status.generation)) || left.is_zero() {
                return;
            }
            let limit = Timespec::try_from(left).ok();
            let interest = self.control.interest().filter(|(client, ..)| client.is_some());
            let mut fds: Vec<PollFd<'_>> =
                interest.map(|(_, fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
            let _ = poll(&mut fds, limit.as_ref());
            drop(fds);
            let clients: Vec<u64> = self.control.interest().filter_map(|(client, ..)| client).collect();
            for client in clients {
                // Other requests that come now are not answered: the hang-up says enough.
                for request in self.control.read(client) {
                    if request.method == "watch" {
                        let since = request.params["since"].as_u64().unwrap_or_default();
                        self.control.watch(client, request.id, since);
                    }
                }
            }
            self.control.tell(status);
        }
    }
}

/// Ends what the agent of a plain process left behind: it came to us, its subreaper.
fn kill_orphans() {
    let own = std::process::id();
    for _ in 0..100 {
        let children =
            std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let pids = children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        let mut any = false;
        for pid in pids {
            any = true;
            // Not reaped yet, so the pid is still its own.
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
        if !any {
            return;
        }
    }
}
