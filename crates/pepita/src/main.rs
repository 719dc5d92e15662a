//! The program `pepita`: see `pepita --help`. The program calls itself as `pepita monitor DIR` to run the monitor of a
//! VM, and as `pepita jail …` to start a process of a VM in its jail. A supervisor calls it as `pepita monitor DIR --serve`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let first = args.next();
    if first.as_deref().is_some_and(|first| first == pepita_jail::HELPER) {
        return pepita_jail::helper::main(args);
    }
    if first.is_some_and(|first| first == "monitor")
        && let Some(run_dir) = args.next()
    {
        match args.next() {
            Some(option) if option == pepita_wire::serve::SERVE => {
                pepita_launcher::commands::serve(Path::new(&run_dir));
            }
            _ => pepita_launcher::boot::main(Path::new(&run_dir)),
        }
        return ExitCode::SUCCESS;
    }
    pepita_launcher::commands::main()
}
