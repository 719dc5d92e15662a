//! The calls that a client can make over the control socket, and their form in a request. No I/O.

use crate::group::Command;
use crate::spec::Signal;
use pepita_wire::{Ask, ErrorKind, WireError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strum::{Display, EnumIter, EnumString, IntoStaticStr};

/// A call of a client: a question or a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `version`: asks which supervisor answers here, and which launcher it uses.
    Version,
    /// `status`: asks for every group and VM as it is now.
    Status,
    /// `status {of, brief}`: asks for a part of the status. An older supervisor answers with all of it.
    StatusOf(StatusPart),
    /// `events {after}`: asks for the events that are told from now on, and with `after` also for the events after the
    /// event of this number; 0 = from the start of the tree.
    Events {
        /// The number of the last event that the client knows.
        after: Option<u64>,
    },
    /// `start {vm}`, `stop {vm}`, `restart {vm}`, `reset {vm}`: gives a VM a command; answered when it is accepted.
    Command {
        /// The name of the VM.
        vm: String,
        /// The command for the VM.
        command: Command,
    },
    /// `signal {vm, signal}`: sends the daemon of a VM a signal, given by its name or number.
    Signal {
        /// The name of the VM.
        vm: String,
        /// The signal for the daemon.
        signal: Signal,
    },
    /// `pause {vm}`: stops the virtual CPUs of a VM.
    Pause {
        /// The name of the VM.
        vm: String,
    },
    /// `resume {vm}`: lets the virtual CPUs of a VM run again.
    Resume {
        /// The name of the VM.
        vm: String,
    },
    /// `ask {vm, ask, params}`: asks the guest agent of a VM a question, in the words of the agent's protocol.
    Ask {
        /// The name of the VM.
        vm: String,
        /// The question to the guest agent.
        ask: Ask,
    },
    /// `plan`: asks what a reload would change.
    Plan,
    /// `reload {restart}`: applies the configuration as it is written now.
    Reload {
        /// Whether the VMs whose configuration differs are restarted.
        restart: bool,
    },
    /// `reload {restart, allow_removal: true}`: applies the configuration as it is written now, also when that removes
    /// all VMs or most of them, which [`Call::Reload`] refuses.
    ReloadAndRemove {
        /// Whether the VMs whose configuration differs are restarted.
        restart: bool,
    },
    /// `shutdown {how}`: ends the tree; answered when it has ended.
    Shutdown {
        /// How the tree is to end.
        how: ShutdownMode,
    },
}

/// The part of the status that a client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusPart {
    /// Names of VMs (also their ids) and of groups. The answer has all VMs of their groups, and of the other groups those
    /// that have failed, because others may wait for them. Empty for all VMs of all groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub of: Vec<String>,
    /// Whether the evidence and the last output of VMs that have ended are left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub brief: bool,
}

/// The method names of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
enum Method {
    Version,
    Status,
    Events,
    Start,
    Stop,
    Restart,
    Reset,
    Signal,
    Pause,
    Resume,
    Ask,
    Plan,
    Reload,
    Shutdown,
}

/// The way in which a tree is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum ShutdownMode {
    /// The VMs of the tree stop in order.
    #[default]
    Stop,
    /// The VMs of the tree run on.
    Leave,
    /// The VMs of the tree are killed at once.
    Destroy,
}

#[derive(Deserialize)]
struct VmParams {
    vm: String,
}

#[derive(Deserialize)]
struct SignalParams {
    vm: String,
    signal: Value,
}

#[derive(Deserialize)]
struct AskParams {
    vm: String,
    ask: String,
    #[serde(default)]
    params: Value,
}

/// Parameters that may be left out.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OptionalParams {
    after: Option<u64>,
    restart: bool,
    allow_removal: bool,
    how: ShutdownMode,
}

fn params<T: DeserializeOwned>(method: Method, value: Value) -> Result<T, WireError> {
    let value = if value.is_null() { json!({}) } else { value };
    serde_json::from_value(value).map_err(|e| bad(method, e))
}

fn bad(method: Method, why: impl std::fmt::Display) -> WireError {
    let method: &str = method.into();
    WireError::new(ErrorKind::BadRequest, format!("{method}: {why}"))
}

