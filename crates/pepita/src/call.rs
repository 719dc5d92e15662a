//! Carries out what was typed, and says how it went: a record or a sentence on standard output, an error on standard
//! error, an exit code that means something.

mod destroy;
mod foreground;
mod images;
mod launch;
mod logs;
mod look;

use crate::cli::{Call, Cli, Format, Image};
use crate::client;
use crate::failure::{About, Failure, Outcome, failure};
use crate::rundir::RunDir;
use crate::settle;
use clap::{CommandFactory, Parser};
use pepita_wire::record::{CallErrorKind, VersionRecord, pretty};
use pepita_wire::{Signal, VmId};
use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;

/// The whole program, but for the monitor.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return misunderstood(&e),
    };
    let json = cli.json;
    match perform(cli) {
        Ok(code) => code,
        Err(e) => {
            complain(&e, json);
            ExitCode::from(e.kind.exit_code())
        }
    }
}

/// Help is no error; anything else that clap says is.
fn misunderstood(error: &clap::Error) -> ExitCode {
    // Asked for as an option, before the options were understood.
    let json = std::env::args_os().any(|arg| arg == "--json");
    if error.use_stderr() && json {
        complain(&failure(CallErrorKind::Usage, error.to_string().trim()), true);
    } else {
        let _ = error.print();
    }
    if error.use_stderr() { ExitCode::from(CallErrorKind::Usage.exit_code()) } else { ExitCode::SUCCESS }
}

fn complain(error: &Failure, json: bool) {
    if json {
        eprintln!("{}", serde_json::to_string(error).expect("an error becomes JSON"));
        return;
    }
    match &error.name {
        Some(name) if !error.message.contains(name.as_str()) => {
            eprintln!("pepita: {name}: {}", error.message)
        }
        _ => eprintln!("pepita: {}", error.message),
    }
}

/// Writes to standard output; a reader that has left is no error.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") });
    let _ = out.flush();
}

fn perform(cli: Cli) -> Outcome<ExitCode> {
    if cli.version {
        version(cli.json);
        return Ok(ExitCode::SUCCESS);
    }
    let Some(call) = cli.call else {
        return Err(failure(CallErrorKind::Usage, "a call is wanted; `pepita --help` lists them"));
    };
    let run_dir = RunDir::choose(cli.run_dir.as_deref())?;
    let json = cli.json;
    let done = |done: Outcome<()>| done.map(|()| ExitCode::SUCCESS);
    match call {
        Call::Run(run) => launch::run(&run_dir, *run, json),
        Call::Signal { vm, signal } => done(send(&run_dir, &vm.name, signal)),
        Call::Status { vm } => done(settle::status(&run_dir, &vm.name).map(|status| say(&pretty(&status)))),
        Call::Destroy { vm, force, timeout, signal } => {
            let how = if force { destroy::How::Force } else { destroy::How::Politely { signal, timeout } };
            done(destroy::destroy(&run_dir, &vm.name, how).about(vm.name.as_str()).map(|found| {
                if !found && !json {
                    say(&format!("no VM {}: nothing to destroy", vm.name));
                }
            }))
        }
        Call::List { format } => {
            look::list(&run_dir, if json { Format::Json } else { format });
            Ok(ExitCode::SUCCESS)
        }
        Call::Logs { vm, follow, since } => done(logs::logs(&run_dir, &vm.name, follow, since)),
        Call::Wait { vm, timeout } => done(look::wait(&run_dir, &vm.name, timeout)),
        Call::Adopt { vm } => done(launch::adopt(&run_dir, &vm.name).map(|status| {
            if json {
                say(&pretty(&status));
            } else {
                say(&format!("{}: {}", status.name, status.state));
            }
        })),
        Call::Start { vm, daemon } => {
            let (command, env) = (daemon.command.clone(), launch::environment(&daemon)?);
            done(order(&run_dir, &vm.name, "start", json!({ "command": command, "env": env })).map(drop))
        }
        Call::Image(Image::Build(build)) => done(images::build(&run_dir, *build)),
        Call::Doctor { no_boot, kernel, rootfs } => {
            crate::doctor::doctor(&run_dir, &crate::doctor::Asked { boot: !no_boot, kernel, rootfs }, json)
        }
        Call::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "pepita", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Call::Man => {
            let page = clap_mangen::Man::new(Cli::command());
            page.render(&mut std::io::stdout()).map_err(|e| failure(CallErrorKind::Io, e.to_string()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn version(json: bool) {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    if !json {
        return say(&format!("pepita-launcher {version}"));
    }
    let vmms = crate::doctor::vmms();
    say(&pretty(&VersionRecord {
        name: "pepita-launcher".into(),
        version,
        contract: pepita_wire::CONTRACT,
        vmms,
    }));
}

fn send(run_dir: &RunDir, name: &VmId, signal: Signal) -> Outcome<()> {
    order(run_dir, name, "signal", json!({ "signal": signal.number() })).map(drop)
}

/// Has a VM's monitor do something.
fn order(run_dir: &RunDir, name: &VmId, method: &str, params: Value) -> Outcome<Value> {
    match client::ask(&run_dir.vm(name), method, params) {
        Ok(answer) => client::accepted(answer).about(name.as_str()),
        Err(e) => {
            // Why there is no monitor is worth more than that there is none.
            let status = settle::status(run_dir, name)?;
            let why = match status.state.is_terminal() {
                true => failure(CallErrorKind::NoSuchVm, format!("VM {name} has ended ({})", status.state)),
                false => failure(
                    CallErrorKind::TryAgain,
                    format!(
                        "its monitor does not answer ({e}); `pepita adopt --name {name}` gives it a new one"
                    ),
                ),
            };
            Err(why).about(name.as_str())
        }
    }
}

/// Boots a guest with its daemon held, and takes it down: what `doctor` proves with.
pub(crate) fn probe(run_dir: &RunDir, kernel: &std::path::Path, rootfs: &std::path::Path) -> Outcome<String> {
    let name = format!("doctor-{}", std::process::id());
    let arguments =
        ["pepita", "run", "--name", &name, "--hold", "--daemon", "--ready-timeout", "20s", "--memory", "128"];
    let mut arguments: Vec<std::ffi::OsString> = arguments.into_iter().map(Into::into).collect();
    arguments.extend(["--kernel".into(), kernel.into(), "--rootfs".into(), rootfs.into()]);
    let cli = Cli::try_parse_from(arguments).map_err(|e| failure(CallErrorKind::Internal, e.to_string()))?;
    let Some(Call::Run(run)) = cli.call else {
        return Err(failure(CallErrorKind::Internal, "not a run"));
    };
    let id = VmId::new(&name).map_err(|e| failure(CallErrorKind::Internal, e.to_string()))?;
    let seen = launch::launch(run_dir, &id, *run).and_then(|status| {
        let up = launch::ready(run_dir, &id, std::time::Duration::from_secs(20))?;
        let ms = up.boot_ms.agent.unwrap_or_default();
        Ok(format!("the agent answered {ms} ms after the VMM's start ({})", status.accel))
    });
    let gone = destroy::destroy(run_dir, &id, destroy::How::Force);
    seen.and_then(|seen| gone.map(|_| seen))
}
