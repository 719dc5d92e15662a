//! What can be asked over the control socket, and how that is written. No I/O.

use crate::group::Command;
use crate::spec::Signal;
use pepita_wire::{Ask, ErrorKind, WireError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A question or a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `version`: who answers here, and with which launcher.
    Version,
    /// `status`: every group and VM as it is now.
    Status,
    /// `events {after}`: news from now on; with `after` those after the event of this number, 0 = from the very start.
    Events {
        /// The last event that is known.
        after: Option<u64>,
    },
    /// `start {vm}`, `stop {vm}`, `restart {vm}`, `reset {vm}`; answered when it is accepted.
    Command {
        /// Which.
        vm: String,
        /// What.
        command: Command,
    },
    /// `signal {vm, signal}`: to the daemon.
    Signal {
        /// Whose.
        vm: String,
        /// A name or a number.
        signal: Signal,
    },
    /// `pause {vm}`: stop its virtual CPUs.
    Pause {
        /// Which.
        vm: String,
    },
    /// `resume {vm}`: let them run.
    Resume {
        /// Which.
        vm: String,
    },
    /// `ask {vm, ask, params}`: something of its guest agent, in the agent's own words.
    Ask {
        /// Whose.
        vm: String,
        /// What.
        ask: Ask,
    },
    /// `plan`: what a reload would change.
    Plan,
    /// `reload {restart}`: take the configuration as it is written now.
    Reload {
        /// Restart the VMs that differ.
        restart: bool,
    },
    /// `shutdown {how}`: end the tree; answered when it has ended.
    Shutdown {
        /// How.
        how: How,
    },
}

/// How a tree is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// In order.
    #[default]
    Stop,
    /// Its VMs run on.
    Leave,
    /// At once.
    Destroy,
}

impl How {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Leave => "leave",
            Self::Destroy => "destroy",
        }
    }
}

#[derive(Deserialize)]
struct Vm {
    vm: String,
}

#[derive(Deserialize)]
struct VmSignal {
    vm: String,
    signal: Value,
}

#[derive(Deserialize)]
struct VmAsk {
    vm: String,
    ask: String,
    #[serde(default)]
    params: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Loose {
    after: Option<u64>,
    restart: bool,
    how: How,
}

fn params<T: DeserializeOwned>(method: &str, value: Value) -> Result<T, WireError> {
    let value = if value.is_null() { json!({}) } else { value };
    serde_json::from_value(value).map_err(|e| bad(method, e))
}

fn bad(method: &str, why: impl std::fmt::Display) -> WireError {
    WireError::new(ErrorKind::BadRequest, format!("{method}: {why}"))
}

impl Call {
    /// Reads a request.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a method that is not known, [`ErrorKind::BadRequest`] for its parameters.
    pub fn from_parts(method: &str, value: Value) -> Result<Self, WireError> {
        let vm = |value| params::<Vm>(method, value).map(|vm| vm.vm);
        let command = |value, command| vm(value).map(|vm| Self::Command { vm, command });
        let loose = |value| params::<Loose>(method, value);
        match method {
            "version" => Ok(Self::Version),
            "status" => Ok(Self::Status),
            "events" => Ok(Self::Events { after: loose(value)?.after }),
            "start" => command(value, Command::Start),
            "stop" => command(value, Command::Stop),
            "restart" => command(value, Command::Restart),
            "reset" => command(value, Command::Reset),
            "signal" => {
                let VmSignal { vm, signal } = params(method, value)?;
                let text = signal.as_str().map_or_else(|| signal.to_string(), str::to_owned);
                Ok(Self::Signal { vm, signal: text.parse().map_err(|e| bad(method, e))? })
            }
            "pause" => Ok(Self::Pause { vm: vm(value)? }),
            "resume" => Ok(Self::Resume { vm: vm(value)? }),
            "ask" => {
                let VmAsk { vm, ask, params } = params(method, value)?;
                Ok(Self::Ask { vm, ask: passable(Ask::from_parts(&ask, params)?)? })
            }
            "plan" => Ok(Self::Plan),
            "reload" => Ok(Self::Reload { restart: loose(value)?.restart }),
            "shutdown" => Ok(Self::Shutdown { how: loose(value)?.how }),
            other => {
                let shown: String = other.chars().take(64).collect();
                Err(WireError::new(ErrorKind::Unsupported, format!("unknown method {shown:?}")))
            }
        }
    }

    /// Method and parameters, as they go into a request.
    pub fn into_parts(self) -> (&'static str, Value) {
        match self {
            Self::Version => ("version", Value::Null),
            Self::Status => ("status", Value::Null),
            Self::Events { after: None } => ("events", Value::Null),
            Self::Events { after } => ("events", json!({ "after": after })),
            Self::Command { vm, command } => (word(command), json!({ "vm": vm })),
            Self::Signal { vm, signal } => ("signal", json!({ "vm": vm, "signal": signal.number() })),
            Self::Pause { vm } => ("pause", json!({ "vm": vm })),
            Self::Resume { vm } => ("resume", json!({ "vm": vm })),
            Self::Ask { vm, ask } => {
                let (ask, params) = ask.into_parts();
                ("ask", json!({ "vm": vm, "ask": ask, "params": params }))
            }
            Self::Plan => ("plan", Value::Null),
            Self::Reload { restart } => ("reload", json!({ "restart": restart })),
            Self::Shutdown { how } => ("shutdown", json!({ "how": how.as_str() })),
        }
    }

    /// It only looks.
    pub fn is_question(&self) -> bool {
        match self {
            Self::Version | Self::Status | Self::Events { .. } | Self::Plan => true,
            Self::Command { .. }
            | Self::Signal { .. }
            | Self::Pause { .. }
            | Self::Resume { .. }
            | Self::Ask { .. }
            | Self::Reload { .. }
            | Self::Shutdown { .. } => false,
        }
    }
}

fn word(command: Command) -> &'static str {
    match command {
        Command::Start => "start",
        Command::Stop => "stop",
        Command::Restart => "restart",
        Command::Reset => "reset",
    }
}

/// Only what is one question with one answer: the rest would take the tree's own conversation with the guest away.
fn passable(ask: Ask) -> Result<Ask, WireError> {
    let refused = match &ask {
        Ask::Ping | Ask::Status | Ask::Signal(_) | Ask::SetTime { .. } => None,
        Ask::Exec(exec) => exec.bulk.then_some("exec with bulk"),
        Ask::Logs { .. } => Some("logs"),
        Ask::Watch { .. } => Some("watch"),
        Ask::Ack { .. } => Some("ack"),
        Ask::Start(_) => Some("start"),
        Ask::Stop(_) => Some("stop"),
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

    fn vm() -> String {
        "api".into()
    }

    #[test]
    fn every_call_is_read_as_it_is_written() {
        let exec = Exec { command: vec!["uptime".into()], ..Exec::default() };
        let command = |command| Call::Command { vm: vm(), command };
        for call in [
            Call::Version,
            Call::Status,
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
            Call::Shutdown { how: How::Leave },
        ] {
            let (method, params) = call.clone().into_parts();
            assert_eq!(Call::from_parts(method, params), Ok(call), "{method}");
        }
    }

    #[test]
    fn what_may_be_left_out_may_be_left_out() {
        assert_eq!(Call::from_parts("shutdown", Value::Null), Ok(Call::Shutdown { how: How::Stop }));
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
