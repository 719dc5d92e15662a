//! The supervision tree, as a host program holds it: start, observe, command and stop it.
//!
//! ```no_run
//! use pepita_supervisor::{GroupName, GroupSpec, MachineSpec, Tree, TreeSpec, VmName, VmSpec};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let api = VmSpec::new(VmName::new("api")?, MachineSpec::qemu("/boot/vmlinuz", "/srv/api.ext4"));
//! let mut spec = TreeSpec::new("edge");
//! spec.groups.push(GroupSpec::new(GroupName::new("web")?, vec![api]));
//! let tree = Tree::start(spec).await?;
//! tree.wait_ready(std::time::Duration::from_secs(60)).await?;
//! tree.stop().await;
//! # Ok(())
//! # }
//! ```

mod change;
mod check;
mod error;
mod limits;
mod recovery;
mod root;
mod schedule;
mod shutdown;
mod start;
mod survey;
mod unseparated;

pub(crate) use change::Removal;
pub use check::{SpecError, check};
pub use error::{ChangeError, NotReady, StartError, TreeEnd};
pub use limits::longest_end;
#[doc(hidden)]
pub use start::Parts;

use crate::claim::Claim;
use crate::executor::{Launcher, Runner, find};
use crate::group::{AskError, Command, Refused, VmRequest};
use crate::journal::Journal;
use crate::observe::{EventKind, Events, GroupStatus, TreeStatus, VmPhase};
use crate::ports::{GivenSockets, Ports};
use crate::reply::Reply;
use crate::spec::{GroupName, GroupSpec, Plan, Signal, TreeSpec, VmName, VmSpec};
use change::Change;
use error::Progress;
use pepita_wire::Ask;
#[cfg(feature = "test-hooks")]
use ractor::ActorCell;
use root::RootMsg;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// The time that groups have to do what they were told before. They never wait for anything themselves.
const SETTLED: Duration = Duration::from_secs(1);

/// A running supervision tree. All clones are one tree.
///
/// Two trees in one process are independent; they need different names, or different directories for run directories. A
/// tree lives until it is told to end, or gives up; dropping a handle does
/// not end it. Questions and commands are answered at once, also while VMs start, stop or fail.
#[derive(Debug, Clone)]
pub struct Tree {
    inner: Arc<start::Inner>,
}

impl Tree {
    /// Starts a tree: takes over the VMs that a previous run left, and starts the rest. Returns when that is under way;
    /// see [`Tree::wait_ready`].
    ///
    /// # Errors
    /// Returns the reason why the tree cannot be started; then no VM was started.
    pub async fn start(spec: TreeSpec) -> Result<Self, StartError> {
        Self::start_on_host(spec, Removal::Allowed, GivenSockets::default()).await
    }

    /// Starts a tree as [`Tree::start`] does, unless that ends all VMs or more than half of the VMs that a previous run
    /// left, because the specification lacks them: a file that was cut off looks like that (semantics 9.6).
    ///
    /// # Errors
    /// Returns the errors of [`Tree::start`], and [`StartError::Removal`].
    pub async fn start_with_care(spec: TreeSpec) -> Result<Self, StartError> {
        Self::start_on_host(spec, Removal::OfFew, GivenSockets::default()).await
    }

    /// Starts a tree as [`Tree::start`] does, with listening sockets that this program was given at its start: a published
    /// port uses the one that listens at its place.
    ///
    /// # Errors
    /// Returns the errors of [`Tree::start`].
    pub async fn start_with_sockets(spec: TreeSpec, given: GivenSockets) -> Result<Self, StartError> {
        Self::start_on_host(spec, Removal::Allowed, given).await
    }

    /// Starts a tree as [`Tree::start_with_care`] does, with listening sockets as [`Tree::start_with_sockets`].
    ///
    /// # Errors
    /// Returns the errors of [`Tree::start_with_care`].
    pub async fn start_with_sockets_and_care(
        spec: TreeSpec,
        given: GivenSockets,
    ) -> Result<Self, StartError> {
        Self::start_on_host(spec, Removal::OfFew, given).await
    }

