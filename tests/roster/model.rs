//! What SUPERVISION says, once more and in other words, as a model to hold the roster against: slow, plain, and without
//! a thought for actors. It counts everything anew from lists that only grow.

use crate::world::name;
use pepita_supervisor::group::{Command, Found};
use pepita_supervisor::journal::{Remembered, Wanted};
use pepita_supervisor::observe::{Action, VmPhase};
use pepita_supervisor::policy::{Cause, Judgement, judge};
use pepita_supervisor::spec::{
    AutoShutdown, GroupSpec, OnGiveUp, OnIntensityExceeded, OnStartFailure, Restart, Strategy, VmName, VmSpec,
};
use pepita_supervisor::vm::News;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Where a VM is (SUPERVISION 2), and where it goes from there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Is {
    Stopped,
    Waiting,
    Starting,
    Running,
    Ready,
    Unhealthy,
    Paused { was_ready: bool },
    Stopping(Next),
    Backoff(Instant),
    Completed,
    Failed,
}

/// What a stop of ours is followed by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Next {
    Down,
    Again,
    Turn,
    Failure,
    Removed,
}

#[derive(Debug, Clone)]
pub(crate) struct Vm {
    pub(crate) spec: VmSpec,
    pub(crate) is: Is,
    pub(crate) wanted: bool,
    pub(crate) attempts: u32,
    pub(crate) incarnation: u64,
    /// When this incarnation became Ready, and when that ended: all of it.
    readies: Vec<(Instant, Option<Instant>)>,
    /// It goes in file order: others wait for it, and it for others.
    in_order: bool,
    /// This is its start with its group.
    first: bool,
    changed: bool,
}

/// A group restart (SUPERVISION 5).
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

/// What an event says of a decision (SUPERVISION 10).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) action: Action,
    pub(crate) attempt: u32,
    pub(crate) delay: Option<Duration>,
    pub(crate) coalesced: bool,
    pub(crate) window: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    spec: GroupSpec,
    pub(crate) vms: Vec<Vm>,
    pub(crate) group: Group,
    round: Option<Round>,
    /// When each restart decision counts, from the beginning.
    entries: Vec<Instant>,
    removed: BTreeMap<VmName, u64>,
    pub(crate) now: Instant,
    pub(crate) draw: f64,
    pub(crate) told: Vec<Told>,
}

impl Vm {
    fn new(spec: VmSpec, incarnation: u64) -> Self {
        Self {
            wanted: spec.autostart,
            spec,
            is: Is::Stopped,
            attempts: 0,
            incarnation,
            readies: Vec::new(),
            in_order: false,
            first: false,
            changed: false,
        }
    }

    /// SUPERVISION 9 and the end of 1.
    fn remembered(spec: VmSpec, memory: &BTreeMap<VmName, Remembered>) -> Self {
        let Some(memory) = memory.get(&spec.name) else { return Self::new(spec, 0) };
        let always = spec.restart.policy == Restart::Always;
        let mut vm = Self::new(spec, memory.incarnation.0);
        vm.attempts = memory.attempts;
        vm.wanted = memory.wanted == Wanted::Up || always && vm.wanted;
        if memory.completed && vm.wanted && !always {
            vm.is = Is::Completed;
        }
        vm
    }

    pub(crate) fn lives(&self) -> bool {
        matches!(
            self.is,
            Is::Starting | Is::Running | Is::Ready | Is::Unhealthy | Is::Paused { .. } | Is::Stopping(_)
        )
    }

    /// It will be Ready, if all goes well, and no timer is needed for that.
    fn comes(&self) -> bool {
        matches!(
            self.is,
            Is::Waiting
                | Is::Starting
                | Is::Running
                | Is::Paused { was_ready: false }
                | Is::Stopping(Next::Again | Next::Turn | Next::Failure)
        )
    }

    fn may_restart(&self) -> bool {
        self.spec.restart.policy != Restart::Never
    }

