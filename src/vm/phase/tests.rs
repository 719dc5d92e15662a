use super::*;
use crate::policy::Ending;
use crate::spec::Readiness;
use crate::spec::{MachineSpec, VmName, VmSpec};
use pepita_wire::image::ImageHealth;
use pepita_wire::record::{CallErrorKind, DaemonState};
use pepita_wire::{Exit, ExitRecord, VmState};
use proptest::prelude::*;

fn spec() -> VmSpec {
    VmSpec::new(VmName::new("a").expect("a name"), MachineSpec::qemu("/k", "/r"))
}

fn cid() -> Cid {
    Cid::new(7).expect("a CID")
}

fn record(state: VmState, daemon: DaemonState) -> Box<StatusRecord> {
    let mut record = StatusRecord { state, ..StatusRecord::default() };
    record.vsock.cid = 7;
    record.daemon.state = daemon;
    record.agent.ready = true;
    if state.is_terminal() {
        record.exit = Some(ExitRecord { exit: Exit::code(3), ..ExitRecord::default() });
    }
    Box::new(record)
}

fn booting() -> Box<StatusRecord> {
    record(VmState::Starting, DaemonState::Pending)
}

fn running() -> Box<StatusRecord> {
    record(VmState::Running, DaemonState::Running)
}

fn refused(kind: CallErrorKind) -> ExecutorError {
    ExecutorError::Refused { kind, message: "no".into() }
}

#[test]
fn an_error_of_the_hosts_disk_is_told_once() {
    let mut rig = Rig::ready();
    let full = || {
        let mut record = running();
        record.disk_error = Some("write: No space left on device".into());
        Event::Status(record)
    };
    let effects = rig.on(full());
    assert!(matches!(&effects[..], [Effect::Notice(text)] if text.contains("No space left")), "{effects:?}");
    assert_eq!(rig.on(full()), []);
}

#[test]
fn the_layers_that_a_jail_lacks_are_told_once() {
    let mut rig = Rig::ready();
    let lacking = || {
        let mut record = running();
        let text = r#"{"level":"best-effort","processes":{"vmm":{"layers":{"landlock":{"is":"missing","why":"off"}}}}}"#;
        record.jail = Some(Box::new(serde_json::from_str(text).expect("a record")));
        Event::Status(record)
    };
    let effects = rig.on(lacking());
    assert!(matches!(&effects[..], [Effect::Notice(text)] if text.contains("landlock: off")), "{effects:?}");
    assert_eq!(rig.on(lacking()), []);
}

#[test]
fn a_stop_and_the_probes_are_those_of_the_image_unless_the_configuration_says_otherwise() {
    let image = || {
        let health = ImageHealth { command: vec!["check".into()], ..ImageHealth::default() };
        let health = Some(health);
        UsedImage { stop_signal: Some(Signal::INT), health, ..UsedImage::default() }
    };
    let stopped = |spec: VmSpec| {
        let mut rig = Rig::ready();
        let mut record = running();
        record.image = Some(Box::new(image()));
        rig.on(Event::Status(record));
        // A record without an image, as an older monitor writes it, takes nothing back.
        rig.on(Event::Status(running()));
        rig.life.update(spec.into());
        let command = rig.life.health().command.clone();
        let effects = rig.on(Event::Stop);
        let Some(Effect::StopDaemon { signal, .. }) = effects.last() else { panic!("{effects:?}") };
        (*signal, command)
    };
    assert_eq!(stopped(spec()), (Signal::INT, Some(vec!["check".to_owned()])));
    let mut own = spec();
    (own.stop.signal, own.health.command) = (Some(Signal::TERM), Some(Vec::new()));
    assert_eq!(stopped(own), (Signal::TERM, Some(Vec::new())));
}

