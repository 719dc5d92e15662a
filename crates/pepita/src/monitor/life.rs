//! One VM's life as its monitor sees it: what each event means, what is to be done, and the one status record.
//! Knows no process, no socket and no clock; time comes in with each event, effects go out.

use super::evidence::{Asked, Evidence, VmmEnd, judge};
use crate::plan::{Plan, VmmKind};
use pepita_wire::agent::{Start, Stop};
use pepita_wire::console::Note;
use pepita_wire::record::{DaemonState, VcpuState, VcpuStatus, VsockStatus};
use pepita_wire::{
    Ask, ErrorKind, ExitReason, ExitRecord, GuestEvent, Signal, StatusRecord, VmState, WireError,
};
use std::time::{Duration, Instant};

/// An agent whose note was missed is dialled unasked, this often.
const UNASKED_DIAL: Duration = Duration::from_secs(2);

/// From the daemon's end until the VMM has to be gone.
const LINGER: Duration = Duration::from_secs(5);

/// From the daemon's KILL until the VMM's TERM: draining, the report, the guest's way down.
const AFTER_GRACE: Duration = Duration::from_millis(400);

/// From the VMM's TERM until its KILL.
const TERM_TO_KILL: Duration = Duration::from_millis(400);

/// What can happen.
#[derive(Debug)]
pub enum Event {
    /// The VMM has accepted its arguments and images.
    VmmUp,
    /// The VMM is gone.
    VmmEnded(VmmEnd),
    /// The vsock back-end is gone.
    BackendEnded,
    /// The host's OOM killer has struck within the VM's limits.
    HostOom,
    /// The guest has written something.
    ConsoleSpoke,
    /// The agent has written a note on the console.
    Noted(Note),
    /// QMP's SHUTDOWN.
    Shutdown(String),
    /// The virtual CPUs stand still, or run again.
    Paused(bool),
    /// The agent has said hello.
    AgentUp {
        /// The generation agreed on.
        generation: u32,
    },
    /// The agent has hung up.
    AgentDown,
    /// The agent has said something.
    AgentSaid {
        /// The event's number.
        seq: u64,
        /// What.
        event: GuestEvent,
    },
    /// The agent's answer to `start`.
    Started(Result<(), WireError>),
    /// Take it down politely.
    Stop {
        /// With this signal first.
        signal: Signal,
        /// And KILL after this.
        grace: Duration,
    },
    /// End it at once.
    Kill,
    /// Start the daemon of a VM that was launched with `--hold`.
    Start(Start),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Connect to the agent, and go on trying.
    Dial,
    /// Ask the agent.
    Ask(Ask),
    /// Let the virtual CPUs run.
    Resume,
    /// Ask the VMM's process to end.
    TermVmm,
    /// End it.
    KillVmm,
    /// It is over. The last effect.
    Finish(Box<ExitRecord>),
}

/// The way down.
#[derive(Debug, Clone, Copy)]
struct Down {
    term_at: Instant,
    termed: bool,
    kill_at: Instant,
}

/// The life of one VM.
#[derive(Debug)]
pub struct Life {
    start: Start,
    hold: bool,
    kind: VmmKind,
    status: StatusRecord,
    evidence: Evidence,
    born: Instant,
    boot_deadline: Option<Instant>,
    dial_at: Option<Instant>,
    down: Option<Down>,
    paused: bool,
    greeted: bool,
    last_heard: Option<Instant>,
    effects: Vec<Effect>,
}

impl Life {
    /// A VM about to be started, or taken over, at `now`.
    pub fn new(plan: &Plan, mut status: StatusRecord, now: Instant) -> Self {
        status.vsock = VsockStatus { cid: plan.cid.unwrap_or_default(), ..status.vsock };
        status.state = VmState::Created;
        if plan.hold {
            status.daemon.state = DaemonState::Held;
        }
        Self {
            start: Start { command: plan.command.clone(), env: plan.env.clone() },
            hold: plan.hold,
            kind: plan.vmm,
            status,
            evidence: Evidence::default(),
            born: now,
            boot_deadline: Some(now + Duration::from_millis(plan.ready_timeout_ms)),
            dial_at: Some(now + UNASKED_DIAL),
            down: None,
            paused: false,
            greeted: false,
            last_heard: None,
            effects: Vec::new(),
        }
    }

