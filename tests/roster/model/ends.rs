//! The consequence of an end in the model (semantics 3 to 6).

use super::*;

impl Model {
    /// Takes in that the VM is gone.
    pub(crate) fn ended(&mut self, v: usize, ending: Ending) {
        let now = self.now;
        if self.promotion_fails(v, &ending) {
            // semantics 8.4: that is no failure of the VM, which is started anew.
            self.wait_or_start(v);
            return self.go_on();
        }
        let vm = &mut self.vms[v];
        vm.ran |= is_of_a_daemon(&ending);
        // semantics 4.4: "the incarnation that just ended had been Ready for reset_after without a break".
        let longest = vm.readies.iter().map(|(since, until)| until.unwrap_or(now) - *since).max();
        if longest.is_some_and(|longest| longest >= vm.spec.restart.reset_after) {
            vm.attempts = 0;
        }
        let drowsy = std::mem::take(&mut vm.drowsy);
        let was_put_to_sleep = drowsy
            && ending.exit() == Some(&Exit::StopRequested)
            && matches!(vm.is, Is::Starting | Is::Running | Is::Ready | Is::Unhealthy);
        match (vm.is.clone(), self.group) {
            (Is::Paused { is_asleep: true, .. } | Is::Stopping(Next::Sleep), _) => self.sleeps_after(v),
            _ if was_put_to_sleep => {
                vm.becomes(now, Is::Stopped);
                self.sleeps_after(v);
            }
            (Is::Stopping(Next::Removed), _) => {
                let vm = self.vms.remove(v);
                self.is_removed(vm);
            }
            (Is::Stopping(Next::Failure), Group::Up) => {
                self.judged(v, Ending::ActorFailed { message: "a test".into() })
            }
            (Is::Stopping(Next::Again), Group::Up) => self.wait_or_start(v),
            (Is::Stopping(Next::Turn), Group::Up) if vm.may_restart() => {
                (vm.is, vm.in_order) = (Is::Waiting, true);
            }
            (Is::Stopping(_), _) => vm.is = Is::Stopped,
            (_, Group::Up) => self.judged(v, ending),
            (_, _) => {
                vm.is = Is::Stopped;
                self.tell(v, Action::Leave, None, false);
            }
        }
        self.go_on();
    }

    /// Returns whether this is the end of a VM whose spare has not taken its place.
    pub(crate) fn promotion_fails(&self, v: usize, ending: &Ending) -> bool {
        let vm = &self.vms[v];
        vm.is == Is::Starting
            && self.promoted.contains(&vm.spec.name)
            && matches!(ending, Ending::NotLaunched { .. })
    }

    /// Judges an end (semantics 3 to 6), from the rules that look at the VM alone to the rules of the group.
    pub(super) fn judged(&mut self, v: usize, ending: Ending) {
        let vm = &mut self.vms[v];
        let restart = vm.spec.restart.clone();
        let aborts = vm.first && vm.spec.start.on_failure == OnStartFailure::Abort;
        // Whatever becomes of it, the next start of the VM is not its first (semantics 1.8).
        vm.first = false;
        let gives_up = match restart.verdict(&ending, vm.ran) {
            Verdict::Complete(_) => {
                let is = vm.at_clean_end(self.now);
                vm.becomes(self.now, is);
                self.tell(v, Action::Complete, None, false);
                return self.shut_down_with(v);
            }
            Verdict::Fail(_) => true,
            Verdict::Restart(_) => {
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
        // semantics 8.2: the first restart has no delay when a spare is there.
        let spared = self.vms[v].attempts <= 1 && self.spared.contains(&self.vms[v].spec.name);
        let backoff = restart.backoff.delay(self.vms[v].attempts, self.draw);
        let mut until = if spared { self.now } else { self.now + backoff };
        let in_set = |round: &Round| round.set.contains(&self.vms[v].spec.name);
        let with_others =
            self.spec.strategy != Strategy::OneForOne || self.round.as_ref().is_some_and(in_set);
        let joined = with_others && self.round.as_ref().is_some_and(|round| round.entered);
        if !joined {
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
        self.tell(v, Action::Restart, Some(until - self.now), joined);
        if with_others {
            let first = if self.spec.strategy == Strategy::OneForAll { 0 } else { v };
            self.take_along(first, until, true);
        }
    }

    /// Returns how many decisions count at `at`: the decisions not older than the period (OTP), and the decisions that
    /// are still to come.
    pub(crate) fn counted(&self, at: Instant) -> usize {
        self.entries.iter().filter(|entry| **entry + self.spec.intensity.period >= at).count()
    }

    /// Returns the first moment at which another decision is allowed.
    pub(super) fn room(&self) -> Instant {
        let leaves = |entry: &Instant| *entry + self.spec.intensity.period + Duration::from_nanos(1);
        let moments = self.entries.iter().map(leaves).filter(|at| *at >= self.now);
        let allowed = |at: &Instant| self.counted(*at) < self.spec.intensity.max_restarts as usize;
        moments.filter(allowed).min().expect("every entry leaves some time")
    }

    pub(super) fn take_along(&mut self, first: usize, not_before: Instant, entered: bool) {
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

    pub(super) fn group_ends(&mut self, v: usize, ended: Ended) {
        let (action, is) = match ended {
            Ended::Escalated => (Action::Escalate, Is::Stopped),
            _ => (Action::StopGroup, Is::Failed),
        };
        self.vms[v].becomes(self.now, is);
        self.tell(v, action, None, false);
        self.go_down(ended);
    }

    pub(super) fn shut_down_with(&mut self, v: usize) {
        let comes_back = |vm: &Vm| {
            let in_set = self.round.as_ref().is_some_and(|round| round.set.contains(&vm.spec.name));
            in_set && vm.is == Is::Completed && vm.may_restart()
        };
        let down = |vm: &Vm| matches!(vm.is, Is::Stopped | Is::Completed | Is::Failed);
        let active = |vm: &Vm| vm.spec.significant && (!down(vm) || comes_back(vm));
        let ends = match self.spec.auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::AnySignificant => true,
            AutoShutdown::AllSignificant => !self.vms.iter().any(active),
        };
        if ends && self.vms[v].spec.significant && !comes_back(&self.vms[v]) {
            self.go_down(Ended::AutoShutdown);
        }
    }

    pub(super) fn tell(&mut self, v: usize, action: Action, delay: Option<Duration>, joined: bool) {
        let window = self.counted(self.now);
        self.told.push(Told { action, attempt: self.vms[v].attempts, delay, joined, window });
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
            self.vms[v].boots = false;
        }
        self.go_on();
    }
}
