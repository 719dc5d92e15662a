//! Weighs the evidence about a VM's end, and decides how the VM ended.
//!
//! The order of belief (semantics 2): the request of a client and the agent's report, the VMM's own events, the end of
//! the VMM's process, the console's text. An end that no process observed is [`Exit::Unknown`], never an exit code of
//! 0. Knows no process, no socket and no clock.

use pepita_wire::text::shown;
use pepita_wire::{Exit, ProcessExit};

/// The sentence about a VMM that ended after its parent.
const UNSEEN: &str = "the VMM is gone, and no process saw how it ended";

/// The sentence about a guest of which nothing was heard.
const SILENT: &str = "the guest ended before its first word: too little memory (memory_mb), or a kernel that does not \
                      suit; its early messages: cmdline-append \"loglevel=7 earlyprintk=ttyS0\"";

/// The kind of end that a client has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A stop that begins with a signal to the daemon.
    Stop,
    /// An end at once.
    Kill,
}

/// The agent's report of the daemon's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// The end of the daemon.
    pub(crate) exit: Exit,
    /// The way on which the report came.
    pub(crate) way: Way,
}

/// The way of a report. The same report may come on both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The report came over vsock.
    Vsock,
    /// The report came on the console. It is believed as long as there is no report over vsock.
    Console,
}

/// The evidence that was collected while the VM ran.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The end that a client asked for before the agent reported the daemon's end.
    pub(crate) asked: Option<Asked>,
    /// The agent's report of the daemon's end.
    pub(crate) report: Option<Report>,
    /// The reason why the agent could not continue.
    pub(crate) agent_failed: Option<String>,
    /// The reason in QMP's SHUTDOWN event.
    pub(crate) shutdown: Option<String>,
    /// Whether the VMM has stopped the guest by itself.
    pub(crate) vmm_stopped: bool,
    /// The last error of the host's disk under the guest's disk.
    pub(crate) disk_error: Option<String>,
    /// Whether the VM is a plain process, which boots no kernel.
    pub(crate) is_process: bool,
    /// Whether the guest has written anything on its console.
    pub(crate) console_spoke: bool,
    /// Whether the VMM had accepted its arguments and images.
    pub(crate) vmm_ran: bool,
    /// Whether the vsock back-end ended before the VMM.
    pub(crate) backend_died: bool,
    /// The share whose server ended before the VMM, and how it ended.
    pub(crate) share_lost: Option<String>,
    /// Whether the agent has written on the console that it listens.
    pub(crate) agent_noted: bool,
    /// Whether the agent has missed its deadline to answer.
    pub(crate) boot_timeout: bool,
    /// Whether the host's OOM killer has killed a process within the VM's limits.
    pub(crate) host_oom: bool,
    /// What the agent has noticed about the end of the daemon and an operator should know.
    pub(crate) advice: Option<String>,
}

/// The evidence that is collected when the VMM is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LastWords {
    /// The end of the VMM's process; `None` when its parent ended before it.
    pub(crate) vmm: Option<ProcessExit>,
    /// The last lines that the VMM wrote on its standard error.
    pub(crate) vmm_words: String,
    /// How the vsock back-end ended, if it did and that is known.
    pub(crate) backend: Option<String>,
    /// The console's line about a panic of the guest's kernel. Any program in the guest can write such a line, so it
    /// proves nothing.
    pub(crate) panic_line: Option<String>,
    /// The console's last lines.
    pub(crate) console: Vec<String>,
    /// The console's lines around the line about a panic.
    pub(crate) around_panic: Vec<String>,
}

/// The judgement of a VM's end, and the reasons for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The end of the VM.
    pub(crate) exit: Exit,
    /// The end of the daemon, when it differs from the end of the VM because a client had asked for the end.
    pub(crate) daemon: Option<Exit>,
    /// The evidence for the verdict, one sentence for each piece, the strongest first.
    pub(crate) evidence: Vec<String>,
}

/// Returns the verdict that follows from the evidence.
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

