//! Puts the VM to sleep, and wakes it: its virtual CPUs are paused until a client comes.
//!
//! A guest with a balloon first gives back the memory that nothing in it uses, and takes it again when it is awake.
//!
//! ```text
//!  Awake ── sleep ──► Asking ── free memory ──► Giving ── given, or 3 s ──► (virtual CPUs paused) ── resumed ──► Awake
//!     ▲                 │  └─── refused ───────────────────────────────────►
//!     └── a client ─────┴─────────────────────────┘
//! ```
//!
//! The guest may say what it likes: it can only give back memory of its own, and delay its sleep by [`PATIENCE`].

use super::Monitor;
use super::agent::Asker;
use super::balloon::{Falling, PATIENCE, target};
use super::control::ReplyTo;
use super::life::Event;
use super::requests::in_use;
use crate::error::eprint_line;
use crate::vm_config::VmmKind;
use pepita_wire::frame::Outcome;
use pepita_wire::record::VcpuState;
use pepita_wire::usage::FreeMemory;
use pepita_wire::{Ask, ErrorKind, WireError};
use serde_json::{Value, json};
use std::time::Instant;

impl Monitor {
    /// Notes the use that is made of the VM, and tells it when that is due.
    pub(super) fn note_activity(&mut self, now: Instant) {
        // The time before the daemon serves, and of a pause, is no time of being idle.
        let is_used = self.ports.are_used() || self.control.keeps_awake() || !self.life.may_sleep();
        if let Some(since) = self.activity.look(now, is_used) {
            self.happened(Event::Idle(since));
        }
    }

    /// Returns whether a client is served or waits, or the guest wants to stay awake.
    pub(super) fn is_used(&self) -> bool {
        self.activity.is_kept_awake()
            || self.control.keeps_awake()
            || self.ports.are_used()
            || self.ports.has_waiting()
    }

    /// Pauses the virtual CPUs until a client comes, when the guest has given memory back. Returns the answer to the order if
    /// it is known at once.
    pub(super) fn sleep(&mut self, reply: ReplyTo) -> Option<Outcome> {
        if self.life.is_asleep() {
            return Some(Ok(json!({})));
        }
        if self.is_used() || self.sleep.falling.is_some() {
            return Some(Err(in_use()));
        }
        if !self.life.may_sleep() {
            return Some(Err(WireError::new(
                ErrorKind::Conflict,
                "the daemon does not run, or its agent cannot be reached",
            )));
        }
        self.sleep.falling = Some(Falling { reply, until: Instant::now() + PATIENCE, target: None });
        let asks = self.config.request.vmm == VmmKind::Qemu;
        if !asks || self.agent.ask(Ask::FreeMemory, Asker::FreeMemory).is_err() {
            self.fall_asleep();
        }
        None
    }

    /// Takes in what the guest can spare, or why it gives nothing back.
    pub(super) fn on_free_memory(&mut self, outcome: Result<Value, WireError>) {
        let Some(falling) = &mut self.sleep.falling else { return };
        let free = outcome.and_then(|value| {
            serde_json::from_value::<FreeMemory>(value)
                .map_err(|e| WireError::new(ErrorKind::BadRequest, e.to_string()))
        });
        let memory = self.config.request.memory_mb << 20;
        let target = match free {
            Ok(FreeMemory { free_kib }) => target(memory, free_kib.saturating_mul(1024)),
            Err(e) => {
                if !std::mem::replace(&mut self.sleep.is_told, true) {
                    eprint_line(format_args!("pepita monitor: the guest sleeps with all its memory: {e}"));
                }
                None
            }
        };
        match target {
            Some(bytes) => {
                falling.target = target;
                self.sleep.take_memory_at = None;
                self.qmp.give_memory(bytes);
            }
            None => self.fall_asleep(),
        }
    }

    /// Notes how much memory the guest has. QEMU tells a change at once, and the next one a second later.
    pub(super) fn on_memory(&mut self, bytes: u64) {
        let target = self.sleep.falling.as_ref().and_then(|falling| falling.target);
        if target.is_some_and(|target| bytes <= target) {
            self.fall_asleep();
        }
    }

    /// Does what is due: gives up a guest that gives no memory back, and has one that is awake take its memory again.
    pub(super) fn tick_sleep(&mut self, now: Instant) {
        if self.sleep.falling.is_some() && (self.is_used() || !self.life.may_sleep()) {
            self.stay_awake();
        }
        if self.sleep.falling.as_ref().is_some_and(|falling| now >= falling.until) {
            eprint_line(format_args!(
                "pepita monitor: the guest has not given back in {} s the memory that it said was free",
                PATIENCE.as_secs()
            ));
            self.fall_asleep();
        }
        if self.sleep.take_memory_at.is_some_and(|at| now >= at) {
            self.sleep.take_memory_at = None;
            self.qmp.give_memory(self.config.request.memory_mb << 20);
        }
    }

    /// Pauses the virtual CPUs of a VM that is about to sleep.
    pub(super) fn fall_asleep(&mut self) {
        let Some(falling) = self.sleep.falling.take() else { return };
        if self.is_used() || !self.life.may_sleep() {
            self.sleep.falling = Some(falling);
            return self.stay_awake();
        }
        self.set_vcpus(VcpuState::Paused);
        self.happened(Event::FellAsleep);
        self.reply(falling.reply, Ok(json!({})));
    }

    /// Resumes the virtual CPUs of a VM that is asleep. One that is about to sleep stays awake.
    pub(super) fn wake(&mut self) {
        self.stay_awake();
        if self.life.is_asleep() {
            self.set_vcpus(VcpuState::Running);
        }
    }

    /// Ends the way of a VM into its sleep.
    pub(super) fn stay_awake(&mut self) {
        if let Some(falling) = self.sleep.falling.take() {
            self.sleep.take_memory_at(Instant::now());
            self.reply(falling.reply, Err(in_use()));
        }
    }
}
