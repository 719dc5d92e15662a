//! `pepita image`: `build` makes root file systems, and `pepita-image` carries out the rest.

use super::environment::environment;
use crate::cli::{ImageArgs, ImageBuild};
use crate::error::{CallError, Result, call_error, eprint_line};
use crate::host::unfinished::remove_on_signals;
use crate::image::build::{self as image, Contents};
use crate::image::modules;
use crate::image::scratch::Scratch;
use crate::ops::container::become_images;
use crate::rundir::RunDir;
use pepita_wire::record::CallErrorKind;
use std::io::IsTerminal;

/// Becomes `pepita-image`. Returns only after a failure.
pub(super) fn container(call: &str, asked: ImageArgs, json: bool) -> CallError {
    let args: Vec<_> = std::iter::once(call.into()).chain(asked.args).collect();
    become_images(&args, json)
}

pub(super) fn build(run_dir: &RunDir, build: ImageBuild) -> Result<()> {
    if build.daemon.is_none() && build.dir.is_none() {
        return Err(call_error(
            CallErrorKind::Usage,
            "--daemon BIN or --dir DIR is needed: what is the image to run?",
        ));
    }
    remove_on_signals()?;
    let progress = |what: &str| {
        if std::io::stderr().is_terminal() {
            eprint_line(format_args!("pepita: {}: {what}", build.output.display()));
        }
    };
    let (mut files, mut drivers) = (Vec::new(), image::Drivers::new());
    // Kept until the modules have been read.
    let unpacked;
    if let Some(package) = &build.kernel_package {
        progress("looking for the kernel's modules");
        run_dir.create()?;
        unpacked = Scratch::new(&run_dir.cache(), "package")?;
        let dir = modules::unpack(package, unpacked.path())?;
        let named = build.module.iter().map(|name| name.replace('-', "_"));
        let wanted: Vec<String> = modules::FOR_ALL.map(str::to_owned).into_iter().chain(named).collect();
        files = modules::find(&dir, &wanted)?;
        for driver in modules::WHEN_NEEDED {
            let modules =
                modules::find(&dir, &[driver])?.into_iter().filter(|module| !files.contains(module));
            drivers.insert(driver.to_owned(), modules.collect());
        }
    }
    progress("writing");
    let contents = Contents {
        agent: image::agent(build.agent.as_deref())?,
        daemon: build.daemon.clone(),
        tree: build.dir.clone(),
        command: build.daemon_args.command.clone(),
        env: environment(&build.daemon_args)?,
        modules: files,
        drivers,
        size_mb: build.size,
    };
    for note in image::build(&contents, &build.output)? {
        eprint_line(format_args!("pepita: {}: {note}", build.output.display()));
    }
    progress("done");
    Ok(())
}
