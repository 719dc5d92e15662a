//! What the helper says to the program that has started it, one JSON object a line: who the program has become, whether it
//! is in its jail, or why it is not.

use crate::layer::{Layer, Report};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::ErrorKind;

/// A line of the helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Said {
    /// The process that goes on: in process ids of its own, it is another one than the helper that was started, and a child
    /// of the same parent.
    Became {
        /// Its process id, as its parent sees it.
        pid: u32,
    },
    /// All layers stand as the report says. What follows is the execution of the program.
    Entered(Report),
    /// The program is not started.
    Failed(Failure),
}

/// The reason why a program was not started in its jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What has failed.
    pub what: What,
    /// The reason, and what would help.
    pub why: String,
    /// The number of the system's error, for a program that cannot be executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

/// What has failed at the start of a program in a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The plan contradicts itself, or cannot be read.
    Plan,
    /// A layer that has to be there cannot be had.
    Layer(Layer),
    /// A file of the root is missing or cannot be shown.
    File,
    /// The program is missing or cannot be executed.
    Program,
    /// The helper ended without a word, or could not be started.
    Helper,
}

impl Failure {
    /// Returns a failure.
    pub fn new(what: What, why: impl Into<String>) -> Self {
        Self { what, why: why.into(), errno: None }
    }

    /// Returns the failure of a program that cannot be executed.
    pub(crate) fn of_program(why: String, errno: Option<i32>) -> Self {
        Self { errno, ..Self::new(What::Program, why) }
    }

    /// Returns whether a program is not there or may not be executed, and not only at the moment.
    pub fn is_missing(&self) -> bool {
        let kind = self.errno.map(|errno| std::io::Error::from_raw_os_error(errno).kind());
        matches!(kind, Some(ErrorKind::NotFound | ErrorKind::PermissionDenied))
    }

    /// Returns the code with which the helper exits (sysexits(3)).
    pub fn exit_code(&self) -> u8 {
        match self.what {
            What::Plan => 64,
            What::Program => 69,
            What::Layer(_) | What::Helper => 71,
            What::File => 66,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Layer(layer) => write!(f, "jail, layer {layer}: {}", self.why),
            What::Program => f.write_str(&self.why),
            What::Plan | What::File | What::Helper => write!(f, "jail: {}", self.why),
        }
    }
}

impl std::error::Error for Failure {}

/// All that a helper has said.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// The process that goes on instead of the helper.
    pub(crate) became: Option<u32>,
    /// What is said of the layers, once all are decided.
    pub(crate) report: Option<Report>,
    /// Why the program was not started.
    pub(crate) failure: Option<Failure>,
}

impl Words {
    /// Reads the lines of a helper, in whatever order they came.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut words = Self::default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Said::Became { pid }) => words.became = Some(pid),
                Ok(Said::Entered(report)) => words.report = Some(report),
                Ok(Said::Failed(failure)) => words.failure = Some(failure),
                Err(e) => {
                    let why = format!("the helper said what cannot be read: {e}");
                    words.failure.get_or_insert(Failure::new(What::Helper, why));
                }
            }
        }
        words
    }
}
