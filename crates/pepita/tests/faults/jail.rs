//! QEMU, the vsock back-end and the servers of shares run in jails of their own, a layer that cannot be had is named, and an ordinary user has a
//! jail, too.

use crate::host::{Form, Host, errors, guest_file, pepita, text};
use pepita_launcher::host::programs::BACKEND;
use pepita_launcher::rundir::files;
use pepita_wire::StatusRecord;
use pepita_wire::record::{JailStatus, LayerStatus, ProcessJail};
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The namespaces that are the jail's own.
const NAMESPACES: [&str; 6] = ["mnt", "net", "pid", "ipc", "uts", "user"];

/// An ordinary user, who has nothing.
const ORDINARY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns the processes in jails of a VM with this run directory, by their names in the status.
fn jailed(dir: &Path) -> Vec<(&'static str, u32)> {
    let state = files::state(dir).ok().expect("a state");
    let [vmm, backend] = [state.vmm, state.backend].map(|process| process.map(|process| process.pid));
    [("vmm", vmm), ("backend", backend)].into_iter().filter_map(|(what, pid)| Some((what, pid?))).collect()
}

/// Returns the process of the server of a share.
fn server(dir: &Path, mount: &str) -> u32 {
    files::state(dir).ok().expect("a state").shares[mount].pid
}

/// Returns the value of a line of `/proc/<pid>/status`.
fn of_process(pid: u32, line: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {line}")).trim().to_owned()
}

/// Returns a namespace of a process.
fn namespace(pid: u32, name: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("it runs")
}

fn jail(status: &StatusRecord) -> &JailStatus {
    status.jail.as_deref().expect("a jail")
}

