//! The input and the output of the state machine of a VM: events and effects.

use crate::monitor::evidence::LastWords;
use pepita_wire::agent::Start;
use pepita_wire::console::Note;
use pepita_wire::record::VcpuState;
use pepita_wire::storage::Mount;
use pepita_wire::{Ask, ExitRecord, GuestEvent, Signal, VmId, WireError};
use std::time::{Duration, Instant};

/// An event in the life of a VM.
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    /// The VMM has accepted its arguments and images.
    VmmUp,
    /// The process of the VMM is gone.
    VmmEnded(LastWords),
    /// The process of the vsock back-end is gone.
    BackendEnded {
        /// Whether the VMM's process is exiting, too. In that case the VMM ended first, and its back-end followed.
        vmm_is_exiting: bool,
    },
    /// The server of a share is gone.
    ShareEnded {
        /// Whether the VMM's process is exiting, too. In that case the VMM ended first, and the server followed.
        vmm_is_exiting: bool,
        /// The share, and how its server ended.
        how: String,
    },
    /// The host's OOM killer has killed a process within the VM's limits.
    HostOom,
    /// The guest has written on its console.
    ConsoleSpoke,
    /// The agent has written a note on the console.
    Noted(Note),
    /// QEMU has reported on QMP that the machine shuts down, and the reason.
    Shutdown(String),
    /// QEMU has reported on QMP that it has stopped the guest by itself, because it cannot go on.
    VmmStopped,
    /// QEMU has reported on QMP that a disk of the host failed under the guest's disk, and the reason.
    DiskError(String),
    /// The host's clock was set, or a guest's clock may have drifted from it.
    ClockRang,
    /// The monitor has paused or resumed the virtual CPUs.
    Vcpus(VcpuState),
    /// The monitor has paused the virtual CPUs until a client comes.
    FellAsleep,
    /// The VM is idle since this moment; `None`: it is in use.
    Idle(Option<Instant>),
    /// The agent has said hello.
    AgentUp {
        /// The version of the protocol that both sides speak.
        protocol_version: u32,
    },
    /// The connection to the agent has ended.
    AgentDown,
    /// The agent has reported an event.
    AgentSaid {
        /// The number of the event.
        seq: u64,
        /// The event that the agent has reported.
        event: GuestEvent,
    },
    /// The agent has answered the monitor's `mount`.
    MountAnswered(Result<(), WireError>),
    /// The agent has answered the monitor's `start`.
    StartAnswered(Result<(), WireError>),
    /// A client asks for the start of the daemon while the agent cannot be asked.
    Start(Start),
    /// The VM is a spare no longer: it has the name and the number of another VM, and its daemon is to be started.
    Promoted {
        /// The name that the VM has.
        name: VmId,
        /// The number of this start of the VM.
        incarnation: u64,
        /// Since when the promotion is under way.
        since: Instant,
    },
    /// A client's signal for the daemon, which cannot be sent yet.
    Signal(Signal),
    /// A client asks for a graceful stop.
    Stop {
        /// The signal for the daemon.
        signal: Signal,
        /// The time from the signal until the daemon is killed.
        grace: Duration,
    },
    /// A client asks for the end at once.
    Kill,
    /// The time that [`super::Life::wake_at`] returned has come.
    Tick,
}

/// An effect, which the monitor carries out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Connect to the agent, and retry until the connection is made.
    Dial,
    /// Order the agent to mount the disks; the answer is [`Event::MountAnswered`].
    Mount(Vec<Mount>),
    /// Order the agent to start the daemon; the answer is [`Event::StartAnswered`].
    StartDaemon(Start),
    /// Order the agent to prepare the start of the daemon as that of this VM.
    Prepare {
        /// The VM whose place this one will take.
        of: String,
        /// The start.
        start: Start,
    },
    /// Send the agent a request whose answer does not matter.
    Tell(Ask),
    /// Give the VMM, which has booted a guest that nobody waits for, the usual CPU priority.
    RestorePriority,
    /// Resume the virtual CPUs.
    Resume,
    /// Send SIGTERM to the VMM's process.
    TermVmm,
    /// Send SIGKILL to the VMM's process.
    KillVmm,
    /// Write the exit record and end the monitor. This is the last effect.
    Finish(Box<ExitRecord>),
}
