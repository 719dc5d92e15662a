//! Random trees, random plans of launches, and random operations on a tree that runs.

use crate::support::{Fate, Host, Plan, group, tree, vm};
use pepita_supervisor::cid::CidMsg;
use pepita_supervisor::executor::ExecutorMsg;
use pepita_supervisor::group::{Command, GroupMsg};
use pepita_supervisor::link::LinkMsg;
use pepita_supervisor::observe::VmPhase;
use pepita_supervisor::spec::{
    AutoShutdown, Backoff, GroupName, GroupSpec, Intensity, OnGiveUp, OnIntensityExceeded, OnStartFailure,
    Readiness, Restart, Strategy, TreeSpec, VmSpec,
};
use pepita_supervisor::tree::Tree;
use pepita_supervisor::vm::VmMsg;
use pepita_wire::record::CallErrorKind;
use ractor::ActorCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// All VMs that a tree may ever have. The policy of a name is fixed, so that a reload knows it, too.
const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

const POLICIES: [Restart; 4] = [Restart::Always, Restart::OnFailure, Restart::Never, Restart::UnlessStopped];

fn policy(name: &str) -> Restart {
    let place = NAMES.iter().position(|known| *known == name).expect("a name of the list");
    // VMs that are never restarted are the rarer ones.
    [0, 1, 1, 3, 1, 0, 2, 1, 0].map(|policy: usize| POLICIES[policy])[place]
}

pub(super) fn policies() -> BTreeMap<String, Restart> {
    NAMES.iter().map(|name| ((*name).to_owned(), policy(name))).collect()
}

pub(super) struct RandomOps {
    random: fastrand::Rng,
    /// The specification in force, if the simulation has changed it.
    current: Option<TreeSpec>,
    /// Whether the supervisor keeps its state on the disk, and may be killed.
    mortal: bool,
}

