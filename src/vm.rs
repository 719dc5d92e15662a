//! The VM actor: owns one incarnation of a microVM. Only translates: messages become events of [`phase::Life`], which
//! decides, and its effects become messages and requests.

mod asleep;
mod drowsiness;
mod guest;
mod health;
mod phase;
pub(crate) mod probe;
mod promotion;
mod report;
mod services;

pub use report::{Facts, Mode, Promotion, Transition, VmEvent, VmReport};
pub use services::{HostSockets, Services, Sockets};

use crate::actor::{Alarm, LostChild, now};
use crate::cid::{CidMsg, LeaseError};
use crate::executor::{ExecutorError, ExecutorMsg, Launch, LaunchSteps, is_short};
use crate::link::dial::Guests;
use crate::link::{self, LinkMsg};
use crate::monitor_client::{MonitorReport, Watch};
use crate::policy::Ending;
use crate::reply::Reply;
use crate::spec::{Cid, Incarnation, Signal, VmName, VmSpec};
use crate::store::Written;
use guest::{AgentPlace, Guest};
use pepita_wire::{Ask, ErrorKind, MonitorRequest, Outcome, StatusRecord, WireError, rundir};
use phase::{Effect, Event, Life};
use probe::Answer;
use ractor::{Actor, ActorProcessingErr, ActorRef, DerivedActorRef, SupervisionEvent};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number of signals that wait for the monitor of a VM.
const PENDING_SIGNALS: usize = 64;

/// A message to a VM actor.
#[derive(Debug)]
pub enum VmMsg {
    /// Stop the VM: the stop signal, the grace, and then a kill (semantics 7.1).
    Stop,
    /// Kill the VM at once.
    Kill,
    /// Put the VM to sleep, unless a client has come meanwhile.
    Sleep,
    /// Let the virtual CPUs of a VM run that is asleep.
    Wake,
    /// The VM is a spare, and takes the place of a VM from now on.
    Promote(Promotion),
    /// The configuration has changed in ways that apply to a running VM.
    Update(Arc<VmSpec>),
    /// Send the daemon a signal.
    Signal {
        /// The signal for the daemon.
        signal: Signal,
        /// Gets the answer when the signal was sent, or the refusal.
        reply: Reply<Result<(), String>>,
    },
    /// Stop the virtual CPUs, or let them run.
    SetPaused {
        /// Whether the virtual CPUs are to stop.
        paused: bool,
        /// Gets the answer when the virtual CPUs have stopped, or run.
        reply: Reply<Result<(), String>>,
    },
    /// Ask the guest agent a question.
    Ask {
        /// The question to the guest agent.
        ask: Ask,
        /// Gets the answer of the guest agent.
        reply: Reply<Outcome>,
    },
    /// Ports of the VM are not published, for this reason.
    NotPublished(String),
    /// A report of the link.
    Link(link::Report),
    /// An event of the VM's life, from the actor's own tasks and from the actors that it asks.
    Happened(Happened),
    /// The actor's own timer has expired, for this moment.
    Tick(Instant),
    /// Makes the actor panic, for tests of the consequences of a failed actor.
    #[cfg(feature = "test-hooks")]
    Panic,
}

/// An event of the VM's life, opaque to others.
#[derive(Debug)]
pub struct Happened(Event);

impl From<link::Report> for VmMsg {
    fn from(report: link::Report) -> Self {
        Self::Link(report)
    }
}

impl TryFrom<VmMsg> for link::Report {
    type Error = ();
    fn try_from(msg: VmMsg) -> Result<Self, ()> {
        if let VmMsg::Link(report) = msg { Ok(report) } else { Err(()) }
    }
}

/// The delay of what is judged by time while this process has no descriptor left.
const SHORT: Duration = Duration::from_secs(1);

/// The actor of one incarnation.
#[derive(Debug)]
pub struct Vm;

