//! The group's memory and its decisions: the order of starts, the VMs that are stopped together, the consequence of an
//! end. Knows no actors, no clock and no I/O. Every question comes with the time; every answer is a list of orders.
//!
//! The roster has no timers that would have to be cancelled. [`Roster::wake_at`] returns the moment at which to ask
//! again, and [`Roster::tick`] does the work that is due then, judged by the state at that moment: a wake-up that came
//! too late finds no work.
//!
//! The group ([`Stage`]):
//!
//! ```text
//!                 start                      stop, escalation,
//!                 resume                     failure, auto-shutdown
//!   Waiting ─────────────────────────▶ Up ─────────────────────────▶ GoingDown
//!      │  the groups that it comes     ▲                                 │
//!      │  after are not Ready          │ start afresh,                   │ the last VM is
//!      │                               │ the operator's start            │ confirmed gone
//!      └─────────── stop ──────────▶ GoingDown ──▶ Down ◀────────────────┘
//! ```
//!
//! A child ([`child::Phase`]; what is in brackets is a [`child::RunState`]):
//!
//! ```text
//!   AwaitingGroup ──group starts──▶ AwaitingTurn ◀────────────── Backoff
//!                                       │      its own delay is over, ▲
//!                            its turn   ▼      or the group restart's │ restart
//!                                 Live [Starting ─▶ Running ─▶ Ready ⇄ Unhealthy]
//!                                      [ any of them but Starting ⇄ Paused      ]
//!                                      [ any of them ─▶ Unknown ─▶ Starting     ]
//!                                      [ all of them ─▶ Stopping                ]
//!                                       │ ends by itself         │ a stop is done
//!                                       ▼                        ▼
//!                     Backoff, Completed, Failed, Stopped   Stopped, AwaitingTurn, Live, removed
//! ```
//!
//! `Idle` is entered in place of `AwaitingTurn` at the start of the group, in place of `Completed` (`start.on`), and after a
//! stop that puts the child to sleep (`idle`); it is left for `AwaitingTurn` or `Live` when a client comes. `Stopped`,
//! `Completed` and `Failed` are left by an operator, by the next start of the group or, `Completed` alone, by
//! a group restart. A child for which a warm spare is ready is not booted: the spare becomes the child (see `spares`).

mod adopt;
mod child;
mod command;
mod failure;
mod group_restart;
mod idle;
mod reload;
mod spare;
mod spares;
mod start;
mod stop;
mod transition;

use crate::group::order::{Found, Order, VmView};
use crate::journal::Remembered;
use crate::observe::Change;
use crate::policy::{At, Decision, Ending, GroupEnd, Window, WindowCount};
use crate::spec::{GroupName, GroupSpec, Incarnation, Strategy, VmName, VmSpec};
use crate::vm::Mode;
use child::{Child, Phase};
use spare::Spares;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// The stage of the group as a whole.
#[derive(Debug, Clone, PartialEq)]
enum Stage {
    /// The group waits to be started: the groups that it comes after are not Ready. VMs that run already are adopted
    /// meanwhile; none is restarted.
    Waiting {
        /// VMs that run with another configuration, or ended while no supervisor watched: they are judged at the start.
        found: BTreeMap<VmName, Found>,
        /// VMs that gave up meanwhile: the start of the group is no reason to try them again.
        gave_up: BTreeSet<VmName>,
    },
    /// The group keeps its children up.
    Up {
        /// Whether the host was told that the group is Ready.
        ready_told: bool,
    },
    /// The children are being stopped, in reverse order; then the group is down.
    GoingDown { end: GroupEnd },
    /// No VM of the group runs.
    Down { end: GroupEnd },
}

/// The one group restart that can be under way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GroupRestart {
    /// The members start at this moment, or when all of them are down if that is later.
    deadline: Instant,
    /// Whether the restart has its entry in the window. A restart that only stops the children behind a child that gave
    /// up has none.
    counted: bool,
    /// The VMs that take part.
    members: BTreeSet<VmName>,
}

/// The group's memory.
#[derive(Debug, Clone)]
pub struct Roster {
    /// The settings of the group; its VMs are in `children`.
    spec: GroupSpec,
    /// The VMs, in start order.
    children: Vec<Child>,
    window: Window,
    group_restart: Option<GroupRestart>,
    spares: Spares,
    stage: Stage,
    last_epoch: u64,
    /// The last known incarnations of VMs that are absent: should such a VM come back, its numbers go on.
    retired: BTreeMap<VmName, Incarnation>,
    orders: Vec<Order>,
}

