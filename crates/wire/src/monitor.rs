//! The requests to a VM's monitor, over its control socket.

use crate::agent::Ask;
use crate::error::{ErrorKind, WireError};
use crate::name::VmId;
use crate::port::Publish;
use crate::signal::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// The time limit for the answers of all monitors that one call asks for a status. A monitor has one thread and never
/// blocks, so a monitor that is silent for longer is stopped or broken.
pub const STATUS_PATIENCE: Duration = Duration::from_secs(3);

/// The time limit for a monitor's answer to a request about its VM.
pub const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// The longest time in which a VM is gone after its supervisor has it removed, although its monitor does not answer: the
/// launcher asks the monitor for a status, asks it to end the VM, and then kills both, which takes the rest of the time.
pub const SILENT_REMOVAL: Duration =
    Duration::from_secs(STATUS_PATIENCE.as_secs() + REQUEST_PATIENCE.as_secs() + 3);

/// A request to a monitor.
// A request exists while it is carried out, and few do at a time.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorRequest {
    /// Answer with the [`crate::StatusRecord`].
    Status,
    /// Answer with the [`crate::StatusRecord`] as soon as its revision differs from `since` (a long poll).
    Watch {
        /// The revision that the client knows; 0 = no revision.
        since: u64,
    },
    /// Send the daemon a signal, and end the VM at once when the time limit is reached.
    Stop {
        /// The signal for the daemon.
        signal: Signal,
        /// The time limit for the daemon to end, in milliseconds.
        timeout_ms: u64,
        /// End the VM at once.
        force: bool,
        /// Refuse the request with [`ErrorKind::Conflict`] when the VM is in use.
        if_idle: bool,
    },
    /// Send the daemon a signal. SIGKILL ends the VM; SIGSTOP and SIGCONT pause and resume it.
    Signal(Signal),
    /// Pause the virtual CPUs.
    Pause,
    /// Resume the virtual CPUs.
    Resume,
    /// Connect to the guest agent, and hand the connection over: the answer brings one descriptor (SCM_RIGHTS of
    /// unix(7)), a stream to the agent on which nothing was said yet. The monitor completes the connection even when
    /// the client goes away, because vhost-device-vsock 0.3.0 does not survive a host that hangs up before the guest
    /// has answered.
    Dial {
        /// Whether the monitor says the hello, for a connection that carries one stream: the answer has the agent's hello,
        /// and the next line on the connection is a request. A monitor of an earlier version says none, and its answer has
        /// none.
        greet: bool,
    },
    /// Tell in the status how long the VM is idle, from now on ([`crate::StatusRecord::idle_ms`]).
    TellIdle,
    /// Count this client as one that uses the VM, as long as its connection is open. A VM that is asleep sleeps on. A monitor of an
    /// earlier version does not know it.
    KeepAwake,
    /// Pause the virtual CPUs until a client comes: a connection to a published port, or a dial, resumes them. Refused with
    /// [`ErrorKind::Conflict`] when the VM is in use. A pause that is asked for meanwhile is one that no client ends.
    Sleep,
    /// Publish these ports, and no others of those that a client has handed over. The request brings the listening
    /// sockets, one for each port in the same order (SCM_RIGHTS of unix(7)). The monitor takes connections from them
    /// while its VM can serve them, and closes its copies when the VM ends.
    Publish(Vec<Publish>),
    /// Answer with the ports that a client has handed over, and with their listening sockets in the same order.
    Published,
    /// Answer with the use of each published port: a list of [`crate::record::PortUse`], `ports`. A monitor of an earlier
    /// version does not know it.
    PortUse,
    /// Make the VM, which was launched with `--hold` and whose guest agent is up, another VM, and start its daemon: a warm
    /// spare takes the place of a VM that has ended. Answered with the [`crate::StatusRecord`] when the order is on its way to
    /// the agent. A monitor of an earlier version does not know it.
    Promote {
        /// The name that the VM has from now on. A VM that has it must have ended.
        name: VmId,
        /// The number of this start of that VM.
        incarnation: u64,
    },
    /// Pass a request on to the guest agent: `start`, `ping`, `exec`, `set_time` or `usage`.
    Forward(Ask),
}