/// The arguments with which a VM actor is spawned.
#[derive(Debug)]
pub struct VmArgs {
    /// The specification of the VM.
    pub spec: Arc<VmSpec>,
    /// The VM whose spare this one is; `None` for a VM of the configuration.
    pub spare_of: Option<VmName>,
    /// The number of this start of the VM.
    pub incarnation: Incarnation,
    /// The number of this actor of the VM.
    pub epoch: u64,
    /// Whether the VM is booted or adopted.
    pub mode: Mode,
    /// The actors that this actor uses.
    pub services: Services,
    /// The moment at which the incarnation is on the disk: no launch is made before.
    pub written: Written,
    /// The group's actor, which takes the reports.
    pub report: DerivedActorRef<VmReport>,
}

/// The memory of the actor.
pub struct VmState {
    me: ActorRef<VmMsg>,
    life: Life,
    spare_of: Option<VmName>,
    incarnation: Incarnation,
    epoch: u64,
    services: Services,
    written: Written,
    report: DerivedActorRef<VmReport>,
    monitor: Option<Monitor>,
    /// Signals for the daemon that came before there was a monitor to send them.
    pending_signals: Vec<(Signal, Reply<Result<(), String>>)>,
    guest: Option<Guest>,
    alarm: Alarm,
    /// The moment before which no time is judged, because this process had no descriptor left.
    not_before: Option<Instant>,
}

/// The connection to the monitor.
struct Monitor {
    socket: PathBuf,
    /// The watch of the monitor, which ends when this value is dropped.
    watch: Watch,
    /// Whether the monitor has reported.
    is_heard: bool,
}

impl Actor for Vm {
    type Msg = VmMsg;
    /// Boxed, because the futures of an actor hold its memory more than once.
    type State = Box<VmState>;
    type Arguments = VmArgs;

    async fn pre_start(&self, me: ActorRef<VmMsg>, args: VmArgs) -> Result<Box<VmState>, ActorProcessingErr> {
        me.cast(VmMsg::Happened(Happened(Event::Start(args.mode))))?;
        Ok(Box::new(VmState {
            me,
            life: Life::new(args.spec, args.spare_of.is_some()),
            spare_of: args.spare_of,
            incarnation: args.incarnation,
            epoch: args.epoch,
            services: args.services,
            written: args.written,
            report: args.report,
            monitor: None,
            pending_signals: Vec::new(),
            guest: None,
            alarm: Alarm::default(),
            not_before: None,
        }))
    }

    async fn handle(
        &self,
        _: ActorRef<VmMsg>,
        msg: VmMsg,
        state: &mut Box<VmState>,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(event) = state.event_of(msg) {
            state.happened(event).await?;
        }
        let wake_at = state.life.wake_at().map(|at| state.not_before.map_or(at, |first| at.max(first)));
        let wake_at = wake_at.map(|at| match state.life.may_wait(at) {
            true => state.services.next_beat(at),
            false => at,
        });
        state.alarm.set(&state.me, wake_at, VmMsg::Tick);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<VmMsg>,
        event: SupervisionEvent,
        state: &mut Box<VmState>,
    ) -> Result<(), ActorProcessingErr> {
        // The link is the only child. When the link fails the VM does not: the VM gets a new link.
        let Some(lost) = LostChild::of(event) else { return Ok(()) };
        let Some(guest) = state.guest.take_if(|guest| guest.link.get_id() == lost.id) else { return Ok(()) };
        state.happened(Event::LinkIsUp(false)).await?;
        state.tell(VmEvent::Notice("its link failed and is replaced".into()));
        Box::pin(state.connect(guest.place)).await
    }
}

