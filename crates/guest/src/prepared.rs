//! What is prepared for the daemon's start.

use crate::environment::Environment;
use crate::forerunner::{Ahead, Orders};
use crate::surroundings::Surroundings;
use pepita_wire::Exit;
use pepita_wire::agent::Start;
use std::io::PipeReader;
use std::sync::{Arc, mpsc};

/// How far the daemon's start is prepared.
#[derive(Debug, Default)]
pub(crate) enum Preparation {
    /// Nothing is done but to start the forerunner, if there is one.
    Begun(Option<Forerunner>),
    /// All is done but the execution, for this start, or it has failed.
    Done(Box<Done>),
    /// The start has taken what was prepared.
    #[default]
    Over,
}

/// A start that is prepared, or the step of it that has failed.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) start: Start,
    pub(crate) outcome: Result<Prepared, Exit>,
}

/// A forerunner of the daemon, and the receiver of its end.
#[derive(Debug)]
pub(crate) struct Forerunner {
    pub(crate) ahead: Ahead,
    pub(crate) end: mpsc::Receiver<Exit>,
}

impl Forerunner {
    /// Returns whether the process has not ended: one that has cannot be given orders.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.end.try_recv(), Err(mpsc::TryRecvError::Empty))
    }
}

/// A guest that is furnished for the daemon.
#[derive(Debug)]
pub(crate) struct Furnished {
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) orders: Orders,
    pub(crate) environment: Environment,
}

/// What a start finds that was prepared.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) furnished: Furnished,
    /// The forerunner that waits for the word to execute the daemon, and the daemon's output.
    pub(crate) waiting: Option<(Forerunner, PipeReader)>,
}

impl Prepared {
    pub(crate) fn without_forerunner(furnished: Furnished) -> Self {
        Self { furnished, waiting: None }
    }
}
