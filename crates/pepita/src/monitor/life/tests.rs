//! The life of a VM, event by event.

use super::end::VMM_EXIT;
use super::phase::UNASKED_DIAL;
use super::stop::{AFTER_GRACE, COME_BACK, KILL_AGAIN, TERM_TO_KILL};
use super::*;
use crate::monitor::evidence::LastWords;
use pepita_wire::agent::{Health, Stop};
use pepita_wire::{Ask, ErrorKind, Exit, GuestEvent, ProcessExit, Signal, WireError};

mod pairs;

fn request(hold: bool) -> VmRequest {
    VmRequest { hold, ready_timeout_ms: 5000, ..crate::vm_config::tests::request() }
}

struct World {
    life: Life,
    now: Instant,
}

impl World {
    fn new(hold: bool) -> Self {
        let now = Instant::now();
        Self { life: Life::new(&request(hold), StatusRecord::default(), now), now }
    }

    fn after(mut self, event: Event) -> Self {
        self.on(event);
        self
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        self.life.on(self.now, 1_000_000, event)
    }

    fn up(&mut self) -> Vec<Effect> {
        self.on(Event::VmmUp);
        self.on(Event::AgentUp { protocol_version: 1 })
    }

    fn said(&mut self, seq: u64, event: GuestEvent) -> Vec<Effect> {
        self.on(Event::AgentSaid { seq, event })
    }

    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        self.on(Event::Tick)
    }

    fn state(&self) -> VmState {
        self.life.status(self.now).state
    }

    /// Returns the exit of the VM.
    fn exit(&self) -> Option<Exit> {
        self.life.status(self.now).exit.map(|record| record.exit)
    }
}

fn running() -> World {
    let started = Event::AgentSaid { seq: 1, event: GuestEvent::Started { pid: 42 } };
    World::new(false).after(Event::VmmUp).after(Event::AgentUp { protocol_version: 1 }).after(started)
}

fn exited(code: i32) -> Event {
    Event::AgentSaid { seq: 2, event: GuestEvent::Exited(Exit::code(code)) }
}

fn ended(code: Option<i32>, signal: Option<i32>) -> Event {
    let vmm = Some(ProcessExit { code, signal });
    let console = vec!["last".to_owned()];
    Event::VmmEnded(LastWords { vmm, console, ..LastWords::default() })
}

fn killed() -> Event {
    ended(None, Some(9))
}

fn stop(seconds: u64) -> Event {
    Event::Stop { signal: Signal::TERM, grace: Duration::from_secs(seconds) }
}

#[test]
fn a_boot_leads_to_a_running_daemon() {
    let mut world = World::new(false);
    assert_eq!(world.state(), VmState::Created);
    assert_eq!(world.on(Event::Noted(Note::Up)), [Effect::Dial]);
    let effects = world.up();
    assert!(matches!(effects[..], [Effect::Tell(Ask::SetTime { .. }), Effect::StartDaemon(_)]));
    assert_eq!(world.state(), VmState::Starting);
    world.said(1, GuestEvent::Started { pid: 42 });
    assert_eq!(world.state(), VmState::Running);
    let revision = world.life.revision();
    world.said(2, GuestEvent::Ready);
    assert!(world.life.revision() > revision);
}

#[test]
fn a_held_daemon_is_not_started_by_its_monitor() {
    let mut world = World::new(true);
    assert!(!world.up().iter().any(|e| matches!(e, Effect::StartDaemon(_))));
    assert_eq!(
        (world.state(), world.life.status(world.now).daemon.state),
        (VmState::Starting, DaemonState::Held)
    );
    // A client starts the daemon through the agent, and the agent reports the start.
    world.said(1, GuestEvent::Started { pid: 42 });
    assert_eq!(world.state(), VmState::Running);
}

