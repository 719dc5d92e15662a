//! The first form of the fingerprint: 64-bit FNV-1a over the `Debug` text of four fields, as Rust printed them.
//!
//! VMs that were started by the first version of the supervisor carry it, and outlive the upgrade: their configuration
//! has not changed, so they are adopted without a restart. Nothing is written in this form any more.

use crate::spec::keys::{Effect, Keyed};
use crate::spec::{VmSpec, Vmm};

/// The keys that this form covers. A key that came later cannot have been set when a VM got such a fingerprint.
const COVERED: [&str; 9] =
    ["vcpus", "memory_mb", "kernel_path", "rootfs_path", "vsock_base_port", "vmm", "cid", "command", "env"];

/// Returns whether a VM with this fingerprint was started with `spec`.
pub(super) fn matches(spec: &VmSpec, fingerprint: &str) -> bool {
    let later =
        VmSpec::ROWS.iter().filter(|row| row.effect == Effect::NextStart && !COVERED.contains(&row.name));
    of(spec) == fingerprint && later.into_iter().all(|row| row.get(spec) == row.get(&VmSpec::blank()))
}

/// Returns the fingerprint as the first version computed it. The names of types and fields are written out, so that the
/// text stays the same when they are renamed.
fn of(spec: &VmSpec) -> String {
    let machine = &spec.machine;
    let vmm = match machine.vmm {
        Vmm::Qemu => "Qemu",
        Vmm::Process => "Process",
    };
    let cid = spec.cid.map_or("None".to_owned(), |cid| format!("Some(Cid({cid}))"));
    let text = format!(
        "MachineSpec {{ vcpus: {}, memory_mb: {}, kernel: {:?}, rootfs: {:?}, port: Port({}), vmm: {vmm} }}|{cid}|{:?}|{:?}",
        machine.vcpus,
        machine.memory_mb,
        machine.kernel,
        machine.rootfs,
        machine.port.0,
        spec.command,
        spec.env,
    );
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::super::tests::vm;
    use crate::spec::{Cid, MachineSpec, Port};
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;

    /// The values were printed by the first version itself.
    #[test]
    fn vms_of_the_first_version_are_recognised() {
        let odd = PathBuf::from(std::ffi::OsStr::from_bytes(b"/images/\xff\"k"));
        let large =
            MachineSpec { vcpus: 4, memory_mb: 1024, port: Port(6000), ..MachineSpec::qemu("/k", "/r.cpio") };
        for (machine, cid, command, env, fingerprint) in [
            (
                MachineSpec::qemu("/boot/vmlinuz", "/var/lib/pepita/rootfs.ext4"),
                None,
                &[][..],
                &[][..],
                "71842c86adec74a8",
            ),
            (MachineSpec::process(), None, &["/usr/bin/api"], &[], "18987d091d84a4cd"),
            (
                large,
                Some(42),
                &["/usr/bin/api", "--port", "80"],
                &[("RUST_LOG", "info"), ("KEY", "a \"quoted\"\tvalue")],
                "600a3a3d99639d8c",
            ),
            (
                MachineSpec::qemu("/images/ä b\n", odd),
                Some(u32::MAX - 1),
                &["", "€ 'x' \\ \u{7f}\u{200b}\u{1b}"],
                &[("A", "")],
                "6dfd33ef81414cb4",
            ),
        ] {
            let mut spec = vm(machine, command, env);
            spec.cid = cid.map(|cid| Cid::new(cid).expect("good"));
            assert!(spec.was_started_with(fingerprint), "{spec:?}");
            spec.machine.memory_mb += 1;
            assert!(!spec.was_started_with(fingerprint), "{spec:?}");
        }
    }
}
