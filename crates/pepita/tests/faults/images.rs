//! Tests with files that are no images and with full disks: the error names the file and the stage, and nothing is
//! left.

use crate::host::{Form, Host, errors, guest_file, kill};
use pepita_wire::{Exit, ExitRecord};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use std::io::Write;
use std::path::{Path, PathBuf};

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
    // Opening a pipe would wait for a writer.
    let pipe = here.join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).expect("made");
    let (kernel, rootfs) = (guest_file("vmlinuz"), guest_file("ticker.cpio"));
    let cases = [
        ("kernel", here.join("missing"), rootfs.clone()),
        ("kernel", cut(&kernel, here, "vmlinuz.part"), rootfs.clone()),
        ("kernel", text.clone(), rootfs.clone()),
        ("kernel", pipe.clone(), rootfs.clone()),
        ("rootfs", kernel.clone(), pipe),
        ("rootfs", kernel.clone(), here.to_owned()),
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
fn a_vm_with_too_little_memory_to_boot_is_refused_with_the_memory_that_it_needs() {
    if std::env::var_os("PEPITA_TEST_KERNEL").is_some() {
        return println!("NOT RUN: the memory is that which Debian's kernel needs");
    }
    let host = Host::of(Form::Qemu);
    let (kernel, disk) = (guest_file("vmlinuz"), guest_file("ticker.ext4"));
    let (kernel, disk) = (kernel.to_string_lossy(), disk.to_string_lossy());
    for memory in ["32", "48", "64"] {
        let run =
            ["run", "--name", "i", "--daemon", "--kernel", &*kernel, "--rootfs", &*disk, "--memory", memory];
        let error = host.fails(&run, 66);
        assert!(
            error.contains(&format!("memory_mb = {memory} ")) && error.contains("need at least"),
            "{error}"
        );
        assert!(!host.vm("i").exists());
    }
}

#[test]
fn a_guest_that_ends_before_its_first_word_says_so_and_shows_its_early_messages_when_asked() {
    if std::env::var_os("PEPITA_TEST_KERNEL").is_some() {
        return println!("NOT RUN: the memory is that which Debian's kernel needs");
    }
    let host = Host::of(Form::Qemu);
    // The kernel's own option takes the memory away, so that the launcher cannot know.
    for (append, silent) in [("mem=64M", true), ("mem=64M loglevel=7 earlyprintk=ttyS0", false)] {
        host.start_with("i", &["--cmdline-append", append], &[]);
        let exit = host.exit("i");
        let evidence = exit.evidence.first().expect("evidence");
        assert_eq!(evidence.contains("before its first word"), silent, "{:?}", exit.evidence);
        let log = host.ok(&["logs", "--name", "i"]);
        assert_eq!(log.contains("Linux version"), !silent, "{log}");
        host.destroy("i", &[]);
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
pub(crate) struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    pub(crate) fn mount(dir: &'a Path, size: &str) -> Self {
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
fn a_full_disk_under_a_guest_s_disk_is_an_error_in_the_guest_and_the_vm_goes_on() {
    let files = tempfile::tempdir().expect("a directory");
    let image = files.path().join("root.ext4");
    // QEMU writes the changes of the guest's root to a temporary file.
    let temporary = files.path().join("tmp");
    std::fs::create_dir(&temporary).expect("made");
    let _disk = Disk::mount(&temporary, "8m");
    let host = Host::of(Form::Qemu).with("TMPDIR", &temporary);
    let (agent, ticker) = (guest_file("daemonctl"), guest_file("ticker"));
    let (agent, ticker, output) =
        (agent.to_string_lossy(), ticker.to_string_lossy(), image.to_string_lossy());
    host.ok(&["image", "build", "--agent", &agent, "--daemon", &ticker, "--output", &output, "--size", "64"]);
    let (kernel, modules) = (guest_file("vmlinuz"), guest_file("modules"));
    let (kernel, modules) = (kernel.to_string_lossy(), modules.to_string_lossy());
    let machine =
        ["run", "--name", "d", "--daemon", "--memory", "128", "--kernel", &kernel, "--rootfs", &output];
    let daemon =
        ["--kernel-package", &*modules, "--", "/usr/bin/ticker", "--interval", "100", "--write", "32"];
    host.ok(&[&machine[..], &daemon].concat());
    let status = host.until("d", |status| status.disk_error.is_some());
    assert_eq!(status.disk_error.as_deref(), Some("write: No space left on device"));
    // The guest is not paused: its daemon goes on, and its agent answers.
    host.exec("d", &["/usr/bin/ticker", "--no-ready", "--exit", "0"], 0);
    assert_eq!(host.status("d").state, pepita_wire::VmState::Running);
    kill(host.status("d").vmm_pid, Signal::KILL);
    let exit = host.exit("d");
    assert!(exit.evidence.iter().any(|text| text.contains("No space left")), "{:?}", exit.evidence);
    host.destroy("d", &[]);
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
        assert!(error.contains("No space left") && error.contains(&*host.dir.to_string_lossy()), "{error}");
        assert!(!host.vm("d").exists());
    }
}

#[test]
fn a_disk_that_fills_up_costs_output_but_not_the_exit_record() {
    let host = Host::of(Form::Process);
    let _disk = Disk::mount(&host.dir, "2m");
    let status = host.ready("d", &["--flood"]);
    host.until("d", |status| status.agent.ready);
    // Another program fills the disk. The log has a part of it only, and gives up its oldest output again and again.
    let mut filler = std::fs::File::create(host.dir.join("filler")).expect("a file");
    let full = || rustix::fs::statvfs(&host.dir).expect("a file system").f_bavail == 0;
    while !full() {
        let _ = filler.write_all(&[0; 4096]);
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
