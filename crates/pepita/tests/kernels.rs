//! Tests of `pepita kernel`, and of launches that name no kernel.

mod host;

use host::{Form, Host, guest_file};
use serde_json::Value;

#[test]
fn a_launch_that_names_no_kernel_boots_the_installed_one() {
    let data = tempfile::tempdir().expect("a directory");
    let host = Host::of(Form::Qemu).with("PEPITA_DATA_DIR", data.path());
    let package = guest_file("vmlinuz").with_file_name("");
    let package = package.to_str().expect("a plain path");
    let rootfs = guest_file("ticker.cpio");
    let rootfs = rootfs.to_str().expect("a plain path");
    let run = ["run", "--name", "a", "--rootfs", rootfs, "--daemon", "--wait-ready"];
    let advice = host.fails(&run, 64);
    assert!(advice.contains("--kernel") && advice.contains("pepita kernel install"), "{advice}");
    assert_eq!(host.json(&["kernel", "list", "--json"]), Value::Array(Vec::new()));

    let installed = host.json(&["kernel", "install", "--from", package, "--json"]);
    let release = installed["release"].as_str().expect("a release").to_owned();
    let listed = host.json(&["kernel", "list", "--json"]);
    assert_eq!(listed, Value::Array(vec![installed]), "it is the default");
    host.ok(&run);
    let config = std::fs::read_to_string(host.vm("a").join("spec.json")).expect("a configuration");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert!(config["kernel"].as_str().is_some_and(|kernel| kernel.ends_with(".vmlinux")), "{config}");

    // The VM has loaded its kernel.
    host.ok(&["kernel", "remove", &release]);
    assert!(host.ok(&["status", "--name", "a"]).contains("\"state\": \"running\""));
    host.ok(&["destroy", "--name", "a"]);
    host.fails(&["kernel", "remove", &release], 64);
}
