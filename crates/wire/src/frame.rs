//! The envelope of the conversation: hello, request, answer, event; one JSON object a line each way.
//!
//! Unknown fields are ignored, unknown methods are answered with [`crate::ErrorKind::Unsupported`], unknown events are kept
//! as [`crate::GuestEvent::Unknown`]: an old side and a new one go on talking.

use crate::agent::GuestEvent;
use crate::error::WireError;
use crate::protocol::CONTENT_CAP;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The first line of each side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version of the protocol that the sender speaks.
    #[serde(rename = "generation")]
    pub protocol_version: u32,
    /// The sender's own version, for people.
    #[serde(default)]
    pub version: String,
    /// The guest's boot id; empty from a host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// The incarnation of the VM that the sender means, or is.
    #[serde(default)]
    pub incarnation: u64,
    /// The host's proof that it may speak to this guest; absent from a guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A host may replace the token, once, with the first hello after boot: the boot token stood on the kernel's
    /// command line, where the daemon could read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_token: Option<String>,
}

/// A question of the host. Each gets exactly one [`Outcome`] with the same `id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the asker; unique on its connection.
    pub id: u64,
    /// What is asked, for example `ping`.
    pub method: String,
    /// The method's parameters, an object; may be left out.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
}

/// What a host says to a guest (and a client of the monitor's control socket to the monitor).
#[derive(Debug, Clone, PartialEq)]
pub enum ToGuest {
    /// The first line.
    Hello(Hello),
    /// Any later line.
    Request(Request),
}

/// How a request ended.
pub type Outcome = Result<Value, WireError>;

/// What a guest says to a host (and the monitor to a client of its control socket).
#[derive(Debug, Clone, PartialEq)]
pub enum ToHost {
    /// The first line.
    Hello(Hello),
    /// The one answer to a request.
    Answer {
        /// The request's id.
        id: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// News for watchers.
    Event {
        /// Grows by one with each event of this boot.
        seq: u64,
        /// The news.
        event: GuestEvent,
    },
}

/// A line that is not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Not JSON, or a field of the wrong type.
    #[error("not a frame: {0}")]
    Json(#[from] serde_json::Error),
    /// JSON, but none of hello, request, answer or event.
    #[error("not a frame: none of `hello`, `id` or `seq`")]
    Shapeless,
    /// An answer or an event holds more than [`CONTENT_CAP`].
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

/// As it is read: what a guest has put into it becomes a value only where it is wanted, and not beyond the cap.
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
    /// A request.
    pub fn request(id: u64, method: &str, params: Value) -> Self {
        Self::Request(Request { id, method: method.to_owned(), params })
    }

    /// The line, newline included.
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
    /// The line, newline included.
    pub fn encode(&self) -> Vec<u8> {
        line(&match self.clone() {
            Self::Hello(hello) => RawToHost { hello: Some(hello), ..Default::default() },
            Self::Answer { id, outcome: Ok(ok) } => {
                // `null` would read as absent: an answer without content is `{}`.
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

    /// Reads a line without its newline.
    ///
    /// # Errors
    /// When the line is not JSON or not a frame, or holds too much.
    pub fn decode(line: &[u8]) -> Result<Self, FrameError> {
        match serde_json::from_slice(line)? {
            ReadToHost { hello: Some(hello), .. } => Ok(Self::Hello(hello)),
            ReadToHost { id: Some(id), error: Some(error), .. } => {
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
