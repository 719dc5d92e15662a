//! The link actor: talks to the guest agent of one VM, and dials again when the connection is lost.
//!
//! ```text
//!            ┌───────────────── after the redial delay ─────────────────┐
//!            ▼                                                          │
//!   Dial ──▶ dialling ──Dialled(Ok)──▶ greeting ──hello──▶ up ──lost──▶ down
//!               │                         │ no hello in 5 s, refused     ▲
//!               └──────Dialled(Err)───────┴─────────────────────────────┘
//! ```
//!
//! The protocol of a connection is decided by [`AgentConversation`]; this actor moves its bytes and keeps its
//! deadlines.

pub mod dial;
mod handover;
mod message;
mod socket;

pub use message::LinkMsg;

use crate::actor::now;
use crate::reply::Reply;
use dial::{Address, Dialled, Guests};
use pepita_wire::agent::Health;
use pepita_wire::conversation::{AgentConversation, HELLO_DEADLINE, News};
use pepita_wire::protocol::HEARTBEAT_INTERVAL;
use pepita_wire::{Ask, GuestEvent, Outcome};
use ractor::{Actor, ActorProcessingErr, ActorRef, DerivedActorRef};
use socket::Socket;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A report of the link to its VM.
#[derive(Debug)]
pub enum Report {
    /// The guest agent has said hello.
    Up,
    /// The connection is lost; the link dials again.
    Down {
        /// The reason for the loss of the connection.
        why: String,
    },
    /// The guest agent has told an event.
    Event(GuestEvent),
}

/// The actor of the link to one guest agent.
#[derive(Debug)]
pub struct VsockLink;

/// The arguments with which a link is spawned.
#[derive(Debug)]
pub struct LinkArgs {
    /// The address of the guest agent.
    pub address: Address,
    /// The file that holds the token.
    pub token: PathBuf,
    /// The incarnation that the guest must belong to.
    pub incarnation: u64,
    /// The way to guests.
    pub guests: Arc<dyn Guests>,
    /// Gets the reports.
    pub report: DerivedActorRef<Report>,
}

/// The memory of the actor.
pub struct LinkState {
    me: ActorRef<LinkMsg>,
    args: LinkArgs,
    conversation: AgentConversation<Reply<Outcome>>,
    /// The id of the newest probe.
    probe: Option<u64>,
    /// The number of the connection: messages of a former connection are dropped.
    connection: u64,
    socket: Option<Socket>,
    /// What the daemon has said of itself and was not reported yet.
    unreported: Option<Health>,
    /// The time of the last report of what the daemon says of itself.
    health_at: Option<Instant>,
    dialling: Option<JoinHandle<()>>,
}

impl Drop for LinkState {
    fn drop(&mut self) {
        if let Some(task) = &self.dialling {
            task.abort();
        }
    }
}

impl Actor for VsockLink {
    type Msg = LinkMsg;
    type State = LinkState;
    type Arguments = LinkArgs;

    async fn pre_start(
        &self,
        me: ActorRef<LinkMsg>,
        args: LinkArgs,
    ) -> Result<LinkState, ActorProcessingErr> {
        me.cast(LinkMsg::Dial)?;
        let conversation = AgentConversation::new(args.incarnation);
        Ok(LinkState {
            me,
            args,
            conversation,
            probe: None,
            connection: 0,
            socket: None,
            unreported: None,
            health_at: None,
            dialling: None,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<LinkMsg>,
        msg: LinkMsg,
        state: &mut LinkState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            LinkMsg::Dial => state.dial(),
            LinkMsg::Dialled(Ok(dialled)) => state.connected(dialled),
            LinkMsg::Dialled(Err(e)) => state.lost(format!("cannot connect: {e}")),
            LinkMsg::Ask { ask, reply } => drop(state.ask(ask, reply)),
            LinkMsg::Probe { ask, reply } => {
                if let Some(older) = state.probe.take() {
                    state.conversation.forget(older);
                }
                state.probe = state.ask(ask, reply);
            }
            LinkMsg::HealthDue => state.report_health(),
            LinkMsg::HelloDue { connection } => {
                if connection == state.connection && state.socket.is_some() && !state.conversation.is_up() {
                    state.lost("the guest agent does not say hello".into());
                }
            }
            LinkMsg::Read { connection, bytes, permit } => {
                if connection == state.connection {
                    state.read(bytes);
                }
                drop(permit);
            }
        }
        Ok(())
    }
}

impl LinkState {
    fn dial(&mut self) {
        if self.socket.is_some() || self.dialling.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let dialled = self.args.guests.dial(self.args.address.clone(), self.args.token.clone());
        let me = self.me.clone();
        // The link may be gone when the task is done.
        self.dialling = Some(tokio::spawn(async move { drop(me.cast(LinkMsg::Dialled(dialled.await))) }));
    }

