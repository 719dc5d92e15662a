//! Carries out commands and reports their results: a record or a sentence on standard output, an error on standard
//! error, and the exit codes of sysexits(3).

mod attach;
mod cp;
mod disk;
mod doctor;
mod environment;
mod exec;
mod foreground;
mod image;
mod kernel;
mod list;
pub(crate) mod logs;
mod order;
mod output;
mod run;
mod serve;
mod timings;
mod usage;

use crate::cli::{Cli, Format, Image, Request, Vm};
use crate::error::{About, CallError, Result, call_error};
use crate::host::inherited;
use crate::ops::destroy::{How, destroy};
use crate::ops::usage::{disks, guest, limits, port_use, usage as usage_of};
use crate::reconcile;
use crate::rundir::{RunDir, ends};
use clap::{CommandFactory, Parser};
pub use serve::serve;

use output::{print, print_done, print_error};
use pepita_wire::VmId;
use pepita_wire::record::{CallErrorKind, VersionRecord, pretty};
use std::path::Path;
use std::process::ExitCode;

/// The prefix of the names that a supervisor gives its VMs.
const SUPERVISED: &str = "duende-vm-";

/// Runs the program when it is called as anything but a monitor.
pub fn main() -> ExitCode {
    inherited::expect_children();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage::usage_error(&e),
    };
    let json = cli.json;
    match perform(cli) {
        Ok(code) => code,
        Err(e) => {
            print_error(&e, json);
            ExitCode::from(e.kind.exit_code())
        }
    }
}