    /// A VM that outlived its former monitor: its agent may be there already.
    pub fn adopt(plan: &Plan, status: StatusRecord, now: Instant) -> Self {
        let mut life = Self::new(plan, status, now);
        life.evidence.vmm_ran = true;
        life.dial_at = Some(now);
        life
    }

    /// The record at this moment.
    pub fn status(&self, now: Instant) -> StatusRecord {
        let mut status = self.status.clone();
        if status.exit.is_none() {
            status.uptime_ms += ms(now.saturating_duration_since(self.born));
        }
        let vcpus = if self.paused { VcpuState::Paused } else { VcpuState::Running };
        let runs = self.evidence.vmm_ran && status.exit.is_none();
        status.vcpus = runs.then_some(VcpuStatus { state: vcpus });
        status.agent.last_heard_ms = self.last_heard.map(|at| ms(now.saturating_duration_since(at)));
        status
    }

    /// For what only the monitor knows: process ids, dropped bytes.
    pub fn note(&mut self, change: impl FnOnce(&mut StatusRecord)) {
        change(&mut self.status);
    }

    /// For evidence that only the monitor can gather.
    pub fn evidence(&mut self) -> &mut Evidence {
        &mut self.evidence
    }

    /// The present generation; grows with each change that a watcher is told.
    pub fn generation(&self) -> u64 {
        self.status.generation
    }

    /// When to send a [`Event::Tick`].
    pub fn wake_at(&self) -> Option<Instant> {
        let down = self.down.map(|down| if down.termed { down.kill_at } else { down.term_at });
        self.boot_deadline.into_iter().chain(self.dial_at).chain(down).min()
    }

    /// Takes in an event.
    pub fn on(&mut self, now: Instant, unix_ms: u64, event: Event) -> Vec<Effect> {
        if self.status.exit.is_some() {
            return Vec::new();
        }
        let before = (self.status.clone(), self.state());
        match event {
            Event::VmmUp => self.evidence.vmm_ran = true,
            Event::VmmEnded(end) => self.vmm_ended(unix_ms, end),
            Event::BackendEnded => {
                if self.evidence.report.is_none() && self.evidence.asked.is_none() {
                    self.evidence.backend_died = true;
                    self.effects.push(Effect::KillVmm);
                }
            }
            Event::HostOom => self.evidence.host_oom = true,
            Event::ConsoleSpoke => {
                let since_born = ms(now.saturating_duration_since(self.born));
                self.status.boot_ms.kernel.get_or_insert(since_born);
            }
            Event::Noted(note) => self.noted(now, note),
            Event::Shutdown(reason) => self.evidence.shutdown = Some(reason),
            Event::Paused(paused) => self.paused(paused, unix_ms),
            Event::AgentUp { generation } => self.agent_up(now, unix_ms, generation),
            Event::AgentDown => self.status.agent.ready = false,
            Event::AgentSaid { seq, event } => self.agent_said(now, seq, event),
            Event::Started(result) => self.started(result),
            Event::Stop { signal, grace } => self.stop(now, signal, grace),
            Event::Kill => self.kill(),
            Event::Start(start) => self.effects.push(Effect::Ask(Ask::Start(start))),
            Event::Tick => self.tick(now),
        }
        self.status.state = self.state();
        if (&before.0, before.1) != (&self.status, self.status.state) {
            self.status.generation += 1;
        }
        std::mem::take(&mut self.effects)
    }

    fn state(&self) -> VmState {
        if let Some(exit) = &self.status.exit {
            return match exit.reason {
                ExitReason::Completed | ExitReason::StopRequested | ExitReason::Killed => VmState::Stopped,
                _ => VmState::Failed,
            };
        }
        match self.status.daemon.state {
            _ if self.down.is_some() => VmState::Stopping,
            _ if self.paused => VmState::Paused,
            DaemonState::Running | DaemonState::Ready => VmState::Running,
            DaemonState::Exited => VmState::Stopping,
            DaemonState::Pending | DaemonState::Held | DaemonState::Unknown => {
                if self.evidence.vmm_ran {
                    VmState::Starting
                } else {
                    VmState::Created
                }
            }
        }
    }

    fn noted(&mut self, now: Instant, note: Note) {
        match note {
            Note::Up => self.effects.push(Effect::Dial),
            Note::Exited(exit) => {
                if self.evidence.report.is_none() {
                    self.evidence.report = Some(exit);
                    self.evidence.by_console = true;
                    self.on_the_way_out(now);
                }
            }
            Note::Failed(why) => self.evidence.agent_failed = Some(why),
        }
    }