impl VmState {
    /// Returns the event in the VM's life that `msg` stands for. Messages that are meant for other actors are passed
    /// on.
    fn event_of(&mut self, msg: VmMsg) -> Option<Event> {
        match msg {
            VmMsg::Stop => return Some(Event::Stop),
            VmMsg::Kill => return Some(Event::Kill),
            VmMsg::Sleep => return Some(Event::Sleep),
            VmMsg::Wake => self.request(MonitorRequest::Resume, Reply::ignored()),
            VmMsg::Promote(Promotion { spec, incarnation, written }) => {
                (self.incarnation, self.written) = (incarnation, written);
                return Some(Event::Promote(spec));
            }
            // Without a descriptor for the link no guest can answer, which proves nothing about this guest
            // (semantics 13.7). The deadline of the probe then comes late, and late deadlines are not judged.
            VmMsg::Happened(Happened(Event::Probed { answer: Answer::Bad(_), .. })) if is_short() => {}
            VmMsg::Happened(Happened(event)) => return Some(event),
            VmMsg::Link(link::Report::Up) => return Some(Event::LinkIsUp(true)),
            VmMsg::Link(link::Report::Down { why }) => {
                tracing::debug!("{}: its link is down: {why}", self.life.spec().name);
                return Some(Event::LinkIsUp(false));
            }
            VmMsg::Link(link::Report::Event(event)) => return Some(Event::Guest(event)),
            VmMsg::Tick(due) => {
                self.alarm.rang(due);
                let postponed = self.life.judges(now()) && is_short();
                self.not_before = postponed.then(|| now() + SHORT);
                return (!postponed).then_some(Event::Tick);
            }
            VmMsg::Update(spec) => {
                let is_same = spec.publish == self.life.spec().publish;
                self.life.update(spec);
                self.await_idleness();
                if !is_same {
                    self.publish();
                }
            }
            VmMsg::NotPublished(why) => self.tell(VmEvent::Notice(why)),
            VmMsg::Signal { signal, reply } => self.signal(signal, reply),
            VmMsg::SetPaused { paused: true, reply } => self.request(MonitorRequest::Pause, reply),
            VmMsg::SetPaused { paused: false, reply } => self.request(MonitorRequest::Resume, reply),
            VmMsg::Ask { ask, reply } => self.ask_guest(LinkMsg::Ask { ask, reply }),
            #[cfg(feature = "test-hooks")]
            VmMsg::Panic => panic!("told to panic"),
        }
        None
    }

    async fn happened(&mut self, event: Event) -> Result<(), ActorProcessingErr> {
        if let (Event::Status(_), Some(monitor)) = (&event, &mut self.monitor) {
            monitor.is_heard = true;
        }
        for effect in self.life.on(now(), event) {
            if let Some(place) = self.carry_out(effect) {
                // Boxed, because an actor has room for its largest future as long as it lives.
                Box::pin(self.connect(place)).await?;
            }
        }
        Ok(())
    }

    /// Carries out an effect. Returns the agent that is to be connected to, if that is the effect.
    fn carry_out(&mut self, effect: Effect) -> Option<AgentPlace> {
        let (vm, fixed) = (self.life.spec().name.clone(), self.life.spec().cid);
        match effect {
            Effect::Lease => {
                let reply = self.reply(leased);
                self.services.cids.send(CidMsg::Lease { vm, fixed, reply });
            }
            Effect::LeaseAnother => {
                let reply = self.reply(leased);
                self.services.cids.send(CidMsg::Avoid { vm, fixed, reply });
            }
            Effect::Reserve(cid) => {
                self.services.cids.send(CidMsg::Reserve { vm, cid, reply: Reply::ignored() });
            }
            Effect::Launch(cid) => self.launch(cid),
            Effect::CancelLaunch => self.services.executor.send(ExecutorMsg::Cancel(vm)),
            Effect::Adopt => {
                self.hang_up();
                let reply = self.reply(|answer| Event::Adopted(answered(answer).map(Box::new)));
                self.services.executor.send(ExecutorMsg::Adopt { vm, reply });
            }
            Effect::Watch(record) => self.watch(&record),
            Effect::Connect(record) => return Some(AgentPlace::of(&record)),
            Effect::Sleep(how) => self.ask_to_sleep(how),
            Effect::StopDaemon { signal, grace } => self.stop_daemon(signal, grace),
            Effect::Remove => {
                self.hang_up_before_removal();
                let reply = self.reply(|answer| Event::Removed(answered(answer)));
                self.services.executor.send(ExecutorMsg::Destroy { vm, reply });
            }
            Effect::RemoveBoth { spare } => {
                self.hang_up_before_removal();
                let reply = self.reply(|answer| Event::Removed(answered(answer)));
                let executor = self.services.executor.clone();
                let reply = Reply::new(move |answer| match answered(answer) {
                    Ok(()) => executor.send(ExecutorMsg::Destroy { vm, reply }),
                    Err(e) => reply.send(Err(e)),
                });
                self.services.executor.send(ExecutorMsg::Destroy { vm: spare, reply });
            }
            Effect::Promote => self.promote(),
            Effect::Probe(id) => self.probe(id),
            Effect::Probed(probe) => self.tell(VmEvent::Probed(probe)),
            Effect::Tell(transition) => self.tell(VmEvent::Transition(transition)),
            Effect::Facts(facts) => self.tell(VmEvent::Facts(facts)),
            Effect::Timings(timings) => self.tell(VmEvent::Timings(timings)),
            Effect::Notice(text) => self.tell(VmEvent::Notice(text)),
            Effect::End(ending) => self.end(ending),
        }
        None
    }

