//! The requests to a guest agent, its answers and its events.
//!
//! Requests and events are additive: an unknown method or event does not end a conversation.

use crate::error::{ErrorKind, WireError};
use crate::exit::{Exit, generation_1};
use crate::network::Card;
use crate::port::GuestPlace;
use crate::probe::Check;
use crate::reach::DialPlace;
use crate::signal::Signal;
use crate::storage::Mount;
use crate::streams::TerminalSize;
use crate::text::{shown, shown_up_to};
use crate::world::{Secret, World};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A request to a guest agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Answer at once. The agent answers from a thread of its own, independent of the daemon.
    Ping,
    /// Start the daemon; answered with its process id. [`ErrorKind::Conflict`] when it was started before.
    Start(Start),
    /// Do all of this start but the execution of the daemon and what its secrets need. The start that follows has to be the same
    /// ([`Start::is_for`]). [`ErrorKind::Conflict`] when the daemon was started before, [`ErrorKind::BadRequest`] when another
    /// start is prepared, [`ErrorKind::Os`] when the guest cannot have what the start asks for, with which it will fail, too.
    Prepare(Start),
    /// Send `signal` to the daemon's process group, and SIGKILL after `grace_ms`.
    Stop(Stop),
    /// Send one signal to the daemon's process group.
    Signal(Signal),
    /// Answer with [`AgentStatus`].
    Status,
    /// Run a command to its end; answered with [`ExecResult`]. With `bulk` the connection turns into the raw output of
    /// the command.
    Exec(Exec),
    /// Run a command whose streams the client holds. After the answer, both sides of the connection are chunks
    /// ([`crate::streams`]). The command ends with its client.
    ExecStream(ExecStream),
    /// Copy files, as an archive over the streams of a command: after the answer, both sides of the connection are chunks, as
    /// for [`Ask::ExecStream`].
    Copy(Copy),
    /// Set the guest's clock.
    SetTime {
        /// The new time, in milliseconds since the Unix epoch.
        unix_ms: u64,
    },
    /// Turn this connection into the daemon's raw output, beginning with the output that the agent keeps (the last 64
    /// KiB).
    Logs {
        /// Whether to continue with new output.
        follow: bool,
    },
    /// Report events on this connection, beginning with the events that the agent keeps.
    Watch {
        /// The number of the last event that the host has received; 0 for all events.
        since: u64,
    },
    /// Acknowledge an event. After the acknowledgement of `exited`, the guest may power off.
    Ack {
        /// The number of the event.
        seq: u64,
    },
    /// Connect to a place where a program of the guest listens, and turn this connection into a forwarded one: after the
    /// answer it carries [`crate::chunk`]s. [`ErrorKind::NotFound`] when nothing listens there, [`ErrorKind::Busy`] when
    /// too many connections are forwarded already.
    Dial(Dial),
    /// Wait for a program of the guest that dials a place which the start has named (`reach`), and turn this connection into
    /// a forwarded one: after the answer [`Accepted`] it carries [`crate::chunk`]s. [`ErrorKind::NotFound`] when the start
    /// has named none, [`ErrorKind::Busy`] when too many connections are forwarded already.
    Accept,
    /// Mount disks and shares, in this order. What is mounted already stays mounted. An agent without this request does
    /// not start the daemon of a VM with disks: the host waits for the answer first.
    Mount(Vec<Mount>),
    /// Look whether the daemon is well, from outside it; answered with [`ProbeResult`].
    Probe(Probe),
    /// Tell what the guest uses; answered with [`crate::usage::GuestUsage`]. [`ErrorKind::Unsupported`] of a plain process.
    Usage,
    /// Prepare the guest for giving memory back to the host while it sleeps: load the driver of the balloon, and give up the
    /// cache of files that no program has mapped; answered with [`crate::usage::FreeMemory`]. [`ErrorKind::NotFound`] without a
    /// driver or a balloon, [`ErrorKind::Unsupported`] of a plain process.
    FreeMemory,
    /// Unmount the disks, synchronise and power off, whether or not the daemon runs.
    PowerOff,
}

/// The parameters of `start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Start {
    /// The program and its arguments; empty = the command that the image names.
    pub command: Vec<String>,
    /// Variables that are added to the daemon's environment.
    pub env: BTreeMap<String, String>,
    /// The name of the VM, which is the guest's name for itself unless `world` has another one. An older agent leaves it
    /// out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The world of the daemon. It is boxed because it is large, and only this order has one.
    #[serde(skip_serializing_if = "World::is_default")]
    pub world: Box<World>,
    /// The places that the daemon may dial. The agent listens there before the daemon starts, and the names resolve.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reach: Vec<DialPlace>,
    /// What the agent gives to the network card before the daemon starts; absent = there is no card, or it is left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Card>,
}

