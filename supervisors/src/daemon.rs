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
//! In each stage the program ends as soon as the tree has ended. Nothing else holds up its end: what may take long (a
//! reload, a question to the tree, the claim of the socket) is done beside the loop that hears signals, and the end itself
//! has a limit (semantics 7.13).

mod note;
mod options;
mod service;
mod signals;

pub use options::Options;

use crate::config::{check, load};
use crate::exit::ProgramExit;
use crate::notify::{Notify, ServiceStore, watchdog_interval};
use crate::output;
use crate::printer::{Notes, Printer};
use note::{Report, WaitingVm};
use pepita_supervisor::config::{Checked, Level};
use pepita_supervisor::control::{Call, ControlError, Hooks, ShutdownMode, Socket};
use pepita_supervisor::platform::{files_needed, raise_file_limit};
use pepita_supervisor::{
    ClaimError, GivenSockets, JournalError, OnExit, SocketStore, StartError, Tree, TreeEnd, TreeSpec,
    longest_end,
};
use sd_notify::NotifyState;
use signals::{SignalAction, Signals};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// The interval of notes about the VMs that the end waits for.
const WAITING_INTERVAL: Duration = Duration::from_secs(5);

/// The time that the tree has to answer a question at the beginning of the end.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The time, beyond that of the tree, after which the program ends even if the tree has not.
const END_SLACK: Duration = Duration::from_secs(10);

/// The time by which each report to the service manager moves the limit of the stop to later.
const EXTENSION: Duration = Duration::from_secs(30);

/// The maximum number of requests of the control socket that wait for their note.
const REQUESTS: usize = 16;

/// Runs the tree of a configuration until a signal, a client or the tree itself ends it. `sockets` are those that the service
/// manager has given to this program, each with its name.
pub async fn run(options: &Options, sockets: Vec<(String, OwnedFd)>) -> ProgramExit {
    if options.schema {
        let printed = output::try_print(format_args!("{:#}", pepita_supervisor::config::schema()));
        return ProgramExit::of_output("pepitad", printed);
    }
    if options.check {
        return check("pepitad", options.config());
    }
    let checked = match load(options.config()) {
        Ok(checked) => checked,
        Err(errors) => {
            output::print_error(errors);
            return ProgramExit::Config;
        }
    };
    warn(&checked);
    warn_of_few_files(&checked.spec);
    // The handlers are installed before anything is started. From here on a signal asks for an orderly end and does not
    // end the process itself.
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(e) => return print_error(&format!("signals: {e}"), ProgramExit::Failed),
    };
    // The socket is opened before the tree adopts any VM, so that a second supervisor of the same configuration ends
    // here.
    let socket = tokio::select! {
        claimed = claim(checked.spec.control_socket.clone()) => claimed,
        () = signals.end() => return ended_early(),
    };
    let socket = match socket {
        Ok(socket) => socket,
        Err(e) => return print_error(&e.to_string(), exit_without_socket(&e)),
    };
    let outline = Outline::of(&checked.spec);
    let store = ServiceStore::new(std::env::var_os("NOTIFY_SOCKET").as_deref()).map(Arc::new);
    let given = GivenSockets::new(sockets, store.clone().map(|store| store as Arc<dyn SocketStore>));
    let started = tokio::select! {
        started = start(checked.spec, given, options) => started,
        () = signals.end() => return ended_early(),
    };
    let end = match started {
        Ok(tree) => Daemon::supervise(tree, outline, options, signals, socket).await,
        Err(e) => print_error(&e.to_string(), exit_of(&e)),
    };
    if let Some(store) = store {
        // What is closed for good must not come back.
        let _ = tokio::task::spawn_blocking(move || store.finish()).await;
    }
    end
}

/// Starts the tree. The VMs that a previous run left are ended only with permission, when the file lacks most of them.
async fn start(spec: TreeSpec, given: GivenSockets, options: &Options) -> Result<Tree, StartError> {
    match options.allow_removal {
        true => Tree::start_with_sockets(spec, given).await,
        false => Tree::start_with_sockets_and_care(spec, given).await,
    }
}

/// Prints an error and returns the exit.
fn print_error(text: &str, exit: ProgramExit) -> ProgramExit {
    output::print_error(format_args!("pepitad: {text}"));
    exit
}

fn ended_early() -> ProgramExit {
    print_error("a signal came before anything was started", ProgramExit::Ok)
}

