//! The group's memory and its decisions: who starts when, who is stopped with whom, what follows an end.
//! Knows no actors, no clock and no I/O. Every question comes with the time; every answer is a list of orders.
//!
//! There are no timers in here to be cancelled. [`Roster::wake_at`] says when to ask again, and [`Roster::tick`] does
//! what is due at that moment, judged by the state of that moment: a wake-up that came too late finds nothing to do.

mod adopt;
pub(crate) mod child;
mod command;
mod failure;
pub(crate) mod group_restart;
mod progress;
mod reload;
mod reports;
mod start;

use crate::group::machine::child::{Child, Phase, Then};
use crate::group::machine::group_restart::Round;
use crate::group::order::{At, End, Order};
use crate::journal::{Remembered, Wanted};
use crate::observe::{Action, Change, Decision, VmPhase};
use crate::policy::{Ending, Window};
use crate::spec::{GroupName, GroupSpec, Incarnation, Restart, VmName, VmSpec};
use crate::vm::Mode;
use std::collections::BTreeMap;
use std::time::Instant;

/// Whether the group as a whole is up.
#[derive(Debug, Clone, PartialEq)]
enum Stage {
    /// It keeps its children up.
    Up,
    /// Its children are being stopped, last first; then it ends.
    GoingDown(End),
    /// Nothing of it runs.
    Down,
}

/// The group's memory.
#[derive(Debug, Clone)]
pub struct Roster {
    /// The group's own settings; its VMs live in `children`.
    spec: GroupSpec,
    children: Vec<Child>,
    window: Window,
    round: Option<Round>,
    stage: Stage,
    ready_told: bool,
    last_epoch: u64,
    /// The last known incarnations of VMs that are not there: should one come back, its numbers go on.
    retired: BTreeMap<VmName, Incarnation>,
    orders: Vec<Order>,
}

impl Roster {
    /// A group that is down, with what a previous run left of it.
    pub fn new(mut spec: GroupSpec, memory: &BTreeMap<VmName, Remembered>) -> Self {
        let children = std::mem::take(&mut spec.vms)
            .into_iter()
            .map(|vm| {
                let mut child = Child::new(vm);
                if let Some(remembered) = memory.get(child.name()) {
                    child.incarnation = remembered.incarnation;
                    child.attempts = remembered.attempts;
                    // "always" is the one policy that brings back what the operator had stopped.
                    if remembered.wanted == Wanted::Down && child.spec.restart.policy != Restart::Always {
                        child.wanted = Wanted::Down;
                    } else if remembered.wanted == Wanted::Up {
                        child.wanted = Wanted::Up;
                    }
                    child.saved = Some(remembered.clone());
                    let stays = child.wanted == Wanted::Up && child.spec.restart.policy != Restart::Always;
                    if remembered.completed && stays {
                        child.phase = Phase::Completed;
                    }
                    if let Some(reason) = remembered.failed.clone() {
                        child.phase = Phase::Failed { reason };
                    }
                }
                child
            })
            .collect();
        Self {
            spec,
            children,
            window: Window::new(),
            round: None,
            stage: Stage::Down,
            ready_told: false,
            last_epoch: 0,
            retired: memory.iter().map(|(vm, remembered)| (vm.clone(), remembered.incarnation)).collect(),
            orders: Vec::new(),
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, at: At) -> Vec<Order> {
        self.finish(at.now)
    }

    /// Takes the group down, last started first.
    pub fn stop(&mut self, at: At) -> Vec<Order> {
        self.go_down(End::Stopped);
        self.finish(at.now)
    }

    /// Ends everything of the group at once.
    pub fn destroy(&mut self, at: At) -> Vec<Order> {
        self.go_down(End::Stopped);
        for index in 0..self.children.len() {
            if self.children[index].phase.is_live() {
                let then = match self.children[index].phase {
                    Phase::Stopping { then: Then::Forget } => Then::Forget,
                    _ => Then::Stay,
                };
                self.children[index].note_ready(at.now);
                self.set(index, Phase::Stopping { then }, None, None);
                let (vm, epoch) = (self.children[index].name().clone(), self.children[index].epoch);
                self.orders.push(Order::Destroy { vm, epoch });
            }
        }
        self.finish(at.now)
    }

    /// When to ask again, if nothing happens before.
    pub fn wake_at(&self) -> Option<Instant> {
        if self.stage != Stage::Up {
            return None;
        }
        // While its members are being stopped, a group restart goes on when they are down.
        let stopping = self.children.iter().any(|child| child.in_round && child.phase.is_live());
        let round = self.round.filter(|_| !stopping).map(|round| round.deadline);
        let alone = self.children.iter().filter_map(|child| match child.phase {
            Phase::Backoff { until, .. } if !child.in_round => Some(until),
            _ => None,
        });
        alone.chain(round).min()
    }

    /// The group's name.
    pub fn name(&self) -> &GroupName {
        &self.spec.name
    }

    /// The window, for people.
    pub fn window(&self) -> String {
        self.window.describe(self.spec.intensity)
    }

    /// The VMs in start order, with their phase.
    pub fn phases(&self) -> impl Iterator<Item = (&VmName, VmPhase)> {
        self.children.iter().map(|child| (child.name(), child.phase.shown()))
    }

    /// The specification in force for a VM.
    pub fn vm(&self, name: &VmName) -> Option<&VmSpec> {
        self.find(name).map(|index| &self.children[index].spec)
    }

    /// The number of the actor that owns a VM at the moment, if one does.
    pub fn epoch(&self, name: &VmName) -> Option<u64> {
        let child = &self.children[self.find(name)?];
        child.phase.is_live().then_some(child.epoch)
    }

    /// What onlookers see of a VM beside its phase: incarnation, attempts, wanted, needs restart.
    pub fn facts(&self, name: &VmName) -> Option<(Incarnation, u32, Wanted, bool)> {
        Some(self.children[self.find(name)?].facts())
    }

    /// All that onlookers see of the VMs, in start order.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&VmName, VmPhase, (Incarnation, u32, Wanted, bool))> {
        self.children.iter().map(|child| (child.name(), child.phase.shown(), child.facts()))
    }