#[test]
fn an_agent_that_does_not_come_is_a_boot_timeout() {
    let mut world = World::new(false);
    world.on(Event::VmmUp);
    assert_eq!(world.pass(Duration::from_millis(4999)), []);
    // While the virtual CPUs are paused, the boot clock is stopped.
    world.on(Event::Vcpus(VcpuState::Paused));
    assert_eq!(world.pass(Duration::from_millis(10)), []);
    world.on(Event::Vcpus(VcpuState::Running));
    assert_eq!(world.pass(Duration::from_millis(1)), [Effect::KillVmm]);
    world.on(killed());
    let exit = world.life.status(world.now).exit.expect("the VM has ended");
    assert_eq!(exit.exit, Exit::BootTimeout);
    assert!(exit.evidence[0].starts_with("the guest ended before its first word"), "{:?}", exit.evidence);
    assert!(exit.evidence.iter().any(|text| text == "the agent said nothing on the console either"));
}

#[test]
fn a_guest_that_its_vmm_has_stopped_is_killed_and_is_not_shown_as_paused() {
    let mut world = running();
    assert_eq!(world.on(Event::VmmStopped), []);
    assert_ne!(world.state(), VmState::Paused);
    assert_eq!(world.pass(VMM_EXIT), [Effect::KillVmm]);
    world.on(killed());
    let exit = world.life.status(world.now).exit.expect("the VM has ended");
    assert!(matches!(exit.exit, Exit::VmmCrashed(_)), "{:?}", exit.exit);
    assert!(exit.evidence[0].starts_with("the VMM stopped the guest"), "{:?}", exit.evidence);
}

#[test]
fn a_vmm_that_stops_its_guest_on_the_way_to_its_own_end_is_judged_by_that_end() {
    let mut world = running().after(Event::VmmStopped).after(Event::Shutdown("guest-panic".into()));
    world.on(ended(Some(0), None));
    assert!(matches!(world.exit(), Some(Exit::GuestPanic { .. })), "{:?}", world.exit());
}

#[test]
fn an_error_of_the_hosts_disk_is_told_once_and_ends_nothing() {
    let mut world = running();
    let revision = world.life.revision();
    for _ in 0..3 {
        assert_eq!(world.on(Event::DiskError("write: full".into())), []);
    }
    let status = world.life.status(world.now);
    assert_eq!((status.state, status.disk_error.as_deref()), (VmState::Running, Some("write: full")));
    assert_eq!(world.life.revision(), revision + 1);
    world.on(killed());
    let exit = world.life.status(world.now).exit.expect("the VM has ended");
    assert!(exit.evidence[0].ends_with("write: full"), "{:?}", exit.evidence);
}

#[test]
fn a_stop_has_one_deadline_and_a_kill_overtakes_it() {
    let mut world = World::new(false);
    world.up();
    world.said(1, GuestEvent::Started { pid: 42 });
    assert!(matches!(world.on(stop(10))[..], [Effect::Tell(Ask::Stop(_))]));
    assert_eq!(world.state(), VmState::Stopping);
    world.pass(Duration::from_secs(5));
    world.on(stop(10));
    assert_eq!(world.pass(Duration::from_secs(5) + AFTER_GRACE), [Effect::TermVmm]);
    assert_eq!(world.pass(TERM_TO_KILL), [Effect::KillVmm]);
    world.on(killed());
    assert_eq!(world.state(), VmState::Stopped);

    let mut world = World::new(false);
    world.up();
    world.said(1, GuestEvent::Started { pid: 42 });
    world.on(stop(100));
    assert_eq!(world.on(Event::Kill), [Effect::KillVmm]);
    world.on(killed());
    assert_eq!(world.exit(), Some(Exit::Killed));
}

/// Returns what is done with a client's signal, and carries it out as the monitor does.
fn signal(world: &mut World, signal: Signal) -> Result<Vec<Effect>, ErrorKind> {
    match world.life.route(signal) {
        Route::Ask(ask) => Ok(vec![Effect::Tell(ask)]),
        Route::Accept(event) => Ok(world.on(event)),
        Route::Refuse(refusal) => Err(refusal.kind),
    }
}