    fn connected(&mut self, Dialled { stream, token }: Dialled) {
        self.connection += 1;
        let connection = self.connection;
        self.socket = Some(Socket::spawn(self.me.clone(), connection, stream));
        self.conversation.connected(token, None);
        self.me.send_after(HELLO_DEADLINE, move || LinkMsg::HelloDue { connection });
        self.flush();
    }

    fn ask(&mut self, ask: Ask, reply: Reply<Outcome>) -> Option<u64> {
        match self.conversation.ask(ask, reply) {
            Ok(id) => {
                self.flush();
                Some(id)
            }
            Err(refused) => {
                refused.tag.send(Err(refused.error));
                None
            }
        }
    }

    fn read(&mut self, bytes: Option<Vec<u8>>) {
        let Some(bytes) = bytes else { return self.lost("the guest agent hung up".into()) };
        self.conversation.receive(&bytes);
        loop {
            match self.conversation.next_news() {
                Ok(Some(News::Up { .. })) => self.report(Report::Up),
                Ok(Some(News::Answer { tag, outcome })) => tag.send(outcome),
                Ok(Some(News::Event { seq, event, is_new })) => {
                    if matches!(event, GuestEvent::Exited(_)) {
                        // An exit is acknowledged each time it comes: the guest repeats the event until it reads an
                        // acknowledgement.
                        self.conversation.tell(Ask::Ack { seq });
                    }
                    if is_new {
                        self.told(event);
                    }
                }
                Ok(None) => return self.flush(),
                Err(hang_up) => return self.lost(hang_up.to_string()),
            }
        }
    }

    /// Hands bytes to the socket's task. The link closes the connection to a guest agent that does not read.
    fn flush(&mut self) {
        let output = self.conversation.take_output();
        let Some(socket) = &self.socket else { return };
        if !output.is_empty() && !socket.write(output) {
            self.lost("the guest agent does not read".into());
        }
    }

    fn lost(&mut self, why: String) {
        self.connection += 1;
        self.socket = None;
        // A request that was under way may have been carried out: its reply is dropped, which is not the same as a
        // refusal.
        let redial_after = self.conversation.disconnected().redial_after;
        self.report(Report::Down { why });
        self.me.send_after(redial_after, || LinkMsg::Dial);
    }

    /// Reports an event of the guest. What its daemon says of itself is reported at most once in [`HEARTBEAT_INTERVAL`],
    /// so that no guest fills the mailbox of its VM's actor.
    fn told(&mut self, event: GuestEvent) {
        match event {
            GuestEvent::Health(health) => {
                let is_waiting = self.unreported.is_some();
                self.unreported.get_or_insert_default().merge(health);
                if !is_waiting {
                    let left = self.health_at.map_or(Duration::ZERO, |at| {
                        (at + HEARTBEAT_INTERVAL).saturating_duration_since(now())
                    });
                    match left.is_zero() {
                        true => self.report_health(),
                        false => drop(self.me.send_after(left, || LinkMsg::HealthDue)),
                    }
                }
            }
            event @ (GuestEvent::Started { .. }
            | GuestEvent::Ready
            | GuestEvent::Memory { .. }
            | GuestEvent::Exited(_)
            | GuestEvent::Unknown(_)) => {
                // The order of what the guest has said stays.
                self.report_health();
                self.report(Report::Event(event));
            }
        }
    }

    fn report_health(&mut self) {
        if let Some(health) = self.unreported.take() {
            self.health_at = Some(now());
            self.report(Report::Event(GuestEvent::Health(health)));
        }
    }

