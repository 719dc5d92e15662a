//! Gives up who this process is: its user, its groups, its capabilities, and every way to have more again.

use crate::plan::{Access, Capability, Plan, User};
use rustix::fs::{Stat, stat};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// The groups that may use a device of the plan which others may not use, as `kvm` does. Asked before the root is built.
pub(crate) fn device_groups(plan: &Plan) -> Vec<Gid> {
    let devices = plan.binds.iter().filter(|bind| bind.access == Access::Device);
    let stats = devices.filter_map(|bind| stat(&bind.source).ok());
    stats.filter(is_for_group).map(|stat| Gid::from_raw(stat.st_gid)).collect()
}

/// Returns whether a group may use a device which others may not use.
fn is_for_group(stat: &Stat) -> bool {
    stat.st_gid != 0 && stat.st_mode & 0o060 == 0o060 && stat.st_mode & 0o006 != 0o006
}

/// Returns whether nobody but its owner and the group of root may use a device.
pub(crate) fn is_closed(stat: &Stat) -> bool {
    stat.st_mode & 0o006 != 0o006 && !is_for_group(stat)
}

/// Becomes the user. The capabilities stay permitted for the steps that follow.
pub(crate) fn become_user(user: User, groups: &[Gid]) -> Result<(), String> {
    let steps = || -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        set_keep_capabilities(true)?;
        set_thread_groups(groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        let sets = capabilities(None)?;
        set_capabilities(None, CapabilitySets { effective: sets.permitted, ..sets })?;
        // The files in /proc of this process would belong to root otherwise.
        set_dumpable_behavior(DumpableBehavior::Dumpable)
    };
    steps().map_err(|e| format!("becoming user {} and group {}: {e}", user.uid, user.gid))
}

/// The secure bits of a program without capabilities: not even root has some.
const FOR_NONE: u32 = 0b1110_1111;

/// The secure bits of a program that is root with some capabilities: it has none as another user. They are locked, too.
const FOR_ROOT: u32 = 0b1110_1010;

/// Empties every set of capabilities but for those that are kept. `no_new_privs` forbids to have more in any case; the
/// bounding set and the secure bits are changed where this process may do that.
pub(crate) fn drop_capabilities(kept: &[Capability]) -> Result<(), String> {
    let kept: CapabilitySet = kept.iter().map(|capability| set_of(*capability)).collect();
    let may = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SETPCAP));
    if may {
        for one in (0..64).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
            if !kept.contains(one) {
                // Beyond the last capability of the kernel there is none to be removed.
                let _ = remove_capability_from_bounding_set(one);
            }
        }
        let bits = if kept.is_empty() { FOR_NONE } else { FOR_ROOT };
        let bits = CapabilitiesSecureBits::from_bits_retain(bits);
        set_capabilities_secure_bits(bits).map_err(|e| format!("secure bits: {e}"))?;
    }
    clear_ambient_capability_set().map_err(|e| format!("ambient capabilities: {e}"))?;
    let failed = |e| format!("capabilities: {e}");
    let had = if kept.is_empty() { kept } else { capabilities(None).map_err(failed)?.permitted };
    let (left, none) = (kept & had, CapabilitySet::empty());
    set_capabilities(None, CapabilitySets { effective: left, permitted: left, inheritable: none })
        .map_err(failed)
}

fn set_of(capability: Capability) -> CapabilitySet {
    match capability {
        Capability::Chown => CapabilitySet::CHOWN,
        Capability::DacOverride => CapabilitySet::DAC_OVERRIDE,
        Capability::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
        Capability::Fowner => CapabilitySet::FOWNER,
        Capability::Fsetid => CapabilitySet::FSETID,
        Capability::Setgid => CapabilitySet::SETGID,
        Capability::Setuid => CapabilitySet::SETUID,
        Capability::Setpcap => CapabilitySet::SETPCAP,
        Capability::SysChroot => CapabilitySet::SYS_CHROOT,
    }
}