impl Roster {
    /// Makes a group that waits to be started, from the state that a previous run left.
    pub fn new(mut spec: GroupSpec, memory: &BTreeMap<VmName, Remembered>) -> Self {
        let child = |vm: Arc<VmSpec>| {
            let mut child = match memory.get(&vm.name) {
                Some(remembered) => Child::remembered(vm, remembered),
                None => Child::new(vm),
            };
            child.await_group();
            child
        };
        // `collect` would keep the children in the allocation of the specifications, which is twice as large.
        let mut children = Vec::with_capacity(spec.vms.len());
        children.extend(std::mem::take(&mut spec.vms).into_iter().map(Arc::new).map(child));
        let own: BTreeSet<&VmName> = children.iter().map(Child::name).collect();
        let absent = memory.iter().filter(|(vm, _)| !own.contains(vm));
        let retired = absent.map(|(vm, remembered)| (vm.clone(), remembered.incarnation)).collect();
        Self {
            children,
            spec,
            window: Window::new(),
            group_restart: None,
            spares: Spares::default(),
            stage: Stage::Waiting { found: BTreeMap::new(), gave_up: BTreeSet::new() },
            last_epoch: 0,
            retired,
            orders: Vec::new(),
        }
    }

    /// Makes a group that is down, from the state that its former actor left.
    pub fn ended(spec: GroupSpec, memory: &BTreeMap<VmName, Remembered>, end: GroupEnd) -> Self {
        let mut roster = Self::new(spec, memory);
        roster.stage = Stage::Down { end };
        for child in roster.children.iter_mut().filter(|child| child.phase == Phase::AwaitingGroup) {
            child.phase = Phase::Stopped;
        }
        roster
    }

    /// Does the work that is due.
    pub fn tick(&mut self, at: At) -> Vec<Order> {
        self.finish(at.now)
    }