fn tell(signal: Signal) -> Effect {
    Effect::Tell(Ask::Signal(signal))
}

#[test]
fn a_signal_that_asks_for_the_end_of_a_vm_that_boots_is_a_stop() {
    for number in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut world = World::new(false).after(Event::VmmUp);
        assert_eq!(signal(&mut world, number), Ok(vec![Effect::TermVmm]), "{number}");
        world.on(ended(Some(0), None));
        assert_eq!((world.exit(), world.state()), (Some(Exit::StopRequested), VmState::Stopped));
    }
    // The agent is up, and whether the daemon runs is not known yet: the agent is asked to stop it.
    let mut world = World::new(false);
    world.up();
    let effects = signal(&mut world, Signal::TERM);
    assert_eq!(effects, Ok(vec![Effect::Tell(Ask::Stop(Stop { signal: Signal::TERM, grace_ms: 30_000 }))]));
    // A daemon that waits for `pepita start` needs no grace either.
    let mut world = World::new(true).after(Event::VmmUp);
    assert_eq!(signal(&mut world, Signal::TERM), Ok(vec![Effect::TermVmm]));
}

#[test]
fn other_signals_to_a_vm_that_boots_reach_the_daemon_when_it_runs_each_once() {
    let mut world = World::new(false);
    for number in [Signal::HUP, Signal::USR1, Signal::HUP] {
        assert_eq!(signal(&mut world, number), Ok(vec![]));
    }
    assert!(!world.up().contains(&tell(Signal::HUP)), "the daemon does not run yet");
    let sent = world.said(1, GuestEvent::Started { pid: 42 });
    assert_eq!(sent, [tell(Signal::HUP), tell(Signal::USR1)]);
    assert_eq!(signal(&mut world, Signal::USR2), Ok(vec![tell(Signal::USR2)]));
}

#[test]
fn a_signal_waits_for_an_agent_that_cannot_be_reached_for_a_moment() {
    let mut world = running().after(Event::AgentDown);
    assert_eq!(signal(&mut world, Signal::TERM), Ok(vec![]));
    assert!(world.on(Event::AgentUp { protocol_version: 1 }).contains(&tell(Signal::TERM)));
    assert!(!world.on(Event::AgentUp { protocol_version: 1 }).contains(&tell(Signal::TERM)), "sent once");
}

#[test]
fn a_signal_that_cannot_arrive_is_refused() {
    let real_time = Signal::new(40).expect("a signal");
    assert_eq!(signal(&mut World::new(false), real_time), Err(ErrorKind::BadRequest));
    assert_eq!(signal(&mut running().after(exited(0)), Signal::HUP), Err(ErrorKind::Conflict));
}

#[test]
fn a_signal_to_a_daemon_that_is_paused_is_refused_and_not_kept() {
    for before in [running(), running().after(Event::AgentDown)] {
        let mut world = before.after(Event::Vcpus(VcpuState::Paused));
        assert_eq!(signal(&mut world, Signal::TERM), Err(ErrorKind::Conflict));
        world.on(Event::Vcpus(VcpuState::Running));
        assert!(!world.on(Event::AgentUp { protocol_version: 1 }).contains(&tell(Signal::TERM)));
        assert_eq!(signal(&mut world, Signal::TERM), Ok(vec![tell(Signal::TERM)]));
    }
    // Before the daemon runs, a pause changes nothing: the VM is stopped, or the daemon gets the signal when it runs.
    let mut world = World::new(false).after(Event::VmmUp).after(Event::Vcpus(VcpuState::Paused));
    assert_eq!(signal(&mut world, Signal::HUP), Ok(vec![]));
    assert_eq!(signal(&mut world, Signal::TERM), Ok(vec![Effect::Resume, Effect::TermVmm]));
}

#[test]
fn a_signal_whose_answer_is_lost_was_no_failure_when_the_daemon_has_ended() {
    let lost = |world: &World, is_signal| world.life.unanswered(is_signal).map_err(|e| e.kind);
    assert_eq!(lost(&running(), true), Err(ErrorKind::Os), "the daemon may never have got it");
    let ended = running().after(Event::Noted(Note::Exited(Exit::signal(1))));
    assert_eq!((lost(&ended, true), lost(&ended, false)), (Ok(()), Err(ErrorKind::Os)));
}

