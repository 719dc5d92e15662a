//! The output of commands: text on standard output, one line for an error on standard error.

use crate::error::{CallError, eprint_line};
use std::io::Write;

/// Prints to standard output and ends the last line. A closed output is no error.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") });
    let _ = out.flush();
}

/// Prints an error to standard error, as a sentence with the VM's name, or as JSON.
pub(super) fn print_error(error: &CallError, json: bool) {
    if json {
        return eprint_line(serde_json::to_string(error).expect("an error becomes JSON"));
    }
    match &error.name {
        Some(name) if !is_named(name, &error.message) => {
            eprint_line(format_args!("pepita: {name}: {}", error.message));
        }
        Some(_) | None => eprint_line(format_args!("pepita: {}", error.message)),
    }
}

fn is_named(name: &str, text: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || c == '-')).any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_of_a_path_is_no_name() {
        assert!(!is_named("a", "spec.json: no space left on a-device"));
        assert!(is_named("a", "/run/pepita/a: too long") && is_named("my-vm", "no VM my-vm; try"));
    }
}
