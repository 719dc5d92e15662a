//! The root actor: owns the groups and the actors that they all use. A translator: messages become questions to the
//! [`Schedule`], its steps become effects.

mod ending;
mod raise;

use super::change::Change;
use super::error::{ChangeError, Progress, TreeEnd};
use super::schedule::{Schedule, Step};
use super::survey::Survey;
use crate::actor::{Alarm, LostChild, Service, now};
use crate::cid::{CidAllocator, Ledger};
use crate::executor::{PepitaExecutor, Runner};
use crate::group::{
    At, Command, GroupEvent, GroupMsg, GroupReport, InitialState, Refused, Shared, VmRequest,
};
use crate::observe::EventKind;
use crate::reply::Reply;
use crate::spec::{GroupName, Plan, TreeSpec, VmName};
use crate::vm::Services;
use ending::Ending;
use pepita_wire::StatusRecord;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use raise::{Member, Who};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// What the root can be told.
#[derive(Debug)]
pub(crate) enum RootMsg {
    /// Start what may start.
    Begin,
    /// A group's report.
    Group(GroupReport),
    /// A group's actor is gone. Sent by the root to itself, behind all that the actor had reported.
    GroupGone { group: GroupName, epoch: u64, why: String },
    /// For the group of this VM.
    Command { vm: VmName, command: Command, reply: Reply<Result<(), Refused>> },
    /// For this VM, through its group.
    Forward { vm: VmName, request: VmRequest },
    /// Change the tree.
    Change { change: Change, reply: Reply<Result<Plan, ChangeError>> },
    /// What the tree is to be at the moment.
    Spec { reply: Reply<TreeSpec> },
    /// Stop everything in order.
    Stop,
    /// End everything at once.
    Destroy,
    /// End without touching the VMs.
    Leave,
    /// What is there, at the end of a stop.
    Listed(Result<Vec<StatusRecord>, String>),
    /// One of the last calls has come back; with what went wrong.
    Settled(Option<String>),
    /// Look once more whether everything is gone.
    Sweep,
    /// From the timer of its own for this moment.
    Tick(Instant),
}

/// The root.
#[derive(Debug)]
pub(crate) struct Root;

/// What it needs to know.
#[derive(Debug)]
pub(crate) struct RootArgs {
    pub(crate) spec: TreeSpec,
    pub(crate) survey: Survey,
    pub(crate) runner: Runner,
    pub(crate) home: Home,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) outcome: Outcome,
}

/// What the tree has before it has actors.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub(crate) journal: crate::journal::Journal,
    pub(crate) bus: crate::observe::Bus,
    pub(crate) status_table: crate::observe::StatusTable,
    pub(crate) sockets: Arc<dyn crate::vm::Sockets>,
}

/// Where the root leaves word of how the tree ended.
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

/// What it remembers.
pub(crate) struct RootState {
    spec: TreeSpec,
    schedule: Schedule,
    shared: Shared,
    runner: Runner,
    ledger: Ledger,
    groups: BTreeMap<GroupName, Member>,
    children: HashMap<ActorId, Who>,
    /// Slots of the status table and epochs of group actors are numbered, and no number is used twice.
    last_slot: usize,
    last_epoch: u64,
    progress: watch::Sender<Progress>,
    outcome: Outcome,
    ending: Option<Ending>,
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
        let RootArgs { spec, mut survey, runner, home, progress, outcome } = args;
        let ledger = Ledger::new(raise::pool(&spec.name, &survey.cids, &home));
        let (cids, _) = Actor::spawn_linked(None, CidAllocator, ledger.clone(), me.get_cell()).await?;
        let (calls, _) = Actor::spawn_linked(None, PepitaExecutor, runner.clone(), me.get_cell()).await?;
        let children = HashMap::from([(cids.get_id(), Who::Cids), (calls.get_id(), Who::Executor)]);
        let services = Services {
            executor: Service::new(calls),
            cids: Service::new(cids),
            sockets: home.sockets,
            owner: Arc::clone(runner.owner()),
        };
        let Home { journal, bus, status_table, .. } = home;
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
            ending: None,
            alarm: Alarm::default(),
            spec,
        };
        for group in state.spec.groups.clone() {
            let found = survey.found.remove(&group.name).unwrap_or_default();
            let slot = state.next_slot();
            state.raise(&me, group, slot, InitialState::Found(found), None).await?;
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
                steps = state.group_gone(&me, group, epoch, &why).await?;
            }
            // A group that is down already would come back, and nobody would take it down again.
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
            RootMsg::Spec { reply } => reply.send(state.spec.clone()),
            RootMsg::Stop => steps = state.schedule.stop(now),
            RootMsg::Destroy => steps = state.schedule.destroy(now),
            RootMsg::Leave => state.leave(&me),
            RootMsg::Listed(list) => state.listed(&me, list),
            RootMsg::Settled(problem) => state.settled(&me, problem),
            RootMsg::Sweep => state.sweep(&me),
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
            // At once: all groups wait for them.
            Some(Who::Cids) => state.replace_cids(&me, &why).await?,
            Some(Who::Executor) => state.replace_executor(&me, &why).await?,
            // Behind what it reported last; see the group's own handler.
            Some(Who::Group(group, epoch)) => me.cast(RootMsg::GroupGone { group, epoch, why })?,
            None => {}
        }
        Ok(())
    }
}

