//! Tests `pepita doctor` on this machine: the doctor boots a real guest and reports that, and gives advice without
//! QEMU.

mod host;

use host::Host;
use serde_json::Value;

fn verdict<'a>(checks: &'a Value, what: &str) -> &'a Value {
    let all = checks.as_array().expect("a list");
    all.iter().find(|check| check["what"] == what).unwrap_or_else(|| panic!("{what}: {checks}"))
}

#[test]
fn a_host_that_boots_guests_is_found_to() {
    let host = Host::new();
    let (kernel, rootfs) = host::images();
    let (kernel, rootfs) = (kernel.to_string_lossy(), rootfs.to_string_lossy());
    let checks = host.json(&["doctor", "--json", "--kernel", &kernel, "--rootfs", &rootfs]);
    for what in ["VMM", "guest agent", "run directory", "kernel", "boot"] {
        assert_eq!(verdict(&checks, what)["verdict"], "ok", "{checks}");
    }
    assert!(
        verdict(&checks, "boot")["seen"].as_str().is_some_and(|seen| seen.contains("ms after")),
        "{checks}"
    );
    // The guest that the doctor booted is gone, and the table for people has a line or two for each requirement.
    assert_eq!(host.ok(&["list", "--format", "name"]), "");
    let table = host.ok(&["doctor", "--no-boot"]);
    assert!(table.lines().count() >= 10 && !table.contains('\x1b'), "{table}");
}

#[test]
fn without_qemu_nothing_boots_and_the_way_out_is_named() {
    let host = Host::new().with("PEPITA_QEMU", "/nowhere/qemu");
    let said = host.call(&["doctor", "--no-boot", "--json"]);
    assert_eq!(said.status.code(), Some(69));
    let checks: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    let vmm = verdict(&checks, "VMM");
    assert_eq!(vmm["verdict"], "broken");
    assert!(vmm["advice"].as_str().is_some_and(|advice| advice.contains("apt-get install")), "{vmm}");
    let version = host.json(&["--version", "--json"]);
    assert_eq!((&version["vmms"][0]["name"], &version["vmms"][0]["usable"]), (&"qemu".into(), &false.into()));
}
