//! The program `pepita`: see `pepita --help`. The program calls itself as `pepita monitor DIR` to run the monitor of a
//! VM.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "monitor")
        && let Some(run_dir) = args.next()
    {
        pepita_launcher::boot::main(Path::new(&run_dir));
        return ExitCode::SUCCESS;
    }
    pepita_launcher::commands::main()
}