    /// Returns the moment at which to call [`Roster::tick`], if no event comes before.
    pub fn wake_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Up { .. } => {}
            Stage::Waiting { .. } | Stage::GoingDown { .. } | Stage::Down { .. } => return None,
        }
        // While its members are being stopped, a group restart goes on when they are down.
        let stopping = self.children.iter().any(|child| self.is_restarting(child) && child.phase.is_live());
        let together = self.group_restart.as_ref().filter(|_| !stopping).map(|restart| restart.deadline);
        let alone = self.children.iter().filter(|child| !self.is_restarting(child));
        let alone = alone.filter_map(|child| match child.phase {
            Phase::Backoff { until, .. } => Some(until),
            Phase::Idle { .. } => child.phase.wakes_at().flatten(),
            Phase::Stopped
            | Phase::AwaitingGroup
            | Phase::AwaitingTurn { .. }
            | Phase::Live(_)
            | Phase::Completed
            | Phase::Failed(_) => None,
        });
        alone.chain(together).chain(self.spares_wake_at()).min()
    }

    /// Returns the group's name.
    pub fn name(&self) -> &GroupName {
        &self.spec.name
    }

    /// Returns the group's strategy.
    pub fn strategy(&self) -> Strategy {
        self.spec.strategy
    }

    /// Returns the groups that this one comes after.
    pub fn after(&self) -> &[GroupName] {
        &self.spec.after
    }

    /// Returns how full the restart window is.
    pub fn window(&self, now: Instant) -> WindowCount {
        self.window.count(now, self.spec.intensity)
    }

    /// Returns how the group ended, while it is down.
    pub fn end(&self) -> Option<&GroupEnd> {
        match &self.stage {
            Stage::Down { end } => Some(end),
            Stage::Waiting { .. } | Stage::Up { .. } | Stage::GoingDown { .. } => None,
        }
    }

    /// Returns the names of the VMs in start order.
    pub fn names(&self) -> Vec<VmName> {
        self.children.iter().map(|child| child.name().clone()).collect()
    }

    /// Returns the VMs as observers see them, in start order.
    pub fn views(&self) -> impl Iterator<Item = VmView<'_>> {
        self.children.iter().map(view)
    }

    /// Returns the VM as observers see it.
    pub fn view(&self, name: &VmName) -> Option<VmView<'_>> {
        self.find(name).map(|index| view(&self.children[index]))
    }

    /// Returns the VMs in start order, with their phase.
    #[cfg(feature = "test-hooks")]
    pub fn phases(&self) -> impl Iterator<Item = (&VmName, crate::observe::VmPhase)> {
        self.children.iter().map(|child| (child.name(), child.phase.view()))
    }

    /// Returns the specification in force for a VM.
    pub fn vm(&self, name: &VmName) -> Option<&Arc<VmSpec>> {
        self.find(name).map(|index| &self.children[index].spec)
    }

    /// Returns the number of the actor that owns a VM at the moment, if one does.
    pub fn epoch(&self, name: &VmName) -> Option<u64> {
        self.children[self.find(name)?].phase.run().map(|run| run.epoch)
    }

    /// Returns the VMs that are down, stay down and were not found running: they need no CID.
    pub(crate) fn at_rest(&self) -> Vec<VmName> {
        let runs = |vm: &VmName| match &self.stage {
            Stage::Waiting { found, .. } => found.get(vm).is_some_and(|found| found.ended.is_none()),
            Stage::Up { .. } | Stage::GoingDown { .. } | Stage::Down { .. } => false,
        };
        let rests = |child: &&Child| child.phase.is_at_rest() && !child.may_run_on && !runs(child.name());
        self.children.iter().filter(rests).map(|child| child.name().clone()).collect()
    }

    /// Returns the VMs that are down and are to be started.
    pub(crate) fn to_come(&self) -> impl Iterator<Item = &Arc<VmSpec>> {
        let comes = |child: &&Child| child.phase.is_to_come();
        self.children.iter().filter(comes).map(|child| &child.spec)
    }

    /// Returns the state of a VM that the journal keeps.
    pub fn remember(&self, name: &VmName) -> Option<Remembered> {
        Some(self.children[self.find(name)?].remember())
    }

    /// Returns whether the group has ended and none of its VMs runs.
    #[cfg(feature = "test-hooks")]
    pub fn is_down(&self) -> bool {
        self.end().is_some()
    }

    fn is_up(&self) -> bool {
        match self.stage {
            Stage::Up { .. } => true,
            Stage::Waiting { .. } | Stage::GoingDown { .. } | Stage::Down { .. } => false,
        }
    }

    fn find(&self, vm: &VmName) -> Option<usize> {
        self.children.iter().position(|child| child.name() == vm)
    }

    /// Returns the child whose present actor has this number.
    fn current(&self, vm: &VmName, epoch: u64) -> Option<usize> {
        self.find(vm).filter(|index| self.children[*index].phase.run().is_some_and(|run| run.epoch == epoch))
    }

    fn next_epoch(&mut self) -> u64 {
        self.last_epoch += 1;
        self.last_epoch
    }

    /// Orders an actor for the incarnation that the child has.
    fn spawn(&mut self, index: usize, mode: Mode) {
        let child = &self.children[index];
        if let Some(run) = child.phase.run() {
            let (vm, incarnation, epoch) = (child.name().clone(), child.incarnation, run.epoch);
            self.orders.push(Order::Spawn { vm, incarnation, epoch, mode });
        }
    }

    /// Changes the phase of a child. Every change that observers see is made here. The CID of a child is free when the
    /// child is down for good.
    fn set(&mut self, index: usize, to: Phase, ending: Option<Ending>, decision: Option<Decision>) {
        let child = &mut self.children[index];
        let frees = to.is_at_rest() && !child.may_run_on && !child.phase.is_at_rest();
        let falls_asleep = matches!((&child.phase, &to), (before, Phase::Idle { .. }) if !before.is_idle());
        let from = std::mem::replace(&mut child.phase, to).view();
        let to = child.phase.view();
        let (vm, incarnation) = (child.name().clone(), child.incarnation);
        if from != to || decision.is_some() {
            self.orders.push(Order::Tell(Change {
                vm: vm.clone(),
                incarnation,
                from,
                to,
                ending,
                decision,
                probe: None,
                timings: None,
            }));
        }
        if frees {
            self.orders.push(Order::Release(vm));
        } else if falls_asleep {
            self.orders.push(Order::AwaitClient(vm));
        }
    }

    /// Brings the group to the state that belongs to this moment, and hands out the orders.
    ///
    /// The orders follow from the state alone, not from the event that led to it, so that no order of events can leave
    /// the group behind.
    fn finish(&mut self, now: Instant) -> Vec<Order> {
        match &self.stage {
            Stage::Down { .. } => {}
            Stage::GoingDown { .. } => self.stop_next(now),
            // Only a VM that an operator has started awaits its turn in this stage.
            Stage::Waiting { .. } => self.start_in_turn(),
            Stage::Up { .. } => {
                self.advance_group_restart(now);
                self.start_what_is_due(now);
                self.wake_what_is_called(now);
                self.start_in_turn();
                self.tell_ready();
            }
        }
        self.tend_spares(now);
        // The incarnation is saved before it is used: its number is never used twice, even after a crash in between.
        let mut orders = Vec::new();
        for child in &mut self.children {
            let memory = Some(child.remember());
            if child.saved != memory {
                child.saved = memory;
                orders.push(Order::Save(child.name().clone()));
            }
        }
        orders.append(&mut self.orders);
        orders
    }
}

fn view(child: &Child) -> VmView<'_> {
    VmView {
        name: child.name(),
        phase: child.phase.view(),
        incarnation: child.incarnation,
        attempts: child.attempts,
        wanted: child.wanted,
        needs_restart: child.phase.run().is_some_and(|run| run.outdated),
        vmm: child.spec.machine.vmm,
    }
}