    fn becomes(&mut self, now: Instant, is: Is) {
        match (&self.is, &is) {
            (Is::Ready, Is::Ready) => {}
            (Is::Ready, _) => self.readies.last_mut().expect("it was Ready").1 = Some(now),
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
        let vms =
            std::mem::take(&mut spec.vms).into_iter().map(|spec| Vm::remembered(spec, memory)).collect();
        let removed = memory.iter().map(|(vm, memory)| (vm.clone(), memory.incarnation.0)).collect();
        let group = Group::Down(None);
        Self { spec, vms, group, round: None, entries: Vec::new(), removed, now, draw: 0.0, told: Vec::new() }
    }

    pub(crate) fn vm(&self, vm: &str) -> usize {
        self.vms.iter().position(|v| v.spec.name == name(vm)).expect("it is in the group")
    }

    pub(crate) fn start(&mut self, found: &BTreeMap<VmName, Found>) {
        self.group = Group::Up;
        for v in 0..self.vms.len() {
            let vm = &mut self.vms[v];
            let Some(found) = found.get(&vm.spec.name) else { continue };
            let old = found.incarnation.0 < vm.incarnation;
            (vm.first, vm.in_order, vm.incarnation) = (false, true, vm.incarnation.max(found.incarnation.0));
            match (&found.ended, vm.wanted) {
                (Some(_), _) if vm.is == Is::Completed => {}
                (Some(_), true) if old => {}
                (Some(cause), true) if self.group == Group::Up => self.judged(v, cause.clone()),
                (Some(_), true) => self.tell(v, Action::Leave, None, false),
                (Some(_), false) => {}
                (None, true) if found.unchanged => vm.is = Is::Starting,
                (None, wanted) => vm.is = Is::Stopping(if wanted { Next::Again } else { Next::Down }),
            }
        }
        for vm in &mut self.vms {
            let down = vm.is == Is::Stopped || vm.is == Is::Failed && !found.contains_key(&vm.spec.name);
            if self.group == Group::Up && vm.wanted && down {
                (vm.is, vm.in_order, vm.first) = (Is::Waiting, true, true);
            }
        }
        self.go_on();
    }

    pub(crate) fn start_afresh(&mut self) {
        self.entries.clear();
        self.vms.iter_mut().for_each(|vm| (vm.is, vm.attempts) = (Is::Stopped, 0));
        self.start(&BTreeMap::new());
    }

    pub(crate) fn news(&mut self, v: usize, news: News) {
        let now = self.now;
        let vm = &mut self.vms[v];
        let is = match (news, &vm.is) {
            (News::Running, Is::Starting | Is::Paused { .. }) => Is::Running,
            (News::Ready, Is::Starting | Is::Running | Is::Unhealthy | Is::Paused { .. }) => Is::Ready,
            (News::Healthy, Is::Unhealthy) => Is::Ready,
            (News::Unhealthy, Is::Ready) => Is::Unhealthy,
            (News::Paused, Is::Running) => Is::Paused { was_ready: false },
            (News::Paused, Is::Ready | Is::Unhealthy) => Is::Paused { was_ready: true },
            (News::Resumed, Is::Paused { was_ready }) => {
                if *was_ready {
                    Is::Ready
                } else {
                    Is::Running
                }
            }
            _ => return,
        };
        vm.becomes(now, is);
        self.go_on();
    }

    /// Its VM is gone.
    pub(crate) fn ended(&mut self, v: usize, cause: Cause) {
        let now = self.now;
        let vm = &mut self.vms[v];
        // 4: "the incarnation that just ended had been Ready for reset_after without a break".
        let longest = vm.readies.iter().map(|(since, until)| until.unwrap_or(now) - *since).max();
        if longest.is_some_and(|longest| longest >= vm.spec.restart.reset_after) {
            vm.attempts = 0;
        }
        match (vm.is.clone(), self.group) {
            (Is::Stopping(Next::Removed), _) => {
                let vm = self.vms.remove(v);
                self.removed.insert(vm.spec.name, vm.incarnation);
            }
            (Is::Stopping(Next::Failure), Group::Up) => self.judged(v, Cause::ActorFailed),
            (Is::Stopping(Next::Again), Group::Up) => self.wait_or_start(v),
            (Is::Stopping(Next::Turn), Group::Up) if vm.may_restart() => {
                (vm.is, vm.in_order) = (Is::Waiting, true);
            }
            (Is::Stopping(_), _) => vm.is = Is::Stopped,
            (_, Group::Up) => self.judged(v, cause),
            (_, _) => {
                vm.is = Is::Stopped;
                self.tell(v, Action::Leave, None, false);
            }
        }
        self.go_on();
    }

    /// SUPERVISION 3 to 6, from the rules that look at the VM alone to those of the group.
    fn judged(&mut self, v: usize, cause: Cause) {
        let vm = &mut self.vms[v];
        let restart = vm.spec.restart.clone();
        let aborts = vm.first && vm.spec.start.on_failure == OnStartFailure::Abort;
        let gives_up = match judge(&restart, &cause) {
            Judgement::Complete(_) => {
                vm.becomes(self.now, Is::Completed);
                self.tell(v, Action::Complete, None, false);
                return self.shut_down_with(v);
            }
            Judgement::Fail(_) => true,
            Judgement::Restart(_) => {
                vm.attempts += 1;
                restart.max_retries > 0 && vm.attempts > restart.max_retries
            }
        };
        if aborts {
            return self.group_ends(v, Ended::Escalated);
        }
        if gives_up {
            if self.vms[v].may_restart() && restart.on_give_up == OnGiveUp::Escalate {
                return self.group_ends(v, Ended::Escalated);
            }
            if self.vms[v].may_restart() && self.spec.strategy == Strategy::OneForAll {
                return self.group_ends(v, Ended::Failed);
            }
            self.vms[v].becomes(self.now, Is::Failed);
            self.tell(v, Action::GiveUp, None, false);
            if self.vms[v].may_restart() && self.spec.strategy == Strategy::RestForOne {
                self.take_along(v + 1, self.now, false);
            }
            return self.shut_down_with(v);
        }
        let mut until = self.now + restart.backoff.delay(self.vms[v].attempts, self.draw);
        let in_set = |round: &Round| round.set.contains(&self.vms[v].spec.name);
        let with_others =
            self.spec.strategy != Strategy::OneForOne || self.round.as_ref().is_some_and(in_set);
        let coalesced = with_others && self.round.as_ref().is_some_and(|round| round.entered);
        if !coalesced {
            let most = self.spec.intensity.max_restarts as usize;
            match self.spec.on_intensity_exceeded {
                _ if self.counted(self.now) < most => self.entries.push(self.now),
                OnIntensityExceeded::Escalate => return self.group_ends(v, Ended::Escalated),
                OnIntensityExceeded::StopGroup => return self.group_ends(v, Ended::Failed),
                OnIntensityExceeded::Delay if most == 0 => return self.group_ends(v, Ended::Failed),
                OnIntensityExceeded::Delay => {
                    let room = self.room();
                    self.entries.push(room);
                    until = until.max(room);
                }
            }
        }
        self.vms[v].becomes(self.now, Is::Backoff(until));
        self.tell(v, Action::Restart, Some(until - self.now), coalesced);
        if with_others {
            let first = if self.spec.strategy == Strategy::OneForAll { 0 } else { v };
            self.take_along(first, until, true);
        }
    }

    /// How many decisions count at `at`: those not older than the period (OTP), and those that are still to come.
    pub(crate) fn counted(&self, at: Instant) -> usize {
        self.entries.iter().filter(|entry| **entry + self.spec.intensity.period >= at).count()
    }

    /// The first moment at which one more decision is allowed.
    fn room(&self) -> Instant {
        let leaves = |entry: &Instant| *entry + self.spec.intensity.period + Duration::from_nanos(1);
        let moments = self.entries.iter().map(leaves).filter(|at| *at >= self.now);
        let allowed = |at: &Instant| self.counted(*at) < self.spec.intensity.max_restarts as usize;
        moments.filter(allowed).min().expect("every entry leaves some time")
    }

    fn take_along(&mut self, first: usize, not_before: Instant, entered: bool) {
        let now = self.now;
        let round = self.round.get_or_insert(Round { set: BTreeSet::new(), not_before: now, entered: false });
        round.entered |= entered;
        round.not_before = round.not_before.max(not_before);
        for vm in &self.vms[first..] {
            round.set.insert(vm.spec.name.clone());
            if let Is::Backoff(until) = vm.is {
                round.not_before = round.not_before.max(until);
            }
        }
    }

    fn group_ends(&mut self, v: usize, ended: Ended) {
        let (action, is) = match ended {
            Ended::Escalated => (Action::Escalate, Is::Stopped),
            _ => (Action::StopGroup, Is::Failed),
        };
        self.vms[v].becomes(self.now, is);
        self.tell(v, action, None, false);
        self.go_down(ended);
    }

    fn shut_down_with(&mut self, v: usize) {
        let active =
            |vm: &Vm| vm.spec.significant && !matches!(vm.is, Is::Stopped | Is::Completed | Is::Failed);
        let ends = match self.spec.auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::AnySignificant => true,
            AutoShutdown::AllSignificant => !self.vms.iter().any(active),
        };
        if ends && self.vms[v].spec.significant {
            self.go_down(Ended::AutoShutdown);
        }
    }

