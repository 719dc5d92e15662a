//! Random groups under random steps: the roster does what the model does, and breaks none of the invariants of the
//! world.
//!
//! `PROPTEST_CASES` sets the number of cases. A failure is shrunk to the fewest and smallest steps and printed as Rust.

use crate::model::{Ended, Group, Is, Model, Told};
use crate::steps::{Past, SpareNews, Step, groups, pasts, steps};
use crate::world::{World, name};
use pepita_supervisor::group::GroupEnd;
use pepita_supervisor::journal::Wanted;
use pepita_supervisor::observe::VmPhase;
use pepita_supervisor::policy::Exit;
use pepita_supervisor::spec::{GroupSpec, Restart, StartOn, Strategy, VmName};
use pepita_supervisor::vm::Transition;
use proptest::prelude::{ProptestConfig, proptest};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The roster in its world, and the model beside it.
#[derive(Clone)]
struct Pair {
    world: World,
    model: Model,
    spec: GroupSpec,
    /// The number of changes that were compared.
    seen: usize,
    /// The VMs whose policy was `never` at some time.
    never: BTreeSet<VmName>,
}

impl Pair {
    fn start(spec: GroupSpec, past: &Past) -> Self {
        let world = World::remembering(spec.clone(), &past.memory);
        let model = Model::new(spec.clone(), &past.memory, world.now);
        let mut pair = Self { world, model, spec, seen: 0, never: BTreeSet::new() };
        let there = |vm: &VmName| pair.spec.vms.iter().any(|spec| spec.name == *vm);
        let found: BTreeMap<_, _> = past.found.clone().into_iter().filter(|(vm, _)| there(vm)).collect();
        pair.world.start(&found);
        pair.model.start(&found);
        pair.compare();
        pair
    }

    fn pick(&self, place: usize) -> Option<String> {
        let names = self.world.roster.names();
        (!names.is_empty()).then(|| names[place % names.len()].to_string())
    }

    fn chance(&mut self, draw: f64) {
        (self.world.draw, self.model.draw) = (draw, draw);
    }

    fn step(&mut self, step: &Step) {
        self.see_spares();
        match step {
            Step::Transition(vm, _) | Step::End(vm, _) | Step::Gone(vm) | Step::ActorFails(vm) => {
                let Some(vm) = self.pick(*vm).filter(|vm| self.world.actors.contains_key(&name(vm))) else {
                    return;
                };
                self.report(&vm, step);
            }
            Step::Client(vm) => {
                let Some(vm) = self.pick(*vm) else { return };
                self.world.client_comes(&vm);
                self.model.client_came(self.model.vm(&vm));
            }
            Step::Spare(place, news) => {
                let names: Vec<VmName> = self.world.spares.keys().cloned().collect();
                let Some(spare) = (!names.is_empty()).then(|| names[place % names.len()].clone()) else {
                    return;
                };
                match news {
                    SpareNews::Ready if !self.world.spares[&spare].ending => self.world.spare_ready(&spare),
                    SpareNews::Ready => return,
                    SpareNews::Ends => self.world.spare_ends(&spare),
                    SpareNews::ActorFails => self.world.spare_actor_fails(&spare),
                }
                self.model.go_on();
            }
            Step::Command(vm, command) => {
                let Some(vm) = self.pick(*vm) else { return };
                let taken = self.model.command(self.model.vm(&vm), *command);
                assert_eq!(self.world.command(&vm, *command).is_ok(), taken, "{command:?} {vm}");
            }
            Step::Reload(edits, restart) => {
                edits.iter().for_each(|edit| edit.apply(&mut self.spec));
                self.world.reload(self.spec.clone(), *restart);
                self.model.reload(self.spec.clone(), *restart);
            }
            Step::Wake(past) => {
                let Some(at) = self.world.roster.wake_at() else { return };
                self.advance(at.saturating_duration_since(self.world.now) + *past);
            }
            Step::Advance(by) => self.advance(*by),
            Step::Run => return self.run(),
            Step::Stop => {
                self.world.stop();
                self.model.stop();
            }
            Step::Kill => {
                self.world.kill();
                self.model.kill();
            }
            Step::Start => match self.model.group {
                Group::Down(Some(Ended::Escalated)) => {
                    self.world.start_afresh();
                    self.model.start_afresh();
                }
                Group::Down(_) => {
                    self.world.ended = None;
                    self.world.start(&BTreeMap::new());
                    self.model.start(&BTreeMap::new());
                }
                Group::Up | Group::GoingDown(_) => return,
            },
        }
        self.compare();
    }

