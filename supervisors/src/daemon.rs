//! `pepitad`: runs a tree in the foreground and turns signals, the control socket and the service manager into what the
//! tree understands. What a VM may do and when it comes back is the library's matter.

mod options;
mod watch;

pub use options::Options;

use crate::config::{amount, check, load};
use crate::exit::Exit;
use crate::notify::{self, Notify};
use crate::printer::{Form, Notes, Printer};
use pepita_supervisor::control::{Call, Hooks, How, Socket};
use pepita_supervisor::spec::{OnExit, TreeSpec};
use pepita_supervisor::tree::{StartError, Tree, TreeEnd};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How often a stop says what it waits for.
const STILL_WAITING: Duration = Duration::from_secs(5);

/// Supervises what a file says, until told to end.
pub async fn run(options: &Options) -> Exit {
    if options.check {
        return check(&options.config);
    }
    let checked = match load(&options.config) {
        Ok(checked) => checked,
        Err(errors) => {
            anstream::eprintln!("{errors}");
            return Exit::Config;
        }
    };
    for advice in &checked.advice {
        anstream::eprintln!("{advice}\n");
    }
    // Before anything is started: from here on a signal is a wish and not the end.
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(e) => return complain(&format!("signals: {e}"), Exit::Failed),
    };
    // Before the tree looks at anything: with two supervisors the second one ends here.
    let socket = match checked.spec.control_socket.as_deref().map(Socket::claim).transpose() {
        Ok(socket) => socket,
        Err(e) => return complain(&e.to_string(), Exit::InTheWay),
    };
    let spec = checked.spec.clone();
    let started = tokio::select! {
        started = Tree::start(checked.spec) => started,
        () = signals.end() => return complain("told to end before anything was started", Exit::Ok),
    };
    match started {
        Ok(tree) => Daemon::supervise(tree, &spec, options, signals, socket).await,
        Err(e) => complain(&e.to_string(), exit_of(&e)),
    }
}

fn complain(text: &str, exit: Exit) -> Exit {
    anstream::eprintln!("pepitad: {text}");
    exit
}

fn exit_of(error: &StartError) -> Exit {
    match error {
        StartError::Spec(_) => Exit::Config,
        StartError::NotFound(_) | StartError::Launcher(_) => Exit::Unavailable,
        StartError::Journal(_) | StartError::Orphans(_) => Exit::InTheWay,
        StartError::Actor(_) => Exit::Failed,
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    End,
    Reload,
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        let [term, int, hup] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        Ok(Self { term: signal(term)?, int: signal(int)?, hup: signal(hup)? })
    }

    async fn end(&mut self) {
        while self.next().await != Wish::End {}
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.term.recv() => Wish::End,
            _ = self.int.recv() => Wish::End,
            _ = self.hup.recv() => Wish::Reload,
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Up,
    /// In order.
    Stopping,
    /// Leaving, or destroying: nothing more can be asked for.
    Ending,
}

struct Daemon<'o> {
    tree: Tree,
    options: &'o Options,
    notes: Notes,
    notify: Arc<Notify>,
    stage: Stage,
}

impl<'o> Daemon<'o> {
    async fn supervise(
        tree: Tree,
        spec: &TreeSpec,
        options: &'o Options,
        mut signals: Signals,
        socket: Option<Socket>,
    ) -> Exit {
        let form = if options.quiet { Form::Quiet } else { options.form() };
        let (printer, notes) = Printer::new(form);
        let printing = printer.start(tree.events());
        let vms = spec.groups.iter().map(|group| group.vms.len()).sum();
        notes.say(format!(
            "{} supervises {} (pid {}); Ctrl-C {}",
            tree.name(),
            amount(vms, spec.groups.len()),
            std::process::id(),
            match spec.on_exit {
                OnExit::Stop => "stops them in order",
                OnExit::Leave => "leaves them running",
            }
        ));
        let (told, mut calls) = mpsc::channel(16);
        let control = socket.map(|socket| socket.serve(&tree, hooks(&options.config, told)));
        let control = match control.transpose() {
            Ok(control) => control,
            Err(e) => {
                // Nothing has been promised yet, but VMs may be under way.
                tree.stop().await;
                return complain(&e.to_string(), Exit::InTheWay);
            }
        };
        let notify = Arc::new(Notify::new(std::env::var_os("NOTIFY_SOCKET").as_deref()));
        notify.tell("READY=1");
        watch::status(&tree, &notify);
        watch::watchdog(&tree, &notify, watchdog());
        let mut daemon = Self { tree, options, notes, notify, stage: Stage::Up };
        let tree = daemon.tree.clone();
        let ended = tree.wait();
        tokio::pin!(ended);
        let mut still = tokio::time::interval(STILL_WAITING);
        let end = loop {
            tokio::select! {
                end = &mut ended => break end,
                wish = signals.next() => match wish {
                    Wish::End => {
                        daemon.end().await;
                        still.reset();
                    }
                    Wish::Reload => daemon.reload().await,
                },
                Some(call) = calls.recv() => {
                    daemon.heard(&call);
                    still.reset();
                }
                _ = still.tick(), if daemon.stage != Stage::Up => daemon.say_what_is_waited_for(),
            }
        };
        if let Some(control) = control {
            control.close().await;
        }
        drop((daemon, calls));
        printing.finish().await;
        match end {
            TreeEnd::Stopped | TreeEnd::Left => Exit::Ok,
            TreeEnd::Failed { reason } => complain(&format!("gave up: {reason}"), Exit::Failed),
        }
    }

