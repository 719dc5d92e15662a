//! The agent as PID 1 of a microVM.

use crate::agent::{Agent, Mode};
use crate::boot::{Boot, Image};
use crate::console::Console;
use crate::{cgroup, daemon, end, furnish, inherited, mounts, notify, panics, serve, system};
use pepita_wire::console::Note;
use std::sync::Arc;

/// The daemon's notify socket in a guest.
const NOTIFY: &str = "/run/notify.sock";

/// Boots the guest, runs its daemon and powers off.
///
/// # Panics
/// When the guest cannot continue. PID 1 must not return, and a panic ends the guest with a note for the monitor on the
/// console.
pub(crate) fn run() -> ! {
    inherited::put_in_order();
    // The kernel starts PID 1 in a process group 0, which is no valid process group for anyone who asks for its number.
    let _ = rustix::process::setpgid(None, None);
    system::keep_memory_private();
    system::mount_all();
    let mut boot = Boot::from_cmdline(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    system::write_mark(boot.cid, boot.incarnation);
    // The lowest score keeps the agent from the guest's OOM killer. Children get the usual score back.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let image = Image::read(Image::PATH);
    // The console needs its kernel module, so an unreadable image or a missing module is reported after the console is
    // open.
    let loaded = image.as_ref().map_err(Clone::clone).and_then(|image| system::load_modules(&image.modules));
    // The port of the token needs the same driver as the console. The token is there once: it is read before the daemon
    // runs, and nobody finds it in the guest any more.
    let token = match (boot.token.is_empty(), boot.token_in_port) {
        (true, length @ 1..) => system::take_token(length).map(|token| boot.token = token),
        (true, 0) | (false, _) => Ok(()),
    };
    if let (Ok(Image { root: Some(device), .. }), Ok(()), Ok(())) = (&image, &loaded, &token) {
        // The next agent reads a token of the command line itself.
        let taken = (boot.token_in_port > 0).then_some(boot.token.as_str());
        let Err(why) = system::switch_root(device, taken);
        fail(&boot, &why);
    }
    let entered = match (&image, &loaded) {
        (Ok(Image { shared_root: Some(device), .. }), Ok(())) => system::enter_shared_root(device),
        (Ok(_) | Err(_), _) => Ok(()),
    };
    let console = match system::open_console() {
        Ok(file) => Console::tty(file),
        Err(e) => panic!("{}: {e}", system::CONSOLE),
    };
    panics::report(&boot.token, console.clone(), system::power_off);
    if let Err(why) = loaded.and(token).and(entered) {
        fail(&boot, &why);
    }
    cgroup::prepare();
    furnish::at_boot();
    let image = image.unwrap_or_default();
    let agent = Arc::new(Agent::new(boot, image, Mode::Init, console, NOTIFY.into()));
    let listening =
        notify::listen(Arc::clone(&agent), daemon::hear).and_then(|()| serve::on_vsock(Arc::clone(&agent)));
    if let Err(e) = listening {
        panic!("cannot listen: {e}");
    }
    agent.note(&Note::Up);
    end::wait(&agent);
    mounts::unmount_all(&agent);
    system::power_off()
}

/// Ends the guest with a note for the monitor.
fn fail(boot: &Boot, why: &str) -> ! {
    if let Ok(file) = system::open_console() {
        let note = Note::Failed(why.to_owned());
        Console::tty(file).write(pepita_wire::console::encode(&boot.token, &note).as_bytes());
    }
    system::power_off()
}
