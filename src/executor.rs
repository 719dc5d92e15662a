//! The executor actor: the only one that runs `pepita`. Bounded in parallel, with deadlines and typed errors.
//!
//! Calls about one VM are made one after the other, in the order they were asked for: a destroy never overtakes the
//! launch it is to undo. Calls about different VMs run side by side; launches, which cost a host the most, at most
//! `max_parallel_launches` at once.

pub mod argv;
mod process;

pub use argv::Launch;
pub use process::{NotFound, find};

use crate::reply::Reply;
use crate::spec::{Signal, VmName};
use pepita_wire::record::CallErrorKind;
use pepita_wire::{StatusRecord, VersionRecord};
use process::CallFailure;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// For a call that only asks or ends something.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// For a launch to come back: the VMM runs, the guest still boots.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(60);

/// Why a call of the launcher came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecutorError {
    /// The launcher said so.
    #[error("{message}")]
    Refused {
        /// For programs.
        kind: CallErrorKind,
        /// For people.
        message: String,
    },
    /// It did not print what it promises to print: another program of that name.
    #[error("{program}: this is not the launcher: {what}", program = .program.display())]
    NotPepita {
        /// What was called.
        program: PathBuf,
        /// What was wrong with it.
        what: String,
    },
    /// It speaks another generation of the contract.
    #[error("{program}: speaks contract {theirs}, we speak {ours}; install matching versions", program = .program.display(), ours = pepita_wire::CONTRACT)]
    Contract {
        /// What was called.
        program: PathBuf,
        /// What it speaks.
        theirs: u32,
    },
    /// It could not be run, or did not end in time.
    #[error("{program}: {what}", program = .program.display())]
    Call {
        /// What was called.
        program: PathBuf,
        /// What happened.
        what: String,
    },
    /// It is nowhere.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The executor actor failed meanwhile.
    #[error("the executor failed before the call was made")]
    Gone,
}

impl ExecutorError {
    /// Whether the same call may succeed later. A taken name is such a case: the former incarnation is on its way out.
    pub fn is_recoverable(&self) -> bool {
        match self {
            Self::Refused { kind, .. } => kind.is_recoverable() || *kind == CallErrorKind::NameTaken,
            Self::Call { .. } | Self::Gone => true,
            Self::NotPepita { .. } | Self::Contract { .. } | Self::NotFound(_) => false,
        }
    }

    /// The launcher's own word for it, if it was the launcher that refused.
    pub fn kind(&self) -> Option<CallErrorKind> {
        match self {
            Self::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}

/// What the executor can be asked.
#[derive(Debug)]
pub enum ExecutorMsg {
    /// Boot a VM. Answered when its VMM runs and its monitor watches it.
    Launch {
        /// What.
        launch: Box<Launch>,
        /// Its status.
        reply: Reply<Result<StatusRecord, ExecutorError>>,
    },
    /// Take over a VM that runs: see that it has a monitor.
    Adopt {
        /// Which.
        vm: VmName,
        /// Its status.
        reply: Reply<Result<StatusRecord, ExecutorError>>,
    },
    /// End a VM and remove all traces of it. Answered when it is confirmed gone.
    Destroy {
        /// Which.
        vm: VmName,
        /// Done.
        reply: Reply<Result<(), ExecutorError>>,
    },
    /// Send a signal to the daemon.
    Signal {
        /// Of which VM.
        vm: VmName,
        /// Which signal.
        signal: Signal,
        /// Done.
        reply: Reply<Result<(), ExecutorError>>,
    },
    /// The launcher's record of a VM.
    Status {
        /// Which.
        vm: VmName,
        /// Its status.
        reply: Reply<Result<StatusRecord, ExecutorError>>,
    },
    /// Every VM on this host, foreign ones too.
    List {
        /// Their status.
        reply: Reply<Result<Vec<StatusRecord>, ExecutorError>>,
    },
    /// A call about this VM has ended: the next one may be made. Sent by the executor to itself.
    Done(VmName),
}

/// The launcher, and how it is called. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: PathBuf,
    run_dir: Option<PathBuf>,
}

impl Launcher {
    /// A launcher that was found.
    pub fn new(program: PathBuf, run_dir: Option<PathBuf>) -> Self {
        Self { program, run_dir }
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Makes sure that this is our `pepita`. Exit 0 proves nothing: there are others of that name.
    ///
    /// # Errors
    /// When it prints no version record, or one of another contract.
    pub async fn verify(&self) -> Result<VersionRecord, ExecutorError> {
        let foreign = |what: String| ExecutorError::NotPepita { program: self.program.clone(), what };
        let output = self.output(argv::version(), Vec::new(), CALL_DEADLINE).await?;
        let record: VersionRecord = serde_json::from_slice(&output.stdout)
            .map_err(|_| foreign("`--version --json` printed no version record".into()))?;
        if record.name != "pepita-launcher" {
            return Err(foreign(format!("it says it is {:?}", record.name)));
        }
        if record.contract != pepita_wire::CONTRACT {
            return Err(ExecutorError::Contract { program: self.program.clone(), theirs: record.contract });
        }
        Ok(record)
    }

    /// Every VM on this host.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn list(&self) -> Result<Vec<StatusRecord>, ExecutorError> {
        self.record(argv::list(), Vec::new(), CALL_DEADLINE).await
    }