    /// Makes a reply that becomes an event of this VM's life.
    fn reply<T: Send + 'static>(&self, event: impl FnOnce(Option<T>) -> Event + Send + 'static) -> Reply<T> {
        let me = self.me.clone();
        // The actor may have ended meanwhile.
        Reply::new(move |answer| drop(me.cast(VmMsg::Happened(Happened(event(answer))))))
    }

    fn launch(&self, cid: Cid) {
        let launch = Box::new(Launch {
            spec: Arc::clone(self.life.spec()),
            incarnation: self.incarnation,
            cid,
            owner: self.services.owner.to_string(),
            image: None,
            spare_of: self.spare_of.clone(),
            limit: self.life.launch_limit(now()),
        });
        let reply = self.reply(|answer| Event::Launched(answered(answer).map(Box::new)));
        let me = self.me.clone();
        // The actor may have ended meanwhile.
        let steps =
            LaunchSteps::new(move |step| drop(me.cast(VmMsg::Happened(Happened(Event::LaunchGoesOn(step))))));
        let written = self.written.clone();
        self.services.executor.send(ExecutorMsg::Launch { launch, written, steps, reply });
    }

    fn watch(&mut self, record: &StatusRecord) {
        let me = self.me.clone();
        let tell = move |report| {
            let event = match report {
                MonitorReport::Status(record) => Event::Status(record),
                MonitorReport::Lost(why) => Event::MonitorLost(why),
            };
            // The actor may have ended.
            let _ = me.cast(VmMsg::Happened(Happened(event)));
        };
        let socket = Path::new(&record.dir).join(rundir::CONTROL);
        let watch = self.services.sockets.watch(socket.clone(), Box::new(tell));
        self.monitor = Some(Monitor { socket, watch, is_heard: false });
        if !(self.life.spec().publish.is_empty() && record.ports.is_empty()) {
            self.publish();
        }
        self.await_idleness();
        for (signal, reply) in std::mem::take(&mut self.pending_signals) {
            self.request(MonitorRequest::Signal(signal), reply);
        }
    }

    /// Publishes the ports of the VM, if it has a monitor.
    fn publish(&self) {
        let Some(monitor) = &self.monitor else { return };
        let me = self.me.clone();
        let reply = Reply::new(move |done: Option<Result<(), String>>| {
            if let Some(Err(why)) = done {
                // The actor may have ended.
                let _ = me.cast(VmMsg::NotPublished(why));
            }
        });
        let VmSpec { name, publish, .. } = &**self.life.spec();
        self.services.executor.send(ExecutorMsg::Publish {
            vm: name.clone(),
            ports: publish.clone(),
            control: monitor.socket.clone(),
            reply,
        });
    }

    /// Has a link dial the agent.
    async fn connect(&mut self, place: AgentPlace) -> Result<(), ActorProcessingErr> {
        let guests = Arc::clone(&self.services.sockets) as Arc<dyn Guests>;
        // The link's `pre_start` only sends a message, so that the wait is short.
        let link = place.link(guests, self.me.get_derived(), self.me.get_cell()).await?;
        self.guest = Some(Guest { link, place });
        Ok(())
    }

    /// Closes both connections: their later messages belong to the time before.
    fn hang_up(&mut self) {
        self.monitor = None;
        self.hang_up_guest();
    }

    /// Gives back descriptors that a removal does not need, and may be short of. A guest that is killed is asked for nothing
    /// any more. Its monitor tells what the guest said last, if it can be heard.
    fn hang_up_before_removal(&mut self) {
        let is_heard = self.monitor.as_ref().is_some_and(|monitor| monitor.is_heard);
        if is_heard && !is_short() { self.hang_up_guest() } else { self.hang_up() }
    }

    fn hang_up_guest(&mut self) {
        if let Some(guest) = self.guest.take() {
            guest.link.stop(None);
        }
    }

    fn stop_daemon(&self, signal: Signal, grace: Duration) {
        // The watch shows the effect of the request; if there is none, the deadline of the stop applies.
        let reply = Reply::new(move |done: Option<Result<(), String>>| {
            if let Some(Err(e)) = done {
                tracing::debug!("stop: {e}");
            }
        });
        self.request(
            MonitorRequest::Stop { signal, timeout_ms: millis(grace), force: false, if_idle: false },
            reply,
        );
    }

    /// Sends the daemon a signal: now, or when the VM has a monitor. A monitor keeps a signal for a guest that boots. The
    /// signals that are left when this actor ends are refused, as their replies are dropped.
    fn signal(&mut self, signal: Signal, reply: Reply<Result<(), String>>) {
        match &self.monitor {
            Some(_) => self.request(MonitorRequest::Signal(signal), reply),
            None if self.pending_signals.len() < PENDING_SIGNALS => {
                self.pending_signals.push((signal, reply))
            }
            None => reply.send(Err("too many signals wait for the VM".into())),
        }
    }

    /// Sends a request to the monitor. A refusal names the VM: one command may be for many.
    fn request(&self, request: MonitorRequest, reply: Reply<Result<(), String>>) {
        let vm = self.life.spec().name.clone();
        match &self.monitor {
            Some(monitor) => {
                let (socket, line) = (monitor.socket.clone(), monitor.watch.line());
                let answer = self.services.sockets.request(socket.clone(), request.clone());
                tokio::spawn(async move {
                    // The run directory may have been removed; the connection of the watch outlives its socket.
                    let outcome = match line.filter(|_| !socket.exists()) {
                        Some(line) => line.request(request).await,
                        None => answer.await,
                    };
                    reply.send(outcome.map(drop).map_err(|e| format!("{vm}: {}", e.message)));
                });
            }
            None => reply.send(Err(format!("{vm}: the VM is not up"))),
        }
    }

    fn probe(&self, id: u64) {
        let (ask, reading) = probe::request(self.life.health());
        let reply =
            self.reply(move |outcome: Option<Outcome>| Event::Probed { id, answer: reading(outcome) });
        self.ask_guest(LinkMsg::Probe { ask, reply });
    }

    fn ask_guest(&self, msg: LinkMsg) {
        match &self.guest {
            // A link that has just failed drops the message together with its reply, which tells the asker.
            Some(guest) => drop(guest.link.cast(msg)),
            None => msg.refuse(WireError::new(ErrorKind::Busy, "the guest is not up")),
        }
    }

    fn end(&mut self, ending: Ending) {
        self.hang_up();
        self.tell(VmEvent::Ended(ending));
        self.me.stop(None);
    }

    fn tell(&self, event: VmEvent) {
        // The group may be gone; then its successor finds the VM by the launcher's list.
        let _ = self.report.cast(VmReport { vm: self.life.spec().name.clone(), epoch: self.epoch, event });
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads the answer of the executor; without one, the executor failed before it called the launcher.
fn answered<T>(answer: Option<Result<T, ExecutorError>>) -> Result<T, ExecutorError> {
    answer.unwrap_or(Err(ExecutorError::Gone))
}

fn leased(lease: Option<Result<Cid, LeaseError>>) -> Event {
    Event::Leased(lease.map(|lease| lease.map_err(|e| e.to_string())))
}
