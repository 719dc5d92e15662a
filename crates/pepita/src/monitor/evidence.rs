//! Weighs what is known of a VM's end and says why it ended.
//!
//! Order of belief: the agent's report, the VMM's own events, how its process ended, the console's text. What nobody
//! saw is `unknown`, never 0. Knows no process, no socket and no clock.

use crate::vmm::VmmEnd;
use pepita_wire::{Exit, ProcessExit};

/// Who had asked for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A polite stop.
    Stop,
    /// An end at once.
    Kill,
}

/// All that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What was asked for before the guest had said anything.
    pub asked: Option<Asked>,
    /// How the daemon ended, as the agent told over vsock or, failing that, on the console.
    pub report: Option<Exit>,
    /// The report came over the console only.
    pub by_console: bool,
    /// Why the agent could not go on.
    pub agent_failed: Option<String>,
    /// The reason in QMP's SHUTDOWN event.
    pub shutdown: Option<String>,
    /// The VMM's process.
    pub vmm: VmmEnd,
    /// The VMM had accepted its arguments and images.
    pub vmm_ran: bool,
    /// What it said on its standard error last.
    pub vmm_words: String,
    /// The vsock back-end ended before the VMM.
    pub backend_died: bool,
    /// The console's line about a panic of the guest's kernel.
    pub panic_line: Option<String>,
    /// The agent said on the console that it was up.
    pub agent_noted: bool,
    /// The agent was not there in time.
    pub boot_timeout: bool,
    /// The host's OOM killer has struck within the VM's cgroup.
    pub host_oom: bool,
}

/// Why it ended, and what that rests on.
pub fn judge(evidence: &Evidence) -> (Exit, Vec<String>) {
    (verdict(evidence), sentences(evidence))
}

fn verdict(e: &Evidence) -> Exit {
    match (e.asked, &e.report) {
        (Some(Asked::Kill), _) => return Exit::Killed,
        (Some(Asked::Stop), _) => return Exit::StopRequested,
        (None, Some(report)) => return report.clone(),
        (None, None) => {}
    }
    if e.boot_timeout {
        return Exit::BootTimeout;
    }
    // Which may have taken the back-end first.
    if e.host_oom {
        return Exit::HostOom;
    }
    if e.backend_died {
        return Exit::TransportLost;
    }
    let seen = match e.vmm {
        VmmEnd::Seen(exit) => exit,
        VmmEnd::Unseen | VmmEnd::Runs => ProcessExit::default(),
    };
    match (&e.vmm, &e.shutdown) {
        (VmmEnd::Seen(ProcessExit { signal: Some(_), .. }), None) => return Exit::VmmCrashed(seen),
        (VmmEnd::Seen(ProcessExit { code: Some(code), .. }), None) if *code != 0 => {
            return match e.vmm_ran {
                true => Exit::VmmCrashed(seen),
                false => Exit::VmmRefused { message: cut(&e.vmm_words).to_owned() },
            };
        }
        // It ended in good order: the guest made it end, or somebody asked QEMU itself.
        (VmmEnd::Seen(_) | VmmEnd::Unseen | VmmEnd::Runs, _) => {}
    }
    if let Some(why) = &e.agent_failed {
        return Exit::AgentLost { message: cut(why).to_owned() };
    }
    if let Some(line) = &e.panic_line {
        return Exit::GuestPanic { line: cut(line).to_owned() };
    }
    match (e.shutdown.as_deref(), &e.vmm) {
        (Some("guest-panic"), _) => Exit::GuestPanic { line: String::new() },
        (Some("host-signal" | "host-qmp-quit" | "host-ui"), _) => Exit::VmmCrashed(seen),
        (Some(_), _) | (None, VmmEnd::Seen(ProcessExit { code: Some(0), .. })) => Exit::GuestReset,
        (None, VmmEnd::Seen(_) | VmmEnd::Unseen | VmmEnd::Runs) => Exit::Unknown,
    }
}

