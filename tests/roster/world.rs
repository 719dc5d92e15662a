//! A world for one roster: carries out its orders at once or on request, with a clock that the test moves and fixed
//! numbers in place of random ones. The world checks the invariants that hold in every test: see [`World::carry_out`].

mod checks;

use pepita_supervisor::group::{At, Command, Found, GroupEnd, Order, Refused, Roster};
use pepita_supervisor::journal::Remembered;
use pepita_supervisor::observe::{Action, Change, Decision, VmPhase};
use pepita_supervisor::policy::{Ending, Exit};
use pepita_supervisor::spec::{GroupName, GroupSpec, MachineSpec, Strategy, VmName, VmSpec};
use pepita_supervisor::vm::{Mode, Transition};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const NS: Duration = Duration::from_nanos(1);

pub(crate) fn name(vm: &str) -> VmName {
    VmName::new(vm).expect("a good name")
}

pub(crate) fn exit(code: i32) -> Ending {
    Exit::code(code).into()
}

pub(crate) fn vm(name: &str) -> VmSpec {
    let mut vm = VmSpec::new(self::name(name), MachineSpec::process());
    vm.restart.backoff.jitter = 0.0;
    vm
}

/// `group(OneForAll, "a b c")`: every default of the configuration file, but without jitter in the delays.
pub(crate) fn group(strategy: Strategy, vms: &str) -> GroupSpec {
    let vms = vms.split_whitespace().map(vm).collect();
    GroupSpec { strategy, ..GroupSpec::new(GroupName::new("g").expect("a good name"), vms) }
}

/// Stands for a VM actor and its VM.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) epoch: u64,
    /// Whether the actor was told to stop.
    pub(crate) stopping: bool,
}

/// Stands for the actor of a warm spare, and its VM.
#[derive(Debug, Clone)]
pub(crate) struct SpareActor {
    pub(crate) of: VmName,
    pub(crate) epoch: u64,
    pub(crate) is_ready: bool,
    /// Whether the actor was told to end the spare.
    pub(crate) ending: bool,
    /// The fingerprint of the configuration that it was launched with.
    pub(crate) config: String,
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) roster: Roster,
    pub(crate) now: Instant,
    pub(crate) actors: BTreeMap<VmName, Actor>,
    pub(crate) spares: BTreeMap<VmName, SpareActor>,
    /// The VMs that were promoted from a spare and have not been heard of since.
    pub(crate) promoted: BTreeSet<VmName>,
    /// How the group ended, once it has ended.
    pub(crate) ended: Option<GroupEnd>,
    /// The number of times that the group has ended.
    pub(crate) ends: usize,
    /// Every change, from the beginning.
    pub(crate) changes: Vec<Change>,
    /// The VMs that were started, adopted and stopped since the test last asked.
    started: Vec<VmName>,
    adopted: Vec<VmName>,
    stopped: Vec<VmName>,
    told: usize,
    pub(crate) group_ready: usize,
    /// VMs at whose ports a client is awaited.
    awaited: BTreeSet<VmName>,
    /// VMs that hold their CID.
    leased: BTreeSet<VmName>,
    incarnations: BTreeMap<VmName, u64>,
    last_epoch: u64,
    /// The phase of each VM according to the events.
    shown: BTreeMap<VmName, VmPhase>,
    journal: BTreeMap<VmName, Remembered>,
    strategy: Strategy,
    /// Whether the group was told to stop, and not to start since.
    halted: bool,
    /// Whether the group was not started yet, but has taken over VMs that run.
    waits: bool,
    reloaded: bool,
    /// The random number that the roster gets.
    pub(crate) draw: f64,
}

impl World {
    /// Makes a group that is down.
    pub(crate) fn down(spec: GroupSpec) -> Self {
        Self::remembering(spec, &BTreeMap::new())
    }

    pub(crate) fn remembering(spec: GroupSpec, memory: &BTreeMap<VmName, Remembered>) -> Self {
        let incarnations = memory.iter().map(|(vm, memory)| (vm.clone(), memory.incarnation.0)).collect();
        let strategy = spec.strategy;
        Self {
            roster: Roster::new(spec, memory),
            now: Instant::now(),
            actors: BTreeMap::new(),
            spares: BTreeMap::new(),
            promoted: BTreeSet::new(),
            ended: None,
            ends: 0,
            changes: Vec::new(),
            started: Vec::new(),
            adopted: Vec::new(),
            stopped: Vec::new(),
            told: 0,
            group_ready: 0,
            awaited: BTreeSet::new(),
            leased: BTreeSet::new(),
            incarnations,
            last_epoch: 0,
            shown: BTreeMap::new(),
            journal: memory.clone(),
            strategy,
            halted: false,
            waits: false,
            reloaded: false,
            draw: 0.0,
        }
    }

