//! The errors of calls: a kind for programs, a sentence for people.

pub use pepita_wire::record::CallError;
use pepita_wire::record::CallErrorKind;
use std::io::ErrorKind;
use std::path::Path;

/// The result of a call.
pub type Result<T, E = CallError> = std::result::Result<T, E>;

/// Returns an error.
pub fn error(kind: CallErrorKind, message: impl Into<String>) -> CallError {
    CallError { kind, name: None, message: message.into() }
}

/// Returns the error about an image that cannot be used.
pub fn bad(message: impl Into<String>) -> CallError {
    error(CallErrorKind::BadImage, message)
}

/// Returns the error of a file or directory that could not be read or written.
pub fn io(path: &Path, e: impl Into<std::io::Error>) -> CallError {
    let e = e.into();
    let kind = match e.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => CallErrorKind::Permission,
        _ => CallErrorKind::Io,
    };
    let is_full = matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let advice = if is_full { "; make room there and try again" } else { "" };
    error(kind, format!("{}: {e}{advice}", path.display()))
}

/// Returns at most 200 characters of a text from outside, without control characters, for a message.
pub fn shown(text: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut short: String = text.chars().take(200).map(clean).collect();
    if text.chars().nth(200).is_some() {
        short.push('…');
    }
    short
}
