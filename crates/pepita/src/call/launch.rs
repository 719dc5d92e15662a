//! `pepita run` and `pepita adopt`: completes the plan, starts a monitor, hears what it says.

use super::{foreground, look, say};
use crate::agent_program::{AGENT, BACKEND, QEMU, static_agent};
use crate::cid::Wanted;
use crate::cli::{AccelChoice, DaemonArgs, Run, VmmChoice, VsockChoice};
use crate::failure::{About, Outcome, failure, grumble, io, system};
use crate::image;
use crate::monitor::start::{Answer, Order};
use crate::plan::{Accel, Plan, Root, VmmKind};
use crate::record;
use crate::rundir::RunDir;
use crate::{doctor, kernel, settle, tsc, vhost};
use pepita_wire::record::{CallErrorKind, Transport, pretty};
use pepita_wire::{StatusRecord, VmId};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// The most that is read of an environment file.
const ENV_CAP: u64 = 1 << 20;

/// `pepita run`.
pub(super) fn run(run_dir: &RunDir, run: Run, json: bool) -> Outcome<ExitCode> {
    let name = match &run.name {
        Some(name) => name.clone(),
        None => VmId::new(&format!("vm-{}", &crate::monitor::secret()?[..8])).expect("a good name"),
    };
    let (detached, wait_ready, rm, timeout) = (run.daemon, run.wait_ready, run.rm, run.ready_timeout);
    if run.vmm == VmmChoice::Process && !json {
        grumble(format_args!(
            "pepita: {name}: --vmm process has NO ISOLATION: the daemon is a plain process of this host"
        ));
    }
    let status = launch(run_dir, &name, run)?;
    if !detached {
        return foreground::stay(run_dir, &name, rm);
    }
    let status = match wait_ready {
        true => ready(run_dir, &name, timeout)?,
        false => status,
    };
    say(&if json { pretty(&status) } else { status.name });
    Ok(ExitCode::SUCCESS)
}

/// Starts a VM; returns when its VMM runs.
pub(super) fn launch(run_dir: &RunDir, name: &VmId, run: Run) -> Outcome<StatusRecord> {
    // Looked at first: a directory that no VM can have is not made.
    run_dir.checked_vm(name).about(name.as_str())?;
    run_dir.create()?;
    let plan = plan(run_dir, name, run).about(name.as_str())?;
    start_monitor(run_dir, &Order::Launch(Box::new(plan))).about(name.as_str())
}

/// Waits until its agent answers.
pub(super) fn ready(run_dir: &RunDir, name: &VmId, timeout: std::time::Duration) -> Outcome<StatusRecord> {
    let status = look::follow(run_dir, name, Some(timeout), |status| status.agent.ready)?;
    match &status.exit {
        Some(exit) => {
            let why = exit.evidence.join("; ");
            Err(failure(
                CallErrorKind::Io,
                format!("it ended before its agent was ready: {} ({why})", exit.reason),
            ))
            .about(name.as_str())
        }
        None => Ok(status),
    }
}

/// `pepita adopt`: a new monitor, if it needs one.
pub(super) fn adopt(run_dir: &RunDir, name: &VmId) -> Outcome<StatusRecord> {
    for _ in 0..50 {
        let status = settle::status(run_dir, name)?;
        if status.monitor_pid.is_some() || status.state.is_terminal() {
            return Ok(status);
        }
        match start_monitor(run_dir, &Order::Adopt(name.to_string())) {
            // Somebody else was quicker.
            Err(e) if e.kind == CallErrorKind::TryAgain => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            result => return result.about(name.as_str()),
        }
    }
    Err(failure(CallErrorKind::TryAgain, "its monitors come and go; try again")).about(name.as_str())
}

/// Starts a monitor and waits for its word. It stays when we go.
fn start_monitor(run_dir: &RunDir, order: &Order) -> Outcome<StatusRecord> {
    let own = std::env::current_exe().map_err(|e| system("our own program", e))?;
    let mut child = Command::new(own)
        .arg("monitor")
        .arg(run_dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failure(CallErrorKind::TryAgain, format!("cannot start a monitor: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        let order = serde_json::to_vec(order).expect("an order becomes JSON");
        stdin.write_all(&order).map_err(|e| system("the monitor", e))?;
    }
    let mut line = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        // Up to its end: the monitor closes it when it has answered.
        stdout.take(ENV_CAP).read_to_end(&mut line).map_err(|e| system("the monitor", e))?;
    }
    match serde_json::from_slice(&line) {
        Ok(Answer::Up(status)) => Ok(*status),
        Ok(Answer::Failed(e)) => {
            let _ = child.wait();
            Err(e)
        }
        Err(_) => {
            let how = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
            Err(failure(CallErrorKind::Internal, format!("the monitor ended without a word ({how})")))
        }
    }
}

/// What the daemon's environment is to be: the file's, then the options'.
pub(super) fn environment(daemon: &DaemonArgs) -> Outcome<BTreeMap<String, String>> {
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
            failure(CallErrorKind::Usage, format!("{}:{line}: {why}", path.display()))
        })?;
    }
    env.extend(daemon.env.iter().cloned());
    Ok(env)
}

fn plan(run_dir: &RunDir, name: &VmId, run: Run) -> Outcome<Plan> {
    let vmm = match run.vmm {
        VmmChoice::Qemu => VmmKind::Qemu,
        VmmChoice::Process => VmmKind::Process,
    };
    let env = environment(&run.daemon_args)?;
    let cid = match run.vsock_cid {
        Wanted::Fixed(cid) => Some(cid),
        Wanted::Any => None,
    };
    let base = Plan {
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
            Ok(Plan { program: AGENT.require()?, root: Root::Host(image.transpose()?), command, ..base })
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
fn machine(run_dir: &RunDir, run: &Run, base: Plan) -> Outcome<Plan> {
    let needed = |what: &str, path: &Option<PathBuf>| {
        path.clone().ok_or_else(|| {
            failure(CallErrorKind::Usage, format!("--{what} is needed; `pepita image build` makes a root file system, `pepita doctor` finds kernels"))
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
        AccelChoice::Auto if doctor::hardware_virtualisation().is_ok() => Accel::Kvm,
        AccelChoice::Auto => Accel::Tcg,
    };
    let transport = match run.vsock {
        VsockChoice::Vhost => Transport::Vhost,
        VsockChoice::Hybrid => Transport::Hybrid,
        VsockChoice::Auto if vhost::is_available() => Transport::Vhost,
        VsockChoice::Auto => Transport::Hybrid,
    };
    Ok(Plan {
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
fn initrd(run_dir: &RunDir, run: &Run, kernel: &Path) -> Outcome<Option<PathBuf>> {
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

/// The exit record of a VM that has ended, if it has one.
pub(super) fn exit_of(run_dir: &RunDir, name: &VmId) -> Option<pepita_wire::ExitRecord> {
    record::exit_in(&run_dir.vm(name))
}