    async fn output(
        &self,
        argv: Vec<OsString>,
        stdin: Vec<u8>,
        deadline: Duration,
    ) -> Result<process::Output, ExecutorError> {
        let shown = argv.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        tracing::debug!(target: "pepita_supervisor::executor", "pepita {shown}");
        let failed = |what: String| ExecutorError::Call { program: self.program.clone(), what };
        let output = process::call(&self.program, self.run_dir.as_deref(), argv, stdin, deadline)
            .await
            .map_err(|e| match e {
                CallFailure::Io(e) => failed(format!("cannot be run: {e}")),
                e @ CallFailure::Timeout(_) => failed(e.to_string()),
            })?;
        if output.status.success() {
            return Ok(output);
        }
        let last = output.stderr.lines().last().unwrap_or_default();
        match serde_json::from_str::<pepita_wire::record::CallError>(last) {
            Ok(error) => Err(ExecutorError::Refused { kind: error.kind, message: error.message }),
            Err(_) => Err(failed(format!("{}: {}", output.status, output.stderr))),
        }
    }

    async fn record<T: serde::de::DeserializeOwned>(
        &self,
        argv: Vec<OsString>,
        stdin: Vec<u8>,
        deadline: Duration,
    ) -> Result<T, ExecutorError> {
        let output = self.output(argv, stdin, deadline).await?;
        serde_json::from_slice(&output.stdout).map_err(|e| ExecutorError::NotPepita {
            program: self.program.clone(),
            what: format!("it exited with 0 but printed no record: {e}"),
        })
    }
}

/// The executor actor.
#[derive(Debug)]
pub struct PepitaExecutor;

/// What the executor remembers.
#[derive(Debug)]
pub struct ExecutorState {
    launcher: Launcher,
    launches: Arc<Semaphore>,
    /// VMs with a call under way, and the calls that wait behind it.
    busy: HashMap<VmName, VecDeque<ExecutorMsg>>,
}

impl Actor for PepitaExecutor {
    type Msg = ExecutorMsg;
    type State = ExecutorState;
    type Arguments = (Launcher, usize);

    async fn pre_start(
        &self,
        _: ActorRef<ExecutorMsg>,
        (launcher, parallel): Self::Arguments,
    ) -> Result<ExecutorState, ActorProcessingErr> {
        Ok(ExecutorState { launcher, launches: Arc::new(Semaphore::new(parallel)), busy: HashMap::new() })
    }

    async fn handle(
        &self,
        me: ActorRef<ExecutorMsg>,
        msg: ExecutorMsg,
        state: &mut ExecutorState,
    ) -> Result<(), ActorProcessingErr> {
        let vm = match &msg {
            ExecutorMsg::Launch { launch, .. } => launch.spec.name.clone(),
            ExecutorMsg::Adopt { vm, .. }
            | ExecutorMsg::Destroy { vm, .. }
            | ExecutorMsg::Signal { vm, .. }
            | ExecutorMsg::Status { vm, .. } => vm.clone(),
            ExecutorMsg::List { .. } => {
                let launcher = state.launcher.clone();
                tokio::spawn(async move {
                    if let ExecutorMsg::List { reply } = msg {
                        reply.send(launcher.list().await);
                    }
                });
                return Ok(());
            }
            ExecutorMsg::Done(vm) => {
                match state.busy.get_mut(vm).and_then(VecDeque::pop_front) {
                    Some(next) => state.make(&me, vm.clone(), next),
                    None => drop(state.busy.remove(vm)),
                }
                return Ok(());
            }
        };
        match state.busy.get_mut(&vm) {
            Some(waiting) => waiting.push_back(msg),
            None => {
                state.busy.insert(vm.clone(), VecDeque::new());
                state.make(&me, vm, msg);
            }
        }
        Ok(())
    }
}

impl ExecutorState {
    /// Makes a call in a task of its own; the actor stays free.
    fn make(&self, me: &ActorRef<ExecutorMsg>, vm: VmName, msg: ExecutorMsg) {
        let (me, launcher, launches) = (me.clone(), self.launcher.clone(), Arc::clone(&self.launches));
        tokio::spawn(async move {
            perform(&launcher, &launches, msg).await;
            // The executor may be gone; then there is no queue either.
            let _ = me.cast(ExecutorMsg::Done(vm));
        });
    }
}

async fn perform(launcher: &Launcher, launches: &Semaphore, msg: ExecutorMsg) {
    let unit = |result: Result<process::Output, ExecutorError>| result.map(drop);
    match msg {
        ExecutorMsg::Launch { launch, reply } => {
            // The semaphore is never closed.
            let _permit = launches.acquire().await;
            let stdin = argv::env_file(&launch);
            // An empty standard input is the null device, which `--env-file -` reads as no variables.
            reply.send(launcher.record(argv::run(&launch), stdin, LAUNCH_DEADLINE).await);
        }
        ExecutorMsg::Adopt { vm, reply } => {
            reply.send(launcher.record(argv::adopt(vm.id()), Vec::new(), CALL_DEADLINE).await);
        }
        ExecutorMsg::Status { vm, reply } => {
            reply.send(launcher.record(argv::status(vm.id()), Vec::new(), CALL_DEADLINE).await);
        }
        ExecutorMsg::Destroy { vm, reply } => {
            reply.send(unit(launcher.output(argv::destroy(vm.id()), Vec::new(), CALL_DEADLINE).await));
        }
        ExecutorMsg::Signal { vm, signal, reply } => {
            let argv = argv::signal(vm.id(), signal);
            reply.send(unit(launcher.output(argv, Vec::new(), CALL_DEADLINE).await));
        }
        ExecutorMsg::List { .. } | ExecutorMsg::Done(_) => {}
    }
}
