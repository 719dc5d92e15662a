//! Weighs what is known of a VM's end, and says how the VM ended.
//!
//! Order of belief (semantics 2): what a client had asked for and the agent's report, the VMM's own events, how the
//! VMM's process ended, the console's text. What no process saw is [`Exit::Unknown`], never an exit code of 0. Knows no
//! process, no socket and no clock.

use pepita_wire::{Exit, ProcessExit};

/// The most bytes of a text that go into a record: a guest and a VMM choose what they write.
const TEXT_CAP: usize = 300;

/// The sentence about a VMM whose parent was gone before it.
const UNSEEN: &str = "the VMM is gone, and no process saw how it ended";

/// What a client had asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A stop, with a signal first.
    Stop,
    /// An end at once.
    Kill,
}

/// The agent's report of the daemon's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// How the daemon ended.
    pub(crate) exit: Exit,
    /// How the report came.
    pub(crate) way: Way,
}

/// How a report came. The same report may come both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Over vsock.
    Vsock,
    /// On the console, which is believed as long as vsock has told nothing.
    Console,
}

/// What was seen while the VM lived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// What was asked for before the agent had reported the daemon's end.
    pub(crate) asked: Option<Asked>,
    /// The agent's report.
    pub(crate) report: Option<Report>,
    /// Why the agent could not go on.
    pub(crate) agent_failed: Option<String>,
    /// The reason in QMP's SHUTDOWN event.
    pub(crate) shutdown: Option<String>,
    /// Whether the VMM had accepted its arguments and images.
    pub(crate) vmm_ran: bool,
    /// Whether the vsock back-end ended before the VMM.
    pub(crate) backend_died: bool,
    /// Whether the agent said on the console that it was up.
    pub(crate) agent_noted: bool,
    /// Whether the agent was not there in time.
    pub(crate) boot_timeout: bool,
    /// Whether the host's OOM killer has struck within the VM's limits.
    pub(crate) host_oom: bool,
}

/// What is known when the VMM is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LastWords {
    /// How its process ended; `None` when its parent was gone before it.
    pub(crate) vmm: Option<ProcessExit>,
    /// What the VMM wrote on its standard error last.
    pub(crate) vmm_words: String,
    /// The console's line about a panic of the guest's kernel.
    pub(crate) panic_line: Option<String>,
    /// The console's last lines.
    pub(crate) console: Vec<String>,
}

/// How a VM ended, and why that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// How the VM ended.
    pub(crate) exit: Exit,
    /// How the daemon ended, when that is not the end of the VM because the end had been asked for.
    pub(crate) daemon: Option<Exit>,
    /// What the verdict rests on, strongest first, one sentence each.
    pub(crate) evidence: Vec<String>,
}

/// Weighs the evidence.
pub(crate) fn weigh_evidence(seen: &Evidence, last: &LastWords) -> Verdict {
    let reported = seen.report.as_ref().map(|report| report.exit.clone());
    let (exit, daemon) = match (seen.asked, reported) {
        (Some(Asked::Kill), daemon) => (Exit::Killed, daemon),
        (Some(Asked::Stop), daemon) => (Exit::StopRequested, daemon),
        (None, Some(exit)) => (exit, None),
        (None, None) => (unreported(seen, last), None),
    };
    Verdict { exit, daemon, evidence: sentences(seen, last) }
}

/// Returns how a VM ended whose end was not asked for and whose agent did not report.
fn unreported(seen: &Evidence, last: &LastWords) -> Exit {
    if seen.boot_timeout {
        return Exit::BootTimeout;
    }
    // The OOM killer may have taken the back-end first.
    if seen.host_oom {
        return Exit::HostOom;
    }
    if seen.backend_died {
        return Exit::TransportLost;
    }
    match (&seen.shutdown, last.vmm) {
        (None, Some(vmm @ ProcessExit { signal: Some(_), .. })) => Exit::VmmCrashed(vmm),
        (None, Some(vmm @ ProcessExit { code: Some(code), .. })) if code != 0 => match seen.vmm_ran {
            true => Exit::VmmCrashed(vmm),
            false => Exit::VmmRefused { message: cut(&last.vmm_words) },
        },
        // The VMM ended in good order, or no process saw how.
        (Some(_), _) | (None, Some(_) | None) => in_good_order(seen, last),
    }
}

