//! The lines of a conversation: hello, request, answer, event; each is one JSON object.
//!
//! Unknown fields are ignored, unknown methods are answered with [`crate::ErrorKind::Unsupported`], and unknown events
//! are kept as [`crate::GuestEvent::Unknown`], so that an older side and a newer side can talk to each other.

use crate::agent::{Ask, GuestEvent};
use crate::error::WireError;
use crate::protocol::{CONTENT_CAP, LINE_CAP};
use crate::text::shown;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The first line of each side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version of the protocol that the sender speaks.
    #[serde(rename = "generation")]
    pub protocol_version: u32,
    /// The version of the sending program, for people.
    #[serde(default)]
    pub version: String,
    /// The boot id of the guest; empty from a host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// The incarnation of the VM: from a host, the incarnation that it expects; from an agent, its own incarnation.
    #[serde(default)]
    pub incarnation: u64,
    /// The token that authorises a host to talk to this guest; absent from a guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The token that replaces the token in force. A host may replace it once, with the first hello after a boot,
    /// because an older launcher puts the boot token on the kernel's command line, where the daemon can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_token: Option<String>,
    /// From a host: whether the connection is for one stream (such as `exec_stream`) instead of a conversation. An agent
    /// counts streams apart from conversations.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stream: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A request. Each request gets exactly one [`Outcome`] with the same `id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The number of the request, which the client chooses; unique on its connection.
    pub id: u64,
    /// The name of the method, for example `ping`.
    pub method: String,
    /// The parameters of the method: an object, or absent.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
}

/// The line of a request is longer than a guest agent accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes as a request to the guest agent, which accepts {LINE_CAP}")]
pub struct TooLong {
    /// The length of the line, in bytes.
    pub length: usize,
}

impl Ask {
    /// Checks that a guest agent accepts the line of this request. Its longest fields are the command and the
    /// environment of a daemon.
    ///
    /// # Errors
    /// When the line is too long.
    pub fn check_length(&self) -> Result<(), TooLong> {
        let (method, params) = self.clone().into_parts();
        // The longest id, so that the answer does not depend on the connection.
        let length = ToGuest::request(u64::MAX, method, params).encode().len();
        if length > LINE_CAP { Err(TooLong { length }) } else { Ok(()) }
    }
}

/// A line from a host to a guest agent, or from a client to a control socket.
#[derive(Debug, Clone, PartialEq)]
pub enum ToGuest {
    /// The first line of a host. A control socket expects no hello.
    Hello(Hello),
    /// Every later line.
    Request(Request),
}

/// The answer to a request: its result, or a refusal.
pub type Outcome = Result<Value, WireError>;

/// A line from a guest agent to a host, or from a control socket to a client.
#[derive(Debug, Clone, PartialEq)]
pub enum ToHost {
    /// The first line of an agent.
    Hello(Hello),
    /// The answer to a request; there is exactly one for each request.
    Answer {
        /// The id of the request; 0 = the answer is about the connection.
        id: u64,
        /// The result, or the refusal.
        outcome: Outcome,
    },
    /// An event, for connections that watch.
    Event {
        /// The number of the event; it grows by one with each event of a boot.
        seq: u64,
        /// The contents of the event.
        event: GuestEvent,
    },
}

/// The reason why a line is not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The line is not JSON, or a field has the wrong type.
    #[error("not a frame: {0}")]
    Json(#[from] serde_json::Error),
    /// The line is JSON, but not a hello, request, answer or event.
    #[error("not a frame: none of `hello`, `id` or `seq`")]
    Shapeless,
    /// An answer or an event holds more than [`CONTENT_CAP`] bytes.
    #[error("an answer or an event of more than {CONTENT_CAP} bytes")]
    TooMuch,
}

#[derive(Serialize, Deserialize, Default)]
struct RawToGuest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hello: Option<Hello>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    params: Value,
}

#[derive(Serialize, Default)]
struct RawToHost {
    #[serde(skip_serializing_if = "Option::is_none")]
    hello: Option<Hello>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<WireError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(skip_serializing_if = "Value::is_null")]
    data: Value,
}