/// Claims the control socket, on a thread of its own: another process may hold its lock.
async fn claim(path: Option<PathBuf>) -> Result<Option<Socket>, ControlError> {
    let Some(path) = path else { return Ok(None) };
    let named = path.clone();
    let claimed = tokio::task::spawn_blocking(move || Socket::claim(&path)).await;
    let failed = |e: tokio::task::JoinError| ControlError::Io { path: named, source: io::Error::other(e) };
    claimed.map_err(failed)?.map(Some)
}

/// Prints the advice on what is probably not intended. `--check` prints notes, too.
fn warn(checked: &Checked) {
    for advice in &checked.advice {
        match advice.level {
            Level::Error | Level::Warning => output::print_error(format_args!("{advice}\n")),
            Level::Info => {}
        }
    }
}

/// Warns when the limit of open files, which `main` has raised as far as it may, is too low for the configuration.
fn warn_of_few_files(spec: &TreeSpec) {
    let vms = spec.groups.iter().map(|group| group.vms.len()).sum();
    let needed = files_needed(vms);
    if let Ok(Some(limit)) = raise_file_limit()
        && limit < needed
    {
        let text = format!(
            "the limit of open files is {limit}, and {vms} VMs need about {needed}: raise it (LimitNOFILE=)"
        );
        output::print_error(format_args!("pepitad: {text}"));
    }
}

fn exit_without_socket(error: &ControlError) -> ProgramExit {
    match error {
        ControlError::Taken(_) | ControlError::NotASocket(_) | ControlError::Locked { .. } => {
            ProgramExit::Conflict
        }
        ControlError::Io { .. } => ProgramExit::Permission,
    }
}