impl RandomOps {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), current: None, mortal: seed.is_multiple_of(3) }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.u32(..n) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.random.usize(..of.len())].clone()
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.random.u64(from..to))
    }

    pub(super) fn length(&mut self) -> u32 {
        self.random.u32(5..40)
    }

    /// Returns the length of a pause: often shorter than any step of a VM takes, sometimes long enough for all of them.
    pub(super) fn pause(&mut self) -> Duration {
        match self.random.u32(..10) {
            0..4 => self.ms(0, 30),
            4..8 => self.ms(30, 1500),
            _ => self.ms(1500, 20_000),
        }
    }

    pub(super) fn supervisor_dies(&mut self) -> bool {
        self.mortal && self.one_in(12)
    }

    pub(super) fn leaves(&mut self) -> bool {
        self.mortal && self.one_in(3)
    }

    pub(super) fn spec(&self, first: &TreeSpec) -> TreeSpec {
        self.current.clone().unwrap_or_else(|| first.clone())
    }

    pub(super) fn tree(&mut self, dir: &Path) -> TreeSpec {
        let mut names: Vec<&str> = NAMES.to_vec();
        self.random.shuffle(&mut names);
        let groups = self.random.usize(1..4);
        let mut specs: Vec<GroupSpec> = Vec::new();
        for number in 0..groups {
            let vms: Vec<VmSpec> =
                (0..self.random.usize(1..4)).filter_map(|_| names.pop()).map(|name| self.vm(name)).collect();
            let strategies = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];
            let mut spec = group(&format!("g{number}"), self.pick(&strategies), vms);
            spec.intensity = Intensity {
                max_restarts: self.random.u32(1..12),
                period: Duration::from_secs(self.random.u64(5..60)),
            };
            spec.on_intensity_exceeded = self.pick(&[
                OnIntensityExceeded::Escalate,
                OnIntensityExceeded::Escalate,
                OnIntensityExceeded::Delay,
                OnIntensityExceeded::StopGroup,
            ]);
            if self.one_in(5) {
                spec.auto_shutdown = self.pick(&[AutoShutdown::AnySignificant, AutoShutdown::AllSignificant]);
                spec.vms[0].significant = true;
            }
            if number > 0 && self.one_in(2) {
                spec.after = vec![GroupName::new(&format!("g{}", number - 1)).expect("good")];
            }
            specs.push(spec);
        }
        let mut spec = tree(specs);
        spec.backoff.max = Duration::from_secs(5);
        spec.intensity.max_restarts = if self.one_in(4) { 3 } else { 1000 };
        spec.max_parallel_launches = self.random.usize(1..5);
        spec.state_dir = self.mortal.then(|| dir.to_owned());
        spec
    }

    fn vm(&mut self, name: &str) -> VmSpec {
        let mut vm = vm(name);
        vm.restart.policy = policy(name);
        vm.restart.backoff = Backoff {
            initial: self.ms(0, 500),
            max: Duration::from_secs(3),
            multiplier: 2.0,
            jitter: self.pick(&[0.0, 0.5]),
        };
        vm.restart.max_retries = if self.one_in(4) { self.random.u32(1..4) } else { 0 };
        vm.restart.reset_after = self.ms(100, 20_000);
        vm.restart.on_give_up = self.pick(&[OnGiveUp::Fail, OnGiveUp::Escalate]);
        vm.start.timeout = self.ms(500, 5000);
        vm.start.on_failure = if self.one_in(6) { OnStartFailure::Abort } else { OnStartFailure::Retry };
        vm.start.ready = Readiness::Started;
        vm.stop.timeout = self.ms(0, 2000);
        vm.autostart = !self.one_in(8);
        if self.one_in(3) {
            vm.health.interval = self.ms(200, 2000);
            vm.health.timeout = self.ms(50, 200);
        }
        vm
    }

    /// Plans the course of launches.
    pub(super) fn plans(&mut self, host: &Host, spec: &TreeSpec) {
        for vm in spec.groups.iter().flat_map(|group| &group.vms) {
            let plans: Vec<Plan> = (0..self.random.usize(..12)).map(|_| self.plan()).collect();
            host.plan(vm.name.as_str(), plans);
        }
    }

    fn plan(&mut self) -> Plan {
        let usual = Plan {
            launch: Some(self.ms(1, 60)),
            boot: Some(self.ms(0, 300)),
            stop: Some(self.ms(0, 300)),
            destroy: self.ms(0, 40),
            ..Plan::default()
        };
        let kinds = [CallErrorKind::TryAgain, CallErrorKind::Io, CallErrorKind::BadImage];
        let fates = [Fate::Exit(0), Fate::Exit(3), Fate::Signal(9), Fate::Crash];
        match self.random.u32(..8) {
            0 => Plan { boot: None, ..usual },
            1 => Plan { refusal: Some(self.pick(&kinds)), ..usual },
            2 => Plan { launch: Some(self.ms(100, 1000)), ..usual },
            3 => Plan { stop: None, ..usual },
            4 => Plan { answers: false, ..usual },
            _ => Plan { end: Some((self.ms(0, 5000), self.pick(&fates))), ..usual },
        }
    }

    /// Applies one random operation.
    pub(super) async fn apply_one(&mut self, host: &Host, tree: &Tree) {
        let alive = host.alive();
        let shown: Vec<String> = tree.status().vms().map(|vm| vm.name.to_string()).collect();
        match self.random.u32(..14) {
            0..4 if !alive.is_empty() => {
                let fates = [Fate::Exit(0), Fate::Exit(3), Fate::Signal(11), Fate::Crash];
                host.end(&self.pick(&alive), self.pick(&fates));
            }
            4 if !alive.is_empty() => host.kill_monitor(&self.pick(&alive)),
            5..8 if !shown.is_empty() => {
                let commands = [Command::Start, Command::Stop, Command::Restart, Command::Reset];
                let vm = self.pick(&shown);
                // A refusal is allowed: the VM is being removed, or the tree is stopping.
                let _ = tree.command(&vm, self.pick(&commands)).await;
            }
            8 if !shown.is_empty() => {
                let vm = self.pick(&shown);
                let _ = if self.one_in(2) { tree.pause(&vm).await } else { tree.resume(&vm).await };
            }
            9 => self.changes(tree).await,
            10..14 => self.kill_an_actor(tree),
            _ => {}
        }
    }

    async fn changes(&mut self, tree: &Tree) {
        let Some(spec) = tree.spec().await else { return };
        let known: Vec<String> =
            spec.groups.iter().flat_map(|g| &g.vms).map(|vm| vm.name.to_string()).collect();
        let group = self.random.usize(..spec.groups.len());
        match self.random.u32(..4) {
            0 => {
                let free: Vec<&str> =
                    NAMES.into_iter().filter(|name| !known.iter().any(|known| known == name)).collect();
                if !free.is_empty() {
                    let name = self.pick(&free);
                    let added = self.vm(name);
                    let _ = tree.add_vm(spec.groups[group].name.as_str(), added).await;
                }
            }
            1 if !known.is_empty() => {
                let _ = tree.remove_vm(&self.pick(&known)).await;
            }
            _ => {
                let mut new = spec.clone();
                for vm in new.groups.iter_mut().flat_map(|group| &mut group.vms) {
                    match self.random.u32(..4) {
                        0 => vm.machine.memory_mb += 1,
                        1 => *vm = VmSpec { machine: vm.machine.clone(), ..self.vm(vm.name.as_str()) },
                        _ => {}
                    }
                }
                if self.one_in(3) {
                    let strategies = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];
                    new.groups[group].strategy = self.pick(&strategies);
                }
                let restart = self.one_in(2);
                let _ = tree.reload(new, restart).await;
            }
        }
        if let Some(spec) = tree.spec().await {
            self.current = Some(spec);
        }
    }

    fn kill_an_actor(&mut self, tree: &Tree) {
        let mut actors = tree.root().get_children();
        let mut next = actors.clone();
        while let Some(actor) = next.pop() {
            let children = actor.get_children();
            actors.extend(children.iter().cloned());
            next.extend(children);
        }
        if actors.is_empty() {
            return;
        }
        let actor: ActorCell = self.pick(&actors);
        if self.one_in(2) || actor.is_message_type_of::<LinkMsg>() == Some(true) {
            actor.kill();
            return;
        }
        // The kind of an actor is known from the messages that its mailbox takes.
        let _ = actor.send_message(VmMsg::Panic);
        let _ = actor.send_message(GroupMsg::Panic);
        let _ = actor.send_message(CidMsg::Panic);
        let _ = actor.send_message(ExecutorMsg::Panic);
    }

    /// Resumes paused VMs and lets silent guests answer.
    pub(super) async fn calm_down(&mut self, host: &Host, tree: &Tree) {
        for _ in 0..3 {
            for vm in host.alive() {
                host.becomes(&vm, |plan| (plan.answers, plan.end) = (true, None));
            }
            let status = tree.status();
            for vm in status.vms().filter(|vm| vm.phase == VmPhase::Paused) {
                let _ = tree.resume(vm.name.as_str()).await;
            }
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
    }
}