    /// Makes a group that was just started.
    pub(crate) fn starting(spec: GroupSpec) -> Self {
        let mut world = Self::down(spec);
        world.start(&BTreeMap::new());
        world
    }

    /// Makes a group whose VMs are all Ready; the lists that a test can ask for are empty.
    pub(crate) fn up(spec: GroupSpec) -> Self {
        let mut world = Self::starting(spec);
        world.run();
        world.look_away();
        world
    }

    pub(crate) fn at(&self) -> At {
        At { now: self.now, draw: self.draw }
    }

    /// Starts the group in its turn; the VMs that were found and are to go on were adopted before.
    pub(crate) fn start(&mut self, found: &BTreeMap<VmName, Found>) {
        if !found.is_empty() {
            let orders = self.roster.adopt(self.at(), found.clone());
            self.carry_out(orders);
        }
        self.waits = false;
        self.halted = false;
        let orders = self.roster.start(self.at());
        self.carry_out(orders);
    }

    pub(crate) fn start_afresh(&mut self) {
        (self.ended, self.halted) = (None, false);
        let orders = self.roster.start_afresh(self.at());
        self.carry_out(orders);
    }

    pub(crate) fn command(&mut self, vm: &str, command: Command) -> Result<(), Refused> {
        let orders = self.roster.command(self.at(), &name(vm), command)?;
        self.halted &= command == Command::Stop;
        if !self.roster.is_down() {
            self.ended = None;
        }
        self.carry_out(orders);
        Ok(())
    }

    /// Carries out a [`World::command`] that must not be refused.
    pub(crate) fn order(&mut self, vm: &str, command: Command) {
        self.command(vm, command).expect("not refused");
    }

    pub(crate) fn reload(&mut self, spec: GroupSpec, restart: bool) {
        (self.reloaded, self.strategy) = (true, spec.strategy);
        let orders = self.roster.reload(self.at(), spec, restart);
        self.carry_out(orders);
    }

    pub(crate) fn stop(&mut self) {
        self.halted = true;
        let orders = self.roster.stop(self.at());
        self.check_stops(&orders);
        self.carry_out(orders);
    }

    pub(crate) fn kill(&mut self) {
        self.halted = true;
        let orders = self.roster.kill(self.at());
        self.carry_out(orders);
    }

    pub(crate) fn transition(&mut self, vm: &str, news: Transition) {
        let epoch = self.actor(vm).epoch;
        if news == Transition::GoesToSleep && self.phase(vm) == "ready" {
            self.actors.get_mut(&name(vm)).expect("there").stopping = true;
        }
        let orders = self.roster.transition(self.at(), &name(vm), epoch, news);
        self.carry_out(orders);
        if self.phase(vm) != "starting" {
            self.promoted.remove(&name(vm));
        }
    }

    /// Reports that the daemon of the VM runs and is Ready.
    pub(crate) fn ready(&mut self, vm: &str) {
        self.transition(vm, Transition::Running);
        self.transition(vm, Transition::Ready);
    }

    /// Reports that a client waits at a port of the VM.
    pub(crate) fn client_comes(&mut self, vm: &str) {
        let orders = self.roster.client_came(self.at(), &name(vm));
        self.carry_out(orders);
    }

    /// Reports that the VM has ended by itself.
    pub(crate) fn end(&mut self, vm: &str, ending: Ending) {
        let epoch = self.actor(vm).epoch;
        self.actors.remove(&name(vm));
        self.promoted.remove(&name(vm));
        let orders = self.roster.vm_ended(self.at(), &name(vm), epoch, ending);
        self.check_stops(&orders);
        self.carry_out(orders);
    }

    pub(crate) fn fail(&mut self, vm: &str) {
        self.end(vm, exit(1));
    }

    /// Reports that the stop that was ordered is done.
    pub(crate) fn gone(&mut self, vm: &str) {
        assert!(self.actor(vm).stopping, "{vm} was not told to stop");
        self.end(vm, Exit::StopRequested.into());
    }

