//! Copies files out of the guest and into it: a process of the agent's own program that writes or reads an archive, started like
//! a command of a host ([`crate::exec_stream`]). The image needs no program for it.

use pepita_copy::{CopyError, Owner, Report, Sender, Unpacking, pack, unpack};
use pepita_wire::agent::Copy;
use std::io::{BufWriter, Write, stderr, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

/// The exit code when something was left out, which standard error names.
const NOT_WHOLE: u8 = 1;

/// The exit code when the copy has failed; standard error says why.
const FAILED: u8 = 2;

/// The size of one write: as much as a pipe holds.
const WRITE: usize = 64 * 1024;

/// Carries out a copy, which is the argument of this process as JSON.
pub(crate) fn run(order: &str) -> ExitCode {
    let copied = serde_json::from_str(order).map_err(|e| e.to_string()).and_then(|order| copy(&order));
    let (code, words) = match copied {
        Ok(report) if report.is_whole() => return ExitCode::SUCCESS,
        Ok(report) => (NOT_WHOLE, report.to_string()),
        Err(why) => (FAILED, why),
    };
    let _ = writeln!(stderr(), "{words}");
    ExitCode::from(code)
}

fn copy(order: &Copy) -> Result<Report, String> {
    match order {
        Copy::Out { path, follow_link } => {
            pack(Path::new(path), *follow_link, &mut BufWriter::with_capacity(WRITE, stdout().lock()))
        }
        Copy::In { path, into_directory, keep_owner } => {
            let owner = if *keep_owner { Owner::Kept } else { Owner::Own };
            // The host may do in its guest whatever it likes.
            let sender = Sender::Trusted;
            let unpacking =
                Unpacking { place: Path::new(path), into_directory: *into_directory, owner, sender };
            unpack(&unpacking, &mut stdin().lock())
        }
    }
    .map_err(|e: CopyError| e.to_string())
}