    fn paused(&mut self, paused: bool, unix_ms: u64) {
        let resumed = std::mem::replace(&mut self.paused, paused) && !paused;
        // The guest's clock stood still with its CPUs.
        if resumed && self.kind == VmmKind::Qemu {
            self.effects.push(Effect::Ask(Ask::SetTime { unix_ms }));
        }
    }

    fn agent_up(&mut self, now: Instant, unix_ms: u64, generation: u32) {
        self.last_heard = Some(now);
        self.dial_at = None;
        self.boot_deadline = None;
        self.status.agent.ready = true;
        self.status.agent.generation = generation;
        let since_born = ms(now.saturating_duration_since(self.born));
        self.status.boot_ms.agent.get_or_insert(since_born);
        if std::mem::replace(&mut self.greeted, true) {
            return;
        }
        if self.kind == VmmKind::Qemu {
            self.effects.push(Effect::Ask(Ask::SetTime { unix_ms }));
        }
        // Of a VM that was taken over the daemon may run already; then this is refused, and does no harm.
        if !self.hold && self.status.daemon.state == DaemonState::Pending {
            self.effects.push(Effect::Ask(Ask::Start(self.start.clone())));
        }
    }

    fn agent_said(&mut self, now: Instant, seq: u64, event: GuestEvent) {
        self.last_heard = Some(now);
        let daemon = &mut self.status.daemon;
        match event {
            GuestEvent::Started { pid } => {
                daemon.pid = Some(pid);
                daemon.state = DaemonState::Running;
                let since_born = ms(now.saturating_duration_since(self.born));
                self.status.boot_ms.daemon.get_or_insert(since_born);
            }
            GuestEvent::Ready if daemon.state == DaemonState::Running => daemon.state = DaemonState::Ready,
            GuestEvent::Exited(exit) => {
                self.effects.push(Effect::Ask(Ask::Ack { seq }));
                if self.evidence.report.is_none() || self.evidence.by_console {
                    self.evidence.report = Some(exit);
                    self.evidence.by_console = false;
                    self.on_the_way_out(now);
                }
            }
            GuestEvent::Ready
            | GuestEvent::Health(_)
            | GuestEvent::Memory { .. }
            | GuestEvent::Unknown(_) => {}
        }
    }

    /// The daemon has ended: the guest powers off by itself, or is helped to.
    fn on_the_way_out(&mut self, now: Instant) {
        self.status.daemon.state = DaemonState::Exited;
        self.status.daemon.pid = None;
        let limit = now + LINGER;
        self.down.get_or_insert(Down { term_at: limit, termed: false, kill_at: limit + TERM_TO_KILL });
    }

    fn started(&mut self, result: Result<(), WireError>) {
        match result {
            // The event says the rest.
            Ok(()) => {}
            // It was started before, or could not be executed, which is told as its end.
            Err(WireError { kind: ErrorKind::Conflict | ErrorKind::Os, .. }) => {}
            Err(e) => {
                self.evidence.agent_failed = Some(format!("it could not start the daemon: {e}"));
                self.effects.push(Effect::KillVmm);
            }
        }
    }

    fn stop(&mut self, now: Instant, signal: Signal, grace: Duration) {
        if self.evidence.report.is_none() {
            self.evidence.asked.get_or_insert(Asked::Stop);
        }
        if self.paused {
            self.effects.push(Effect::Resume);
        }
        let reachable = self.status.agent.ready;
        let runs = matches!(self.status.daemon.state, DaemonState::Running | DaemonState::Ready);
        let wait = match (reachable, runs) {
            (true, true) => {
                let grace_ms = ms(grace);
                self.effects.push(Effect::Ask(Ask::Stop(Stop { signal, grace_ms })));
                grace + AFTER_GRACE
            }
            (true, false) => {
                self.effects.push(Effect::Ask(Ask::PowerOff));
                grace + AFTER_GRACE
            }
            // There is nobody to be polite to.
            (false, _) => Duration::ZERO,
        };
        let term_at = now + wait;
        // Asked again, the earlier deadline holds.
        let down = self.down.get_or_insert(Down { term_at, termed: false, kill_at: term_at + TERM_TO_KILL });
        if !down.termed && term_at < down.term_at {
            (down.term_at, down.kill_at) = (term_at, term_at + TERM_TO_KILL);
        }
        self.boot_deadline = None;
        self.tick(now);
    }

