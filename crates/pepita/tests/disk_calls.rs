//! Tests of `pepita disk` as people call it. No VM is started: a disk is in use when another process has its lock.

mod host;
mod terminal;

use host::Host;
use pepita_wire::storage::DiskRecord;
use std::fs::File;
use std::path::{Path, PathBuf};
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

/// A file system that this host has mounted, until the end of the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_this_host_has_mounted_is_left_alone() {
    let files = tempfile::tempdir().expect("a directory");
    let (disks, place) = (files.path().join("disks"), files.path().join("mounted"));
    let host = Host::new().with("PEPITA_DISK_DIR", &disks);
    disk(&disks, "data");
    let file = disks.join("data.ext4");
    std::fs::create_dir(&place).expect("a directory");
    let mut mount = Command::new("mount");
    let mounted = mount.args(["-o", "loop"]).arg(&file).arg(&place).status().expect("mount runs");
    assert!(mounted.success(), "this test needs root and a loop device");
    let mounted = Mounted(place);
    let error = host.fails(&["disk", "grow", "data", "32M"], 75);
    assert!(error.contains("this host has it as /dev/loop") && error.contains("unmount it"), "{error}");
    drop(mounted);
    assert!(host.ok(&["disk", "grow", "data", "32M"]).contains("32MiB"));
}

/// Damage as a VM leaves it that was killed: a file has a wrong number of names, and the disk was in use.
const DAMAGE: [&str; 2] = ["set_inode_field /hello links_count 7", "set_super_value state 0"];

#[test]
fn damage_that_can_be_mended_without_a_question_is_mended_and_nothing_is_lost() {
    let files = tempfile::tempdir().expect("a directory");
    let (disks, tree) = (files.path().join("disks"), files.path().join("tree"));
    let host = Host::new().with("PEPITA_DISK_DIR", &disks);
    disk(&disks, "d");
    let file = disks.join("d.ext4");
    std::fs::create_dir(&tree).expect("made");
    std::fs::write(tree.join("hello"), "kept").expect("written");
    let mut make = Command::new("/sbin/mke2fs");
    let made = make.args(["-q", "-F", "-t", "ext4", "-d"]).args([&tree, &file]).arg("16M").status();
    assert!(made.expect("mke2fs").success());
    let debugfs = |request: &str| {
        let output = Command::new("/sbin/debugfs").args(["-w", "-R", request]).arg(&file).output();
        output.expect("debugfs").stdout
    };
    DAMAGE.iter().for_each(|damage| drop(debugfs(damage)));
    let check = || Command::new("/sbin/e2fsck").args(["-f", "-n"]).arg(&file).output().expect("e2fsck");
    assert!(!check().status.success(), "it is damaged");
    host.ok(&["disk", "grow", "d", "24M"]);
    let checked = check();
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(debugfs("cat /hello"), b"kept");
}
