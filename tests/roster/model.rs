//! A second implementation of docs/semantics.md, as a model against which the roster is tested: slow and plain, and
//! without actors. The model counts everything anew from lists that only grow.

mod advances;
mod asked;
mod ends;
mod sleep;

use crate::world::name;
use pepita_supervisor::group::{Command, Found};
use pepita_supervisor::journal::{Remembered, Wanted};
use pepita_supervisor::observe::{Action, VmPhase};
use pepita_supervisor::policy::{Ending, Exit, Verdict};
use pepita_supervisor::spec::{
    AutoShutdown, GroupSpec, OnGiveUp, OnIntensityExceeded, OnStartFailure, Restart, Strategy, VmName, VmSpec,
};
use pepita_supervisor::vm::Transition;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The phase of a VM (semantics 2), and the step that follows it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Is {
    Stopped,
    Waiting,
    Idle { not_before: Option<Instant>, is_called: bool },
    Starting,
    Running,
    Ready,
    Unhealthy,
    Paused { was_ready: bool, is_asleep: bool },
    Stopping(Next),
    Unknown,
    Backoff(Instant),
    Completed,
    Failed,
}

/// The step that follows a stop of the supervisor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Next {
    Down,
    Again,
    Turn,
    Sleep,
    Failure,
    Removed,
}

#[derive(Debug, Clone)]
pub(crate) struct Vm {
    pub(crate) spec: VmSpec,
    pub(crate) is: Is,
    pub(crate) wanted: bool,
    pub(crate) attempts: u32,
    /// The daemon has run, in any incarnation.
    pub(crate) ran: bool,
    pub(crate) incarnation: u64,
    /// The newest number that was given, also if it was never launched.
    pub(crate) newest: u64,
    /// The moments when this incarnation became Ready, and when each Ready phase ended.
    readies: Vec<(Instant, Option<Instant>)>,
    /// The VM starts in file order: later VMs wait for it, and it waits for earlier VMs.
    in_order: bool,
    /// The VM starts together with its group.
    first: bool,
    changed: bool,
    /// The VM is being put to sleep, or slept when a previous run ended.
    pub(crate) drowsy: bool,
    /// The VM boots; otherwise it ran already and is taken over.
    boots: bool,
}

/// A group restart (semantics 5).
#[derive(Debug, Clone)]
struct Round {
    set: BTreeSet<VmName>,
    not_before: Instant,
    entered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Ended {
    Stopped,
    AutoShutdown,
    Failed,
    Escalated,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Group {
    Up,
    GoingDown(Ended),
    Down(Option<Ended>),
}

/// The content of an event about a decision (semantics 10.2).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) action: Action,
    pub(crate) attempt: u32,
    pub(crate) delay: Option<Duration>,
    pub(crate) joined: bool,
    pub(crate) window: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    spec: GroupSpec,
    pub(crate) vms: Vec<Vm>,
    pub(crate) group: Group,
    round: Option<Round>,
    /// The moment at which each restart decision counts, from the beginning.
    entries: Vec<Instant>,
    removed: BTreeMap<VmName, u64>,
    pub(crate) now: Instant,
    pub(crate) draw: f64,
    pub(crate) told: Vec<Told>,
    /// The VMs of which a warm spare can take the place at once. That is no decision, but a fact of the world.
    pub(crate) spared: BTreeSet<VmName>,
    /// The VMs whose start is a promotion, as the world shows.
    pub(crate) promoted: BTreeSet<VmName>,
    /// Whether there may be spares: the group is down only when there are none.
    pub(crate) has_spares: bool,
}

/// Returns whether a daemon that ran has ended so.
fn is_of_a_daemon(ending: &Ending) -> bool {
    matches!(ending.exit(), Some(Exit::Exited { .. } | Exit::Signalled { .. } | Exit::GuestOom))
}

impl Vm {
    fn new(spec: VmSpec, incarnation: u64) -> Self {
        Self {
            wanted: spec.autostart,
            spec,
            is: Is::Stopped,
            attempts: 0,
            ran: false,
            incarnation,
            newest: incarnation,
            readies: Vec::new(),
            in_order: false,
            first: false,
            changed: false,
            drowsy: false,
            boots: false,
        }
    }