#[test]
fn an_agent_that_is_too_old_for_the_world_that_is_asked_for_is_told_as_that() {
    let mut world = running();
    let unknown = WireError::new(ErrorKind::Unsupported, "unknown method \"start_in_world\"");
    world.on(Event::StartAnswered(Err(unknown)));
    let why = world.life.evidence.agent_failed.expect("a reason");
    assert!(why.contains("too old") && why.contains("build the image anew"), "{why}");
}

#[test]
fn a_held_daemon_that_is_to_start_while_its_guest_boots_starts_when_the_agent_is_up() {
    let mut world = World::new(true);
    assert!(world.life.must_wait_to_start());
    let start = Start { command: vec!["/d".into()], ..Start::default() };
    assert_eq!(world.on(Event::Start(start.clone())), []);
    assert!(world.up().contains(&Effect::StartDaemon(start)));
    assert!(!world.life.must_wait_to_start());
}

#[test]
fn a_guest_that_has_not_booted_gets_no_grace() {
    let mut world = World::new(false);
    world.on(Event::VmmUp);
    assert_eq!(world.on(stop(30)), [Effect::TermVmm]);
}

#[test]
fn a_daemon_that_asks_for_more_time_while_it_stops_gets_it_and_never_less() {
    // semantics 7.14
    let extend = |seconds: u64| {
        GuestEvent::Health(Health { extend_timeout_us: Some(seconds * 1_000_000), ..Health::default() })
    };
    let mut world = running();
    world.said(2, extend(100));
    world.on(stop(5));
    world.pass(Duration::from_secs(1));
    world.said(3, extend(20));
    world.said(4, extend(1));
    assert_eq!(world.pass(Duration::from_secs(20)), []);
    assert_eq!(world.pass(AFTER_GRACE), [Effect::TermVmm]);
}

#[test]
fn what_the_agent_advises_is_in_the_exit_record_and_a_main_process_is_followed() {
    let mut world = running();
    world.said(2, GuestEvent::Health(Health { main_pid: Some(77), ..Health::default() }));
    assert_eq!(world.life.status(world.now).daemon.pid, Some(77));
    let advice = Some("ended with 0 after 20 ms; it must stay in the foreground".to_owned());
    world.said(3, GuestEvent::Health(Health { advice: advice.clone(), ..Health::default() }));
    world.on(exited(0));
    world.on(ended(Some(0), None));
    let record = world.life.status(world.now).exit.expect("the VM has ended");
    assert_eq!((&record.exit, &record.advice), (&Exit::code(0), &advice));
}

#[test]
fn an_exit_is_acknowledged_and_kept_exact() {
    let mut world = World::new(false);
    world.up();
    world.said(1, GuestEvent::Started { pid: 42 });
    let effects = world.said(2, GuestEvent::Exited(Exit::code(3)));
    assert_eq!(effects, [Effect::Tell(Ask::Ack { seq: 2 })]);
    // A stop after the report has not caused the end of the daemon.
    world.on(Event::Stop { signal: Signal::TERM, grace: Duration::ZERO });
    let effects = world.on(ended(Some(0), None));
    let [Effect::Finish(exit)] = &effects[..] else { panic!("finished: {effects:?}") };
    assert_eq!((&exit.exit, exit.daemon_exit()), (&Exit::code(3), Some(&Exit::code(3))));
    assert_eq!(world.state(), VmState::Failed);
}

#[test]
fn a_dead_back_end_ends_the_vm_unless_it_was_ending_anyway() {
    let mut world = World::new(false);
    world.up();
    assert_eq!(world.on(Event::BackendEnded { vmm_is_exiting: false }), [Effect::KillVmm]);
    world.on(killed());
    assert_eq!(world.exit(), Some(Exit::TransportLost));
}

