//! Disks outlive their VMs: what was synchronised survives any end, a disk has one user, and what a disk holds is never
//! formatted.

use super::host::{Form, Host, PATIENCE, errors, kill, text};
use super::images::Disk;
use pepita_wire::storage::DiskRecord;
use rustix::process::Signal;
use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Makes a host with a directory of disks.
fn host(disks: &Path) -> Host {
    Host::of(Form::Qemu).with("PEPITA_DISK_DIR", disks)
}

/// Returns the numbers in the lines of a VM's output that begin with a word.
fn numbers(host: &Host, name: &str, word: &str) -> Vec<u64> {
    let logs = text(&host.call(&["logs", "--name", name]).stdout);
    let number = |line: &str| line.strip_prefix(word)?.trim().parse().ok();
    logs.lines().filter_map(number).collect()
}

/// Waits until a VM has printed a line that begins with a word, and `more` than a number. Returns the last number.
fn await_number(host: &Host, name: &str, word: &str, more: u64) -> u64 {
    let mut follow = host.command(&["logs", "--follow", "--name", name]);
    let mut child = follow.stdout(std::process::Stdio::piped()).spawn().expect("it runs");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("piped")));
    let deadline = Instant::now() + PATIENCE;
    let number = loop {
        let line = lines.next().unwrap_or_else(|| panic!("{name} ended before {word:?}")).expect("readable");
        if let Some(number) = line.strip_prefix(word).and_then(|number| number.trim().parse().ok())
            && number > more
        {
            break number;
        }
        assert!(Instant::now() < deadline, "no {word:?} in time");
    };
    child.kill().expect("killed");
    child.wait().expect("reaped");
    number
}

/// Returns whether the file system in a file was unmounted.
fn is_clean(disk: &Path) -> bool {
    let mut block = [0; 1024];
    File::open(disk).and_then(|file| file.read_exact_at(&mut block, 1024)).expect("readable");
    block[0x38..0x3a] == [0x53, 0xef] && block[0x3a] & 3 == 1 && block[0x60] & 4 == 0
}

fn listed(host: &Host) -> Vec<DiskRecord> {
    serde_json::from_value(host.json(&["disk", "list", "--json"])).expect("records")
}

#[test]
fn what_the_daemon_has_synchronised_survives_a_kill_of_the_vmm_and_a_disk_has_one_user() {
    let files = tempfile::tempdir().expect("a directory");
    let disks = files.path().join("disks");
    let host = host(&disks);
    let volume = ["-v", "data:/var/lib/x:size=256M"];
    let record = ["--record", "/var/lib/x/numbers"];
    host.start_with("d", &volume, &record);
    let disk = disks.join("data.ext4");
    assert_eq!(disk.metadata().expect("made").permissions().mode() & 0o777, 0o600);
    let mut last = await_number(&host, "d", "recorded ", 20);
    let status = host.status("d");
    let [used] = &status.disks[..] else { panic!("{:?}", status.disks) };
    assert_eq!(
        (used.name.as_str(), used.mount.as_str(), used.size_kib),
        ("data", "/var/lib/x", Some(256 << 10))
    );
    assert!(used.host_kib.is_some_and(|kib| kib > 0 && kib <= 256 << 10), "{used:?}");
    // A part of the disk is the file system's own.
    let in_guest = used.used_kib.zip(used.available_kib).expect("the guest tells it");
    assert!(in_guest.0 > 0 && in_guest.1 > 100 << 10 && in_guest.0 + in_guest.1 < 256 << 10, "{used:?}");
    let guest = status.guest.expect("the guest tells it");
    let memory = guest.memory_kib.zip(guest.available_kib).expect("of every Linux");
    assert!(memory.1 > 0 && memory.1 < memory.0 && guest.cpu_ms.is_some_and(|ms| ms > 0), "{guest:?}");
    assert!(guest.disks.is_empty(), "they are told with what the host knows: {guest:?}");
    for round in 0..2 {
        let killed = host.status("d").vmm_pid;
        kill(killed, Signal::KILL);
        host.exit("d");
        last = last.max(numbers(&host, "d", "recorded ").into_iter().max().unwrap_or(0));
        assert!(!is_clean(&disk), "it was in use");
        host.destroy("d", &[]);
        // The end of a VM and the removal of its traces cost the disk nothing.
        host.start_with("d", &volume, &record);
        await_number(&host, "d", "recorded ", last);
        let found = numbers(&host, "d", "found ");
        println!("round {round}: recorded {last}, found {found:?}");
        assert!(found.len() == 1 && found[0] >= last, "recorded {last}, found {found:?}");
    }

    // A second user is told who has the disk, and costs the first one nothing.
    let second = host.run("e", &[&["--daemon"], &volume[..]].concat(), &[]).output().expect("it runs");
    println!("{}", errors(&second));
    assert_eq!(second.status.code(), Some(75), "{}", errors(&second));
    assert!(
        errors(&second).contains("disk data") && errors(&second).contains("VM d uses"),
        "{}",
        errors(&second)
    );
    let refused = host.fails(&["disk", "remove", "data"], 75);
    assert!(refused.contains("d uses it"), "{refused}");
    host.ok(&["disk", "grow", "data", "300M"]);
    let [of_d] = &listed(&host)[..] else { panic!("one disk") };
    let sizes = (of_d.size_mb, of_d.grows_to_mb);
    assert_eq!((of_d.used_by.as_deref(), sizes), (Some("d"), (256, Some(300))));
    assert_eq!(of_d.mount.as_deref(), Some("/var/lib/x"));

    // A stop unmounts the disk, so that the next start has nothing to check.
    host.destroy("d", &[]);
    assert!(is_clean(&disk), "a stop unmounts it");
    host.start_with("d", &volume, &record);
    await_number(&host, "d", "recorded ", last);
    assert_eq!(listed(&host)[0].size_mb, 300);
    host.destroy("d", &["--force"]);
    host.ok(&["disk", "remove", "data"]);
    assert_eq!((listed(&host), std::fs::read_dir(&disks).expect("there").count()), (vec![], 0));
    host.fails(&["disk", "remove", "data"], 4);
    host.ok(&["disk", "remove", "--force", "data"]);
}

