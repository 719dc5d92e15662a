//! Tests with files that are no images and with full disks: the error names the file and the stage, and nothing is
//! left.

use crate::host::{Form, Host, errors, guest_file, kill};
use pepita_wire::{Exit, ExitRecord};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Returns a file that holds only the first half of another.
fn cut(from: &Path, dir: &Path, name: &str) -> PathBuf {
    let bytes = std::fs::read(from).expect("an image");
    let path = dir.join(name);
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
    path
}

#[test]
fn an_image_that_is_missing_cut_short_or_a_text_is_named_with_its_role() {
    let files = tempfile::tempdir().expect("a directory");
    let here = files.path();
    let text = here.join("notes.txt");
    std::fs::write(&text, "these are no bytes to boot\n".repeat(1000)).expect("written");
    let (kernel, rootfs) = (guest_file("vmlinuz"), guest_file("ticker.cpio"));
    let cases = [
        ("kernel", here.join("missing"), rootfs.clone()),
        ("kernel", cut(&kernel, here, "vmlinuz.part"), rootfs.clone()),
        ("kernel", text.clone(), rootfs.clone()),
        ("rootfs", kernel.clone(), here.join("missing")),
        ("rootfs", kernel.clone(), cut(&rootfs, here, "root.cpio")),
        ("rootfs", kernel.clone(), cut(&guest_file("ticker.ext4"), here, "root.ext4")),
        ("rootfs", kernel, text),
    ];
    let host = Host::of(Form::Qemu);
    for (stage, kernel, rootfs) in cases {
        let culprit = if stage == "kernel" { &kernel } else { &rootfs };
        let (k, r) = (kernel.to_string_lossy(), rootfs.to_string_lossy());
        let output = host.call(&["run", "--name", "i", "--daemon", "--kernel", &k, "--rootfs", &r]);
        let error = errors(&output);
        println!("{error}");
        assert_eq!(output.status.code(), Some(66), "{error}");
        let file = culprit.file_name().expect("a name").to_string_lossy();
        assert!(error.contains(stage) && error.contains(&*file) && error.lines().count() == 1, "{error}");
        assert!(!host.vm("i").exists());
    }
}

#[test]
fn a_kernel_that_the_vmm_refuses_is_told_in_the_vmm_s_words() {
    let files = tempfile::tempdir().expect("a directory");
    let mut elf = std::fs::read(env!("CARGO_BIN_EXE_pepita")).expect("a program");
    // A program is an ELF file, too, but cannot boot.
    elf.truncate(elf.len());
    let kernel = files.path().join("no-kernel");
    std::fs::write(&kernel, elf).expect("written");
    let host = Host::of(Form::Qemu);
    let (k, rootfs) = (kernel.to_string_lossy(), guest_file("ticker.cpio"));
    let r = rootfs.to_string_lossy();
    let output = host.call(&["run", "--name", "i", "--daemon", "--kernel", &k, "--rootfs", &r]);
    println!("{}", errors(&output));
    assert_eq!(output.status.code(), Some(66), "{}", errors(&output));
    assert!(errors(&output).contains("the VMM did not start"), "{}", errors(&output));
    assert!(!host.vm("i").exists());
}

/// A small disk in a host's run directory. Dropping it removes the disk.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mount(dir: &'a Path, size: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "a full disk is made by mounting a small one: run this as root"
        );
        let options = std::ffi::CString::new(format!("size={size},mode=700")).expect("no zero in it");
        mount("none", dir, "tmpfs", MountFlags::empty(), Some(options.as_c_str())).expect("mounted");
        Self(dir)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn without_room_in_the_run_directory_nothing_is_begun() {
    for form in [Form::Qemu, Form::Process] {
        let host = Host::of(form);
        let _disk = Disk::mount(&host.dir, "64k");
        let output = host.run("d", &["--daemon"], &[]).output().expect("the program runs");
        let error = errors(&output);
        println!("{error}");
        assert_eq!(output.status.code(), Some(74), "{error}");
        assert!(
            error.contains("No space left") && error.contains(&*host.vm("d").to_string_lossy()),
            "{error}"
        );
        assert!(!host.vm("d").exists());
    }
}

#[test]
fn a_disk_that_fills_up_costs_output_but_not_the_exit_record() {
    let host = Host::of(Form::Process);
    let _disk = Disk::mount(&host.dir, "2m");
    let status = host.ready("d", &["--flood"]);
    host.until("d", |status| status.agent.ready);
    let full = || rustix::fs::statvfs(&host.dir).expect("a file system").f_bavail == 0;
    while !full() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(host.status("d").state == pepita_wire::VmState::Running);
    kill(status.vmm_pid, Signal::KILL);
    let exit = host.exit("d");
    assert!(matches!(exit.exit, Exit::VmmCrashed(_)), "{:?}", exit.evidence);
    let written = std::fs::read(host.vm("d").join("exit.json")).expect("a record on the disk");
    assert_eq!(serde_json::from_slice::<ExitRecord>(&written).expect("a record"), exit);
    assert!(host.status("d").dropped_log_bytes > 0);
    host.destroy("d", &[]);
}