    fn report(&self, report: Report) {
        // The VM's actor may be gone; then this link ends, too.
        let _ = self.args.report.cast(report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_core::future::BoxFuture;
    use pepita_wire::protocol::{AGENT_BURST, AGENT_RATE};
    use pepita_wire::{Exit, Hello, ToHost};
    use std::io;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    /// A guest at the other end of a stream in memory.
    #[derive(Debug)]
    struct Guest(std::sync::Mutex<Option<DuplexStream>>);

    impl Guests for Guest {
        fn dial(&self, _: Address, _: PathBuf) -> BoxFuture<'static, io::Result<Dialled>> {
            let stream = self.0.lock().expect("no panic").take();
            Box::pin(async {
                let stream = stream.ok_or(io::ErrorKind::ConnectionRefused)?;
                Ok(Dialled { stream: Box::new(stream), token: "token".into() })
            })
        }
    }

    /// Passes the reports of a link on.
    struct Collector;

    struct Collected(Report);

    impl From<Report> for Collected {
        fn from(report: Report) -> Self {
            Self(report)
        }
    }

    impl TryFrom<Collected> for Report {
        type Error = ();
        fn try_from(Collected(report): Collected) -> Result<Self, ()> {
            Ok(report)
        }
    }

    impl Actor for Collector {
        type Msg = Collected;
        type State = mpsc::UnboundedSender<Report>;
        type Arguments = Self::State;

        async fn pre_start(
            &self,
            _: ActorRef<Collected>,
            sender: Self::State,
        ) -> Result<Self::State, ActorProcessingErr> {
            Ok(sender)
        }

        async fn handle(
            &self,
            _: ActorRef<Collected>,
            Collected(report): Collected,
            sender: &mut Self::State,
        ) -> Result<(), ActorProcessingErr> {
            Ok(sender.send(report)?)
        }
    }

    fn line(seq: u64, event: GuestEvent) -> Vec<u8> {
        ToHost::Event { seq, event }.encode()
    }

    /// Returns the guest's end of the stream of a link that is up, and the reports of the link.
    async fn linked() -> (DuplexStream, mpsc::UnboundedReceiver<Report>) {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        let (sender, mut reports) = mpsc::unbounded_channel();
        let (collector, _) = Actor::spawn(None, Collector, sender).await.expect("spawned");
        let args = LinkArgs {
            address: Address::Vhost { cid: 3, port: 5000 },
            token: PathBuf::new(),
            incarnation: 7,
            guests: Arc::new(Guest(std::sync::Mutex::new(Some(ours)))),
            report: collector.get_derived(),
        };
        Actor::spawn(None, VsockLink, args).await.expect("spawned");
        let mut buffer = [0; 1024];
        assert!(theirs.read(&mut buffer).await.expect("a hello") > 0);
        let hello = Hello { protocol_version: 1, incarnation: 7, ..Hello::default() };
        theirs.write_all(&ToHost::Hello(hello).encode()).await.expect("written");
        assert!(matches!(reports.recv().await, Some(Report::Up)));
        (theirs, reports)
    }

    /// Returns the events that are reported up to the guest's exit.
    async fn until_exit(mut reports: mpsc::UnboundedReceiver<Report>) -> Vec<GuestEvent> {
        let mut events = Vec::new();
        while let Some(report) = reports.recv().await {
            if let Report::Event(event) = report {
                events.push(event);
                if let Some(GuestEvent::Exited(_)) = events.last() {
                    return events;
                }
            }
        }
        panic!("no exit: {} events", events.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_what_a_daemon_says_of_itself_is_merged_and_loses_nothing_that_counts() {
        let (mut guest, reports) = linked().await;
        let flood = async {
            for step in 1..=1000 {
                let status = Some(format!("step {step}"));
                let health = Health { status, watchdog: step == 500, ..Health::default() };
                guest.write_all(&line(step, GuestEvent::Health(health))).await.expect("written");
                sleep(Duration::from_millis(1)).await;
            }
            guest.write_all(&line(1001, GuestEvent::Exited(Exit::code(3)))).await.expect("written");
        };
        let ((), events) = tokio::join!(flood, until_exit(reports));
        // One second has fifty intervals.
        assert!((40..=55).contains(&events.len()), "{}", events.len());
        let said = |wanted: fn(&Health) -> bool| {
            events.iter().any(|event| matches!(event, GuestEvent::Health(health) if wanted(health)))
        };
        assert!(
            said(|health| health.watchdog) && said(|health| health.status.as_deref() == Some("step 1000"))
        );
        assert_eq!(events.last(), Some(&GuestEvent::Exited(Exit::code(3))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_is_read_no_faster_than_it_may_send() {
        let (mut guest, reports) = linked().await;
        let bytes = AGENT_BURST as usize + 4 * AGENT_RATE as usize;
        let began = now();
        let flood = async {
            let unknown = line(0, GuestEvent::Unknown("x".repeat(60)));
            for _ in 0..bytes / unknown.len() {
                guest.write_all(&unknown).await.expect("written");
            }
            guest.write_all(&line(1, GuestEvent::Exited(Exit::code(0)))).await.expect("written");
        };
        let ((), events) = tokio::join!(flood, until_exit(reports));
        assert_eq!(events, [GuestEvent::Exited(Exit::code(0))], "an event with an old number is no news");
        let took = now() - began;
        assert!((Duration::from_millis(3900)..Duration::from_millis(4200)).contains(&took), "{took:?}");
    }
}
