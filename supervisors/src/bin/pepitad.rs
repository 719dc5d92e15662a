//! `pepitad`: supervises the microVMs of a configuration file, in the foreground.

use clap::Parser;
use pepita_supervisors::daemon::{self, Options};
use pepita_supervisors::exit::ProgramExit;
use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;

fn main() {
    let exit = match Options::try_parse() {
        Ok(options) => match start_log(&options) {
            Ok(()) => run(&options),
            Err(e) => {
                anstream::eprintln!("pepitad: --log: {e}");
                ProgramExit::Usage
            }
        },
        Err(e) => ProgramExit::of_arguments(&e),
    };
    // `exit` is used instead of a return from `main`, because a thread that waits for a blocked terminal would keep the
    // process alive.
    std::process::exit(exit.code().into());
}

fn run(options: &Options) -> ProgramExit {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(daemon::run(options)),
        Err(e) => {
            anstream::eprintln!("pepitad: cannot start: {e}");
            ProgramExit::Failed
        }
    }
}

fn start_log(options: &Options) -> Result<(), String> {
    let filter = options.log.clone().or_else(|| std::env::var("RUST_LOG").ok()).unwrap_or("warn".into());
    let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(colours).init();
    Ok(())
}