#[test]
fn a_resumed_guest_gets_the_time() {
    let mut world = World::new(false);
    world.up();
    world.on(Event::Vcpus(VcpuState::Paused));
    assert_eq!(world.state(), VmState::Paused);
    assert!(matches!(world.on(Event::Vcpus(VcpuState::Running))[..], [Effect::Tell(Ask::SetTime { .. })]));
}

#[test]
fn a_back_end_that_went_with_its_vmm_is_not_to_blame() {
    let exit_after = |after: Duration| {
        let mut world = World::new(false);
        world.up();
        assert_eq!(world.on(Event::BackendEnded { vmm_is_exiting: true }), []);
        let effects = world.pass(after);
        world.on(killed());
        (effects, world.exit())
    };
    assert_eq!(
        exit_after(Duration::from_millis(5)),
        (vec![], Some(Exit::VmmCrashed(ProcessExit { code: None, signal: Some(9) })))
    );
    assert_eq!(exit_after(VMM_EXIT), (vec![Effect::KillVmm], Some(Exit::TransportLost)));
}

#[test]
fn an_adopted_vm_that_had_booted_is_not_expected_to_boot_again() {
    let now = Instant::now();
    let mut status = StatusRecord { revision: 7, uptime_ms: 9000, ..StatusRecord::default() };
    status.daemon.state = DaemonState::Ready;
    status.boot_ms.agent = Some(900);
    let mut life = Life::adopt(&request(true), status.clone(), now);
    assert_eq!((life.status(now).state, life.status(now).revision), (VmState::Running, 8));
    assert_eq!(life.on(now + Duration::from_secs(60), 0, Event::Tick), [Effect::Dial]);
    status.boot_ms.agent = None;
    let mut life = Life::adopt(&request(false), status, now);
    assert!(life.on(now, 0, Event::Tick).contains(&Effect::KillVmm));
}

#[test]
fn an_agent_that_comes_back_on_the_way_down_is_told_to_stop_within_the_same_deadline() {
    let mut world = World::new(false);
    world.up();
    world.said(1, GuestEvent::Started { pid: 42 });
    world.on(Event::AgentDown);
    assert_eq!(world.on(stop(5)), [Effect::Dial]);
    world.pass(Duration::from_millis(100));
    let effects = world.on(Event::AgentUp { protocol_version: 1 });
    assert_eq!(effects[1..], [Effect::Tell(Ask::Stop(Stop { signal: Signal::TERM, grace_ms: 4900 }))]);
    assert_eq!(world.pass(Duration::from_millis(4800)), []);
    assert_eq!(world.pass(Duration::from_millis(100) + AFTER_GRACE), [Effect::TermVmm]);
}

#[test]
fn an_agent_that_does_not_come_back_gets_no_grace() {
    let mut world = World::new(false);
    world.up();
    world.said(1, GuestEvent::Started { pid: 42 });
    world.on(Event::AgentDown);
    world.on(stop(5));
    assert_eq!(world.pass(COME_BACK), [Effect::TermVmm]);
}

#[test]
fn nothing_happens_after_the_end() {
    let mut world = running().after(killed());
    let status = world.life.status(world.now);
    assert!(!status.agent.ready && status.vcpus.is_none() && status.daemon.pid.is_none(), "{status:?}");
    assert_eq!(status.exit.as_ref().map(|exit| exit.console.clone()), Some(vec!["last".to_owned()]));
    for event in [Event::Kill, stop(1), Event::Tick, exited(0), killed(), Event::Vcpus(VcpuState::Paused)] {
        assert_eq!(world.on(event), []);
    }
    assert_eq!((world.life.status(world.now), world.life.wake_at()), (status, None));
}

