//! Tests of `pepita image build` with trees and places that are hostile, and with builds that fail.

mod host;

use host::{Host, guest_file, text};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with a tree to build from, and another folder that no build may touch.
struct Yard {
    host: Host,
    dir: tempfile::TempDir,
}

impl Yard {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["tree", "victim", "out"] {
            std::fs::create_dir(dir.path().join(name)).expect("made");
        }
        std::fs::write(dir.path().join("victim/keep"), "keep").expect("written");
        Self { host: Host::new(), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tree(&self, name: &str) -> PathBuf {
        let path = self.path("tree").join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        path
    }

    /// Builds `out/x.KIND` of the tree.
    fn build(&self, kind: &str, more: &[&str]) -> Output {
        self.build_to(&self.path("out").join(format!("x.{kind}")), more)
    }

    fn build_to(&self, output: &Path, more: &[&str]) -> Output {
        let (agent, tree) = (guest_file("daemonctl"), self.path("tree"));
        let mut call = self.host.command(&["image", "build"]);
        call.arg("--agent").arg(agent).arg("--dir").arg(tree).arg("--output").arg(output);
        call.args(more).output().expect("pepita runs")
    }

    /// Asserts that a build succeeds. Returns what it wrote for people.
    fn builds(&self, kind: &str, more: &[&str]) -> String {
        let output = self.build(kind, more);
        assert!(output.status.success(), "{kind} {more:?}: {}", text(&output.stderr));
        text(&output.stderr)
    }

    fn assert_victim_untouched(&self) {
        let names: Vec<_> = std::fs::read_dir(self.path("victim"))
            .expect("readable")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, ["keep"]);
        assert_eq!(std::fs::read_to_string(self.path("victim/keep")).expect("a file"), "keep");
    }

    fn outputs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("out")).expect("readable");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    /// Returns what debugfs says about a path in `out/x.ext4`.
    fn debugfs(&self, command: &str) -> String {
        let mut debugfs = Command::new("debugfs");
        debugfs.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
        let output = debugfs.arg("-R").arg(command).arg(self.path("out/x.ext4")).output();
        text(&output.expect("debugfs runs (e2fsprogs)").stdout)
    }

    fn cpio(&self) -> BTreeMap<String, Vec<File>> {
        read_cpio(&std::fs::read(self.path("out/x.cpio")).expect("an archive"))
    }
}

/// A file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    mode: u32,
    uid: u32,
    gid: u32,
    inode: u32,
    links: u32,
    contents: Vec<u8>,
}

/// Reads an archive (newc) by its specification. A name that stands in it twice has two files.
fn read_cpio(bytes: &[u8]) -> BTreeMap<String, Vec<File>> {
    let mut files: BTreeMap<String, Vec<File>> = BTreeMap::new();
    let mut at = 0;
    loop {
        let field = |n: usize| {
            let from = at + 6 + n * 8;
            u32::from_str_radix(std::str::from_utf8(&bytes[from..from + 8]).expect("digits"), 16)
                .expect("hex")
        };
        let (size, name) = (field(6) as usize, field(11) as usize);
        let path = text(&bytes[at + 110..at + 110 + name - 1]);
        if path == "TRAILER!!!" {
            return files;
        }
        let from = (at + 110 + name).next_multiple_of(4);
        let contents = bytes[from..from + size].to_vec();
        let file =
            File { inode: field(0), mode: field(1), uid: field(2), gid: field(3), links: field(4), contents };
        files.entry(path).or_default().push(file);
        at = (from + size).next_multiple_of(4);
    }
}