    fn tell(&mut self, v: usize, action: Action, delay: Option<Duration>, coalesced: bool) {
        let window = self.counted(self.now);
        self.told.push(Told { action, attempt: self.vms[v].attempts, delay, coalesced, window });
    }

    pub(crate) fn actor_failed(&mut self, v: usize) {
        let (now, most) = (self.now, self.spec.intensity.max_restarts as usize);
        let stopping = matches!(self.vms[v].is, Is::Stopping(_));
        if self.group == Group::Up && !stopping {
            if self.counted(now) >= most {
                self.vms[v].becomes(now, Is::Stopping(Next::Failure));
                return self.go_on();
            }
            self.entries.push(now);
        }
        self.tell(v, Action::Adopt, None, false);
        if !stopping {
            self.vms[v].becomes(now, Is::Starting);
        }
        self.go_on();
    }

    /// `false`: refused.
    pub(crate) fn command(&mut self, v: usize, command: Command) -> bool {
        let now = self.now;
        let vm = &mut self.vms[v];
        let starts = command != Command::Stop;
        if vm.is == Is::Stopping(Next::Removed) || starts && matches!(self.group, Group::GoingDown(_)) {
            return false;
        }
        match command {
            Command::Stop => {
                vm.wanted = false;
                let is = if vm.lives() { Is::Stopping(Next::Down) } else { Is::Stopped };
                vm.becomes(now, is);
            }
            Command::Reset if vm.is != Is::Failed => vm.attempts = 0,
            Command::Start | Command::Restart | Command::Reset => {
                self.group = Group::Up;
                (vm.wanted, vm.attempts, vm.first) = (true, 0, false);
                let in_set = self.round.as_mut().filter(|round| round.set.contains(&vm.spec.name));
                match (&vm.is, in_set) {
                    (Is::Stopping(_), _) => vm.is = Is::Stopping(Next::Again),
                    _ if vm.lives() => {
                        if command == Command::Restart {
                            vm.becomes(now, Is::Stopping(Next::Again));
                        }
                    }
                    (Is::Waiting, _) => {}
                    (Is::Backoff(_), Some(round)) => {
                        round.not_before = now;
                        (vm.is, vm.in_order) = (Is::Waiting, true);
                    }
                    _ => {
                        vm.in_order = false;
                        self.wait_or_start(v);
                    }
                }
            }
        }
        self.go_on();
        true
    }

