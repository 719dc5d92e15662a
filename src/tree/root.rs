//! The root actor: owns the groups and the actors that all groups use. The actor only translates: messages become
//! questions to the [`Schedule`] and, at the end, to the [`Shutdown`]; their answers become effects.

mod children;
mod spawn;

use super::change::{Change, GroupUpdate, group_updates, plan};
use super::error::{ChangeError, Progress, TreeEnd};
use super::limits::last_list_limit;
use super::recovery::held_cids;
use super::schedule::{Schedule, Step};
use super::shutdown::{Action, Shutdown};
use super::survey::Survey;
use super::unseparated::unseparated;
use crate::actor::{Alarm, LostChild, now};
use crate::cid::Ledger;
use crate::executor::{ExecutorError, ExecutorMsg, Runner};
use crate::group::{
    AllRespond, At, Command, GroupEvent, GroupMsg, GroupReport, InitialState, Refused, Shared, VmRequest,
};
use crate::journal::Journal;
use crate::observe::{Bus, EventKind, StatusTable};
use crate::reply::Reply;
use crate::spec::{GroupName, Plan, TreeSpec, VmName};
use crate::vm::{Services, Sockets};
use children::{ChildKind, GroupHandle, ServiceActors};
use pepita_wire::StatusRecord;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// A message to the root.
#[derive(Debug)]
pub(crate) enum RootMsg {
    /// Start the groups that may start.
    Begin,
    /// Take in a group's report.
    Group(GroupReport),
    /// A group's actor is gone. The root sends this to itself, behind all reports of that actor.
    GroupGone { group: GroupName, epoch: u64, why: String },
    /// Send a command for this VM to its group.
    Command { vm: VmName, command: Command, reply: Reply<Result<(), Refused>> },
    /// Forward a request to this VM, through its group.
    Forward { vm: VmName, request: VmRequest },
    /// Change the tree.
    Change { change: Change, reply: Reply<Result<Plan, ChangeError>> },
    /// Return the specification in force.
    Spec { reply: Reply<Arc<TreeSpec>> },
    /// Stop all VMs in order.
    Stop,
    /// Kill all VMs at once.
    Destroy,
    /// End without touching the VMs.
    Leave,
    /// The launcher's list, during the shutdown.
    Listed(Result<Vec<StatusRecord>, String>),
    /// A call that the shutdown waits for was answered, with the error if it failed.
    Answered(Option<String>),
    /// Ask for the launcher's list once more, during the shutdown.
    LookAgain,
    /// The time of the shutdown is over.
    ShutdownOverdue,
    /// Answer when this actor and the actors of all groups have come to this message.
    Respond(Reply<()>),
    /// The moment has come for which the root set its alarm.
    Tick(Instant),
}

/// The root actor.
#[derive(Debug)]
pub(crate) struct Root;

/// The arguments with which the root is spawned.
#[derive(Debug)]
pub(crate) struct RootArgs {
    pub(crate) spec: TreeSpec,
    pub(crate) survey: Survey,
    pub(crate) runner: Runner,
    pub(crate) sockets: Arc<dyn Sockets>,
    pub(crate) journal: Journal,
    pub(crate) bus: Bus,
    pub(crate) status_table: StatusTable,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) outcome: Outcome,
}

/// The place where the root records how the tree ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome(Arc<Mutex<Option<TreeEnd>>>);

impl Outcome {
    pub(crate) fn set(&self, end: TreeEnd) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }

    pub(crate) fn get(&self) -> Option<TreeEnd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The memory of the root.
pub(crate) struct RootState {
    spec: Arc<TreeSpec>,
    schedule: Schedule,
    shared: Shared,
    runner: Runner,
    ledger: Ledger,
    groups: BTreeMap<GroupName, GroupHandle>,
    children: HashMap<ActorId, ChildKind>,
    /// Slots of the status table and epochs of group actors are numbered, and no number is used twice.
    last_slot: usize,
    last_epoch: u64,
    progress: watch::Sender<Progress>,
    outcome: Outcome,
    /// Set once every group has ended its work.
    shutdown: Option<Shutdown>,
    alarm: Alarm,
}

