//! Executes the daemon with its own process id in `WATCHDOG_PID`, as systemd does. The id is known only after the fork,
//! when no memory may be allocated any more, so everything is prepared before it.
#![expect(unsafe_code, reason = "what is done between fork and exec is the caller's promise")]

use crate::environment::Environment;
use nix::libc;
use pepita_wire::environment::WATCHDOG_PID;
use std::ffi::{CString, OsStr, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The number of digits of the largest process id.
const DIGITS: usize = 10;

/// The texts of an execve(2), and the pointers to them.
struct Prepared {
    program: CString,
    _texts: Vec<CString>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// The variable with the process id, and room for its digits and the final zero.
    variable: Box<[u8]>,
}

// SAFETY: the pointers lead into the heap memory of this value's own texts, which nobody else has.
unsafe impl Send for Prepared {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for Prepared {}

/// Makes `command` execute `program` with these arguments (the name of the program first) and this environment, and with
/// `WATCHDOG_PID`. An error of the execution is an error of the spawn.
///
/// # Errors
/// When a text contains a zero byte.
pub(crate) fn execute_with_own_pid(
    command: &mut Command,
    program: &Path,
    argv: &[String],
    environment: &Environment,
) -> io::Result<()> {
    let mut prepared = prepare(program, argv, environment)?;
    let execute = move || {
        prepared.write_pid();
        // SAFETY: program, arguments and variables are texts that end with a zero, and the lists of pointers to them end
        // with a null pointer.
        unsafe {
            libc::execve(prepared.program.as_ptr(), prepared.argv.as_ptr(), prepared.envp.as_ptr());
        }
        Err(io::Error::last_os_error())
    };
    // SAFETY: getpid(2) and execve(2) are async-signal-safe, and between them only prepared memory is written.
    unsafe { command.pre_exec(execute) };
    Ok(())
}

fn prepare(program: &Path, argv: &[String], environment: &Environment) -> io::Result<Prepared> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e));
    let arguments = argv.iter().map(|word| text(word.as_bytes())).collect::<io::Result<Vec<_>>>()?;
    let others = environment.iter().filter(|(name, _)| name.as_os_str() != OsStr::new(WATCHDOG_PID));
    let variables = others
        .map(|(name, value)| text(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<io::Result<Vec<_>>>()?;
    let variable: Box<[u8]> = [WATCHDOG_PID.as_bytes(), b"=", &[0; DIGITS + 1]].concat().into();
    let end = std::ptr::null();
    let argv = arguments.iter().map(|text| text.as_ptr()).chain([end]).collect();
    // The second to last place is for the variable with the process id.
    let envp = variables.iter().map(|text| text.as_ptr()).chain([end, end]).collect();
    let program = text(program.as_os_str().as_bytes())?;
    // The texts are moved, not copied: the pointers lead to them.
    let texts = arguments.into_iter().chain(variables).collect();
    Ok(Prepared { program, _texts: texts, argv, envp, variable })
}

impl Prepared {
    /// Writes the process id of this process into its variable. Allocates nothing.
    fn write_pid(&mut self) {
        let start = WATCHDOG_PID.len() + 1;
        write_digits(&mut self.variable[start..], std::process::id());
        let place = self.envp.len() - 2;
        self.envp[place] = self.variable.as_ptr().cast();
    }
}

/// Writes a number in decimal, and a zero byte behind it.
fn write_digits(into: &mut [u8], number: u32) {
    let (mut digits, mut length, mut rest) = ([0; DIGITS], 0, number);
    loop {
        digits[length] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        (length, rest) = (length + 1, rest / 10);
        if rest == 0 {
            break;
        }
    }
    for (place, digit) in into.iter_mut().zip(digits[..length].iter().rev().chain([&0])) {
        *place = *digit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_with_its_end() {
        for (number, text) in
            [(7, &b"7\0"[..]), (4_294_967_295, b"4294967295\0"), (0, b"0\0"), (120, b"120\0")]
        {
            let mut into = [b'x'; DIGITS + 1];
            write_digits(&mut into, number);
            assert_eq!(&into[..text.len()], text);
        }
    }
}
