//! The addresses of VMs with a network device of the host (`network = "tap"`), leased by name: a VM that is started again
//! has the address of its last start. The table is a file of the run directories.

use crate::error::{Result, call_error, io};
use crate::rundir::files::{self, Sync};
use crate::rundir::lock::{Lock, Wait};
use crate::rundir::{RunDir, layout};
use pepita_wire::network::Subnet;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{Stored, VmId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;

/// The address of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The network in which it is.
    pub subnet: Subnet,
    /// The number of the address in its network.
    pub number: u32,
    /// The address.
    pub address: Ipv4Addr,
}

/// The leases of a directory of run directories.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) subnet: Subnet,
    /// The number of the address of each name.
    leases: BTreeMap<String, u32>,
}

/// Leases an address to a VM: the one that it had, else one that nobody had, else that of a VM that is no longer there.
/// Another network than that of the table takes its place, with no leases.
///
/// # Errors
/// When every address has a VM, or the table cannot be written.
pub fn lease(dir: &RunDir, name: &VmId, wanted: Option<Subnet>) -> Result<Lease> {
    dir.create()?;
    let place = dir.path().join(layout::NETWORK);
    DirBuilder::new().recursive(true).mode(0o700).create(&place).map_err(|e| io(&place, e))?;
    let path = place.join("addresses.json");
    let _lock = Lock::take(&place.join("lock"), Wait::Yes)?;
    let former: Option<Table> = match files::read(&path) {
        Stored::Read(table) => Some(table),
        // A table that cannot be read has no use but to be made again: what is in use is known to the kernel.
        Stored::Absent | Stored::Unreadable(_) => None,
    };
    let subnet = wanted.or(former.as_ref().map(|table| table.subnet)).unwrap_or_else(|| usual(dir));
    let leases = former.filter(|table| table.subnet == subnet).map(|table| table.leases).unwrap_or_default();
    let mut table = Table { subnet, leases };
    let is_there = |name: &str| VmId::new(name).is_ok_and(|name| dir.vm(&name).exists());
    let Some(number) = table.number_of(name.as_str(), is_there) else {
        let why = format!(
            "{subnet} has no free address; choose a larger network with PEPITA_SUBNET, such as 10.213.0.0/16"
        );
        return Err(call_error(CallErrorKind::TryAgain, why));
    };
    files::write(&path, &table, Sync::No)?;
    Ok(Lease { subnet, number, address: subnet.address(number) })
}

impl Table {
    pub(crate) fn number_of(&mut self, name: &str, is_there: impl Fn(&str) -> bool) -> Option<u32> {
        // A number that a file has and the network does not is nobody's.
        let subnet = self.subnet;
        self.leases.retain(|_, number| subnet.guests().contains(number));
        if let Some(number) = self.leases.get(name) {
            return Some(*number);
        }
        let taken: BTreeSet<u32> = self.leases.values().copied().collect();
        let mut free = self.subnet.guests().filter(|number| !taken.contains(number));
        let number = free.next().or_else(|| {
            let gone = self.leases.keys().find(|name| !is_there(name)).cloned();
            gone.and_then(|name| self.leases.remove(&name))
        })?;
        self.leases.insert(name.to_owned(), number);
        Some(number)
    }
}

/// Returns the network of a directory of run directories for which none was chosen: one of 256, by its path.
fn usual(dir: &RunDir) -> Subnet {
    Subnet::usual(u8::try_from(hash(dir) & 0xff).unwrap_or_default())
}

/// Returns the beginning of the names of network devices of VMs in a directory of run directories.
pub fn device_prefix(dir: &RunDir) -> String {
    format!("p{:08x}", hash(dir))
}

/// Returns a hash of the path (FNV-1a).
fn hash(dir: &RunDir) -> u32 {
    let bytes = dir.path().as_os_str().as_encoded_bytes();
    bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> VmId {
        VmId::new(text).expect("a name")
    }

    #[test]
    fn a_name_keeps_its_address_and_a_full_network_takes_that_of_a_vm_that_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = RunDir::choose(Some(dir.path())).expect("ours");
        let small: Subnet = "10.213.7.0/29".parse().expect("a network");
        let of = |vm: &str, subnet| lease(&dir, &name(vm), subnet).map(|lease| lease.address.octets()[3]);
        for (vm, last) in [("a", 2), ("b", 3), ("a", 2), ("c", 4), ("d", 5), ("e", 6)] {
            assert_eq!(of(vm, Some(small)).expect("free"), last, "{vm}");
            std::fs::create_dir_all(dir.vm(&name(vm))).expect("made");
        }
        let full = of("f", None).expect_err("full");
        assert!(full.message.contains("10.213.7.0/29 has no free address"), "{}", full.message);
        std::fs::remove_dir(dir.vm(&name("c"))).expect("removed");
        assert_eq!(of("f", None).expect("free"), 4);
        // Another network begins anew, and stays.
        let other: Subnet = "10.214.0.0/16".parse().expect("a network");
        assert_eq!(of("b", Some(other)).expect("free"), 2);
        assert_eq!(lease(&dir, &name("b"), None).expect("free").subnet, other);
    }

    #[test]
    fn a_number_that_the_network_does_not_have_is_nobodys() {
        let subnet: Subnet = "10.213.7.0/29".parse().expect("a network");
        let leases = [("a".to_owned(), u32::MAX), ("b".to_owned(), 1), ("c".to_owned(), 3)];
        let mut table = Table { subnet, leases: leases.into() };
        assert_eq!(["a", "b", "c"].map(|name| table.number_of(name, |_| true)), [Some(2), Some(4), Some(3)]);
    }

    #[test]
    fn the_name_of_a_device_is_never_too_long() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = RunDir::choose(Some(dir.path())).expect("ours");
        assert!(format!("{}-{}", device_prefix(&dir), 65534).len() < 16);
        assert_eq!(usual(&dir), usual(&dir));
    }
}