impl Call {
    /// Reads a request.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Unsupported`] for a method that is not known, [`ErrorKind::BadRequest`] for its parameters.
    pub fn from_parts(method: &str, value: Value) -> Result<Self, WireError> {
        let Ok(method) = method.parse::<Method>() else {
            let shown: String = method.chars().take(64).collect();
            return Err(WireError::new(ErrorKind::Unsupported, format!("unknown method {shown:?}")));
        };
        let vm = |value| params::<VmParams>(method, value).map(|params| params.vm);
        let command = |value, command| vm(value).map(|vm| Self::Command { vm, command });
        let optional = |value| params::<OptionalParams>(method, value);
        match method {
            Method::Version => Ok(Self::Version),
            Method::Status => Ok(match params::<StatusPart>(method, value)? {
                all if all == StatusPart::default() => Self::Status,
                part => Self::StatusOf(part),
            }),
            Method::Events => Ok(Self::Events { after: optional(value)?.after }),
            Method::Start => command(value, Command::Start),
            Method::Stop => command(value, Command::Stop),
            Method::Restart => command(value, Command::Restart),
            Method::Reset => command(value, Command::Reset),
            Method::Signal => {
                let SignalParams { vm, signal } = params(method, value)?;
                let text = signal.as_str().map_or_else(|| signal.to_string(), str::to_owned);
                Ok(Self::Signal { vm, signal: text.parse().map_err(|e| bad(method, e))? })
            }
            Method::Pause => Ok(Self::Pause { vm: vm(value)? }),
            Method::Resume => Ok(Self::Resume { vm: vm(value)? }),
            Method::Ask => {
                let AskParams { vm, ask, params } = params(method, value)?;
                Ok(Self::Ask { vm, ask: forwardable(Ask::from_parts(&ask, params)?)? })
            }
            Method::Plan => Ok(Self::Plan),
            Method::Reload => {
                let OptionalParams { restart, allow_removal, .. } = optional(value)?;
                Ok(if allow_removal { Self::ReloadAndRemove { restart } } else { Self::Reload { restart } })
            }
            Method::Shutdown => Ok(Self::Shutdown { how: optional(value)?.how }),
        }
    }

    /// Returns the method and the parameters, as they stand in a request.
    pub fn into_parts(self) -> (&'static str, Value) {
        let (method, params) = match self {
            Self::Version => (Method::Version, Value::Null),
            Self::Status => (Method::Status, Value::Null),
            Self::StatusOf(part) => (Method::Status, json!(part)),
            Self::Events { after: None } => (Method::Events, Value::Null),
            Self::Events { after } => (Method::Events, json!({ "after": after })),
            Self::Command { vm, command } => (method_of(command), json!({ "vm": vm })),
            Self::Signal { vm, signal } => (Method::Signal, json!({ "vm": vm, "signal": signal.number() })),
            Self::Pause { vm } => (Method::Pause, json!({ "vm": vm })),
            Self::Resume { vm } => (Method::Resume, json!({ "vm": vm })),
            Self::Ask { vm, ask } => {
                let (ask, params) = ask.into_parts();
                (Method::Ask, json!({ "vm": vm, "ask": ask, "params": params }))
            }
            Self::Plan => (Method::Plan, Value::Null),
            Self::Reload { restart } => (Method::Reload, json!({ "restart": restart })),
            Self::ReloadAndRemove { restart } => {
                (Method::Reload, json!({ "restart": restart, "allow_removal": true }))
            }
            Self::Shutdown { how } => (Method::Shutdown, json!({ "how": how })),
        };
        (method.into(), params)
    }

    /// Returns whether the answer grows with the number of VMs.
    pub(super) fn has_long_answer(&self) -> bool {
        match self {
            Self::Status
            | Self::StatusOf(_)
            | Self::Plan
            | Self::Reload { .. }
            | Self::ReloadAndRemove { .. } => true,
            Self::Version
            | Self::Events { .. }
            | Self::Command { .. }
            | Self::Signal { .. }
            | Self::Pause { .. }
            | Self::Resume { .. }
            | Self::Ask { .. }
            | Self::Shutdown { .. } => false,
        }
    }

    /// Returns whether the call changes nothing.
    pub fn is_question(&self) -> bool {
        match self {
            Self::Version | Self::Status | Self::StatusOf(_) | Self::Events { .. } | Self::Plan => true,
            Self::Command { .. }
            | Self::Signal { .. }
            | Self::Pause { .. }
            | Self::Resume { .. }
            | Self::Ask { .. }
            | Self::Reload { .. }
            | Self::ReloadAndRemove { .. }
            | Self::Shutdown { .. } => false,
        }
    }
}

