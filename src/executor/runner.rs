//! Makes the calls of the launcher, in order and within limits.
//!
//! The runner also knows which VMs this supervisor may end: the VMs that it has launched or taken over, and those that
//! its state names. The mark of a supervisor alone does not prove that: it is a name, which another supervisor may have,
//! too.
//!
//! Calls about one VM are made one after the other, in the order in which they were submitted: a destroy never
//! overtakes the launch that it is to undo. Calls about different VMs run in parallel; launches, which cost a host the
//! most, run in parallel up to `max_parallel_launches`, and all other calls up to a fixed number: when a host loses all its
//! VMs at once, it does not get a program for each of them at once.

use super::argv::{self, Launch};
use super::queue::{Cancel, Queues, VmLock};
use super::{Answer, ExecutorError, ExecutorMsg, LaunchStep, LaunchSteps, Pepita};
use crate::claim::Claim;
use crate::ports::Ports;
use crate::reply::Reply;
use crate::spec::{Incarnation, Signal, VmName};
use crate::store::Written;
use pepita_wire::record::{CallErrorKind, Reach};
use pepita_wire::{Publish, StatusRecord};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// The maximum number of calls at the same time that are no launches. A call that hangs takes one of these places until its
/// deadline, so they are more than a host has processors for.
const PARALLEL_CALLS: usize = 32;

/// The runner of the calls of one supervisor. All clones are one runner.
///
/// The runner outlives the executor actor, and so do the calls that were submitted: the order of the calls about one VM,
/// the bound on launches and the way to cancel a launch hold across a failure of the actor.
#[derive(Debug, Clone)]
pub struct Runner {
    pepita: Arc<dyn Pepita>,
    owner: Arc<str>,
    /// The claim of the owner's name; no VM is launched without it.
    claim: Option<Arc<Claim>>,
    /// The VMs that this supervisor may end, each with its newest incarnation.
    owned: Arc<Mutex<HashMap<VmName, Incarnation>>>,
    /// The records of VMs that run, from the list that was read at the start: each saves its VM's adoption a call.
    listed: Arc<Mutex<HashMap<VmName, StatusRecord>>>,
    launches: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    queues: Queues,
    ports: Ports,
}

impl Runner {
    /// Makes a runner that calls `pepita`, launches up to `parallel` VMs at once and knows its VMs by the mark `owner`.
    pub(crate) fn new(
        pepita: Arc<dyn Pepita>,
        parallel: usize,
        owner: Arc<str>,
        claim: Option<Arc<Claim>>,
        ports: Ports,
    ) -> Self {
        let launches = Arc::new(Semaphore::new(parallel.max(1)));
        Self {
            pepita,
            owner,
            claim,
            owned: Arc::default(),
            listed: Arc::default(),
            launches,
            calls: Arc::new(Semaphore::new(PARALLEL_CALLS)),
            queues: Queues::default(),
            ports,
        }
    }

    /// Keeps what a list has just said of a VM that runs and has a monitor, for its adoption.
    pub(crate) fn expect(&self, vm: VmName, record: StatusRecord) {
        let runs = !record.state.is_terminal() && record.unreadable.is_none();
        if runs && record.monitor_pid.is_some() {
            self.listed().insert(vm, record);
        }
    }

    fn listed(&self) -> MutexGuard<'_, HashMap<VmName, StatusRecord>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that this supervisor may end a VM, up to this incarnation.
    pub(crate) fn own(&self, vm: &VmName, incarnation: Incarnation) {
        let mut owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = owned.entry(vm.clone()).or_default();
        *newest = (*newest).max(incarnation);
    }

    /// Returns whether this supervisor may end the VM of a record.
    fn owns(&self, vm: &VmName, record: &StatusRecord) -> bool {
        let owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        owned.get(vm).is_some_and(|newest| record.incarnation <= newest.0)
    }