    /// Makes a VM from the state that a previous run has left (semantics 9 and the end of 1).
    fn remembered(spec: VmSpec, memory: &BTreeMap<VmName, Remembered>) -> Self {
        let Some(memory) = memory.get(&spec.name) else { return Self::new(spec, 0) };
        let always = spec.restart.policy == Restart::Always;
        let mut vm = Self::new(spec, memory.incarnation.0);
        vm.attempts = memory.attempts;
        vm.ran = memory.has_run;
        vm.drowsy = memory.idle;
        vm.wanted = memory.wanted == Wanted::Up || always && vm.wanted;
        if memory.completed && vm.wanted && !always {
            vm.is = Is::Completed;
        }
        vm
    }

    pub(crate) fn lives(&self) -> bool {
        matches!(
            self.is,
            Is::Starting
                | Is::Running
                | Is::Ready
                | Is::Unhealthy
                | Is::Paused { .. }
                | Is::Stopping(_)
                | Is::Unknown
        )
    }

    /// Returns whether the VM will become Ready, if all goes well, without a timer.
    fn comes(&self) -> bool {
        matches!(
            self.is,
            Is::Waiting
                | Is::Starting
                | Is::Running
                | Is::Paused { was_ready: false, .. }
                | Is::Stopping(Next::Again | Next::Turn | Next::Failure)
        )
    }

    fn may_restart(&self) -> bool {
        self.spec.restart.policy != Restart::Never
    }

    fn becomes(&mut self, now: Instant, is: Is) {
        match (&self.is, &is) {
            (Is::Ready, Is::Ready) => {}
            (Is::Ready, _) => self.readies.last_mut().expect("the VM was Ready").1 = Some(now),
            (_, Is::Ready) => {
                self.readies.push((now, None));
                (self.in_order, self.first) = (false, false);
            }
            _ => {}
        }
        self.is = is;
    }
}

impl Model {
    pub(crate) fn new(mut spec: GroupSpec, memory: &BTreeMap<VmName, Remembered>, now: Instant) -> Self {
        let mut vms: Vec<Vm> =
            std::mem::take(&mut spec.vms).into_iter().map(|spec| Vm::remembered(spec, memory)).collect();
        // Wanted VMs start together with their group.
        vms.iter_mut().filter(|vm| vm.wanted && vm.is == Is::Stopped).for_each(|vm| vm.is = Is::Waiting);
        let removed = memory.iter().map(|(vm, memory)| (vm.clone(), memory.incarnation.0)).collect();
        let group = Group::Down(None);
        Self {
            spec,
            vms,
            group,
            round: None,
            entries: Vec::new(),
            removed,
            now,
            draw: 0.0,
            told: Vec::new(),
            spared: BTreeSet::new(),
            promoted: BTreeSet::new(),
            has_spares: false,
        }
    }

    pub(crate) fn vm(&self, vm: &str) -> usize {
        self.vms.iter().position(|v| v.spec.name == name(vm)).expect("the VM is in the group")
    }

    pub(crate) fn start(&mut self, found: &BTreeMap<VmName, Found>) {
        self.group = Group::Up;
        // VMs that run, and go on or are to be stopped, are taken over before any end is judged: none of them is down.
        let runs = |vm: &Vm| {
            let found = found.get(&vm.spec.name);
            found.is_some_and(|found| found.ended.is_none() && (found.unchanged || !vm.wanted))
        };
        let (first, rest): (Vec<_>, Vec<_>) = (0..self.vms.len()).partition(|v| runs(&self.vms[*v]));
        for v in first.into_iter().chain(rest) {
            let vm = &mut self.vms[v];
            let Some(found) = found.get(&vm.spec.name) else { continue };
            let old = found.incarnation.0 < vm.newest;
            vm.ran |= found.ended.as_ref().is_some_and(is_of_a_daemon);
            (vm.first, vm.in_order, vm.newest) = (false, true, vm.newest.max(found.incarnation.0));
            // semantics 9.4: "Its incarnation stays, also when a later one was numbered and never launched".
            vm.incarnation = if found.ended.is_none() { found.incarnation.0 } else { vm.newest };
            match (&found.ended, vm.wanted) {
                (Some(_), _) if vm.is == Is::Completed => {}
                (Some(_), true) if old => {}
                (Some(_), true) if vm.drowsy && vm.may_be_idle() => {}
                (Some(ending), true) if self.group == Group::Up => self.judged(v, ending.clone()),
                (Some(_), true) => self.tell(v, Action::Leave, None, false),
                (Some(_), false) => {}
                (None, true) if found.unchanged && !found.reachable => vm.is = Is::Unknown,
                (None, true) if found.unchanged => (vm.is, vm.boots) = (Is::Starting, false),
                (None, wanted) => vm.is = Is::Stopping(if wanted { Next::Again } else { Next::Down }),
            }
        }
        for vm in &mut self.vms {
            let down = matches!(vm.is, Is::Stopped | Is::Waiting)
                || vm.is == Is::Failed && !found.contains_key(&vm.spec.name);
            if self.group == Group::Up && vm.wanted && down {
                (vm.is, vm.in_order, vm.first) = (vm.at_start(), true, true);
                vm.drowsy &= vm.is == Is::Waiting;
            }
        }
        self.go_on();
    }