    pub(crate) fn reload(&mut self, mut spec: GroupSpec, restart: bool) {
        let mut before = std::mem::take(&mut self.vms);
        let new = std::mem::take(&mut spec.vms);
        self.spec = spec;
        for spec in new {
            if let Some(place) = before.iter().position(|vm| vm.spec.name == spec.name) {
                let mut vm = before.remove(place);
                vm.changed |= vm.lives() && vm.spec.fingerprint() != spec.fingerprint();
                if vm.is == Is::Stopping(Next::Removed) {
                    (vm.wanted, vm.attempts) = (spec.autostart, 0);
                    vm.is = Is::Stopping(if spec.autostart { Next::Again } else { Next::Down });
                }
                vm.spec = spec;
                self.vms.push(vm);
            } else {
                let mut vm = Vm::new(spec, 0);
                vm.incarnation = self.removed.get(&vm.spec.name).copied().unwrap_or(0);
                if let Some(round) = &mut self.round
                    && (self.spec.strategy == Strategy::OneForAll
                        || self.vms.iter().any(|before| round.set.contains(&before.spec.name)))
                {
                    round.set.insert(vm.spec.name.clone());
                }
                if vm.wanted && self.group == Group::Up {
                    (vm.is, vm.in_order) = (Is::Waiting, true);
                }
                self.vms.push(vm);
            }
        }
        if restart && self.group == Group::Up {
            for vm in self.vms.iter_mut().filter(|vm| vm.changed && vm.lives()) {
                if !matches!(vm.is, Is::Stopping(_)) {
                    vm.becomes(self.now, Is::Stopping(Next::Again));
                }
            }
        }
        for mut vm in before {
            vm.wanted = false;
            if vm.lives() {
                vm.becomes(self.now, Is::Stopping(Next::Removed));
                self.vms.push(vm);
            } else {
                self.removed.insert(vm.spec.name.clone(), vm.incarnation);
                if let Some(round) = &mut self.round {
                    round.set.remove(&vm.spec.name);
                }
            }
        }
        self.go_on();
    }

