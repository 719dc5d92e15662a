//! Each event in each phase.

use super::*;

/// The phases, each with the events that lead to it.
const PHASES: [Row; 8] = [
    Row { name: "Created", enter: || World::new(false) },
    Row { name: "Booting", enter: || World::new(false).after(Event::VmmUp) },
    Row { name: "Running", enter: running },
    Row { name: "Severed", enter: || running().after(Event::BackendEnded { vmm_is_exiting: true }) },
    Row { name: "Leaving", enter: || running().after(exited(0)) },
    Row { name: "Stopping", enter: || running().after(stop(10)) },
    Row { name: "Terminating", enter: || World::new(false).after(Event::VmmUp).after(stop(10)) },
    Row { name: "Killing", enter: || running().after(Event::Kill) },
];

struct Row {
    name: &'static str,
    enter: fn() -> World,
}

impl World {
    fn phase(&self) -> &'static str {
        match &self.life.phase {
            Phase::Created(_) => "Created",
            Phase::Booting(_) => "Booting",
            Phase::Running => "Running",
            Phase::Severed { .. } => "Severed",
            Phase::Leaving { .. } => "Leaving",
            Phase::Stopping(_) => "Stopping",
            Phase::Terminating { .. } => "Terminating",
            Phase::Killing { .. } => "Killing",
            Phase::Ended(_) => "Ended",
        }
    }
}

fn refused(kind: ErrorKind) -> Event {
    Event::StartAnswered(Err(WireError::new(kind, "no")))
}

/// Checks the phase that follows an event, for each phase of [`PHASES`] in their order. A letter stands for the next
/// phase, and `.` means that the phase stays the same.
fn check(name: &str, event: impl Fn() -> Event, follows: [&str; 8]) {
    for (Row { name: phase, enter }, letter) in PHASES.iter().zip(follows) {
        let expected = match letter {
            "B" => "Booting",
            "R" => "Running",
            "V" => "Severed",
            "L" => "Leaving",
            "S" => "Stopping",
            "T" => "Terminating",
            "K" => "Killing",
            "E" => "Ended",
            _ => phase,
        };
        let mut world = enter();
        assert_eq!(world.phase(), *phase, "the way into the phase");
        let effects = world.on(event());
        assert_eq!(world.phase(), expected, "{name} in {phase}");
        // The VMM is killed exactly when the next phase is `Killing`, and the end is reported once.
        assert_eq!(effects.contains(&Effect::KillVmm), letter == "K", "{name} in {phase}: {effects:?}");
        assert_eq!(effects.contains(&Effect::TermVmm), letter == "T", "{name} in {phase}: {effects:?}");
        let finishes = effects.iter().any(|effect| matches!(effect, Effect::Finish(_)));
        assert_eq!(finishes, letter == "E", "{name} in {phase}: {effects:?}");
        // Every phase has a deadline, except these.
        let waits = world.life.phase.wake_at().is_none();
        let may_wait = matches!(expected, "Running" | "Ended") || world.life.vcpus == VcpuState::Paused;
        assert!(may_wait || !waits, "{name} in {phase} leaves no deadline");
    }
}

