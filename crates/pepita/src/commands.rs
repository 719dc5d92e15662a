//! Carries out what was typed, and says how it went: a record or a sentence on standard output, an error on standard
//! error, an exit code that means something.

mod attach;
pub mod doctor;
mod image;
mod list;
mod logs;
mod run;

use crate::cli::{Cli, Format, Image, Request};
use crate::client;
use crate::error::{About, CallError, Result, call_error, eprint_line};
use crate::ops::destroy;
use crate::ops::follow::adopt;
use crate::ops::resolve::environment;
use crate::reconcile;
use crate::rundir::RunDir;
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
        Err(e) => return usage_error(&e),
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

/// Help is no error; anything else that clap says is.
fn usage_error(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as Nothing;
    if !error.use_stderr() || error.kind() == Nothing {
        let _ = error.print();
    } else {
        // Asked for as an option, before the options were understood.
        let json = std::env::args_os().any(|arg| arg == "--json");
        print_error(&call_error(CallErrorKind::Usage, one_line(&error.to_string())), json);
    }
    if error.use_stderr() { ExitCode::from(CallErrorKind::Usage.exit_code()) } else { ExitCode::SUCCESS }
}

/// What clap says in several paragraphs, without the usage, which is printed by `--help`.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let words = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let all = text.split("\n\n").map(words);
    let said = all.take_while(|p| !p.starts_with("Usage:") && !p.starts_with("For more information"));
    said.chain(["see --help".to_owned()]).collect::<Vec<_>>().join("; ")
}

fn print_error(error: &CallError, json: bool) {
    if json {
        return eprint_line(serde_json::to_string(error).expect("an error becomes JSON"));
    }
    match &error.name {
        Some(name) if !is_named(name, &error.message) => {
            eprint_line(format_args!("pepita: {name}: {}", error.message))
        }
        _ => eprint_line(format_args!("pepita: {}", error.message)),
    }
}

fn is_named(name: &str, text: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || c == '-')).any(|word| word == name)
}

/// Writes to standard output; a reader that has left is no error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") });
    let _ = out.flush();
}

fn perform(cli: Cli) -> Result<ExitCode> {
    if cli.version {
        version(cli.json);
        return Ok(ExitCode::SUCCESS);
    }
    let Some(call) = cli.call else {
        return Err(call_error(CallErrorKind::Usage, "a call is wanted; `pepita --help` lists them"));
    };
    let run_dir = RunDir::choose(cli.run_dir.as_deref())?;
    let json = cli.json;
    let done = |done: Result<()>| done.map(|()| ExitCode::SUCCESS);
    match call {
        Request::Run(run) => run::run(&run_dir, *run, json),
        Request::Signal { vm, signal } => done(send(&run_dir, &vm.name, signal)),
        Request::Status { vm } => {
            done(reconcile::status(&run_dir, &vm.name).map(|status| print(&pretty(&status))))
        }
        Request::Destroy { vm, force, timeout, signal } => {
            let how = if force { destroy::How::Force } else { destroy::How::Graceful { signal, timeout } };
            done(destroy::destroy(&run_dir, &vm.name, how).about(vm.name.as_str()).map(|found| {
                if !found && !json {
                    print(&format!("no VM {}: nothing to destroy", vm.name));
                }
            }))
        }
        Request::List { format } => done(list::list(&run_dir, if json { Format::Json } else { format })),
        Request::Logs { vm, follow, since } => done(logs::logs(&run_dir, &vm.name, follow, since)),
        Request::Wait { vm, timeout } => done(list::wait(&run_dir, &vm.name, timeout)),
        Request::Adopt { vm } => done(adopt(&run_dir, &vm.name).map(|status| {
            if json {
                print(&pretty(&status));
            } else {
                print(&format!("{}: {}", status.name, status.state));
            }
        })),
        Request::Start { vm, daemon } => {
            let (command, env) = (daemon.command.clone(), environment(&daemon)?);
            done(order(&run_dir, &vm.name, "start", json!({ "command": command, "env": env })).map(drop))
        }
        Request::Image(Image::Build(build)) => done(image::build(&run_dir, *build)),
        Request::Doctor { no_boot, kernel, rootfs } => {
            doctor::doctor(&run_dir, &doctor::Asked { boot: !no_boot, kernel, rootfs }, json)
        }
        Request::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "pepita", &mut script);
            print(&String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
        Request::Man { call } => done(manual(call.as_deref())),
    }
}

fn manual(call: Option<&str>) -> Result<()> {
    let mut command = Cli::command();
    // Names the calls in full, `pepita-run`.
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
    print(&String::from_utf8_lossy(&text));
    Ok(())
}

fn version(json: bool) {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    if !json {
        return print(&format!("pepita-launcher {version}"));
    }
    let vmms = doctor::vmms();
    print(&pretty(&VersionRecord {
        name: "pepita-launcher".into(),
        version,
        contract: pepita_wire::CONTRACT,
        vmms,
    }));
}

fn send(run_dir: &RunDir, name: &VmId, signal: Signal) -> Result<()> {
    order(run_dir, name, "signal", json!({ "signal": signal.number() })).map(drop)
}

/// Has a VM's monitor do something.
fn order(run_dir: &RunDir, name: &VmId, method: &str, params: Value) -> Result<Value> {
    match client::ask(&run_dir.vm(name), method, params) {
        Ok(answer) => client::accepted(answer).about(name.as_str()),
        Err(e) => {
            // Why there is no monitor is worth more than that there is none.
            let status = reconcile::status(run_dir, name)?;
            let why = match status.state.is_terminal() {
                true => {
                    call_error(CallErrorKind::NoSuchVm, format!("VM {name} has ended ({})", status.state))
                }
                false => call_error(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_mistyped_is_told_in_one_line_with_what_was_meant() {
        for (args, said) in [
            (
                &["signal"][..],
                "the following required arguments were not provided: --name <NAME>; see --help",
            ),
            (
                &["run", "--nam", "a"],
                "unexpected argument '--nam' found; tip: a similar argument exists: '--name'",
            ),
            (
                &["run", "--cpus", "0"],
                "invalid value '0' for '--cpus <CPUS>': 0 is not in 1..=288; see --help",
            ),
        ] {
            let error = Cli::try_parse_from(std::iter::once(&"pepita").chain(args)).expect_err("mistyped");
            let line = one_line(&error.to_string());
            assert!(line.starts_with(said) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_letter_of_a_path_is_no_name() {
        assert!(!is_named("a", "spec.json: no space left on a-device"));
        assert!(is_named("a", "/run/pepita/a: too long") && is_named("my-vm", "no VM my-vm; try"));
    }
}
