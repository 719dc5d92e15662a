//! The view of a program that runs inside a guest of this project. `tests/vhost.rs` runs these tests there; elsewhere
//! they check nothing.

use crate::host::{Host, guest};
use pepita_supervisor::platform::{Platform, detect_platform, select_adapter};
use pepita_wire::{Exit, ExitRecord};

#[test]
fn a_program_in_a_guest_knows_where_it_is_and_which_adapter_fits() {
    if std::env::var_os("PEPITA_TEST_LOOPBACK").is_none() {
        println!("not inside a guest: shown by tests/vhost.rs");
        assert_ne!(detect_platform(), Platform::PepitaMicroVM, "a test on a host is no guest");
        return;
    }
    assert_eq!(detect_platform(), Platform::PepitaMicroVM);
    let cid = std::env::var("PEPITA_VSOCK_CID").expect("the agent sets it");
    let mark = std::fs::read_to_string("/run/pepita/guest").expect("the agent's mark");
    assert!(mark.lines().any(|line| line == format!("cid={cid}")), "{mark}");
    assert!(select_adapter(detect_platform()).is_ok());
    println!("platform: {}, CID {cid}", detect_platform());
}

#[test]
fn a_vm_s_limits_are_the_kernel_s_and_a_vm_that_breaks_them_ends_as_host_oom() {
    if std::env::var_os("PEPITA_TEST_LOOPBACK").is_none() {
        println!("a host need not have a memory controller of its own to give: shown by tests/vhost.rs");
        return;
    }
    let host = Host::new();
    let (kernel, rootfs) = (guest("vmlinuz"), guest("ticker.cpio"));
    let (kernel, rootfs) = (kernel.to_string_lossy(), rootfs.to_string_lossy());
    let images = ["--kernel", &kernel, "--rootfs", &rootfs, "--memory", "96", "--cpus", "1"];
    let run = ["run", "--name", "duende-vm-held", "--daemon", "--ready-timeout", "600s"];
    let output = host.pepita(&[&run[..], &images, &["--", "/usr/bin/ticker"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let status = host.status("held");
    assert_eq!(status.limits, "cgroup2");
    let state = std::fs::read(format!("{}/state.json", status.dir)).expect("its state");
    let state: serde_json::Value = serde_json::from_slice(&state).expect("JSON");
    let cgroup = std::path::PathBuf::from(state["cgroup"].as_str().expect("a cgroup"));
    let holds = |file| std::fs::read_to_string(cgroup.join(file)).expect("the kernel's own file");
    let processes = holds("cgroup.procs");
    assert!(
        processes.lines().any(|pid| status.vmm_pid.is_some_and(|vmm| pid == vmm.to_string())),
        "{processes}"
    );
    // The guest's memory, 128 MiB for QEMU itself, and 64 for the code that it translates.
    assert_eq!(holds("memory.max").trim(), (288_u64 << 20).to_string());
    assert_eq!(holds("cpu.max").trim(), "150000 100000");
    assert_eq!(holds("pids.max").trim(), "513");
    assert!(holds("io.stat").lines().count() < 1000, "no accounts of disks");
    // The status tells what the kernel holds.
    let limits = status.host_limits.expect("limits");
    assert_eq!((limits.memory_kib, limits.cpu_percent), (Some(288 << 10), Some(150)));
    assert_eq!(limits.processes, Some(513));
    assert!(limits.open_files.is_some() && limits.log_kib.is_some(), "{limits:?}");

    // The limit is below the memory that the VM holds already: the kernel ends it.
    std::fs::write(cgroup.join("memory.max"), (24_u64 << 20).to_string()).expect("written");
    let output = host.pepita(&["wait", "--name", "duende-vm-held", "--timeout", "120s"]);
    let exit: ExitRecord = serde_json::from_slice(&output.stdout).expect("an exit record");
    assert_eq!(exit.exit, Exit::HostOom, "{exit:?}");
    assert!(!cgroup.exists(), "its cgroup is left");
    println!("limits: {} held it, then {:?}", status.limits, exit.exit);
    host.pepita(&["destroy", "--name", "duende-vm-held"]);
    host.assert_nothing_left();
}
