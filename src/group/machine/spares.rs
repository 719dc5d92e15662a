//! The warm spares of a group's VMs (semantics 8): which are booted, kept and ended, and which one takes the place of a
//! VM.
//!
//! ```text
//!             of a VM that is up, when                       its VM starts
//!             no VM of the group is on its way               again
//!   (absent) ─────────────────────────────▶ Booting ──▶ Ready ────────────▶ (the VM)
//!      ▲                                       │           │
//!      │ it is gone; the next one comes        │           │ not wanted any more,
//!      │ after a delay, if it ended by itself  ▼           ▼ or of a former configuration
//!      └───────────────────────────────────── Ending ◀─────┘
//! ```
//!
//! A spare is no child of the group: it has no attempts and no place in the window, and nothing waits for it but the end
//! of the group.

use super::child::{AfterStop, Child, Phase, RunState};
use super::spare::{Spare, SpareState};
use super::{Roster, Stage};
use crate::group::order::{FoundSpare, Order, SpareView};
use crate::journal::Wanted;
use crate::policy::At;
use crate::spec::{Backoff, VmName, VmSpec};
use crate::vm::Mode;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The delays before the next spare of a VM, after spares that have ended by themselves.
const BACKOFF: Backoff =
    Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(60), multiplier: 2.0, jitter: 0.0 };

/// Returns how many spares a child is to have now.
fn wanted(child: &Child) -> u32 {
    let comes_or_goes_on = match &child.phase {
        Phase::Live(run) => match &run.state {
            RunState::Stopping { then, .. } => match then {
                AfterStop::Start | AfterStop::AwaitTurn | AfterStop::Sleep | AfterStop::Fail { .. } => true,
                AfterStop::StayDown | AfterStop::Remove => false,
            },
            RunState::Starting { .. }
            | RunState::Running { .. }
            | RunState::Ready { .. }
            | RunState::Unhealthy
            | RunState::Paused { .. }
            | RunState::Unknown { .. } => true,
        },
        // The next client of a child that sleeps is served by its spare.
        Phase::AwaitingGroup | Phase::AwaitingTurn { .. } | Phase::Idle { .. } | Phase::Backoff { .. } => {
            true
        }
        Phase::Stopped | Phase::Completed | Phase::Failed(_) => false,
    };
    if comes_or_goes_on && child.wanted == Wanted::Up { child.spec.standby } else { 0 }
}

/// Returns whether the VM itself is up, so that a spare can be booted behind it.
fn is_up(child: &Child) -> bool {
    child.phase.run().is_some_and(|run| matches!(run.state, RunState::Ready { .. } | RunState::Unhealthy))
}

impl Roster {
    /// Takes over spares that a previous run of the supervisor, or a former actor, has left.
    pub fn adopt_spares(&mut self, at: At, found: Vec<FoundSpare>) -> Vec<Order> {
        for FoundSpare { name, of, config } in found {
            let epoch = self.next_epoch();
            let state = SpareState::Booting;
            self.spares.all.push(Spare { name: name.clone(), of: of.clone(), epoch, state, config });
            self.orders.push(Order::SpawnSpare { spare: name, of, epoch, mode: Mode::Adopt });
        }
        self.finish(at.now)
    }

    /// Records that a spare can take the place of its VM.
    pub fn spare_ready(&mut self, at: At, name: &VmName, epoch: u64) -> Vec<Order> {
        let Some(spare) = self.spare_mut(name, epoch) else { return Vec::new() };
        if spare.state == SpareState::Booting {
            spare.state = SpareState::Ready;
            let of = spare.of.clone();
            self.spares.failures.remove(&of);
        }
        self.finish(at.now)
    }

    /// Records that a spare is confirmed gone. Returns whether it has ended by itself, and the orders.
    pub fn spare_ended(&mut self, at: At, name: &VmName, epoch: u64) -> (bool, Vec<Order>) {
        let is_it = |spare: &Spare| spare.name == *name && spare.epoch == epoch;
        let Some(index) = self.spares.all.iter().position(is_it) else { return (false, Vec::new()) };
        let spare = self.spares.all.remove(index);
        let by_itself = spare.state != SpareState::Ending;
        if by_itself {
            let failed = self.spares.failures.get(&spare.of).map_or(0, |(count, _)| *count).saturating_add(1);
            self.spares.failures.insert(spare.of, (failed, at.now + BACKOFF.delay(failed, 0.0)));
        }
        self.orders.push(Order::ForgetSpare(spare.name));
        (by_itself, self.finish(at.now))
    }

    /// Records that the actor of a spare has failed. The spare is not affected: a new actor takes it over.
    pub fn spare_actor_failed(&mut self, at: At, name: &VmName, epoch: u64) -> Vec<Order> {
        let next = self.next_epoch();
        let Some(spare) = self.spare_mut(name, epoch) else { return Vec::new() };
        spare.epoch = next;
        let ends = spare.state == SpareState::Ending;
        spare.state = if ends { SpareState::Ending } else { SpareState::Booting };
        let (spare, of) = (spare.name.clone(), spare.of.clone());
        self.orders.push(Order::SpawnSpare { spare: spare.clone(), of, epoch: next, mode: Mode::Adopt });
        if ends {
            self.orders.push(Order::EndSpare { spare, epoch: next });
        }
        self.finish(at.now)
    }

    /// Returns the VM whose spare this is.
    pub fn spare_of(&self, name: &VmName, epoch: u64) -> Option<&VmName> {
        self.spares
            .all
            .iter()
            .find(|spare| spare.name == *name && spare.epoch == epoch)
            .map(|spare| &spare.of)
    }