    fn kill(&mut self) {
        if self.evidence.report.is_none() {
            self.evidence.asked = Some(Asked::Kill);
        }
        self.effects.push(Effect::KillVmm);
    }

    fn tick(&mut self, now: Instant) {
        if self.boot_deadline.is_some_and(|at| now >= at) {
            self.boot_deadline = None;
            self.evidence.boot_timeout = true;
            self.effects.push(Effect::KillVmm);
        }
        if self.dial_at.is_some_and(|at| now >= at) {
            self.dial_at = Some(now + UNASKED_DIAL);
            self.effects.push(Effect::Dial);
        }
        if let Some(down) = &mut self.down {
            if !down.termed && now >= down.term_at {
                down.termed = true;
                self.effects.push(Effect::TermVmm);
            }
            if down.termed && now >= down.kill_at {
                // Once more a second later, should it be needed.
                down.kill_at = now + Duration::from_secs(1);
                self.effects.push(Effect::KillVmm);
            }
        }
    }

    fn vmm_ended(&mut self, unix_ms: u64, end: VmmEnd) {
        self.evidence.vmm = end;
        let (reason, evidence) = judge(&self.evidence);
        let exit = ExitRecord {
            name: self.status.name.clone(),
            incarnation: self.status.incarnation,
            reason,
            ended_at: unix_ms,
            vmm: match end {
                VmmEnd::Seen(exit) => Some(exit),
                VmmEnd::Runs | VmmEnd::Unseen => None,
            },
            evidence,
            guest: self.evidence.report.clone(),
            console: Vec::new(),
        };
        self.status.uptime_ms = unix_ms.saturating_sub(self.status.started_at);
        self.status.agent.ready = false;
        self.status.daemon.pid = None;
        (self.boot_deadline, self.dial_at, self.down) = (None, None, None);
        self.status.exit = Some(exit.clone());
        self.effects.push(Effect::Finish(Box::new(exit)));
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pepita_wire::DaemonExit;
    use pepita_wire::record::ProcessExit;

    fn plan(hold: bool) -> Plan {
        Plan { hold, ready_timeout_ms: 5000, ..crate::plan::tests::plan() }
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
        assert_eq!(world.pass(Duration::from_millis(4999)), [Effect::Dial]);
        assert_eq!(world.pass(Duration::from_millis(1)), [Effect::KillVmm]);
        world.on(killed());
        let exit = world.life.status(world.now).exit.expect("it has ended");
        assert_eq!(exit.reason, ExitReason::BootTimeout);
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
        assert_eq!(world.life.status(world.now).exit.map(|e| e.reason), Some(ExitReason::Killed));
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
        let effects = world.said(2, GuestEvent::Exited(DaemonExit::code(3)));
        assert_eq!(effects, [Effect::Ask(Ask::Ack { seq: 2 })]);
        // A stop that comes now has not caused it.
        world.on(Event::Stop { signal: Signal::TERM, grace: Duration::ZERO });
        let code = ProcessExit { code: Some(0), signal: None };
        let effects = world.on(Event::VmmEnded(VmmEnd::Seen(code)));
        let [Effect::Finish(exit)] = &effects[..] else { panic!("finished: {effects:?}") };
        assert_eq!((exit.reason, exit.guest.clone()), (ExitReason::Failed, Some(DaemonExit::code(3))));
        assert_eq!(world.state(), VmState::Failed);
    }

    #[test]
    fn a_dead_back_end_ends_the_vm_unless_it_was_ending_anyway() {
        let mut world = World::new(false);
        world.up();
        assert_eq!(world.on(Event::BackendEnded), [Effect::KillVmm]);
        world.on(killed());
        assert_eq!(world.life.status(world.now).exit.map(|e| e.reason), Some(ExitReason::TransportLost));
    }

    #[test]
    fn a_resumed_guest_gets_the_time() {
        let mut world = World::new(false);
        world.up();
        world.on(Event::Paused(true));
        assert_eq!(world.state(), VmState::Paused);
        assert!(matches!(world.on(Event::Paused(false))[..], [Effect::Ask(Ask::SetTime { .. })]));
    }
}