    pub(crate) fn actor_fails(&mut self, vm: &str) {
        let epoch = self.actor(vm).epoch;
        self.actors.remove(&name(vm));
        self.promoted.remove(&name(vm));
        let orders = self.roster.actor_failed(self.at(), &name(vm), epoch, "a test");
        self.carry_out(orders);
    }

    /// Reports that a spare can take the place of its VM.
    pub(crate) fn spare_ready(&mut self, spare: &VmName) {
        let actor = self.spares.get_mut(spare).expect("there is such a spare");
        actor.is_ready = true;
        let epoch = actor.epoch;
        let orders = self.roster.spare_ready(self.at(), spare, epoch);
        self.carry_out(orders);
    }

    /// Reports that a spare is gone.
    pub(crate) fn spare_ends(&mut self, spare: &VmName) {
        let SpareActor { epoch, ending, .. } = self.spares.remove(spare).expect("there is such a spare");
        let (by_itself, orders) = self.roster.spare_ended(self.at(), spare, epoch);
        assert_ne!(by_itself, ending);
        self.carry_out(orders);
    }

    pub(crate) fn spare_actor_fails(&mut self, spare: &VmName) {
        let SpareActor { epoch, .. } = self.spares.remove(spare).expect("there is such a spare");
        let orders = self.roster.spare_actor_failed(self.at(), spare, epoch);
        self.carry_out(orders);
    }

    /// Returns the VMs of which a spare can take the place at once.
    pub(crate) fn with_ready_spare(&self) -> BTreeSet<VmName> {
        let fits = |spare: &&SpareActor| {
            let spec = self.roster.vm(&spare.of);
            spare.is_ready && !spare.ending && spec.is_some_and(|spec| spec.was_started_with(&spare.config))
        };
        self.spares.values().filter(fits).map(|spare| spare.of.clone()).collect()
    }

