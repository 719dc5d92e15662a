//! Random groups, random remains of a previous run, and random steps.

use crate::world::{NS, SECOND, exit, group, name, vm};
use pepita_supervisor::group::{Command, Found};
use pepita_supervisor::journal::{Remembered, Wanted};
use pepita_supervisor::policy::{Ending, Exit};
use pepita_supervisor::spec::{
    self, AutoShutdown, GroupSpec, Incarnation, Intensity, OnGiveUp, OnIntensityExceeded, OnStartFailure,
    Restart, RestartSpec, StartOn, VmName, VmSpec,
};
use pepita_supervisor::vm::Transition;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// A value that is printed in few lines, for people who look for the reason of a failure.
#[derive(Clone)]
pub(crate) struct Short<T>(pub(crate) T);

impl fmt::Debug for Short<Vec<Step>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| write!(f, "\n    {step:?},"))
    }
}

impl fmt::Debug for Short<Past> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.memory.iter().try_for_each(|(vm, memory)| write!(f, "\n    {vm}: {memory:?}"))?;
        self.0.found.iter().try_for_each(|(vm, found)| write!(f, "\n    {vm}: {found:?}"))
    }
}

impl fmt::Debug for Short<GroupSpec> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GroupSpec { strategy, intensity, on_intensity_exceeded, auto_shutdown, vms, .. } = &self.0;
        write!(f, "{strategy:?} {intensity:?} {on_intensity_exceeded:?} {auto_shutdown:?}")?;
        vms.iter().try_for_each(|vm| {
            let VmSpec { name, restart, autostart, significant, start, .. } = vm;
            let RestartSpec { policy, max_retries, on_give_up, reset_after, backoff, .. } = restart;
            write!(
                f,
                "\n    {name}: {policy:?} max_retries {max_retries} {on_give_up:?} reset {reset_after:?}"
            )?;
            write!(f, " initial {:?} autostart {autostart} significant {significant}", backoff.initial)?;
            write!(f, " start on {} {:?} idle {:?}", start.on, start.on_failure, vm.idle.after)
        })
    }
}

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// A step. A VM is given by its place, modulo the number of VMs; a step that is impossible at the moment is skipped.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Transition(usize, Transition),
    End(usize, Ending),
    Gone(usize),
    ActorFails(usize),
    /// A client connects to a port of the VM.
    Client(usize),
    /// A warm spare, given by its place among those that there are.
    Spare(usize, SpareNews),
    Command(usize, Command),
    Reload(Vec<Edit>, bool),
    /// Advances to exactly the moment at which the roster wants to be called again, and by this time further.
    Wake(Duration),
    Advance(Duration),
    /// Makes VMs that start Ready, and lets VMs that stop end.
    Run,
    Stop,
    Kill,
    /// Starts a group that is down again, as the tree would do.
    Start,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum SpareNews {
    Ready,
    Ends,
    ActorFails,
}

#[derive(Debug, Clone)]
pub(crate) enum Edit {
    Remove(usize),
    Add(usize, usize),
    Swap(usize, usize),
    Change(usize),
    Policy(usize, Restart),
    StartOn(usize, StartOn),
    Idle(usize, bool),
    Standby(usize, u32),
    Strategy(spec::Strategy),
    MaxRestarts(u32),
}

fn restarts() -> impl Strategy<Value = Restart> {
    use Restart::{Always, Never, OnFailure, UnlessStopped};
    prop_oneof![3 => Just(OnFailure), 2 => Just(Always), 1 => Just(UnlessStopped), 1 => Just(Never)]
}

fn starts_on() -> impl Strategy<Value = StartOn> {
    prop_oneof![3 => Just(StartOn::Boot), 1 => Just(StartOn::Connection)]
}

fn strategies() -> impl Strategy<Value = spec::Strategy> {
    select(vec![spec::Strategy::OneForOne, spec::Strategy::OneForAll, spec::Strategy::RestForOne])
}

fn causes() -> impl Strategy<Value = Ending> {
    let lost = |recoverable, refused| Ending::NotLaunched { recoverable, refused, message: "no".into() };
    let rare = select(vec![
        exit(64),
        exit(75),
        Exit::signal(9).into(),
        lost(true, false),
        lost(false, false),
        lost(false, true),
        Exit::Unknown.into(),
        Exit::StopRequested.into(),
    ]);
    prop_oneof![4 => Just(exit(3)), 2 => Just(exit(0)), 3 => rare]
}

