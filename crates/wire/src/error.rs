//! Refusals of requests: a kind for programs and a sentence for people.

use serde::{Deserialize, Serialize};

/// The refusal of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct WireError {
    /// The reason, for programs.
    pub kind: ErrorKind,
    /// The reason, for people.
    #[serde(default)]
    pub message: String,
}

impl WireError {
    /// Makes a refusal of this kind, with a sentence for people.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// The stable part of a refusal. A word of a newer peer reads as [`ErrorKind::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::EnumIter)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum ErrorKind {
    /// The peer does not know the method.
    Unsupported,
    /// The line or the parameters could not be read.
    BadRequest,
    /// The token or the incarnation was wrong, or the hello was missing.
    Unauthorized,
    /// The state does not allow the request, for example the start of a daemon that runs.
    Conflict,
    /// The object that the request names does not exist.
    NotFound,
    /// Too much is pending on this connection.
    Busy,
    /// The request took too long.
    Timeout,
    /// The operating system refused.
    Os,
    /// A reason that only a newer peer knows.
    #[serde(other)]
    Other,
}