impl Start {
    /// Returns whether a guest that was prepared with this order is prepared for `start`: all is the same but the contents of
    /// the secrets.
    pub fn is_for(&self, start: &Self) -> bool {
        self.without_secrets() == start.without_secrets()
    }

    /// Returns this order with the names of its secrets alone.
    pub fn without_secrets(&self) -> Self {
        let names = self.world.secrets.keys().map(|name| (name.clone(), Secret::default()));
        let world = World { secrets: names.collect(), ..(*self.world).clone() };
        Self { world: world.into(), ..self.clone() }
    }

    /// The method of a start that only newer agents know. An older one would leave the world out, and start the daemon
    /// as a user, or with privileges, that nobody has asked for.
    const IN_WORLD: &str = "start_in_world";

    /// The same for a start with places that the daemon may dial.
    const REACHING: &str = "start_reaching";

    /// The same for a start in a guest with a network.
    const NETWORKED: &str = "start_networked";

    /// Returns the method for this start: the oldest that does not leave anything out.
    fn method(&self) -> &'static str {
        match (&self.network, self.reach.is_empty(), self.world.is_default()) {
            (None, true, true) => "start",
            (None, true, false) => Self::IN_WORLD,
            (None, false, _) => Self::REACHING,
            (Some(_), _, _) => Self::NETWORKED,
        }
    }
}

/// The parameters of `stop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stop {
    /// The signal that asks the daemon to end.
    pub signal: Signal,
    /// The time from the signal until SIGKILL, in milliseconds.
    pub grace_ms: u64,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: Signal::TERM, grace_ms: 30_000 }
    }
}

/// The parameters of `exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The time limit of the command, in milliseconds, after which the command is killed; 0 = 30 s.
    pub timeout_ms: u64,
    /// Whether the raw output is sent over this connection instead of a part of it in the answer.
    pub bulk: bool,
}

/// The parameters of `probe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The question to the daemon.
    pub check: Check,
    /// The time limit for the whole probe, in milliseconds; 0 = 30 s.
    #[serde(default)]
    pub timeout_ms: u64,
}

/// The answer to `probe`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeResult {
    /// Whether the daemon is well.
    pub healthy: bool,
    /// What the daemon has answered, or why there is no answer: at most 1 KiB, as the daemon has written it.
    pub output: String,
}

/// The parameters of `dial`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dial {
    /// The place to connect to.
    pub to: GuestPlace,
    /// The time for which the agent tries again while nothing listens there, in milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
}

/// The answer to `accept`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The place that a program of the guest has dialled.
    pub at: DialPlace,
}

/// The parameters of `exec_stream`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecStream {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables in addition to those of the daemon.
    pub env: BTreeMap<String, String>,
    /// The directory in which the command starts; absent = that of the daemon.
    pub dir: Option<String>,
    /// The user of the command, by name or number, perhaps with `:GROUP`; absent = that of the daemon.
    pub user: Option<String>,
    /// Whether the command has a standard input; otherwise it reads the end of the input at once.
    pub input: bool,
    /// The size of the terminal that the command gets; absent = the command gets no terminal.
    pub terminal: Option<TerminalSize>,
}

/// The parameters of `copy`. The command exits with 0, with 1 when it has left something out, which its standard error
/// names, and with 2 when it has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "direction", rename_all = "lowercase")]
pub enum Copy {
    /// Write a file or directory of the guest as a tar archive to the standard output.
    Out {
        /// The path; `/.` at its end means the contents of a directory.
        path: String,
        /// Whether a path that is a link is followed.
        #[serde(default)]
        follow_link: bool,
    },
    /// Unpack a tar archive from the standard input.
    In {
        /// A directory, into which the archive goes, or the new name of its only file or directory.
        path: String,
        /// Whether the path has to be a directory.
        #[serde(default)]
        into_directory: bool,
        /// Whether the owners in the archive are kept; otherwise everything belongs to the user of the agent.
        #[serde(default)]
        keep_owner: bool,
    },
}

/// The answer to `exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecResult {
    /// The end of the command.
    #[serde(with = "generation_1")]
    pub exit: Exit,
    /// Whether the command was killed at its time limit.
    pub timed_out: bool,
    /// The last 4 KiB of the combined standard output and standard error of the command.
    pub output: String,
}