    /// A signal says so: the first in order, the next one at once.
    async fn end(&mut self) {
        let tree = self.tree.clone();
        match self.stage {
            Stage::Up => {
                // As it was reloaded last.
                let spec = self.tree.spec().await;
                let on_exit = spec.as_ref().map_or(OnExit::Stop, |spec| spec.on_exit);
                self.notify.tell("STOPPING=1");
                match on_exit {
                    OnExit::Stop => {
                        let limit = spec.map_or(Duration::ZERO, |spec| spec.shutdown_timeout);
                        self.notes.say(format!(
                            "stopping in order, within {limit:?}; once more to destroy everything at once"
                        ));
                        self.stage = Stage::Stopping;
                        tokio::spawn(async move { tree.stop().await });
                    }
                    OnExit::Leave => {
                        self.notes.say("leaving; the VMs run on, and the next run takes them over");
                        self.stage = Stage::Ending;
                        tokio::spawn(async move { tree.leave().await });
                    }
                }
            }
            Stage::Stopping => {
                self.notes.say("destroying everything at once");
                self.stage = Stage::Ending;
                tokio::spawn(async move { tree.destroy().await });
            }
            Stage::Ending => self.notes.say("ending already"),
        }
    }

    /// Something was asked for over the control socket, and is under way.
    fn heard(&mut self, call: &Call) {
        let (method, params) = call.clone().into_parts();
        self.notes.say(format!("told over the control socket: {method} {params}"));
        if let Call::Shutdown { how } = call {
            self.notify.tell("STOPPING=1");
            self.stage = match how {
                How::Stop => Stage::Stopping,
                How::Leave | How::Destroy => Stage::Ending,
            };
        }
    }

    /// Takes the configuration as it is written now, as a whole or not at all.
    async fn reload(&self) {
        self.notify.reloading();
        let file = self.options.config.clone();
        // A disk may be slow.
        let read = tokio::task::spawn_blocking(move || load(&file)).await;
        let done = match read {
            Ok(Ok(checked)) => {
                for advice in &checked.advice {
                    anstream::eprintln!("{advice}\n");
                }
                let plan = self.tree.reload(checked.spec, false).await;
                plan.map_err(|e| e.to_string())
            }
            Ok(Err(errors)) => Err(errors.to_string()),
            Err(e) => Err(e.to_string()),
        };
        match done {
            Ok(plan) if plan.is_empty() => self.notes.say("reloaded: nothing has changed"),
            Ok(plan) => self.notes.say(format!("reloaded:\n{plan}")),
            Err(why) => {
                anstream::eprintln!("{why}");
                self.notes.say("not reloaded, the former configuration stays in force");
            }
        }
        self.notify.tell("READY=1");
    }

    fn say_what_is_waited_for(&self) {
        let waited_for = watch::live(&self.tree);
        if !waited_for.is_empty() {
            self.notes.say(format!("still waiting for {}", waited_for.join(", ")));
        }
    }
}

fn hooks(config: &Path, told: mpsc::Sender<Call>) -> Hooks {
    let file = config.to_owned();
    let read = move || load(&file).map(|checked| checked.spec).map_err(|errors| errors.to_string());
    // With so many under way, one that is not noted is no loss.
    Hooks::default().load(read).heard(move |call| drop(told.try_send(call.clone())))
}

fn watchdog() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    let (usec, pid) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
    notify::watchdog(usec.as_deref(), pid.as_deref(), std::process::id())
}