#[test]
fn the_beginning_of_a_probe_judges_nothing_and_its_deadline_does() {
    let mut rig = Rig::ready();
    rig.on(Event::LinkIsUp(true));
    let HealthSpec { interval, timeout, .. } = spec().health;
    rig.now += interval;
    assert_eq!(rig.life.wake_at(), Some(rig.now));
    assert!(!rig.life.judges(rig.now));
    let effects = rig.on(Event::Tick);
    let [Effect::Probe(id)] = effects[..] else { panic!("{effects:?}") };
    assert!(!rig.life.judges(rig.now) && rig.life.judges(rig.now + timeout));
    rig.on(Event::Probed { id, answer: Answer::Good(String::new()) });
    // The tick for the deadline comes all the same, and finds no work.
    assert!(!rig.life.judges(rig.now + timeout));
    let mut rig = Rig::launching();
    rig.on(Event::Launched(Ok(booting())));
    let deadline = rig.life.wake_at().expect("a deadline of the boot");
    assert!(!rig.life.judges(rig.now) && rig.life.judges(deadline));
}

struct Rig {
    life: Life,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        Self { life: Life::new(spec().into(), false), now: Instant::now() }
    }

    fn launching() -> Self {
        let mut rig = Self::new();
        assert_eq!(rig.on(Event::Start(Mode::Launch)), [Effect::Lease]);
        rig.on(Event::Leased(Some(Ok(cid()))));
        rig
    }

    fn ready() -> Self {
        let mut rig = Self::launching();
        rig.on(Event::Launched(Ok(running())));
        rig
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        self.life.on(self.now, event)
    }

    fn ends(&mut self, event: Event) -> Exit {
        match self.on(event).pop() {
            Some(Effect::End(Ending::Exit(record))) => record.exit.clone(),
            other => panic!("the VM has ended? {other:?}"),
        }
    }
}

impl Rig {
    fn spare() -> Self {
        let spec = spec().of_spare(VmName::new("a-spare-1").expect("a name"));
        let mut rig = Self { life: Life::new(spec.into(), true), now: Instant::now() };
        assert_eq!(rig.on(Event::Start(Mode::Launch)), [Effect::Lease]);
        rig.on(Event::Leased(Some(Ok(cid()))));
        let effects = rig.on(Event::Launched(Ok(held(true))));
        assert!(
            matches!(
                effects[..],
                [Effect::Watch(_), Effect::Connect(_), Effect::Tell(Transition::SpareReady)]
            ),
            "{effects:?}"
        );
        assert_eq!(rig.life.wake_at(), None, "a spare waits for as long as it takes");
        rig
    }
}

/// Returns the record of a VM whose daemon is not started yet.
fn held(agent_is_up: bool) -> Box<StatusRecord> {
    let mut record = record(VmState::Starting, DaemonState::Held);
    record.agent.ready = agent_is_up;
    record
}

// semantics 8.2
#[test]
fn a_spare_takes_the_place_of_its_vm_in_one_request() {
    let mut rig = Rig::spare();
    assert_eq!(rig.on(Event::Status(held(true))), []);
    assert_eq!(rig.on(Event::Promote(spec().into())), [Effect::Promote]);
    assert_eq!(rig.life.spec().name, spec().name);
    // The daemon may be heard of before the answer.
    let effects = rig.on(Event::Status(running()));
    assert_eq!(effects, [Effect::Tell(Transition::Running), Effect::Tell(Transition::Ready)]);
    assert_eq!(rig.on(Event::Promoted(Ok(()))), []);
    assert_eq!(rig.ends(Event::Status(record(VmState::Failed, DaemonState::Exited))), Exit::code(3));
}