    /// Returns the VM that is owned by the actor with this number.
    pub fn owned_by(&self, epoch: u64) -> Option<&VmName> {
        let owns = |child: &&Child| child.phase.run().is_some_and(|run| run.epoch == epoch);
        self.children.iter().find(owns).map(Child::name)
    }

    /// Returns the spares, as observers see them.
    pub fn spares(&self) -> impl Iterator<Item = SpareView<'_>> {
        self.spares.all.iter().map(|spare| SpareView {
            name: &spare.name,
            of: &spare.of,
            is_ready: spare.state == SpareState::Ready,
        })
    }

    fn spare_mut(&mut self, name: &VmName, epoch: u64) -> Option<&mut Spare> {
        self.spares.all.iter_mut().find(|spare| spare.name == *name && spare.epoch == epoch)
    }

    /// Returns whether a spare can take the place of a child at once.
    pub(super) fn has_ready_spare(&self, index: usize) -> bool {
        self.ready_spare(index).is_some()
    }

    fn ready_spare(&self, index: usize) -> Option<usize> {
        let spec = &self.children[index].spec;
        let fits = |spare: &Spare| {
            spare.of == spec.name && spare.state == SpareState::Ready && spec.was_started_with(&spare.config)
        };
        self.spares.all.iter().position(fits)
    }

    /// Takes a spare that can take the place of a child at once. From here on it is the child.
    pub(super) fn take_spare(&mut self, index: usize) -> Option<Spare> {
        let spare = self.spares.all.remove(self.ready_spare(index)?);
        self.spares.lent.insert(spare.of.clone(), spare.name.clone());
        Some(spare)
    }

    /// Records that a child is started anew, and not from a spare.
    pub(super) fn give_place_back(&mut self, index: usize) {
        let Self { spares, children, .. } = self;
        spares.lent.remove(children[index].name());
    }

    /// Ends the spares that are not wanted any more, and boots those that are missing, one at a time.
    pub(super) fn tend_spares(&mut self, now: Instant) {
        let goes_on = match self.stage {
            Stage::Up { .. } | Stage::Waiting { .. } => true,
            Stage::GoingDown { .. } | Stage::Down { .. } => false,
        };
        let mut room: BTreeMap<VmName, (u32, &VmSpec)> = BTreeMap::new();
        for child in self.children.iter().filter(|_| goes_on) {
            room.insert(child.name().clone(), (wanted(child), &child.spec));
        }
        // The spares that are ready come first, so that they are the ones that stay.
        let mut order: Vec<usize> = (0..self.spares.all.len()).collect();
        order.sort_by_key(|index| self.spares.all[*index].state != SpareState::Ready);
        let mut ending = Vec::new();
        for index in order {
            let spare = &self.spares.all[index];
            if spare.state == SpareState::Ending {
                continue;
            }
            let stays = room.get_mut(&spare.of).is_some_and(|(left, spec)| {
                let fits = *left > 0 && spec.was_started_with(&spare.config);
                *left -= u32::from(fits);
                fits
            });
            if !stays {
                ending.push(index);
            }
        }
        for index in ending {
            let spare = &mut self.spares.all[index];
            spare.state = SpareState::Ending;
            self.orders.push(Order::EndSpare { spare: spare.name.clone(), epoch: spare.epoch });
        }
        self.boot_spare(now);
    }

    /// Boots a spare, if one is missing and the group is quiet.
    fn boot_spare(&mut self, now: Instant) {
        if self.boots_spare() || !self.is_quiet() {
            return;
        }
        let is_due = |child: &Child| self.spare_due(child.name()).is_none_or(|at| at <= now);
        let lacking = self.children.iter().filter(|child| self.lacks_spare(child) && is_due(child));
        let next = lacking.filter_map(|child| Some((child, self.spares.free_name(&child.spec)?))).next();
        let Some((child, name)) = next else { return };
        let (of, config) = (child.name().clone(), child.spec.fingerprint());
        let epoch = self.next_epoch();
        let spare = Spare { name: name.clone(), of: of.clone(), epoch, state: SpareState::Booting, config };
        self.spares.all.push(spare);
        self.orders.push(Order::SpawnSpare { spare: name, of, epoch, mode: Mode::Launch });
    }

    /// Returns whether the group is up and none of its VMs is on its way: a spare takes no time from them. A VM that waits
    /// behind one that gave up may wait for ever.
    fn is_quiet(&self) -> bool {
        let comes = |child: &Child| child.phase.is_live() && child.phase.is_on_its_way();
        self.is_up() && self.group_restart.is_none() && !self.children.iter().any(comes)
    }

    fn lacks_spare(&self, child: &Child) -> bool {
        let has = self.spares.of(child.name()).filter(|spare| spare.state != SpareState::Ending).count();
        is_up(child) && has < usize::try_from(wanted(child)).unwrap_or(usize::MAX)
    }

    /// Returns the moment before which no spare of the VM is booted.
    fn spare_due(&self, vm: &VmName) -> Option<Instant> {
        self.spares.failures.get(vm).map(|(_, at)| *at)
    }

    /// Returns the moment at which the next spare is to be booted after one that has ended by itself.
    pub(super) fn spares_wake_at(&self) -> Option<Instant> {
        if self.boots_spare() || !self.is_quiet() {
            return None;
        }
        let lacks = |child: &&Child| self.lacks_spare(child) && self.spares.free_name(&child.spec).is_some();
        self.children.iter().filter(lacks).filter_map(|child| self.spare_due(child.name())).min()
    }

    /// Returns the moment at which [`Roster::tick`] is to be called for spares alone.
    #[cfg(feature = "test-hooks")]
    pub fn wake_for_spares(&self) -> Option<Instant> {
        self.spares_wake_at()
    }

    fn boots_spare(&self) -> bool {
        self.spares.all.iter().any(|spare| spare.state == SpareState::Booting)
    }
}
