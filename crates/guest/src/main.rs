//! `daemonctl`: in a guest, its init; on a host, with `--process`, what `pepita run --vmm process` runs.

use pepita_guest::boot::{Boot, Image};
use pepita_guest::console::Console;
use pepita_guest::state::{Agent, Daemon, Mode};
use pepita_guest::{daemon, init, notify, serve};
use pepita_wire::console::Note;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the end waits for a host to hear how the daemon ended.
const ACKNOWLEDGE: Duration = Duration::from_secs(1);

const USAGE: &str = "daemonctl is the init of a pepita microVM; `pepita image build` puts it there.\n\
    usage: daemonctl --version | daemonctl --process --uds SOCKET --token-file FILE [--port N] \
    [--incarnation N] [--cid N] [--notify SOCKET] [--image FILE]; its standard input is a listening Unix socket, the console";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--version") => {
            println!("daemonctl {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some("--process") => as_process(&args[1..]),
        _ if std::process::id() == 1 => as_init(),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(64)
        }
    }
}

/// PID 1. Whatever goes wrong ends the guest, with a note for the monitor.
fn as_init() -> ExitCode {
    init::mount_all();
    let boot = Boot::from_cmdline(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    init::leave_mark(boot.cid, boot.incarnation);
    // Kept from the guest's OOM killer; children get their own score back.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let image = Image::read(Image::PATH);
    let loaded = image.as_ref().map_err(Clone::clone).and_then(init::load_modules);
    if let (Ok(Image { root: Some(device), .. }), Ok(())) = (&image, &loaded) {
        let Err(why) = init::switch_root(device);
        fail(&boot, &why);
    }
    let console = match init::open_console() {
        Ok(file) => Console::tty(file),
        Err(e) => panic!("{}: {e}", init::CONSOLE),
    };
    let token = boot.token.clone();
    let last_words = console.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let note = Note::Failed(format!("the agent panicked: {panic}"));
        last_words.write(pepita_wire::console::encode(&token, &note).as_bytes());
    }));
    if let Err(why) = loaded {
        panic!("{why}");
    }
    daemon::prepare_cgroup();
    let image = image.unwrap_or_default();
    let agent = Arc::new(Agent::new(boot, image, Mode::Init, console, "/run/notify.sock".into()));
    let served = notify::listen(Arc::clone(&agent)).and_then(|()| serve::on_vsock(Arc::clone(&agent)));
    if let Err(e) = served {
        panic!("cannot listen: {e}");
    }
    agent.note(&Note::Up);
    finish(&agent);
    init::power_off()
}

fn fail(boot: &Boot, why: &str) -> ! {
    if let Ok(file) = init::open_console() {
        let note = Note::Failed(why.to_owned());
        Console::tty(file).write(pepita_wire::console::encode(&boot.token, &note).as_bytes());
    }
    init::power_off()
}

/// A plain process. It outlives whoever started it; SIGTERM ends it and the daemon.
fn as_process(args: &[String]) -> ExitCode {
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
    let number = |name: &str, default: u64| value(name).and_then(|v| v.parse().ok()).unwrap_or(default);
    let (Some(uds), Some(token_file)) = (value("--uds"), value("--token-file")) else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    let fail = |what: &str, why: &dyn std::fmt::Display| {
        eprintln!("daemonctl: {what}: {why}");
        ExitCode::from(74)
    };
    let token = match std::fs::read_to_string(&token_file) {
        Ok(token) => token.trim().to_owned(),
        Err(e) => return fail(&token_file, &e),
    };
    let image = match value("--image").map(|path| Image::read(&path)).transpose() {
        Ok(image) => image.unwrap_or_default(),
        Err(e) => return fail("image", &e),
    };
    let boot = Boot {
        port: u32::try_from(number("--port", pepita_wire::DEFAULT_PORT.into()))
            .unwrap_or(pepita_wire::DEFAULT_PORT),
        incarnation: number("--incarnation", 0),
        cid: u32::try_from(number("--cid", 0)).unwrap_or(0),
        loopback: false,
        token,
    };
    // Before any thread, so that all have it blocked and one waits for it.
    let terminate: nix::sys::signal::SigSet = [nix::sys::signal::Signal::SIGTERM].into_iter().collect();
    if let Err(e) = terminate.thread_block() {
        return fail("signals", &e);
    }
    // Orphans of the daemon come to us, so that nothing is left behind.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    // Before the console says that we are up: whoever is told so may dial at once.
    let listener = match std::os::unix::net::UnixListener::bind(&uds) {
        Ok(listener) => listener,
        Err(e) => return fail(&uds, &e),
    };
    let greeting = pepita_wire::console::encode(&boot.token, &Note::Up);
    let console = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(listener) => Console::socket(listener.into(), greeting.into_bytes()),
        Err(e) => return fail("standard input", &e),
    };
    // The daemon runs in another directory than we do.
    let notify_path = value("--notify").unwrap_or_else(|| format!("{uds}.notify"));
    let notify_path = match std::path::absolute(&notify_path) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(e) => return fail(&notify_path, &e),
    };
    let agent = Arc::new(Agent::new(boot, image, Mode::Process, console, notify_path));
    if let Err(e) = notify::listen(Arc::clone(&agent)) {
        return fail("the notify socket", &e);
    }
    serve::on_hybrid(Arc::clone(&agent), listener);
    let told = Arc::clone(&agent);
    std::thread::spawn(move || {
        if terminate.wait().is_ok() {
            told.change(|state| state.power_off = true);
        }
    });
    finish(&agent);
    ExitCode::SUCCESS
}

/// Waits for the daemon's end to be heard, or for the order to go at once.
fn finish(agent: &Agent) {
    let mut state = agent.lock();
    let mut noted = false;
    loop {
        let left = match &state.daemon {
            Daemon::Running { pid } if state.power_off => {
                let pid = *pid;
                drop(state);
                return pepita_guest::exec::kill_group(pid, rustix::process::Signal::KILL);
            }
            Daemon::Held if state.power_off => return,
            Daemon::Held | Daemon::Running { .. } => None,
            Daemon::Exited { exit, .. } if !noted => {
                // Back-up evidence, for when the report over vsock is not heard.
                let note = Note::Exited(exit.clone());
                drop(state);
                agent.note(&note);
                noted = true;
                state = agent.lock();
                continue;
            }
            Daemon::Exited { seq, at, .. } => {
                let left = (*at + ACKNOWLEDGE).saturating_duration_since(Instant::now());
                if state.power_off || state.acked >= *seq || left.is_zero() {
                    return;
                }
                Some(left)
            }
        };
        state = agent.wait(state, left);
    }
}
