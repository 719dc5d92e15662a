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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, oneshot};

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
    /// Whoever had asked for it has called it off; the launcher was not called.
    #[error("called off before the call was made")]
    CalledOff,
}

impl ExecutorError {
    /// Whether the same call may succeed later. A taken name is such a case: the former incarnation is on its way out.
    pub fn is_recoverable(&self) -> bool {
        match self {
            Self::Refused { kind, .. } => kind.is_recoverable() || *kind == CallErrorKind::NameTaken,
            Self::Call { .. } | Self::Gone | Self::CalledOff => true,
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
    /// A launch of this VM that still waits for its turn is not wanted any more, and answered at once. One that is under
    /// way cannot be called off, only undone.
    CallOff(VmName),
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
    /// Makes the actor panic, for tests of what a failed actor leads to.
    #[cfg(feature = "test-hooks")]
    Panic,
}

/// The executor actor.
#[derive(Debug)]
pub struct PepitaExecutor;

/// What the executor remembers.
#[derive(Debug)]
pub struct ExecutorState {
    desk: Desk,
    busy: HashMap<VmName, Line>,
}

/// A VM with a call under way.
#[derive(Debug, Default)]
struct Line {
    /// The calls that wait behind it.
    waiting: VecDeque<ExecutorMsg>,
    /// It is a launch, and this calls it off.
    call_off: Option<oneshot::Sender<()>>,
}

impl Actor for PepitaExecutor {
    type Msg = ExecutorMsg;
    type State = ExecutorState;
    type Arguments = Desk;

    async fn pre_start(
        &self,
        _: ActorRef<ExecutorMsg>,
        desk: Desk,
    ) -> Result<ExecutorState, ActorProcessingErr> {
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
                tokio::spawn(async move { desk.perform(msg, None).await });
                return Ok(());
            }
            ExecutorMsg::Done(vm) => {
                match state.busy.get_mut(vm).and_then(|line| line.waiting.pop_front()) {
                    Some(next) => state.make(&me, vm.clone(), next),
                    None => drop(state.busy.remove(vm)),
                }
                return Ok(());
            }
            ExecutorMsg::CallOff(vm) => {
                state.call_off(vm);
                return Ok(());
            }
            #[cfg(feature = "test-hooks")]
            ExecutorMsg::Panic => panic!("told to panic"),
        };
        match state.busy.get_mut(&vm) {
            Some(line) => line.waiting.push_back(msg),
            None => state.make(&me, vm, msg),
        }
        Ok(())
    }
}

impl ExecutorState {
    /// Makes a call in a task of its own; the actor stays free.
    fn make(&mut self, me: &ActorRef<ExecutorMsg>, vm: VmName, msg: ExecutorMsg) {
        let (me, desk) = (me.clone(), self.desk.clone());
        let line = self.busy.entry(vm.clone()).or_default();
        let (sender, called_off) = oneshot::channel();
        line.call_off = matches!(msg, ExecutorMsg::Launch { .. }).then_some(sender);
        tokio::spawn(async move {
            desk.in_turn(&vm, desk.perform(msg, Some(called_off))).await;
            // The executor may be gone; then there is no queue either.
            let _ = me.cast(ExecutorMsg::Done(vm));
        });
    }

    fn call_off(&mut self, vm: &VmName) {
        let Some(line) = self.busy.get_mut(vm) else { return };
        if let Some(call_off) = line.call_off.take() {
            // It may be under way.
            let _ = call_off.send(());
        }
        for msg in std::mem::take(&mut line.waiting) {
            match msg {
                ExecutorMsg::Launch { reply, .. } => reply.send(Err(ExecutorError::CalledOff)),
                msg => line.waiting.push_back(msg),
            }
        }
    }
}

/// What a call needs, wherever it runs. Clones are the same one. It outlives the executor actor as the calls under way do:
/// its successor's calls keep the order and the bounds.
#[derive(Debug, Clone)]
pub struct Desk {
    pepita: Arc<dyn Pepita>,
    owner: Arc<str>,
    launches: Arc<Semaphore>,
    turns: Arc<Mutex<HashMap<VmName, Turn>>>,
}

/// Held while a call about a VM is under way.
type Turn = Arc<tokio::sync::Mutex<()>>;

impl Desk {
    /// A desk for calls of this launcher: so many launches at once, VMs marked with this owner.
    pub fn new(pepita: Arc<dyn Pepita>, parallel: usize, owner: Arc<str>) -> Self {
        let launches = Arc::new(Semaphore::new(parallel.max(1)));
        Self { pepita, owner, launches, turns: Arc::default() }
    }

    /// The supervisor's mark on its VMs.
    pub fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    /// Does it when no other call about the VM is under way, be it one of an executor that has failed.
    async fn in_turn(&self, vm: &VmName, call: impl Future<Output = ()>) {
        let turn = Arc::clone(self.turns().entry(vm.clone()).or_default());
        {
            let _mine = turn.lock().await;
            call.await;
        }
        drop(turn);
        let mut turns = self.turns();
        if turns.get(vm).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(vm);
        }
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<VmName, Turn>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn perform(&self, msg: ExecutorMsg, called_off: Option<oneshot::Receiver<()>>) {
        match msg {
            ExecutorMsg::Launch { launch, reply } => reply.send(self.launch(&launch, called_off).await),
            ExecutorMsg::Adopt { vm, reply } => reply.send(self.adopt(&vm).await),
            ExecutorMsg::Status { vm, reply } => reply.send(self.ours(&vm).await),
            ExecutorMsg::Destroy { vm, reply } => reply.send(self.destroy(&vm).await),
            ExecutorMsg::Signal { vm, signal, reply } => reply.send(self.pepita.signal(&vm, signal).await),
            ExecutorMsg::List { reply } => reply.send(self.pepita.list().await),
            ExecutorMsg::CallOff(_) | ExecutorMsg::Done(_) => {}
            #[cfg(feature = "test-hooks")]
            ExecutorMsg::Panic => {}
        }
    }

    async fn launch(
        &self,
        launch: &Launch,
        called_off: Option<oneshot::Receiver<()>>,
    ) -> Result<StatusRecord, ExecutorError> {
        let called_off = async {
            // A sender that was dropped says only that the executor has failed.
            let called_off = match called_off {
                Some(called_off) => called_off.await.is_ok(),
                None => false,
            };
            if !called_off {
                std::future::pending::<()>().await;
            }
        };
        let _permit = tokio::select! {
            biased;
            () = called_off => return Err(ExecutorError::CalledOff),
            // The semaphore is never closed.
            permit = self.launches.acquire() => permit,
        };
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
        let record = self.ours(vm).await?;
        // One that has ended needs no monitor any more, and one that has a monitor no other.
        if record.state.is_terminal() || record.monitor_pid.is_some() {
            return Ok(record);
        }
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