fn method_of(command: Command) -> Method {
    match command {
        Command::Start => Method::Start,
        Command::Stop => Method::Stop,
        Command::Restart => Method::Restart,
        Command::Reset => Method::Reset,
    }
}

/// Lets only a question with one answer through to a guest: the other methods would take the tree's own conversation
/// with the guest away.
fn forwardable(ask: Ask) -> Result<Ask, WireError> {
    let refused = match &ask {
        Ask::Ping
        | Ask::Status
        | Ask::Signal(_)
        | Ask::SetTime { .. }
        | Ask::Probe(_)
        | Ask::Usage
        | Ask::FreeMemory => None,
        Ask::Exec(exec) => exec.bulk.then_some("exec with bulk"),
        Ask::ExecStream(_) => Some("exec_stream"),
        Ask::Copy(_) => Some("copy"),
        Ask::Logs { .. } => Some("logs"),
        Ask::Watch { .. } => Some("watch"),
        Ask::Ack { .. } => Some("ack"),
        Ask::Dial(_) => Some("dial"),
        Ask::Accept => Some("accept"),
        Ask::Start(_) => Some("start"),
        Ask::Prepare(_) => Some("prepare"),
        Ask::Stop(_) => Some("stop"),
        Ask::Mount(_) => Some("mount"),
        Ask::PowerOff => Some("power_off"),
    };
    match refused {
        None => Ok(ask),
        Some(what) => {
            Err(WireError::new(ErrorKind::Unsupported, format!("ask: {what} is not passed on to a guest")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pepita_wire::agent::Exec;
    use strum::IntoEnumIterator;

    fn vm() -> String {
        "api".into()
    }

    #[test]
    fn every_call_is_read_as_it_is_written() {
        let mut methods: Vec<&str> = Method::iter().map(Into::into).collect();
        let exec = Exec { command: vec!["uptime".into()], ..Exec::default() };
        let command = |command| Call::Command { vm: vm(), command };
        for call in [
            Call::Version,
            Call::Status,
            Call::StatusOf(StatusPart { of: vec![vm()], brief: true }),
            Call::StatusOf(StatusPart { brief: true, ..StatusPart::default() }),
            Call::Events { after: None },
            Call::Events { after: Some(7) },
            command(Command::Start),
            command(Command::Stop),
            command(Command::Restart),
            command(Command::Reset),
            Call::Signal { vm: vm(), signal: Signal::HUP },
            Call::Pause { vm: vm() },
            Call::Resume { vm: vm() },
            Call::Ask { vm: vm(), ask: Ask::Exec(exec) },
            Call::Plan,
            Call::Reload { restart: true },
            Call::ReloadAndRemove { restart: false },
            Call::Shutdown { how: ShutdownMode::Leave },
        ] {
            let (method, params) = call.clone().into_parts();
            methods.retain(|left| *left != method);
            assert_eq!(Call::from_parts(method, params), Ok(call), "{method}");
        }
        assert_eq!(methods, Vec::<&str>::new(), "no call has these methods");
    }

    #[test]
    fn what_may_be_left_out_may_be_left_out() {
        assert_eq!(Call::from_parts("shutdown", Value::Null), Ok(Call::Shutdown { how: ShutdownMode::Stop }));
        assert_eq!(Call::from_parts("reload", json!({})), Ok(Call::Reload { restart: false }));
        let hup = Call::Signal { vm: vm(), signal: Signal::HUP };
        assert_eq!(Call::from_parts("signal", json!({ "vm": "api", "signal": "SIGHUP" })), Ok(hup));
    }

    #[test]
    fn nonsense_is_refused_with_the_method_named() {
        for (method, value, kind) in [
            ("start", json!({}), ErrorKind::BadRequest),
            ("start", json!([1]), ErrorKind::BadRequest),
            ("signal", json!({ "vm": "api", "signal": "LOUD" }), ErrorKind::BadRequest),
            ("shutdown", json!({ "how": "gently" }), ErrorKind::BadRequest),
            ("ask", json!({ "vm": "api", "ask": "sing" }), ErrorKind::Unsupported),
            ("ask", json!({ "vm": "api", "ask": "logs" }), ErrorKind::Unsupported),
            (
                "ask",
                json!({ "vm": "api", "ask": "exec", "params": { "bulk": true } }),
                ErrorKind::Unsupported,
            ),
            ("sing", Value::Null, ErrorKind::Unsupported),
        ] {
            let error = Call::from_parts(method, value).expect_err(method);
            assert_eq!(error.kind, kind, "{error}");
        }
    }
}
