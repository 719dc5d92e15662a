//! The VM actor: owns one incarnation of a microVM. A translator: messages in, [`phase::Life`] decides, effects out.

pub mod health;
pub mod phase;
mod report;
mod services;

pub use report::{Facts, Mode, Transition, VmEvent, VmReport};
pub use services::{HostSockets, Services, Sockets};

use crate::actor::{Alarm, LostChild, now};
use crate::cid::{CidMsg, LeaseError};
use crate::executor::{ExecutorError, ExecutorMsg, Launch};
use crate::link::dial::{Address, Guests};
use crate::link::{self, LinkArgs, LinkMsg, VsockLink};
use crate::monitor_client::{MonitorReport, Watch};
use crate::policy::Ending;
use crate::reply::Reply;
use crate::spec::{Cid, Incarnation, Signal, VmSpec};
use crate::store::Written;
use pepita_wire::agent::Exec;
use pepita_wire::{
    Ask, ErrorKind, ExecResult, Exit, MonitorRequest, Outcome, StatusRecord, WireError, rundir,
};
use phase::{Effect, Event, Life};
use ractor::{Actor, ActorProcessingErr, ActorRef, DerivedActorRef, SupervisionEvent};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// What a VM actor can be told.
#[derive(Debug)]
pub enum VmMsg {
    /// Something happened to its VM.
    Event(Event),
    /// The link's news.
    Link(link::Report),
    /// Take it down: signal, grace, destroy.
    Stop,
    /// End it at once.
    Destroy,
    /// Its configuration has changed in ways that apply to a running VM.
    Update(Box<VmSpec>),
    /// Send the daemon a signal.
    Signal {
        /// Which.
        signal: Signal,
        /// Done, or why not.
        reply: Reply<Result<(), String>>,
    },
    /// Stop or continue its virtual CPUs.
    SetPaused {
        /// Stop them.
        paused: bool,
        /// Done, or why not.
        reply: Reply<Result<(), String>>,
    },
    /// Ask its guest agent something.
    Ask {
        /// What.
        ask: Ask,
        /// The answer.
        reply: Reply<Outcome>,
    },
    /// From the timer of its own for this moment.
    Tick(Instant),
    /// Makes the actor panic, for tests of what a failed actor leads to.
    #[cfg(feature = "test-hooks")]
    Panic,
}

impl From<link::Report> for VmMsg {
    fn from(report: link::Report) -> Self {
        Self::Link(report)
    }
}

impl TryFrom<VmMsg> for link::Report {
    type Error = ();
    fn try_from(msg: VmMsg) -> Result<Self, ()> {
        match msg {
            VmMsg::Link(report) => Ok(report),
            _ => Err(()),
        }
    }
}

/// The actor of one incarnation.
#[derive(Debug)]
pub struct Vm;

/// What it needs to know.
#[derive(Debug)]
pub struct VmArgs {
    /// What the VM is to be.
    pub spec: VmSpec,
    /// Which start of it this is.
    pub incarnation: Incarnation,
    /// Which actor of it this is.
    pub epoch: u64,
    /// Boot it, or take it over.
    pub mode: Mode,
    /// The actors it uses.
    pub services: Services,
    /// The moment at which the incarnation is on the disk: nothing is launched before.
    pub written: Written,
    /// Who hears its reports.
    pub report: DerivedActorRef<VmReport>,
}

/// What it remembers.
pub struct VmState {
    life: Life,
    incarnation: Incarnation,
    epoch: u64,
    services: Services,
    written: Written,
    report: DerivedActorRef<VmReport>,
    /// The run directory, once the launcher has told it.
    dir: Option<PathBuf>,
    watch: Option<Watch>,
    link: Option<ActorRef<LinkMsg>>,
    /// What the link was spawned with, for when it has to be spawned again.
    connected_to: Option<Box<StatusRecord>>,
    alarm: Alarm,
    facts: Facts,
}

impl Actor for Vm {
    type Msg = VmMsg;
    type State = VmState;
    type Arguments = VmArgs;

    async fn pre_start(&self, me: ActorRef<VmMsg>, args: VmArgs) -> Result<VmState, ActorProcessingErr> {
        me.cast(VmMsg::Event(Event::Begin(args.mode)))?;
        Ok(VmState {
            life: Life::new(args.spec),
            incarnation: args.incarnation,
            epoch: args.epoch,
            services: args.services,
            written: args.written,
            report: args.report,
            dir: None,
            watch: None,
            link: None,
            connected_to: None,
            alarm: Alarm::default(),
            facts: Facts::default(),
        })
    }