impl Actor for Root {
    type Msg = RootMsg;
    type State = RootState;
    type Arguments = RootArgs;

    async fn pre_start(
        &self,
        me: ActorRef<RootMsg>,
        args: RootArgs,
    ) -> Result<RootState, ActorProcessingErr> {
        let RootArgs { spec, mut survey, runner, sockets, journal, bus, status_table, progress, outcome } =
            args;
        let (pool, conflicts) = held_cids(&spec.name, &survey.cids, journal.cids());
        for conflict in conflicts {
            tracing::warn!("{conflict}");
        }
        let ledger = Ledger::new(pool);
        let ServiceActors { cids, executor, children } =
            ServiceActors::spawn(&me.get_cell(), ledger.clone(), runner.clone()).await?;
        let services = Services {
            executor,
            cids,
            sockets,
            ports: runner.ports().clone(),
            owner: Arc::clone(runner.owner()),
            began: at().now,
        };
        let mut state = RootState {
            schedule: Schedule::new(&spec),
            shared: Shared { services, journal, bus, status_table },
            runner,
            ledger,
            groups: BTreeMap::new(),
            children,
            last_slot: 0,
            last_epoch: 0,
            progress,
            outcome,
            shutdown: None,
            alarm: Alarm::default(),
            spec: Arc::new(spec),
        };
        for group in state.spec.groups.clone() {
            let found = survey.found.remove(&group.name).unwrap_or_default();
            let spares = survey.spares.remove(&group.name).unwrap_or_default();
            let slot = state.next_slot();
            let initial = InitialState::Found { vms: found, spares };
            state.spawn_group(&me, group, slot, initial, None).await?;
        }
        me.cast(RootMsg::Begin)?;
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<RootMsg>,
        msg: RootMsg,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        let now = at().now;
        let mut steps = Vec::new();
        match msg {
            RootMsg::Begin => steps = state.schedule.tick(now),
            RootMsg::Tick(due) => {
                state.alarm.rang(due);
                steps = state.schedule.tick(now);
            }
            RootMsg::Group(report) => steps = state.reported(report),
            RootMsg::GroupGone { group, epoch, why } => {
                steps = state.recover_group(&me, group, epoch, &why).await?;
            }
            // A group that is down already would come back, and no further step would take it down again.
            RootMsg::Command { command, reply, .. } if command != Command::Stop && !state.is_up() => {
                reply.send(Err(Refused::Stopping));
            }
            RootMsg::Command { vm, command, reply } => match state.group_of(&vm) {
                Some(group) => group.tell(GroupMsg::Command { vm, command, reply }),
                None => reply.send(Err(Refused::NoSuchVm(vm.to_string()))),
            },
            RootMsg::Forward { vm, request } => match state.group_of(&vm) {
                Some(group) => group.tell(GroupMsg::Forward { vm, request }),
                None => request.refuse(Refused::NoSuchVm(vm.to_string())),
            },
            RootMsg::Change { change, reply } => match state.change(&me, change).await? {
                Ok((plan, todo)) => {
                    reply.send(Ok(plan));
                    steps = todo;
                }
                Err(refused) => reply.send(Err(refused)),
            },
            RootMsg::Spec { reply } => reply.send(Arc::clone(&state.spec)),
            RootMsg::Stop => steps = state.schedule.stop(now),
            RootMsg::Destroy => steps = state.schedule.destroy(now),
            RootMsg::Leave => state.leave(&me),
            RootMsg::Listed(list) => state.shut_down(&me, |shutdown| shutdown.listed(list)),
            RootMsg::Answered(problem) => state.shut_down(&me, |shutdown| shutdown.answered(problem)),
            RootMsg::LookAgain => state.shut_down(&me, Shutdown::look_again),
            RootMsg::ShutdownOverdue => state.shut_down(&me, Shutdown::overdue),
            RootMsg::Respond(reply) => {
                let all = AllRespond::new(reply);
                for group in state.groups.values() {
                    group.tell(GroupMsg::Respond(all.clone()));
                }
            }
        }
        state.carry_out(&me, steps);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        let Some(LostChild { id, why }) = LostChild::of(event) else { return Ok(()) };
        match state.children.remove(&id) {
            // These two are replaced at once: all groups wait for them.
            Some(ChildKind::Cids) => state.replace_cids(&me, &why).await?,
            Some(ChildKind::Executor) => state.replace_executor(&me, &why).await?,
            // The event goes behind the last report of the group: ractor delivers it before messages that were sent
            // earlier.
            Some(ChildKind::Group { name, epoch }) => {
                me.cast(RootMsg::GroupGone { group: name, epoch, why })?;
            }
            None => {}
        }
        Ok(())
    }
}

