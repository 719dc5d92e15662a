//! The errors of calls: a kind for programs, a sentence for people.

pub use pepita_wire::record::CallError;
use pepita_wire::record::CallErrorKind;
use std::fmt::Display;
use std::io::{Error, ErrorKind};
use std::path::Path;

/// The result of a call.
pub type Result<T, E = CallError> = std::result::Result<T, E>;

/// Returns an error without a VM's name. [`About::about`] adds the name where there is a VM.
pub fn call_error(kind: CallErrorKind, message: impl Into<String>) -> CallError {
    CallError { kind, name: None, message: message.into() }
}

/// Returns the error of a file or directory that could not be read or written.
pub fn io(path: &Path, error: impl Into<Error>) -> CallError {
    let error = error.into();
    let is_forbidden = matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
    let kind = if is_forbidden { CallErrorKind::Permission } else { CallErrorKind::Io };
    call_error(kind, format!("{}: {error}{}", path.display(), advice(&error)))
}

/// Returns what can be done about an error, to be appended to its text.
fn advice(error: &Error) -> &'static str {
    if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        "; make room there and try again"
    } else if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) {
        "; raise the limit of open files (`ulimit -n 4096`) and try again"
    } else {
        ""
    }
}

/// Returns the error of a system call or a program.
pub fn system(what: &str, error: impl Display) -> CallError {
    call_error(CallErrorKind::Io, format!("{what}: {error}"))
}

/// Writes a line to standard error. When the write fails (a full disk, a reader that is gone), the line is lost.
/// `eprintln!` would panic in that case.
pub fn eprint_line(text: impl Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Adds the name of a VM to an error.
pub trait About<T> {
    /// Names the VM, unless the error has named one already.
    ///
    /// # Errors
    /// The same error, with the name.
    fn about(self, vm: &str) -> Result<T>;
}

impl<T> About<T> for Result<T> {
    fn about(self, vm: &str) -> Self {
        self.map_err(|e| CallError { name: Some(e.name.unwrap_or_else(|| vm.to_owned())), ..e })
    }
}
