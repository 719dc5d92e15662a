//! Taking over what runs without bringing the group up: one that still waits for its turn, one on its way down.

use super::{Roster, Stage};
use crate::group::order::{At, End, Found, Order};
use crate::journal::Wanted;
use crate::spec::VmName;
use std::collections::BTreeMap;

impl Roster {
    /// Takes over, of what was found, that which is to go on running, and stops that which is not wanted. A group that
    /// waits for another one does not leave its VMs unwatched meanwhile. Gives back the rest, for [`Roster::start`].
    pub fn adopt(&mut self, at: At, found: BTreeMap<VmName, Found>) -> (Vec<Order>, BTreeMap<VmName, Found>) {
        let (running, rest) = found.into_iter().partition(|(vm, found): &(VmName, Found)| {
            let unwanted = self.find(vm).is_some_and(|index| self.children[index].wanted == Wanted::Down);
            found.ended.is_none() && (unwanted || found.unchanged)
        });
        for (vm, found) in &running as &BTreeMap<VmName, Found> {
            if let Some(index) = self.find(vm) {
                self.take_over(at, index, found);
            }
        }
        (self.finish(at.now), rest)
    }

    /// Takes over what runs, starts nothing, and stops it in order.
    pub fn take_down(&mut self, at: At, found: &BTreeMap<VmName, Found>) -> Vec<Order> {
        self.stage = Stage::Up;
        for index in 0..self.children.len() {
            if let Some(found) = found.get(self.children[index].name()) {
                self.take_over(at, index, found);
            }
        }
        self.go_down(End::Stopped);
        self.finish(at.now)
    }
}
