//! Completes what was asked for: files are found and recognised, `auto` is decided, programs are looked for.

use crate::cli::{AccelChoice, DaemonArgs, Run, VmmChoice, VsockChoice};
use crate::error::{Result, call_error, io};
use crate::host::programs::{AGENT, BACKEND, QEMU, static_agent};
use crate::host::{kvm, tsc, vhost_vsock};
use crate::image::{build as image, kernel};
use crate::rundir::RunDir;
use crate::rundir::cid::Wanted;
use crate::vm_config::{Accel, Root, VmConfig, VmmKind};
use pepita_wire::VmId;
use pepita_wire::record::{CallErrorKind, Transport};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most that is read of an environment file.
pub const ENV_CAP: u64 = 1 << 20;

/// What the daemon's environment is to be: the file's, then the options'.
pub fn environment(daemon: &DaemonArgs) -> Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    if let Some(path) = &daemon.env_file {
        let mut text = String::new();
        let read = if path == Path::new("-") {
            std::io::stdin().take(ENV_CAP).read_to_string(&mut text)
        } else {
            std::fs::File::open(path).and_then(|file| file.take(ENV_CAP).read_to_string(&mut text))
        };
        read.map_err(|e| io(path, e))?;
        env = crate::cli::env_file(&text).map_err(|(line, why)| {
            call_error(CallErrorKind::Usage, format!("{}:{line}: {why}", path.display()))
        })?;
    }
    env.extend(daemon.env.iter().cloned());
    Ok(env)
}

/// Completes the request of a `run`.
///
/// # Errors
/// When something that is needed is missing or is not what it should be.
pub fn plan(run_dir: &RunDir, name: &VmId, run: Run) -> Result<VmConfig> {
    let vmm = match run.vmm {
        VmmChoice::Qemu => VmmKind::Qemu,
        VmmChoice::Process => VmmKind::Process,
    };
    let env = environment(&run.daemon_args)?;
    let cid = match run.vsock_cid {
        Wanted::Fixed(cid) => Some(cid),
        Wanted::Any => None,
    };
    let base = VmConfig {
        name: name.to_string(),
        incarnation: run.incarnation,
        vmm,
        program: PathBuf::new(),
        accel: Accel::None,
        kernel: None,
        root: Root::Host(None),
        cpus: run.cpus,
        memory_mb: run.memory,
        cid,
        port: run.vsock_port,
        transport: Transport::Hybrid,
        backend: None,
        command: run.daemon_args.command.clone(),
        env,
        labels: run.label.iter().cloned().collect(),
        hold: run.hold,
        ready_timeout_ms: u64::try_from(run.ready_timeout.as_millis()).unwrap_or(u64::MAX),
        cmdline_append: run.cmdline_append.clone(),
        tsc_khz: None,
    };
    match vmm {
        VmmKind::Process => {
            let command = from_here(base.command.clone());
            let image = run.rootfs.filter(|path| path.extension().is_some_and(|e| e == "json"));
            let image = image
                .map(|path| std::fs::canonicalize(&path).map_err(|e| kernel::missing("image", &path, &e)));
            Ok(VmConfig { program: AGENT.require()?, root: Root::Host(image.transpose()?), command, ..base })
        }
        VmmKind::Qemu => machine(run_dir, &run, base),
    }
}

/// A program of this host that was named by a relative path is meant from here, not from where the agent runs.
fn from_here(mut command: Vec<String>) -> Vec<String> {
    if let Some(program) = command.first_mut()
        && program.contains('/')
        && let Ok(path) = std::path::absolute(&*program)
    {
        *program = path.to_string_lossy().into_owned();
    }
    command
}

/// The parts of a plan that only a real VM has.
fn machine(run_dir: &RunDir, run: &Run, base: VmConfig) -> Result<VmConfig> {
    let needed = |what: &str, path: &Option<PathBuf>| {
        path.clone().ok_or_else(|| {
            call_error(CallErrorKind::Usage, format!("--{what} is needed; `pepita image build` makes a root file system, `pepita doctor` finds kernels"))
        })
    };
    let named_kernel = needed("kernel", &run.kernel)?;
    let rootfs = needed("rootfs", &run.rootfs)?;
    let kernel = kernel::prepare(run_dir, &named_kernel)?;
    let (image, kind) = image::recognise(&rootfs)?;
    let root = match kind {
        image::Kind::Initramfs => Root::Initramfs(image),
        image::Kind::Disk => Root::Disk { image, initrd: initrd(run_dir, run, &named_kernel)? },
    };
    let accel = match run.accel {
        AccelChoice::Kvm => Accel::Kvm,
        AccelChoice::Tcg => Accel::Tcg,
        AccelChoice::Auto if kvm::can_boot().is_ok() => Accel::Kvm,
        AccelChoice::Auto => Accel::Tcg,
    };
    let transport = match run.vsock {
        VsockChoice::Vhost => Transport::Vhost,
        VsockChoice::Hybrid => Transport::Hybrid,
        VsockChoice::Auto if vhost_vsock::is_available() => Transport::Vhost,
        VsockChoice::Auto => Transport::Hybrid,
    };
    Ok(VmConfig {
        program: QEMU.require()?,
        accel,
        kernel: Some(kernel),
        root,
        transport,
        backend: if transport == Transport::Hybrid { Some(BACKEND.require()?) } else { None },
        tsc_khz: if accel == Accel::Tcg { tsc::khz(run_dir) } else { None },
        ..base
    })
}

/// What leads to a disk: named, or made from the kernel's modules. A kernel without modules drives it by itself.
fn initrd(run_dir: &RunDir, run: &Run, kernel: &Path) -> Result<Option<PathBuf>> {
    if let Some(initrd) = &run.initrd {
        return std::fs::canonicalize(initrd).map(Some).map_err(|e| kernel::missing("initrd", initrd, &e));
    }
    let beside = || {
        let kernel = std::fs::canonicalize(kernel).ok()?;
        let release = kernel.file_name()?.to_str()?.strip_prefix("vmlinuz-").unwrap_or_default().to_owned();
        let dir = kernel.parent()?;
        let installed = (!release.is_empty()).then(|| Path::new("/lib/modules").join(&release));
        let unpacked = dir.parent().map(|top| top.join("lib/modules").join(&release));
        installed.into_iter().chain([dir.join("modules")]).chain(unpacked).find(|dir| dir.is_dir())
    };
    match run.kernel_package.clone().or_else(beside) {
        Some(package) => image::initrd(run_dir, &static_agent()?, &package).map(Some),
        None => Ok(None),
    }
}