/// Returns the time by the runtime's clock, and a random number.
fn at() -> At {
    At { now: now(), draw: fastrand::f64() }
}

impl From<GroupReport> for RootMsg {
    fn from(report: GroupReport) -> Self {
        Self::Group(report)
    }
}

impl TryFrom<RootMsg> for GroupReport {
    type Error = ();
    fn try_from(msg: RootMsg) -> Result<Self, ()> {
        if let RootMsg::Group(report) = msg { Ok(report) } else { Err(()) }
    }
}

impl RootState {
    fn reported(&mut self, report: GroupReport) -> Vec<Step> {
        if self.groups.get(&report.group).is_none_or(|group| group.epoch != report.epoch) {
            return Vec::new();
        }
        match report.event {
            GroupEvent::Up => self.schedule.brought_back(at().now, &report.group),
            GroupEvent::Ready => self.schedule.ready(at().now, &report.group),
            GroupEvent::Ended(end) => self.schedule.ended(at(), &report.group, end),
        }
    }

    /// Returns whether the tree is neither stopping nor about to leave.
    fn is_up(&self) -> bool {
        self.schedule.is_up() && self.shutdown.is_none()
    }

    fn group_of(&self, vm: &VmName) -> Option<&GroupHandle> {
        let spec = self.spec.groups.iter().find(|group| group.vms.iter().any(|known| known.name == *vm))?;
        self.groups.get(&spec.name)
    }

    /// Applies a change as a whole, or not at all. The outer error is an actor that could not be spawned.
    async fn change(
        &mut self,
        me: &ActorRef<RootMsg>,
        change: Change,
    ) -> Result<Result<(Plan, Vec<Step>), ChangeError>, ActorProcessingErr> {
        if !self.is_up() {
            return Ok(Err(Refused::Stopping.into()));
        }
        let restart = matches!(change, Change::Reload { restart: true, .. });
        let status = self.shared.status_table.snapshot();
        let new = match change.apply(&self.spec, &status, self.runner.run_dir()) {
            Ok(new) => new,
            Err(refused) => return Ok(Err(refused)),
        };
        let old = std::mem::replace(&mut self.spec, Arc::new(new));
        let slots = self.groups.iter().map(|(name, group)| (name.clone(), group.slot)).collect();
        for update in group_updates(&old, &self.spec, restart, &slots, &mut self.last_slot) {
            match update {
                GroupUpdate::Reload { spec, slot } => {
                    if let Some(group) = self.groups.get_mut(&spec.name) {
                        group.slot = slot;
                        group.tell(GroupMsg::Reload { spec: Box::new(spec), slot, restart });
                    }
                }
                GroupUpdate::Spawn { spec, slot } => {
                    let initial = InitialState::Found { vms: BTreeMap::new(), spares: Vec::new() };
                    self.spawn_group(me, spec, slot, initial, None).await?;
                }
            }
        }
        if let Some(text) = unseparated(Some(&old), &self.spec) {
            self.shared.bus.tell(None, EventKind::Notice { vm: None, text });
        }
        Ok(Ok((plan(&old, &self.spec, &status), self.schedule.reload(at().now, &self.spec))))
    }

