//! The group's memory and its decisions: who starts when, who is stopped with whom, what follows an end.
//! Knows no actors, no clock and no I/O. Every question comes with the time; every answer is a list of orders.
//!
//! There are no timers in here to be cancelled. [`Roster::wake_at`] says when to ask again, and [`Roster::tick`] does
//! what is due at that moment, judged by the state of that moment: a wake-up that came too late finds nothing to do.

mod ends;
mod reload;
mod settle;
mod takeover;

use crate::group::child::{Child, Phase, Then};
use crate::group::order::{At, Command, End, Found, Order, Refused};
use crate::group::round::Round;
use crate::journal::{Remembered, Wanted};
use crate::observe::{Action, Change, Decision, VmPhase};
use crate::policy::{Cause, Window};
use crate::spec::{GroupName, GroupSpec, Incarnation, Restart, VmName, VmSpec};
use crate::vm::{Mode, News};
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
                    if remembered.completed && child.spec.restart.policy != Restart::Always {
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
            orders: Vec::new(),
        }
    }

    /// Brings the group up: takes over what runs already, starts the rest in order.
    pub fn start(&mut self, at: At, found: &BTreeMap<VmName, Found>) -> Vec<Order> {
        self.stage = Stage::Up;
        self.ready_told = false;
        for index in 0..self.children.len() {
            let child = &mut self.children[index];
            child.first_start |= !child.phase.is_live();
            match found.get(child.name()) {
                Some(found) if !child.phase.is_live() => self.take_over(at, index, found),
                // The operator may have started one while the group waited.
                None if child.wanted == Wanted::Up && child.may_start() => self.enqueue(index),
                Some(_) | None => {}
            }
        }
        self.finish(at.now)
    }

    /// Brings the group up after it was escalated: no failures, empty window.
    pub fn start_afresh(&mut self, at: At) -> Vec<Order> {
        self.window.clear();
        for index in 0..self.children.len() {
            self.children[index].attempts = 0;
            if matches!(self.children[index].phase, Phase::Failed { .. }) {
                self.set(index, Phase::Stopped, None, None);
            }
        }
        self.start(at, &BTreeMap::new())
    }

    fn take_over(&mut self, at: At, index: usize, found: &Found) {
        let child = &mut self.children[index];
        child.incarnation = child.incarnation.max(found.incarnation);
        match (&found.ended, child.wanted) {
            (Some(cause), Wanted::Up) => {
                // It ended while nobody looked: judged like any other end, once.
                child.phase = Phase::Running;
                self.judge_end(at, index, cause.clone());
            }
            (Some(_), Wanted::Down) => {}
            (None, Wanted::Up) if found.unchanged => {
                self.set(index, Phase::Starting, None, None);
                self.spawn(index, Mode::Adopt);
            }
            (None, wanted) => {
                let then = if wanted == Wanted::Up { Then::Start } else { Then::Stay };
                self.set(index, Phase::Starting, None, None);
                self.spawn(index, Mode::Adopt);
                self.order_stop(index, then);
            }
        }
    }

    /// Does what an operator asks.
    ///
    /// # Errors
    /// When there is no such VM or the group is going down.
    pub fn command(&mut self, at: At, vm: &VmName, command: Command) -> Result<Vec<Order>, Refused> {
        let index = self.find(vm).ok_or_else(|| Refused::NoSuchVm(vm.to_string()))?;
        match (&self.stage, command) {
            (Stage::GoingDown(_), Command::Start | Command::Restart | Command::Reset) => {
                return Err(Refused::Stopping);
            }
            (Stage::Down, Command::Start | Command::Restart | Command::Reset) => {
                // The operator brings a group that had ended back, with this VM alone.
                self.stage = Stage::Up;
                self.ready_told = false;
            }
            (Stage::Up | Stage::GoingDown(_) | Stage::Down, _) => {}
        }
        match command {
            Command::Start => self.operator_start(index),
            Command::Stop => self.operator_stop(index),
            Command::Restart => {
                if self.children[index].phase.is_live() {
                    self.children[index].wanted = Wanted::Up;
                    self.children[index].attempts = 0;
                    self.order_stop(index, Then::Start);
                } else {
                    self.operator_start(index);
                }
            }
            Command::Reset => {
                self.children[index].attempts = 0;
                if matches!(self.children[index].phase, Phase::Failed { .. }) {
                    self.operator_start(index);
                }
            }
        }
        self.orders.push(Order::Save(vm.clone()));
        Ok(self.finish(at.now))
    }

    fn operator_start(&mut self, index: usize) {
        let child = &mut self.children[index];
        child.wanted = Wanted::Up;
        child.attempts = 0;
        match child.phase {
            Phase::Stopping { then: Then::Forget } => {}
            Phase::Stopping { .. } => child.phase = Phase::Stopping { then: Then::Start },
            _ if child.phase.is_live() => {}
            _ => self.launch(index, None),
        }
    }

    fn operator_stop(&mut self, index: usize) {
        let child = &mut self.children[index];
        child.wanted = Wanted::Down;
        if child.phase.is_live() {
            self.order_stop(index, Then::Stay);
        } else if !matches!(child.phase, Phase::Stopped) {
            self.set(index, Phase::Stopped, None, None);
            self.release(index);
        }
    }

    /// Takes in what a VM actor reports; reports of former actors are dropped.
    pub fn news(&mut self, at: At, vm: &VmName, epoch: u64, news: News) -> Vec<Order> {
        let Some(index) = self.current(vm, epoch) else { return Vec::new() };
        let child = &mut self.children[index];
        let next = match (&child.phase, news) {
            (Phase::Starting, News::Running) => Phase::Running,
            (Phase::Starting | Phase::Running, News::Ready)
            | (Phase::Unhealthy, News::Healthy | News::Ready) => {
                child.sequenced = false;
                child.first_start = false;
                Phase::Ready { since: at.now }
            }
            (Phase::Ready { .. } | Phase::Running, News::Unhealthy) => Phase::Unhealthy,
            (Phase::Running | Phase::Ready { .. } | Phase::Unhealthy, News::Paused) => {
                Phase::Paused { ready_since: child.ready_since() }
            }
            (Phase::Paused { ready_since: Some(since) }, News::Resumed) => Phase::Ready { since: *since },
            (Phase::Paused { ready_since: None }, News::Resumed) => Phase::Running,
            // Told again, or overtaken by a stop.
            (
                _,
                News::Running | News::Ready | News::Unhealthy | News::Healthy | News::Paused | News::Resumed,
            ) => {
                return Vec::new();
            }
        };
        self.set(index, next, None, None);
        self.finish(at.now)
    }

    /// Takes in that a VM is gone, confirmed.
    pub fn ended(&mut self, at: At, vm: &VmName, epoch: u64, cause: Cause) -> Vec<Order> {
        let Some(index) = self.current(vm, epoch) else { return Vec::new() };
        self.judge_end(at, index, cause);
        self.finish(at.now)
    }

    /// Takes in that a VM's actor has failed. The VM itself did not notice: a new actor takes it over.
    pub fn actor_failed(&mut self, at: At, vm: &VmName, epoch: u64, why: &str) -> Vec<Order> {
        let Some(index) = self.current(vm, epoch) else { return Vec::new() };
        let stopping = match self.children[index].phase {
            Phase::Stopping { then } => Some(then),
            _ => None,
        };
        match self.window.admit(at.now, self.spec.intensity) {
            Err(exceeded) if stopping.is_none() => {
                self.escalate(index, &Cause::ActorFailed, exceeded.to_string());
                // Somebody must still take its VM down.
                self.spawn(index, Mode::Adopt);
            }
            _ => {
                let decision = self.decision(index, Action::Adopt, format!("its actor failed: {why}"));
                let phase = Phase::Starting;
                self.set(index, phase, Some(Cause::ActorFailed), Some(decision));
                self.spawn(index, Mode::Adopt);
                if let Some(then) = stopping {
                    self.order_stop(index, then);
                }
            }
        }
        self.finish(at.now)
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
        let round = self.round.as_ref().filter(|r| r.stage == crate::group::round::Stage::Delay);
        let alone = self.children.iter().enumerate().filter_map(|(index, child)| match child.phase {
            Phase::Backoff { until, .. } if !self.in_round(index) => Some(until),
            _ => None,
        });
        alone.chain(round.map(|r| r.deadline)).min()
    }

    fn in_round(&self, index: usize) -> bool {
        self.round.as_ref().is_some_and(|round| index >= round.first)
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
        let child = &self.children[self.find(name)?];
        Some((child.incarnation, child.attempts, child.wanted, child.needs_restart))
    }

    /// What the journal keeps of a VM.
    pub fn remember(&self, name: &VmName) -> Option<Remembered> {
        let child = &self.children[self.find(name)?];
        Some(Remembered {
            incarnation: child.incarnation,
            wanted: child.wanted,
            attempts: child.attempts,
            completed: matches!(child.phase, Phase::Completed),
            failed: match &child.phase {
                Phase::Failed { reason } => Some(reason.clone()),
                _ => None,
            },
        })
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

    fn enqueue(&mut self, index: usize) {
        self.children[index].sequenced = true;
        self.set(index, Phase::Waiting, None, None);
    }

    fn launch(&mut self, index: usize, decision: Option<Decision>) {
        let child = &mut self.children[index];
        child.incarnation = child.incarnation.next();
        child.needs_restart = false;
        self.set(index, Phase::Starting, None, decision);
        self.spawn(index, Mode::Launch);
    }

    fn spawn(&mut self, index: usize, mode: Mode) {
        self.last_epoch += 1;
        let child = &mut self.children[index];
        child.epoch = self.last_epoch;
        let (vm, incarnation, epoch) = (child.name().clone(), child.incarnation, child.epoch);
        // First written down, then done: an incarnation's number is never used twice, even after a crash in between.
        self.orders.push(Order::Save(vm.clone()));
        self.orders.push(Order::Spawn { vm, incarnation, epoch, mode });
    }

    fn order_stop(&mut self, index: usize, then: Then) {
        let child = &mut self.children[index];
        let (vm, epoch) = (child.name().clone(), child.epoch);
        match child.phase {
            // What is to be forgotten stays so.
            Phase::Stopping { then: Then::Forget } => {}
            Phase::Stopping { .. } => child.phase = Phase::Stopping { then },
            _ => {
                self.set(index, Phase::Stopping { then }, None, None);
                self.orders.push(Order::Stop { vm, epoch });
            }
        }
    }

    fn release(&mut self, index: usize) {
        let vm = self.children[index].name().clone();
        self.orders.push(Order::Release(vm));
    }

    fn set(&mut self, index: usize, to: Phase, cause: Option<Cause>, decision: Option<Decision>) {
        let child = &mut self.children[index];
        let from = std::mem::replace(&mut child.phase, to).shown();
        let to = child.phase.shown();
        if from == to && decision.is_none() {
            return;
        }
        let (vm, incarnation) = (child.name().clone(), child.incarnation);
        self.orders.push(Order::Tell(Change { vm, incarnation, from, to, cause, decision }));
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
        std::mem::take(&mut self.orders)
    }
}