fn exit_of(error: &StartError) -> ProgramExit {
    match error {
        StartError::Spec(_) => ProgramExit::Config,
        StartError::NotFound(_) | StartError::Launcher(_) => ProgramExit::Unavailable,
        StartError::Claim(ClaimError::Io { source, .. })
        | StartError::Journal(JournalError::Io { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            ProgramExit::Permission
        }
        StartError::Claim(ClaimError::NotOurs(_)) => ProgramExit::Permission,
        StartError::Claim(ClaimError::Taken { .. } | ClaimError::Io { .. })
        | StartError::Journal(_)
        | StartError::Orphans(_)
        | StartError::Elsewhere { .. }
        | StartError::Removal(_) => ProgramExit::Conflict,
        StartError::Actor(_) => ProgramExit::Failed,
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
    /// What the end depends on, as it was known last.
    ending: Ending,
    /// The moment at which the program ends even if the tree has not; set when the end begins.
    end_at: Option<Instant>,
    reload: Option<JoinHandle<Result<String, String>>>,
    /// Whether a reload was asked for while one was under way.
    reload_again: bool,
}

/// The settings of a configuration that the end depends on.
#[derive(Debug, Clone, Copy)]
struct Ending {
    on_exit: OnExit,
    limit: Duration,
    /// The time after which the tree has ended, whatever fails.
    longest: Duration,
}

impl Ending {
    fn of(spec: &TreeSpec) -> Self {
        Self { on_exit: spec.on_exit, limit: spec.shutdown_timeout, longest: longest_end(spec) }
    }
}

/// What the program itself needs of the configuration with which it has started. The tree has the configuration.
#[derive(Debug, Clone, Copy)]
struct Outline {
    vms: usize,
    groups: usize,
    ending: Ending,
}

impl Outline {
    fn of(spec: &TreeSpec) -> Self {
        let vms = spec.groups.iter().map(|group| group.vms.len()).sum();
        Self { vms, groups: spec.groups.len(), ending: Ending::of(spec) }
    }
}

impl<'o> Daemon<'o> {
    async fn supervise(
        tree: Tree,
        outline: Outline,
        options: &'o Options,
        mut signals: Signals,
        socket: Option<Socket>,
    ) -> ProgramExit {
        let (printer, notes) = Printer::new(options.format());
        let printing = printer.start(tree.events());
        notes.print(Report::Started {
            name: tree.name().to_string(),
            pid: std::process::id(),
            vms: outline.vms,
            groups: outline.groups,
            on_exit: outline.ending.on_exit,
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
        let (stage, ending) = (Stage::Running, outline.ending);
        let mut daemon = Self {
            tree,
            options,
            notes,
            notify,
            stage,
            ending,
            end_at: None,
            reload: None,
            reload_again: false,
        };
        let tree = daemon.tree.clone();
        let ended = tree.wait();
        tokio::pin!(ended);
        let mut waiting = tokio::time::interval(WAITING_INTERVAL);
        let end = loop {
            tokio::select! {
                end = &mut ended => break end,
                () = overdue(daemon.end_at) => {
                    let reason = "the end takes too long; VMs may be left".to_owned();
                    break TreeEnd::Failed { reason };
                }
                action = signals.next() => match action {
                    SignalAction::End => {
                        daemon.end().await;
                        waiting.reset();
                    }
                    SignalAction::Reload => daemon.start_reload(),
                },
                reloaded = reloaded(&mut daemon.reload) => daemon.reloaded(reloaded),
                Some(request) = requests.recv() => {
                    daemon.on_request(&request);
                    waiting.reset();
                }
                _ = waiting.tick(), if daemon.stage != Stage::Running => daemon.report_waiting(),
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
                if let Ok(Some(spec)) = timeout(ANSWER_LIMIT, self.tree.spec()).await {
                    self.ending = Ending::of(&spec);
                }
                self.begin_end();
                match self.ending.on_exit {
                    OnExit::Stop => {
                        self.notes.print(Report::Stopping { limit: self.ending.limit });
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
            self.begin_end();
            self.stage = match how {
                ShutdownMode::Stop => Stage::Stopping,
                ShutdownMode::Leave | ShutdownMode::Destroy => Stage::Ending,
            };
        }
    }

    /// Tells the service manager that the end begins, and sets its limit.
    fn begin_end(&mut self) {
        let extension = self.ending.limit.saturating_add(EXTENSION);
        self.notify.report(&[NotifyState::Stopping, extend(extension)]);
        let longest = self.ending.longest.saturating_add(END_SLACK);
        self.end_at = self.end_at.or_else(|| Instant::now().checked_add(longest));
    }

    /// Applies the configuration as it is written now, as a whole or not at all, in a task: reading the file may take
    /// long. A reload that is asked for meanwhile comes after it.
    fn start_reload(&mut self) {
        if self.stage != Stage::Running {
            let why = "the supervisor is ending".to_owned();
            return self.notes.print(Report::NotReloaded { why });
        }
        if self.reload.is_some() {
            self.reload_again = true;
            return;
        }
        self.notify.reloading();
        let (tree, file) = (self.tree.clone(), self.options.config().to_owned());
        self.reload = Some(tokio::spawn(async move {
            // The file is read on a thread of its own, because a disk may be slow.
            let read = tokio::task::spawn_blocking(move || load(&file)).await;
            let checked = read.map_err(|e| e.to_string())?.map_err(|errors| errors.to_string())?;
            warn(&checked);
            let plan = tree.reload_with_care(checked.spec, false).await.map_err(|e| e.to_string())?;
            Ok(if plan.is_empty() { String::new() } else { plan.to_string() })
        }));
    }

    /// Notes how a reload ended.
    fn reloaded(&mut self, outcome: Result<String, String>) {
        match outcome {
            Ok(plan) => self.notes.print(Report::Reloaded { plan }),
            Err(why) => {
                output::print_error(&why);
                self.notes.print(Report::NotReloaded { why });
            }
        }
        if self.stage == Stage::Running {
            self.notify.report(&[NotifyState::Ready]);
            if std::mem::take(&mut self.reload_again) {
                self.start_reload();
            }
        }
    }

    /// Notes which VMs the end waits for, and asks the service manager for more time: the tree keeps its own limit.
    fn report_waiting(&self) {
        let status = self.tree.status();
        let live = status.vms().filter(|vm| vm.phase.is_live());
        let vms: Vec<WaitingVm> = live
            .map(|vm| WaitingVm {
                name: vm.name.to_string(),
                phase: vm.phase.word(),
                since: vm.since.elapsed(),
            })
            .collect();
        self.notify.report(&[extend(EXTENSION)]);
        if !vms.is_empty() {
            self.notes.print(Report::WaitingFor { vms });
        }
    }
}

fn extend(by: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))
}

/// Waits for this moment; for ever without one.
async fn overdue(end_at: Option<Instant>) {
    match end_at {
        Some(end_at) => tokio::time::sleep_until(end_at).await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of the reload that is under way; for ever without one.
async fn reloaded(reload: &mut Option<JoinHandle<Result<String, String>>>) -> Result<String, String> {
    let Some(task) = reload else { return std::future::pending().await };
    let outcome = task.await.unwrap_or_else(|e| Err(e.to_string()));
    *reload = None;
    outcome
}

/// Returns the hooks of this program for the control socket: the configuration, and the channel for notes about
/// requests.
fn hooks(config: &Path, requests: mpsc::Sender<Call>) -> Hooks {
    let file = config.to_owned();
    let read = move || load(&file).map(|checked| checked.spec).map_err(|errors| errors.to_string());
    // When the channel is full, only the note is lost, not the request.
    Hooks::default().load(read).on_command(move |request| drop(requests.try_send(request.clone())))
}
