//! The link actor: the conversation with one VM's guest agent. Dials, greets, asks, hears; redials when it is cut off.

pub mod dial;
pub mod session;
mod sockets;
pub mod watch;

pub use sockets::{Boxed, HostSockets, Sockets, Tell};

use crate::reply::Reply;
use dial::{Address, Stream};
use pepita_wire::frame::Outcome;
use pepita_wire::{Ask, ErrorKind, GuestEvent, WireError};
use ractor::{Actor, ActorProcessingErr, ActorRef, DerivedActorRef};
use session::{Heard, Session};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

/// Before the first redial; doubles up to [`REDIAL_MAX`].
const REDIAL_MIN: Duration = Duration::from_millis(20);

/// A guest that is there answers at once; one that is not is the monitor's to notice.
const REDIAL_MAX: Duration = Duration::from_secs(2);

/// Reads of one guest that may wait for the actor. A flood stays in the guest's socket.
const READ_AHEAD: usize = 4;

/// Writes that may wait for the socket.
const WRITE_AHEAD: usize = 64;

/// What the link tells its VM.
#[derive(Debug)]
pub enum Report {
    /// The guest has said hello.
    Up,
    /// The connection is gone; it will be dialled again.
    Down {
        /// Why.
        why: String,
    },
    /// News of the guest.
    Heard(GuestEvent),
}

/// What the link can be asked, and what its own tasks tell it.
pub enum LinkMsg {
    /// Ask the guest; answered with its answer, or with [`ErrorKind::Busy`] while the link is down.
    Ask {
        /// What.
        ask: Ask,
        /// The answer.
        reply: Reply<Outcome>,
    },
    /// Ask the guest whether it is well; an older such question is given up.
    Probe {
        /// How.
        ask: Ask,
        /// The answer.
        reply: Reply<Outcome>,
    },
    /// From itself: try to connect.
    Dial,
    /// From the dialling task.
    Dialled {
        /// The stream and the token to greet with.
        result: std::io::Result<(Box<dyn Stream>, String)>,
    },
    /// From the reading task.
    Read {
        /// Of which connection.
        connection: u64,
        /// What; `None` = the guest hung up.
        bytes: Option<Vec<u8>>,
        /// Given back when it is taken in.
        permit: OwnedSemaphorePermit,
    },
}

/// The link of one VM.
#[derive(Debug)]
pub struct VsockLink;

/// What a link needs to know.
#[derive(Debug)]
pub struct LinkArgs {
    /// Where the agent listens.
    pub address: Address,
    /// The file with the token.
    pub token: PathBuf,
    /// Which incarnation the guest must be.
    pub incarnation: u64,
    /// How to get there.
    pub sockets: Arc<dyn Sockets>,
    /// Who hears the reports.
    pub report: DerivedActorRef<Report>,
}

/// What the link remembers.
pub struct LinkState {
    args: LinkArgs,
    connection: u64,
    /// The newest event told, over all connections.
    seen: u64,
    redial: Duration,
    up: Option<Connection>,
    dialling: Option<JoinHandle<()>>,
}

struct Connection {
    session: Session,
    writer: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
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
        Ok(LinkState { args, connection: 0, seen: 0, redial: REDIAL_MIN, up: None, dialling: None })
    }

    async fn handle(
        &self,
        me: ActorRef<LinkMsg>,
        msg: LinkMsg,
        state: &mut LinkState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            LinkMsg::Dial => state.dial(&me),
            LinkMsg::Dialled { result: Ok((stream, token)) } => state.connected(&me, stream, token),
            LinkMsg::Dialled { result: Err(e) } => state.down(&me, format!("cannot connect: {e}")),
            LinkMsg::Ask { ask, reply } => match &mut state.up {
                Some(up) => {
                    up.session.ask(ask, reply);
                    state.flush(&me);
                }
                None => reply.send(Err(WireError::new(ErrorKind::Busy, "the link is down"))),
            },
            LinkMsg::Probe { ask, reply } => match &mut state.up {
                Some(up) => {
                    up.session.probe(ask, reply);
                    state.flush(&me);
                }
                None => reply.send(Err(WireError::new(ErrorKind::Busy, "the link is down"))),
            },
            LinkMsg::Read { connection, bytes, permit } => {
                if connection == state.connection {
                    state.read(&me, bytes);
                }
                drop(permit);
            }
        }
        Ok(())
    }
}

