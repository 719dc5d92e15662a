//! `pepita kernel`: the kernels of the data directory.

use super::output::{print, print_done};
use crate::cli::Kernel;
use crate::error::{Result, eprint_line};
use crate::host::unfinished::remove_on_signals;
use crate::image::installed::{Installed, Kernels};
use pepita_wire::record::pretty;
use serde_json::{Value, json};
use std::io::IsTerminal;

pub(super) fn kernel(asked: Kernel, json: bool) -> Result<()> {
    let kernels = Kernels::of_user()?;
    match asked {
        Kernel::Install { from } => {
            remove_on_signals()?;
            let progress = |what: &str| {
                if std::io::stderr().is_terminal() {
                    eprint_line(format_args!("pepita: {what}"));
                }
            };
            let installed = kernels.install(from.as_deref(), progress)?;
            let text = if json { pretty(&record(&installed)) } else { line(&installed) };
            print_done(&text, "the kernel was installed")?;
        }
        Kernel::List => {
            let all = kernels.list();
            if json {
                print(&pretty(&all.iter().map(record).collect::<Vec<_>>()))?;
            } else if all.is_empty() {
                eprint_line("pepita: no kernel is installed; `pepita kernel install` installs one");
            } else {
                print(&all.iter().map(line).collect::<Vec<_>>().join("\n"))?;
            }
        }
        Kernel::Remove { release } => kernels.remove(&release)?,
    }
    Ok(())
}

fn line(Installed { release, kernel, is_default }: &Installed) -> String {
    let mark = if *is_default { "  (default)" } else { "" };
    format!("{release}  {}{mark}", kernel.display())
}

fn record(Installed { release, kernel, is_default }: &Installed) -> Value {
    json!({ "release": release, "kernel": kernel, "default": is_default })
}
