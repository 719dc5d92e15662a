//! Reads the configuration file for the programs: the library parses it, and values from the environment are added.

use crate::exit::ProgramExit;
use crate::output;
use pepita_launcher::image::memory::needed_by_files;
use pepita_launcher::rundir::RunDir;
use pepita_supervisor::config::{Checked, ConfigErrors, HostFacts, load_on};
use std::path::Path;

/// The default control socket of a supervisor.
pub const DEFAULT_SOCKET: &str = "/run/pepita-supervisor/control.sock";

/// Reads a configuration and fills in the launcher's run directory, which depends on the environment. A client with
/// another environment that asks the supervisor for its configuration then gets the same run directory.
///
/// # Errors
/// Returns the errors of [`pepita_supervisor::config::load`].
pub fn load(file: &Path) -> Result<Checked, ConfigErrors> {
    // When there is no usable directory, the launcher reports the reason.
    let run_dir = RunDir::choose(None).ok();
    load_on(
        file,
        HostFacts { run_dir: run_dir.as_ref().map(RunDir::path), needed_mb: Some(&needed_by_files) },
    )
}

/// Prints the mistakes of a configuration, or the advice about it, for a program.
pub fn check(program: &str, file: &Path) -> ProgramExit {
    match load(file) {
        Err(errors) => {
            output::print_error(errors);
            ProgramExit::Config
        }
        Ok(checked) => {
            let advice: String = checked.advice.iter().map(|advice| format!("{advice}\n\n")).collect();
            let groups = &checked.spec.groups;
            let vms = groups.iter().map(|group| group.vms.len()).sum();
            let good = format!("{}: good; {}", file.display(), amount(vms, groups.len()));
            ProgramExit::of_output(program, output::try_print(format_args!("{advice}{good}")))
        }
    }
}

/// Returns the size of a tree in words, such as `2 VMs in 1 group`.
pub fn amount(vms: usize, groups: usize) -> String {
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    format!("{vms} VM{} in {groups} group{}", plural(vms), plural(groups))
}