// semantics 8.4
#[test]
fn a_promotion_that_fails_is_no_end_of_the_daemon_and_leaves_no_spare() {
    let not_launched = |effects: Vec<Effect>| {
        let Some(Effect::End(Ending::NotLaunched { recoverable: true, .. })) = effects.last() else {
            panic!("{effects:?}")
        };
    };
    let both = [Effect::RemoveBoth { spare: VmName::new("a-spare-1").expect("a name") }];
    // The monitor refuses, or is lost.
    let mut rig = Rig::spare();
    rig.on(Event::Promote(spec().into()));
    assert_eq!(rig.on(Event::Promoted(Err("no".into()))), both);
    not_launched(rig.on(Event::Removed(Ok(()))));
    // The spare ends at that moment.
    let mut rig = Rig::spare();
    rig.on(Event::Promote(spec().into()));
    not_launched(rig.on(Event::Status(record(VmState::Failed, DaemonState::Held))));
    // It was on its way out before, or had no agent any more.
    let mut rig = Rig::spare();
    assert_eq!(rig.on(Event::Status(held(false))), [Effect::Remove]);
    assert_eq!(rig.on(Event::Promote(spec().into())), []);
    not_launched(rig.on(Event::Removed(Ok(()))));
    let mut rig = Rig::spare();
    rig.on(Event::MonitorLost("killed".into()));
    assert_eq!(rig.on(Event::Promote(spec().into())), both);
    not_launched(rig.on(Event::Removed(Ok(()))));
    // A stop is done whatever becomes of the promotion.
    let mut rig = Rig::spare();
    rig.on(Event::Promote(spec().into()));
    assert_eq!(rig.on(Event::Stop), both);
    assert_eq!(rig.on(Event::Promoted(Ok(()))), []);
    assert_eq!(rig.ends(Event::Removed(Ok(()))), Exit::StopRequested);
}

#[test]
fn a_launch_goes_from_lease_to_ready_and_connects_once() {
    let mut rig = Rig::launching();
    let effects = rig.on(Event::Launched(Ok(booting())));
    assert!(matches!(effects[..], [Effect::Watch(_), Effect::Connect(_)]), "{effects:?}");
    let effects = rig.on(Event::Status(running()));
    assert_eq!(effects, [Effect::Tell(Transition::Running), Effect::Tell(Transition::Ready)]);
    assert_eq!(rig.on(Event::Status(running())), []);
}

#[test]
fn a_stop_during_a_launch_undoes_it_when_the_launcher_has_answered() {
    for answer in [Ok(running()), Err(refused(CallErrorKind::Io))] {
        let mut rig = Rig::launching();
        assert_eq!(rig.on(Event::Stop), [Effect::CancelLaunch]);
        assert_eq!(rig.on(Event::Stop), []);
        assert_eq!(rig.on(Event::Launched(answer)), [Effect::Remove]);
        assert_eq!(rig.ends(Event::Removed(Ok(()))), Exit::StopRequested);
    }
    let mut rig = Rig::launching();
    rig.on(Event::Kill);
    assert_eq!(rig.ends(Event::Launched(Err(ExecutorError::Cancelled))), Exit::StopRequested);
}

#[test]
fn a_call_that_was_not_made_is_made_again_after_a_delay_and_a_stop_meanwhile_is_at_once() {
    let mut rig = Rig::launching();
    assert_eq!(rig.on(Event::Launched(Err(ExecutorError::Gone))), []);
    rig.now += RETRY_DELAY;
    assert_eq!(rig.life.wake_at(), Some(rig.now));
    assert_eq!(rig.on(Event::Tick), [Effect::Lease]);
    assert_eq!(rig.on(Event::Leased(Some(Ok(cid())))), [Effect::Launch(cid())]);
    rig.on(Event::Launched(Err(ExecutorError::Gone)));
    assert_eq!(rig.ends(Event::Stop), Exit::StopRequested);
}