    /// Shows the model the spares of the world.
    fn see_spares(&mut self) {
        self.model.spared = self.world.with_ready_spare();
        self.model.promoted = self.world.promoted.clone();
        // Until the world has taken the step, too.
        self.model.has_spares = true;
    }

    fn report(&mut self, vm: &str, step: &Step) {
        self.see_spares();
        let (v, stopping) = (self.model.vm(vm), self.world.actor(vm).stopping);
        match step {
            Step::Transition(_, news) => {
                self.world.transition(vm, *news);
                self.model.transition(v, *news);
            }
            Step::End(_, ending) if !stopping => {
                let sleeps = matches!(self.model.vms[v].is, Is::Paused { is_asleep: true, .. });
                let put_to_sleep = self.model.vms[v].drowsy && ending.exit() == Some(&Exit::StopRequested);
                let fails = self.model.promotion_fails(v, ending);
                self.world.end(vm, ending.clone());
                self.model.ended(v, ending.clone());
                // semantics 10.2: every end that was not asked for leads to one decision, told once; semantics 20.10: the
                // end of a VM that sleeps leads to none.
                let told = self.model.told.len();
                assert!(told == usize::from(!fails) || (sleeps || put_to_sleep) && told == 0);
            }
            Step::End(..) | Step::Gone(_) if stopping => {
                let counts = self.model.vms[v].is == Is::Stopping(crate::model::Next::Failure);
                self.world.gone(vm);
                self.model.ended(v, Exit::StopRequested.into());
                assert!(self.model.told.is_empty() || counts);
            }
            Step::ActorFails(_) => {
                self.world.actor_fails(vm);
                self.model.actor_failed(v);
            }
            _ => {}
        }
    }

    fn advance(&mut self, by: Duration) {
        let until = self.world.now + by;
        self.world.advance(by);
        while let Some(at) = self.model.wakes().filter(|at| *at <= until) {
            self.model.now = self.model.now.max(at);
            self.model.go_on();
        }
        self.model.now = until;
        self.model.go_on();
    }

    /// Lets every VM do well, as far as that needs no time.
    fn run(&mut self) {
        for _ in 0..1000 {
            let due = self.world.actors.keys().find_map(|vm| {
                let v = self.model.vm(vm.as_str());
                match self.model.vms[v].is {
                    Is::Stopping(_) => Some((vm.to_string(), Step::Gone(v))),
                    Is::Starting => Some((vm.to_string(), Step::Transition(v, Transition::Running))),
                    Is::Running => Some((vm.to_string(), Step::Transition(v, Transition::Ready))),
                    Is::Unhealthy => Some((vm.to_string(), Step::Transition(v, Transition::Healthy))),
                    Is::Paused { is_asleep: false, .. } => {
                        Some((vm.to_string(), Step::Transition(v, Transition::Resumed)))
                    }
                    Is::Unknown => Some((vm.to_string(), Step::Transition(v, Transition::Reached))),
                    _ => None,
                }
            });
            let Some((vm, step)) = due else {
                if !self.world.serve_spares() {
                    return;
                }
                self.model.go_on();
                self.compare();
                continue;
            };
            self.report(&vm, &step);
            self.compare();
        }
        panic!("the group gives orders without end: {:#?}", self.world.roster);
    }

    /// Asserts that no state is stuck: when all VMs do well the group comes to rest in the expected state.
    fn come_to_rest(mut self) {
        self.run();
        for _ in 0..100 {
            let Some(at) = self.world.roster.wake_at() else { return self.rests() };
            self.advance(at.saturating_duration_since(self.world.now));
            self.compare();
            self.run();
        }
        panic!("the group never comes to rest: {:#?}", self.world.roster);
    }