#[test]
fn the_first_report_over_vsock_holds_and_outweighs_the_console() {
    let noted = |code| Event::Noted(Note::Exited(Exit::code(code)));
    let guest = |world: &mut World| {
        world.on(killed());
        world.life.status(world.now).exit.map(|record| record.exit)
    };
    assert_eq!(guest(&mut running().after(noted(1)).after(exited(2)).after(exited(3))), Some(Exit::code(2)));
    assert_eq!(guest(&mut running().after(exited(2)).after(noted(1))), Some(Exit::code(2)));
    assert_eq!(guest(&mut running().after(noted(1)).after(noted(2))), Some(Exit::code(1)));
}

#[test]
fn a_stop_after_a_kill_does_not_make_the_end_graceful() {
    let world = running().after(Event::Kill).after(stop(10)).after(killed());
    assert_eq!(world.exit(), Some(Exit::Killed));
    let world = running().after(stop(10)).after(Event::Kill).after(killed());
    assert_eq!(world.exit(), Some(Exit::Killed));
}

#[test]
fn a_daemon_that_has_ended_may_linger_no_longer_because_a_stop_is_asked_for() {
    let mut world = running().after(exited(0));
    assert_eq!(world.on(stop(60)), [Effect::Tell(Ask::PowerOff)]);
    assert_eq!(world.pass(phase::LINGER), [Effect::TermVmm]);
    world.on(killed());
    assert_eq!(world.exit(), Some(Exit::code(0)));
}

#[test]
fn an_agent_whose_note_was_missed_is_dialled_unasked_but_not_on_the_way_out() {
    let mut world = World::new(false);
    assert_eq!(world.pass(UNASKED_DIAL - Duration::from_millis(1)), []);
    let mut world = World {
        life: Life::new(
            &VmRequest { ready_timeout_ms: 60_000, ..request(false) },
            StatusRecord::default(),
            world.now,
        ),
        ..world
    };
    world.on(Event::VmmUp);
    assert_eq!(
        (world.pass(2 * UNASKED_DIAL), world.life.agent.dial_at()),
        (vec![], None),
        "its drivers may start now"
    );
    world.on(Event::ConsoleSpoke);
    assert_eq!(world.pass(UNASKED_DIAL - Duration::from_millis(1)), []);
    assert_eq!(world.pass(Duration::from_millis(1)), [Effect::Dial]);
    assert_eq!(world.life.wake_at(), Some(world.now + UNASKED_DIAL));
    world.on(Event::Kill);
    assert_eq!(world.on(Event::Noted(Note::Up)), []);
}

#[test]
fn an_adopted_vm_whose_daemon_had_ended_is_helped_to_its_end() {
    let now = Instant::now();
    let mut status = StatusRecord::default();
    status.daemon.state = DaemonState::Exited;
    status.boot_ms.agent = Some(900);
    let mut life = Life::adopt(&request(false), status, now);
    assert_eq!(life.status(now).state, VmState::Stopping);
    assert_eq!(life.on(now, 0, Event::Tick), [Effect::Dial]);
    assert_eq!(life.on(now + phase::LINGER, 0, Event::Tick)[0], Effect::TermVmm);
}

#[test]
fn an_adopted_vm_that_stands_still_does_not_lose_its_time_to_boot() {
    let now = Instant::now();
    let status = StatusRecord { state: VmState::Paused, uptime_ms: 4000, ..StatusRecord::default() };
    let mut life = Life::adopt(&request(false), status, now);
    assert_eq!(life.status(now).state, VmState::Paused);
    let later = now + Duration::from_secs(60);
    assert_eq!(life.on(later, 0, Event::Tick), [Effect::Dial]);
    assert!(matches!(
        life.on(later, 0, Event::Vcpus(VcpuState::Running))[..],
        [Effect::Tell(Ask::SetTime { .. })]
    ));
    assert_eq!(life.wake_at(), Some(later + Duration::from_secs(1)));
}