    pub(crate) fn start_afresh(&mut self) {
        self.entries.clear();
        self.vms.iter_mut().for_each(|vm| (vm.is, vm.attempts) = (Is::Stopped, 0));
        self.start(&BTreeMap::new());
    }

    pub(crate) fn transition(&mut self, v: usize, news: Transition) {
        let now = self.now;
        if let Transition::Idle | Transition::StayedAwake = news {
            return self.drowsiness(v, news);
        }
        let vm = &mut self.vms[v];
        let is = match (news, &vm.is) {
            (Transition::Running, Is::Starting | Is::Paused { .. } | Is::Unknown) => Is::Running,
            (
                Transition::Ready,
                Is::Starting | Is::Running | Is::Unhealthy | Is::Paused { .. } | Is::Unknown,
            ) => Is::Ready,
            (
                Transition::Unreachable,
                Is::Starting | Is::Running | Is::Ready | Is::Unhealthy | Is::Paused { .. },
            ) => Is::Unknown,
            (Transition::Reached, Is::Unknown) => {
                vm.boots = false;
                Is::Starting
            }
            (Transition::Healthy, Is::Unhealthy) => Is::Ready,
            (Transition::Unhealthy, Is::Ready) => Is::Unhealthy,
            (Transition::Paused, Is::Running) => Is::Paused { was_ready: false, is_asleep: false },
            (Transition::Paused, Is::Ready | Is::Unhealthy | Is::Paused { is_asleep: true, .. }) => {
                Is::Paused { was_ready: true, is_asleep: false }
            }
            (Transition::Asleep, Is::Ready | Is::Unhealthy | Is::Paused { is_asleep: false, .. }) => {
                Is::Paused { was_ready: true, is_asleep: true }
            }
            (Transition::GoesToSleep, Is::Ready) => Is::Stopping(Next::Sleep),
            (Transition::Resumed, Is::Paused { was_ready, .. }) => {
                if *was_ready {
                    Is::Ready
                } else {
                    Is::Running
                }
            }
            _ => return,
        };
        // A VM that cannot be reached shows nothing about its daemon.
        vm.ran |= !matches!(news, Transition::Unreachable | Transition::Reached);
        vm.drowsy &= !matches!(is, Is::Ready | Is::Paused { .. });
        vm.becomes(now, is);
        self.go_on();
    }

    /// Returns whether the roster shows the phase that the model expects.
    pub(crate) fn agrees(&self, v: usize, phase: &VmPhase) -> bool {
        match (&self.vms[v].is, phase) {
            (Is::Backoff(at), VmPhase::Backoff { until, .. }) => at == until,
            (Is::Stopped, VmPhase::Stopped)
            | (Is::Waiting, VmPhase::Waiting)
            | (Is::Idle { .. }, VmPhase::Idle { is_paused: false })
            | (Is::Paused { is_asleep: true, .. }, VmPhase::Idle { is_paused: true })
            | (Is::Starting, VmPhase::Starting)
            | (Is::Running, VmPhase::Running)
            | (Is::Ready, VmPhase::Ready)
            | (Is::Unhealthy, VmPhase::Unhealthy)
            | (Is::Paused { is_asleep: false, .. }, VmPhase::Paused)
            | (Is::Stopping(_), VmPhase::Stopping)
            | (Is::Unknown, VmPhase::Unknown)
            | (Is::Completed, VmPhase::Completed)
            | (Is::Failed, VmPhase::Failed(_)) => true,
            _ => false,
        }
    }
}
