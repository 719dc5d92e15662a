//! Runs a scenario with this project's supervisor: the whole tree, on a host in memory and under a paused clock.

use crate::answer::{Answer, BrokenOff, Deed, Mark, Report};
use crate::scenario::{Exit, Group, Scenario, Start, Step, Stop, Vm};
use crate::support::{Call, Fate, Host, Plan, What, group, tree, vm};
use pepita_supervisor::group::Command;
use pepita_supervisor::observe::{EventKind, Events, GroupEnd, Received, VmPhase};
use pepita_supervisor::policy::{Action, Reason};
use pepita_supervisor::spec::{
    Backoff, GroupName, GroupSpec, Intensity, OnIntensityExceeded, OnStartFailure, TreeSpec, VmSpec,
};
use pepita_supervisor::tree::{Parts, Tree};
use pepita_wire::VmState;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The exit code of [`Exit::Shutdown`].
const OTHER_SUCCESS: i32 = 10;

const NO_DELAY: Backoff =
    Backoff { initial: Duration::ZERO, max: Duration::ZERO, multiplier: 1.0, jitter: 0.0 };

/// Returns the specification of a scenario's tree.
pub(crate) fn spec(scenario: &Scenario) -> TreeSpec {
    let mut spec = tree(scenario.groups.iter().map(group_spec));
    if scenario.chained {
        for number in 1..spec.groups.len() {
            spec.groups[number].after = vec![spec.groups[number - 1].name.clone()];
        }
    }
    spec.intensity = intensity(scenario.intensity);
    spec.backoff = NO_DELAY;
    spec.max_parallel_launches = 16.try_into().expect("not zero");
    spec
}

fn intensity(of: crate::scenario::Intensity) -> Intensity {
    Intensity { max_restarts: of.restarts, period: Duration::from_secs(of.period_s) }
}

fn group_spec(of: &Group) -> GroupSpec {
    let mut spec = group(&of.name, of.strategy, of.vms.iter().map(vm_spec));
    spec.intensity = intensity(of.intensity);
    spec.auto_shutdown = of.auto_shutdown;
    spec.on_intensity_exceeded =
        if of.escalates { OnIntensityExceeded::Escalate } else { OnIntensityExceeded::StopGroup };
    spec
}

fn vm_spec(of: &Vm) -> VmSpec {
    let mut spec = vm(&of.name);
    spec.significant = of.significant;
    spec.restart.policy = of.restart;
    spec.restart.backoff = NO_DELAY;
    spec.restart.success = [0, OTHER_SUCCESS].into();
    spec.start.on_failure = OnStartFailure::Abort;
    spec.stop.timeout = match of.stop {
        Stop::Graceful => Duration::from_secs(5),
        Stop::Deaf => Duration::from_millis(100),
        Stop::Brutal => Duration::ZERO,
    };
    spec
}

fn fate(exit: Exit) -> Fate {
    match exit {
        Exit::Normal => Fate::Exit(0),
        Exit::Shutdown => Fate::Exit(OTHER_SUCCESS),
        Exit::Failed => Fate::Exit(3),
        Exit::Killed => Fate::Crash,
    }
}

/// Returns the plan of the start of a VM with this number; 0 for a start of which nothing is planned.
fn plan(of: &Vm, number: u64) -> Plan {
    let mut plan = Plan::default();
    match of.stop {
        Stop::Graceful | Stop::Brutal => {}
        Stop::Deaf => plan.stop = None,
    }
    match of.starts.iter().find(|(planned, _)| *planned == number) {
        Some((_, Start::Fails)) => plan.refusal = Some(pepita_wire::record::CallErrorKind::TryAgain),
        Some((_, Start::EndOf { other, exit })) => plan.ends_other = Some((other.clone(), fate(*exit))),
        None => {}
    }
    plan
}

/// Runs a scenario.
pub(crate) fn run(scenario: &Scenario) -> Answer {
    run_spec(scenario, spec(scenario))
}

/// Runs a scenario with a changed specification.
pub(crate) fn run_spec(scenario: &Scenario, spec: TreeSpec) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async { Run::start(scenario, spec).await.steps().await })
}

/// An incarnation of a VM: its number is that of the start.
type Incarnation = (String, u64);

/// What was done to VMs.
#[derive(Default)]
struct Deeds {
    deeds: Vec<Deed>,
    launched: Vec<Incarnation>,
    /// The incarnations that were killed while they booted.
    cut_off: Vec<Incarnation>,
}

struct Run<'a> {
    scenario: &'a Scenario,
    host: Host,
    tree: Tree,
    events: Events,
    /// The number of calls of the host that were read.
    read: usize,
    /// The starts that were decided in this step, in order.
    starts: Vec<Incarnation>,
    /// The groups that are down, and `tree` when the tree is.
    down: Vec<String>,
}

impl<'a> Run<'a> {
    async fn start(scenario: &'a Scenario, spec: TreeSpec) -> Self {
        let host = Host::new();
        for vm in scenario.groups.iter().flat_map(|group| &group.vms) {
            host.always(&vm.name, plan(vm, 0));
            for (number, _) in &vm.starts {
                host.plan_incarnation(&vm.name, *number, plan(vm, *number));
            }
        }
        let parts = Parts { pepita: Arc::new(host.clone()), sockets: Arc::new(host.clone()), run_dir: None };
        let tree = Tree::start_with(spec, parts).await.expect("the tree starts");
        let events = tree.events();
        Self { scenario, host, tree, events, read: 0, starts: Vec::new(), down: Vec::new() }
    }