#[test]
fn a_guest_is_told_the_time_when_the_host_s_clock_was_set() {
    let mut world = World::new(false).after(Event::VmmUp);
    assert_eq!(world.on(Event::ClockRang), [], "nobody hears it yet");
    world.up();
    assert!(matches!(world.on(Event::ClockRang)[..], [Effect::Tell(Ask::SetTime { .. })]));
    world.on(Event::Vcpus(VcpuState::Paused));
    assert_eq!(world.on(Event::ClockRang), []);
    assert!(matches!(world.on(Event::Vcpus(VcpuState::Running))[..], [Effect::Tell(Ask::SetTime { .. })]));
}

#[test]
fn a_plain_process_is_not_given_the_time() {
    let now = Instant::now();
    let request = VmRequest { vmm: VmmKind::Process, ..request(false) };
    let mut life = Life::new(&request, StatusRecord::default(), now);
    life.on(now, 0, Event::VmmUp);
    assert!(matches!(life.on(now, 0, Event::AgentUp { protocol_version: 1 })[..], [Effect::StartDaemon(_)]));
    life.on(now, 0, Event::Vcpus(VcpuState::Paused));
    assert_eq!(life.on(now, 0, Event::Vcpus(VcpuState::Running)), []);
    assert_eq!(life.on(now, 0, Event::ClockRang), []);
}

fn with_a_disk(hold: bool) -> World {
    let disk = crate::vm_config::Disk {
        name: "data".into(),
        file: "/d".into(),
        dir: None,
        size_mb: None,
        mount: "/data".into(),
        read_only: false,
    };
    let (request, now) = (VmRequest { disks: vec![disk], ..request(hold) }, Instant::now());
    World { life: Life::new(&request, StatusRecord::default(), now), now }
}

#[test]
fn the_daemon_starts_when_its_disks_are_mounted_and_not_before() {
    let mut world = with_a_disk(false);
    let effects = world.up();
    assert!(matches!(&effects[..], [Effect::Tell(_), Effect::Mount(mounts)] if mounts[0].mark == "data"));
    // The answer was lost with the connection: the agent is asked again.
    world.on(Event::MountAnswered(Err(WireError::new(ErrorKind::Os, "the agent hung up"))));
    world.on(Event::AgentDown);
    let again = world.on(Event::AgentUp { protocol_version: 1 });
    assert!(matches!(again[..], [Effect::Tell(_), Effect::Mount(_)]), "{again:?}");
    assert!(matches!(world.on(Event::MountAnswered(Ok(())))[..], [Effect::StartDaemon(_)]));
    assert_eq!(world.pass(phase::LINGER), []);

    let mut held = with_a_disk(true);
    held.up();
    assert!(held.life.must_wait_to_start());
    let start = Start { command: vec!["/d".into()], ..Start::default() };
    assert_eq!(held.on(Event::Start(start.clone())), []);
    assert_eq!(held.on(Event::MountAnswered(Ok(()))), [Effect::StartDaemon(start)]);
}

#[test]
fn a_disk_that_cannot_be_mounted_ends_the_vm_with_the_reason() {
    let refuse = |kind, message: &str| {
        let mut world = with_a_disk(false);
        world.up();
        let effects = world.on(Event::MountAnswered(Err(WireError::new(kind, message))));
        assert_eq!(effects, [Effect::Tell(Ask::PowerOff)]);
        world.on(Event::Shutdown("guest-reset".into()));
        world.on(ended(Some(0), None));
        world.exit()
    };
    let lost = |message: &str| Some(Exit::AgentLost { message: message.into() });
    assert_eq!(refuse(ErrorKind::Conflict, "disk data: no"), lost("disk data: no"));
    let old = refuse(ErrorKind::Unsupported, "unknown method \"mount\"");
    assert_eq!(old, lost("the agent in this image is too old for disks and shares; build the image again"));
}

#[test]
fn a_guest_with_disks_has_more_time_to_power_off() {
    let mut world = with_a_disk(false);
    world.up();
    world.on(Event::MountAnswered(Ok(())));
    world.said(1, GuestEvent::Started { pid: 42 });
    world.on(exited(0));
    assert_eq!(world.pass(phase::LINGER), []);
    assert_eq!(world.pass(Duration::from_secs(60)), [Effect::TermVmm]);
}