#[test]
fn the_start_timeout_counts_from_the_first_call_of_the_launcher_and_not_while_the_launch_waits() {
    let mut rig = Rig::launching();
    let effects = rig.on(Event::LaunchGoesOn(LaunchStep::AwaitsDescriptors));
    let waits =
        |effects: &[Effect]| matches!(effects, [.., Effect::Facts(facts)] if facts.awaits_descriptors);
    assert!(waits(&effects), "{effects:?}");
    rig.now += spec().start.timeout * 5;
    let effects = rig.on(Event::LaunchGoesOn(LaunchStep::Called));
    assert!(!waits(&effects), "{effects:?}");
    let deadline = rig.now + spec().start.timeout;
    rig.now += spec().start.timeout / 2;
    let effects = rig.on(Event::Launched(Err(refused(CallErrorKind::CidTaken))));
    assert!(matches!(effects[..], [Effect::Notice(_), Effect::LeaseAnother]), "{effects:?}");
    rig.on(Event::Leased(Some(Ok(cid()))));
    rig.on(Event::LaunchGoesOn(LaunchStep::Called));
    assert_eq!(rig.life.launch_limit(rig.now), spec().start.timeout / 2, "the launch is given what is left");
    rig.on(Event::Launched(Ok(booting())));
    assert_eq!(rig.life.wake_at(), Some(deadline));
    rig.now = deadline;
    assert_eq!(rig.on(Event::Tick), [Effect::Remove]);
    assert_eq!(rig.on(Event::Removed(Ok(()))), [Effect::End(Ending::StartTimeout)]);
}

#[test]
fn a_launcher_that_has_not_answered_within_the_start_timeout_is_a_late_start() {
    let unanswered = || ExecutorError::Unanswered { program: "pepita".into(), what: "no answer".into() };
    let mut rig = Rig::launching();
    rig.on(Event::LaunchGoesOn(LaunchStep::Called));
    rig.now += spec().start.timeout;
    assert_eq!(rig.on(Event::Launched(Err(unanswered()))), [Effect::Remove]);
    assert_eq!(rig.on(Event::Removed(Ok(()))), [Effect::End(Ending::StartTimeout)]);
    // The launcher's own limit may be over before.
    let mut rig = Rig::launching();
    rig.on(Event::LaunchGoesOn(LaunchStep::Called));
    assert_eq!(rig.on(Event::Launched(Err(unanswered()))), [Effect::Remove]);
    let end = rig.on(Event::Removed(Ok(())));
    assert!(matches!(&end[..], [Effect::End(Ending::NotLaunched { recoverable: true, .. })]), "{end:?}");
}

#[test]
fn of_what_is_wanted_of_an_adoption_the_strongest_counts() {
    let adopting = || {
        let mut rig = Rig::new();
        assert_eq!(rig.on(Event::Start(Mode::Adopt)), [Effect::Adopt]);
        rig
    };
    let mut rig = adopting();
    // A kill waits for nothing.
    assert_eq!(rig.on(Event::Kill), [Effect::Remove]);
    assert_eq!(rig.on(Event::Stop), []);
    assert_eq!(rig.on(Event::Adopted(Ok(running()))), []);
    let mut rig = adopting();
    rig.on(Event::Stop);
    rig.now += spec().stop.timeout / 2;
    rig.on(Event::Adopted(Ok(running())));
    let effects = rig.on(Event::Status(running()));
    let Some(Effect::StopDaemon { grace, .. }) = effects.last() else { panic!("{effects:?}") };
    assert_eq!(*grace, spec().stop.timeout / 2, "the deadline does not move");
    let mut rig = adopting();
    assert_eq!(rig.ends(Event::Adopted(Err(refused(CallErrorKind::NoSuchVm)))), Exit::Unknown);
}

#[test]
fn a_vm_whose_files_cannot_be_read_is_given_up_and_not_removed() {
    for wanted in [None, Some(Event::Stop), Some(Event::Kill)] {
        let mut rig = Rig::new();
        rig.on(Event::Start(Mode::Adopt));
        wanted.into_iter().for_each(|event| drop(rig.on(event)));
        let mut effects = rig.on(Event::Adopted(Err(refused(CallErrorKind::Unreadable))));
        if effects.is_empty() || effects == [Effect::Remove] {
            // Told to stop or to kill, the actor asks the executor, which refuses.
            effects = rig.on(Event::Removed(Err(refused(CallErrorKind::Unreadable))));
        }
        let [Effect::Notice(_), Effect::End(Ending::Unreadable { .. })] = &effects[..] else {
            panic!("{effects:?}")
        };
    }
}

