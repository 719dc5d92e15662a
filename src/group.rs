//! The actor of a group: owns the VM actors of one group. The actor only translates: messages become questions to the
//! [`Roster`], and the orders of the roster become effects. The actor itself decides nothing.

#![warn(clippy::wildcard_enum_match_arm)]

mod actors;
mod found;
mod inventory;
mod machine;
mod message;
mod order;
mod ports;
mod standby;
mod status;

pub use crate::policy::{At, GroupEnd};
pub use crate::ports::PortNews;
pub use machine::Roster;
pub use message::{AllRespond, AskError, Goal, GroupEvent, GroupMsg, GroupReport, InitialState, VmRequest};
pub use order::{Command, Found, FoundSpare, Order, Refused, SpareView, VmView};

use crate::actor::{Alarm, LostChild, now};
use crate::cid::CidMsg;
use crate::executor::{ExecutorError, ExecutorMsg};
use crate::journal::Journal;
use crate::observe::{Bus, Change, EventKind, ProbeStatus, StatusTable, VmPhase};
use crate::policy::Ending;
use crate::reply::Reply;
use crate::spec::{GroupName, GroupSpec, Incarnation, VmName};
use crate::vm::{Facts, Mode, Services, Vm, VmArgs, VmEvent, VmMsg};
use actors::Actors;
use inventory::Inventory;
use pepita_wire::record::{CallErrorKind, Timings};
use ractor::{Actor, ActorProcessingErr, ActorRef, DerivedActorRef, SupervisionEvent};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The actor of one group. The actor lives as long as the group is configured, also while the group is down.
#[derive(Debug)]
pub struct Group;

/// The parts of a tree that all its groups share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The actors that VM actors use.
    pub services: Services,
    /// The memory that outlives the group's actor.
    pub journal: Journal,
    /// The bus that takes the events.
    pub bus: Bus,
    /// The table that takes the status.
    pub status_table: StatusTable,
}

/// The arguments with which a group's actor is spawned.
#[derive(Debug)]
pub struct GroupArgs {
    /// The specification of the group.
    pub spec: GroupSpec,
    /// The group's slot in the status table.
    pub slot: usize,
    /// The number of this actor among all actors of groups; its reports carry it.
    pub epoch: u64,
    /// The first task of the actor.
    pub initial: InitialState,
    /// How the group ended, when it is down and its former actor has failed.
    pub ended: Option<GroupEnd>,
    /// The parts that all groups share.
    pub shared: Shared,
    /// The root actor, which takes the reports of the group.
    pub report: DerivedActorRef<GroupReport>,
}

/// The memory of the actor.
pub struct GroupState {
    roster: Roster,
    actors: Actors,
    /// The CID and the VMM process of each VM, as the VM actors have reported them.
    facts: BTreeMap<VmName, Facts>,
    /// The newest result of the probes of the newest incarnation of each VM.
    probes: BTreeMap<VmName, ProbeStatus>,
    /// The parts of the start of each VM that is about to be told to be Ready.
    timings: BTreeMap<VmName, Box<Timings>>,
    shared: Shared,
    slot: usize,
    epoch: u64,
    report: DerivedActorRef<GroupReport>,
    /// The inventory under way.
    inventory: Option<Inventory>,
    alarm: Alarm,
}

/// Returns the newest incarnations of these VMs, as far as they had any.
fn known<'v>(journal: &Journal, vms: impl Iterator<Item = &'v VmName>) -> Vec<(VmName, Incarnation)> {
    let newest = vms.map(|vm| (vm.clone(), journal.newest(vm)));
    newest.filter(|(_, incarnation)| *incarnation != Incarnation::default()).collect()
}

impl Actor for Group {
    type Msg = GroupMsg;
    type State = GroupState;
    type Arguments = GroupArgs;

