//! Decides which CID a VM gets. Knows no actors and no I/O.

use crate::spec::{Cid, VmName};
use std::collections::{BTreeMap, BTreeSet};

/// The CIDs that the VMs of one tree hold.
#[derive(Debug, Clone)]
pub struct Pool {
    holders: BTreeMap<VmName, Cid>,
    held: BTreeSet<Cid>,
    /// CIDs that other programs on this host hold, as launches that were refused have shown.
    foreign: BTreeSet<Cid>,
    next: Cid,
}

/// No CID can be leased.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The configured CID belongs to another VM of the tree.
    #[error("CID {cid} is held by VM {holder:?}")]
    Held {
        /// The CID of the configuration.
        cid: Cid,
        /// The VM that holds the CID.
        holder: String,
    },
    /// The configured CID belongs to another program.
    #[error("CID {0} is held by another program on this host")]
    Foreign(Cid),
    /// All four billion CIDs are taken.
    #[error("no CID is free")]
    Exhausted,
}

impl Pool {
    /// Makes a pool in which no CID is held. Supervisors of different names begin at different CIDs, so that two
    /// supervisors of one host rarely collide; when they do, the launcher notices, and [`Pool::avoid`] is called.
    pub fn new(supervisor: &str) -> Self {
        let hash =
            supervisor.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        let first = Cid::new(1000 + (hash % 60_000) * 1000).unwrap_or(Cid::FIRST);
        Self { holders: BTreeMap::new(), held: BTreeSet::new(), foreign: BTreeSet::new(), next: first }
    }

    /// Returns the CID of a VM: the CID that the VM holds, else the `fixed` CID of its configuration, else the next
    /// free CID.
    ///
    /// # Errors
    /// Returns an error when the fixed CID is taken, or no CID is free.
    pub fn lease(&mut self, vm: &VmName, fixed: Option<Cid>) -> Result<Cid, LeaseError> {
        match (self.holders.get(vm).copied(), fixed) {
            (Some(cid), None) => return Ok(cid),
            (Some(cid), Some(fixed)) if cid == fixed => return Ok(cid),
            (Some(_), Some(_)) => self.release(vm),
            (None, _) => {}
        }
        let cid = match fixed {
            Some(cid) => self.check(cid)?,
            None => self.next_free().ok_or(LeaseError::Exhausted)?,
        };
        self.hold(vm, cid);
        Ok(cid)
    }

    /// Enters the CID that an adopted VM has.
    ///
    /// # Errors
    /// Returns an error when another VM holds the CID.
    pub fn reserve(&mut self, vm: &VmName, cid: Cid) -> Result<(), LeaseError> {
        if self.holders.get(vm) == Some(&cid) {
            return Ok(());
        }
        if self.held.contains(&cid) {
            self.check(cid)?;
        }
        self.release(vm);
        self.foreign.remove(&cid);
        self.hold(vm, cid);
        Ok(())
    }

    /// Takes a CID that another program holds away from a VM; no VM of this tree gets that CID again.
    pub fn avoid(&mut self, vm: &VmName) {
        if let Some(cid) = self.holders.get(vm).copied() {
            self.release(vm);
            self.foreign.insert(cid);
        }
    }

    /// Releases the CID of a VM. Has no effect when the VM holds none.
    pub fn release(&mut self, vm: &VmName) {
        if let Some(cid) = self.holders.remove(vm) {
            self.held.remove(&cid);
        }
    }

    /// Passes the CID of a VM on to another one, which gives back its own. Has no effect when the first holds none.
    pub fn pass(&mut self, from: &VmName, to: &VmName) {
        if let Some(cid) = self.holders.remove(from) {
            self.release(to);
            self.hold(to, cid);
        }
    }

    /// Returns each VM that holds a CID, with the CID.
    pub fn holders(&self) -> impl Iterator<Item = (&VmName, Cid)> {
        self.holders.iter().map(|(vm, cid)| (vm, *cid))
    }

    fn hold(&mut self, vm: &VmName, cid: Cid) {
        self.holders.insert(vm.clone(), cid);
        self.held.insert(cid);
    }

    fn check(&self, cid: Cid) -> Result<Cid, LeaseError> {
        if let Some((holder, _)) = self.holders().find(|(_, held)| *held == cid) {
            return Err(LeaseError::Held { cid, holder: holder.to_string() });
        }
        if self.foreign.contains(&cid) { Err(LeaseError::Foreign(cid)) } else { Ok(cid) }
    }

    /// Returns the next free CID after the last one, so that a CID just given back is not at once another VM's.
    fn next_free(&mut self) -> Option<Cid> {
        let taken = self.held.len() + self.foreign.len();
        for _ in 0..=taken {
            let cid = self.next;
            self.next = Cid::new(cid.get() + 1).unwrap_or(Cid::FIRST);
            if !self.held.contains(&cid) && !self.foreign.contains(&cid) {
                return Some(cid);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vm(n: u8) -> VmName {
        VmName::new(&format!("vm-{n}")).expect("a good name")
    }

    #[test]
    fn a_vm_keeps_its_cid_until_it_gives_it_back() {
        let mut pool = Pool::new("edge");
        let first = pool.lease(&vm(1), None).expect("free");
        assert_eq!(pool.lease(&vm(1), None), Ok(first));
        pool.release(&vm(1));
        assert_ne!(pool.lease(&vm(2), None), Ok(first), "a CID just given back rests");
    }

    #[test]
    fn a_cid_of_another_program_is_avoided() {
        let mut pool = Pool::new("edge");
        let first = pool.lease(&vm(1), None).expect("free");
        pool.avoid(&vm(1));
        assert_ne!(pool.lease(&vm(1), None), Ok(first));
        assert_eq!(pool.lease(&vm(2), Some(first)), Err(LeaseError::Foreign(first)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Lease(u8),
        Fixed(u8, u32),
        Reserve(u8, u32),
        Avoid(u8),
        Release(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..20).prop_map(Step::Lease),
            (0u8..20, 3u32..30).prop_map(|(n, c)| Step::Fixed(n, c)),
            (0u8..20, 3u32..30).prop_map(|(n, c)| Step::Reserve(n, c)),
            (0u8..20).prop_map(Step::Avoid),
            (0u8..20).prop_map(Step::Release),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        #[test]
        fn no_cid_is_held_twice_nor_lost(steps in proptest::collection::vec(step(), 1..200)) {
            let mut pool = Pool::new("edge");
            for step in steps {
                match step {
                    Step::Lease(n) => {
                        let cid = pool.lease(&vm(n), None);
                        prop_assert!(cid.is_ok());
                    }
                    Step::Fixed(n, c) => { let _ = pool.lease(&vm(n), Cid::new(c).ok()); }
                    Step::Reserve(n, c) => { let _ = pool.reserve(&vm(n), Cid::new(c).expect("3 or more")); }
                    Step::Avoid(n) => pool.avoid(&vm(n)),
                    Step::Release(n) => pool.release(&vm(n)),
                }
                let holders: Vec<Cid> = pool.holders().map(|(_, cid)| cid).collect();
                let distinct: BTreeSet<Cid> = holders.iter().copied().collect();
                prop_assert_eq!(holders.len(), distinct.len());
                prop_assert_eq!(&distinct, &pool.held);
                prop_assert!(pool.foreign.is_disjoint(&pool.held));
            }
        }
    }
}