    pub(crate) fn stop(&mut self) {
        self.go_down(Ended::Stopped);
        self.go_on();
    }

    pub(crate) fn destroy(&mut self) {
        self.go_down(Ended::Stopped);
        for vm in self.vms.iter_mut().filter(|vm| vm.lives()) {
            let next = if vm.is == Is::Stopping(Next::Removed) { Next::Removed } else { Next::Down };
            vm.becomes(self.now, Is::Stopping(next));
        }
        self.go_on();
    }

    fn go_down(&mut self, why: Ended) {
        if matches!(self.group, Group::GoingDown(before) if before == Ended::Stopped || why != Ended::Stopped)
        {
            return;
        }
        (self.group, self.round) = (Group::GoingDown(why), None);
        for vm in &mut self.vms {
            if matches!(vm.is, Is::Waiting | Is::Backoff(_)) {
                vm.is = Is::Stopped;
            }
        }
    }

    /// When something happens by itself.
    pub(crate) fn wakes(&self) -> Option<Instant> {
        let in_set = |vm: &Vm| self.round.as_ref().is_some_and(|round| round.set.contains(&vm.spec.name));
        let mut times: Vec<Instant> = Vec::new();
        for vm in self.vms.iter().filter(|vm| !in_set(vm)) {
            if let Is::Backoff(until) = vm.is {
                times.push(until);
            }
        }
        let waits_for_a_stop = self.vms.iter().any(|vm| in_set(vm) && vm.lives());
        times.extend(self.round.iter().filter(|_| !waits_for_a_stop).map(|round| round.not_before));
        if self.group == Group::Up { times.into_iter().min() } else { None }
    }