#[test]
fn no_link_in_a_tree_leads_to_a_file_of_the_host() {
    let daemon = guest_file("ticker").to_string_lossy().into_owned();
    let modules = guest_file("modules").to_string_lossy().into_owned();
    let more = ["--daemon", &daemon, "--kernel-package", &modules];
    for kind in ["cpio", "ext4"] {
        for link in [
            "sbin",
            "etc",
            "etc/pepita",
            "lib",
            "lib/pepita",
            "usr",
            "usr/bin",
            "dev",
            "proc",
            "sys",
            "run",
            "tmp",
        ] {
            let yard = Yard::new();
            symlink(yard.path("victim"), yard.tree(link)).expect("a link");
            let output = yard.build(kind, &more);
            yard.assert_victim_untouched();
            // An initramfs has nothing in /sbin.
            if kind == "cpio" && link == "sbin" {
                assert!(output.status.success(), "{}", text(&output.stderr));
                continue;
            }
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(66), "{kind} {link}: {error}");
            assert!(error.contains(&format!("/{link} of the image")), "{error}");
            assert_eq!(yard.outputs(), [] as [&str; 0], "{kind} {link}");
        }
        // What the image puts there itself replaces a link, and does not follow it.
        for link in ["usr/bin/ticker", "etc/pepita/image.json", "sbin/daemonctl", "sbin/init", "init"] {
            let yard = Yard::new();
            symlink(yard.path("victim/keep"), yard.tree(link)).expect("a link");
            yard.builds(kind, &more);
            yard.assert_victim_untouched();
        }
        for (link, target) in [("dev", "/dev"), ("dev", "dev"), ("etc", "../etc"), ("usr", "/usr/./usr")] {
            let yard = Yard::new();
            symlink(target, yard.tree(link)).expect("a link");
            let output = yard.build(kind, &more);
            assert_eq!(output.status.code(), Some(66), "{kind} {link}: {}", text(&output.stderr));
            assert_eq!(yard.outputs(), [] as [&str; 0], "{kind} {link}");
        }
        let yard = Yard::new();
        std::fs::write(yard.tree("etc"), "a file").expect("written");
        let output = yard.build(kind, &more);
        assert_eq!(output.status.code(), Some(66), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("/etc "), "{}", text(&output.stderr));
    }
}

#[test]
fn a_tree_whose_sbin_and_lib_are_links_to_usr_is_built_within_itself() {
    let yard = Yard::new();
    let (daemon, modules) = (guest_file("ticker"), guest_file("modules"));
    for dir in ["sbin", "lib", "bin"] {
        std::fs::create_dir_all(yard.tree(&format!("usr/{dir}"))).expect("made");
        symlink(format!("usr/{dir}"), yard.tree(dir)).expect("a link");
    }
    let (daemon, modules) = (daemon.to_string_lossy(), modules.to_string_lossy());
    let more = ["--daemon", &*daemon, "--kernel-package", &*modules];
    yard.builds("ext4", &more);
    assert!(yard.debugfs("stat /usr/sbin/daemonctl").contains("Mode:  0755"));
    assert!(yard.debugfs("stat /sbin").contains("Type: symlink"));
    yard.builds("cpio", &more);
    let files = yard.cpio();
    assert!(files.contains_key("usr/lib/pepita/modules/virtio_mmio.ko"), "{:?}", files.keys());
    assert!(files.keys().all(|path| !path.starts_with("lib/")), "{:?}", files.keys());
}

