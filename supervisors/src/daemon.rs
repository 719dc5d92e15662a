//! `pepitad`: runs a tree in the foreground, and turns signals and requests over the control socket into calls of the
//! library. Reports to the service manager. Decides nothing about VMs.
//!
//! ```text
//!           signal (on_exit = "stop"),                 signal, or
//!           or `shutdown`                              `shutdown --destroy`
//!   Running ───────────────────────────────▶ Stopping ─────────────────────▶ Ending
//!      │  signal (on_exit = "leave"), or `shutdown --leave` or `--destroy`     ▲
//!      └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! In each stage the program ends as soon as the tree has ended.

mod note;
mod options;
mod service;
mod signals;

pub use options::Options;

use crate::config::{check, load};
use crate::exit::ProgramExit;
use crate::notify::{Notify, watchdog_interval};
use crate::printer::{Notes, Printer};
use note::{Report, WaitingVm};
use pepita_supervisor::control::{Call, ControlError, Hooks, ShutdownMode, Socket};
use pepita_supervisor::{OnExit, StartError, Tree, TreeEnd, TreeSpec};
use sd_notify::NotifyState;
use signals::{SignalAction, Signals};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The interval of notes about the VMs that the end waits for.
const WAITING_INTERVAL: Duration = Duration::from_secs(5);

/// The maximum number of requests of the control socket that wait for their note.
const REQUESTS: usize = 16;

/// Runs the tree of a configuration until a signal, a client or the tree itself ends it.
pub async fn run(options: &Options) -> ProgramExit {
    if options.schema {
        anstream::println!("{:#}", pepita_supervisor::config::schema());
        return ProgramExit::Ok;
    }
    if options.check {
        return check(options.config());
    }
    let checked = match load(options.config()) {
        Ok(checked) => checked,
        Err(errors) => {
            anstream::eprintln!("{errors}");
            return ProgramExit::Config;
        }
    };
    for advice in &checked.advice {
        anstream::eprintln!("{advice}\n");
    }
    // The handlers are installed before anything is started. From here on a signal asks for an orderly end and does not
    // end the process itself.
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(e) => return print_error(&format!("signals: {e}"), ProgramExit::Failed),
    };
    // The socket is opened before the tree adopts any VM, so that a second supervisor of the same configuration ends
    // here.
    let socket = match checked.spec.control_socket.as_deref().map(Socket::claim).transpose() {
        Ok(socket) => socket,
        Err(e) => return print_error(&e.to_string(), exit_without_socket(&e)),
    };
    let spec = checked.spec.clone();
    let started = tokio::select! {
        started = Tree::start(checked.spec) => started,
        () = signals.end() => {
            return print_error("a signal came before anything was started", ProgramExit::Ok);
        }
    };
    match started {
        Ok(tree) => Daemon::supervise(tree, &spec, options, signals, socket).await,
        Err(e) => print_error(&e.to_string(), exit_of(&e)),
    }
}

/// Prints an error and returns the exit.
fn print_error(text: &str, exit: ProgramExit) -> ProgramExit {
    anstream::eprintln!("pepitad: {text}");
    exit
}

fn exit_of(error: &StartError) -> ProgramExit {
    match error {
        StartError::Spec(_) => ProgramExit::Config,
        StartError::NotFound(_) | StartError::Launcher(_) => ProgramExit::Unavailable,
        StartError::Journal(_) | StartError::Orphans(_) => ProgramExit::Conflict,
        StartError::Actor(_) => ProgramExit::Failed,
    }
}

fn exit_without_socket(error: &ControlError) -> ProgramExit {
    match error {
        ControlError::Taken(_) | ControlError::NotASocket(_) => ProgramExit::Conflict,
        ControlError::Io { .. } => ProgramExit::Permission,
    }
}