    async fn start_on_host(
        spec: TreeSpec,
        removal: Removal,
        given: GivenSockets,
    ) -> Result<Self, StartError> {
        check(&spec)?;
        let launcher =
            Launcher::new(find(&spec.pepita)?, spec.run_dir.clone()).with_log_dir(spec.log_dir.clone());
        let launcher = launcher.with_disk_dir(spec.disk_dir()).with_jail_uids(spec.jail_uids);
        let version = launcher.verify().await?;
        launcher.use_server(&version).await;
        let run_dir = version.run_dir.map(PathBuf::from);
        Self::open(spec, removal, Parts::host(launcher, run_dir), Ports::with(given)).await
    }

    /// Starts a tree, as [`Tree::start`] does, with another launcher and other sockets.
    ///
    /// # Errors
    /// Returns the errors of [`Tree::start`].
    #[cfg(feature = "test-hooks")]
    pub async fn start_with(spec: TreeSpec, parts: Parts) -> Result<Self, StartError> {
        check(&spec)?;
        Self::open(spec, Removal::Allowed, parts, Ports::default()).await
    }

    async fn open(spec: TreeSpec, removal: Removal, parts: Parts, ports: Ports) -> Result<Self, StartError> {
        // The journal is opened before anything else is read: its lock guarantees that no other supervisor changes the
        // state. The claim guarantees that no other supervisor works on the VMs.
        let journal = Journal::open(spec.state_dir.as_deref()).await?;
        let claim = parts.claim(&spec.name).await?;
        Self::start_in(spec, removal, journal, claim, parts, ports).await
    }

    /// Starts a tree whose journal is open already, and whose name is claimed.
    pub(crate) async fn start_in(
        spec: TreeSpec,
        removal: Removal,
        journal: Journal,
        claim: Option<Arc<Claim>>,
        parts: Parts,
        ports: Ports,
    ) -> Result<Self, StartError> {
        Ok(Self { inner: Arc::new(start::start(spec, removal, journal, claim, parts, ports).await?) })
    }

    /// Returns the supervisor's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Returns the present status of every group and VM. Asks no actor.
    pub fn status(&self) -> TreeStatus {
        self.inner.status_table.snapshot()
    }

    /// Returns a part of the status of the first group behind a slot of the status table, and the group's slot.
    pub(crate) fn next_group<T>(
        &self,
        slot: Option<usize>,
        select: impl Fn(&GroupStatus) -> Option<T>,
    ) -> Option<(usize, T)> {
        self.inner.status_table.next_after(slot, select)
    }

