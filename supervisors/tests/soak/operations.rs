//! Random operations: the commands of `pepitactl`, and kills of every kind of process.

use crate::census::{self, Role};
use crate::events::Pattern;
use crate::groups;
use crate::host::{Daemon, Host, stderr};
use crate::story::Story;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Output;
use std::time::Duration;

/// How long all VMs have to become ready.
const CALM: &str = "120s";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Start,
    Stop,
    Restart,
    Reset,
    Signal,
    Pause,
    Resume,
    Reload,
    ReloadAndRestart,
    Look,
    KillDaemon,
    KillVmm,
    KillMonitor,
    KillBackend,
    KillSupervisor,
}

impl Operation {
    pub(crate) const ALL: [Self; 15] = [
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Reset,
        Self::Signal,
        Self::Pause,
        Self::Resume,
        Self::Reload,
        Self::ReloadAndRestart,
        Self::Look,
        Self::KillDaemon,
        Self::KillVmm,
        Self::KillMonitor,
        Self::KillBackend,
        Self::KillSupervisor,
    ];

    /// Returns how often the operation is drawn, compared with the others.
    fn weight(self) -> u32 {
        match self {
            Self::KillDaemon | Self::KillVmm | Self::KillMonitor => 12,
            Self::Start | Self::Stop | Self::Restart | Self::KillBackend => 6,
            Self::Reset | Self::Signal | Self::Pause | Self::Resume | Self::Look => 4,
            Self::Reload | Self::ReloadAndRestart => 2,
            // What a supervisor gathers is seen only if it lives long enough.
            Self::KillSupervisor => 1,
        }
    }
}

/// Starts the supervisor and waits until it takes commands.
fn start(host: &Host) -> Daemon {
    let mut daemon = host.start();
    daemon.until_event(Pattern::Note("started"));
    daemon
}

/// A supervisor and what is done to it and its VMs.
pub(crate) struct Operations<'a> {
    host: &'a Host,
    names: Vec<String>,
    daemon: Daemon,
    random: fastrand::Rng,
    /// The VMs that a reload has changed, with the new value.
    changed: Vec<(String, u64)>,
    /// How often each operation was done.
    pub(crate) done: BTreeMap<Operation, usize>,
}

impl<'a> Operations<'a> {
    /// Starts the supervisor.
    pub(crate) fn new(host: &'a Host, names: Vec<String>, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { host, names, daemon: start(host), random, changed: Vec::new(), done: BTreeMap::new() }
    }

    /// Returns the pid of the supervisor.
    pub(crate) fn supervisor(&self) -> i32 {
        i32::try_from(self.daemon.pid()).expect("a pid")
    }

    /// Does one operation after a random pause: first each operation once, then at random.
    pub(crate) fn operate(&mut self, story: &mut Story) {
        std::thread::sleep(Duration::from_millis(self.random.u64(20..300)));
        let missing = Operation::ALL.into_iter().filter(|operation| !self.done.contains_key(operation));
        let missing: Vec<Operation> = missing.collect();
        let operation =
            if missing.is_empty() { self.draw() } else { missing[self.random.usize(..missing.len())] };
        let vm = self.names[self.random.usize(..self.names.len())].clone();
        let done = match operation {
            Operation::Start => self.waiting("start", &vm),
            Operation::Stop => self.waiting("stop", &vm),
            Operation::Restart => self.waiting("restart", &vm),
            Operation::Reset => self.command(&["reset", &vm]),
            Operation::Signal => {
                let signal = ["CONT", "WINCH", "TERM", "KILL"][self.random.usize(..4)];
                self.command(&["signal", &vm, signal])
            }
            Operation::Pause => self.command(&["pause", &vm]),
            Operation::Resume => self.command(&["resume", &vm]),
            Operation::Reload => self.reload(vm, &["reload"]),
            Operation::ReloadAndRestart => self.reload(vm, &["reload", "--restart"]),
            Operation::Look => self.look(story),
            Operation::KillDaemon => self.kill(Role::Daemon),
            Operation::KillVmm => self.kill(Role::Vmm),
            Operation::KillMonitor => self.kill(Role::Monitor),
            Operation::KillBackend => self.kill(Role::Backend),
            Operation::KillSupervisor => {
                self.daemon.kill();
                story.add(self.daemon.take_events());
                self.daemon = start(self.host);
                true
            }
        };
        if done {
            *self.done.entry(operation).or_default() += 1;
        }
        story.add(self.daemon.take_events());
    }