    fn carry_out(&mut self, me: &ActorRef<RootMsg>, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Start(group) => self.tell(&group, GroupMsg::Start),
                Step::StartAfresh(group) => self.tell(&group, GroupMsg::StartAfresh),
                Step::Stop(group) => self.tell(&group, GroupMsg::Stop),
                Step::Destroy(group) => self.tell(&group, GroupMsg::Kill),
                Step::Remove(group) => {
                    if let Some(group) = self.groups.remove(&group) {
                        group.tell(GroupMsg::Remove);
                    }
                }
                Step::Tell(group, text) => {
                    self.shared.bus.tell(group.as_ref(), EventKind::Notice { vm: None, text });
                }
                Step::Ready => self.shared.bus.tell(None, EventKind::GroupReady),
                Step::Down(end) => {
                    let (shutdown, actions) = Shutdown::after_stop(end, Arc::clone(self.runner.owner()));
                    self.shutdown = Some(shutdown);
                    me.send_after(last_list_limit(&self.spec), || RootMsg::ShutdownOverdue);
                    self.act(me, actions);
                }
            }
        }
        let progress = if self.shutdown.is_some() { Progress::Ending } else { self.schedule.progress() };
        self.progress.send_if_modified(|shown| {
            let modified = *shown != progress;
            *shown = progress;
            modified
        });
        self.alarm.set(me, self.schedule.wake_at(), RootMsg::Tick);
    }

    /// Leaves the VMs alone, and ends the actors: from here on no VM is launched, stopped or destroyed.
    fn leave(&mut self, me: &ActorRef<RootMsg>) {
        if self.shutdown.is_some() {
            return;
        }
        // The VM actors end together with their groups.
        for group in self.groups.values() {
            group.actor.kill();
        }
        self.runner.leave_ports();
        let owner = Arc::clone(self.runner.owner());
        let (shutdown, actions) = Shutdown::before_leaving(&self.shared.status_table.snapshot(), owner);
        self.shutdown = Some(shutdown);
        me.send_after(self.spec.shutdown_timeout, || RootMsg::ShutdownOverdue);
        self.progress.send_replace(Progress::Ending);
        self.act(me, actions);
    }

    /// Asks the shutdown, if one is under way, for the next steps.
    fn shut_down(&mut self, me: &ActorRef<RootMsg>, ask: impl FnOnce(&mut Shutdown) -> Vec<Action>) {
        if let Some(actions) = self.shutdown.as_mut().map(ask) {
            self.act(me, actions);
        }
    }

    fn act(&mut self, me: &ActorRef<RootMsg>, actions: Vec<Action>) {
        for action in actions {
            // The root may have failed when an answer comes.
            let me = me.clone();
            match action {
                Action::List => {
                    let reply = Reply::new(move |list: Option<Result<_, ExecutorError>>| {
                        let list = list.unwrap_or(Err(ExecutorError::Gone)).map_err(|e| e.to_string());
                        drop(me.cast(RootMsg::Listed(list)));
                    });
                    self.shared.services.executor.send(ExecutorMsg::List { reply });
                }
                Action::Destroy(vm) => {
                    let name = vm.clone();
                    let reply = Reply::new(move |done: Option<Result<(), ExecutorError>>| {
                        let done = done.unwrap_or(Err(ExecutorError::Gone));
                        let problem = done.err().map(|e| format!("{name}: cannot be destroyed: {e}"));
                        drop(me.cast(RootMsg::Answered(problem)));
                    });
                    self.shared.services.executor.send(ExecutorMsg::Destroy { vm, reply });
                }
                Action::AwaitCalls(vm) => {
                    // Calls about one VM are made one after the other: this call is answered last.
                    let reply = Reply::new(move |_: Option<_>| drop(me.cast(RootMsg::Answered(None))));
                    self.shared.services.executor.send(ExecutorMsg::Status { vm, reply });
                }
                Action::LookAgain(after) => drop(me.send_after(after, || RootMsg::LookAgain)),
                Action::Tell(text) => self.shared.bus.tell(None, EventKind::Notice { vm: None, text }),
                Action::Finish(end) => {
                    let failed = matches!(end, TreeEnd::Failed { .. });
                    self.shared.bus.tell(None, EventKind::TreeEnded { reason: end.to_string(), failed });
                    self.outcome.set(end);
                    me.stop(None);
                }
            }
        }
    }

    /// Sends a group a message. An actor that has just failed does not receive the message; its successor begins with
    /// the work that is to be done.
    fn tell(&self, group: &GroupName, msg: GroupMsg) {
        if let Some(group) = self.groups.get(group) {
            group.tell(msg);
        }
    }

    fn next_slot(&mut self) -> usize {
        self.last_slot += 1;
        self.last_slot
    }
}