    /// Returns the events: for the first caller the events from the start of the tree, for others the events from now
    /// on. The events end with the tree.
    pub fn events(&self) -> Events {
        let first = self.inner.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.inner.bus.subscribe())
    }

    /// Returns the events after the event of number `seq`, 0 = from the start of the tree: the events that are still
    /// kept (the last 256), and then the events to come. The reader is first told how many are no longer kept.
    pub fn events_after(&self, seq: u64) -> Events {
        self.inner.bus.subscribe_after(seq)
    }

    /// Returns the number of the newest event. A caller that takes it before [`Tree::status`] misses nothing with
    /// [`Tree::events_after`].
    pub fn newest_event(&self) -> u64 {
        self.inner.bus.newest()
    }

    /// Returns the specification in force, with all changes since the start; `None` once the tree has ended.
    pub async fn spec(&self) -> Option<TreeSpec> {
        Some(TreeSpec::clone(&*self.shared_spec().await?))
    }

    /// Returns the specification in force, which is not copied: that of many VMs is long.
    pub(crate) async fn shared_spec(&self) -> Option<Arc<TreeSpec>> {
        self.ask_root(|reply| RootMsg::Spec { reply }).await
    }

    /// Waits until the root and the actors of all groups have come to this question, and returns whether they have: a
    /// group that hangs lets the caller wait, and a tree that has ended answers `false`. For the watchdog of a service
    /// manager.
    pub async fn responds(&self) -> bool {
        self.ask_root(RootMsg::Respond).await.is_some()
    }

    /// Returns the reason why some of the state is not saved in `state_dir`; `None` while all is.
    pub fn unsaved(&self) -> Option<String> {
        self.inner.journal.trouble().and_then(|trouble| trouble.borrow().clone())
    }

    /// Returns the reason why the newest state of a VM is not saved in `state_dir`; `None` when it is. A command for such
    /// a VM is carried out, and a supervisor that starts now would not know of it.
    pub fn unsaved_vm(&self, vm: &str) -> Option<String> {
        self.inner.journal.unsaved(&name(vm).ok()?)
    }

    /// Starts, stops, restarts or resets a VM. Returns when the command is accepted and on the disk, or the disk does not
    /// take it ([`Tree::unsaved_vm`]); its effects are in the events and the status. Starting a VM that is up and stopping a VM that is down are no errors.
    ///
    /// # Errors
    /// Returns a refusal when there is no such VM, or the tree is stopping.
    pub async fn command(&self, vm: &str, command: Command) -> Result<(), Refused> {
        let vm = name(vm)?;
        self.answered(self.ask_root(|reply| RootMsg::Command { vm, command, reply }).await)
    }

    /// Sends the daemon of a VM a signal. For a VM that is on its way up TERM, INT and QUIT are a stop; other signals reach
    /// the daemon of a VM that starts when it runs (semantics 7.15). While a VM is paused, it takes KILL and CONT alone.
    ///
    /// # Errors
    /// Returns a refusal when there is no such VM, it is neither starting nor running, or its monitor refuses.
    pub async fn signal(&self, vm: &str, signal: Signal) -> Result<(), Refused> {
        self.request(vm, |reply| VmRequest::Signal { signal, reply }).await
    }

    /// Stops the virtual CPUs of a VM. The VM is not probed meanwhile.
    ///
    /// # Errors
    /// Returns a refusal when there is no such VM, no daemon runs in it, or its monitor refuses.
    pub async fn pause(&self, vm: &str) -> Result<(), Refused> {
        self.request(vm, |reply| VmRequest::SetPaused { paused: true, reply }).await
    }

    /// Lets the virtual CPUs of a VM run again. Resuming a VM that is not paused is no error.
    ///
    /// # Errors
    /// Returns the refusals of [`Tree::pause`].
    pub async fn resume(&self, vm: &str) -> Result<(), Refused> {
        self.request(vm, |reply| VmRequest::SetPaused { paused: false, reply }).await
    }

    /// Asks the guest agent of a VM a question, over the link that the tree has to it.
    ///
    /// # Errors
    /// Returns an error when there is no such VM, no daemon runs in it, or the agent refuses.
    pub async fn ask(&self, vm: &str, ask: Ask) -> Result<Value, AskError> {
        let vm = name(vm)?;
        let asked = |reply| RootMsg::Forward { vm, request: VmRequest::Ask { ask, reply } };
        self.ask_root(asked).await.unwrap_or_else(|| Err(self.unanswered().into()))
    }

    /// Waits until every group is Ready, or has ended because its work was done.
    ///
    /// # Errors
    /// Returns an error when that takes longer than `timeout`, a group has given up, or the tree is stopping.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), NotReady> {
        let mut progress = self.inner.progress.clone();
        let settled = progress.wait_for(|progress| *progress != Progress::Starting);
        match tokio::time::timeout(timeout, settled).await {
            Ok(Ok(progress)) => match &*progress {
                Progress::Starting | Progress::Ready => Ok(()),
                Progress::Failed { group, reason } => {
                    Err(NotReady::Failed { group: group.to_string(), reason: reason.clone() })
                }
                Progress::Ending => Err(NotReady::Ending),
            },
            Ok(Err(_)) => Err(NotReady::Ending),
            Err(_) => Err(NotReady::Timeout { after: timeout, waiting: self.waiting() }),
        }
    }

    fn waiting(&self) -> String {
        let status = self.status();
        let not_yet = status.vms().filter(|vm| {
            vm.wanted && !matches!(vm.phase, VmPhase::Ready | VmPhase::Idle { .. } | VmPhase::Completed)
        });
        not_yet.map(|vm| format!("{} is {}", vm.name, vm.phase)).collect::<Vec<_>>().join(", ")
    }

    /// Adds a group, which starts when the groups that it comes after are Ready.
    ///
    /// # Errors
    /// Returns an error when the specification would contradict itself, or the tree is stopping. A change that is
    /// refused changes nothing; that holds for all changes.
    pub async fn add_group(&self, group: GroupSpec) -> Result<(), ChangeError> {
        self.change(Change::AddGroup(Box::new(group))).await.map(drop)
    }

    /// Stops a group in reverse start order, and removes it. Returns when that is under way.
    ///
    /// # Errors
    /// Returns an error when there is no such group, or another group comes after it.
    pub async fn remove_group(&self, group: &str) -> Result<(), ChangeError> {
        let missing = || Refused::NoSuchGroup(group.to_owned());
        let group = GroupName::new(group).map_err(|_| missing())?;
        self.change(Change::RemoveGroup(group)).await.map(drop)
    }

    /// Adds a VM at the end of a group.
    ///
    /// # Errors
    /// Returns an error when there is no such group, or a VM of that name exists already.
    pub async fn add_vm(&self, group: &str, vm: VmSpec) -> Result<(), ChangeError> {
        let missing = || Refused::NoSuchGroup(group.to_owned());
        let group = GroupName::new(group).map_err(|_| missing())?;
        self.change(Change::AddVm { group, vm: Box::new(vm) }).await.map(drop)
    }

    /// Stops a VM and removes it. Returns when that is under way.
    ///
    /// # Errors
    /// Returns an error when there is no such VM.
    pub async fn remove_vm(&self, vm: &str) -> Result<(), ChangeError> {
        let vm = name(vm)?;
        self.change(Change::RemoveVm(vm)).await.map(drop)
    }

    /// Applies a new specification, as a whole. Policies, budgets, timeouts and probes apply at once and keep their
    /// counters. VMs whose machine, command or environment differ run on and are marked `needs_restart`; with `restart`
    /// they are restarted once. New groups and VMs are started in order, removed ones are stopped.
    ///
    /// # Errors
    /// Returns an error when the specification contradicts itself, or changes a key that only a new start of the
    /// supervisor can change; then no part of it applies.
    pub async fn reload(&self, spec: TreeSpec, restart: bool) -> Result<Plan, ChangeError> {
        self.change(Change::Reload { spec: Box::new(spec), restart, removal: Removal::Allowed }).await
    }

    /// Applies a new specification as [`Tree::reload`] does, unless it removes all VMs or more than half of them: a file
    /// that was cut off half-way looks like that. An event tells of the refusal (semantics 11.8).
    ///
    /// # Errors
    /// Returns the errors of [`Tree::reload`], and [`ChangeError::Removal`].
    pub async fn reload_with_care(&self, spec: TreeSpec, restart: bool) -> Result<Plan, ChangeError> {
        let change = Change::Reload { spec: Box::new(spec), restart, removal: Removal::OfFew };
        let done = self.change(change).await;
        if let Err(refused @ ChangeError::Removal(_)) = &done {
            self.notice(format!("a reload was refused: {refused}"));
        }
        done
    }

    /// Returns the changes that [`Tree::reload`] would make.
    ///
    /// # Errors
    /// Returns the errors of [`Tree::reload`].
    pub async fn plan(&self, spec: TreeSpec) -> Result<Plan, ChangeError> {
        let old = self.shared_spec().await.ok_or(Refused::Stopping)?;
        let change = Change::Reload { spec: Box::new(spec), restart: false, removal: Removal::Allowed };
        self.settle().await;
        let status = self.status();
        let new = change.apply(&old, &status, self.inner.runner.run_dir())?;
        Ok(change::plan(&old, &new, &status))
    }

    /// Stops all VMs in reverse start order; after the specification's `shutdown_timeout` the rest is destroyed.
    /// Returns when no process, socket or run directory of the tree is left. May be called again; dropping the future
    /// does not cancel the stop.
    pub async fn stop(&self) -> TreeEnd {
        self.tell_root(RootMsg::Stop);
        self.wait().await
    }

    /// Kills all VMs at once, in no order.
    pub async fn destroy(&self) -> TreeEnd {
        self.tell_root(RootMsg::Destroy);
        self.wait().await
    }

    /// Ends the supervision and leaves the VMs running: the next run with the same name and `state_dir` adopts them.
    pub async fn leave(&self) -> TreeEnd {
        self.tell_root(RootMsg::Leave);
        self.wait().await
    }

    /// Waits until the tree has ended, and returns how.
    pub async fn wait(&self) -> TreeEnd {
        let mut end = self.inner.end.clone();
        let ended = end.wait_for(Option::is_some).await;
        let lost = || TreeEnd::Failed { reason: "the runtime ended".into() };
        ended.ok().and_then(|end| end.clone()).unwrap_or_else(lost)
    }

    /// Returns the root actor, for tests of the consequences of failed actors.
    #[cfg(feature = "test-hooks")]
    pub fn root(&self) -> ActorCell {
        self.inner.root.get_cell()
    }

    /// Publishes a notice for the host.
    pub(crate) fn notice(&self, text: String) {
        self.inner.bus.tell(None, EventKind::Notice { vm: None, text });
    }

    /// Returns the runner of the launcher's calls for this tree.
    pub(crate) fn runner(&self) -> &Runner {
        &self.inner.runner
    }

    async fn change(&self, change: Change) -> Result<Plan, ChangeError> {
        if let Change::Reload { .. } = change {
            self.settle().await;
        }
        let answer = self.ask_root(|reply| RootMsg::Change { change, reply }).await;
        answer.unwrap_or_else(|| Err(self.unanswered().into()))
    }

    /// Waits until the groups have done what they were told before, such as an earlier reload, so that the status shows
    /// it. A group that hangs is not waited for.
    async fn settle(&self) {
        let _ = tokio::time::timeout(SETTLED, self.responds()).await;
    }

    async fn request(
        &self,
        vm: &str,
        request: impl FnOnce(Reply<Result<(), Refused>>) -> VmRequest,
    ) -> Result<(), Refused> {
        let vm = name(vm)?;
        self.answered(self.ask_root(|reply| RootMsg::Forward { vm, request: request(reply) }).await)
    }

    fn answered(&self, answer: Option<Result<(), Refused>>) -> Result<(), Refused> {
        answer.unwrap_or_else(|| Err(self.unanswered()))
    }

    /// Returns the reason why a question was dropped: the tree has ended, or the actor of the group has just failed.
    fn unanswered(&self) -> Refused {
        if self.inner.end.borrow().is_some() {
            return Refused::Stopping;
        }
        Refused::Failed("the supervisor of its group has just failed and is replaced; try again".into())
    }

    async fn ask_root<T: Send + 'static>(&self, msg: impl FnOnce(Reply<T>) -> RootMsg) -> Option<T> {
        let (reply, answer) = Reply::channel();
        self.tell_root(msg(reply));
        answer.await.ok().flatten()
    }

    fn tell_root(&self, msg: RootMsg) {
        // A root that has ended drops the message together with its reply, which answers the question.
        drop(self.inner.root.cast(msg));
    }
}

fn name(vm: &str) -> Result<VmName, Refused> {
    VmName::new(vm).map_err(|_| Refused::NoSuchVm(vm.to_owned()))
}