/// The parameters of a monitor's own methods. Each parameter is optional.
#[derive(Deserialize)]
#[serde(default)]
struct Params {
    since: u64,
    signal: i32,
    timeout_ms: u64,
    force: bool,
    if_idle: bool,
    ports: Vec<Publish>,
    greet: bool,
    name: String,
    incarnation: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            since: 0,
            signal: Signal::TERM.number(),
            timeout_ms: 30_000,
            force: false,
            if_idle: false,
            ports: Vec::new(),
            greet: false,
            name: String::new(),
            incarnation: 0,
        }
    }
}

impl MonitorRequest {
    /// Returns the method and the parameters for a [`crate::Request`].
    pub fn into_parts(self) -> (&'static str, Value) {
        match self {
            Self::Status => ("status", Value::Null),
            Self::Watch { since } => ("watch", json!({ "since": since })),
            Self::Stop { signal, timeout_ms, force, if_idle } => {
                let mut params =
                    json!({ "signal": signal.number(), "timeout_ms": timeout_ms, "force": force });
                if if_idle {
                    params["if_idle"] = true.into();
                }
                ("stop", params)
            }
            Self::Signal(signal) => ("signal", json!({ "signal": signal.number() })),
            Self::Pause => ("pause", Value::Null),
            Self::Resume => ("resume", Value::Null),
            Self::TellIdle => ("tell_idle", Value::Null),
            Self::KeepAwake => ("keep_awake", Value::Null),
            Self::Sleep => ("sleep", Value::Null),
            Self::Dial { greet: false } => ("dial", Value::Null),
            Self::Dial { greet: true } => ("dial", json!({ "greet": true })),
            Self::Publish(ports) => ("publish", json!({ "ports": ports })),
            Self::Published => ("published", Value::Null),
            Self::PortUse => ("port_use", Value::Null),
            Self::Promote { name, incarnation } => {
                ("promote", json!({ "name": name.as_str(), "incarnation": incarnation }))
            }
            Self::Forward(ask) => ask.into_parts(),
        }
    }

    /// Parses the method and the parameters of a request.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a method that a monitor does not know, [`ErrorKind::BadRequest`] for parameters
    /// that cannot be read.
    pub fn from_parts(method: &str, value: Value) -> Result<Self, WireError> {
        match method {
            "status" => Ok(Self::Status),
            "watch" => Ok(Self::Watch { since: params(method, value)?.since }),
            "stop" => {
                let Params { signal, timeout_ms, force, if_idle, .. } = params(method, value)?;
                Ok(Self::Stop { signal: to_signal(method, signal)?, timeout_ms, force, if_idle })
            }
            "signal" => to_signal(method, params(method, value)?.signal).map(Self::Signal),
            "pause" => Ok(Self::Pause),
            "resume" => Ok(Self::Resume),
            "tell_idle" => Ok(Self::TellIdle),
            "keep_awake" => Ok(Self::KeepAwake),
            "sleep" => Ok(Self::Sleep),
            "dial" => Ok(Self::Dial { greet: params(method, value)?.greet }),
            "publish" => Ok(Self::Publish(params(method, value)?.ports)),
            "published" => Ok(Self::Published),
            "port_use" => Ok(Self::PortUse),
            "promote" => {
                let Params { name, incarnation, .. } = params(method, value)?;
                let bad = |e| WireError::new(ErrorKind::BadRequest, format!("{method}: {e}"));
                Ok(Self::Promote { name: VmId::new(&name).map_err(bad)?, incarnation })
            }
            // Any other method is passed on to the agent, if agents know it.
            _ => match Ask::from_parts(method, value)? {
                ask @ (Ask::Start(_) | Ask::Ping | Ask::Exec(_) | Ask::SetTime { .. } | Ask::Usage) => {
                    Ok(Self::Forward(ask))
                }
                Ask::Stop(_)
                | Ask::Prepare(_)
                | Ask::ExecStream(_)
                | Ask::Copy(_)
                | Ask::Signal(_)
                | Ask::Status
                | Ask::Logs { .. }
                | Ask::Watch { .. }
                | Ask::Ack { .. }
                | Ask::Mount(_)
                | Ask::Dial(_)
                | Ask::Accept
                | Ask::Probe(_)
                | Ask::FreeMemory
                | Ask::PowerOff => {
                    let why = format!("{method:?} is not for the monitor");
                    Err(WireError::new(ErrorKind::Unsupported, why))
                }
            },
        }
    }
}