    async fn pre_start(
        &self,
        me: ActorRef<GroupMsg>,
        args: GroupArgs,
    ) -> Result<GroupState, ActorProcessingErr> {
        // Only the group's own VMs: a VM that comes from another group later has released its CID there.
        let own = || args.spec.vms.iter().map(|vm| &vm.name);
        let held = own().filter_map(|vm| Some((vm.clone(), args.shared.journal.cid(vm)?)));
        let facts = held.map(|(vm, cid)| (vm, Facts { cid: Some(cid), ..Facts::default() })).collect();
        let memory = args.shared.journal.remembered_of(own());
        let known = known(&args.shared.journal, own().filter(|vm| !memory.contains_key(vm)));
        let mut roster = match args.ended {
            Some(end) => Roster::ended(args.spec, &memory, end),
            None => Roster::new(args.spec, &memory),
        };
        roster.restore_incarnations(known);
        let mut state = GroupState {
            roster,
            actors: Actors::default(),
            facts,
            probes: BTreeMap::new(),
            timings: BTreeMap::new(),
            shared: args.shared,
            slot: args.slot,
            epoch: args.epoch,
            report: args.report,
            inventory: None,
            alarm: Alarm::default(),
        };
        match args.initial {
            InitialState::Found { vms, spares } => state.adopt(&me, vms, spares).await,
            InitialState::Unknown(goal) => state.take_inventory(&me, goal),
        }
        state.publish_status();
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<GroupMsg>,
        msg: GroupMsg,
        state: &mut GroupState,
    ) -> Result<(), ActorProcessingErr> {
        match (&mut state.inventory, msg) {
            #[cfg(feature = "test-hooks")]
            (_, GroupMsg::Panic) => panic!("told to panic"),
            // Also during an inventory.
            (_, GroupMsg::Respond(all)) => drop(all),
            (Some(inventory), GroupMsg::Inspected { vm, record }) => {
                inventory.record(&state.roster, &state.shared.journal, &vm, record);
            }
            // No decision is made before the inventory is complete.
            (Some(inventory), msg) => inventory.held.push(msg),
            (None, msg) => state.take_in(&me, msg).await,
        }
        if let Some(inventory) = state.inventory.take_if(|inventory| inventory.is_complete()) {
            state.inventory_taken(&me, inventory).await;
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<GroupMsg>,
        event: SupervisionEvent,
        state: &mut GroupState,
    ) -> Result<(), ActorProcessingErr> {
        let Some(LostChild { id, why }) = LostChild::of(event) else { return Ok(()) };
        // ractor delivers this event before messages that were sent earlier: the last report of the actor may still be
        // in the mailbox. So the group sends the event to itself, behind that report. If the report says that the VM
        // has ended, the end of the actor has no further meaning.
        if let Some((vm, epoch)) = state.actors.remove(id) {
            me.cast(GroupMsg::VmActorGone { vm, epoch, why })?;
        }
        Ok(())
    }
}

/// Returns the time by the runtime's clock, which a test can control, and a random number.
fn at() -> At {
    At { now: now(), draw: fastrand::f64() }
}

impl GroupState {
    async fn take_in(&mut self, me: &ActorRef<GroupMsg>, msg: GroupMsg) {
        let orders = match msg {
            GroupMsg::Start => self.roster.start(at()),
            GroupMsg::StartAfresh => self.roster.start_afresh(at()),
            GroupMsg::Stop => self.roster.stop(at()),
            GroupMsg::Kill => self.roster.kill(at()),
            GroupMsg::Remove => return self.remove(me).await,
            GroupMsg::Command { vm, command, reply } => match self.roster.command(at(), &vm, command) {
                Ok(orders) => {
                    self.carry_out(me, orders).await;
                    // The wish of the operator is on the disk before the operator is told that the command is accepted.
                    return self.shared.journal.written().then(move || reply.send(Ok(())));
                }
                Err(refused) => return reply.send(Err(refused)),
            },
            GroupMsg::Forward { vm, request: VmRequest::Signal { signal, reply } }
                if signal.asks_to_end() && self.is_coming_up(&vm) =>
            {
                // There is no daemon that could end by itself, so the signal is a stop (semantics 7.15).
                let stop = GroupMsg::Command { vm, command: Command::Stop, reply };
                return Box::pin(self.take_in(me, stop)).await;
            }
            GroupMsg::Forward { vm, request } => return self.forward(&vm, request),
            GroupMsg::Reload { spec, slot, restart } => {
                if slot != self.slot {
                    self.shared.status_table.remove(std::mem::replace(&mut self.slot, slot));
                }
                let names = spec.vms.iter().map(|vm| &vm.name);
                self.roster.restore_incarnations(known(&self.shared.journal, names));
                self.roster.reload(at(), *spec, restart)
            }
            GroupMsg::Vm(report) => self.reported(report),
            GroupMsg::VmActorGone { vm, epoch, .. } if self.roster.spare_of(&vm, epoch).is_some() => {
                self.roster.spare_actor_failed(at(), &vm, epoch)
            }
            GroupMsg::VmActorGone { vm, epoch, why } => self.roster.actor_failed(at(), &vm, epoch, &why),
            GroupMsg::Port { vm, news: PortNews::ClientCame } => self.roster.client_came(at(), &vm),
            GroupMsg::Port { vm, news: PortNews::NotListening(text) } => {
                return self.tell(EventKind::Notice { vm: Some(vm), text });
            }
            GroupMsg::Tick(due) => {
                self.alarm.rang(due);
                self.roster.tick(at())
            }
            // Expected only during an inventory, or by a test; see `handle`.
            GroupMsg::Inspected { .. } | GroupMsg::Respond(_) => return,
            #[cfg(feature = "test-hooks")]
            GroupMsg::Panic => return,
        };
        self.carry_out(me, orders).await;
    }

