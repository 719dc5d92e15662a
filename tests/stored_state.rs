//! Files that programs of commit 445d9af have written can be read (semantics 13.3). The files are in
//! `tests/golden/445d9af`.

use pepita_supervisor::config;
use pepita_supervisor::spec::{Cid, MachineSpec, VmName, VmSpec};
use std::path::{Path, PathBuf};

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/445d9af").join(file)
}

/// The VMs under whose configuration the files were written.
fn vms() -> Vec<VmSpec> {
    let checked = config::load(&golden("tree.toml")).unwrap_or_else(|e| panic!("{e}"));
    let mut machine = MachineSpec::qemu("/srv/guest/vmlinuz", "/srv/guest/ticker.cpio");
    (machine.vcpus, machine.memory_mb) = (2, 160);
    let mut micro = VmSpec::new(VmName::new("micro").expect("a name"), machine);
    micro.cid = Some(Cid::new(4242).expect("a CID"));
    micro.env.insert("GREETING".into(), "grüß dich".into());
    checked.spec.groups.into_iter().flat_map(|group| group.vms).chain([micro]).collect()
}

#[test]
fn a_vm_of_an_older_supervisor_counts_as_unchanged() {
    let vms = vms();
    assert_eq!(vms.len(), 5);
    for vm in vms {
        let entry = std::fs::read(golden(&format!("vms/{}.json", vm.name))).expect("a journal entry");
        let entry: serde_json::Value = serde_json::from_slice(&entry).expect("JSON");
        // Otherwise an upgrade would restart every VM that runs (semantics 9.4, 9.5).
        let config = entry["config"].as_str().expect("a fingerprint");
        assert!(vm.was_started_with(config), "{}", vm.name);
    }
}
