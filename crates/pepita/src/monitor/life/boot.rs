//! The boot: the VMM accepts its arguments, the guest writes on the console, the boot clock runs while the virtual CPUs
//! run.

use super::phase::Phase;
use super::{Effect, Life};
use crate::vm_config::VmmKind;
use pepita_wire::Ask;
use pepita_wire::record::{Part, VcpuState};
use std::time::Instant;

impl Life {
    pub(super) fn on_vmm_up(&mut self, now: Instant) {
        self.evidence.vmm_ran = true;
        self.machine_is_up(now);
        match self.phase {
            Phase::Created(clock) => self.phase = Phase::Booting(clock),
            // The end of the VMM was ordered before it had answered, so only the evidence changes.
            Phase::Booting(_)
            | Phase::Running
            | Phase::Severed { .. }
            | Phase::Leaving { .. }
            | Phase::Stopping(_)
            | Phase::Terminating { .. }
            | Phase::Killing { .. }
            | Phase::Ended(_) => {}
        }
    }

    pub(super) fn on_console_spoke(&mut self, now: Instant) {
        self.machine_is_up(now);
        let since_start_ms = self.since_start_ms(now);
        self.status.boot_ms.kernel.get_or_insert(since_start_ms);
        self.agent = self.agent.console_spoke(now);
    }

    /// Ends the VMM's part of the start. A plain process has no machine to set up.
    fn machine_is_up(&mut self, now: Instant) {
        match self.kind {
            VmmKind::Qemu => self.passed(Part::Vmm, now),
            VmmKind::Process => {}
        }
    }

    /// Ends the guest's part of the start. A plain process has no guest to boot.
    pub(super) fn guest_is_up(&mut self, now: Instant) {
        match self.kind {
            VmmKind::Qemu => self.passed(Part::Kernel, now),
            VmmKind::Process => {}
        }
    }

    /// Handles the agent's note on the console that it listens.
    pub(super) fn on_agent_noted(&mut self, now: Instant) {
        self.evidence.agent_noted = true;
        self.guest_is_up(now);
        if self.phase.wants_the_agent() {
            self.effects.push(Effect::Dial);
        }
    }

    pub(super) fn on_vcpus(&mut self, now: Instant, unix_ms: u64, vcpus: VcpuState) {
        let before = std::mem::replace(&mut self.vcpus, vcpus);
        // A pause is one that no client ends, unless more is said.
        self.status.asleep = false;
        match (&mut self.phase, vcpus) {
            (Phase::Created(clock) | Phase::Booting(clock), VcpuState::Paused) => *clock = clock.stop(now),
            (Phase::Created(clock) | Phase::Booting(clock), VcpuState::Running) => *clock = clock.go_on(now),
            // Clients that wait for the end rely on the deadlines of these phases, so a pause extends none of them.
            (
                Phase::Running
                | Phase::Severed { .. }
                | Phase::Leaving { .. }
                | Phase::Stopping(_)
                | Phase::Terminating { .. }
                | Phase::Killing { .. }
                | Phase::Ended(_),
                VcpuState::Paused | VcpuState::Running,
            ) => {}
        }
        match (before, vcpus, self.kind) {
            // The guest's clock was stopped together with its CPUs.
            (VcpuState::Paused, VcpuState::Running, VmmKind::Qemu) => self.set_time(unix_ms),
            // A plain process uses the host's clock.
            (VcpuState::Paused, VcpuState::Running, VmmKind::Process)
            | (VcpuState::Running, VcpuState::Running, VmmKind::Qemu | VmmKind::Process)
            | (_, VcpuState::Paused, VmmKind::Qemu | VmmKind::Process) => {}
        }
    }

    /// Tells a guest the host's time. A guest that stands still is told when it goes on.
    pub(super) fn on_clock_rang(&mut self, unix_ms: u64) {
        match (self.kind, self.vcpus) {
            (VmmKind::Qemu, VcpuState::Running) if self.agent.is_up() => self.set_time(unix_ms),
            (VmmKind::Qemu | VmmKind::Process, VcpuState::Running | VcpuState::Paused) => {}
        }
    }

    /// Sets the guest's clock to the host's time.
    pub(super) fn set_time(&mut self, unix_ms: u64) {
        self.effects.push(Effect::Tell(Ask::SetTime { unix_ms }));
    }
}