    async fn handle(
        &self,
        me: ActorRef<VmMsg>,
        msg: VmMsg,
        state: &mut VmState,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(event) = state.take_in(msg) {
            for effect in state.life.on(now(), event) {
                state.carry_out(&me, effect).await?;
            }
        }
        state.alarm.set(&me, state.life.wake_at(), VmMsg::Tick);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<VmMsg>,
        event: SupervisionEvent,
        state: &mut VmState,
    ) -> Result<(), ActorProcessingErr> {
        // The link is the only child. When it fails the VM does not: it gets a new one.
        if LostChild::of(event).is_some()
            && let Some(record) = state.connected_to.take()
        {
            state.life.link(false);
            state.notice("its link failed and is replaced");
            state.connect(&me, record).await?;
        }
        Ok(())
    }
}

impl VmState {
    /// Does what does not touch its life; the rest is an event in it.
    fn take_in(&mut self, msg: VmMsg) -> Option<Event> {
        match msg {
            VmMsg::Event(event) => return Some(event),
            VmMsg::Link(link::Report::Event(event)) => return Some(Event::Heard(event)),
            VmMsg::Link(link::Report::Up) => self.life.link(true),
            VmMsg::Link(link::Report::Down { .. }) => self.life.link(false),
            VmMsg::Stop => return Some(Event::Stop),
            VmMsg::Destroy => return Some(Event::Destroy),
            VmMsg::Update(spec) => self.life.update(*spec),
            VmMsg::Signal { signal, reply } => self.request(MonitorRequest::Signal(signal), reply),
            VmMsg::SetPaused { paused: true, reply } => self.request(MonitorRequest::Pause, reply),
            VmMsg::SetPaused { paused: false, reply } => self.request(MonitorRequest::Resume, reply),
            VmMsg::Ask { ask, reply } => self.ask(ask, reply),
            VmMsg::Tick(due) => {
                self.alarm.rang(due);
                return Some(Event::Tick);
            }
            #[cfg(feature = "test-hooks")]
            VmMsg::Panic => panic!("told to panic"),
        }
        None
    }

    async fn carry_out(&mut self, me: &ActorRef<VmMsg>, effect: Effect) -> Result<(), ActorProcessingErr> {
        let (vm, fixed) = (self.life.spec().name.clone(), self.life.spec().cid);
        match effect {
            Effect::Lease => {
                let reply = tell(me, leased);
                self.services.cids.send(CidMsg::Lease { vm, fixed, reply });
            }
            Effect::Avoid => {
                let reply = tell(me, leased);
                self.services.cids.send(CidMsg::Avoid { vm, fixed, reply });
            }
            Effect::Reserve(cid) => {
                self.services.cids.send(CidMsg::Reserve { vm, cid, reply: Reply::ignored() })
            }
            Effect::Launch(cid) => {
                let launch = Box::new(Launch {
                    spec: self.life.spec().clone(),
                    incarnation: self.incarnation,
                    cid,
                    owner: self.services.owner.to_string(),
                    hold: false,
                });
                let reply =
                    tell(me, |r| Event::Launched(r.unwrap_or(Err(ExecutorError::Gone)).map(Box::new)));
                self.services.executor.send(ExecutorMsg::Launch {
                    launch,
                    written: self.written.clone(),
                    reply,
                });
            }
            Effect::CallOff => self.services.executor.send(ExecutorMsg::Cancel(vm)),
            Effect::Adopt => {
                (self.watch, self.connected_to) = (None, None);
                if let Some(link) = self.link.take() {
                    link.stop(None);
                }
                let reply = tell(me, |r| Event::Adopted(r.unwrap_or(Err(ExecutorError::Gone)).map(Box::new)));
                self.services.executor.send(ExecutorMsg::Adopt { vm, reply });
            }
            Effect::Watch(record) => self.follow(me, &record),
            Effect::Connect(record) => self.connect(me, record).await?,
            Effect::StopPolitely { signal, grace } => self.stop_politely(signal, grace),
            Effect::Destroy => {
                let reply = tell(me, |r| Event::Destroyed(r.unwrap_or(Err(ExecutorError::Gone))));
                self.services.executor.send(ExecutorMsg::Destroy { vm, reply });
            }
            Effect::Probe(id) => self.probe(me, id),
            Effect::Tell(news) => self.tell(VmEvent::Transition(news)),
            Effect::Facts(facts) => {
                if self.facts != facts {
                    self.facts = facts;
                    self.tell(VmEvent::Facts(facts));
                }
            }
            Effect::Notice(text) => self.notice(&text),
            Effect::End(ending) => self.end(me, ending),
        }
        Ok(())
    }

    fn follow(&mut self, me: &ActorRef<VmMsg>, record: &StatusRecord) {
        let dir = PathBuf::from(&record.dir);
        let me = me.clone();
        let tell = move |report| {
            let event = match report {
                MonitorReport::Status(record) => Event::Status(record),
                MonitorReport::Lost(why) => Event::MonitorLost(why),
            };
            // The actor may have ended.
            let _ = me.cast(VmMsg::Event(event));
        };
        self.watch = Some(self.services.sockets.watch(dir.join(rundir::CONTROL), Box::new(tell)));
        self.dir = Some(dir);
    }

