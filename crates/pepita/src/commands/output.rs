//! The output of commands: text on standard output, one line for an error on standard error.

use crate::error::{CallError, Result, call_error, eprint_line};
use pepita_wire::record::CallErrorKind;
use std::io::{self, Write};

/// Prints to standard output and ends the last line. Without any text nothing is printed.
///
/// # Errors
/// Returns the error of an output that cannot be written, for example on a full disk: a script must not take half an
/// output for the whole. A reader that is gone is no error.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let is_ended = text.is_empty() || text.ends_with('\n');
    let printed = out
        .write_all(text.as_bytes())
        .and_then(|()| if is_ended { Ok(()) } else { out.write_all(b"\n") })
        .and_then(|()| out.flush());
    written(printed)
}

/// Prints to standard output what a call has done. The error says that it was done all the same.
///
/// # Errors
/// Returns the errors of [`print`].
pub(super) fn print_done(text: &str, done: &str) -> Result<()> {
    print(text).map_err(|e| CallError { message: format!("{}; {done} all the same", e.message), ..e })
}

/// Returns the result of a write to standard output, for which a reader that is gone is no error.
///
/// # Errors
/// Returns the error of an output that cannot be written.
pub(super) fn written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|e| call_error(CallErrorKind::Io, unwritable(&e))),
    }
}

/// Returns the sentence about standard output that cannot be written.
pub(super) fn unwritable(error: &io::Error) -> String {
    format!("standard output: {error}")
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
