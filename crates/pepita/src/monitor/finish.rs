//! The last work for a VM that has ended: writes the exit record before anything else is removed, kills the processes
//! that still run, and informs the watchers.
//!
//! The watchers are informed as soon as the exit record is written and no process is left that may still write to what the
//! next VM uses. What is left then, they need not wait for: the kernel may need ten milliseconds to free the memory that
//! the back-end shares with the guest, or to bring the record to a disk. The lock of the run directory, which a launch of
//! the same name waits for, is held until all is removed.

use super::Monitor;
use crate::error::eprint_line;
use crate::host::patience::read_text;
use crate::host::strays::end_strays;
use crate::host::tap;
use crate::rundir::files::{self, Sync};
use crate::rundir::lock::{Lock, Wait};
use crate::rundir::{self, ends, layout, uids};
use crate::vm_config::VmmKind;
use crate::vmm::Server;
use pepita_wire::{ExitRecord, MonitorRequest, Request, StatusRecord};
use rustix::event::{PollFd, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::path::Path;
use std::time::{Duration, Instant};

/// The time limit for clients to take their last answer.
const FAREWELL: Duration = Duration::from_secs(1);

/// The maximum number of searches for the orphans of a plain process. An orphan may start other processes meanwhile, so
/// one search is not enough.
const ORPHAN_ROUNDS: usize = 100;

impl Monitor {
    /// Writes the exit record, releases the resources of the VM, and informs all clients.
    pub(super) fn finish(&mut self, exit: &ExitRecord) {
        self.is_over = true;
        self.ports.close();
        // The reserved space is freed for the record, in case that the disk is full.
        let _ = std::fs::remove_file(layout::RESERVE);
        // A reader gets the whole record at once. A power cut ends the VM in any case, so that nobody waits for the disk.
        if let Err(e) = files::write(Path::new(layout::EXIT), exit, Sync::No) {
            // The state contains the record, too, so the record survives when the state can be written.
            eprint_line(format_args!("pepita monitor: exit record: {}", e.message));
        }
        ends::keep(&self.dir, exit);
        if let Some(backend) = &self.backend {
            backend.begin_kill();
        }
        self.shares.drain(..).for_each(Server::kill);
        self.kill_daemon();
        if self.config.request.vmm == VmmKind::Process {
            kill_orphans();
            if !self.daemon_heard {
                // The agent may have started the daemon just before its own end, without a report.
                end_strays(&self.dir);
            }
        }
        if self.starter.is_none() && !self.is_abandoned {
            self.save();
            self.inform();
        }
        files::bring_to_disk(Path::new(layout::EXIT));
        if let Some(backend) = self.backend.take() {
            backend.kill();
        }
        // The device has ended with the VMM.
        if let Some(tap) = &self.config.request.tap {
            tap::down(tap);
        }
        self.limits.remove();
        for name in layout::TRANSIENT {
            let _ = std::fs::remove_file(name);
        }
        // The claim of the CID ends with this process, so its file is removed. When the VMM held the claim and the file
        // is locked now, another VM has claimed the CID, and the file stays.
        let cid = self.cid.take().or_else(|| Lock::take(&self.cid_path, Wait::No).ok().flatten());
        // After a removal of the directory of claims, the file of that name may be another VM's.
        if cid.as_ref().is_some_and(|lock| lock.is_at(&self.cid_path)) {
            let _ = std::fs::remove_file(&self.cid_path);
        }
        drop(cid);
        match (self.uids.take(), self.config.first_uid) {
            (Some(uids), _) => uids.give_back(),
            (None, Some(first)) => uids::release(first),
            (None, None) => {}
        }
        self.save();
        let status = self.status();
        match self.starter.take() {
            // The launch counts as failed, so nothing of it may stay.
            _ if self.is_abandoned => self.remove_files(),
            // The VM started and ended before its starter got an answer.
            Some(starter) if self.life.vmm_ran() => drop(starter.started(&status)),
            Some(starter) => {
                starter.ended(&status);
                // No program knows of this VM, so its files are removed.
                self.remove_files();
            }
            None => {}
        }
        self.inform();
        self.take_leave(&status);
    }

    /// Informs the connected clients. From here on no other can connect.
    fn inform(&mut self) {
        let _ = std::fs::remove_file(layout::CONTROL);
        let status = self.status();
        self.control.tell(&status);
    }

    /// Removes the files of a VM whose launch has failed.
    fn remove_files(&self) {
        if !self.config.is_supervised() {
            ends::forget(&self.dir);
        }
        let _ = rundir::remove(&self.dir);
    }

    /// Waits until all clients have taken their last answer.
    fn take_leave(&mut self, status: &StatusRecord) {
        let deadline = Instant::now() + FAREWELL;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if (self.control.is_flushed() && !self.control.owes(status.revision)) || left.is_zero() {
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
                for Request { id, method, params } in self.control.read(client) {
                    // Other requests get no answer any more; the closed connection tells the client.
                    if let Ok(MonitorRequest::Watch { since }) = MonitorRequest::from_parts(&method, params) {
                        self.control.watch(client, id, since);
                    }
                }
            }
            self.control.tell(status);
        }
    }
}

/// Kills the processes that the agent of a plain process left behind. They are children of this process, which is their
/// subreaper.
fn kill_orphans() {
    let own = std::process::id();
    for _ in 0..ORPHAN_ROUNDS {
        let children = read_text(format!("/proc/{own}/task/{own}/children"));
        let pids = children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        let mut any = false;
        for pid in pids {
            any = true;
            // The child is not reaped yet, so no other process can have its pid.
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
        if !any {
            return;
        }
    }
}