fn to_signal(method: &str, number: i32) -> Result<Signal, WireError> {
    let why =
        || WireError::new(ErrorKind::BadRequest, format!("{method}: {number} is not a signal, 1 to 64"));
    Signal::new(number).ok_or_else(why)
}

fn params(method: &str, value: Value) -> Result<Params, WireError> {
    if value.is_null() {
        return Ok(Params::default());
    }
    serde_json::from_value(value).map_err(|e| WireError::new(ErrorKind::BadRequest, format!("{method}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{Exec, Start};

    #[test]
    fn every_request_survives_the_way_there() {
        let exec = Exec { command: vec!["/bin/true".into()], timeout_ms: 5, bulk: false };
        for request in [
            MonitorRequest::Status,
            MonitorRequest::Watch { since: 4 },
            MonitorRequest::Stop { signal: Signal::HUP, timeout_ms: 7, force: true, if_idle: false },
            MonitorRequest::Stop { signal: Signal::HUP, timeout_ms: 7, force: false, if_idle: true },
            MonitorRequest::Signal(Signal::KILL),
            MonitorRequest::Pause,
            MonitorRequest::Resume,
            MonitorRequest::TellIdle,
            MonitorRequest::KeepAwake,
            MonitorRequest::Sleep,
            MonitorRequest::Dial { greet: false },
            MonitorRequest::Dial { greet: true },
            MonitorRequest::Publish(vec!["127.0.0.1:6379:6379".parse().expect("a port")]),
            MonitorRequest::Published,
            MonitorRequest::PortUse,
            MonitorRequest::Promote { name: VmId::new("a").expect("a name"), incarnation: 7 },
            MonitorRequest::Forward(Ask::Ping),
            MonitorRequest::Forward(Ask::Usage),
            MonitorRequest::Forward(Ask::Start(Start::default())),
            MonitorRequest::Forward(Ask::Exec(exec)),
            MonitorRequest::Forward(Ask::SetTime { unix_ms: 1 }),
        ] {
            let (method, params) = request.clone().into_parts();
            assert_eq!(MonitorRequest::from_parts(method, params), Ok(request));
        }
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let stop =
            MonitorRequest::Stop { signal: Signal::TERM, timeout_ms: 30_000, force: false, if_idle: false };
        assert_eq!(MonitorRequest::from_parts("stop", Value::Null), Ok(stop));
        assert_eq!(MonitorRequest::from_parts("signal", json!({})), Ok(MonitorRequest::Signal(Signal::TERM)));
        assert_eq!(
            MonitorRequest::from_parts("watch", json!({"later": 1})),
            Ok(MonitorRequest::Watch { since: 0 })
        );
    }

    #[test]
    fn what_a_monitor_does_not_do_is_refused_by_kind() {
        let kind = |method, params| MonitorRequest::from_parts(method, params).expect_err(method).kind;
        assert_eq!(kind("logs", Value::Null), ErrorKind::Unsupported);
        assert_eq!(kind("fly", Value::Null), ErrorKind::Unsupported);
        for number in [65, 0, -1, i32::MIN] {
            assert_eq!(kind("signal", json!({"signal": number})), ErrorKind::BadRequest);
            assert_eq!(kind("stop", json!({"signal": number})), ErrorKind::BadRequest);
        }
        for number in [json!("TERM"), json!(1.5), json!(1_u64 << 40)] {
            assert_eq!(kind("stop", json!({"signal": number})), ErrorKind::BadRequest);
        }
        assert_eq!(kind("watch", json!({"since": "one"})), ErrorKind::BadRequest);
    }
}