fn vms() -> impl Strategy<Value = VmSpec> {
    let restart = (
        restarts(),
        0u32..4,
        prop::bool::weighted(0.2),
        select(vec![0u64, 5, 600]),
        select(vec![0u64, 1, 3]),
    );
    let flags = (prop::bool::weighted(0.85), prop::bool::weighted(0.3), prop::bool::weighted(0.15));
    let sleep = (starts_on(), prop::bool::weighted(0.3));
    let standby = prop_oneof![3 => Just(0u32), 2 => Just(1), 1 => Just(2)];
    (restart, flags, sleep, standby).prop_map(
        |(
            (policy, max_retries, escalates, reset, initial),
            (autostart, significant, aborts),
            (on, sleeps),
            standby,
        )| {
            let mut vm = vm("a");
            (vm.restart.policy, vm.restart.max_retries) = (policy, max_retries);
            vm.restart.on_give_up = if escalates { OnGiveUp::Escalate } else { OnGiveUp::Fail };
            vm.restart.reset_after = SECOND * reset as u32;
            (vm.restart.never, vm.restart.always) = (BTreeSet::from([64]), BTreeSet::from([75]));
            (vm.restart.backoff.initial, vm.restart.backoff.max) = (SECOND * initial as u32, SECOND * 8);
            vm.restart.backoff.jitter = 0.5;
            (vm.autostart, vm.significant, vm.standby) = (autostart, significant, standby);
            (vm.start.on, vm.idle.after) = (on, SECOND * u32::from(sleeps));
            vm.start.on_failure = if aborts { OnStartFailure::Abort } else { OnStartFailure::Retry };
            vm
        },
    )
}

pub(crate) fn groups() -> impl Strategy<Value = Short<GroupSpec>> {
    use AutoShutdown::{AllSignificant, AnySignificant, Never};
    use OnIntensityExceeded::{Delay, Escalate, StopGroup};
    let shutdown = prop_oneof![4 => Just(Never), 1 => Just(AnySignificant), 1 => Just(AllSignificant)];
    let exceeded = select(vec![Escalate, StopGroup, Delay]);
    let vms = prop::collection::vec(vms(), 1..=6);
    (strategies(), vms, 0u32..6, 3u32..30, exceeded, shutdown).prop_map(
        |(strategy, mut vms, max_restarts, period, on_intensity_exceeded, auto_shutdown)| {
            vms.iter_mut().zip(NAMES).for_each(|(vm, its)| vm.name = name(its));
            let intensity = Intensity { max_restarts, period: SECOND * period };
            Short(GroupSpec { intensity, on_intensity_exceeded, auto_shutdown, vms, ..group(strategy, "") })
        },
    )
}

