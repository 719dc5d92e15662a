//! The words of a VM's life: what can happen to it, and what is to be done then.

use crate::vmm::VmmEnd;
use pepita_wire::agent::Start;
use pepita_wire::console::Note;
use pepita_wire::{Ask, ExitRecord, GuestEvent, Signal, WireError};
use std::time::Duration;

/// What can happen.
#[derive(Debug)]
pub enum Event {
    /// The VMM has accepted its arguments and images.
    VmmUp,
    /// The VMM is gone.
    VmmEnded(VmmEnd),
    /// The vsock back-end is gone.
    BackendEnded {
        /// The VMM is on its way out, too: then it went first, and its back-end after it.
        vmm_going: bool,
    },
    /// The host's OOM killer has struck within the VM's limits.
    HostOom,
    /// The guest has written something.
    ConsoleSpoke,
    /// The agent has written a note on the console.
    Noted(Note),
    /// QMP's SHUTDOWN.
    Shutdown(String),
    /// The virtual CPUs stand still, or run again.
    Paused(bool),
    /// The agent has said hello.
    AgentUp {
        /// The generation agreed on.
        generation: u32,
    },
    /// The agent has hung up.
    AgentDown,
    /// The agent has said something.
    AgentSaid {
        /// The event's number.
        seq: u64,
        /// What.
        event: GuestEvent,
    },
    /// The agent's answer to `start`.
    Started(Result<(), WireError>),
    /// Take it down politely.
    Stop {
        /// With this signal first.
        signal: Signal,
        /// And KILL after this.
        grace: Duration,
    },
    /// End it at once.
    Kill,
    /// Start the daemon of a VM that was launched with `--hold`.
    Start(Start),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Connect to the agent, and go on trying.
    Dial,
    /// Ask the agent.
    Ask(Ask),
    /// Let the virtual CPUs run.
    Resume,
    /// Ask the VMM's process to end.
    TermVmm,
    /// End it.
    KillVmm,
    /// It is over. The last effect.
    Finish(Box<ExitRecord>),
}
