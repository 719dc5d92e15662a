//! `daemonctl`, the guest agent: PID 1 of a microVM, or a plain process of the host for `pepita run --vmm process`.
//!
//! The agent is synchronous: it has a few threads, one of them for each connection.
//!
//! ARCHITECTURE.md has the rows in which the modules stand.

mod agent;
mod as_init;
mod as_process;
mod boot;
mod cgroup;
mod console;
mod copying;
mod daemon;
mod end;
mod environment;
mod exec;
mod exec_stream;
mod first_use;
mod forerunner;
mod forward;
mod forwarding;
mod furnish;
mod inherited;
mod interface;
mod mounts;
mod network;
mod notify;
mod options;
mod panics;
mod practice;
mod preparation;
mod prepared;
mod probe;
mod process;
mod reach;
mod reaper;
mod serve;
mod state;
mod strays;
mod stream;
mod surroundings;
mod system;
mod tail;
mod tcp;
mod terminal;
mod usage;
mod users;

use options::{Command, USAGE};
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// EX_USAGE of sysexits(3).
const EX_USAGE: u8 = 64;

/// EX_IOERR of sysexits(3).
const EX_IOERR: u8 = 74;

/// Prints a line to standard error. An output that cannot be written is no reason to end: `eprintln!` panics then.
fn print_error(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints what was asked for to standard output. A reader that is gone is no error.
fn print(line: impl Display) -> ExitCode {
    let mut out = std::io::stdout();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            print_error(format_args!("daemonctl: standard output: {e}"));
            ExitCode::from(EX_IOERR)
        }
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

fn main() -> ExitCode {
    match Command::parse(std::env::args_os().skip(1), std::process::id() == 1) {
        Ok(Command::Init) => as_init::run(),
        Ok(Command::Process(options)) => match as_process::run(options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                print_error(format_args!("daemonctl: {why}"));
                ExitCode::from(EX_IOERR)
            }
        },
        Ok(Command::Forerunner) => forerunner::run(),
        Ok(Command::Copy(order)) => copying::run(&order),
        Ok(Command::Practice(notify)) => practice::run(&notify),
        Ok(Command::Version) => print(format_args!("daemonctl {}", env!("CARGO_PKG_VERSION"))),
        Ok(Command::Help) => print(USAGE),
        Err(why) => {
            print_error(format_args!("daemonctl: {why}\n{USAGE}"));
            ExitCode::from(EX_USAGE)
        }
    }
}
