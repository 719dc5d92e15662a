//! `pepita run`.

use super::{attach, print};
use crate::cli::{Run, VmmChoice};
use crate::error::{Result, eprint_line};
use crate::ops::follow::ready;
use crate::ops::launch::launch;
use crate::rundir::RunDir;
use pepita_wire::VmId;
use pepita_wire::record::pretty;
use std::process::ExitCode;

/// `pepita run`.
pub(super) fn run(run_dir: &RunDir, run: Run, json: bool) -> Result<ExitCode> {
    let name = match &run.name {
        Some(name) => name.clone(),
        None => VmId::new(&format!("vm-{}", &crate::host::random::secret()?[..8])).expect("a good name"),
    };
    let (detached, wait_ready, rm, timeout) = (run.daemon, run.wait_ready, run.rm, run.ready_timeout);
    if run.vmm == VmmChoice::Process && !json {
        eprint_line(format_args!(
            "pepita: {name}: --vmm process has NO ISOLATION: the daemon is a plain process of this host"
        ));
    }
    let status = launch(run_dir, &name, run)?;
    if !detached {
        return attach::attach(run_dir, &name, rm);
    }
    let status = match wait_ready {
        true => ready(run_dir, &name, timeout)?,
        false => status,
    };
    print(&if json { pretty(&status) } else { status.name });
    Ok(ExitCode::SUCCESS)
}