#[test]
fn an_archive_keeps_owners_modes_and_hard_links() {
    let yard = Yard::new();
    let owner = if rustix::process::geteuid().is_root() { 1000 } else { rustix::process::geteuid().as_raw() };
    let make = |name: &str, mode: u32| {
        let path = yard.tree(name);
        if name.ends_with('/') {
            std::fs::create_dir_all(&path).expect("made");
        } else {
            std::fs::write(&path, name).expect("written");
        }
        std::os::unix::fs::lchown(&path, Some(owner), Some(owner)).expect("an owner");
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
    };
    make("var/lib/app/", 0o700);
    make("var/spool/x/", 0o1777);
    make("etc/secret", 0o640);
    make("usr/bin/su", 0o4755);
    std::fs::hard_link(yard.tree("etc/secret"), yard.tree("etc/second")).expect("linked");
    rustix::fs::mkfifoat(rustix::fs::CWD, yard.tree("pipe"), rustix::fs::Mode::from_raw_mode(0o600))
        .expect("made");
    let listener = std::os::unix::net::UnixListener::bind(yard.tree("socket")).expect("bound");
    let notes = yard.builds("cpio", &[]);
    drop(listener);
    assert!(notes.contains("tree/socket is left out"), "{notes}");
    let files = yard.cpio();
    let of = |name: &str| files[name][0].clone();
    assert_eq!(
        (of("var/lib/app").mode, of("var/lib/app").uid, of("var/lib/app").gid),
        (0o40700, owner, owner)
    );
    assert_eq!(of("var/spool/x").mode, 0o41777);
    assert_eq!((of("etc/secret").mode, of("etc/secret").uid), (0o100640, owner));
    assert_eq!(of("usr/bin/su").mode, 0o104755);
    assert_eq!(of("pipe").mode, 0o10600);
    assert_eq!((of("etc/secret").inode, of("etc/secret").links), (of("etc/second").inode, 2));
    let contents = [of("etc/second").contents, of("etc/secret").contents].concat();
    assert_eq!(text(&contents), "etc/secret", "the contents stand in the archive once");
    // What the image itself brings belongs to root; /tmp is for every user of the guest.
    assert_eq!((of("init").mode, of("init").uid), (0o100755, 0));
    assert_eq!((of("tmp").mode, of("tmp").uid), (0o41777, 0));
    assert!(files.values().all(|same| same.len() == 1), "a name stands in it twice");
    assert!(yard.path("out/x.cpio").metadata().expect("an archive").len() > 0);
}

#[test]
fn a_tree_s_own_init_does_not_replace_the_agent_and_is_told() {
    let yard = Yard::new();
    std::fs::write(yard.tree("init"), "#!/bin/sh\n").expect("written");
    let notes = yard.builds("cpio", &[]);
    assert!(notes.contains("own /init is left out"), "{notes}");
    let agent = std::fs::read(guest_file("daemonctl")).expect("the agent");
    let files = yard.cpio();
    assert!(files["init"].len() == 1 && files["init"][0].contents == agent);
}

#[test]
fn an_image_with_a_secret_is_for_its_owner_whatever_the_umask_is() {
    let yard = Yard::new();
    std::fs::write(yard.path("secret"), "TOKEN=s3cret\n").expect("written");
    for kind in ["cpio", "ext4"] {
        let output = yard.path("out").join(format!("x.{kind}"));
        // A former image that everybody could read does not pass its mode on.
        std::fs::write(&output, "former").expect("written");
        std::fs::set_permissions(&output, Permissions::from_mode(0o666)).expect("a mode");
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(host::pepita());
        shell.args(["image", "build", "--env-file"]).arg(yard.path("secret")).arg("--agent");
        shell.arg(guest_file("daemonctl")).arg("--daemon").arg(guest_file("ticker"));
        let built = shell.arg("--output").arg(&output).output().expect("a shell");
        assert!(built.status.success(), "{}", text(&built.stderr));
        let meta = output.metadata().expect("an image");
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{kind}");
        assert!(std::fs::read(&output).expect("an image").windows(6).any(|bytes| bytes == b"s3cret"));
    }
    assert_eq!(yard.outputs().len(), 2, "{:?}", yard.outputs());
}

#[test]
fn a_build_that_fails_keeps_the_former_image_and_leaves_nothing_beside_it() {
    let yard = Yard::new();
    for kind in ["cpio", "ext4"] {
        let image = yard.path("out").join(format!("x.{kind}"));
        yard.builds(kind, &[]);
        let former = (std::fs::read(&image).expect("an image"), image.metadata().expect("an image").ino());
        let mut failures =
            vec![yard.build(kind, &["--daemon", "/absent"]), yard.build(kind, &["--agent", "/absent"])];
        if kind == "ext4" {
            std::fs::write(yard.tree("large"), vec![7; 4 << 20]).expect("written");
            failures.push(yard.build(kind, &["--size", "1"]));
            assert!(text(&failures[2].stderr).contains("--size"), "{}", text(&failures[2].stderr));
        }
        for failure in failures {
            assert!(!failure.status.success());
            assert_eq!(text(&failure.stderr).lines().count(), 1, "{}", text(&failure.stderr));
        }
        let now = (std::fs::read(&image).expect("an image"), image.metadata().expect("an image").ino());
        assert!(former == now, "{kind}");
    }
    let mut left = yard.outputs();
    left.sort();
    assert_eq!(left, ["x.cpio", "x.ext4"]);
}