/// The stage of the program on the way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The tree runs.
    Running,
    /// All VMs are stopped in order. A further signal destroys them.
    Stopping,
    /// The VMs are left or destroyed. A further signal changes nothing.
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
    ) -> ProgramExit {
        let (printer, notes) = Printer::new(options.format());
        let printing = printer.start(tree.events());
        notes.print(Report::Started {
            name: tree.name().to_string(),
            pid: std::process::id(),
            vms: spec.groups.iter().map(|group| group.vms.len()).sum(),
            groups: spec.groups.len(),
            on_exit: spec.on_exit,
        });
        let (sender, mut requests) = mpsc::channel(REQUESTS);
        let control = socket.map(|socket| socket.serve(&tree, hooks(options.config(), sender)));
        let control = match control.transpose() {
            Ok(control) => control,
            Err(e) => {
                // READY was not reported yet, but the first VMs may be starting.
                tree.stop().await;
                return print_error(&e.to_string(), exit_without_socket(&e));
            }
        };
        let notify = Arc::new(Notify::new(std::env::var_os("NOTIFY_SOCKET").as_deref()));
        notify.report(&[NotifyState::Ready]);
        service::report_status(&tree, &notify);
        service::feed_watchdog(&tree, &notify, watchdog_interval());
        let mut daemon = Self { tree, options, notes, notify, stage: Stage::Running };
        let tree = daemon.tree.clone();
        let ended = tree.wait();
        tokio::pin!(ended);
        let mut waiting = tokio::time::interval(WAITING_INTERVAL);
        let end = loop {
            tokio::select! {
                end = &mut ended => break end,
                action = signals.next() => match action {
                    SignalAction::End => {
                        daemon.end().await;
                        waiting.reset();
                    }
                    SignalAction::Reload => daemon.reload().await,
                },
                Some(request) = requests.recv() => {
                    daemon.on_request(&request);
                    waiting.reset();
                }
                _ = waiting.tick(), if daemon.stage != Stage::Running => daemon.note_waiting(),
            }
        };
        if let Some(control) = control {
            control.close().await;
        }
        // A tree that ends at once may end before its request was noted.
        while let Ok(request) = requests.try_recv() {
            daemon.on_request(&request);
        }
        // The printer ends when there are no notes to come.
        drop((daemon, requests));
        printing.finish().await;
        match end {
            TreeEnd::Stopped | TreeEnd::Left => ProgramExit::Ok,
            TreeEnd::Failed { reason } => print_error(&format!("gave up: {reason}"), ProgramExit::Failed),
        }
    }

    /// Ends the tree because of a signal: the first one in order, the next one at once.
    async fn end(&mut self) {
        let tree = self.tree.clone();
        match self.stage {
            Stage::Running => {
                // A reload may have changed `on_exit`.
                let spec = self.tree.spec().await;
                let on_exit = spec.as_ref().map_or(OnExit::Stop, |spec| spec.on_exit);
                self.notify.report(&[NotifyState::Stopping]);
                match on_exit {
                    OnExit::Stop => {
                        let limit = spec.map_or(Duration::ZERO, |spec| spec.shutdown_timeout);
                        self.notes.print(Report::Stopping { limit });
                        self.stage = Stage::Stopping;
                        tokio::spawn(async move { tree.stop().await });
                    }
                    OnExit::Leave => {
                        self.notes.print(Report::Leaving);
                        self.stage = Stage::Ending;
                        tokio::spawn(async move { tree.leave().await });
                    }
                }
            }
            Stage::Stopping => {
                self.notes.print(Report::Destroying);
                self.stage = Stage::Ending;
                tokio::spawn(async move { tree.destroy().await });
            }
            Stage::Ending => self.notes.print(Report::EndingAlready),
        }
    }

    /// Notes a request of the control socket, which the library carries out.
    fn on_request(&mut self, request: &Call) {
        let (method, params) = request.clone().into_parts();
        self.notes.print(Report::Requested { method: method.to_owned(), params });
        if let Call::Shutdown { how } = request {
            self.notify.report(&[NotifyState::Stopping]);
            self.stage = match how {
                ShutdownMode::Stop => Stage::Stopping,
                ShutdownMode::Leave | ShutdownMode::Destroy => Stage::Ending,
            };
        }
    }

    /// Applies the configuration as it is written now, as a whole or not at all.
    async fn reload(&self) {
        self.notify.reloading();
        let file = self.options.config().to_owned();
        // The file is read on a thread of its own, because a disk may be slow.
        let read = tokio::task::spawn_blocking(move || load(&file)).await;
        let plan = match read {
            Ok(Ok(checked)) => {
                for advice in &checked.advice {
                    anstream::eprintln!("{advice}\n");
                }
                self.tree.reload_with_care(checked.spec, false).await.map_err(|e| e.to_string())
            }
            Ok(Err(errors)) => Err(errors.to_string()),
            Err(e) => Err(e.to_string()),
        };
        match plan {
            Ok(plan) if plan.is_empty() => self.notes.print(Report::Reloaded { plan: String::new() }),
            Ok(plan) => self.notes.print(Report::Reloaded { plan: plan.to_string() }),
            Err(why) => {
                anstream::eprintln!("{why}");
                self.notes.print(Report::NotReloaded { why });
            }
        }
        self.notify.report(&[NotifyState::Ready]);
    }

    /// Notes which VMs the end waits for.
    fn note_waiting(&self) {
        let status = self.tree.status();
        let live = status.vms().filter(|vm| vm.phase.is_live());
        let vms: Vec<WaitingVm> = live
            .map(|vm| WaitingVm {
                name: vm.name.to_string(),
                phase: vm.phase.word(),
                since: vm.since.elapsed(),
            })
            .collect();
        if !vms.is_empty() {
            self.notes.print(Report::WaitingFor { vms });
        }
    }
}

/// Returns the hooks of this program for the control socket: the configuration, and the channel for notes about
/// requests.
fn hooks(config: &Path, requests: mpsc::Sender<Call>) -> Hooks {
    let file = config.to_owned();
    let read = move || load(&file).map(|checked| checked.spec).map_err(|errors| errors.to_string());
    // When the channel is full, only the note is lost, not the request.
    Hooks::default().load(read).on_command(move |request| drop(requests.try_send(request.clone())))
}