    async fn steps(mut self) -> Answer {
        let mut answer = vec![self.report(Vec::new()).await];
        for step in &self.scenario.steps {
            let absent = self.take(step).await;
            answer.push(self.report(absent).await);
        }
        assert_eq!(self.host.faults(), Vec::<String>::new(), "what must never happen");
        Answer(answer)
    }

    /// Takes a step, and returns the VMs that were to end and do not run.
    async fn take(&mut self, step: &Step) -> Vec<String> {
        let mut absent = Vec::new();
        match step {
            Step::Exits(ends) => {
                let alive = self.host.alive();
                let (run, not): (Vec<_>, Vec<_>) = ends.iter().partition(|(vm, _)| alive.contains(vm));
                for (vm, exit) in run {
                    self.host.end(vm, fate(*exit));
                }
                absent.extend(not.into_iter().map(|(vm, _)| vm.clone()));
            }
            // In OTP a supervisor that has ended takes no commands.
            Step::Stop(vm) | Step::Start(vm) if self.is_down(vm) => {}
            Step::Stop(vm) => self.tree.command(vm, Command::Stop).await.expect("accepted"),
            Step::Start(vm) => self.tree.command(vm, Command::Start).await.expect("accepted"),
            Step::Pass { ms } => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Step::NextSecond => {}
            Step::Finish => drop(self.tree.stop().await),
        }
        absent
    }

    fn is_down(&self, vm: &str) -> bool {
        let group = &self.scenario.group_of(vm).name;
        self.down.iter().any(|down| down == group || down == "tree")
    }

    /// Waits until nothing is under way any more, and returns what has happened and what is left.
    async fn report(&mut self, absent: Vec<String>) -> Report {
        tokio::time::sleep(Duration::from_millis(self.scenario.settled_ms)).await;
        let mut exceeded = self.read_events().await;
        exceeded.sort_unstable();
        let Deeds { deeds, launched, cut_off } = self.deeds();
        let (mut places, mut broken_off) = (BTreeMap::<String, usize>::new(), Vec::new());
        for start in std::mem::take(&mut self.starts) {
            let place = places.entry(start.0.clone()).or_default();
            let launched = launched.contains(&start);
            if !launched || cut_off.contains(&start) {
                broken_off.push(BrokenOff { vm: start.0, place: *place, launched });
            }
            *place += 1;
        }
        Report { deeds, broken_off, exceeded, absent, left: self.left() }
    }

    /// Reads the events that were told, and returns the supervisors that have reached their intensity.
    async fn read_events(&mut self) -> Vec<String> {
        let mut exceeded = Vec::new();
        while let Ok(received) = tokio::time::timeout(Duration::from_millis(1), self.events.next()).await {
            let event = match received {
                Some(Received::Event(event)) => event,
                Some(Received::Lagged(missed)) => panic!("{missed} events missed"),
                None => break,
            };
            let group = event.group.as_ref().map(GroupName::to_string).unwrap_or_default();
            match event.kind {
                EventKind::Vm(change) => {
                    if change.to == VmPhase::Starting {
                        self.starts.push((change.vm.to_string(), change.incarnation.0));
                    }
                    exceeded.extend(change.decision.and_then(|decision| {
                        let ends = matches!(decision.action, Action::Escalate | Action::StopGroup);
                        (ends && decision.reason == Reason::IntensityExceeded).then_some(group)
                    }));
                }
                EventKind::GroupReady => self.down.retain(|down| *down != group),
                EventKind::GroupEnded(GroupEnd::Escalated { .. }) => {}
                EventKind::GroupEnded(_) => self.down.push(group),
                EventKind::TreeEnded { .. } => self.down.push("tree".to_owned()),
                EventKind::Notice { text, .. } if text.starts_with("gives up: ") => {
                    exceeded.push("tree".to_owned())
                }
                EventKind::Notice { .. } => {}
            }
        }
        exceeded
    }

    /// Returns what was done to VMs since the last call.
    fn deeds(&mut self) -> Deeds {
        let mut deeds = Deeds::default();
        for Call { what, vm, state, .. } in self.host.calls().split_off(self.read) {
            self.read += 1;
            let mark = match what {
                What::Run(number) => {
                    deeds.launched.push((vm.clone(), number));
                    let of = self.scenario.group_of(&vm).vms.iter().find(|known| known.name == vm);
                    let fails = of.is_some_and(|of| of.starts.contains(&(number, Start::Fails)));
                    if fails { Mark::StartFailed } else { Mark::Started }
                }
                What::Stop => Mark::Stopped,
                What::Destroy => match state {
                    Some(VmState::Starting) => {
                        let start = deeds.launched.iter().rfind(|(launched, _)| *launched == vm);
                        deeds.cut_off.extend(start.cloned());
                        continue;
                    }
                    Some(VmState::Running | VmState::Paused) => Mark::Killed,
                    // It was asked before, or has ended: this removes its traces.
                    Some(_) | None => continue,
                },
                What::Adopt | What::Signal(_) => continue,
            };
            deeds.deeds.push(Deed { mark, vm });
        }
        deeds
    }

    fn left(&self) -> Vec<String> {
        if self.down.iter().any(|down| down == "tree") {
            assert_eq!(self.host.alive(), Vec::<String>::new(), "the tree has ended");
            return vec!["tree:down".to_owned()];
        }
        let alive = self.host.alive();
        let of = |group: &Group| {
            let is_of = |vm: &&String| group.vms.iter().any(|known| known.name == **vm);
            let alive: Vec<&str> = alive.iter().filter(is_of).map(String::as_str).collect();
            let down = self.down.contains(&group.name);
            assert!(!down || alive.is_empty(), "{} is down and has {alive:?}", group.name);
            format!("{}:{}", group.name, if down { "down".to_owned() } else { alive.join(",") })
        };
        self.scenario.groups.iter().map(of).collect()
    }
}