    /// Takes over the VMs that are to go on running: a group that waits does not leave its VMs unwatched.
    async fn adopt(
        &mut self,
        me: &ActorRef<GroupMsg>,
        vms: BTreeMap<VmName, Found>,
        spares: Vec<FoundSpare>,
    ) {
        let orders = self.roster.adopt(at(), vms);
        self.carry_out(me, orders).await;
        let orders = self.roster.adopt_spares(at(), spares);
        self.carry_out(me, orders).await;
        self.settle_what_is_down();
    }

    /// Pursues the goal of a complete inventory, then handles the messages that came meanwhile.
    async fn inventory_taken(&mut self, me: &ActorRef<GroupMsg>, inventory: Inventory) {
        for vm in &inventory.traces {
            self.remove_traces(vm);
        }
        let orders = match inventory.goal {
            Goal::Wait => self.roster.adopt(at(), inventory.found),
            Goal::Up => self.roster.resume(at(), &inventory.found),
            Goal::Down => self.roster.adopt_and_stop(at(), &inventory.found),
        };
        self.carry_out(me, orders).await;
        let orders = self.roster.adopt_spares(at(), inventory.spares);
        self.carry_out(me, orders).await;
        self.settle_what_is_down();
        for msg in inventory.held {
            self.take_in(me, msg).await;
        }
    }

    fn reported(&mut self, report: crate::vm::VmReport) -> Vec<Order> {
        if let Some(of) = self.roster.spare_of(&report.vm, report.epoch).cloned() {
            return self.spare_reported(of, report);
        }
        let is_known = self.roster.epoch(&report.vm) == Some(report.epoch);
        let report = if is_known { Some(report) } else { self.as_promoted(report) };
        let Some(crate::vm::VmReport { vm, epoch, event }) = report else { return Vec::new() };
        match event {
            VmEvent::Transition(transition) => return self.roster.transition(at(), &vm, epoch, transition),
            VmEvent::Ended(ending) => {
                let incarnation = self.roster.view(&vm).map_or(Incarnation(0), |view| view.incarnation);
                if let Some(facts) = self.facts.get_mut(&vm) {
                    *facts = Facts { cid: facts.cid, ..Facts::default() };
                }
                let orders = self.roster.vm_ended(at(), &vm, epoch, ending);
                self.shared.journal.save_end(&vm, incarnation);
                return orders;
            }
            VmEvent::Facts(facts) => {
                self.shared.journal.save_cid(&vm, facts.cid);
                self.facts.insert(vm, facts);
            }
            VmEvent::Probed(probe) => drop(self.probes.insert(vm, probe)),
            VmEvent::Timings(timings) => drop(self.timings.insert(vm, timings)),
            VmEvent::Notice(text) => self.tell(EventKind::Notice { vm: Some(vm), text }),
        }
        Vec::new()
    }

