//! `pepitad`: supervises the microVMs of a configuration file, in the foreground.

use clap::Parser;
use pepita_supervisor::platform::raise_file_limit;
use pepita_supervisors::daemon::{self, Options};
use pepita_supervisors::exit::ProgramExit;
use pepita_supervisors::{inherited, memory, output};
use std::io::{IsTerminal, stderr};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// The time that the end of the program waits for the reader of standard error.
const FLUSH: Duration = Duration::from_secs(2);

fn main() {
    memory::use_one_arena();
    inherited::keep();
    let sockets = inherited::take_sockets();
    inherited::reset_signals();
    output::queue_errors("pepitad");
    let exit = match Options::try_parse() {
        Ok(options) => match start_log(&options) {
            Ok(()) => run(&options, sockets),
            Err(e) => {
                output::print_error(format_args!("pepitad: --log: {e}"));
                ProgramExit::Usage
            }
        },
        Err(e) => ProgramExit::of_arguments("pepitad", &e),
    };
    output::flush_errors(FLUSH);
    // `exit` is used instead of a return from `main`, because a thread that waits for a blocked terminal would keep the
    // process alive.
    std::process::exit(exit.code().into());
}

fn run(options: &Options, sockets: Vec<(String, OwnedFd)>) -> ProgramExit {
    if let Err(e) = raise_file_limit() {
        tracing::warn!("the limit of open files cannot be raised: {e}");
    }
    match start_runtime() {
        Ok(runtime) => {
            let exit = runtime.block_on(daemon::run(options, sockets));
            // A thread that waits for a terminal or a disk that hangs is not waited for.
            runtime.shutdown_background();
            exit
        }
        Err(e) => {
            output::print_error(format_args!("pepitad: cannot start: {e}"));
            ProgramExit::Failed
        }
    }
}

/// Starts the threads of the program.
///
/// tokio panics when the system refuses a thread (EAGAIN), and would wait for ever for the threads that are missing. The
/// program ends instead: nothing was begun yet.
fn start_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|panic| {
        output::print_error(format_args!("pepitad: cannot start: {panic}"));
        output::flush_errors(FLUSH);
        std::process::exit(ProgramExit::Failed.code().into());
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    std::panic::set_hook(hook);
    runtime
}

fn start_log(options: &Options) -> Result<(), String> {
    let filter = options.log.clone().or_else(|| std::env::var("RUST_LOG").ok()).unwrap_or("warn".into());
    let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    // What the log cannot write it must not complain about with a macro that panics.
    log.log_internal_errors(false).with_writer(|| output::ErrorLog).init();
    Ok(())
}
