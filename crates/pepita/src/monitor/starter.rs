//! The answer to the program that has started a monitor: the VM's status, or the reason why there is no VM.

use crate::error::{CallError, call_error};
use pepita_wire::record::CallErrorKind;
use pepita_wire::serve::{LaunchAnswer, TAKEN};
use pepita_wire::{Exit, StatusRecord};
use std::io::Write;
use std::os::fd::OwnedFd;

/// Texts that the VMM writes when the host lacks a resource that may be available later.
const PASSING: [&str; 7] = [
    "Cannot allocate memory",
    "Resource temporarily unavailable",
    "Too many open files",
    "No space left on device",
    "Disk quota exceeded",
    "Input/output error",
    // Another program has opened the image for writing.
    "Failed to get",
];

/// The program that waits for the answer.
#[derive(Debug)]
pub(crate) struct Starter {
    /// The pipe on which the starter says [`TAKEN`]; `None` = it says nothing.
    pipe: Option<OwnedFd>,
}

/// The reaction of a starter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// The starter has taken the VM.
    Taken,
    /// The starter is gone, or has given its launch up.
    Gone,
    /// The starter has said nothing yet.
    None,
}

impl Starter {
    /// Returns the starter, which reads the standard output of this process.
    pub(crate) fn on_stdout() -> Self {
        Self { pipe: None }
    }

    /// Returns the starter with the pipe on which it says whether it takes the VM.
    pub(crate) fn with_pipe(self, pipe: OwnedFd) -> Self {
        Self { pipe: Some(pipe) }
    }

    /// Returns the pipe to wait for.
    pub(crate) fn pipe(&self) -> Option<&OwnedFd> {
        self.pipe.as_ref()
    }

    /// Reads what a starter says on its pipe, which is readable.
    pub(crate) fn reaction(pipe: &OwnedFd) -> Reaction {
        match rustix::io::read(pipe, &mut [0; TAKEN.len()]) {
            Ok(0) => Reaction::Gone,
            Ok(_) => Reaction::Taken,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Reaction::None,
            Err(_) => Reaction::Gone,
        }
    }

    /// Answers with one line, and gives up standard output. Returns the pipe on which the starter takes the VM.
    pub(crate) fn answer(self, answer: &LaunchAnswer) -> Option<OwnedFd> {
        let line = serde_json::to_string(answer).expect("records become JSON");
        // The starter may be gone, so an error is ignored. A starter that lives finds the end of the output.
        let _ = writeln!(std::io::stdout(), "{line}");
        // Standard error takes the place of the output. A file in its place could not be opened when no descriptor is left,
        // and the starter would wait on for an output that stays open.
        let _ = rustix::stdio::dup2_stdout(std::io::stderr());
        self.pipe
    }

    /// Answers that the VM was started or adopted. Returns the pipe on which the starter takes the VM.
    pub(crate) fn started(self, status: &StatusRecord) -> Option<OwnedFd> {
        self.answer(&LaunchAnswer::Up(Box::new(status.clone())))
    }

    /// Answers that the VM has ended before its VMM was set up.
    pub(super) fn ended(self, status: &StatusRecord) {
        let Some(record) = &status.exit else { return drop(self.started(status)) };
        let kind = match &record.exit {
            // A second attempt helps only when the VMM lacked a resource. Arguments and images that the VMM refuses, it
            // refuses again.
            Exit::VmmRefused { message } if !PASSING.iter().any(|text| message.contains(text)) => {
                CallErrorKind::BadImage
            }
            Exit::VmmRefused { .. }
            | Exit::Exited { .. }
            | Exit::Signalled { .. }
            | Exit::NotExecutable { .. }
            | Exit::GuestOom
            | Exit::GuestPanic { .. }
            | Exit::GuestReset
            | Exit::HostOom
            | Exit::VmmCrashed(_)
            | Exit::BootTimeout
            | Exit::AgentLost { .. }
            | Exit::TransportLost
            | Exit::ShareLost { .. }
            | Exit::StopRequested
            | Exit::Killed
            | Exit::Unknown => CallErrorKind::TryAgain,
        };
        let evidence = record.evidence.join("; ");
        // The VMM's own words come first: of a long message, people see the beginning.
        let refusal = if let Exit::VmmRefused { message } = &record.exit { message.as_str() } else { "" };
        let why = if refusal.is_empty() { &evidence } else { refusal };
        let why = call_error(kind, format!("the VMM did not start: {why}"));
        self.answer(&LaunchAnswer::Failed(CallError { name: Some(status.name.clone()), ..why }));
    }
}