#[test]
fn a_lost_monitor_leads_to_an_adoption_and_a_new_line_to_the_guest() {
    let mut rig = Rig::ready();
    let effects = rig.on(Event::MonitorLost("it died".into()));
    assert!(matches!(effects[..], [Effect::Notice(_), Effect::Adopt]), "{effects:?}");
    let effects = rig.on(Event::Adopted(Ok(running())));
    assert!(matches!(effects[..], [Effect::Reserve(_), Effect::Watch(_)]), "{effects:?}");
    let effects = rig.on(Event::Status(running()));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Connect(_))), "{effects:?}");
}

// semantics 9.14
#[test]
fn an_adoption_that_fails_is_tried_again_and_ends_no_vm() {
    let mut rig = Rig::ready();
    rig.on(Event::MonitorLost("it died".into()));
    let errors =
        [CallErrorKind::TryAgain, CallErrorKind::Io, CallErrorKind::Timeout, CallErrorKind::Permission];
    let mut told = Vec::new();
    for attempt in 0..40 {
        let effects = rig.on(Event::Adopted(Err(refused(errors[attempt / 10]))));
        told.extend(effects);
        let at = rig.life.wake_at().expect("it is tried again");
        assert!(at > rig.now && at - rig.now <= ADOPTION_DELAY_MAX);
        rig.now = at;
        assert_eq!(rig.on(Event::Tick), [Effect::Adopt]);
    }
    // The same error is told once.
    assert!(matches!(told[..], [Effect::Notice(_), Effect::Tell(Transition::Unreachable)]), "{told:?}");
    rig.on(Event::Adopted(Ok(running())));
    let effects = rig.on(Event::Status(running()));
    assert_eq!(effects[0], Effect::Tell(Transition::Reached));
    assert!(effects.contains(&Effect::Tell(Transition::Ready)));
}

// semantics 9.14
#[test]
fn a_vm_whose_monitor_is_silent_is_left_as_it_is_until_the_monitor_answers() {
    let mut rig = Rig::new();
    rig.on(Event::Start(Mode::Adopt));
    rig.on(Event::Adopted(Ok(booting())));
    rig.now += MONITOR_PATIENCE;
    let effects = rig.on(Event::Tick);
    assert!(matches!(effects[..], [Effect::Tell(Transition::Unreachable), Effect::Notice(_)]), "{effects:?}");
    // No start timeout runs against a VM that cannot be seen.
    assert_eq!(rig.life.wake_at(), None);
    rig.now += spec().start.timeout * 9;
    assert_eq!(rig.on(Event::Tick), []);
    let effects = rig.on(Event::Status(running()));
    assert_eq!(effects[0], Effect::Tell(Transition::Reached));
    // A monitor that dies instead is replaced, and not in a loop without a pause.
    let mut rig = Rig::new();
    rig.on(Event::Start(Mode::Adopt));
    rig.on(Event::Adopted(Ok(booting())));
    let effects = rig.on(Event::MonitorLost("it died".into()));
    assert!(matches!(effects[..], [Effect::Notice(_)]), "{effects:?}");
    rig.now = rig.life.wake_at().expect("it is looked for");
    assert_eq!(rig.on(Event::Tick), [Effect::Adopt]);
}

// semantics 7.1, 9.14
#[test]
fn a_stop_of_a_vm_that_cannot_be_reached_ends_with_a_kill() {
    let silent = |rig: &mut Rig| drop(rig.on(Event::Adopted(Ok(running()))));
    let failing = |rig: &mut Rig| drop(rig.on(Event::Adopted(Err(refused(CallErrorKind::TryAgain)))));
    for fails in [silent as fn(&mut Rig), failing] {
        let mut rig = Rig::new();
        rig.on(Event::Start(Mode::Adopt));
        fails(&mut rig);
        let began = rig.now;
        assert_eq!(rig.on(Event::Stop), []);
        while !rig.on(Event::Tick).contains(&Effect::Remove) {
            rig.now = rig.life.wake_at().expect("the stop has a deadline").max(rig.now);
            assert!(rig.now <= began + spec().stop.timeout + Duration::from_secs(1));
        }
        assert_eq!(rig.ends(Event::Removed(Ok(()))), Exit::StopRequested);
    }
}