/// Returns how a VM ended whose VMM ended in good order: because of the guest, or of a program that asked QEMU itself.
fn in_good_order(seen: &Evidence, last: &LastWords) -> Exit {
    if let Some(why) = &seen.agent_failed {
        return Exit::AgentLost { message: cut(why) };
    }
    if let Some(line) = &last.panic_line {
        return Exit::GuestPanic { line: cut(line) };
    }
    match (seen.shutdown.as_deref(), last.vmm) {
        (Some("guest-panic"), _) => Exit::GuestPanic { line: String::new() },
        (Some("host-signal" | "host-qmp-quit" | "host-ui"), vmm) => Exit::VmmCrashed(vmm.unwrap_or_default()),
        (Some(_), _) | (None, Some(ProcessExit { code: Some(0), .. })) => Exit::GuestReset,
        (None, Some(_) | None) => Exit::Unknown,
    }
}

fn sentences(seen: &Evidence, last: &LastWords) -> Vec<String> {
    let mut all = Vec::new();
    match seen.asked {
        Some(Asked::Stop) => all.push("a stop was asked for".to_owned()),
        Some(Asked::Kill) => all.push("an end at once was asked for".to_owned()),
        None => {}
    }
    match &seen.report {
        Some(Report { exit, way: Way::Vsock }) => all.push(format!("the agent told over vsock: {exit}")),
        Some(Report { exit, way: Way::Console }) => {
            all.push(format!("the agent told on the console: {exit}"))
        }
        None => {}
    }
    if let Some(why) = &seen.agent_failed {
        all.push(format!("the agent gave up: {}", cut(why)));
    }
    if seen.boot_timeout {
        all.push("the agent did not come up in time".to_owned());
        // Where to look: at vsock, or at the guest's kernel.
        all.push(match seen.agent_noted {
            true => "the agent said on the console that it was up, and nothing over vsock".to_owned(),
            false => "the agent said nothing on the console either".to_owned(),
        });
    }
    if seen.backend_died {
        all.push("the vsock back-end ended before the VMM".to_owned());
    }
    if seen.host_oom {
        all.push("the host's OOM killer struck".to_owned());
    }
    if let Some(reason) = &seen.shutdown {
        all.push(format!("the VMM said: shutdown, {}", cut(reason)));
    }
    match last.vmm {
        Some(vmm @ ProcessExit { signal: Some(_), .. }) => all.push(format!("the VMM died of {vmm}")),
        Some(ProcessExit { code: Some(code), signal: None }) => {
            all.push(format!("the VMM exited with {code}"))
        }
        Some(ProcessExit { code: None, signal: None }) | None => all.push(UNSEEN.to_owned()),
    }
    if !seen.vmm_ran && !last.vmm_words.is_empty() {
        all.push(format!("the VMM wrote: {}", cut(&last.vmm_words)));
    }
    if let Some(line) = &last.panic_line {
        all.push(format!("the console said: {}", cut(line)));
    }
    all
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_CAP)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGKILL: ProcessExit = ProcessExit { code: None, signal: Some(9) };

    fn code(code: i32) -> ProcessExit {
        ProcessExit { code: Some(code), signal: None }
    }

    fn last(vmm: ProcessExit) -> LastWords {
        LastWords { vmm: Some(vmm), ..LastWords::default() }
    }

    fn ran() -> Evidence {
        Evidence { vmm_ran: true, ..Evidence::default() }
    }

    fn reset() -> Evidence {
        Evidence { shutdown: Some("guest-reset".into()), ..ran() }
    }

    fn told(exit: Exit) -> Evidence {
        Evidence { report: Some(Report { exit, way: Way::Vsock }), ..reset() }
    }

    #[test]
    fn the_stronger_evidence_wins() {
        let panicked = |line: &str| LastWords { panic_line: Some(line.into()), ..last(code(0)) };
        let not_executable = Exit::NotExecutable { path: "/d".into(), errno: 2, message: "none".into() };
        let cases = [
            (told(Exit::code(0)), last(code(0)), Exit::code(0)),
            (told(Exit::code(3)), last(code(0)), Exit::code(3)),
            (told(Exit::signal(11)), last(code(0)), Exit::signal(11)),
            (told(Exit::GuestOom), last(code(0)), Exit::GuestOom),
            (told(not_executable.clone()), last(code(0)), not_executable),
            // A report outweighs everything that happened on the way down.
            (
                Evidence { host_oom: true, backend_died: true, ..told(Exit::code(3)) },
                last(SIGKILL),
                Exit::code(3),
            ),
            (
                Evidence { asked: Some(Asked::Stop), ..told(Exit::code(0)) },
                last(code(0)),
                Exit::StopRequested,
            ),
            (Evidence { asked: Some(Asked::Kill), ..ran() }, last(SIGKILL), Exit::Killed),
            (ran(), last(SIGKILL), Exit::VmmCrashed(SIGKILL)),
            (ran(), last(code(1)), Exit::VmmCrashed(code(1))),
            (Evidence::default(), last(SIGKILL), Exit::VmmCrashed(SIGKILL)),
            (
                Evidence::default(),
                LastWords { vmm_words: "no such machine".into(), ..last(code(1)) },
                Exit::VmmRefused { message: "no such machine".into() },
            ),
            (reset(), last(code(0)), Exit::GuestReset),
            (ran(), last(code(0)), Exit::GuestReset),
            // The VMM's own event outweighs how its process ended.
            (reset(), last(SIGKILL), Exit::GuestReset),
            (
                Evidence { shutdown: Some("host-signal".into()), ..ran() },
                last(code(0)),
                Exit::VmmCrashed(code(0)),
            ),
            (
                Evidence { shutdown: Some("guest-panic".into()), ..ran() },
                last(code(0)),
                Exit::GuestPanic { line: String::new() },
            ),
            (reset(), panicked("Kernel panic"), Exit::GuestPanic { line: "Kernel panic".into() }),
            (
                Evidence { agent_failed: Some("no module".into()), ..reset() },
                panicked("Kernel panic"),
                Exit::AgentLost { message: "no module".into() },
            ),
            (Evidence { backend_died: true, ..ran() }, last(SIGKILL), Exit::TransportLost),
            (Evidence { host_oom: true, backend_died: true, ..ran() }, last(SIGKILL), Exit::HostOom),
            (Evidence { boot_timeout: true, ..ran() }, last(SIGKILL), Exit::BootTimeout),
            // What no process saw is unknown.
            (ran(), LastWords::default(), Exit::Unknown),
            (Evidence::default(), last(ProcessExit::default()), Exit::Unknown),
        ];
        for (seen, last, expected) in cases {
            let verdict = weigh_evidence(&seen, &last);
            assert_eq!(
                (verdict.exit, verdict.daemon.is_some()),
                (expected, seen.asked.is_some() && seen.report.is_some()),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn a_daemon_that_reported_after_a_stop_keeps_its_own_end() {
        let seen = Evidence { asked: Some(Asked::Stop), ..told(Exit::code(143)) };
        let verdict = weigh_evidence(&seen, &last(code(0)));
        assert_eq!((verdict.exit, verdict.daemon), (Exit::StopRequested, Some(Exit::code(143))));
    }

    #[test]
    fn a_crash_is_explained() {
        assert_eq!(weigh_evidence(&ran(), &last(SIGKILL)).evidence, ["the VMM died of SIGKILL"]);
        assert_eq!(weigh_evidence(&ran(), &LastWords::default()).evidence, [UNSEEN]);
    }

    #[test]
    fn no_text_of_a_guest_or_vmm_fills_a_record() {
        let long = "ü".repeat(1000);
        let seen = Evidence {
            agent_failed: Some(long.clone()),
            shutdown: Some(long.clone()),
            ..Evidence::default()
        };
        let last = LastWords { vmm_words: long.clone(), panic_line: Some(long), ..last(code(0)) };
        let verdict = weigh_evidence(&seen, &last);
        assert!(verdict.evidence.iter().all(|line| line.len() < TEXT_CAP + 100));
        let Exit::AgentLost { message } = verdict.exit else { panic!("{:?}", verdict.exit) };
        assert!(message.len() <= TEXT_CAP);
    }
}