/// Checks the processes of a VM against what is promised of a jail. Returns the users of the processes.
fn check_jail(host: &Host, name: &str) -> BTreeSet<u32> {
    let status = host.status(name);
    let jail = jail(&status);
    assert_eq!((&jail.level[..], jail.shortfall()), ("full", None));
    // The monitor may end processes of other users and write where users have said so.
    let monitor = status.monitor_pid.expect("a monitor");
    let left = if is_root() { "0000000000000022" } else { "0000000000000000" };
    for (line, expected) in
        [("CapEff", left), ("CapPrm", left), ("CapInh", "0000000000000000"), ("NoNewPrivs", "1")]
    {
        assert_eq!(of_process(monitor, line), expected, "monitor: {line}");
    }
    let mut users = BTreeSet::new();
    for (what, pid) in jailed(&host.vm(name)) {
        let record = &jail.processes[what];
        let uid: u32 = of_process(pid, "Uid").split('\t').next().expect("a user").parse().expect("a number");
        assert_eq!(record.uid, is_root().then_some(uid), "{what}");
        users.insert(uid);
        for (line, expected) in [
            ("CapEff", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(of_process(pid, line), expected, "{what}: {line}");
        }
        for name in NAMESPACES {
            assert_ne!(namespace(pid, name), namespace(std::process::id(), name), "{what}: {name}");
        }
        check_layers(what, record);
        // Of the run directory it sees the pipes of the console, and the back-end sees nothing.
        let seen =
            Path::new(&format!("/proc/{pid}/root")).join(host.vm(name).strip_prefix("/").expect("absolute"));
        let seen = std::fs::read_dir(seen).expect("its directory").flatten();
        let seen: BTreeSet<String> =
            seen.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let expected: &[&str] = if what == "vmm" { &["console.in", "console.out"] } else { &["vsock"] };
        assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{what}");
    }
    users
}

/// Checks that the layers which every process of a VM has are in force.
fn check_layers(what: &str, record: &ProcessJail) {
    for layer in ["root", "network", "pids", "capabilities", "seccomp", "landlock", "limits", "descriptors"] {
        let standing = &record.layers[layer];
        assert!(matches!(standing, LayerStatus::InForce { .. }), "{what}: {layer}: {record:?}");
    }
}

/// Checks the server of a share, which has these capabilities and no others when it serves.
fn check_server(status: &StatusRecord, dir: &Path, mount: &str, capabilities: &str) {
    let record = &jail(status).processes[&format!("share {mount}")];
    check_layers(mount, record);
    assert!(matches!(record.layers["user-namespace"], LayerStatus::InForce { .. }), "{record:?}");
    assert!(matches!(record.layers["uid"], LayerStatus::LeftOut { .. }), "{record:?}");
    let pid = server(dir, mount);
    for (line, expected) in [
        ("CapEff", capabilities),
        ("CapPrm", capabilities),
        ("CapInh", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(of_process(pid, line), expected, "{mount}: {line}");
    }
    for name in NAMESPACES {
        assert_ne!(namespace(pid, name), namespace(std::process::id(), name), "{mount}: {name}");
    }
    let seen = |path: &Path| {
        Path::new(&format!("/proc/{pid}/root")).join(path.strip_prefix("/").expect("absolute")).exists()
    };
    assert!(!seen(dir) && !seen(Path::new("/etc/passwd")), "{mount}: it sees files of the host");
    assert!(!Path::new(&format!("/proc/{pid}/root/usr")).exists(), "{mount}: its root is its directory");
}

#[test]
fn the_processes_of_two_vms_are_in_jails_of_their_own_and_the_vms_work() {
    let disks = tempfile::tempdir().expect("a directory");
    let shared = tempfile::tempdir().expect("a directory");
    let volume = |rest: &str| format!("{}:{rest}", shared.path().display());
    let (read, write) = (volume("/read"), volume("/write:rw"));
    let host = Host::of(Form::Qemu).with("PEPITA_DISK_DIR", disks.path());
    for name in ["a", "b"] {
        let disk = format!("{name}:/data");
        let volumes = ["--jail", "full", "-v", &disk, "-v", &read, "-v", &write];
        host.start_with(name, &volumes, &["--write", "2", "--to", "/data/x"]);
        let status = host.until(name, |status| status.agent.ready);
        check_server(&status, &host.vm(name), "/read", "000000000000000c");
        check_server(&status, &host.vm(name), "/write", "00000000000000db");
    }
    let (a, b) = (check_jail(&host, "a"), check_jail(&host, "b"));
    if is_root() {
        assert!(a.is_disjoint(&b) && a.len() == 2 && b.len() == 2, "{a:?} {b:?}");
    }
    for name in ["a", "b"] {
        host.exec(name, &["/usr/bin/ticker", "--no-ready", "--exit", "0"], 0);
        host.until(name, |status| status.daemon.state == pepita_wire::record::DaemonState::Ready);
    }
    let claim = |uid: &u32| Path::new("/run/pepita-uids").join(uid.to_string()).exists();
    assert_eq!(a.iter().any(claim), is_root());
    // A monitor that is killed takes no jail away, and the next one gives the user ids back.
    crate::host::kill(host.status("a").monitor_pid, rustix::process::Signal::KILL);
    host.ok(&["adopt", "--name", "a"]);
    assert_eq!(check_jail(&host, "a"), a);
    for name in ["a", "b"] {
        host.destroy(name, &[]);
    }
    assert!(!a.iter().chain(&b).any(claim), "the user ids are free");
}

/// Returns a launch in a user namespace in which there is one user, and no further namespace can be made, as in many
/// containers.
fn in_a_container(host: &Host, level: &str, volume: &str) -> Command {
    let words = host.run_args("c", &["--daemon", "--jail", level, "-v", volume], &[]);
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    let call = host.command(&[]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]).arg(pepita()).args(words);
    command.envs(call.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[test]
fn a_layer_that_cannot_be_had_refuses_a_full_jail_by_name_and_is_told_of_another() {
    let host = Host::of(Form::Qemu);
    let shared = tempfile::tempdir().expect("a directory");
    let volume = format!("{}:/read", shared.path().display());
    std::fs::write(shared.path().join("x"), "of the host").expect("written");
    let output = in_a_container(&host, "full", &volume).output().expect("unshare runs");
    let error = errors(&output);
    assert_eq!(output.status.code(), Some(77), "{error}");
    assert!(error.contains("jail, layer uid: ") && error.contains("--jail best-effort"), "{error}");
    assert!(!host.vm("c").exists(), "nothing is left");
    let output = in_a_container(&host, "best-effort", &volume).output().expect("unshare runs");
    assert!(output.status.success(), "{}", errors(&output));
    let status = host.until("c", |status| status.agent.ready);
    let missing: BTreeSet<&str> = jail(&status).missing().map(|(_, layer, _)| layer).collect();
    assert_eq!(missing.into_iter().collect::<Vec<_>>(), ["uid", "user-namespace"]);
    assert!(jail(&status).processes.values().all(|process| process.uid.is_none()));
    assert!(jail(&status).processes.contains_key("share /read"));
    let said =
        host.exec("c", &["/usr/bin/ticker", "--no-ready", "--cat", "/read/x", "--exit", "0"], 0).output;
    assert!(said.contains("of the host"), "{said}");
    host.destroy("c", &[]);
}

#[test]
fn root_without_the_right_to_mount_has_no_other_user_and_its_vm_works() {
    if !is_root() {
        return;
    }
    // What root may do in a container, as docker gives it.
    const CAPABILITIES: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,\
        +net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";
    let host = Host::of(Form::Qemu);
    let call = host.command(&[]);
    let shared = tempfile::tempdir().expect("a directory");
    let volume = |rest: &str| format!("{}:{rest}", shared.path().display());
    let (read, write) = (volume("/read"), volume("/write:rw"));
    let run = |level: &str, volume: &str| {
        let mut command = Command::new("setpriv");
        command.arg(format!("--bounding-set={CAPABILITIES}")).arg("--inh-caps=-all").arg(pepita());
        command.args(host.run_args("c", &["--daemon", "--jail", level, "-v", volume], &[]));
        command.envs(call.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.output().expect("setpriv runs")
    };
    let refused = run("full", &write);
    assert_eq!(refused.status.code(), Some(77), "{}", errors(&refused));
    // What is to be read-only is never shown as something else.
    let refused = run("best-effort", &read);
    assert_eq!(refused.status.code(), Some(75), "{}", errors(&refused));
    assert!(errors(&refused).contains("it cannot be made read-only on this host"), "{}", errors(&refused));
    let output = run("best-effort", &write);
    assert!(output.status.success(), "{}", errors(&output));
    let status = host.until("c", |status| status.agent.ready);
    let missing: BTreeSet<&str> = jail(&status).missing().map(|(_, layer, _)| layer).collect();
    assert!(missing.contains("root") && missing.contains("uid"), "{missing:?}");
    for (what, pid) in jailed(&host.vm("c")) {
        assert_eq!(of_process(pid, "CapEff"), "0000000000000000", "{what}");
        assert_eq!(of_process(pid, "Seccomp"), "2", "{what}");
    }
    assert_eq!(of_process(server(&host.vm("c"), "/write"), "CapEff"), "00000000000000db");
    host.exec("c", &["/usr/bin/ticker", "--no-ready", "--write", "1", "--to", "/write/x", "--exit", "0"], 0);
    assert_eq!(shared.path().join("x").metadata().expect("written").len(), 1 << 20);
    host.destroy("c", &[]);
}

#[test]
fn an_ordinary_user_has_a_jail_without_another_user_id() {
    if !is_root() {
        let host = Host::of(Form::Qemu);
        host.start_with("o", &["--jail", "full"], &[]);
        host.until("o", |status| status.agent.ready);
        check_jail(&host, "o");
        host.destroy("o", &[]);
        return;
    }
    // Copies that this user may read: the build may be in a directory of root.
    let dir = tempfile::Builder::new().prefix("pj").tempdir_in("/tmp").expect("a directory");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let copy = |from: &Path, name: &str| {
        let to = dir.path().join(name);
        std::fs::copy(from, &to).expect("a copy");
        chown(&to, Some(ORDINARY), Some(ORDINARY)).expect("an owner");
        to
    };
    let launcher = copy(pepita(), "pepita");
    let (kernel, rootfs) =
        (copy(&guest_file("vmlinuz"), "vmlinuz"), copy(&guest_file("ticker.cpio"), "ticker.cpio"));
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/vhost-device-vsock");
    let backend = Some(built).filter(|path| path.exists()).or_else(|| BACKEND.find()).expect("a back-end");
    let backend = copy(&backend, "vhost-device-vsock");
    let own_dir = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).expect("made");
        chown(&path, Some(ORDINARY), Some(ORDINARY)).expect("an owner");
        path
    };
    let (run_dir, shared) = (own_dir("run"), own_dir("shared"));
    let call = |args: &[&str]| {
        // As most users do, this one belongs to further groups.
        let mut command = Command::new("setpriv");
        let user = ORDINARY.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--groups", "65534,100,101", "--"]);
        command.arg(&launcher).args(args).current_dir("/");
        command.env("PEPITA_RUN_DIR", &run_dir).env("PEPITA_VHOST_DEVICE_VSOCK", &backend);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{args:?}: {}", errors(&output));
        text(&output.stdout)
    };
    let (kernel, rootfs) = (kernel.to_string_lossy(), rootfs.to_string_lossy());
    let machine = ["run", "--kernel", &kernel, "--rootfs", &rootfs, "--memory", "128", "--name", "o"];
    let volume = format!("{}:/write:rw", shared.display());
    let options = ["-v", &volume, "--jail", "full", "--daemon", "--wait-ready", "--", "/usr/bin/ticker"];
    call(&[&machine[..], &options].concat());
    let status: StatusRecord = serde_json::from_str(&call(&["status", "--name", "o"])).expect("a record");
    assert_eq!(jail(&status).shortfall(), None);
    let layers = &jail(&status).processes["vmm"].layers;
    assert!(matches!(layers["uid"], LayerStatus::LeftOut { .. }), "{layers:?}");
    assert!(matches!(layers["user-namespace"], LayerStatus::InForce { .. }), "{layers:?}");
    for (what, pid) in jailed(&run_dir.join("o")) {
        assert_eq!(of_process(pid, "CapEff"), "0000000000000000", "{what}");
        assert_ne!(
            namespace(pid, "user"),
            namespace(status.monitor_pid.expect("a monitor"), "user"),
            "{what}"
        );
    }
    check_server(&status, &run_dir.join("o"), "/write", "00000000000000db");
    let write = ["--write", "1", "--to", "/write/x", "--exit", "0"];
    call(&[&["exec", "o", "--", "/usr/bin/ticker", "--no-ready"][..], &write].concat());
    let written = shared.join("x").metadata().expect("written");
    assert_eq!((written.uid(), written.len()), (ORDINARY, 1 << 20));
    call(&["destroy", "--name", "o"]);
}
