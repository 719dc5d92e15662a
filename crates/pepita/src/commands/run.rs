//! `pepita run`.

use super::environment::{environment, environment_file, launch_spec};
use super::{foreground, output::print_done, timings};
use crate::cli::{Run, RunOptions, TimedUntil, Volume};
use crate::error::{About, Result, call_error, eprint_line};
use crate::host::{patience, random, tap};
use crate::ops::follow::ready;
use crate::ops::launch::{Caller, launch};
use crate::rundir::RunDir;
use crate::rundir::cid::Wanted;
use crate::vm_config::READY_TIMEOUT_MS;
use pepita_wire::network::Network;
use pepita_wire::record::{CallErrorKind, pretty};
use pepita_wire::{LaunchSpec, StatusRecord, VmId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

pub(super) fn run(run_dir: &RunDir, run: Run, json: bool) -> Result<ExitCode> {
    let (detached, wait_ready, rm, timed) = (run.daemon, run.wait_ready, run.rm, run.timings);
    let spec = specification(run)?;
    let name = name(&spec)?;
    // A VM of this name that an earlier version has put elsewhere keeps the name.
    let run_dir = &run_dir.holding(&name);
    if spec.vmm.as_deref() == Some("process") && !json {
        eprint_line(format_args!(
            "pepita: {name}: --vmm process has NO ISOLATION: the daemon is a plain process of this host"
        ));
    }
    if spec.network == Network::User && !json {
        eprint_line(format_args!(
            "pepita: {name}: --network user: the guest reaches what this host reaches, also services that listen at \
             127.0.0.1 of this host (in the guest at 10.0.2.2)"
        ));
    }
    if spec.network == Network::Tap && !tap::forwards() && !json {
        eprint_line(format_args!(
            "pepita: {name}: --network tap: this host carries no packets on, so the guest reaches no other host: sysctl -w \
             net.ipv4.ip_forward=1 lets it"
        ));
    }
    let timeout = Duration::from_millis(spec.ready_timeout_ms.unwrap_or(READY_TIMEOUT_MS));
    if !detached {
        return in_foreground(run_dir, &name, spec, rm, timed.map(|until| (until, json)));
    }
    let status = launch(run_dir, &name, spec, &Detached { is_program: json })?;
    if !json {
        tell(&status);
    }
    let status = match wait_ready {
        true => ready(run_dir, &name, timeout)?,
        false => status,
    };
    let status = match timed {
        Some(until) => timings::await_start(run_dir, &name, until, Some(timeout))?,
        None => status,
    };
    if let Some(until) = timed
        && !json
    {
        timings::print(&status, until, false);
    }
    print_done(&if json { pretty(&status) } else { status.name }, "the VM was launched")
        .about(name.as_str())?;
    Ok(ExitCode::SUCCESS)
}

fn in_foreground(
    run_dir: &RunDir,
    name: &VmId,
    spec: LaunchSpec,
    rm: bool,
    timed: Option<(TimedUntil, bool)>,
) -> Result<ExitCode> {
    let caller = foreground::Foreground::begin()?;
    match launch(run_dir, name, spec, &caller) {
        Ok(status) => {
            tell(&status);
            let (told, is_told) = mpsc::channel::<()>();
            if let Some((until, json)) = timed {
                let (run_dir, name) = (run_dir.clone(), name.clone());
                // Without a thread, the VM matters more.
                let _ = patience::spawn(move || {
                    let _told = told;
                    if let Ok(status) = timings::await_start(&run_dir, &name, until, None) {
                        timings::print(&status, until, json);
                    }
                });
            } else {
                drop(told);
            }
            let exit = foreground::stay(run_dir, name, rm, &caller)?;
            // The start is over at the latest when the VM is.
            let _ = is_told.recv();
            Ok(exit)
        }
        Err(e) => caller.interrupted().ok_or(e),
    }
}

/// Tells of the guest's address, of the layers that the jail lacks, and of the directories that the image means to outlive its VM, and that no disk keeps: docker
/// would keep them.
fn tell(status: &StatusRecord) {
    if let Some(address) = status.address {
        eprint_line(format_args!("pepita: {}: this host reaches the guest at {address}", status.name));
    }
    if let Some(shortfall) = status.jail.as_ref().and_then(|jail| jail.shortfall()) {
        eprint_line(format_args!(
            "pepita: {}: the jail of its processes lacks layers: {shortfall}",
            status.name
        ));
    }
    let unkept = status.image.as_ref().map(|image| &image.unkept[..]).unwrap_or_default();
    if let [first, ..] = unkept {
        eprint_line(format_args!(
            "pepita: {}: what is written to {} ends with the VM; a disk keeps it: -v NAME:{first}",
            status.name,
            unkept.join(", ")
        ));
    }
}

/// A command that returns when the VM is up.
#[derive(Debug)]
struct Detached {
    /// Whether a program reads the answer. A program whose end of the pipe is closed has given the launch up.
    is_program: bool,
}

impl Caller for Detached {
    fn gives_up(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_heard(&self) -> bool {
        let stdout = std::io::stdout();
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        !(self.is_program && polled.is_ok() && fds[0].revents().contains(PollFlags::ERR))
    }
}

fn name(spec: &LaunchSpec) -> Result<VmId> {
    let name = match &spec.name {
        Some(name) => name.clone(),
        None => format!("vm-{}", &random::secret()?[..8]),
    };
    VmId::new(&name).map_err(|e| call_error(CallErrorKind::Usage, e.to_string()))
}

/// Returns the specification of the VM: the one that `--spec` names, if any, overridden by the options.
fn specification(run: Run) -> Result<LaunchSpec> {
    let stdin = Some(Path::new("-"));
    if run.spec.as_deref() == stdin && run.daemon_args.env_file.as_deref() == stdin {
        let why = "--spec - and --env-file - both read standard input; `env` of the specification is the environment";
        return Err(call_error(CallErrorKind::Usage, why));
    }
    let spec = match &run.spec {
        Some(path) => launch_spec(path)?,
        None => LaunchSpec::default(),
    };
    let mut spec = with_options(spec, run.options);
    spec.image = run.image.or(spec.image);
    spec.pull = run.pull.map(|pull| <&str>::from(pull).to_owned()).or(spec.pull);
    spec.entrypoint = run.entrypoint.or(spec.entrypoint);
    if let Some(path) = spec.env_file.take() {
        let of_file = environment_file(&path)?;
        spec.env = of_file.into_iter().chain(spec.env).collect();
    }
    spec.env.extend(environment(&run.daemon_args)?);
    if !run.daemon_args.command.is_empty() {
        spec.command = run.daemon_args.command;
    }
    Ok(spec)
}

/// Returns `spec` with its fields replaced by the options that were given. Labels and ports are added to those of `spec`.
fn with_options(mut spec: LaunchSpec, options: RunOptions) -> LaunchSpec {
    spec.labels.extend(options.label);
    for volume in options.volume {
        match volume {
            Volume::Disk(disk) => spec.disks.push(disk),
            Volume::Share(share) => spec.shares.push(share),
        }
    }
    spec.disks.extend(options.disk);
    spec.publish.extend(options.publish);
    spec.reach.extend(options.reach);
    spec.ulimits.extend(options.ulimit);
    spec.sysctls.extend(options.sysctl);
    spec.secrets.extend(options.secret);
    LaunchSpec {
        name: options.name.map(|name| name.to_string()).or(spec.name),
        incarnation: options.incarnation.or(spec.incarnation),
        vmm: options.vmm.map(|vmm| <&str>::from(vmm).to_owned()).or(spec.vmm),
        kernel: options.kernel.or(spec.kernel),
        rootfs: options.rootfs.or(spec.rootfs),
        initrd: options.initrd.or(spec.initrd),
        image: spec.image,
        pull: spec.pull,
        entrypoint: spec.entrypoint,
        kernel_package: options.kernel_package.or(spec.kernel_package),
        accel: options.accel.map(|accel| <&str>::from(accel).to_owned()).or(spec.accel),
        jail: options.jail.map(|jail| jail.to_string()).or(spec.jail),
        jail_uids: options.jail_uids.map(|uids| uids.to_string()).or(spec.jail_uids),
        vsock: options.vsock.map(|vsock| <&str>::from(vsock).to_owned()).or(spec.vsock),
        cmdline_append: options.cmdline_append.or(spec.cmdline_append),
        cpus: options.cpus.or(spec.cpus),
        memory_mb: options.memory.or(spec.memory_mb),
        vsock_cid: match options.vsock_cid {
            None => spec.vsock_cid,
            Some(Wanted::Any) => None,
            Some(Wanted::Fixed(cid)) => Some(cid.get()),
        },
        vsock_port: options.vsock_port.or(spec.vsock_port),
        ready_timeout_ms: options
            .ready_timeout
            .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
            .or(spec.ready_timeout_ms),
        log_dir: options.log_dir.or(spec.log_dir),
        disk_dir: options.disk_dir.or(spec.disk_dir),
        disks: spec.disks,
        shares: spec.shares,
        hold: options.hold || spec.hold,
        command: spec.command,
        env: spec.env,
        env_file: spec.env_file,
        hostname: options.hostname.or(spec.hostname),
        user: options.user.or(spec.user),
        workdir: options.workdir.or(spec.workdir),
        ulimits: spec.ulimits,
        sysctls: spec.sysctls,
        read_only: options.read_only || spec.read_only,
        privileged: options.privileged || spec.privileged,
        secrets: spec.secrets,
        labels: spec.labels,
        publish: spec.publish,
        reach: spec.reach,
        network: options.network.unwrap_or(spec.network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Request};
    use clap::Parser;

    fn asked_for(spec: LaunchSpec, args: &[&str]) -> LaunchSpec {
        let words = ["pepita", "run"].into_iter().chain(args.iter().copied());
        let Some(Request::Run(run)) = Cli::try_parse_from(words).expect("a good call").call else {
            panic!("a run")
        };
        with_options(spec, run.options)
    }

    #[test]
    fn an_option_that_was_given_overrides_its_field_and_no_other_does() {
        let label = |value: &str| [("k".to_owned(), value.to_owned())].into();
        let spec = LaunchSpec {
            name: Some("a".into()),
            cpus: Some(4),
            memory_mb: Some(512),
            vsock_cid: Some(9),
            hold: true,
            labels: label("spec"),
            ..LaunchSpec::default()
        };
        assert_eq!(asked_for(spec.clone(), &[]), spec);
        let args = ["--memory", "1G", "--vsock-cid", "auto", "--label", "k=option", "--vmm", "process"];
        let world = [
            "--user",
            "7",
            "--ulimit",
            "nofile=9",
            "--sysctl",
            "vm.x=1",
            "--secret",
            "k=/f",
            "--read-only",
            "--network",
            "user",
            "--jail",
            "best-effort",
            "--jail-uids",
            "7-8",
        ];
        let args = [&args[..], &world].concat();
        let expected = LaunchSpec {
            memory_mb: Some(1024),
            vsock_cid: None,
            labels: label("option"),
            vmm: Some("process".into()),
            user: Some("7".into()),
            ulimits: [("nofile".to_owned(), "9".parse().expect("a limit"))].into(),
            sysctls: [("vm.x".to_owned(), "1".to_owned())].into(),
            secrets: [("k".to_owned(), "/f".into())].into(),
            read_only: true,
            network: Network::User,
            jail: Some("best-effort".into()),
            jail_uids: Some("7-8".into()),
            ..spec.clone()
        };
        assert_eq!(asked_for(spec, &args), expected);
    }
}