    fn rests(&self) {
        let mut behind_a_failure = false;
        for (vm, phase) in self.world.roster.phases() {
            let spec = self.world.roster.vm(vm).expect("the VM is in the group");
            let wanted = self.world.roster.view(vm).expect("the VM is in the group").wanted == Wanted::Up;
            match phase {
                VmPhase::Ready => assert!(wanted && self.model.group == Group::Up),
                VmPhase::Completed => {}
                VmPhase::Idle { .. } => {
                    let may = spec.start.on == StartOn::Connection || spec.idle.is_set();
                    assert!(wanted && self.model.group == Group::Up && (may || phase.is_live()));
                }
                VmPhase::Failed(_) => {
                    behind_a_failure |=
                        self.spec.strategy == Strategy::RestForOne && spec.restart.policy != Restart::Never;
                }
                VmPhase::Waiting => assert!(behind_a_failure, "{vm} waits for nothing"),
                VmPhase::Stopped => {
                    let taken_down = self.never.contains(vm) || self.went_down();
                    assert!(!wanted || taken_down, "{vm} is wanted and stays down");
                }
                VmPhase::Starting
                | VmPhase::Running
                | VmPhase::Unhealthy
                | VmPhase::Paused
                | VmPhase::Stopping
                | VmPhase::Unknown
                | VmPhase::Backoff { .. } => panic!("{vm} is {phase}, and nothing happens"),
            }
        }
        assert_eq!(self.world.roster.is_down(), self.world.ended.is_some());
        // Every VM that is up has the spares that it is to have, and no other VM has any.
        for (vm, phase) in self.world.roster.phases() {
            let spares = self.world.spares.values().filter(|spare| spare.of == *vm).count();
            let standby = self.world.roster.vm(vm).map_or(0, |spec| spec.standby);
            match phase {
                VmPhase::Ready => assert_eq!(spares, standby as usize, "{vm}"),
                _ => assert!(spares <= standby as usize, "{vm}"),
            }
        }
    }

    /// Returns whether the group is down, or was down and an operator has brought some VMs back.
    fn went_down(&self) -> bool {
        self.world.roster.is_down() || self.world.ends > 0
    }

    fn compare(&mut self) {
        let (world, model) = (&mut self.world, &mut self.model);
        assert_eq!(world.now, model.now);
        model.has_spares = !world.spares.is_empty();
        model.go_on();
        let never = self.spec.vms.iter().filter(|vm| vm.restart.policy == Restart::Never);
        self.never.extend(never.map(|vm| vm.name.clone()));
        let names: Vec<_> = model.vms.iter().map(|vm| vm.spec.name.clone()).collect();
        assert_eq!(world.roster.names(), names);
        for (v, (vm, phase)) in world.roster.phases().enumerate() {
            assert!(model.agrees(v, &phase), "{vm} is {phase:?}, not {:?}", model.vms[v].is);
            let view = world.roster.view(vm).expect("the VM is in the group");
            let is = (view.incarnation.0, view.attempts, view.wanted == Wanted::Up);
            assert_eq!(is, (model.vms[v].incarnation, model.vms[v].attempts, model.vms[v].wanted), "{vm}");
        }
        let wakes = model.wakes().into_iter().chain(world.roster.wake_for_spares()).min();
        assert_eq!(world.roster.wake_at(), wakes);
        let down = match model.group {
            Group::Up | Group::GoingDown(_) | Group::Down(None) => None,
            Group::Down(Some(ended)) => Some(ended),
        };
        let ended = world.ended.as_ref().map(|end| match end {
            GroupEnd::Stopped => Ended::Stopped,
            GroupEnd::AutoShutdown => Ended::AutoShutdown,
            GroupEnd::Failed { .. } => Ended::Failed,
            GroupEnd::Escalated { .. } => Ended::Escalated,
        });
        assert_eq!(ended, down);
        let new = world.changes[self.seen..].iter().filter_map(|change| change.decision.as_ref());
        let told: Vec<Told> = new
            .map(|decision| Told {
                action: decision.action,
                attempt: decision.attempt,
                delay: decision.delay,
                joined: decision.joined,
                window: decision.window.count as usize,
            })
            .collect();
        self.seen = world.changes.len();
        assert_eq!(told, model.told);
        model.told.clear();
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(10_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_group_does_what_the_model_does(spec in groups(), past in pasts(), steps in steps()) {
        let mut pair = Pair::start(spec.0, &past.0);
        for (index, step) in steps.0.iter().enumerate() {
            pair.chance(index as f64 * 0.37 % 1.0);
            pair.step(step);
        }
        pair.come_to_rest();
    }
}
