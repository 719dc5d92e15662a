//! The commands to the model and their consequences (semantics 5, 7, 11).

use super::*;

impl Model {
    /// Carries out a command. Returns false if it is refused.
    pub(crate) fn command(&mut self, v: usize, command: Command) -> bool {
        let now = self.now;
        let vm = &mut self.vms[v];
        let starts = command != Command::Stop;
        if vm.is == Is::Stopping(Next::Removed) || starts && matches!(self.group, Group::GoingDown(_)) {
            return false;
        }
        match command {
            Command::Stop => {
                (vm.wanted, vm.drowsy) = (false, false);
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
                if matches!(vm.is, Is::Idle { .. }) && !vm.may_be_idle() {
                    (vm.is, vm.in_order, vm.first) = (Is::Waiting, true, false);
                }
                self.vms.push(vm);
            } else {
                let mut vm = Vm::new(spec, 0);
                vm.newest = self.removed.get(&vm.spec.name).copied().unwrap_or(0);
                vm.incarnation = vm.newest;
                if let Some(round) = &mut self.round
                    && (self.spec.strategy == Strategy::OneForAll
                        || self.vms.iter().any(|before| round.set.contains(&before.spec.name)))
                {
                    round.set.insert(vm.spec.name.clone());
                }
                if vm.wanted && self.group == Group::Up {
                    (vm.is, vm.in_order) = (vm.at_start(), true);
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
                self.is_removed(vm);
            }
        }
        self.go_on();
    }

    pub(super) fn is_removed(&mut self, vm: Vm) {
        if let Some(round) = &mut self.round {
            round.set.remove(&vm.spec.name);
        }
        self.removed.insert(vm.spec.name, vm.newest);
    }

    pub(crate) fn stop(&mut self) {
        self.go_down(Ended::Stopped);
        self.go_on();
    }

    pub(crate) fn kill(&mut self) {
        self.go_down(Ended::Stopped);
        for vm in self.vms.iter_mut().filter(|vm| vm.lives()) {
            let next = if vm.is == Is::Stopping(Next::Removed) { Next::Removed } else { Next::Down };
            vm.becomes(self.now, Is::Stopping(next));
        }
        self.go_on();
    }

    pub(super) fn go_down(&mut self, why: Ended) {
        if matches!(self.group, Group::GoingDown(before) if before == Ended::Stopped || why != Ended::Stopped)
        {
            return;
        }
        (self.group, self.round) = (Group::GoingDown(why), None);
        for vm in &mut self.vms {
            vm.drowsy = false;
            if matches!(vm.is, Is::Waiting | Is::Idle { .. } | Is::Backoff(_)) {
                vm.is = Is::Stopped;
            }
        }
    }
}