/// Returns the exit of a VM whose end no client asked for and whose agent did not report.
fn unreported(seen: &Evidence, last: &LastWords) -> Exit {
    // An agent that cannot go on ends its guest, so its own words are nearer to the cause than what followed.
    if let Some(why) = &seen.agent_failed {
        return Exit::AgentLost { message: shown(why) };
    }
    if seen.boot_timeout {
        return Exit::BootTimeout;
    }
    // The OOM killer may have killed the back-end first.
    if seen.host_oom {
        return Exit::HostOom;
    }
    if seen.backend_died {
        return Exit::TransportLost;
    }
    if let Some(how) = &seen.share_lost {
        return Exit::ShareLost { message: shown(how) };
    }
    match (&seen.shutdown, last.vmm) {
        (None, Some(vmm @ ProcessExit { signal: Some(_), .. })) => Exit::VmmCrashed(vmm),
        (None, Some(vmm @ ProcessExit { code: Some(code), .. })) if code != 0 => match seen.vmm_ran {
            true => Exit::VmmCrashed(vmm),
            false => Exit::VmmRefused { message: shown(&last.vmm_words) },
        },
        // The VMM exited with 0, or no process observed its end.
        (Some(_), _) | (None, Some(_) | None) => in_good_order(seen, last),
    }
}

/// Returns the exit of a VM whose VMM ended without an error: the guest ended it, or a program that asked QEMU
/// directly.
fn in_good_order(seen: &Evidence, last: &LastWords) -> Exit {
    match (seen.shutdown.as_deref(), last.vmm) {
        // The guest's kernel tells its panic to a device of the VMM (pvpanic), and the line only describes the panic.
        (Some("guest-panic"), _) => {
            Exit::GuestPanic { line: last.panic_line.as_deref().map(shown).unwrap_or_default() }
        }
        (Some("host-signal" | "host-qmp-quit" | "host-ui"), vmm) => Exit::VmmCrashed(vmm.unwrap_or_default()),
        (Some(_), _) | (None, Some(ProcessExit { code: Some(0), .. })) => Exit::GuestReset,
        (None, Some(_) | None) => Exit::Unknown,
    }
}

