//! The executor actor: the only one that runs `pepita`. Bounded in parallel, with deadlines and typed errors.
//!
//! Calls about one VM are made one after the other, in the order they were asked for: a destroy never overtakes the
//! launch it is to undo. Calls about different VMs run side by side; launches, which cost a host the most, at most
//! `max_parallel_launches` at once.

pub mod argv;
mod launcher;
mod process;

pub use argv::Launch;
pub use launcher::{Answer, Launcher, Pepita};
pub use process::{NotFound, find};

use crate::reply::Reply;
use crate::spec::{Signal, VmName};
use pepita_wire::StatusRecord;
use pepita_wire::record::CallErrorKind;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;

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
    /// Fail. For tests of what a failed actor leads to.
    Panic,
}

/// The executor actor.
#[derive(Debug)]
pub struct PepitaExecutor;

/// What the executor needs to know.
#[derive(Debug, Clone)]
pub struct ExecutorArgs {
    /// The launcher.
    pub pepita: Arc<dyn Pepita>,
    /// Launches under way at once.
    pub parallel: usize,
    /// The supervisor's mark on its VMs.
    pub owner: Arc<str>,
}

/// What the executor remembers.
#[derive(Debug)]
pub struct ExecutorState {
    desk: Desk,
    /// VMs with a call under way, and the calls that wait behind it.
    busy: HashMap<VmName, VecDeque<ExecutorMsg>>,
}

impl Actor for PepitaExecutor {
    type Msg = ExecutorMsg;
    type State = ExecutorState;
    type Arguments = ExecutorArgs;

    async fn pre_start(
        &self,
        _: ActorRef<ExecutorMsg>,
        args: ExecutorArgs,
    ) -> Result<ExecutorState, ActorProcessingErr> {
        let launches = Arc::new(Semaphore::new(args.parallel.max(1)));
        let desk = Desk { pepita: args.pepita, owner: args.owner, launches };
        Ok(ExecutorState { desk, busy: HashMap::new() })
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
                let desk = state.desk.clone();
                tokio::spawn(async move { desk.perform(msg).await });
                return Ok(());
            }
            ExecutorMsg::Done(vm) => {
                match state.busy.get_mut(vm).and_then(VecDeque::pop_front) {
                    Some(next) => state.make(&me, vm.clone(), next),
                    None => drop(state.busy.remove(vm)),
                }
                return Ok(());
            }
            ExecutorMsg::Panic => panic!("told to panic"),
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
        let (me, desk) = (me.clone(), self.desk.clone());
        tokio::spawn(async move {
            desk.perform(msg).await;
            // The executor may be gone; then there is no queue either.
            let _ = me.cast(ExecutorMsg::Done(vm));
        });
    }
}

/// What a call needs, wherever it runs.
#[derive(Debug, Clone)]
struct Desk {
    pepita: Arc<dyn Pepita>,
    owner: Arc<str>,
    launches: Arc<Semaphore>,
}

impl Desk {
    async fn perform(&self, msg: ExecutorMsg) {
        match msg {
            ExecutorMsg::Launch { launch, reply } => reply.send(self.launch(&launch).await),
            ExecutorMsg::Adopt { vm, reply } => reply.send(self.adopt(&vm).await),
            ExecutorMsg::Status { vm, reply } => reply.send(self.ours(&vm).await),
            ExecutorMsg::Destroy { vm, reply } => reply.send(self.destroy(&vm).await),
            ExecutorMsg::Signal { vm, signal, reply } => reply.send(self.pepita.signal(&vm, signal).await),
            ExecutorMsg::List { reply } => reply.send(self.pepita.list().await),
            ExecutorMsg::Done(_) | ExecutorMsg::Panic => {}
        }
    }

    async fn launch(&self, launch: &Launch) -> Result<StatusRecord, ExecutorError> {
        // The semaphore is never closed.
        let _permit = self.launches.acquire().await;
        let vm = &launch.spec.name;
        let taken = match self.pepita.run(launch).await {
            Err(e) if e.kind() == Some(CallErrorKind::NameTaken) => e,
            done => return done,
        };
        // A former incarnation that nobody took down, or whose monitor is about to go, makes way; nothing else does.
        match self.ours(vm).await {
            Ok(record) if record.incarnation < launch.incarnation.0 => {
                self.pepita.destroy(vm).await?;
                self.pepita.run(launch).await
            }
            _ => Err(taken),
        }
    }

    /// The record of a VM of ours. One of that name with another mark, or without, is somebody else's: for us there is
    /// none. The launcher's names belong to the whole host.
    async fn ours(&self, vm: &VmName) -> Result<StatusRecord, ExecutorError> {
        let record = self.pepita.status(vm).await?;
        if record.labels.get(argv::OWNER_LABEL).is_some_and(|owner| **owner == *self.owner) {
            return Ok(record);
        }
        let message = format!("no such VM of ours: {} was started by somebody else", vm.id());
        Err(ExecutorError::Refused { kind: CallErrorKind::NoSuchVm, message })
    }

    async fn adopt(&self, vm: &VmName) -> Result<StatusRecord, ExecutorError> {
        self.ours(vm).await?;
        self.pepita.adopt(vm).await
    }

    async fn destroy(&self, vm: &VmName) -> Result<(), ExecutorError> {
        match self.ours(vm).await {
            Ok(_) => self.pepita.destroy(vm).await,
            Err(e) if e.kind() == Some(CallErrorKind::NoSuchVm) => Ok(()),
            Err(e) => Err(e),
        }
    }
}