#[test]
fn a_build_on_a_full_disk_keeps_the_former_image() {
    assert!(
        rustix::process::geteuid().is_root(),
        "a full disk is made by mounting a small one: run this as root"
    );
    let yard = Yard::new();
    let disk = yard.path("out");
    mount("none", &disk, "tmpfs", MountFlags::empty(), Some(c"size=4m,mode=700")).expect("mounted");
    for kind in ["cpio", "ext4"] {
        std::fs::write(disk.join(format!("x.{kind}")), "former").expect("written");
    }
    std::fs::write(yard.tree("large"), vec![7; 8 << 20]).expect("written");
    let errors = ["cpio", "ext4"].map(|kind| text(&yard.build(kind, &[]).stderr));
    let mut left = yard.outputs();
    left.sort();
    let kept = ["cpio", "ext4"].map(|kind| std::fs::read(disk.join(format!("x.{kind}"))).unwrap_or_default());
    unmount(&disk, UnmountFlags::DETACH).expect("unmounted");
    assert_eq!(left, ["x.cpio", "x.ext4"]);
    assert!(kept.iter().all(|bytes| bytes == b"former"));
    assert!(errors.iter().all(|error| error.contains("No space left")), "{errors:?}");
}

#[test]
fn an_ordinary_user_builds_a_read_only_tree_and_what_may_not_be_read_is_named() {
    // Root is allowed everything, so root becomes another user for this test.
    let is_root = rustix::process::geteuid().is_root();
    let yard = Yard::new();
    std::fs::write(yard.tree("etc/config"), "x").expect("written");
    std::fs::set_permissions(yard.dir.path(), Permissions::from_mode(0o755)).expect("a mode");
    std::fs::set_permissions(yard.path("out"), Permissions::from_mode(0o777)).expect("a mode");
    // A user may not be allowed to enter the folder of the project, so the programs are copied.
    let (pepita, agent) = (yard.path("pepita"), yard.path("agent"));
    // Another test starts a process at any moment, which has this test's open files until its exec(2), and a program that is
    // open for writing cannot be started. So another process writes it.
    for (from, to) in [(host::pepita(), &pepita), (&guest_file("daemonctl"), &agent)] {
        assert!(Command::new("cp").args([from, to]).status().expect("cp").success());
    }
    let build = |kind: &str| {
        let mut call = Command::new(&pepita);
        call.args(["image", "build", "--agent"]).arg(&agent).arg("--dir").arg(yard.path("tree"));
        call.arg("--output").arg(yard.path("out").join(format!("x.{kind}")));
        call.env("PEPITA_RUN_DIR", yard.path("out/run"));
        if is_root {
            call.uid(65534).gid(65534);
        }
        call.output().expect("pepita runs")
    };
    for dir in ["tree/etc", "tree"] {
        std::fs::set_permissions(yard.path(dir), Permissions::from_mode(0o555)).expect("a mode");
    }
    for kind in ["cpio", "ext4"] {
        let output = build(kind);
        assert!(output.status.success(), "{kind}: {}", text(&output.stderr));
    }
    assert!(yard.debugfs("stat /etc").contains("Mode:  0555"));
    std::fs::set_permissions(yard.path("tree/etc/config"), Permissions::from_mode(0o0)).expect("a mode");
    for kind in ["cpio", "ext4"] {
        let output = build(kind);
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains("etc/config"), "{}", text(&output.stderr));
    }
    let mut left = yard.outputs();
    left.retain(|name| name != "run");
    left.sort();
    assert_eq!(left, ["x.cpio", "x.ext4"]);
    for dir in ["tree", "tree/etc"] {
        std::fs::set_permissions(yard.path(dir), Permissions::from_mode(0o755)).expect("a mode");
    }
}