    /// Returns the listening sockets of published ports, which the launches hand over.
    pub(crate) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Closes the listening sockets that a former run has stored of ports that no VM has any more.
    pub(crate) fn close_ports_but<'p>(&self, wanted: impl Iterator<Item = &'p Publish>) {
        self.ports.close_all_but(wanted);
    }

    /// Gives up the listening sockets of published ports, and leaves them to the monitors of the VMs.
    pub(crate) fn leave_ports(&self) {
        self.ports.leave();
    }

    /// Returns the published ports of a VM, each with the number of clients that wait at it, where the kernel tells it.
    pub(crate) fn waiting_clients(&self, vm: &VmName) -> Vec<(String, Option<u32>)> {
        self.ports.waiting(vm)
    }

    /// Returns the directory of run directories, if the launcher has told it.
    pub(crate) fn run_dir(&self) -> Option<&Path> {
        self.claim.as_deref().map(Claim::run_dir)
    }

    /// Returns the supervisor's mark on its VMs.
    pub fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    /// Submits a call. The order is that of the submissions; the call is made in a task of its own.
    pub fn submit(&self, msg: ExecutorMsg) {
        match msg {
            ExecutorMsg::Launch { launch, written, steps, reply } => {
                self.submit_launch(launch, written, steps, reply);
            }
            ExecutorMsg::Cancel(vm) => self.queues.cancel(&vm),
            ExecutorMsg::Adopt { vm, reply } => {
                // Of the next adoption of the VM the record says nothing.
                if let Some(record) = self.listed().remove(&vm) {
                    return reply.send(Ok(record));
                }
                self.in_turn(vm, reply, |runner, vm| Box::pin(runner.adopt_ours(vm)));
            }
            ExecutorMsg::Destroy { vm, reply } => {
                self.listed().remove(&vm);
                self.in_turn(vm, reply, |runner, vm| Box::pin(runner.destroy_ours(vm)));
            }
            ExecutorMsg::Status { vm, reply } => {
                self.in_turn(vm, reply, |runner, vm| Box::pin(runner.status_of_ours(vm)));
            }
            ExecutorMsg::Publish { vm, ports, control, reply } => {
                let sockets = self.ports.clone();
                tokio::spawn(async move { reply.send(sockets.publish(&vm, &ports, &control).await) });
            }
            ExecutorMsg::Own { vm, incarnation } => self.own(&vm, incarnation),
            ExecutorMsg::List { reply } => {
                let runner = self.clone();
                tokio::spawn(async move { reply.send(runner.pepita.list().await) });
            }
            #[cfg(feature = "test-hooks")]
            ExecutorMsg::Panic => {}
        }
    }

    /// Submits a call and returns its answer.
    ///
    /// # Errors
    /// Returns the error of the call.
    pub async fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(Reply<Result<T, ExecutorError>>) -> ExecutorMsg,
    ) -> Result<T, ExecutorError> {
        let (reply, answer) = Reply::channel();
        self.submit(call(reply));
        answer.await.ok().flatten().unwrap_or(Err(ExecutorError::Gone))
    }

    /// Returns the record of a VM, also of a VM that another program started.
    ///
    /// # Errors
    /// Returns the error of the call; for a VM that does not exist, a refusal.
    pub async fn status_of_any(&self, vm: &VmName) -> Result<StatusRecord, ExecutorError> {
        let (reply, answer) = Reply::channel();
        self.in_turn(vm.clone(), reply, |runner, vm| runner.pepita.status(vm));
        answer.await.ok().flatten().unwrap_or(Err(ExecutorError::Gone))
    }

    /// Kills a VM at once and removes all traces of it, also a VM that another program started.
    ///
    /// # Errors
    /// Returns the error of the call.
    pub async fn destroy_any(&self, vm: &VmName) -> Result<(), ExecutorError> {
        let (reply, answer) = Reply::channel();
        self.in_turn(vm.clone(), reply, |runner, vm| runner.pepita.destroy(vm));
        answer.await.ok().flatten().unwrap_or(Err(ExecutorError::Gone))
    }

    /// Sends a signal to the daemon of a VM, also of a VM that another program started.
    ///
    /// # Errors
    /// Returns the error of the call.
    pub async fn signal_any(&self, vm: &VmName, signal: Signal) -> Result<(), ExecutorError> {
        let (reply, answer) = Reply::channel();
        self.in_turn(vm.clone(), reply, move |runner, vm| runner.pepita.signal(vm, signal));
        answer.await.ok().flatten().unwrap_or(Err(ExecutorError::Gone))
    }

    /// Makes a call when no earlier call about the VM is under way.
    fn in_turn<T: Send + 'static>(
        &self,
        vm: VmName,
        reply: Reply<Result<T, ExecutorError>>,
        call: impl for<'a> FnOnce(&'a Self, &'a VmName) -> Answer<'a, T> + Send + 'static,
    ) {
        let (runner, mut lock) = (self.clone(), self.queues.enter(&vm));
        tokio::spawn(async move {
            lock.wait().await;
            // The semaphore is never closed.
            let _permit = runner.calls.acquire().await;
            reply.send(call(&runner, &vm).await);
        });
    }

    fn submit_launch(
        &self,
        launch: Box<Launch>,
        written: Written,
        steps: LaunchSteps,
        reply: Reply<Result<StatusRecord, ExecutorError>>,
    ) {
        self.listed().remove(&launch.spec.name);
        let (mut lock, cancel) = self.queues.enter_cancellable(&launch.spec.name);
        let runner = self.clone();
        tokio::spawn(async move {
            reply.send(runner.launch(*launch, written, &steps, &mut lock, cancel).await);
        });
    }

    async fn launch(
        &self,
        mut launch: Launch,
        written: Written,
        steps: &LaunchSteps,
        lock: &mut VmLock,
        cancel: Cancel,
    ) -> Result<StatusRecord, ExecutorError> {
        let image = launch.spec.machine.image.clone();
        let turn = async {
            lock.wait().await;
            written.reached().await;
            // A download holds up no other launch, and can be cancelled.
            let digest = match &image {
                Some(image) => Some(self.pepita.prepare(image).await?),
                None => None,
            };
            // The semaphore is never closed.
            let permit = self.launches.acquire().await;
            let mut room = self.pepita.room();
            tokio::select! {
                biased;
                () = &mut room => {}
                () = std::future::ready(()) => {
                    steps.tell(LaunchStep::AwaitsDescriptors);
                    room.await;
                }
            }
            Ok::<_, ExecutorError>((permit, digest))
        };
        let _permit = tokio::select! {
            biased;
            () = cancel.requested() => return Err(ExecutorError::Cancelled),
            turn = turn => {
                let (permit, digest) = turn?;
                launch.image = digest;
                permit
            }
        };
        let launch = &launch;
        steps.tell(LaunchStep::Called);
        let taken = match self.run(launch).await {
            Err(e) if e.kind() == Some(CallErrorKind::NameTaken) => e,
            done => return done,
        };
        // A former incarnation that was not taken down, or whose monitor is about to end, makes way for the launch; no
        // other VM does.
        let vm = &launch.spec.name;
        match self.status_of_ours(vm).await {
            Ok(record) if record.incarnation < launch.incarnation.0 && self.owns(vm, &record) => {
                self.pepita.destroy(vm).await?;
                self.run(launch).await
            }
            _ => Err(taken),
        }
    }

    async fn run(&self, launch: &Launch) -> Result<StatusRecord, ExecutorError> {
        self.renew_claim().await?;
        // A port in use says nothing about the VM, and may be free soon.
        self.ports
            .open(&launch.spec.name, &launch.spec.publish)
            .map_err(|e| ExecutorError::Refused { kind: CallErrorKind::TryAgain, message: e.to_string() })?;
        let done = self.pepita.run(launch).await;
        if done.as_ref().err().is_none_or(ExecutorError::may_have_launched) {
            self.own(&launch.spec.name, launch.incarnation);
        }
        done
    }

    /// Makes sure that no other supervisor has the name of this one (semantics 9.13).
    async fn renew_claim(&self) -> Result<(), ExecutorError> {
        let Some(claim) = self.claim.clone() else { return Ok(()) };
        let renewed = tokio::task::spawn_blocking(move || claim.renew()).await;
        let refused = |message| ExecutorError::Refused { kind: CallErrorKind::TryAgain, message };
        renewed.map_err(|e| refused(e.to_string()))?.map_err(|e| refused(e.to_string()))
    }

    /// Returns the record of a VM of this supervisor. The launcher's names belong to the whole host: a VM of that name
    /// with another mark, or without a mark, belongs to another owner, and counts as absent.
    ///
    /// # Errors
    /// Returns a refusal of the kind `unreadable` when a file of the VM cannot be read: the marks are not known then, and
    /// the VM may run (semantics 13.2).
    async fn status_of_ours(&self, vm: &VmName) -> Result<StatusRecord, ExecutorError> {
        let record = self.pepita.status(vm).await?;
        let is_marked = record.labels.get(argv::OWNER_LABEL).is_some_and(|owner| **owner == *self.owner);
        // The processes of a VM whose files were removed tell its marks (semantics 13.8).
        if record.unreadable.is_some() && !(record.reach == Reach::Vanished && is_marked) {
            return Err(unreadable(record));
        }
        if is_marked {
            return Ok(record);
        }
        let message = format!("no such VM of ours: {} was started by another owner", vm.id());
        Err(ExecutorError::Refused { kind: CallErrorKind::NoSuchVm, message })
    }

    async fn adopt_ours(&self, vm: &VmName) -> Result<StatusRecord, ExecutorError> {
        let record = self.status_of_ours(vm).await?;
        self.own(vm, Incarnation(record.incarnation));
        if record.unreadable.is_some() {
            return Err(unreadable(record));
        }
        // A VM that has ended needs no monitor, and a VM that has a monitor needs no second one.
        if record.state.is_terminal() || record.monitor_pid.is_some() {
            return Ok(record);
        }
        self.pepita.adopt(vm).await
    }

    async fn destroy_ours(&self, vm: &VmName) -> Result<(), ExecutorError> {
        match self.status_of_ours(vm).await {
            Ok(record) if self.owns(vm, &record) => self.pepita.destroy(vm).await,
            // A VM that this supervisor neither launched nor took over is none of its own, whatever its mark says.
            Ok(_) => Ok(()),
            Err(e) if e.kind() == Some(CallErrorKind::NoSuchVm) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Returns the refusal for a VM that cannot be read.
fn unreadable(record: StatusRecord) -> ExecutorError {
    let message = record.unreadable.unwrap_or_default();
    ExecutorError::Refused { kind: CallErrorKind::Unreadable, message }
}
