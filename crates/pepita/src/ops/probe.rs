//! Boots a guest to prove that guests boot.

use crate::cli::{Cli, Request};
use crate::error::{Result, call_error};
use crate::ops::{destroy, follow, launch};
use crate::rundir::RunDir;
use clap::Parser;
use pepita_wire::VmId;
use pepita_wire::record::CallErrorKind;

/// Boots a guest with its daemon held, and takes it down: what `doctor` proves with.
pub fn probe(run_dir: &RunDir, kernel: &std::path::Path, rootfs: &std::path::Path) -> Result<String> {
    let name = format!("doctor-{}", std::process::id());
    let arguments =
        ["pepita", "run", "--name", &name, "--hold", "--daemon", "--ready-timeout", "20s", "--memory", "128"];
    let mut arguments: Vec<std::ffi::OsString> = arguments.into_iter().map(Into::into).collect();
    arguments.extend(["--kernel".into(), kernel.into(), "--rootfs".into(), rootfs.into()]);
    let cli =
        Cli::try_parse_from(arguments).map_err(|e| call_error(CallErrorKind::Internal, e.to_string()))?;
    let Some(Request::Run(run)) = cli.call else {
        return Err(call_error(CallErrorKind::Internal, "not a run"));
    };
    let id = VmId::new(&name).map_err(|e| call_error(CallErrorKind::Internal, e.to_string()))?;
    let seen = launch::launch(run_dir, &id, *run).and_then(|status| {
        let up = follow::ready(run_dir, &id, std::time::Duration::from_secs(20))?;
        let ms = up.boot_ms.agent.unwrap_or_default();
        Ok(format!("the agent answered {ms} ms after the VMM's start ({})", status.accel))
    });
    let gone = destroy::destroy(run_dir, &id, destroy::How::Force);
    seen.and_then(|seen| gone.map(|_| seen))
}