    async fn carry_out(&mut self, me: &ActorRef<GroupMsg>, orders: Vec<Order>) {
        self.settle_ports(me, &orders);
        // A reader that is told of a change finds it in the status.
        self.publish_status();
        for order in orders {
            match order {
                Order::Save(vm) => self.save(&vm),
                Order::Spawn { vm, incarnation, epoch, mode } => {
                    Box::pin(self.spawn(me, vm, incarnation, epoch, mode)).await;
                }
                Order::SpawnSpare { spare, of, epoch, mode } => {
                    Box::pin(self.spawn_spare(me, spare, &of, epoch, mode)).await;
                }
                Order::EndSpare { spare, epoch } => self.actors.send(&spare, epoch, VmMsg::Kill),
                Order::Promote { spare, vm, incarnation, epoch } => {
                    self.promote(spare, vm, incarnation, epoch)
                }
                Order::ForgetSpare(spare) => self.forget_spare(spare),
                Order::Stop { vm, epoch } => self.actors.send(&vm, epoch, VmMsg::Stop),
                Order::Kill { vm, epoch } => self.actors.send(&vm, epoch, VmMsg::Kill),
                Order::Sleep { vm, epoch } => self.actors.send(&vm, epoch, VmMsg::Sleep),
                Order::Wake { vm, epoch } => self.actors.send(&vm, epoch, VmMsg::Wake),
                Order::Update(vm) => {
                    if let Some(spec) = self.roster.vm(&vm) {
                        self.actors.send_to_owner(&vm, VmMsg::Update(Arc::clone(spec)));
                    }
                }
                // The ports are settled before anything is told.
                Order::AwaitClient(_) => {}
                Order::Release(vm) => self.release(vm),
                Order::Remove(vm) => {
                    // The removal stands behind every call that is still under way, and before the launch of a VM of
                    // the same name.
                    self.remove_traces(&vm);
                    self.shared.journal.remove(&vm);
                    self.facts.remove(&vm);
                    self.probes.remove(&vm);
                    self.timings.remove(&vm);
                }
                Order::Tell(change) => {
                    let change = self.explained(change);
                    self.tell(EventKind::Vm(change));
                }
                Order::GroupReady => {
                    self.tell(EventKind::GroupReady);
                    self.report(GroupEvent::Ready);
                }
                Order::BroughtBack => self.report(GroupEvent::Up),
                Order::End(end) => {
                    self.tell(EventKind::GroupEnded(end.clone()));
                    self.report(GroupEvent::Ended(end));
                }
            }
        }
        self.alarm.set(me, self.roster.wake_at(), GroupMsg::Tick);
    }

    /// Adds to a change that follows from failed probes what the last one has said, and to a start that has come to its end
    /// how long its parts took.
    fn explained(&mut self, change: Change) -> Change {
        let is_about_probes = change.to == VmPhase::Unhealthy
            || matches!(change.ending, Some(Ending::Unhealthy | Ending::StartTimeout));
        let failed = self.probes.get(&change.vm).filter(|probe| is_about_probes && !probe.healthy);
        let probe = failed.map(|probe| probe.text.as_str().into());
        // Any other change than that to Running ends the start, or is none of it.
        let timings = if change.to == VmPhase::Running { None } else { self.timings.remove(&change.vm) };
        let timings = timings.filter(|_| change.to == VmPhase::Ready);
        Change { probe, timings, ..change }
    }

    fn save(&self, vm: &VmName) {
        let (Some(remembered), Some(spec), Some(view)) =
            (self.roster.remember(vm), self.roster.vm(vm), self.roster.view(vm))
        else {
            return;
        };
        let config = (!view.needs_restart).then(|| spec.fingerprint());
        self.shared.journal.save(vm, &remembered, config.as_deref());
    }

