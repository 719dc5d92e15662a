//! The steps that follow in the model without a command or an event: turns, deadlines, stops one by one (semantics 5 to
//! 7).

use super::*;

impl Model {
    /// Returns the next moment at which a step follows.
    pub(crate) fn wakes(&self) -> Option<Instant> {
        let in_set = |vm: &Vm| self.round.as_ref().is_some_and(|round| round.set.contains(&vm.spec.name));
        let mut times: Vec<Instant> = Vec::new();
        for vm in self.vms.iter().filter(|vm| !in_set(vm)) {
            match vm.is {
                Is::Backoff(until) => times.push(until),
                Is::Idle { not_before, is_called: true } => times.extend(not_before),
                _ => {}
            }
        }
        let waits_for_a_stop = self.vms.iter().any(|vm| in_set(vm) && vm.lives());
        times.extend(self.round.iter().filter(|_| !waits_for_a_stop).map(|round| round.not_before));
        if self.group == Group::Up { times.into_iter().min() } else { None }
    }

    /// Takes all steps that follow at this moment.
    pub(crate) fn go_on(&mut self) {
        let all = self.vms.iter().map(|vm| vm.spec.name.clone()).collect();
        if let Group::GoingDown(why) = self.group
            && self.stop_last_of(&all, Next::Down)
            && !self.has_spares
        {
            self.group = Group::Down(Some(why));
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
        self.wake();
        while let Some(v) = (0..self.vms.len()).find(|v| self.vms[*v].is == Is::Waiting && self.may_start(*v))
        {
            self.launch(v);
        }
    }

    /// Stops the last live VM of the set, unless another VM of the set is being stopped; VMs that are only starting are
    /// ended at once (semantics 7). Returns whether no VM of the set lives.
    pub(super) fn stop_last_of(&mut self, set: &BTreeSet<VmName>, next: Next) -> bool {
        let starting = |vm: &&mut Vm| set.contains(&vm.spec.name) && vm.is == Is::Starting && vm.boots;
        for vm in self.vms.iter_mut().filter(starting) {
            vm.becomes(self.now, Is::Stopping(next));
        }
        let live = |vm: &&mut Vm| set.contains(&vm.spec.name) && vm.lives();
        let mut live: Vec<&mut Vm> = self.vms.iter_mut().filter(live).collect();
        let stopping = live.iter().any(|vm| matches!(vm.is, Is::Stopping(_)));
        match live.last_mut() {
            None => return true,
            Some(last) if !stopping => {
                // semantics 20.6: a group restart leaves an idle VM asleep.
                let sleeps_on = next == Next::Turn && matches!(last.is, Is::Paused { is_asleep: true, .. });
                last.becomes(self.now, Is::Stopping(if sleeps_on { Next::Sleep } else { next }));
            }
            Some(_) => {}
        }
        false
    }

    pub(super) fn wait_or_start(&mut self, v: usize) {
        if self.may_start(v) {
            self.launch(v);
        } else {
            (self.vms[v].is, self.vms[v].in_order) = (Is::Waiting, true);
        }
    }

    pub(super) fn launch(&mut self, v: usize) {
        let vm = &mut self.vms[v];
        (vm.is, vm.changed, vm.boots, vm.drowsy) = (Is::Starting, false, true, false);
        vm.newest += 1;
        vm.incarnation = vm.newest;
        vm.readies.clear();
    }

    /// Returns whether no VM before this one is in its way.
    pub(super) fn may_start(&self, v: usize) -> bool {
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
}