fn sentences(e: &Evidence) -> Vec<String> {
    let mut all = Vec::new();
    match e.asked {
        Some(Asked::Stop) => all.push("a stop was asked for".to_owned()),
        Some(Asked::Kill) => all.push("its end was asked for".to_owned()),
        None => {}
    }
    if let Some(report) = &e.report {
        let way = if e.by_console { "on the console" } else { "over vsock" };
        all.push(format!("the agent told {way}: {report}"));
    }
    if let Some(why) = &e.agent_failed {
        all.push(format!("the agent gave up: {}", cut(why)));
    }
    if e.boot_timeout {
        all.push("the agent did not come up in time".to_owned());
        // Where to look: at vsock, or at the guest's kernel.
        all.push(match e.agent_noted {
            true => "it said on the console that it was up, and nothing over vsock".to_owned(),
            false => "nothing was heard of it on the console either".to_owned(),
        });
    }
    if e.backend_died {
        all.push("the vsock back-end ended before the VMM".to_owned());
    }
    if e.host_oom {
        all.push("the host's OOM killer struck".to_owned());
    }
    if let Some(shutdown) = &e.shutdown {
        all.push(format!("the VMM said: shutdown, {}", cut(shutdown)));
    }
    match e.vmm {
        VmmEnd::Seen(ProcessExit { signal: Some(n), .. }) => {
            let name = pepita_wire::Signal::new(n).map_or_else(|| n.to_string(), |s| s.to_string());
            all.push(format!("the VMM died of {name}"));
        }
        VmmEnd::Seen(ProcessExit { code: Some(code), .. }) => {
            all.push(format!("the VMM exited with {code}"));
        }
        VmmEnd::Unseen => all.push("the VMM is gone; nobody saw how".to_owned()),
        VmmEnd::Seen(_) | VmmEnd::Runs => {}
    }
    if !e.vmm_ran && !e.vmm_words.is_empty() {
        all.push(format!("it said: {}", cut(&e.vmm_words)));
    }
    if let Some(line) = &e.panic_line {
        all.push(format!("the console said: {}", cut(line)));
    }
    all
}

/// Nobody's words fill a record.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(300)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(code: Option<i32>, signal: Option<i32>) -> VmmEnd {
        VmmEnd::Seen(ProcessExit { code, signal })
    }

    #[test]
    fn the_stronger_evidence_wins() {
        let crashed = |code, signal| Exit::VmmCrashed(ProcessExit { code, signal });
        let ran = Evidence { vmm_ran: true, ..Evidence::default() };
        let after = |vmm| Evidence { vmm, ..ran.clone() };
        let reset = Evidence { shutdown: Some("guest-reset".into()), ..after(seen(Some(0), None)) };
        let told = |exit| Evidence { report: Some(exit), ..reset.clone() };
        let cases = [
            (told(Exit::code(0)), Exit::code(0)),
            (told(Exit::code(3)), Exit::code(3)),
            (told(Exit::signal(11)), Exit::signal(11)),
            (told(Exit::GuestOom), Exit::GuestOom),
            (Evidence { asked: Some(Asked::Stop), ..told(Exit::code(0)) }, Exit::StopRequested),
            (after(seen(None, Some(9))), crashed(None, Some(9))),
            (after(seen(Some(1), None)), crashed(Some(1), None)),
            (
                Evidence { vmm: seen(Some(1), None), ..Evidence::default() },
                Exit::VmmRefused { message: String::new() },
            ),
            (reset.clone(), Exit::GuestReset),
            (
                Evidence { panic_line: Some("Kernel panic".into()), ..reset.clone() },
                Exit::GuestPanic { line: "Kernel panic".into() },
            ),
            (
                Evidence { agent_failed: Some("no module".into()), ..reset.clone() },
                Exit::AgentLost { message: "no module".into() },
            ),
            (Evidence { backend_died: true, ..after(seen(None, Some(9))) }, Exit::TransportLost),
            (Evidence { host_oom: true, backend_died: true, ..after(seen(None, Some(9))) }, Exit::HostOom),
            (Evidence { boot_timeout: true, ..after(seen(None, Some(9))) }, Exit::BootTimeout),
            (Evidence { asked: Some(Asked::Kill), ..after(seen(None, Some(9))) }, Exit::Killed),
            (after(VmmEnd::Unseen), Exit::Unknown),
            (Evidence::default(), Exit::Unknown),
        ];
        for (evidence, expected) in cases {
            assert_eq!(judge(&evidence).0, expected, "{evidence:?}");
        }
    }

    #[test]
    fn a_crash_is_explained() {
        let evidence = Evidence { vmm: seen(None, Some(9)), vmm_ran: true, ..Evidence::default() };
        assert_eq!(judge(&evidence).1, ["the VMM died of SIGKILL"]);
    }
}
