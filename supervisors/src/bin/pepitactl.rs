//! `pepitactl`: shows and controls a running supervisor.

use clap::Parser;
use pepita_supervisors::ctl::{self, Options};
use pepita_supervisors::exit::ProgramExit;
use pepita_supervisors::{inherited, output};
use std::process::ExitCode;

fn main() -> ExitCode {
    inherited::reset_signals();
    let exit = match Options::try_parse() {
        Err(e) => ProgramExit::of_arguments("pepitactl", &e),
        Ok(options) => match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(ctl::run(options)),
            Err(e) => {
                output::print_error(format_args!("pepitactl: cannot start: {e}"));
                ProgramExit::Failed
            }
        },
    };
    exit.into()
}