    /// Lets time pass, with a tick whenever the roster had asked for one.
    pub(crate) fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while let Some(at) = self.roster.wake_at().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.tick();
            assert!(self.roster.wake_at().is_none_or(|next| next > at), "a tick did not do what was due");
        }
        self.now = until;
        self.tick();
    }

    pub(crate) fn tick(&mut self) {
        let orders = self.roster.tick(self.at());
        self.check_stops(&orders);
        self.carry_out(orders);
    }

    /// Takes every step that needs no time: VMs that start become Ready, VMs that stop end.
    pub(crate) fn run(&mut self) {
        for _ in 0..1000 {
            let stopping = self.actors.iter().find(|(_, actor)| actor.stopping);
            let of = |phase: VmPhase| {
                let vm = self.roster.phases().find(|(_, p)| *p == phase).map(|(vm, _)| vm.clone());
                vm.filter(|vm| self.actors.contains_key(vm))
            };
            if let Some(vm) = stopping.map(|(vm, _)| vm.to_string()) {
                self.gone(&vm);
            } else if let Some(vm) = of(VmPhase::Starting).or_else(|| of(VmPhase::Running)) {
                self.ready(vm.as_str());
            } else if !self.serve_spares() {
                return;
            }
        }
        panic!("the group gives orders without end: {:#?}", self.roster);
    }

    /// Lets one spare that boots be ready, or one that is to end be gone. Returns whether there was one.
    pub(crate) fn serve_spares(&mut self) -> bool {
        let due = self.spares.iter().find(|(_, spare)| spare.ending || !spare.is_ready);
        let Some((spare, ending)) = due.map(|(spare, actor)| (spare.clone(), actor.ending)) else {
            return false;
        };
        if ending {
            self.spare_ends(&spare)
        } else {
            self.spare_ready(&spare)
        }
        true
    }

    /// Repeats [`World::run`] over all moments that the roster waits for.
    pub(crate) fn run_to_rest(&mut self) {
        self.run();
        for _ in 0..1000 {
            let Some(at) = self.roster.wake_at() else { return };
            self.advance(at.saturating_duration_since(self.now));
            self.run();
        }
        panic!("the group never comes to rest: {:#?}", self.roster);
    }

    /// Returns the VMs that were launched since the last call.
    pub(crate) fn started(&mut self) -> Vec<String> {
        names(std::mem::take(&mut self.started))
    }

    /// Lets the group take over the VMs that run, while it waits for another group.
    pub(crate) fn adopt(&mut self, found: &BTreeMap<VmName, Found>) {
        self.waits = true;
        let orders = self.roster.adopt(self.at(), found.clone());
        self.carry_out(orders);
    }

    /// Returns the VMs that a new actor has taken over since the last call.
    pub(crate) fn adopted(&mut self) -> Vec<String> {
        names(std::mem::take(&mut self.adopted))
    }

    /// Returns the VMs that were told to stop since the last call.
    pub(crate) fn stopped(&mut self) -> Vec<String> {
        names(std::mem::take(&mut self.stopped))
    }

    /// Returns the number of entries in the restart window, and the number that is allowed.
    pub(crate) fn window(&self) -> (u32, u32) {
        let window = self.roster.window(self.now);
        (window.count, window.max)
    }

    /// Returns the decisions since the last call.
    pub(crate) fn decisions(&mut self) -> Vec<Decision> {
        let new = self.changes[self.told..].iter().filter_map(|change| change.decision.clone()).collect();
        self.told = self.changes.len();
        new
    }

    /// Returns the only decision since the last call.
    pub(crate) fn decision(&mut self) -> Decision {
        let mut decisions = self.decisions();
        assert_eq!(decisions.len(), 1, "{decisions:?}");
        decisions.remove(0)
    }

    pub(crate) fn actions(&mut self) -> Vec<Action> {
        self.decisions().into_iter().map(|decision| decision.action).collect()
    }

    pub(crate) fn look_away(&mut self) {
        (self.started, self.adopted, self.stopped) = Default::default();
        self.told = self.changes.len();
    }

    pub(crate) fn phase(&self, vm: &str) -> &'static str {
        self.roster.phases().find(|(name, _)| name.as_str() == vm).expect("the VM is in the group").1.word()
    }

    /// Returns the phases in start order, such as `ready backoff waiting`.
    pub(crate) fn phases(&self) -> String {
        self.roster.phases().map(|(_, phase)| phase.word()).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn attempts(&self, vm: &str) -> u32 {
        self.roster.view(&name(vm)).expect("the VM is in the group").attempts
    }

    pub(crate) fn incarnation(&self, vm: &str) -> u64 {
        self.roster.view(&name(vm)).expect("the VM is in the group").incarnation.0
    }

    pub(crate) fn holds_cid(&self, vm: &str) -> bool {
        self.leased.contains(&name(vm))
    }

    pub(crate) fn actor(&self, vm: &str) -> Actor {
        self.actors.get(&name(vm)).cloned().unwrap_or_else(|| panic!("{vm} has no actor"))
    }

    /// Carries out the roster's orders, and asserts that the invariants hold: never two actors for one VM, a number
    /// used twice, an order to an actor that is gone, a CID given back under a living VM, or an order after the end.
    pub(crate) fn carry_out(&mut self, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Spawn { vm, incarnation, epoch, mode } => {
                    assert!(!self.actors.contains_key(&vm), "{vm}: two actors");
                    assert!(epoch > self.last_epoch, "{vm}: epoch {epoch} again");
                    self.last_epoch = epoch;
                    let newest = self.incarnations.get(&vm).copied().unwrap_or_default();
                    match mode {
                        Mode::Launch => {
                            self.check_launch(&vm);
                            assert!(incarnation.0 > newest, "{vm}: incarnation {incarnation} again");
                            assert_eq!(self.journal[&vm].incarnation, incarnation, "{vm}: not written down");
                            self.started.push(vm.clone());
                        }
                        Mode::Adopt => {
                            self.adopted.push(vm.clone());
                        }
                    }
                    self.awaited.remove(&vm);
                    self.incarnations.insert(vm.clone(), incarnation.0.max(newest));
                    assert!(self.journal[&vm].incarnation >= incarnation, "{vm}: not written down");
                    self.leased.insert(vm.clone());
                    self.actors.insert(vm, Actor { epoch, stopping: false });
                }
                Order::SpawnSpare { spare, of, epoch, mode } => {
                    assert!(!self.spares.contains_key(&spare), "{spare}: two actors");
                    assert!(epoch > self.last_epoch, "{spare}: epoch {epoch} again");
                    self.last_epoch = epoch;
                    if mode == Mode::Launch {
                        assert!(!self.halted, "{spare} is booted after a stop");
                        let phase = self.shown.get(&of);
                        assert!(
                            matches!(phase, Some(VmPhase::Ready | VmPhase::Unhealthy)),
                            "{spare} is booted behind a VM that is {phase:?}"
                        );
                        assert!(
                            self.spares.values().all(|other| other.is_ready || other.ending),
                            "two boot at once"
                        );
                    }
                    let config = self.roster.vm(&of).map(|spec| spec.fingerprint()).unwrap_or_default();
                    self.spares
                        .insert(spare, SpareActor { of, epoch, is_ready: false, ending: false, config });
                }
                Order::EndSpare { spare, epoch } => {
                    let actor = self
                        .spares
                        .get_mut(&spare)
                        .unwrap_or_else(|| panic!("{spare}: an end without an actor"));
                    assert_eq!(actor.epoch, epoch, "{spare}: end of a former actor");
                    assert!(!std::mem::replace(&mut actor.ending, true), "{spare}: ended twice");
                }
                Order::Promote { spare, vm, incarnation, epoch } => {
                    let actor =
                        self.spares.remove(&spare).unwrap_or_else(|| panic!("{spare}: there is none"));
                    assert!(
                        actor.is_ready && !actor.ending && (&actor.of, actor.epoch) == (&vm, epoch),
                        "{actor:?}"
                    );
                    assert!(!self.actors.contains_key(&vm), "{vm}: two copies");
                    self.check_launch(&vm);
                    let newest = self.incarnations.insert(vm.clone(), incarnation.0).unwrap_or_default();
                    assert!(incarnation.0 > newest, "{vm}: incarnation {incarnation} again");
                    assert_eq!(self.journal[&vm].incarnation, incarnation, "{vm}: not written down");
                    let spec = self.roster.vm(&vm).expect("the VM is in the group");
                    assert_eq!(
                        spec.fingerprint(),
                        actor.config,
                        "{vm}: promoted with a former configuration"
                    );
                    self.leased.insert(vm.clone());
                    self.started.push(vm.clone());
                    self.promoted.insert(vm.clone());
                    self.actors.insert(vm, Actor { epoch, stopping: false });
                }
                Order::ForgetSpare(spare) => {
                    assert!(!self.spares.contains_key(&spare), "{spare}: forgotten while it lives");
                }
                Order::Stop { vm, epoch } => {
                    let actor =
                        self.actors.get_mut(&vm).unwrap_or_else(|| panic!("{vm}: a stop without an actor"));
                    assert_eq!(actor.epoch, epoch, "{vm}: stop of a former actor");
                    assert!(!std::mem::replace(&mut actor.stopping, true), "{vm}: stopped twice");
                    self.stopped.push(vm);
                }
                Order::Kill { vm, epoch } => {
                    let actor =
                        self.actors.get_mut(&vm).unwrap_or_else(|| panic!("{vm}: a kill without an actor"));
                    assert_eq!(actor.epoch, epoch, "{vm}: destruction of a former actor");
                    actor.stopping = true;
                }
                Order::Sleep { vm, epoch } | Order::Wake { vm, epoch } => {
                    let actor = self.actors.get(&vm).unwrap_or_else(|| panic!("{vm} has no actor"));
                    assert!(actor.epoch == epoch && !actor.stopping, "{vm}: {actor:?}");
                }
                Order::AwaitClient(vm) => drop(self.awaited.insert(vm)),
                Order::Release(vm) => {
                    self.awaited.remove(&vm);
                    assert!(!self.actors.contains_key(&vm), "{vm}: its CID is given back while the VM lives");
                    self.leased.remove(&vm);
                }
                Order::Remove(vm) => {
                    self.journal.remove(&vm);
                    assert!(!self.actors.contains_key(&vm), "{vm}: removed while the VM lives");
                    assert!(!self.leased.contains(&vm), "{vm}: removed while it holds its CID");
                }
                Order::Tell(change) => {
                    self.shown.insert(change.vm.clone(), change.to.clone());
                    self.changes.push(change);
                }
                Order::Save(vm) => {
                    let memory = self.roster.remember(&vm).expect("the VM is in the group");
                    self.journal.insert(vm, memory);
                }
                Order::BroughtBack => assert!(!self.roster.is_down()),
                Order::GroupReady => self.group_ready += 1,
                Order::End(end) => {
                    assert!(self.actors.is_empty(), "the group ended before {:?}", self.actors);
                    assert!(self.spares.is_empty(), "the group ended before {:?}", self.spares);
                    (self.ended, self.ends) = (Some(end), self.ends + 1);
                }
                Order::Update(_) => {}
            }
        }
        self.check();
    }
}

fn names(vms: Vec<VmName>) -> Vec<String> {
    vms.iter().map(VmName::to_string).collect()
}