impl LinkState {
    fn dial(&mut self, me: &ActorRef<LinkMsg>) {
        if self.up.is_some() || self.dialling.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let dialled = self.args.sockets.dial(self.args.address.clone(), self.args.token.clone());
        let me = me.clone();
        self.dialling = Some(tokio::spawn(async move {
            // The link may be gone meanwhile.
            let _ = me.cast(LinkMsg::Dialled { result: dialled.await });
        }));
    }

    fn connected(&mut self, me: &ActorRef<LinkMsg>, stream: Box<dyn Stream>, token: String) {
        self.connection += 1;
        let session = Session::new(token, self.args.incarnation, self.seen);
        let (writer, outgoing) = mpsc::channel(WRITE_AHEAD);
        let task = tokio::spawn(carry(me.clone(), self.connection, stream, outgoing));
        self.up = Some(Connection { session, writer, task });
        self.flush(me);
    }

    fn read(&mut self, me: &ActorRef<LinkMsg>, bytes: Option<Vec<u8>>) {
        let Some(up) = &mut self.up else { return };
        let Some(bytes) = bytes else { return self.down(me, "the guest hung up".into()) };
        match up.session.read(&bytes) {
            Ok(heard) => {
                self.seen = up.session.seen();
                for heard in heard {
                    match heard {
                        Heard::Up => {
                            self.redial = REDIAL_MIN;
                            self.report(Report::Up);
                        }
                        Heard::Event(event) => self.report(Report::Heard(event)),
                    }
                }
                self.flush(me);
            }
            Err(e) => self.down(me, e.to_string()),
        }
    }

    /// Hands what the session wants said to the writing task. A guest that does not read is hung up on.
    fn flush(&mut self, me: &ActorRef<LinkMsg>) {
        let Some(up) = &mut self.up else { return };
        let output = up.session.take_output();
        if !output.is_empty() && up.writer.try_send(output).is_err() {
            self.down(me, "the guest does not read".into());
        }
    }

    fn down(&mut self, me: &ActorRef<LinkMsg>, why: String) {
        self.up = None;
        self.connection += 1;
        self.report(Report::Down { why });
        me.send_after(self.redial, || LinkMsg::Dial);
        self.redial = (self.redial * 2).min(REDIAL_MAX);
    }

    fn report(&self, report: Report) {
        // The VM may be gone; then so will this link be.
        let _ = self.args.report.cast(report);
    }
}

/// Moves bytes both ways until either side is gone.
async fn carry(
    me: ActorRef<LinkMsg>,
    connection: u64,
    mut stream: Box<dyn Stream>,
    mut outgoing: mpsc::Receiver<Vec<u8>>,
) {
    let ahead = Arc::new(Semaphore::new(READ_AHEAD));
    let mut buffer = vec![0; 4096];
    loop {
        let Ok(permit) = Arc::clone(&ahead).acquire_owned().await else { return };
        let bytes = tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(n) if n > 0 => Some(buffer[..n].to_vec()),
                _ => None,
            },
            write = outgoing.recv() => match write {
                Some(bytes) => match stream.write_all(&bytes).await {
                    Ok(()) => continue,
                    Err(_) => None,
                },
                None => return,
            },
        };
        let over = bytes.is_none();
        if me.cast(LinkMsg::Read { connection, bytes, permit }).is_err() || over {
            return;
        }
    }
}