    /// VMs that are to stay down, and so need no CID.
    pub(crate) fn at_rest(&self) -> Vec<VmName> {
        let stays = |child: &&Child| {
            child.phase.is_at_rest() && (child.wanted == Wanted::Down || child.phase != Phase::Stopped)
        };
        self.children.iter().filter(stays).map(|child| child.name().clone()).collect()
    }

    /// What the journal keeps of a VM.
    pub fn remember(&self, name: &VmName) -> Option<Remembered> {
        Some(self.children[self.find(name)?].remember())
    }

    /// Nothing of the group runs or will by itself.
    pub fn is_down(&self) -> bool {
        self.stage == Stage::Down
    }

    fn find(&self, vm: &VmName) -> Option<usize> {
        self.children.iter().position(|child| child.name() == vm)
    }

    /// The child whose present actor has this number.
    fn current(&self, vm: &VmName, epoch: u64) -> Option<usize> {
        self.find(vm).filter(|index| {
            let child = &self.children[*index];
            child.epoch == epoch && child.phase.is_live()
        })
    }

    /// It waits for its turn.
    fn enqueue(&mut self, index: usize, ending: Option<Ending>) {
        self.children[index].sequenced = true;
        self.set(index, Phase::Waiting, ending, None);
    }

    fn launch(&mut self, index: usize) {
        let child = &mut self.children[index];
        child.incarnation = child.incarnation.next();
        (child.needs_restart, child.ready_for) = (false, None);
        self.set(index, Phase::Starting, None, None);
        self.spawn(index, Mode::Launch);
    }

    fn spawn(&mut self, index: usize, mode: Mode) {
        self.last_epoch += 1;
        let child = &mut self.children[index];
        (child.epoch, child.boots) = (self.last_epoch, mode == Mode::Launch);
        let (vm, incarnation, epoch) = (child.name().clone(), child.incarnation, child.epoch);
        self.orders.push(Order::Spawn { vm, incarnation, epoch, mode });
    }

    fn order_stop(&mut self, now: Instant, index: usize, then: Then) {
        let child = &mut self.children[index];
        child.note_ready(now);
        match child.phase {
            // What is to be forgotten stays so.
            Phase::Stopping { then: Then::Forget } => {}
            Phase::Stopping { .. } => child.phase = Phase::Stopping { then },
            _ => {
                self.set(index, Phase::Stopping { then }, None, None);
                self.tell_to_stop(index);
            }
        }
    }

    fn tell_to_stop(&mut self, index: usize) {
        let (vm, epoch) = (self.children[index].name().clone(), self.children[index].epoch);
        self.orders.push(Order::Stop { vm, epoch });
    }

    /// The one place where a child changes what onlookers see of it. Its CID is free when it is down for good.
    fn set(&mut self, index: usize, to: Phase, ending: Option<Ending>, decision: Option<Decision>) {
        let child = &mut self.children[index];
        let frees = to.is_at_rest() && !child.phase.is_at_rest();
        let from = std::mem::replace(&mut child.phase, to).shown();
        let to = child.phase.shown();
        let (vm, incarnation) = (child.name().clone(), child.incarnation);
        if from != to || decision.is_some() {
            self.orders.push(Order::Tell(Change { vm: vm.clone(), incarnation, from, to, ending, decision }));
        }
        if frees {
            self.orders.push(Order::Release(vm));
        }
    }

    fn decision(&self, index: usize, action: Action, rule: String) -> Decision {
        Decision {
            action,
            rule,
            delay: None,
            attempt: self.children[index].attempts,
            window: self.window(),
            coalesced: false,
        }
    }

    /// Brings everything to where it belongs at this moment, and hands out the orders.
    fn finish(&mut self, now: Instant) -> Vec<Order> {
        self.settle(now);
        // First written down, then done: an incarnation's number is never used twice, even after a crash in between.
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