    /// All that follows by itself at this moment.
    pub(crate) fn go_on(&mut self) {
        if let Group::GoingDown(why) = self.group {
            if self.stop_last_of(&self.vms.iter().map(|vm| vm.spec.name.clone()).collect(), Next::Down) {
                self.group = Group::Down(Some(why));
            }
        }
        if self.group != Group::Up {
            return;
        }
        if let Some(round) = self.round.clone()
            && self.stop_last_of(&round.set, Next::Turn)
            && self.now >= round.not_before
        {
            self.round = None;
            for vm in self.vms.iter_mut().filter(|vm| round.set.contains(&vm.spec.name)) {
                if matches!(vm.is, Is::Backoff(_)) || vm.is == Is::Completed && vm.may_restart() {
                    (vm.is, vm.in_order) = (Is::Waiting, true);
                }
            }
        }
        for v in 0..self.vms.len() {
            let alone = self.round.as_ref().is_none_or(|round| !round.set.contains(&self.vms[v].spec.name));
            if alone && matches!(self.vms[v].is, Is::Backoff(until) if until <= self.now) {
                self.vms[v].in_order = false;
                self.wait_or_start(v);
            }
        }
        while let Some(v) = (0..self.vms.len()).find(|v| self.vms[*v].is == Is::Waiting && self.may_start(*v))
        {
            self.launch(v);
        }
    }

    /// The last live one of the set is stopped when none of them is already. `true`: none lives.
    fn stop_last_of(&mut self, set: &BTreeSet<VmName>, next: Next) -> bool {
        let live = |vm: &&mut Vm| set.contains(&vm.spec.name) && vm.lives();
        let mut live: Vec<&mut Vm> = self.vms.iter_mut().filter(live).collect();
        let stopping = live.iter().any(|vm| matches!(vm.is, Is::Stopping(_)));
        match live.last_mut() {
            None => return true,
            Some(last) if !stopping => last.becomes(self.now, Is::Stopping(next)),
            Some(_) => {}
        }
        false
    }

    fn wait_or_start(&mut self, v: usize) {
        if self.may_start(v) {
            self.launch(v);
        } else {
            (self.vms[v].is, self.vms[v].in_order) = (Is::Waiting, true);
        }
    }

    fn launch(&mut self, v: usize) {
        let vm = &mut self.vms[v];
        (vm.is, vm.changed) = (Is::Starting, false);
        vm.incarnation += 1;
        vm.readies.clear();
    }

    /// Nothing before it is in its way.
    fn may_start(&self, v: usize) -> bool {
        let in_set = |vm: &Vm| self.round.as_ref().is_some_and(|round| round.set.contains(&vm.spec.name));
        let in_the_way = |before: &Vm| match self.spec.strategy {
            Strategy::OneForOne => self.vms[v].in_order && before.in_order && before.comes(),
            Strategy::OneForAll => in_set(before) || before.comes() || matches!(before.is, Is::Backoff(_)),
            Strategy::RestForOne => {
                in_set(before)
                    || before.comes()
                    || matches!(before.is, Is::Backoff(_))
                    || before.is == Is::Failed && before.may_restart()
            }
        };
        !in_set(&self.vms[v]) && !self.vms[..v].iter().any(in_the_way)
    }

    /// The roster shows what the model expects.
    pub(crate) fn agrees(&self, v: usize, phase: &VmPhase) -> bool {
        match (&self.vms[v].is, phase) {
            (Is::Backoff(at), VmPhase::Backoff { until, .. }) => at == until,
            (Is::Stopped, VmPhase::Stopped)
            | (Is::Waiting, VmPhase::Waiting)
            | (Is::Starting, VmPhase::Starting)
            | (Is::Running, VmPhase::Running)
            | (Is::Ready, VmPhase::Ready)
            | (Is::Unhealthy, VmPhase::Unhealthy)
            | (Is::Paused { .. }, VmPhase::Paused)
            | (Is::Stopping(_), VmPhase::Stopping)
            | (Is::Completed, VmPhase::Completed)
            | (Is::Failed, VmPhase::Failed { .. }) => true,
            _ => false,
        }
    }
}