/// The form for reading: the content of a guest's line is parsed only when it is needed, and only up to the cap.
#[derive(Deserialize, Default)]
#[serde(default)]
struct ReadToHost<'a> {
    hello: Option<Hello>,
    id: Option<u64>,
    #[serde(borrow)]
    ok: Option<&'a RawValue>,
    error: Option<WireError>,
    seq: Option<u64>,
    event: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

fn content(raw: &RawValue) -> Result<&str, FrameError> {
    if raw.get().len() > CONTENT_CAP { Err(FrameError::TooMuch) } else { Ok(raw.get()) }
}

fn line(raw: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(raw).expect("frames hold only strings, numbers and JSON values");
    bytes.push(b'\n');
    bytes
}

impl ToGuest {
    /// Returns a request with this id, method and parameters.
    pub fn request(id: u64, method: &str, params: Value) -> Self {
        Self::Request(Request { id, method: method.to_owned(), params })
    }

    /// Returns the line, newline included.
    pub fn encode(&self) -> Vec<u8> {
        line(&match self.clone() {
            Self::Hello(hello) => RawToGuest { hello: Some(hello), ..Default::default() },
            Self::Request(Request { id, method, params }) => {
                RawToGuest { id: Some(id), method: Some(method), params, ..Default::default() }
            }
        })
    }

    /// Reads a line without its newline.
    ///
    /// # Errors
    /// When the line is not JSON or not a frame.
    pub fn decode(line: &[u8]) -> Result<Self, FrameError> {
        match serde_json::from_slice(line)? {
            RawToGuest { hello: Some(hello), .. } => Ok(Self::Hello(hello)),
            RawToGuest { id: Some(id), method: Some(method), params, .. } => {
                Ok(Self::Request(Request { id, method, params }))
            }
            _ => Err(FrameError::Shapeless),
        }
    }
}

impl ToHost {
    /// Returns the line, newline included.
    pub fn encode(&self) -> Vec<u8> {
        line(&match self.clone() {
            Self::Hello(hello) => RawToHost { hello: Some(hello), ..Default::default() },
            Self::Answer { id, outcome: Ok(ok) } => {
                // `null` would read as absent, so an answer without content is `{}`.
                let ok = if ok.is_null() { Value::Object(Default::default()) } else { ok };
                RawToHost { id: Some(id), ok: Some(ok), ..Default::default() }
            }
            Self::Answer { id, outcome: Err(error) } => {
                RawToHost { id: Some(id), error: Some(error), ..Default::default() }
            }
            Self::Event { seq, event } => {
                let (name, data) = event.into_parts();
                RawToHost { seq: Some(seq), event: Some(name), data, ..Default::default() }
            }
        })
    }

    /// Reads a line without its newline. The texts of the guest become as [`shown`] makes them, except in the result of a
    /// request, which the asker gets as it came.
    ///
    /// # Errors
    /// When the line is not JSON or not a frame, or holds too much.
    pub fn decode(line: &[u8]) -> Result<Self, FrameError> {
        match serde_json::from_slice(line)? {
            ReadToHost { hello: Some(hello), .. } => Ok(Self::Hello(Hello {
                version: shown(&hello.version),
                boot_id: shown(&hello.boot_id),
                ..hello
            })),
            ReadToHost { id: Some(id), error: Some(error), .. } => {
                let error = WireError { message: shown(&error.message), ..error };
                Ok(Self::Answer { id, outcome: Err(error) })
            }
            ReadToHost { id: Some(id), ok: Some(ok), .. } => {
                Ok(Self::Answer { id, outcome: Ok(serde_json::from_str(content(ok)?)?) })
            }
            ReadToHost { seq: Some(seq), event: Some(name), data, .. } => {
                let data = data.map(content).transpose()?.unwrap_or("null");
                Ok(Self::Event { seq, event: GuestEvent::read(&name, data)? })
            }
            _ => Err(FrameError::Shapeless),
        }
    }
}
