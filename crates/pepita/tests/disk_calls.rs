//! Tests of `pepita disk` as people call it. No VM is started: a disk is in use when another process has its lock.

mod host;
mod terminal;

use host::Host;
use pepita_wire::storage::DiskRecord;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use terminal::Typist;

/// Makes a disk of 16 MiB, as a VM has left it.
fn disk(dir: &Path, name: &str) -> File {
    std::fs::create_dir_all(dir).expect("a directory");
    let path = dir.join(format!("{name}.ext4"));
    let made = Command::new("/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(&path).arg("16M").status();
    assert!(made.expect("mke2fs").success());
    let user = serde_json::json!({ "vm": "db", "dir": "/run/pepita/db", "mount": "/data" });
    std::fs::write(dir.join(format!("{name}.json")), user.to_string()).expect("written");
    File::open(&path).expect("there")
}

fn listed(host: &Host) -> Vec<DiskRecord> {
    serde_json::from_value(host.json(&["disk", "list", "--json"])).expect("records")
}

#[test]
fn disks_are_listed_grow_and_are_removed_unless_a_vm_has_them() {
    let files = tempfile::tempdir().expect("a directory");
    let disks = files.path().join("disks");
    let host = Host::new().with("PEPITA_DISK_DIR", &disks);
    assert!(host.fails(&["disk", "remove", "data"], 4).contains("which has none"));
    let (data, _other) = (disk(&disks, "data"), disk(&disks, "other"));
    data.lock().expect("the lock of a VM");
    let table = host.ok(&["disk", "ls"]);
    assert!(table.lines().any(|line| line.contains("data") && line.contains("/data") && line.contains("db")));
    assert!(table.lines().any(|line| line.contains("other") && line.contains("(last: db)")), "{table}");

    // A disk that is held grows at the next start, and is not removed; nor is another one that is named with it.
    assert!(host.ok(&["disk", "grow", "data", "32M"]).contains("next start"));
    let grown: DiskRecord =
        serde_json::from_value(host.json(&["--json", "disk", "grow", "other", "24M"])).expect("a record");
    assert_eq!((grown.size_mb, grown.grows_to_mb, grown.mount.as_deref()), (24, None, Some("/data")));
    assert!(host.ok(&["disk", "grow", "other", "16M"]).contains("do not shrink"));
    assert_eq!(listed(&host)[1].size_mb, 24);
    assert!(host.fails(&["disk", "remove", "data", "--yes"], 75).contains("db uses it"));
    let unknown = host.fails(&["disk", "remove", "--yes", "other", "nope"], 4);
    assert!(unknown.contains("nope") && unknown.contains("data, other"), "{unknown}");
    assert_eq!(listed(&host).len(), 2);
    drop(data);
    host.ok(&["disk", "rm", "-f", "data", "other", "nope"]);
    assert_eq!((listed(&host), std::fs::read_dir(&disks).expect("there").count()), (vec![], 0));
}

#[test]
fn at_a_terminal_a_removal_is_asked_first() {
    let files = tempfile::tempdir().expect("a directory");
    let host = Host::new().with("PEPITA_DISK_DIR", files.path());
    drop(disk(files.path(), "data"));
    let mut typist = Typist::open(24, 100);
    for (answer, code, left) in [("\r", 64, 1), ("n\r", 64, 1), ("yes\r", 0, 0)] {
        let mut child = typist.spawn(host.command(&["disk", "remove", "data"]), "vt100");
        typist.expect("last used by db), with all that is on it? [y/N] ");
        typist.say(answer);
        assert_eq!(child.wait().expect("an end").code(), Some(code), "{answer:?}");
        assert_eq!(listed(&host).len(), left, "{answer:?}");
    }
}
