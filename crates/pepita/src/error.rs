//! How a call fails: a kind for programs, a sentence for people.

pub use pepita_wire::record::CallError;
use pepita_wire::record::CallErrorKind;
use std::fmt::Display;
use std::path::Path;

/// The result of a call.
pub type Result<T, E = CallError> = std::result::Result<T, E>;

/// A failure that is about no VM in particular, or whose VM is named later by [`About::about`].
pub fn call_error(kind: CallErrorKind, message: impl Into<String>) -> CallError {
    CallError { kind, name: None, message: message.into() }
}

/// Reading or writing `path` failed.
pub fn io(path: &Path, error: impl Into<std::io::Error>) -> CallError {
    let error = error.into();
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            CallErrorKind::Permission
        }
        _ => CallErrorKind::Io,
    };
    let advice = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; make room there and try again"
        }
        _ => "",
    };
    call_error(kind, format!("{}: {error}{advice}", path.display()))
}

/// Something else went wrong in the system.
pub fn system(what: &str, error: impl Display) -> CallError {
    call_error(CallErrorKind::Io, format!("{what}: {error}"))
}

/// Says something on standard error. That it cannot be written, on a full disk or to a reader that has left, is no
/// reason to panic, as `eprintln!` does.
pub fn eprint_line(text: impl Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Adds what a failure is about.
pub trait About<T> {
    /// Names the VM.
    ///
    /// # Errors
    /// The same, with its name.
    fn about(self, vm: &str) -> Result<T>;
}

impl<T> About<T> for Result<T> {
    fn about(self, vm: &str) -> Self {
        self.map_err(|e| CallError { name: Some(e.name.unwrap_or_else(|| vm.to_owned())), ..e })
    }
}