// semantics 7.4
#[test]
fn a_launch_without_an_answer_has_failed_only_when_nothing_of_it_is_left() {
    let program = || "pepita".into();
    for error in [
        ExecutorError::Unanswered { program: program(), what: "killed".into() },
        ExecutorError::NotPepita { program: program(), what: "no record".into() },
        // The monitor was killed before its answer.
        refused(CallErrorKind::Internal),
    ] {
        let mut rig = Rig::launching();
        assert_eq!(rig.on(Event::Launched(Err(error))), [Effect::Remove]);
        rig.on(Event::Removed(Err(refused(CallErrorKind::TryAgain))));
        rig.now += RETRY_DELAY;
        assert_eq!(rig.on(Event::Tick), [Effect::Remove]);
        let effects = rig.on(Event::Removed(Ok(())));
        assert!(matches!(effects[..], [Effect::End(Ending::NotLaunched { .. })]), "{effects:?}");
    }
}

// semantics 9.14, 1.7
#[test]
fn a_launcher_that_cannot_be_run_is_no_failure_of_the_vm_while_there_is_time() {
    let mut rig = Rig::launching();
    let deadline = rig.now + spec().start.timeout;
    let not_run = || ExecutorError::Call { program: "pepita".into(), what: "no process".into() };
    let mut told = Vec::new();
    let last = loop {
        let mut effects = rig.on(Event::Launched(Err(not_run())));
        if matches!(effects.last(), Some(Effect::End(_))) {
            break effects;
        }
        told.append(&mut effects);
        rig.now = rig.life.wake_at().expect("it is tried again");
        assert_eq!(rig.on(Event::Tick), [Effect::Lease]);
        assert_eq!(rig.on(Event::Leased(Some(Ok(cid())))), [Effect::Launch(cid())]);
    };
    assert!(matches!(told[..], [Effect::Notice(_)]), "told once: {told:?}");
    assert!(matches!(last[..], [Effect::End(Ending::NotLaunched { recoverable: true, .. })]), "{last:?}");
    assert!(rig.now < deadline && rig.now + RETRY_DELAY >= deadline);
}

#[test]
fn a_vm_that_ends_by_itself_is_gone_and_one_that_was_stopped_is_removed() {
    let over = || Event::Status(record(VmState::Failed, DaemonState::Exited));
    assert_eq!(Rig::ready().ends(over()), Exit::code(3));
    let mut rig = Rig::ready();
    rig.on(Event::Stop);
    assert_eq!(rig.on(over()), [Effect::Remove]);
}

#[test]
fn what_cannot_be_removed_is_tried_again_and_told() {
    let mut rig = Rig::ready();
    rig.on(Event::Kill);
    let began = rig.now;
    while rig.now < began + STILL_THERE_PERIOD {
        rig.on(Event::Removed(Err(refused(CallErrorKind::Timeout))));
        rig.now += RETRY_DELAY;
        assert!(rig.on(Event::Tick).contains(&Effect::Remove));
    }
    rig.now += STILL_THERE_PERIOD;
    assert!(matches!(rig.on(Event::Tick)[..], [Effect::Notice(_)]));
}

