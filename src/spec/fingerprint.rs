//! Tells whether a running VM was started with a configuration, by a fingerprint of the keys that only a new start can
//! change. The fingerprint is kept in a label of the VM, in its journal entry and nowhere else.

mod legacy;

use super::VmSpec;
use super::keys::{Effect, Keyed};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The version of the fingerprint. A change of the canonical text, or of the default of a key in it, needs a new
/// version.
const FORM: &str = "2-";

/// The number of bytes of the hash that are kept: 128 bits.
const KEPT: usize = 16;

impl VmSpec {
    /// Returns the fingerprint of the keys whose change waits for the next start of the VM. It is the same in every run
    /// and every version of the supervisor. It does not protect secrets: a reader who can guess the environment can
    /// verify the guess.
    pub fn fingerprint(&self) -> String {
        let hash = Sha256::digest(canonical(self));
        hash[..KEPT].iter().fold(FORM.to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Returns whether a VM with this fingerprint, of the present or of a former form, was started with this configuration.
    pub fn was_started_with(&self, fingerprint: &str) -> bool {
        fingerprint == self.fingerprint() || legacy::matches(self, fingerprint)
    }
}

/// Returns a line `name=value` for each key, in the order of their names. A key that has its default is left out: so a
/// new version, which knows more keys, computes the same text for a VM that uses none of them.
fn canonical(spec: &VmSpec) -> String {
    let rows = VmSpec::ROWS.iter().filter(|row| row.effect == Effect::NextStart);
    let written = rows.filter(|row| row.get(spec) != row.get(&VmSpec::blank()));
    let mut lines: Vec<String> = written.map(|row| format!("{}={}\n", row.name, row.get(spec))).collect();
    lines.sort();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Cid, MachineSpec, Restart, VmName};
    use serde_json::json;

    pub(super) fn vm(machine: MachineSpec, command: &[&str], env: &[(&str, &str)]) -> VmSpec {
        let mut spec = VmSpec::new(VmName::new("api").expect("good"), machine);
        spec.command = command.iter().map(|&word| word.to_owned()).collect();
        spec.env = env.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        spec
    }

    /// The values are stored with running VMs: they never change.
    #[test]
    fn fingerprints_are_the_same_in_every_version() {
        let mut spec =
            vm(MachineSpec::qemu("/k", "/r"), &["/bin/x", "a \"b\""], &[("B", "1"), ("A", "ä=\n")]);
        spec.cid = Cid::new(42).ok();
        spec.machine.vcpus = 4;
        assert_eq!(
            canonical(&spec),
            "cid=42\ncommand=[\"/bin/x\",\"a \\\"b\\\"\"]\nenv={\"A\":\"ä=\\n\",\"B\":\"1\"}\n\
             kernel_path=\"/k\"\nrootfs_path=\"/r\"\nvcpus=4\n"
        );
        assert_eq!(spec.fingerprint(), "2-4ac6676d0f1ec2786273e86770b8dc67");
        assert_eq!(vm(MachineSpec::process(), &[], &[]).fingerprint(), "2-294b1fad6f1019f549cbb82662143bba");
    }

    /// A default is left out of the canonical text, and therefore must never change.
    #[test]
    fn the_defaults_of_these_keys_are_part_of_the_stored_form() {
        let rows = VmSpec::ROWS.iter().filter(|row| row.effect == Effect::NextStart);
        let defaults: serde_json::Map<_, _> =
            rows.map(|row| (row.name.to_owned(), row.get(&VmSpec::blank()))).collect();
        let expected = json!({
            "cid": null, "command": [], "disk": [], "share": [], "env": {}, "kernel_path": null, "memory_mb": 256, "rootfs_path": null,
            "vcpus": 2, "vmm": "qemu", "vsock_base_port": 5000, "user": null, "workdir": null, "hostname": null,
            "env_file": null, "image": null, "secrets": {}, "ulimits": {}, "sysctls": {}, "read_only": false, "privileged": false,
            "reach": [], "network": "none", "jail": null,
        });
        assert_eq!(serde_json::Value::from(defaults), expected);
    }

    #[test]
    fn only_what_waits_for_a_start_is_in_a_fingerprint() {
        let spec = vm(MachineSpec::process(), &[], &[]);
        let mut other = spec.clone();
        other.restart.policy = Restart::Never;
        assert!(other.was_started_with(&spec.fingerprint()));
        other.command.push("x".into());
        assert!(!other.was_started_with(&spec.fingerprint()));
        assert!(!other.was_started_with(""));
    }
}
