//! The answer to the program that has started a monitor: the VM's status, or why there is no VM.

use crate::error::{CallError, call_error};
use pepita_wire::record::CallErrorKind;
use pepita_wire::{Exit, StatusRecord};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;

/// What a monitor answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The VM, as it is now.
    Up(Box<StatusRecord>),
    /// There is none.
    Failed(CallError),
}

/// Whoever waits for the answer.
#[derive(Debug)]
pub struct Starter(());

impl Starter {
    /// Returns the starter that waits at this process' standard output.
    pub fn on_stdout() -> Self {
        Self(())
    }

    /// Answers, once: the answer is complete when standard output is closed.
    pub fn answer(self, answer: &Answer) {
        let line = serde_json::to_string(answer).expect("records become JSON");
        // Whoever started us may be gone.
        let _ = writeln!(std::io::stdout(), "{line}");
        if let Ok(null) = File::options().write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdout(null);
        }
    }

    /// Answers that the VM is there.
    pub fn started(self, status: &StatusRecord) {
        self.answer(&Answer::Up(Box::new(status.clone())));
    }

    /// It has ended before it was up.
    pub(super) fn ended(self, status: &StatusRecord) {
        let words = status.exit.as_ref().map(|exit| exit.evidence.join("; ")).unwrap_or_default();
        let memory = ["Cannot allocate memory", "Resource temporarily unavailable", "Too many open files"];
        // Only what the VMM itself refused will be refused again.
        let refused =
            status.exit.as_ref().is_some_and(|record| matches!(record.exit, Exit::VmmRefused { .. }));
        let kind = match refused && !memory.iter().any(|text| words.contains(text)) {
            true => CallErrorKind::BadImage,
            false => CallErrorKind::TryAgain,
        };
        let why = call_error(kind, format!("the VMM did not start: {words}"));
        self.answer(&Answer::Failed(CallError { name: Some(status.name.clone()), ..why }));
    }
}
