//! Tests kernel vsock for real: an outer microVM, whose kernel has vhost_vsock, in which the real launcher boots inner
//! microVMs and the link's own tests talk to them over AF_VSOCK. A host's kernel need not have vhost_vsock.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn profile() -> PathBuf {
    let own = std::env::current_exe().expect("our own path");
    own.ancestors().nth(2).expect("target/<profile>/deps/<test>").to_owned()
}

/// Returns a program of these `deps`, the newest if there are several.
fn built(deps: &Path, name: &str) -> PathBuf {
    let named = |path: &PathBuf| {
        path.extension().is_none()
            && path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{name}-")))
    };
    let newest = std::fs::read_dir(deps)
        .expect("deps can be read")
        .flatten()
        .map(|entry| entry.path())
        .filter(named)
        .max_by_key(|path| path.metadata().and_then(|meta| meta.modified()).expect("a file has a time"));
    newest.unwrap_or_else(|| panic!("{name} is not built in {}", deps.display()))
}

/// The folder of the build in the outer VM. It differs from the folder on the host, which may be in /tmp, because the
/// guest has a /tmp of its own.
const INSIDE: &str = "/suite";

/// The program that runs in the outer VM, below that folder.
const PROGRAM: &str = "target/debug/deps/program";

/// Returns the programs and files that the outer VM needs: the source and the target of each.
fn needed(program: PathBuf) -> BTreeSet<(PathBuf, PathBuf)> {
    let qemu = PathBuf::from("/usr/bin/qemu-system-x86_64");
    let inside = |path: &str| Path::new(INSIDE).join(path);
    let built = [
        (profile().join("pepita"), inside("target/debug/pepita")),
        (profile().join("ticker"), inside("target/debug/ticker")),
        (profile().join("daemonctl"), inside("target/debug/daemonctl")),
        (program, inside(PROGRAM)),
        (top().join(".guest/vmlinuz"), inside(".guest/vmlinuz")),
        (top().join(".guest/ticker.cpio"), inside(".guest/ticker.cpio")),
    ];
    let modules = Path::new("/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so");
    let mut files: BTreeSet<PathBuf> = [qemu.clone()].into();
    files.extend(modules.exists().then(|| modules.to_owned()));
    for program in built.iter().map(|(from, _)| from.clone()).take(4).chain(files.clone()) {
        files.extend(libraries(&program));
    }
    let firmware = ["bios-microvm.bin", "pvh.bin", "linuxboot_dma.bin", "kvmvapic.bin"];
    let dirs = ["/usr/share/qemu", "/usr/share/seabios"];
    let found = dirs.iter().flat_map(|dir| firmware.iter().map(move |file| Path::new(dir).join(file)));
    files.extend(found.filter(|path| path.exists()));
    files.into_iter().map(|file| (file.clone(), file)).chain(built).collect()
}

/// Returns the libraries that the loader would load, from `ldd`.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let path = |line: &str| {
        let word = line.split("=> ").last()?.split_whitespace().next()?;
        word.starts_with('/').then(|| PathBuf::from(word))
    };
    text.lines().filter_map(path).collect()
}

