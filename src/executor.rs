//! The executor: the only part of the library that runs `pepita`. The actor only translates; the [`Runner`] behind it
//! keeps the order and the limits of the calls.

pub mod argv;
mod error;
mod launcher;
mod process;
mod queue;
mod reserve;
mod runner;
mod server;

pub use argv::Launch;
pub use error::ExecutorError;
pub use launcher::{Answer, Launcher, Pepita};
pub use process::{NotFound, find};
pub(crate) use reserve::{beside, borrow, is_exhausted, is_short, raise_file_limit, spare};
pub use runner::Runner;

use crate::reply::Reply;
use crate::spec::{Incarnation, Publish, VmName};
use crate::store::Written;
use pepita_wire::StatusRecord;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::fmt;
use std::path::PathBuf;

/// A request to the executor.
#[derive(Debug)]
pub enum ExecutorMsg {
    /// Boot a VM. Answered when its VMM runs and its monitor watches it.
    Launch {
        /// The VM to boot, with all settings of the launch.
        launch: Box<Launch>,
        /// The moment at which the state that the launch must not lose is on the disk: the launcher is not called
        /// before.
        written: Written,
        /// Is told how the launch goes on before the answer.
        steps: LaunchSteps,
        /// Gets the VM's record.
        reply: Reply<Result<StatusRecord, ExecutorError>>,
    },
    /// Cancel the launches of this VM that still wait for their turn; each is answered at once. A launch that is under
    /// way cannot be cancelled, only undone.
    Cancel(VmName),
    /// Take over a VM that runs: make sure that it has a monitor.
    Adopt {
        /// The name of the VM.
        vm: VmName,
        /// Gets the VM's record.
        reply: Reply<Result<StatusRecord, ExecutorError>>,
    },
    /// Publish the ports of a VM that runs, and no others.
    Publish {
        /// The name of the VM.
        vm: VmName,
        /// The ports.
        ports: Vec<Publish>,
        /// The control socket of its monitor.
        control: PathBuf,
        /// Gets a sentence about what is not published.
        reply: Reply<Result<(), String>>,
    },
    /// Kill a VM and remove all traces of it. Answered when the VM is confirmed gone.
    Destroy {
        /// The name of the VM.
        vm: VmName,
        /// Gets the answer when the VM is gone.
        reply: Reply<Result<(), ExecutorError>>,
    },
    /// Note that this supervisor may end a VM, up to this incarnation: a spare becomes it.
    Own {
        /// The name of the VM.
        vm: VmName,
        /// The incarnation.
        incarnation: Incarnation,
    },
    /// Read the launcher's record of a VM.
    Status {
        /// The name of the VM.
        vm: VmName,
        /// Gets the VM's record.
        reply: Reply<Result<StatusRecord, ExecutorError>>,
    },
    /// List every VM on this host, also the VMs of other supervisors.
    List {
        /// Gets the records of the VMs.
        reply: Reply<Result<Vec<StatusRecord>, ExecutorError>>,
    },
    /// Makes the actor panic, for tests of the consequences of a failed actor.
    #[cfg(feature = "test-hooks")]
    Panic,
}

/// A step of a launch, which its asker is told of before the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchStep {
    /// The launch waits until this process has enough free descriptors.
    AwaitsDescriptors,
    /// The launcher is called.
    Called,
}

/// The receiver of the steps of one launch.
pub struct LaunchSteps(Box<dyn Fn(LaunchStep) + Send + Sync>);

impl LaunchSteps {
    /// Makes a receiver of a function.
    pub fn new(tell: impl Fn(LaunchStep) + Send + Sync + 'static) -> Self {
        Self(Box::new(tell))
    }

    fn tell(&self, step: LaunchStep) {
        (self.0)(step);
    }
}

impl fmt::Debug for LaunchSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaunchSteps")
    }
}

/// The executor actor.
#[derive(Debug)]
pub struct PepitaExecutor;

impl Actor for PepitaExecutor {
    type Msg = ExecutorMsg;
    type State = Runner;
    type Arguments = Runner;

    async fn pre_start(
        &self,
        _: ActorRef<ExecutorMsg>,
        runner: Runner,
    ) -> Result<Runner, ActorProcessingErr> {
        Ok(runner)
    }

    async fn handle(
        &self,
        _: ActorRef<ExecutorMsg>,
        msg: ExecutorMsg,
        runner: &mut Runner,
    ) -> Result<(), ActorProcessingErr> {
        #[cfg(feature = "test-hooks")]
        if matches!(msg, ExecutorMsg::Panic) {
            panic!("told to panic");
        }
        runner.submit(msg);
        Ok(())
    }
}
