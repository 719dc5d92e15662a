//! A VM's life, event by event.

use super::*;
use pepita_wire::{Exit, ProcessExit};

fn plan(hold: bool) -> VmConfig {
    VmConfig { hold, ready_timeout_ms: 5000, ..crate::vm_config::tests::plan() }
}

struct World {
    life: Life,
    now: Instant,
}

impl World {
    fn new(hold: bool) -> Self {
        let now = Instant::now();
        Self { life: Life::new(&plan(hold), StatusRecord::default(), now), now }
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        self.life.on(self.now, 1_000_000, event)
    }

    fn up(&mut self) -> Vec<Effect> {
        self.on(Event::VmmUp);
        self.on(Event::AgentUp { generation: 1 })
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
}

fn killed() -> Event {
    Event::VmmEnded(VmmEnd::Seen(ProcessExit { code: None, signal: Some(9) }))
}

#[test]
fn a_boot_leads_to_a_running_daemon() {
    let mut world = World::new(false);
    assert_eq!(world.state(), VmState::Created);
    assert_eq!(world.on(Event::Noted(Note::Up)), [Effect::Dial]);
    let effects = world.up();
    assert!(matches!(effects[..], [Effect::Ask(Ask::SetTime { .. }), Effect::Ask(Ask::Start(_))]));
    assert_eq!(world.state(), VmState::Starting);
    world.said(1, GuestEvent::Started { pid: 42 });
    assert_eq!(world.state(), VmState::Running);
    let generation = world.life.generation();
    world.said(2, GuestEvent::Ready);
    assert!(world.life.generation() > generation);
}

#[test]
fn a_held_daemon_is_started_when_it_is_asked_for() {
    let mut world = World::new(true);
    assert!(!world.up().iter().any(|e| matches!(e, Effect::Ask(Ask::Start(_)))));
    assert_eq!(world.on(Event::Start(Start::default())).len(), 1);
}

#[test]
fn an_agent_that_does_not_come_is_a_boot_timeout() {
    let mut world = World::new(false);
    world.on(Event::VmmUp);
    assert_eq!(world.pass(Duration::from_millis(4999)), []);
    // Paused, it is not expected.
    world.on(Event::Paused(true));
    assert_eq!(world.pass(Duration::from_millis(10)), [Effect::Dial]);
    world.on(Event::Paused(false));
    assert_eq!(world.pass(Duration::from_millis(1)), [Effect::KillVmm]);
    world.on(killed());
    let exit = world.life.status(world.now).exit.expect("it has ended");
    assert_eq!(exit.exit, Exit::BootTimeout);
    assert_eq!(exit.evidence[1], "nothing was heard of it on the console either");
}

#[test]
fn the_stop_ladder_has_one_deadline_and_a_kill_overtakes_it() {
    let mut world = World::new(false);
    world.up();
    world.said(1, GuestEvent::Started { pid: 42 });
    let stop = |s| Event::Stop { signal: Signal::TERM, grace: Duration::from_secs(s) };
    assert!(matches!(world.on(stop(10))[..], [Effect::Ask(Ask::Stop(_))]));
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
    assert_eq!(world.life.status(world.now).exit.map(|e| e.exit), Some(Exit::Killed));
}

#[test]
fn without_an_agent_there_is_nobody_to_be_polite_to() {
    let mut world = World::new(false);
    world.on(Event::VmmUp);
    let effects = world.on(Event::Stop { signal: Signal::TERM, grace: Duration::from_secs(30) });
    assert_eq!(effects, [Effect::TermVmm]);
}

#[test]
fn an_exit_is_acknowledged_and_kept_exact() {
    let mut world = World::new(false);
    world.up();
    world.said(1, GuestEvent::Started { pid: 42 });
    let effects = world.said(2, GuestEvent::Exited(Exit::code(3)));
    assert_eq!(effects, [Effect::Ask(Ask::Ack { seq: 2 })]);
    // A stop that comes now has not caused it.
    world.on(Event::Stop { signal: Signal::TERM, grace: Duration::ZERO });
    let code = ProcessExit { code: Some(0), signal: None };
    let effects = world.on(Event::VmmEnded(VmmEnd::Seen(code)));
    let [Effect::Finish(exit)] = &effects[..] else { panic!("finished: {effects:?}") };
    assert_eq!((&exit.exit, exit.daemon_exit()), (&Exit::code(3), Some(&Exit::code(3))));
    assert_eq!(world.state(), VmState::Failed);
}

#[test]
fn a_dead_back_end_ends_the_vm_unless_it_was_ending_anyway() {
    let mut world = World::new(false);
    world.up();
    assert_eq!(world.on(Event::BackendEnded { vmm_going: false }), [Effect::KillVmm]);
    world.on(killed());
    assert_eq!(world.life.status(world.now).exit.map(|e| e.exit), Some(Exit::TransportLost));
}

#[test]
fn a_resumed_guest_gets_the_time() {
    let mut world = World::new(false);
    world.up();
    world.on(Event::Paused(true));
    assert_eq!(world.state(), VmState::Paused);
    assert!(matches!(world.on(Event::Paused(false))[..], [Effect::Ask(Ask::SetTime { .. })]));
}

#[test]
fn a_back_end_that_went_with_its_vmm_is_not_to_blame() {
    let reason = |after: Duration| {
        let mut world = World::new(false);
        world.up();
        assert_eq!(world.on(Event::BackendEnded { vmm_going: true }), []);
        let effects = world.pass(after);
        world.on(killed());
        (effects, world.life.status(world.now).exit.map(|e| e.exit))
    };
    assert_eq!(
        reason(Duration::from_millis(5)),
        (vec![], Some(Exit::VmmCrashed(ProcessExit { code: None, signal: Some(9) })))
    );
    assert_eq!(reason(GOING), (vec![Effect::KillVmm], Some(Exit::TransportLost)));
}

#[test]
fn an_adopted_vm_that_had_booted_is_not_expected_to_boot_again() {
    let now = Instant::now();
    let mut status = StatusRecord { generation: 7, uptime_ms: 9000, ..StatusRecord::default() };
    status.daemon.state = DaemonState::Ready;
    status.boot_ms.agent = Some(900);
    let mut life = Life::adopt(&plan(true), status.clone(), now);
    assert_eq!((life.status(now).state, life.status(now).generation), (VmState::Running, 8));
    assert_eq!(life.on(now + Duration::from_secs(60), 0, Event::Tick), [Effect::Dial]);
    status.boot_ms.agent = None;
    let mut life = Life::adopt(&plan(false), status, now);
    assert!(life.on(now, 0, Event::Tick).contains(&Effect::KillVmm));
}

#[test]
fn an_agent_that_comes_back_on_the_way_down_is_told_to_stop_within_the_same_deadline() {
    let mut world = World::new(false);
    world.up();
    world.said(1, GuestEvent::Started { pid: 42 });
    world.on(Event::AgentDown);
    let stop = Event::Stop { signal: Signal::TERM, grace: Duration::from_secs(5) };
    assert_eq!(world.on(stop), [Effect::Dial]);
    world.pass(Duration::from_millis(100));
    let effects = world.on(Event::AgentUp { generation: 1 });
    assert_eq!(effects[1..], [Effect::Ask(Ask::Stop(Stop { signal: Signal::TERM, grace_ms: 4900 }))]);
    assert_eq!(world.pass(Duration::from_millis(4800)), []);
    assert_eq!(world.pass(Duration::from_millis(100) + AFTER_GRACE), [Effect::TermVmm]);
}

#[test]
fn an_agent_that_does_not_come_back_gets_no_grace() {
    let mut world = World::new(false);
    world.up();
    world.said(1, GuestEvent::Started { pid: 42 });
    world.on(Event::AgentDown);
    world.on(Event::Stop { signal: Signal::TERM, grace: Duration::from_secs(5) });
    assert_eq!(world.pass(COME_BACK), [Effect::TermVmm]);
}