#[test]
fn a_pause_keeps_what_is_left_of_the_start() {
    let mut rig = Rig::launching();
    Arc::make_mut(&mut rig.life.spec).start.ready = Readiness::Notify;
    rig.on(Event::Launched(Ok(running())));
    rig.now += spec().start.timeout / 2;
    let paused = record(VmState::Paused, DaemonState::Running);
    assert_eq!(rig.on(Event::Status(paused)), [Effect::Tell(Transition::Paused)]);
    assert_eq!(rig.life.wake_at(), None);
    rig.now += spec().start.timeout * 9;
    assert_eq!(rig.on(Event::Status(running())), [Effect::Tell(Transition::Resumed)]);
    assert_eq!(rig.life.wake_at(), Some(rig.now + spec().start.timeout / 2));
}

fn good() -> Answer {
    Answer::Good("fine".into())
}

fn bad(why: &str) -> Answer {
    Answer::Bad(why.into())
}

fn failed(failures: u32, text: &str) -> Effect {
    Effect::Probed(ProbeStatus { healthy: false, failures, text: text.into() })
}

/// Returns a VM that is Ready at its first good probe, with its daemon running and its agent connected.
fn probed_first(start: Event, answer: Event) -> Rig {
    let mut rig = Rig::new();
    let mut own = spec();
    (own.start.ready, own.health.tcp) = (Readiness::Health, 80);
    rig.life.update(own.into());
    rig.on(start);
    rig.on(Event::Leased(Some(Ok(cid()))));
    let effects = [rig.on(answer), rig.on(Event::Status(running()))].concat();
    assert!(effects.contains(&Effect::Tell(Transition::Running)), "{effects:?}");
    assert!(!effects.contains(&Effect::Tell(Transition::Ready)), "{effects:?}");
    assert!(rig.life.wake_at() > Some(rig.now), "no probe while the agent cannot be asked");
    rig.on(Event::LinkIsUp(true));
    rig
}

// semantics 1.27
#[test]
fn a_vm_is_ready_at_its_first_good_probe_and_failed_ones_before_do_not_count() {
    let mut rig = probed_first(Event::Start(Mode::Launch), Event::Launched(Ok(running())));
    for id in 1..=9_u32 {
        assert_eq!(rig.life.wake_at(), Some(rig.now));
        assert_eq!(rig.on(Event::Tick), [Effect::Probe(id.into())]);
        assert_eq!(rig.on(Event::Probed { id: id.into(), answer: bad("no") }), [failed(id, "no")]);
        rig.now = rig.life.wake_at().expect("the next one");
    }
    assert_eq!(rig.on(Event::Tick), [Effect::Probe(10)]);
    let effects = rig.on(Event::Probed { id: 10, answer: good() });
    assert!(matches!(effects[..], [Effect::Probed(_), Effect::Tell(Transition::Ready)]), "{effects:?}");
    // From now on the interval counts, and three failures.
    let mut told = Vec::new();
    for id in 11..=13 {
        rig.now = rig.life.wake_at().expect("a probe");
        assert_eq!(rig.on(Event::Tick), [Effect::Probe(id)]);
        told = rig.on(Event::Probed { id, answer: bad("gone") });
    }
    assert!(
        matches!(&told[..], [probed, Effect::Tell(Transition::Unhealthy), Effect::StopDaemon { .. }]
            if *probed == failed(3, "gone")),
        "{told:?}"
    );
}

// semantics 1.27, 1.7
#[test]
fn a_vm_that_is_never_well_is_not_ready_in_time_and_one_that_was_found_is_judged_by_its_probes() {
    let ends = |rig: &mut Rig| {
        let deadline = rig.now + spec().start.timeout;
        let mut last = Vec::new();
        while rig.now < deadline {
            rig.now = rig.life.wake_at().expect("a probe, or the deadline");
            last = rig.on(Event::Tick);
            if let [Effect::Probe(id)] = last[..] {
                rig.on(Event::Probed { id, answer: bad("no") });
            }
        }
        last
    };
    let mut rig = probed_first(Event::Start(Mode::Launch), Event::Launched(Ok(running())));
    assert_eq!(ends(&mut rig), [Effect::Remove]);
    assert!(matches!(&rig.life.phase, Phase::Removing { ending: Ending::StartTimeout, .. }));
    let mut rig = probed_first(Event::Start(Mode::Adopt), Event::Adopted(Ok(running())));
    assert_eq!(ends(&mut rig), [Effect::Tell(Transition::Ready)]);
}

