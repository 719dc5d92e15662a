//! The configuration file as the programs read it.

use crate::exit::ProgramExit;
use pepita_launcher::rundir::RunDir;
use pepita_supervisor::config::{Checked, ConfigErrors, load as load_as_written};
use std::path::{Path, PathBuf};

/// Where a supervisor's control socket is unless somebody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/pepita-supervisor/control.sock";

/// Reads a configuration and fills in what depends on the environment: where the launcher would keep its run directories.
/// Whoever asks the supervisor for it, from another environment, gets the same.
///
/// # Errors
/// As [`pepita_supervisor::config::load`].
pub fn load(file: &Path) -> Result<Checked, ConfigErrors> {
    let mut checked = load_as_written(file)?;
    if checked.spec.run_dir.is_none() {
        // Where it cannot be used the launcher says why.
        checked.spec.run_dir = RunDir::choose(None).ok().map(|dir| dir.path().to_owned());
    }
    Ok(checked)
}

/// Says what is wrong with a configuration and what to know about it.
pub fn check(file: &Path) -> ProgramExit {
    match load(file) {
        Err(errors) => {
            anstream::eprintln!("{errors}");
            ProgramExit::Config
        }
        Ok(checked) => {
            for advice in &checked.advice {
                anstream::println!("{advice}\n");
            }
            let (groups, vms) = (checked.spec.groups.len(), checked.spec.groups.iter().map(|g| g.vms.len()));
            let vms: usize = vms.sum();
            anstream::println!("{}: good; {}", file.display(), amount(vms, groups));
            ProgramExit::Ok
        }
    }
}

/// `2 VMs in 1 group`.
pub fn amount(vms: usize, groups: usize) -> String {
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    format!("{vms} VM{} in {groups} group{}", plural(vms), plural(groups))
}

/// The control socket that a configuration names. Its other mistakes do not matter here: they are in the file, and the
/// supervisor runs with a former one.
///
/// # Errors
/// When the file names none.
pub fn socket(file: &Path) -> Result<PathBuf, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|e| format!("{shown}: {e}"))?;
    let table: toml::Table = toml::from_str(&text).map_err(|e| format!("{shown}: {e}"))?;
    let written = table.get("supervisor").and_then(|s| s.get("control_socket")).and_then(|s| s.as_str());
    let written = written.ok_or_else(|| format!("{shown}: names no control_socket in [supervisor]"))?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().map_err(|e| format!("{shown}: {e}"))?;
    Ok(folder.join(written))
}
