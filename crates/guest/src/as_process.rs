//! The agent as a plain process of the host, for `pepita run --vmm process`.

use crate::agent::{Agent, Mode};
use crate::boot::{Boot, Image};
use crate::console::Console;
use crate::options::ProcessOptions;
use crate::{daemon, end, inherited, notify, panics, serve};
use nix::sys::signal::{SigSet, Signal};
use pepita_wire::console::Note;
use std::fmt::Display;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

/// EX_SOFTWARE of sysexits(3).
const EX_SOFTWARE: i32 = 70;

/// Runs the daemon and returns when the daemon has ended. The agent outlives the process that started it; SIGTERM ends
/// the agent together with the daemon.
///
/// # Errors
/// When the agent cannot be set up. The message names the step and the reason.
pub(crate) fn run(options: ProcessOptions) -> Result<(), String> {
    inherited::put_in_order();
    let token = std::fs::read_to_string(&options.token_file)
        .map_err(|e| format!("{}: {e}", options.token_file.display()))?;
    let image = options.image.as_ref().map(Image::read).transpose()?.unwrap_or_default();
    let boot = Boot {
        token_in_port: 0,
        port: options.port.unwrap_or(pepita_wire::DEFAULT_PORT),
        incarnation: options.incarnation,
        cid: options.cid,
        loopback: false,
        token: token.trim().to_owned(),
    };
    // The signal is blocked before any thread starts. Every thread inherits the mask, so only the thread that waits for
    // the signal gets it.
    let terminate: SigSet = [Signal::SIGTERM].into_iter().collect();
    terminate.thread_block().map_err(failed("signals"))?;
    // Orphans of the daemon become children of the agent, which ends them.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    // The socket is opened before the note `up`, because a monitor may dial as soon as it reads the note.
    let listener = UnixListener::bind(&options.uds).map_err(failed(options.uds.display()))?;
    let greeting = pepita_wire::console::encode(&boot.token, &Note::Up);
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(failed("standard input"))?;
    let console = Console::socket(stdin.into(), greeting.into_bytes());
    panics::report(&boot.token, console.clone(), || std::process::exit(EX_SOFTWARE));
    let notify = options.notify.unwrap_or_else(|| {
        let mut path = options.uds.into_os_string();
        path.push(".notify");
        PathBuf::from(path)
    });
    // The daemon has another current directory than the agent, so the path is made absolute.
    let notify = std::path::absolute(&notify).map_err(failed(notify.display()))?;
    let agent = Arc::new(Agent::new(boot, image, Mode::Process, console, notify));
    notify::listen(Arc::clone(&agent), daemon::hear).map_err(failed("the notify socket"))?;
    serve::on_hybrid(Arc::clone(&agent), listener);
    let terminated = Arc::clone(&agent);
    std::thread::spawn(move || {
        if terminate.wait().is_ok() {
            terminated.change(|state| state.power_off = true);
        }
    });
    end::wait(&agent);
    Ok(())
}

/// Returns a function that adds the failed step to an error.
fn failed<E: Display>(what: impl Display) -> impl FnOnce(E) -> String {
    move |why| format!("{what}: {why}")
}