/// The answer to `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentStatus {
    /// The process id of the daemon in the guest, while it runs.
    pub pid: Option<u32>,
    /// Whether the daemon was started in this boot.
    pub started: bool,
    /// Whether the daemon has sent `READY=1`.
    pub ready: bool,
    /// The last `STATUS=` text of the daemon, at most 256 characters.
    pub status: String,
    /// The end of the daemon; absent while the daemon has not ended.
    #[serde(with = "generation_1::optional")]
    pub exited: Option<Exit>,
    /// The number of the newest event.
    pub seq: u64,
    /// The time since the start of the agent, in milliseconds.
    pub uptime_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(b: &bool) -> bool {
    !b
}

fn params<T: DeserializeOwned + Default>(method: &str, params: Value) -> Result<T, WireError> {
    if params.is_null() { Ok(T::default()) } else { needed(method, params) }
}

/// Reads parameters that have no defaults.
fn needed<T: DeserializeOwned>(method: &str, params: Value) -> Result<T, WireError> {
    serde_json::from_value(params)
        .map_err(|e| WireError::new(ErrorKind::BadRequest, format!("{method}: {e}")))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Mounts {
    mounts: Vec<Mount>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Loose {
    signal: i32,
    unix_ms: u64,
    follow: bool,
    since: u64,
    seq: u64,
}

impl Ask {
    /// Returns the method and the parameters for a [`crate::Request`].
    pub fn into_parts(self) -> (&'static str, Value) {
        let value = |v: Result<Value, serde_json::Error>| v.expect("plain structs become JSON");
        match self {
            Self::Ping => ("ping", Value::Null),
            Self::Start(start) => (start.method(), value(serde_json::to_value(start))),
            Self::Prepare(start) => ("prepare", value(serde_json::to_value(start))),
            Self::Stop(stop) => ("stop", value(serde_json::to_value(stop))),
            Self::Signal(signal) => ("signal", json!({ "signal": signal.number() })),
            Self::Status => ("status", Value::Null),
            Self::Exec(exec) => ("exec", value(serde_json::to_value(exec))),
            Self::ExecStream(exec) => ("exec_stream", value(serde_json::to_value(exec))),
            Self::Copy(copy) => ("copy", value(serde_json::to_value(copy))),
            Self::SetTime { unix_ms } => ("set_time", json!({ "unix_ms": unix_ms })),
            Self::Logs { follow } => ("logs", json!({ "follow": follow })),
            Self::Watch { since } => ("watch", json!({ "since": since })),
            Self::Ack { seq } => ("ack", json!({ "seq": seq })),
            Self::Mount(mounts) => ("mount", json!({ "mounts": mounts })),
            Self::Dial(dial) => ("dial", value(serde_json::to_value(dial))),
            Self::Accept => ("accept", Value::Null),
            Self::Probe(probe) => ("probe", value(serde_json::to_value(probe))),
            Self::Usage => ("usage", Value::Null),
            Self::FreeMemory => ("free_memory", Value::Null),
            Self::PowerOff => ("power_off", Value::Null),
        }
    }

    /// Parses the method and the parameters of a request.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a method that this side does not know, [`ErrorKind::BadRequest`] for parameters
    /// that cannot be read.
    pub fn from_parts(method: &str, value: Value) -> Result<Self, WireError> {
        let loose = |value| params::<Loose>(method, value);
        match method {
            "ping" => Ok(Self::Ping),
            "start" | Start::IN_WORLD | Start::REACHING | Start::NETWORKED => {
                params(method, value).map(Self::Start)
            }
            "prepare" => params(method, value).map(Self::Prepare),
            "stop" => params(method, value).map(Self::Stop),
            "signal" => {
                let number = loose(value)?.signal;
                Signal::new(number).map(Self::Signal).ok_or_else(|| {
                    WireError::new(ErrorKind::BadRequest, format!("signal: {number} is not a signal"))
                })
            }
            "status" => Ok(Self::Status),
            "exec" => params(method, value).map(Self::Exec),
            "exec_stream" => params(method, value).map(Self::ExecStream),
            "copy" => needed(method, value).map(Self::Copy),
            "set_time" => Ok(Self::SetTime { unix_ms: loose(value)?.unix_ms }),
            "logs" => Ok(Self::Logs { follow: loose(value)?.follow }),
            "watch" => Ok(Self::Watch { since: loose(value)?.since }),
            "ack" => Ok(Self::Ack { seq: loose(value)?.seq }),
            "mount" => params::<Mounts>(method, value).map(|read| Self::Mount(read.mounts)),
            "dial" => needed(method, value).map(Self::Dial),
            "probe" => needed(method, value).map(Self::Probe),
            "accept" => Ok(Self::Accept),
            "usage" => Ok(Self::Usage),
            "free_memory" => Ok(Self::FreeMemory),
            "power_off" => Ok(Self::PowerOff),
            other => {
                let shown: String = other.chars().take(64).collect();
                Err(WireError::new(ErrorKind::Unsupported, format!("unknown method {shown:?}")))
            }
        }
    }
}

/// An event that a guest agent reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestEvent {
    /// The daemon runs.
    Started {
        /// The process id of the daemon in the guest.
        pid: u32,
    },
    /// The daemon sent `READY=1` (sd_notify(3)).
    Ready,
    /// The daemon has sent another message through sd_notify(3).
    Health(Health),
    /// The guest has run short of memory.
    Memory {
        /// Whether the OOM killer has ended a process.
        oom: bool,
    },
    /// The daemon has ended. The agent repeats this event until it is acknowledged.
    Exited(Exit),
    /// An event of a newer agent, which this program does not know, by its name.
    Unknown(String),
}

/// The contents of a message of the daemon through sd_notify(3), except `READY=1`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Whether the daemon has sent `WATCHDOG=1`.
    #[serde(skip_serializing_if = "is_false")]
    pub watchdog: bool,
    /// The text of `STATUS=`, at most 256 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The number of `EXTEND_TIMEOUT_USEC=`, in microseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extend_timeout_us: Option<u64>,
    /// Whether the daemon has sent `STOPPING=1`.
    #[serde(skip_serializing_if = "is_false")]
    pub stopping: bool,
    /// The process of `MAINPID=`, which is the daemon from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub main_pid: Option<u32>,
    /// Whether its VM is to stay awake: the daemon has asked for that (`X_PEPITA_AWAKE=1`), or a client of the agent has a
    /// command or a copy under way. Absent when that has not changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub awake: Option<bool>,
    /// What the agent has noticed about the daemon's end and an operator should know, as a phrase that goes on after the
    /// daemon's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Health {
    /// Adds what the daemon has said later. The later text and the later extension replace the earlier ones.
    pub fn merge(&mut self, later: Self) {
        let Self { watchdog, status, extend_timeout_us, stopping, main_pid, awake, advice } = later;
        self.watchdog |= watchdog;
        self.stopping |= stopping;
        self.status = status.or_else(|| self.status.take());
        self.extend_timeout_us = extend_timeout_us.or(self.extend_timeout_us);
        self.main_pid = main_pid.or(self.main_pid);
        self.awake = awake.or(self.awake);
        self.advice = advice.or_else(|| self.advice.take());
    }
}

