//! The words of a VM's life: what can happen to the VM, and what is to be done then.

use crate::monitor::evidence::LastWords;
use pepita_wire::agent::Start;
use pepita_wire::console::Note;
use pepita_wire::record::VcpuState;
use pepita_wire::{Ask, ExitRecord, GuestEvent, Signal, WireError};
use std::time::Duration;

/// What can happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// The VMM has accepted its arguments and images.
    VmmUp,
    /// The VMM is gone.
    VmmEnded(LastWords),
    /// The vsock back-end is gone.
    BackendEnded {
        /// The kernel is taking the VMM down, too: then the VMM went first, and its back-end after it.
        vmm_is_exiting: bool,
    },
    /// The host's OOM killer has struck within the VM's limits.
    HostOom,
    /// The guest has written on its console.
    ConsoleSpoke,
    /// The agent has written a note on the console.
    Noted(Note),
    /// QEMU has told on QMP that the machine goes down, and why.
    Shutdown(String),
    /// The virtual CPUs stand still, or run again.
    Vcpus(VcpuState),
    /// The agent has said hello.
    AgentUp {
        /// The version of the protocol that both sides speak.
        protocol_version: u32,
    },
    /// The agent has hung up.
    AgentDown,
    /// The agent has told an event.
    AgentSaid {
        /// The number of the event.
        seq: u64,
        /// The event.
        event: GuestEvent,
    },
    /// The agent has answered the monitor's `start`.
    StartAnswered(Result<(), WireError>),
    /// A client asks for a stop.
    Stop {
        /// The signal for the daemon.
        signal: Signal,
        /// The time from the signal until the daemon's KILL.
        grace: Duration,
    },
    /// A client asks for the end at once.
    Kill,
    /// The time of [`super::Life::wake_at`] has come.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Connect to the agent, and go on trying.
    Dial,
    /// Order the agent to start the daemon; the answer is [`Event::StartAnswered`].
    StartDaemon(Start),
    /// Ask the agent for something whose answer does not matter.
    Tell(Ask),
    /// Let the virtual CPUs run.
    Resume,
    /// Ask the VMM's process to end.
    TermVmm,
    /// Kill the VMM's process.
    KillVmm,
    /// Write the exit record and take leave. This is the last effect.
    Finish(Box<ExitRecord>),
}
