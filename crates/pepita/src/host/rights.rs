//! The rights of a monitor whose VM is started.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What a monitor of root still needs: to end the processes of its VM, which have users of their own, and to write and remove
/// files in directories that users have named (logs, sockets of ports).
const NEEDED: CapabilitySet = CapabilitySet::KILL.union(CapabilitySet::DAC_OVERRIDE);

/// What it needs besides for a VM with a network device of the host, whose rules it removes at the end.
const FOR_DEVICE: CapabilitySet = CapabilitySet::NET_ADMIN;

/// What it needs besides for a VM that boots at a low priority, which it raises when the guest is up.
const FOR_PRIORITY: CapabilitySet = CapabilitySet::SYS_NICE;

/// Gives up all rights of this process, which has one thread, but those that a monitor needs, for ever. Where the system
/// refuses, the process keeps what it has: a VM that runs is worth more.
pub fn reduce(has_device: bool, has_low_priority: bool) {
    let needed = if has_device { NEEDED.union(FOR_DEVICE) } else { NEEDED };
    let needed = if has_low_priority { needed.union(FOR_PRIORITY) } else { needed };
    let Ok(sets) = capabilities(None) else { return };
    if sets.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..64 {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            // Beyond the last capability of the kernel there is none to be removed.
            if !needed.contains(one) {
                let _ = remove_capability_from_bounding_set(one);
            }
        }
    }
    let kept = sets.permitted.intersection(needed);
    let _ = clear_ambient_capability_set();
    let _ = set_no_new_privs(true);
    let none = CapabilitySet::empty();
    let _ = set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: none });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_is_gone() {
        // Capabilities belong to a thread, as the kernel sees it.
        let left = std::thread::spawn(|| {
            reduce(false, false);
            capabilities(None).expect("its own")
        });
        let left = left.join().expect("no panic");
        assert!(NEEDED.contains(left.effective) && NEEDED.contains(left.permitted), "{left:?}");
    }
}