/// The number of characters that are kept of the name of an event that is not known.
const NAME_CAP: usize = 64;

#[derive(Deserialize)]
struct StartedData {
    pid: u32,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MemoryData {
    oom: bool,
}

impl GuestEvent {
    /// Returns the name and the data for the line of an event.
    pub fn into_parts(self) -> (String, Value) {
        let value = |v: Result<Value, serde_json::Error>| v.expect("plain structs become JSON");
        match self {
            Self::Started { pid } => ("started".into(), json!({ "pid": pid })),
            Self::Ready => ("ready".into(), Value::Null),
            Self::Health(health) => ("health".into(), value(serde_json::to_value(health))),
            Self::Memory { oom } => ("memory".into(), json!({ "oom": oom })),
            Self::Exited(exit) => {
                ("exited".into(), value(generation_1::serialize(&exit, serde_json::value::Serializer)))
            }
            Self::Unknown(name) => (name, Value::Null),
        }
    }

    /// Parses an event. Unknown fields of `data` are dropped.
    ///
    /// # Errors
    /// When the data of a known event cannot be read.
    pub(crate) fn read(name: &str, data: &str) -> Result<Self, serde_json::Error> {
        let data = if data == "null" { "{}" } else { data };
        Ok(match name {
            "started" => Self::Started { pid: serde_json::from_str::<StartedData>(data)?.pid },
            "ready" => Self::Ready,
            "health" => {
                let mut health: Health = serde_json::from_str(data)?;
                for text in health.status.iter_mut().chain(&mut health.advice) {
                    *text = shown(text);
                }
                Self::Health(health)
            }
            "memory" => Self::Memory { oom: serde_json::from_str::<MemoryData>(data)?.oom },
            "exited" => {
                let exit = generation_1::deserialize(&mut serde_json::Deserializer::from_str(data))?;
                Self::Exited(exit)
            }
            other => Self::Unknown(shown_up_to(other, NAME_CAP)),
        })
    }
}