    async fn spawn(
        &mut self,
        me: &ActorRef<GroupMsg>,
        vm: VmName,
        incarnation: Incarnation,
        epoch: u64,
        mode: Mode,
    ) {
        let Some(spec) = self.roster.vm(&vm).cloned() else { return };
        self.probes.remove(&vm);
        let services = self.shared.services.clone();
        // The incarnation is on the disk before the VM is launched.
        let written = self.shared.journal.written();
        let args = VmArgs {
            spec,
            spare_of: None,
            incarnation,
            epoch,
            mode,
            services,
            written,
            report: me.get_derived(),
        };
        // The VM actor's `pre_start` only sends itself a message, so that the wait is short.
        match Actor::spawn_linked(None, Vm, args, me.get_cell()).await {
            Ok((actor, _)) => self.actors.insert(&vm, epoch, actor),
            // An error means only that this actor is about to end.
            Err(e) => drop(me.cast(GroupMsg::VmActorGone { vm, epoch, why: e.to_string() })),
        }
    }

    /// Gives back the CID of a VM that is down for good.
    fn release(&mut self, vm: VmName) {
        self.shared.journal.save_cid(&vm, None);
        if self.facts.remove(&vm).is_some() {
            self.publish_status();
        }
        self.shared.services.cids.send(CidMsg::Release(vm));
    }

    fn remove_traces(&self, vm: &VmName) {
        let reply = Reply::ignored();
        self.shared.services.executor.send(ExecutorMsg::Destroy { vm: vm.clone(), reply });
    }

    async fn remove(&mut self, me: &ActorRef<GroupMsg>) {
        for vm in self.roster.names() {
            self.shared.services.ports.close(&vm);
            self.release(vm.clone());
            self.remove_traces(&vm);
            self.shared.journal.remove(&vm);
        }
        self.shared.status_table.remove(self.slot);
        me.stop(None);
    }

    /// Asks the launcher about every VM of the group.
    fn take_inventory(&mut self, me: &ActorRef<GroupMsg>, goal: Goal) {
        let mut vms = self.roster.names();
        let spares = vms.iter().filter_map(|vm| self.roster.vm(vm)).filter(|spec| spec.standby > 0);
        let spares: Vec<VmName> = spares.flat_map(|spec| spec.slots()).collect();
        vms.extend(spares);
        for vm in &vms {
            let (me, name) = (me.clone(), vm.clone());
            let reply = Reply::new(move |answer: Option<Result<_, ExecutorError>>| {
                let record = match answer.unwrap_or(Err(ExecutorError::Gone)) {
                    Ok(record) => Ok(Some(Box::new(record))),
                    Err(e) if e.kind() == Some(CallErrorKind::NoSuchVm) => Ok(None),
                    Err(e) => Err(e.to_string()),
                };
                // This actor may have failed meanwhile, too.
                let _ = me.cast(GroupMsg::Inspected { vm: name, record });
            });
            self.shared.services.executor.send(ExecutorMsg::Status { vm: vm.clone(), reply });
        }
        self.inventory = Some(Inventory::new(vms.into_iter().collect(), goal));
    }

    fn is_coming_up(&self, vm: &VmName) -> bool {
        self.roster.view(vm).is_some_and(|view| view.phase.is_coming_up())
    }

    fn forward(&self, vm: &VmName, request: VmRequest) {
        let Some(VmView { phase, .. }) = self.roster.view(vm) else {
            return request.refuse(Refused::NoSuchVm(vm.to_string()));
        };
        let may_take = match &request {
            // While the VM boots, the signal waits for the daemon (semantics 7.15).
            VmRequest::Signal { .. } => phase.is_live(),
            VmRequest::SetPaused { .. } | VmRequest::Ask { .. } => phase.has_daemon(),
        };
        if !may_take {
            return request.refuse(Refused::NotRunning { vm: vm.to_string(), phase: phase.word() });
        }
        // Whoever asks a guest that is asleep is a client, too.
        if let (VmPhase::Idle { .. }, VmRequest::Ask { .. }) = (&phase, &request) {
            self.actors.send_to_owner(vm, VmMsg::Wake);
        }
        self.actors.send_to_owner(vm, request.into());
    }

    fn tell(&self, kind: EventKind) {
        self.shared.bus.tell(Some(self.roster.name()), kind);
    }

    fn report(&self, event: GroupEvent) {
        // Without a root this actor is about to end, too.
        let _ = self.report.cast(GroupReport { group: self.name(), epoch: self.epoch, event });
    }

    fn name(&self) -> GroupName {
        self.roster.name().clone()
    }
}
