//! `pepita doctor`: gathers facts about the host and prints the verdict on each. The verdicts are [`diagnose`]'s.

mod diagnose;

use crate::error::Result;
use crate::host::programs::{AGENT, BACKEND, Program, QEMU};
use crate::host::{kvm, vhost_vsock};
use crate::image::installed::Kernels;
use crate::ops::jail;
use crate::ops::probe::{Probe, probe};
use crate::ops::tap;
use crate::rundir::{RunDir, tsc};
use diagnose::{Boot, Check, Facts, Found, Verdict};
use pepita_wire::record::{VmmAvailability, pretty};
use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The parts of a check that the command line decides.
#[derive(Debug)]
pub(super) struct Asked {
    /// Whether to boot a guest.
    pub boot: bool,
    /// The kernel to boot.
    pub kernel: Option<PathBuf>,
    /// The initramfs to boot.
    pub rootfs: Option<PathBuf>,
}

/// Returns which VMMs can be used on this host, without running them.
pub(super) fn vmms() -> Vec<VmmAvailability> {
    let one = |name: &str, program: &Program| {
        let found = program.find();
        let detail =
            found.as_ref().map_or_else(|| program.advice.to_owned(), |path| path.display().to_string());
        VmmAvailability { name: name.to_owned(), usable: found.is_some(), detail }
    };
    vec![one("qemu", &QEMU), one("process", &AGENT)]
}

/// Runs `pepita doctor`.
///
/// # Errors
/// Returns the error of an output that cannot be written. A broken thing is reported in the output and by the exit code
/// (69).
pub(super) fn doctor(run_dir: &RunDir, asked: &Asked, json: bool) -> Result<ExitCode> {
    let checks = diagnose::diagnose(&facts(run_dir, asked));
    let broken = checks.iter().any(|check| check.verdict == Verdict::Broken);
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    super::output::print(&if json { pretty(&checks) } else { table(&checks, colours) })?;
    Ok(if broken { ExitCode::from(69) } else { ExitCode::SUCCESS })
}

fn table(checks: &[Check], colours: bool) -> String {
    let mut text = String::new();
    for check in checks {
        let (word, colour) = match check.verdict {
            Verdict::Ok => ("ok", "32"),
            Verdict::Missing => ("missing", "33"),
            Verdict::Broken => ("broken", "31"),
        };
        let word = if colours { format!("\x1b[{colour}m{word:8}\x1b[0m") } else { format!("{word:8}") };
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{word} {:14} {}", check.what, check.seen);
        if let Some(advice) = &check.advice {
            let _ = writeln!(text, "{:8} {:14} -> {advice}", "", "");
        }
    }
    text
}

fn facts(run_dir: &RunDir, asked: &Asked) -> Facts {
    let kernel = kernel(asked);
    let writable = writable(run_dir);
    Facts {
        qemu: look_for(&QEMU),
        backend: look_for(&BACKEND),
        agent: look_for(&AGENT),
        kvm: kvm::look(),
        cpu_can: kvm::cpu_flag(),
        vhost: kvm::opens(Path::new(vhost_vsock::DEVICE)),
        run_dir: run_dir.path().to_owned(),
        writable,
        open_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        jail: jail::probe(),
        share_jail: jail::probe_share(),
        tsc_khz: tsc::khz(run_dir),
        mke2fs: ["/usr/sbin/mke2fs", "/sbin/mke2fs"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.exists()),
        boot: asked.boot.then(|| boot(run_dir, kernel.as_deref(), asked.rootfs.as_deref())),
        kernel,
        tap: tap::requirements().map(drop).map_err(|e| e.message),
    }
}

fn look_for(program: &Program) -> Found {
    let Some(path) = program.find() else { return Found::No };
    match Command::new(&path).arg("--version").output() {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
            Found::Runs(path, said)
        }
        Ok(output) => Found::Fails(path, output.status.to_string()),
        Err(e) => Found::Fails(path, e.to_string()),
    }
}

fn writable(run_dir: &RunDir) -> Result<(), String> {
    let probe = run_dir.path().join(format!(".probe-{}", std::process::id()));
    run_dir.create().map_err(|e| e.message)?;
    std::fs::write(&probe, b"x").and_then(|()| std::fs::remove_file(&probe)).map_err(|e| e.to_string())
}

fn kernel(asked: &Asked) -> Option<PathBuf> {
    let installed = || Kernels::of_user().ok().and_then(|kernels| kernels.default());
    asked.kernel.clone().or_else(installed).or_else(|| {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
        let running = PathBuf::from(format!("/boot/vmlinuz-{}", release.trim()));
        [running, PathBuf::from("/boot/vmlinuz")].into_iter().find(|path| path.exists())
    })
}

/// Boots a real guest, with a deadline.
fn boot(run_dir: &RunDir, kernel: Option<&Path>, rootfs: Option<&Path>) -> Boot {
    let (Some(kernel), Some(rootfs)) = (kernel, rootfs) else { return Boot::NotTried };
    match probe(run_dir, kernel, rootfs) {
        Ok(Probe { agent_ms, accel }) => {
            Boot::Answered(format!("the agent answered {agent_ms} ms after the VMM's start ({accel})"))
        }
        Err(e) => Boot::Failed(e.message),
    }
}