#[test]
fn what_a_file_holds_is_never_formatted() {
    let files = tempfile::tempdir().expect("a directory");
    let host = host(files.path());
    let run = |disk: &str| host.run("d", &["--daemon", "--disk", disk], &[]).output().expect("it runs");
    // No VM is started with a file that holds something else, or with a file system that cannot be mended.
    let other = files.path().join("data.ext4");
    std::fs::write(&other, vec![7; 1 << 20]).expect("written");
    let output = run("name=data,mount=/data");
    println!("{}", errors(&output));
    assert_eq!(output.status.code(), Some(74), "{}", errors(&output));
    assert!(
        errors(&output).contains("disk data") && errors(&output).contains("no ext4"),
        "{}",
        errors(&output)
    );
    assert_eq!(std::fs::read(&other).expect("there"), vec![7; 1 << 20]);

    let image = files.path().join("mine.img");
    let tree = files.path().join("tree");
    std::fs::create_dir(&tree).expect("made");
    std::fs::write(tree.join("hello"), "kept since before").expect("written");
    let mut mke2fs = Command::new("/sbin/mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-d"]).args([&tree, &image]).arg("32M");
    let made = mke2fs.status().expect("mke2fs");
    assert!(made.success());
    let good = std::fs::read(&image).expect("there");
    let mut damaged = good.clone();
    // The root directory's inode table and its copies of the descriptors are gone, and the state says so.
    damaged[1024 + 0x3a] = 0;
    damaged[4096..2 << 20].fill(0xff);
    std::fs::write(&image, &damaged).expect("written");
    let disk = format!("name=mine,mount=/mine,path={}", image.display());
    let output = run(&disk);
    println!("{}", errors(&output));
    assert_eq!(output.status.code(), Some(74), "{}", errors(&output));
    assert!(
        errors(&output).contains("disk mine") && errors(&output).contains("e2fsck -f"),
        "{}",
        errors(&output)
    );
    std::fs::write(&image, &good[..good.len() / 2]).expect("written");
    assert!(errors(&run(&disk)).contains("cut short"));
    assert!(!host.vm("d").exists());

    // A file system that was there before is kept, and a disk that can only be read stays as it is.
    std::fs::write(&image, &good).expect("written");
    let output = host
        .run(
            "d",
            &["--rm", "--disk", &format!("{disk},ro")],
            &["--cat", "/mine/hello", "--write", "1", "--to", "/mine/x", "--exit", "0"],
        )
        .output()
        .expect("it runs");
    println!("{}", text(&output.stdout));
    assert!(output.status.success(), "{}", errors(&output));
    let said = text(&output.stdout);
    assert!(said.contains("kept since before") && said.contains("Read-only file system"), "{said}");
    assert_eq!(std::fs::read(&image).expect("there"), good);
}

#[test]
fn a_disk_whose_host_is_full_is_an_error_in_the_guest_and_the_vm_goes_on() {
    let files = tempfile::tempdir().expect("a directory");
    let _small = Disk::mount(files.path(), "24m");
    let host = host(files.path());
    host.start_with(
        "d",
        &["-v", "data:/data:size=1G"],
        &["--interval", "100", "--write", "32", "--to", "/data/x"],
    );
    let status = host.until("d", |status| status.disk_error.is_some());
    assert_eq!(status.disk_error.as_deref(), Some("disk data: write: No space left on device"));
    // The guest is not paused: its daemon is told, and goes on.
    await_number(&host, "d", "tick ", 0);
    let said = text(&host.call(&["logs", "--name", "d"]).stdout);
    assert!(said.contains("writing failed"), "{said}");
    host.destroy("d", &[]);
}

#[test]
fn a_plain_process_has_no_disks() {
    let files = tempfile::tempdir().expect("a directory");
    let host = host(&files.path().join("disks"));
    let mut call = host.command(&["run", "--vmm", "process", "-v", "data:/data", "--", "/bin/true"]);
    let output = call.output().expect("it runs");
    assert_eq!(output.status.code(), Some(64), "{}", errors(&output));
    assert!(errors(&output).contains("plain process"), "{}", errors(&output));
    assert!(!files.path().join("disks").exists(), "nothing was made");
}