    async fn connect(
        &mut self,
        me: &ActorRef<VmMsg>,
        record: Box<StatusRecord>,
    ) -> Result<(), ActorProcessingErr> {
        let args = LinkArgs {
            address: Address::of(&record),
            token: PathBuf::from(&record.dir).join(rundir::TOKEN),
            incarnation: record.incarnation,
            guests: Arc::clone(&self.services.sockets) as Arc<dyn Guests>,
            report: me.get_derived(),
        };
        // Its `pre_start` only sends itself a message: nothing is waited for here.
        let (link, _) = Actor::spawn_linked(None, VsockLink, args, me.get_cell()).await?;
        (self.link, self.connected_to) = (Some(link), Some(record));
        Ok(())
    }

    fn stop_politely(&self, signal: Signal, grace: std::time::Duration) {
        let timeout_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let vm = self.life.spec().name.clone();
        // What comes of it is seen in the watch; if nothing does, the deadline of the stop sees to it.
        let reply = Reply::new(move |done: Option<Result<(), String>>| {
            if let Some(Err(e)) = done {
                tracing::debug!("{vm}: stop: {e}");
            }
        });
        self.request(MonitorRequest::Stop { signal, timeout_ms, force: false }, reply);
    }

    /// Asks the monitor.
    fn request(&self, request: MonitorRequest, reply: Reply<Result<(), String>>) {
        let Some(dir) = &self.dir else { return reply.send(Err("the VM is not up".into())) };
        let answer = self.services.sockets.request(dir.join(rundir::CONTROL), request);
        tokio::spawn(async move { reply.send(answer.await.map(drop).map_err(|e| e.message)) });
    }

    fn probe(&self, me: &ActorRef<VmMsg>, id: u64) {
        let health = &self.life.spec().health;
        let timeout_ms = u64::try_from(health.timeout.as_millis()).unwrap_or(u64::MAX);
        let command = (!health.command.is_empty())
            .then(|| Ask::Exec(Exec { command: health.command.clone(), timeout_ms, bulk: false }));
        // A guest that runs a command and says how it went answers a ping, too.
        let ask = command.unwrap_or(Ask::Ping);
        let me = me.clone();
        let reply = Reply::new(move |outcome: Option<Outcome>| {
            let healthy = outcome.is_some_and(|outcome| is_healthy(&outcome));
            let _ = me.cast(VmMsg::Event(Event::Probed { id, healthy }));
        });
        match &self.link {
            // If the link has just failed the reply is dropped, which answers.
            Some(link) => drop(link.cast(LinkMsg::Probe { ask, reply })),
            None => drop(reply),
        }
    }

    fn ask(&self, ask: Ask, reply: Reply<Outcome>) {
        match &self.link {
            // If the link has just failed the reply is dropped, which answers.
            Some(link) => drop(link.cast(LinkMsg::Ask { ask, reply })),
            None => reply.send(Err(WireError::new(ErrorKind::Busy, "the guest is not up"))),
        }
    }

    fn end(&mut self, me: &ActorRef<VmMsg>, ending: Ending) {
        (self.watch, self.connected_to) = (None, None);
        self.tell(VmEvent::Ended(ending));
        // The link goes with its parent.
        me.stop(None);
    }

    fn notice(&self, text: &str) {
        self.tell(VmEvent::Notice(text.to_owned()));
    }

    fn tell(&self, event: VmEvent) {
        // The group may be gone; then its successor finds the VM by the launcher's list.
        let _ = self.report.cast(VmReport { vm: self.life.spec().name.clone(), epoch: self.epoch, event });
    }
}

fn is_healthy(outcome: &Outcome) -> bool {
    match outcome {
        Ok(value) => match serde_json::from_value::<ExecResult>(value.clone()) {
            // The answer to a ping tells no exit, so it reads as unknown.
            Ok(result) => {
                matches!(result.exit, Exit::Exited { code: 0 } | Exit::Unknown) && !result.timed_out
            }
            Err(_) => false,
        },
        Err(_) => false,
    }
}

fn tell<T: Send + 'static>(
    me: &ActorRef<VmMsg>,
    event: impl FnOnce(Option<T>) -> Event + Send + 'static,
) -> Reply<T> {
    let me = me.clone();
    // The actor may have ended meanwhile.
    Reply::new(move |answer| drop(me.cast(VmMsg::Event(event(answer)))))
}

fn leased(lease: Option<Result<Cid, LeaseError>>) -> Event {
    Event::Leased(lease.map(|lease| lease.map_err(|e| e.to_string())))
}