    fn draw(&mut self) -> Operation {
        let sum: u32 = Operation::ALL.into_iter().map(Operation::weight).sum();
        let mut left = self.random.u32(..sum);
        let drawn = Operation::ALL.into_iter().find(|operation| {
            let found = left < operation.weight();
            left = left.saturating_sub(operation.weight());
            found
        });
        drawn.expect("less than the sum")
    }

    /// Runs `pepitactl`. Returns whether the command was carried out: it may be refused, as the VM is in another phase.
    fn command(&self, args: &[&str]) -> bool {
        let output = self.host.ctl(args);
        self.check(args, &output);
        output.status.success()
    }

    /// Runs a command that waits for its effect, if it is to.
    fn waiting(&mut self, command: &str, vm: &str) -> bool {
        let wait = if self.random.bool() { "--no-wait" } else { "--timeout=2s" };
        self.command(&[command, wait, vm])
    }

    /// Asserts that a command has done what it is for, or has said why not.
    fn check(&self, args: &[&str], output: &Output) {
        // The documented codes: ok, refused, no supervisor, the VM gave up, not ready in time.
        let known = matches!(output.status.code(), Some(0 | 1 | 69 | 70 | 75));
        assert!(known, "{args:?}: {}: {}", output.status, stderr(output));
    }

    /// Changes the environment of a VM in the configuration, and applies it.
    fn reload(&mut self, vm: String, args: &[&str]) -> bool {
        self.changed.retain(|(known, _)| *known != vm);
        self.changed.push((vm, self.random.u64(..)));
        self.host.configure_microvms(&groups(&self.changed).0);
        self.command(args)
    }

    /// Reads the status: counters only grow.
    fn look(&self, story: &mut Story) -> bool {
        let output = self.host.ctl(&["status", "--json"]);
        self.check(&["status"], &output);
        let Ok(status) = serde_json::from_slice::<Value>(&output.stdout) else { return false };
        let groups = status["groups"].as_array().into_iter().flatten();
        for vm in groups.flat_map(|group| group["vms"].as_array().into_iter().flatten()) {
            story.shows(vm["name"].as_str().expect("a name"), vm["incarnation"].as_u64().expect("a number"));
        }
        true
    }

    /// Kills a random process of this role. Returns whether there was one.
    fn kill(&mut self, role: Role) -> bool {
        let mut processes = census::processes(&self.host.path("r"));
        processes.retain(|process| process.role == role);
        // A microVM is the rarer one.
        let microvms: Vec<_> =
            processes.iter().filter(|process| process.vm.starts_with('m')).cloned().collect();
        let from = if !microvms.is_empty() && self.random.u8(..3) == 0 { microvms } else { processes };
        if from.is_empty() {
            return false;
        }
        let pid = Pid::from_raw(from[self.random.usize(..from.len())].pid);
        kill(pid, Signal::SIGKILL).is_ok()
    }

    /// Ends all operations, brings every VM up, and waits until all are ready.
    pub(crate) fn calm(&mut self, story: &mut Story) {
        for vm in &self.names {
            // One that is not paused refuses.
            self.command(&["resume", vm]);
            self.command(&["start", "--no-wait", vm]);
        }
        let waited = self.host.ctl(&["wait", "--timeout", CALM]);
        story.add(self.daemon.take_events());
        let status = || String::from_utf8_lossy(&self.host.ctl(&["status"]).stdout).into_owned();
        assert!(waited.status.success(), "{}{}\n{}", stderr(&waited), status(), story.tail());
        assert!(self.look(story), "no status");
    }

    /// Stops the supervisor with all its VMs.
    pub(crate) fn stop(mut self, story: &mut Story) {
        self.daemon.stop();
        story.add(self.daemon.take_events());
    }
}