/// The clock of the runtime, so that tests can hold it; and chance.
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
        match msg {
            RootMsg::Group(report) => Ok(report),
            _ => Err(()),
        }
    }
}

impl RootState {
    fn reported(&mut self, report: GroupReport) -> Vec<Step> {
        if self.groups.get(&report.group).is_none_or(|member| member.epoch != report.epoch) {
            return Vec::new();
        }
        match report.event {
            GroupEvent::Up => self.schedule.brought_back(at().now, &report.group),
            GroupEvent::Ready => self.schedule.ready(at().now, &report.group),
            GroupEvent::Ended(end) => self.schedule.ended(at(), &report.group, end),
        }
    }

    /// Neither stopping nor about to leave.
    fn is_up(&self) -> bool {
        self.schedule.is_up() && self.ending.is_none()
    }

    fn group_of(&self, vm: &VmName) -> Option<&Member> {
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
        let new = match change.apply(&self.spec, &self.shared.status_table.snapshot()) {
            Ok(new) => new,
            Err(refused) => return Ok(Err(refused)),
        };
        let old = std::mem::replace(&mut self.spec, new);
        let mut last = 0;
        for spec in self.spec.groups.clone() {
            let unchanged = old.groups.contains(&spec);
            // The board shows the groups in the order of the specification: who stands in that order stays.
            let stands = self.groups.get(&spec.name).map(|member| member.slot).filter(|slot| *slot > last);
            let slot = stands.unwrap_or_else(|| self.next_slot());
            last = slot;
            match self.groups.get_mut(&spec.name) {
                Some(_) if unchanged && stands.is_some() && !restart => {}
                Some(member) => {
                    member.slot = slot;
                    member.tell(GroupMsg::Reload { spec: Box::new(spec), slot, restart });
                }
                None => self.raise(me, spec, slot, InitialState::Found(BTreeMap::new()), None).await?,
            }
        }
        Ok(Ok((old.diff(&self.spec), self.schedule.reload(at().now, &self.spec))))
    }

    fn carry_out(&mut self, me: &ActorRef<RootMsg>, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Start(group) => self.tell(&group, GroupMsg::Start),
                Step::StartAfresh(group) => self.tell(&group, GroupMsg::StartAfresh),
                Step::Stop(group) => self.tell(&group, GroupMsg::Stop),
                Step::Destroy(group) => self.tell(&group, GroupMsg::Destroy),
                Step::Discard(group) => {
                    if let Some(member) = self.groups.remove(&group) {
                        member.tell(GroupMsg::Discard);
                    }
                }
                Step::Tell(group, text) => {
                    self.shared.bus.tell(group.as_ref(), EventKind::Notice { vm: None, text });
                }
                Step::Ready => self.shared.bus.tell(None, EventKind::GroupReady),
                Step::Down(end) => self.end(me, end),
            }
        }
        let progress = if self.ending.is_some() { Progress::Ending } else { self.schedule.progress() };
        self.progress.send_if_modified(|shown| {
            let modified = *shown != progress;
            *shown = progress;
            modified
        });
        self.alarm.set(me, self.schedule.wake_at(), RootMsg::Tick);
    }

    /// One that has just failed does not hear it; its successor begins with what is to be done.
    fn tell(&self, group: &GroupName, msg: GroupMsg) {
        if let Some(member) = self.groups.get(group) {
            member.tell(msg);
        }
    }

    fn next_slot(&mut self) -> usize {
        self.last_slot += 1;
        self.last_slot
    }
}