/// Makes a root with these files.
fn stage(root: &Path, files: &BTreeSet<(PathBuf, PathBuf)>) {
    for (from, to) in files {
        let to = root.join(to.strip_prefix("/").expect("an absolute path"));
        std::fs::create_dir_all(to.parent().expect("below the root")).expect("made");
        std::fs::copy(from, &to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    }
}

/// Boots the outer VM, runs a program in it with these environment variables and arguments, and returns its output.
fn run_inside(program: PathBuf, env: &[&str], args: &[&str]) -> String {
    for file in [".guest/vmlinuz", ".guest/modules", ".guest/ticker.cpio"] {
        assert!(
            top().join(file).exists(),
            "{file} is missing: run `make setup` first; this test is never skipped"
        );
    }
    let dir = tempfile::Builder::new().prefix("pv").tempdir_in("/tmp").expect("a directory");
    let (root, image, run_dir) =
        (dir.path().join("root"), dir.path().join("outer.ext4"), dir.path().join("r"));
    stage(&root, &needed(program));
    let pepita = || {
        let mut command = Command::new(profile().join("pepita"));
        command.arg("--run-dir").arg(&run_dir);
        command
    };
    let mut build = pepita();
    build.args(["image", "build", "--dir"]).arg(&root).arg("--output").arg(&image).args(["--size", "1024"]);
    build.arg("--kernel-package").arg(top().join(".guest/modules"));
    build.args(["--module", "vhost_vsock", "--module", "vsock_loopback"]);
    let built = build.output().expect("pepita runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    std::fs::remove_dir_all(&root).expect("removed");

    let mut run = pepita();
    run.args(["run", "--name", "outer", "--rm", "--memory", "2048", "--cpus", "2", "--vsock", "hybrid"]);
    run.arg("--kernel").arg(top().join(".guest/vmlinuz")).arg("--rootfs").arg(&image);
    run.args(["--cmdline-append", "pepita.loopback=1"]);
    // A host of VMs loads modules and makes cgroups.
    run.arg("--privileged");
    run.args(env.iter().flat_map(|pair| ["--env", pair]));
    run.arg("--").arg(Path::new(INSIDE).join(PROGRAM)).args(args);
    // The run has a time limit of its own: a program that hangs in the VM must not make the test hang.
    let mut child = run.stdout(std::process::Stdio::piped()).spawn().expect("pepita runs");
    let stdout = child.stdout.take().expect("piped");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(std::io::read_to_string(stdout));
    });
    let output = receiver.recv_timeout(Duration::from_secs(1200));
    if output.is_err() {
        let _ = pepita().args(["destroy", "--name", "outer", "--force"]).status();
    }
    let status = child.wait().expect("pepita ends");
    let output = output.expect("what runs inside ended in time").expect("readable");
    println!("{output}");
    assert!(status.success(), "what ran inside the VM failed: {status}");
    assert!(!output.contains("no /dev/vhost-vsock here"), "the kernel of the outer VM has no vhost_vsock");
    let left = pepita().args(["list", "--format", "name"]).output().expect("pepita runs");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    output
}

#[test]
fn the_link_speaks_kernel_vsock_to_vms_inside_a_vm() {
    let top = format!("PEPITA_TEST_TOP={INSIDE}");
    // The kernel of an emulated guest has no Landlock.
    let jail = "PEPITA_JAIL=best-effort";
    let env = [jail, "PEPITA_TEST_LOOPBACK=1", "RUST_BACKTRACE=0", "PEPITA_TEST_PATIENCE=600", &top];
    let tests = ["link::a_microvm", "link::a_cid", "link::over_loopback", "inside::"];
    let args = [&tests[..], &["--test-threads", "1", "--nocapture"]].concat();
    let output = run_inside(built(&profile().join("deps"), "microvm"), &env, &args);
    assert!(output.contains("transport: Vhost"), "the link did not use kernel vsock");
    assert!(output.contains("platform: pepita"), "the program did not detect its platform");
    assert!(output.contains("limits: cgroup2 held it"), "the kernel in there held no limits");
    if std::env::var_os("PEPITA_VHOST_BENCH").is_some() {
        measure();
    }
}

/// Measures a VM in a VM, both emulated: only the ratios have a meaning. (`make bench-vhost`)
fn measure() {
    let (pepita, top) = (format!("PEPITA={INSIDE}/target/debug/pepita"), format!("PEPITA_TEST_TOP={INSIDE}"));
    let env = [&pepita, &top, "PEPITA_LINK_PINGS=200", "PEPITA_LINK_MIB=32", "PEPITA_LINK_ONLY=microVM"];
    let output = run_inside(built(&profile().with_file_name("release").join("deps"), "link"), &env, &[]);
    assert!(output.contains("over vhost"), "the link did not use kernel vsock");
}