#[test]
fn an_agent_that_is_too_old_for_a_check_is_told_once_and_counts_as_a_ping() {
    let mut rig = probed_first(Event::Start(Mode::Launch), Event::Launched(Ok(running())));
    rig.on(Event::Tick);
    let effects = rig.on(Event::Probed { id: 1, answer: Answer::TooOld });
    let [Effect::Notice(text), Effect::Probed(probe), Effect::Tell(Transition::Ready)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert!(text.contains("too old for health.tcp") && text.contains("build its image anew"), "{text}");
    assert!(probe.healthy && probe.text.contains("too old"), "{probe:?}");
    rig.now = rig.life.wake_at().expect("a probe");
    rig.on(Event::Tick);
    assert_eq!(rig.on(Event::Probed { id: 2, answer: Answer::TooOld }), []);
}

fn event() -> impl Strategy<Value = Event> {
    let kinds =
        [CallErrorKind::CidTaken, CallErrorKind::NameTaken, CallErrorKind::NoSuchVm, CallErrorKind::Io];
    let error = move || {
        prop_oneof![
            proptest::sample::select(kinds.to_vec()).prop_map(refused),
            Just(ExecutorError::Gone),
            Just(ExecutorError::Cancelled),
        ]
    };
    let states = [
        VmState::Unknown,
        VmState::Starting,
        VmState::Running,
        VmState::Paused,
        VmState::Stopping,
        VmState::Failed,
    ];
    let daemons = [DaemonState::Pending, DaemonState::Running, DaemonState::Ready, DaemonState::Exited];
    let status = move || {
        let state = proptest::sample::select(states.to_vec());
        (state, proptest::sample::select(daemons.to_vec())).prop_map(|(state, daemon)| record(state, daemon))
    };
    let answer = move || prop_oneof![status().prop_map(Ok), error().prop_map(Err)];
    prop_oneof![
        proptest::sample::select(vec![Mode::Launch, Mode::Adopt]).prop_map(Event::Start),
        proptest::option::of(prop_oneof![Just(Ok(cid())), Just(Err("none".to_owned()))])
            .prop_map(Event::Leased),
        answer().prop_map(Event::Launched),
        answer().prop_map(Event::Adopted),
        status().prop_map(Event::Status),
        Just(Event::MonitorLost("it died".into())),
        any::<bool>().prop_map(Event::LinkIsUp),
        (0_u64..3, proptest::sample::select(vec![bad("no"), good(), Answer::TooOld]))
            .prop_map(|(id, answer)| Event::Probed { id, answer }),
        Just(Event::Stop),
        Just(Event::Kill),
        prop_oneof![Just(Ok(())), error().prop_map(Err)].prop_map(Event::Removed),
        Just(Event::Tick),
        Just(Event::Tick),
    ]
}

proptest! {
    #[test]
    fn in_whatever_order_events_come_an_incarnation_ends_at_most_once_and_last(
        ready in proptest::sample::select(vec![Readiness::Started, Readiness::Notify, Readiness::Health]),
        steps in proptest::collection::vec((event(), 0_u64..20_000), 0..60),
    ) {
        let mut rig = Rig::new();
        Arc::make_mut(&mut rig.life.spec).start.ready = ready;
        let mut ended = false;
        for (event, millis) in steps {
            rig.now += Duration::from_millis(millis);
            let effects = rig.on(event);
            prop_assert!(!ended || effects.is_empty(), "{effects:?} after the end");
            let ends = effects.iter().filter(|effect| matches!(effect, Effect::End(_))).count();
            prop_assert!(ends == 0 || (ends == 1 && matches!(effects.last(), Some(Effect::End(_)))));
            ended |= ends > 0;
            prop_assert!(!ended || rig.life.wake_at().is_none());
        }
    }
}