#[test]
fn a_signal_ends_a_build_without_a_trace() {
    use rustix::process::{Pid, Signal, kill_process};
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131)] {
        let yard = Yard::new();
        let pipe = yard.path("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).expect("made");
        let mut call = yard.host.command(&["image", "build", "--agent"]);
        call.arg(guest_file("daemonctl")).arg("--dir").arg(yard.path("tree")).arg("--daemon").arg(&pipe);
        let mut build = call.arg("--output").arg(yard.path("out/x.ext4")).spawn().expect("pepita runs");
        // The pipe is opened when the build reads the daemon, after the tree was copied.
        let _writer = std::fs::File::options().write(true).open(&pipe).expect("a reader");
        assert_eq!(yard.outputs().len(), 1, "{:?}", yard.outputs());
        let pid = Pid::from_raw(i32::try_from(build.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("a process");
        assert_eq!(build.wait().expect("an end").code(), Some(code));
        assert_eq!(yard.outputs(), [] as [&str; 0], "{signal:?}");
    }
}

#[test]
fn a_sparse_file_of_any_size_is_refused_before_it_is_read() {
    let yard = Yard::new();
    let file = std::fs::File::create(yard.tree("sparse")).expect("a file");
    file.set_len(1 << 42).expect("a size");
    let output = yard.build("cpio", &[]);
    assert_eq!(output.status.code(), Some(66), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("sparse"), "{}", text(&output.stderr));
}

#[test]
fn an_output_within_the_tree_is_refused_or_left_out() {
    let yard = Yard::new();
    let inside = |kind: &str| yard.path("tree").join(format!("x.{kind}"));
    let output = yard.build_to(&inside("ext4"), &[]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
    assert!(yard.build_to(&inside("cpio"), &[]).status.success());
    let first = inside("cpio").metadata().expect("an archive").len();
    assert!(yard.build_to(&inside("cpio"), &[]).status.success());
    assert_eq!(inside("cpio").metadata().expect("an archive").len(), first);
}

#[test]
fn a_deep_tree_and_names_of_any_bytes_are_built() {
    use std::os::unix::ffi::OsStrExt;
    let yard = Yard::new();
    std::fs::write(yard.path("tree").join(std::ffi::OsStr::from_bytes(b"\xff\n")), "x").expect("written");
    let deep = vec!["d"; 400].join("/");
    std::fs::create_dir_all(yard.tree(&deep)).expect("made");
    yard.builds("cpio", &[]);
    assert!(yard.cpio().contains_key(&deep));
}

/// The loader that the tests' own programs name: they are dynamically linked.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

#[test]
fn a_program_without_its_loader_is_refused_and_accepted_with_the_loader_in_the_tree() {
    let dynamic = std::env::current_exe().expect("this test").to_string_lossy().into_owned();
    for kind in ["cpio", "ext4"] {
        let yard = Yard::new();
        std::fs::copy(&dynamic, yard.tree("usr/bin/own")).expect("copied");
        let calls: [(&[&str], &str); 2] =
            [(&["--daemon", &dynamic], &dynamic), (&["--", "/usr/bin/own", "--verbose"], "/usr/bin/own")];
        for (call, named) in calls {
            let output = yard.build(kind, call);
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(66), "{kind} {call:?}: {error}");
            for word in [named, LOADER, "musl", "--dir"] {
                assert!(error.contains(word), "{kind} {call:?}: {word}: {error}");
            }
            assert_eq!(yard.outputs(), [] as [&str; 0], "{kind} {call:?}");
        }
        // A link to a loader of the host is none in the guest.
        symlink(std::fs::canonicalize(LOADER).expect("a loader"), yard.tree(&LOADER[1..])).expect("a link");
        assert_eq!(yard.build(kind, &["--daemon", &dynamic]).status.code(), Some(66), "{kind}");
        // The loader in another directory, behind links, as distributions have it.
        std::fs::remove_dir_all(yard.path("tree/lib64")).expect("removed");
        std::fs::copy(LOADER, yard.tree("usr/lib/x86_64-linux-gnu/ld.so")).expect("copied");
        symlink("usr/lib64", yard.tree("lib64")).expect("a link");
        symlink("/usr/lib/x86_64-linux-gnu/ld.so", yard.tree("usr/lib64/ld-linux-x86-64.so.2"))
            .expect("a link");
        // With its loader, a program lacks its libraries, which are named one after the other.
        for name in ["libgcc_s.so.1", "libc.so.6"] {
            for (call, named) in calls {
                assert_lacks(&yard, kind, call, &[named, name, "--dir"]);
            }
            let library = Path::new("/lib/x86_64-linux-gnu").join(name);
            std::fs::copy(library, yard.tree("usr/lib/x86_64-linux-gnu").join(name)).expect("copied");
        }
        for (call, _) in calls {
            yard.builds(kind, call);
        }
    }
}

/// Asserts that a build is refused, and that the error has these words.
fn assert_lacks(yard: &Yard, kind: &str, call: &[&str], words: &[&str]) {
    let output = yard.build(kind, call);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(66), "{kind} {call:?}: {error}");
    assert!(words.iter().all(|word| error.contains(word)), "{kind} {call:?}: {words:?}: {error}");
    assert_eq!(yard.outputs(), [] as [&str; 0], "{kind} {call:?}");
}

/// Links a program or library without any library but those that are named, in the directory of `output`.
fn link(output: &Path, options: &[&str]) {
    let (dir, source) = (output.parent().expect("a directory"), output.with_extension("c"));
    std::fs::create_dir_all(dir).expect("made");
    std::fs::write(&source, "int main(void) { return 0; }\n").expect("written");
    let mut cc = Command::new("cc");
    cc.args(["-nostdlib", "-nostartfiles", "-Wl,--no-as-needed", "-o"]).arg(output).arg(&source);
    cc.arg(format!("-L{}", dir.display())).args(options);
    let made = cc.output().expect("cc runs");
    assert!(made.status.success(), "{options:?}: {}", text(&made.stderr));
    std::fs::remove_file(source).expect("removed");
}

#[test]
fn the_libraries_of_libraries_are_looked_for_where_the_loader_would() {
    for kind in ["cpio", "ext4"] {
        let yard = Yard::new();
        std::fs::copy(LOADER, yard.tree(&LOADER[1..])).expect("copied");
        // The program needs `liba`, and that needs `libb`.
        let made = yard.path("made");
        let file = |name: &str| made.join(name);
        link(&file("libb.so"), &["-shared", "-Wl,-soname,libb.so.1"]);
        link(&file("liba.so"), &["-shared", "-Wl,-soname,liba.so.1", "-lb"]);
        let loader = format!("-Wl,--dynamic-linker,{LOADER}");
        let quiet = "-Wl,--unresolved-symbols=ignore-all";
        let rpath = "-Wl,-rpath,$ORIGIN/../own";
        link(&file("plain"), &[&loader, quiet, "-la"]);
        link(&file("rpath"), &[&loader, quiet, "-la", rpath, "-Wl,--disable-new-dtags"]);
        link(&file("runpath"), &[&loader, quiet, "-la", rpath, "-Wl,--enable-new-dtags"]);
        for name in ["plain", "rpath", "runpath"] {
            std::fs::copy(file(name), yard.tree("app/bin").join(name))
                .or_else(|_| {
                    std::fs::create_dir_all(yard.tree("app/bin"))?;
                    std::fs::copy(file(name), yard.tree("app/bin").join(name))
                })
                .expect("copied");
            assert_lacks(&yard, kind, &["--", &format!("/app/bin/{name}")], &["liba.so.1", "--dir"]);
        }
        let place = |name: &str, at: &str| {
            std::fs::copy(file(name), yard.tree(at)).expect("copied");
        };
        let remove = |at: &str| std::fs::remove_file(yard.tree(at)).expect("removed");
        // Beside the program: its own RPATH counts for the libraries of its libraries, too, its RUNPATH does not.
        place("liba.so", "app/own/liba.so.1");
        assert_lacks(&yard, kind, &["--", "/app/bin/plain"], &["liba.so.1"]);
        for name in ["rpath", "runpath"] {
            let words = ["libb.so.1", "/app/bin/../own/liba.so.1"];
            assert_lacks(&yard, kind, &["--", &format!("/app/bin/{name}")], &words);
        }
        place("libb.so", "app/own/libb.so.1");
        yard.builds(kind, &["--", "/app/bin/rpath"]);
        // A link to the program: its origin is that of the program itself.
        symlink("/app/bin/rpath", yard.tree("usr/bin/linked")).expect("a link");
        yard.builds(kind, &["--", "/usr/bin/linked"]);
        yard.builds(kind, &["--env", "LD_LIBRARY_PATH=/nowhere:/app/own", "--", "/app/bin/plain"]);
        std::fs::remove_file(yard.path("out").join(format!("x.{kind}"))).expect("removed");
        assert_lacks(&yard, kind, &["--", "/app/bin/runpath"], &["libb.so.1"]);
        // In a directory of ld.so.conf.
        place("libb.so", "opt/libs/libb.so.1");
        std::fs::create_dir_all(yard.tree("etc/ld.so.conf.d")).expect("made");
        std::fs::write(yard.tree("etc/ld.so.conf"), "include /etc/ld.so.conf.d/*.conf\n").expect("written");
        std::fs::write(yard.tree("etc/ld.so.conf.d/own.conf"), "# own\n/opt/libs\n").expect("written");
        yard.builds(kind, &["--", "/app/bin/runpath"]);
        std::fs::remove_file(yard.path("out").join(format!("x.{kind}"))).expect("removed");
        remove("etc/ld.so.conf.d/own.conf");
        // A file that is no library of this machine is passed over.
        std::fs::create_dir_all(yard.tree("usr/lib/x86_64-linux-gnu")).expect("made");
        std::fs::write(yard.tree("lib").join("libb.so.1"), "no library")
            .or_else(|_| {
                std::fs::create_dir_all(yard.tree("lib"))?;
                std::fs::write(yard.tree("lib").join("libb.so.1"), "no library")
            })
            .expect("written");
        assert_lacks(&yard, kind, &["--", "/app/bin/runpath"], &["libb.so.1"]);
        place("libb.so", "usr/lib/x86_64-linux-gnu/libb.so.1");
        yard.builds(kind, &["--", "/app/bin/runpath"]);
    }
}

#[test]
fn a_script_without_its_interpreter_is_refused() {
    for kind in ["cpio", "ext4"] {
        let yard = Yard::new();
        std::fs::write(yard.tree("usr/bin/script"), "#! /usr/bin/interpreter -x\n").expect("written");
        assert_lacks(&yard, kind, &["--", "/usr/bin/script"], &["/usr/bin/script", "/usr/bin/interpreter"]);
        std::fs::copy(guest_file("ticker"), yard.tree("usr/bin/interpreter")).expect("copied");
        yard.builds(kind, &["--", "/usr/bin/script"]);
    }
}

#[test]
fn a_kernel_package_that_is_not_there_is_named() {
    let yard = Yard::new();
    let absent = yard.path("no-such-package").to_string_lossy().into_owned();
    let output = yard.build("cpio", &["--kernel-package", &absent]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(66), "{error}");
    assert!(error.contains(&absent) && error.contains(".deb") && !error.contains("dpkg"), "{error}");
    assert_eq!(yard.outputs(), [] as [&str; 0]);
}