fn edits() -> impl Strategy<Value = Edit> {
    let place = || 0usize..8;
    prop_oneof![
        place().prop_map(Edit::Remove),
        (place(), place()).prop_map(|(vm, at)| Edit::Add(vm, at)),
        (place(), place()).prop_map(|(a, b)| Edit::Swap(a, b)),
        place().prop_map(Edit::Change),
        (place(), restarts()).prop_map(|(vm, policy)| Edit::Policy(vm, policy)),
        (place(), starts_on()).prop_map(|(vm, on)| Edit::StartOn(vm, on)),
        (place(), any::<bool>()).prop_map(|(vm, sleeps)| Edit::Idle(vm, sleeps)),
        (place(), 0u32..3).prop_map(|(vm, standby)| Edit::Standby(vm, standby)),
        strategies().prop_map(Edit::Strategy),
        (0u32..6).prop_map(Edit::MaxRestarts),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    use Command::{Reset, Restart, Start, Stop};
    let at = || 0usize..6;
    let news = prop_oneof![
        2 => Just(Transition::Running), 6 => Just(Transition::Ready), 1 => Just(Transition::Unhealthy), 1 => Just(Transition::Healthy),
        1 => Just(Transition::Paused), 1 => Just(Transition::Resumed),
        2 => Just(Transition::Idle), 1 => Just(Transition::StayedAwake), 2 => Just(Transition::GoesToSleep),
        2 => Just(Transition::Asleep),
        1 => Just(Transition::Unreachable), 1 => Just(Transition::Reached),
    ];
    let spare_news = prop_oneof![5 => Just(SpareNews::Ready), 2 => Just(SpareNews::Ends), 1 => Just(SpareNews::ActorFails)];
    let small = select(vec![NS, SECOND / 2, SECOND, SECOND * 5, SECOND * 20, SECOND * 600]);
    let past = select(vec![Duration::ZERO, Duration::ZERO, NS, SECOND]);
    prop_oneof![
        8 => (at(), news).prop_map(|(vm, news)| Step::Transition(vm, news)),
        10 => (at(), causes()).prop_map(|(vm, ending)| Step::End(vm, ending)),
        8 => at().prop_map(Step::Gone),
        2 => at().prop_map(Step::ActorFails),
        6 => at().prop_map(Step::Client),
        6 => (at(), spare_news).prop_map(|(at, news)| Step::Spare(at, news)),
        6 => (at(), select(vec![Start, Stop, Restart, Reset])).prop_map(|(vm, command)| Step::Command(vm, command)),
        2 => (prop::collection::vec(edits(), 1..4), any::<bool>()).prop_map(|(edits, restart)| Step::Reload(edits, restart)),
        8 => past.prop_map(Step::Wake),
        4 => small.prop_map(Step::Advance),
        8 => Just(Step::Run),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
        3 => Just(Step::Start),
    ]
}

pub(crate) fn steps() -> impl Strategy<Value = Short<Vec<Step>>> {
    prop::collection::vec(step(), 1..40).prop_map(Short)
}

/// The state that a previous run has left: the journal's memory, and the VMs that run or have ended, some with a
/// changed configuration.
#[derive(Debug, Clone)]
pub(crate) struct Past {
    pub(crate) memory: BTreeMap<VmName, Remembered>,
    pub(crate) found: BTreeMap<VmName, Found>,
}

pub(crate) fn pasts() -> impl Strategy<Value = Short<Past>> {
    let found = (2u64..5, prop::bool::weighted(0.7), prop::bool::weighted(0.8), prop::option::of(causes()));
    let found = found.prop_map(|(incarnation, unchanged, reachable, ended)| Found {
        incarnation: Incarnation(incarnation),
        unchanged,
        reachable,
        ended,
    });
    let memory =
        (prop::bool::weighted(0.7), 0u32..3, any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
    let memory = memory.prop_map(|(up, attempts, has_run, completed, idle)| Remembered {
        incarnation: Incarnation(3),
        wanted: if up { Wanted::Up } else { Wanted::Down },
        attempts,
        has_run,
        completed,
        idle,
        failed: None,
    });
    let past = (some(memory), some(found)).prop_map(|(memory, found)| Past { memory, found });
    let none = Past { memory: BTreeMap::new(), found: BTreeMap::new() };
    prop_oneof![3 => Just(none), 1 => past].prop_map(Short)
}

fn some<T: fmt::Debug>(what: impl Strategy<Value = T>) -> impl Strategy<Value = BTreeMap<VmName, T>> {
    let places = prop::collection::btree_map(0usize..6, what, 0..5);
    places.prop_map(|some| some.into_iter().map(|(vm, what)| (name(NAMES[vm]), what)).collect())
}

impl Edit {
    pub(crate) fn apply(&self, spec: &mut GroupSpec) {
        let vms = spec.vms.len();
        match self {
            Self::Remove(vm) if vms > 0 => drop(spec.vms.remove(vm % vms)),
            Self::Add(vm, at) => {
                let new = self::vm(NAMES[*vm]);
                if spec.vms.iter().all(|vm| vm.name != new.name) {
                    spec.vms.insert(at % (vms + 1), new);
                }
            }
            Self::Swap(a, b) if vms > 0 => spec.vms.swap(a % vms, b % vms),
            Self::Change(vm) if vms > 0 => spec.vms[vm % vms].machine.memory_mb += 1,
            Self::Policy(vm, policy) if vms > 0 => spec.vms[vm % vms].restart.policy = *policy,
            Self::StartOn(vm, on) if vms > 0 => spec.vms[vm % vms].start.on = *on,
            Self::Idle(vm, sleeps) if vms > 0 => spec.vms[vm % vms].idle.after = SECOND * u32::from(*sleeps),
            Self::Standby(vm, standby) if vms > 0 => spec.vms[vm % vms].standby = *standby,
            Self::Strategy(strategy) => spec.strategy = *strategy,
            Self::MaxRestarts(most) => spec.intensity.max_restarts = *most,
            Self::Remove(_)
            | Self::Swap(..)
            | Self::Change(_)
            | Self::Policy(..)
            | Self::StartOn(..)
            | Self::Idle(..)
            | Self::Standby(..) => {}
        }
    }
}
