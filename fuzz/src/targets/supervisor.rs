//! What a supervisor reads: its configuration, its clients, its own files and the answers of guests.

use super::choice;
use pepita_supervisor::config::{self, ConfigErrors};
use std::path::Path;

pub(super) use pepita_supervisor::fuzzing::{journal, probe};

/// Reads a configuration. It means the same each time, and every mistake can be shown.
pub(super) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = Path::new("/etc/pepita/tree.toml");
    match config::parse(text, file) {
        Ok(checked) => {
            assert_eq!(config::parse(text, file).expect("as before").spec, checked.spec);
            assert!(checked.advice.iter().all(|advice| !advice.to_string().is_empty()));
        }
        Err(errors) => {
            assert!(!errors.to_string().is_empty());
            if let ConfigErrors::Wrong { mistakes, .. } = &errors {
                assert!(!mistakes.is_empty());
            }
        }
    }
}

/// Hears a client of the control socket.
pub(super) fn control(input: &[u8]) {
    let (length, said) = choice(input);
    pepita_supervisor::fuzzing::control(said, length);
}
