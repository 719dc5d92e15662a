//! Draws scenarios: the same seed draws the same one.

use crate::scenario::{Exit, Group, Intensity, Scenario, Start, Step, Stop, Vm};
use pepita_supervisor::spec::{AutoShutdown, Restart, Strategy};

/// A period that no scenario outlasts: the result does not depend on the time that it takes.
const LONG_S: u64 = 3600;

/// Draws the scenario of a seed.
pub(crate) fn scenario(seed: u64) -> Scenario {
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let (operator, failing_starts, ends_at_starts) = match random.0.u32(..8) {
        0 | 1 => (true, false, false),
        2 | 3 => (false, true, false),
        4 => (false, false, true),
        // A start that fails is retried whoever asked for it, which is a rule of its own.
        _ => (false, false, false),
    };
    let groups = (0..random.0.usize(1..=3)).map(|number| random.group(number)).collect();
    let mut scenario = Scenario {
        seed,
        chained: random.one_in(2),
        intensity: Intensity { restarts: random.0.u32(0..4), period_s: LONG_S },
        groups,
        steps: Vec::new(),
        // Longer than all that can follow a step.
        settled_ms: 60_000,
        stopped_stay_down: false,
    };
    if scenario.chained
        && let Some((_, before)) = scenario.groups.split_last_mut()
    {
        // A group that escalates waits for the groups before it, should they have failed.
        for group in before.iter_mut().filter(|group| !group.escalates) {
            group.intensity.restarts = 1000;
        }
    }
    if failing_starts {
        random.failing_starts(&mut scenario);
    }
    if ends_at_starts {
        random.ends_at_starts(&mut scenario);
    }
    scenario.steps = (0..random.0.usize(2..10)).map(|_| random.step(&scenario, operator)).collect();
    scenario.steps.push(Step::Finish);
    scenario
}

/// Draws a scenario in which the period matters: failures of a VM with little time between them, or clearly more than
/// the period.
pub(crate) fn timed(seed: u64) -> Scenario {
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let mut group = random.group(0);
    group.strategy = Strategy::OneForOne;
    group.vms.truncate(1);
    group.vms[0].restart = Restart::Always;
    group.vms[0].significant = false;
    let vm = group.vms[0].name.clone();
    group.intensity = Intensity { restarts: random.0.u32(1..3), period_s: 2 };
    let fails = || Step::Exits(vec![(vm.clone(), Exit::Failed)]);
    let mut steps: Vec<Step> = (0..random.0.usize(1..3)).map(|_| fails()).collect();
    // OTP counts whole seconds: what is 3 s old does not count in a period of 2 s.
    steps.push(Step::Pass { ms: 3200 });
    steps.extend((0..random.0.usize(1..4)).map(|_| fails()));
    let intensity = Intensity { restarts: random.0.u32(0..2), period_s: LONG_S };
    Scenario {
        seed,
        chained: true,
        intensity,
        groups: vec![group],
        steps,
        // As long as a restart takes.
        settled_ms: 300,
        stopped_stay_down: false,
    }
}

struct Random(fastrand::Rng);

impl Random {
    fn one_in(&mut self, n: u32) -> bool {
        self.0.u32(..n) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.0.usize(..of.len())]
    }

    fn group(&mut self, number: usize) -> Group {
        let name = format!("g{number}");
        let auto_shutdown = match self.0.u32(..6) {
            0 => AutoShutdown::AnySignificant,
            1 => AutoShutdown::AllSignificant,
            _ => AutoShutdown::Never,
        };
        let vms = "abcde".chars().take(self.0.usize(1..=5));
        let vms = vms.map(|letter| self.vm(format!("{name}{letter}"), auto_shutdown)).collect();
        Group {
            strategy: *self.pick(&[Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne]),
            intensity: Intensity { restarts: *self.pick(&[0, 1, 1, 2, 2, 3, 4, 20]), period_s: LONG_S },
            auto_shutdown,
            // OTP's root does not tell a group whose work is done from one that gave up.
            escalates: auto_shutdown == AutoShutdown::Never && !self.one_in(4),
            name,
            vms,
        }
    }

    fn vm(&mut self, name: String, auto_shutdown: AutoShutdown) -> Vm {
        use Restart::{Always, Never, OnFailure, UnlessStopped};
        let restart = *self.pick(&[Always, UnlessStopped, Always, OnFailure, OnFailure, OnFailure, Never]);
        let may_end = match restart {
            OnFailure | Never => auto_shutdown != AutoShutdown::Never,
            // OTP refuses a significant child that never ends for good.
            Always | UnlessStopped => false,
        };
        let stop = match self.0.u32(..16) {
            0 | 1 => Stop::Brutal,
            2 => Stop::Deaf,
            _ => Stop::Graceful,
        };
        Vm { name, restart, significant: may_end && !self.one_in(3), stop, starts: Vec::new() }
    }

    /// Plans starts that fail; the first start of each VM succeeds.
    fn failing_starts(&mut self, scenario: &mut Scenario) {
        for vm in scenario.groups.iter_mut().flat_map(|group| &mut group.vms) {
            for number in 2..6 {
                if self.one_in(4) {
                    vm.starts.push((number, Start::Fails));
                }
            }
        }
    }

    /// Plans, in each group, the end of a VM while another one is started.
    fn ends_at_starts(&mut self, scenario: &mut Scenario) {
        // OTP goes on with its other groups meanwhile.
        scenario.chained = false;
        for group in scenario.groups.iter_mut().filter(|group| group.vms.len() > 1) {
            for vm in &mut group.vms {
                // OTP forgets a temporary child that it has started in vain.
                if vm.restart == Restart::Never {
                    vm.restart = Restart::OnFailure;
                }
            }
            let mut places: Vec<usize> = (0..group.vms.len()).collect();
            self.0.shuffle(&mut places);
            let other = group.vms[places[0]].name.clone();
            let end = Start::EndOf { other, exit: self.exit() };
            group.vms[places[1]].starts.push((self.0.u64(1..4), end));
        }
    }

    fn exit(&mut self) -> Exit {
        *self.pick(&[Exit::Normal, Exit::Shutdown, Exit::Failed, Exit::Failed, Exit::Killed, Exit::Killed])
    }

    fn step(&mut self, scenario: &Scenario, operator: bool) -> Step {
        let group = self.pick(&scenario.groups);
        let vm = self.pick(&group.vms);
        match self.0.u32(..8) {
            0 | 1 if operator => Step::Stop(vm.name.clone()),
            // OTP forgets a temporary child that has ended.
            2 | 3 if operator && vm.restart != Restart::Never => Step::Start(vm.name.clone()),
            4 | 5 => {
                let mut names: Vec<&Vm> = group.vms.iter().collect();
                self.0.shuffle(&mut names);
                names.truncate(self.0.usize(2..4));
                Step::Exits(names.into_iter().map(|vm| (vm.name.clone(), self.exit())).collect())
            }
            _ => Step::Exits(vec![(vm.name.clone(), self.exit())]),
        }
    }
}