fn perform(cli: Cli) -> Result<ExitCode> {
    if cli.version {
        version(cli.run_dir.as_deref(), cli.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(request) = cli.call else {
        return Err(call_error(CallErrorKind::Usage, "a call is wanted; `pepita --help` lists them"));
    };
    let run_dir = &RunDir::choose(cli.run_dir.as_deref())?;
    let json = cli.json;
    carry_out(run_dir, request, json).map_err(|e| with_similar_name(run_dir, e))
}

/// Adds the name that was meant to an error about a VM that is not there: a supervisor's name of a VM is the VM's own
/// name after a prefix.
fn with_similar_name(run_dir: &RunDir, error: CallError) -> CallError {
    let prefixed = error.name.as_ref().filter(|_| error.kind == CallErrorKind::NoSuchVm);
    let prefixed = prefixed.and_then(|name| VmId::new(&format!("{SUPERVISED}{name}")).ok());
    match prefixed.filter(|name| run_dir.holding(name).vm(name).exists()) {
        Some(meant) => CallError { message: format!("{}; did you mean {meant}?", error.message), ..error },
        None => error,
    }
}

fn carry_out(run_dir: &RunDir, request: Request, json: bool) -> Result<ExitCode> {
    // A VM that an earlier version has put elsewhere is found there.
    let of = |vm: &Vm| (run_dir.holding(vm.name()), vm.name().clone());
    match request {
        Request::Run(run) => return run::run(run_dir, *run, json),
        Request::Exec(exec) => {
            let (run_dir, name) = of(&exec.vm);
            return exec::exec(&run_dir, &name, exec).map_err(|e| with_similar_name(&run_dir, e)).or_else(
                |e| {
                    print_error(&e, json);
                    Ok(ExitCode::from(exec::FAILED))
                },
            );
        }
        Request::Cp(asked) => return cp::cp(run_dir, asked),
        Request::Attach { vm, sig_proxy } => {
            let (run_dir, name) = of(&vm);
            return attach::attach(&run_dir, &name, sig_proxy);
        }
        Request::Doctor { no_boot, kernel, rootfs } => {
            return doctor::doctor(run_dir, &doctor::Asked { boot: !no_boot, kernel, rootfs }, json);
        }
        Request::Signal { vm, signal } => {
            let (run_dir, name) = of(&vm);
            order::signal(&run_dir, &name, signal)?;
        }
        Request::Status { vm } => {
            let (run_dir, name) = of(&vm);
            let mut status = reconcile::status(&run_dir, &name)?;
            if status.exit.is_none() {
                status.host_limits = limits(&run_dir.vm(&name)).map(Box::new);
                status.usage = usage_of(&run_dir.vm(&name)).map(Box::new);
                status.port_use = port_use(&run_dir.vm(&name), &status);
                let mut told = guest(&run_dir.vm(&name), &status);
                status.disks = disks(&run_dir.vm(&name), told.as_ref());
                if let Some(told) = &mut told {
                    told.disks.clear();
                }
                status.guest = told.map(Box::new);
            }
            print(&pretty(&status)).about(name.as_str())?;
        }
        Request::Destroy { vm, force, timeout, signal } => {
            let (run_dir, name) = of(&vm);
            let how = if force { How::Force } else { How::Graceful { signal, timeout } };
            take_down(&run_dir, &name, how, json)?;
        }
        Request::List { format } => list::list(run_dir, if json { Format::Json } else { format })?,
        Request::Logs { vm, follow, restarts, timestamps, tail, since, until, previous } => {
            let (run_dir, name) = of(&vm);
            let tail = tail.map(|lines| lines.0);
            let wanted = logs::Wanted { stamps: timestamps, tail, since, until };
            match previous {
                Some(previous) => logs::previous(&run_dir, &name, previous, &wanted)?,
                None if restarts => logs::follow_restarts(&run_dir, &name, &wanted)?,
                None => logs::logs(&run_dir, &name, follow, &wanted)?,
            }
        }
        Request::Wait { vm, timeout } => {
            let (run_dir, name) = of(&vm);
            list::wait(&run_dir, &name, timeout)?;
        }
        Request::Adopt { vm } => {
            let (run_dir, name) = of(&vm);
            let status = order::adopt(&run_dir, &name)?;
            let text = if json { pretty(&status) } else { format!("{}: {}", status.name, status.state) };
            print_done(&text, "the VM was adopted").about(name.as_str())?;
        }
        Request::Start { vm, daemon } => {
            let (run_dir, name) = of(&vm);
            order::start(&run_dir, &name, &daemon)?;
        }
        Request::Disk(asked) => disk::disk(asked, json)?,
        Request::Image(Image::Build(build)) => image::build(run_dir, *build)?,
        Request::Image(Image::Pull(asked)) => return Err(image::container("pull", asked, json)),
        Request::Image(Image::Import(asked)) => return Err(image::container("import", asked, json)),
        Request::Image(Image::List(asked)) => return Err(image::container("list", asked, json)),
        Request::Image(Image::Inspect(asked)) => return Err(image::container("inspect", asked, json)),
        Request::Image(Image::Remove(asked)) => return Err(image::container("remove", asked, json)),
        Request::Image(Image::Prune(asked)) => return Err(image::container("prune", asked, json)),
        Request::Kernel(asked) => kernel::kernel(asked, json)?,
        Request::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "pepita", &mut script);
            print(&String::from_utf8_lossy(&script))?;
        }
        Request::Man { call } => manual(call.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn take_down(run_dir: &RunDir, name: &VmId, how: How, json: bool) -> Result<()> {
    let found = destroy(run_dir, name, how).about(name.as_str())?;
    // A supervisor destroys with force, and its VMs keep their ends.
    let forgotten = !found && matches!(how, How::Graceful { .. }) && ends::forget(&run_dir.vm(name));
    match (found, forgotten) {
        (true, _) => Ok(()),
        (false, _) if json => Ok(()),
        (false, false) => print(&format!("no VM {name}: nothing to destroy")),
        (false, true) => print(&format!("no VM {name}: what was kept of its last ends is removed")),
    }
}

fn manual(call: Option<&str>) -> Result<()> {
    let mut command = Cli::command();
    // Without this call, clap does not give the subcommands their full names, such as `pepita-run`.
    command.build();
    let page = match call {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| {
            call_error(CallErrorKind::Usage, format!("no call {name:?}; `pepita --help` lists them"))
        })?,
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|e| call_error(CallErrorKind::Io, e.to_string()))?;
    print(&String::from_utf8_lossy(&text))
}

fn version(run_dir: Option<&Path>, json: bool) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    if !json {
        return print(&format!("pepita-launcher {version}"));
    }
    print(&pretty(&VersionRecord {
        name: "pepita-launcher".into(),
        version,
        contract: pepita_wire::CLI_VERSION,
        additions: pepita_wire::CLI_ADDITIONS,
        serves: true,
        vmms: doctor::vmms(),
        // A directory that cannot be used is the error of the calls that use it.
        run_dir: RunDir::choose(run_dir).ok().map(|dir| dir.path().to_string_lossy().into_owned()),
    }))
}