#[test]
#[rustfmt::skip]
fn each_event_means_something_in_each_phase() {
    let started = || Event::AgentSaid { seq: 9, event: GuestEvent::Started { pid: 9 } };
    //                                                                            Cre  Boo  Run  Sev  Lea  Sto  Ter  Kil
    check("VmmUp", || Event::VmmUp,                                              ["B", ".", ".", ".", ".", ".", ".", "."]);
    check("AgentUp", || Event::AgentUp { protocol_version: 1 },                        ["R", "R", ".", ".", ".", ".", ".", "."]);
    check("AgentDown", || Event::AgentDown,                                      [".", ".", ".", ".", ".", ".", ".", "."]);
    check("exit told", || exited(3),                                             ["L", "L", "L", "L", ".", ".", ".", "."]);
    check("exit noted", || Event::Noted(Note::Exited(Exit::code(3))),            ["L", "L", "L", "L", ".", ".", ".", "."]);
    check("failure noted", || Event::Noted(Note::Failed("why".into())),          [".", ".", ".", ".", ".", ".", ".", "."]);
    check("up noted", || Event::Noted(Note::Up),                                 [".", ".", ".", ".", ".", ".", ".", "."]);
    check("started", started,                                                    [".", ".", ".", ".", ".", ".", ".", "."]);
    check("start accepted", || Event::StartAnswered(Ok(())),                     [".", ".", ".", ".", ".", ".", ".", "."]);
    check("started before", || refused(ErrorKind::Conflict),                     [".", ".", ".", ".", ".", ".", ".", "."]);
    check("agent hung up", || refused(ErrorKind::Os),                            [".", ".", ".", ".", ".", ".", ".", "."]);
    check("start refused", || refused(ErrorKind::BadRequest),                    ["K", "K", "K", ".", ".", "K", ".", "."]);
    check("back-end lost", || Event::BackendEnded { vmm_is_exiting: false },     ["K", "K", "K", "K", ".", ".", ".", "."]);
    check("back-end follows", || Event::BackendEnded { vmm_is_exiting: true },   ["V", "V", "V", ".", ".", ".", ".", "."]);
    let share = |vmm_is_exiting| Event::ShareEnded { vmm_is_exiting, how: "gone".into() };
    check("share lost", || share(false),                                         ["K", "K", "K", "K", ".", ".", ".", "."]);
    check("share follows", || share(true),                                       ["V", "V", "V", ".", ".", ".", ".", "."]);
    check("paused", || Event::Vcpus(VcpuState::Paused),                          [".", ".", ".", ".", ".", ".", ".", "."]);
    check("resumed", || Event::Vcpus(VcpuState::Running),                        [".", ".", ".", ".", ".", ".", ".", "."]);
    check("clock rang", || Event::ClockRang,                                     [".", ".", ".", ".", ".", ".", ".", "."]);
    check("console", || Event::ConsoleSpoke,                                     [".", ".", ".", ".", ".", ".", ".", "."]);
    check("host OOM", || Event::HostOom,                                         [".", ".", ".", ".", ".", ".", ".", "."]);
    check("VMM stopped", || Event::VmmStopped,                                   ["V", "V", "V", ".", ".", ".", ".", "."]);
    check("disk error", || Event::DiskError("write: full".into()),               [".", ".", ".", ".", ".", ".", ".", "."]);
    check("QMP shutdown", || Event::Shutdown("guest-reset".into()),              [".", ".", ".", ".", ".", ".", ".", "."]);
    check("Stop", || stop(10),                                                   ["T", "T", "S", "T", "S", ".", ".", "."]);
    check("Signal", || Event::Signal(Signal::HUP),                              [".", ".", ".", ".", ".", ".", ".", "."]);
    check("Start", || Event::Start(Start::default()),                            [".", ".", ".", ".", ".", ".", ".", "."]);
    check("Kill", || Event::Kill,                                                ["K", "K", "K", "K", "K", "K", "K", "K"]);
    check("early tick", || Event::Tick,                                          [".", ".", ".", ".", ".", ".", ".", "."]);
    check("VmmEnded", killed,                                                    ["E", "E", "E", "E", "E", "E", "E", "E"]);
}

#[test]
fn each_deadline_leads_to_the_next_until_the_vmm_is_killed_again_and_again() {
    for Row { name, enter } in PHASES {
        let mut world = enter();
        let mut seen = vec![world.phase()];
        while let Some(wake_at) = world.life.phase.wake_at().filter(|_| seen.len() < 4) {
            world.now = wake_at;
            world.on(Event::Tick);
            seen.push(world.phase());
        }
        let expected: &[&str] = match name {
            "Running" => &["Running"],
            "Leaving" | "Stopping" => &[name, "Terminating", "Killing", "Killing"],
            _ => &[name, "Killing", "Killing", "Killing"],
        };
        assert_eq!(seen, expected);
    }
    let mut world = running().after(Event::Kill);
    assert_eq!(world.pass(KILL_AGAIN), [Effect::KillVmm]);
}