/// Returns whether the guest ended, or did not come up, without a byte on its console: before its kernel had loaded the
/// console's driver.
fn ended_before_its_first_word(seen: &Evidence) -> bool {
    let by_itself = seen.shutdown.is_some() || seen.boot_timeout;
    seen.vmm_ran
        && !seen.is_process
        && !seen.console_spoke
        && by_itself
        && seen.asked.is_none()
        && seen.report.is_none()
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
    if ended_before_its_first_word(seen) {
        all.push(SILENT.to_owned());
    }
    if let Some(why) = &seen.agent_failed {
        all.push(format!("the agent gave up: {}", shown(why)));
    }
    if seen.boot_timeout {
        all.push("the agent did not come up in time".to_owned());
        // The sentence tells an operator where to look: at vsock, or at the guest's kernel.
        all.push(match seen.agent_noted {
            true => "the agent said on the console that it was up, and nothing over vsock".to_owned(),
            false => "the agent said nothing on the console either".to_owned(),
        });
    }
    if seen.backend_died {
        let how = last.backend.as_deref().map(|how| format!(": {}", shown(how))).unwrap_or_default();
        all.push(format!("the vsock back-end ended before the VMM{how}"));
    }
    all.extend(seen.share_lost.as_deref().map(shown));
    if seen.host_oom {
        all.push("the host's OOM killer struck".to_owned());
    }
    if seen.vmm_stopped && seen.shutdown.is_none() {
        all.push("the VMM stopped the guest by itself and could not go on".to_owned());
    }
    if let Some(reason) = &seen.disk_error {
        all.push(format!("the host's disk failed under the guest's disk: {}", shown(reason)));
    }
    if let Some(reason) = &seen.shutdown {
        all.push(format!("the VMM said: shutdown, {}", shown(reason)));
    }
    match last.vmm {
        Some(vmm @ ProcessExit { signal: Some(_), .. }) => all.push(format!("the VMM died of {vmm}")),
        Some(ProcessExit { code: Some(code), signal: None }) => {
            all.push(format!("the VMM exited with {code}"))
        }
        Some(ProcessExit { code: None, signal: None }) | None => all.push(UNSEEN.to_owned()),
    }
    if !seen.vmm_ran && !last.vmm_words.is_empty() {
        all.push(format!("the VMM wrote: {}", shown(&last.vmm_words)));
    }
    if let Some(line) = &last.panic_line {
        all.push(match seen.shutdown.as_deref() {
            Some("guest-panic") => format!("the console said: {}", shown(line)),
            Some(_) | None => {
                format!("a line on the console, of the kernel or of any program: {}", shown(line))
            }
        });
    }
    if let Some(advice) = &seen.advice {
        all.push(format!("the daemon {advice}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use pepita_wire::text::TEXT_CAP;

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
            // A report outweighs everything that happened during the shutdown.
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
            // A line on the console changes no verdict: a daemon can print it.
            (reset(), panicked("Kernel panic"), Exit::GuestReset),
            (ran(), panicked("Kernel panic"), Exit::GuestReset),
            (
                ran(),
                LastWords { panic_line: Some("Kernel panic".into()), ..last(SIGKILL) },
                Exit::VmmCrashed(SIGKILL),
            ),
            (
                Evidence { shutdown: Some("guest-panic".into()), ..ran() },
                panicked("Kernel panic"),
                Exit::GuestPanic { line: "Kernel panic".into() },
            ),
            (
                Evidence { agent_failed: Some("no module".into()), ..reset() },
                panicked("Kernel panic"),
                Exit::AgentLost { message: "no module".into() },
            ),
            // An agent of a plain process that panics is the VMM's process, too.
            (
                Evidence { agent_failed: Some("the agent panicked".into()), ..ran() },
                last(code(101)),
                Exit::AgentLost { message: "the agent panicked".into() },
            ),
            // A monitor kills the VMM of an agent that cannot start the daemon.
            (
                Evidence { agent_failed: Some("no command".into()), ..ran() },
                last(SIGKILL),
                Exit::AgentLost { message: "no command".into() },
            ),
            (Evidence { backend_died: true, ..ran() }, last(SIGKILL), Exit::TransportLost),
            (
                Evidence { share_lost: Some("share /x: gone".into()), ..ran() },
                last(SIGKILL),
                Exit::ShareLost { message: "share /x: gone".into() },
            ),
            (Evidence { host_oom: true, backend_died: true, ..ran() }, last(SIGKILL), Exit::HostOom),
            (Evidence { boot_timeout: true, ..ran() }, last(SIGKILL), Exit::BootTimeout),
            // An end that no process observed is unknown.
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
    fn the_end_of_a_back_end_is_told_with_its_reason() {
        let seen = Evidence { backend_died: true, ..ran() };
        let last = LastWords { backend: Some("it exited with 101".into()), ..last(SIGKILL) };
        let verdict = weigh_evidence(&seen, &last);
        assert_eq!(verdict.exit, Exit::TransportLost);
        assert_eq!(verdict.evidence[0], "the vsock back-end ended before the VMM: it exited with 101");
    }

    #[test]
    fn an_end_before_the_first_word_says_so_first() {
        let first = |seen: &Evidence| weigh_evidence(seen, &last(code(0))).evidence.remove(0);
        assert_eq!(first(&reset()), SILENT);
        assert_eq!(first(&Evidence { boot_timeout: true, ..ran() }), SILENT);
        for seen in [
            Evidence { console_spoke: true, ..reset() },
            Evidence { is_process: true, boot_timeout: true, ..ran() },
            Evidence { asked: Some(Asked::Stop), ..reset() },
            told(Exit::code(0)),
            ran(),
        ] {
            assert_ne!(first(&seen), SILENT, "{seen:?}");
        }
    }

    #[test]
    fn no_text_of_a_guest_or_vmm_fills_a_record() {
        let long = "\x1bü".repeat(1000);
        let seen = Evidence {
            agent_failed: Some(long.clone()),
            shutdown: Some(long.clone()),
            ..Evidence::default()
        };
        let last = LastWords { vmm_words: long.clone(), panic_line: Some(long), ..last(code(0)) };
        let verdict = weigh_evidence(&seen, &last);
        let is_fit =
            |line: &String| line.chars().count() < TEXT_CAP + 100 && !line.contains(char::is_control);
        assert!(verdict.evidence.iter().all(is_fit), "{:?}", verdict.evidence);
        let Exit::AgentLost { message } = verdict.exit else { panic!("{:?}", verdict.exit) };
        assert!(message.chars().count() <= TEXT_CAP && message.starts_with("\\x1bü"), "{message}");
    }
}
