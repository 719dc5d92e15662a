//! Root and two ordinary users have a VM of the same name on one host: no ordinary user sees, signals, connects to or names
//! a VM of another.

mod host;

use host::{errors, guest_file, pepita, text};
use pepita_launcher::host::programs::BACKEND;
use pepita_launcher::rundir::files;
use pepita_wire::StatusRecord;
use rustix::process::{Gid, Pid, Signal, Uid, pidfd_send_signal, test_kill_process};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::fs::{File, Permissions, set_permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The ordinary users. None of them is in any list of users: that is not needed for a VM.
const ORDINARY: [u32; 2] = [64_001, 64_002];

/// The name of the VM of each user.
const NAME: &str = "a";

/// A user with a VM.
struct User {
    uid: u32,
    /// The directory that a login makes for a user (`XDG_RUNTIME_DIR`), but that others may enter it: what protects the VM
    /// has to be the launcher's own.
    runtime: PathBuf,
    status: StatusRecord,
}

/// The programs and images, readable for all users: the build may be in a directory of root.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pu").tempdir_in("/tmp").expect("a directory");
        set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("a mode");
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/vhost-device-vsock");
        let backend = Some(built).filter(|path| path.exists()).or_else(|| BACKEND.find());
        let programs = [(pepita().to_owned(), "pepita"), (backend.expect("a back-end"), "backend")];
        let images = ["vmlinuz", "ticker.cpio"].map(|file| (guest_file(file), file));
        for (from, name) in programs.into_iter().chain(images) {
            let copy = dir.path().join(name);
            std::fs::copy(from, &copy).expect("a copy");
            set_permissions(&copy, Permissions::from_mode(0o755)).expect("a mode");
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    /// Returns a call of a user, with the run directory that the user has by default.
    fn call(&self, uid: u32, runtime: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(self.path("pepita"));
        command.args(args).uid(uid).gid(uid).current_dir("/").env_remove("PEPITA_RUN_DIR");
        command
            .env("XDG_RUNTIME_DIR", runtime)
            .env("HOME", runtime)
            .env("XDG_DATA_HOME", runtime.join("data"));
        command.env("PEPITA_VHOST_DEVICE_VSOCK", self.path("backend"));
        command
    }

    fn output(&self, user: &User, args: &[&str]) -> Output {
        let mut command = self.call(user.uid, &user.runtime, args);
        if user.uid == 0 {
            command.env("PEPITA_RUN_DIR", user.runtime.join("pepita"));
        }
        command.output().expect("pepita runs")
    }

    /// Boots the VM of a user.
    fn user(&self, uid: u32) -> User {
        let runtime = self.dir.path().join(format!("user-{uid}"));
        std::fs::create_dir(&runtime).expect("made");
        set_permissions(&runtime, Permissions::from_mode(0o755)).expect("a mode");
        chown(&runtime, Some(uid), Some(uid)).expect("an owner");
        let mut user = User { uid, runtime, status: StatusRecord::default() };
        let (kernel, rootfs) = (self.path("vmlinuz"), self.path("ticker.cpio"));
        let machine = ["run", "--name", NAME, "--kernel", &kernel, "--rootfs", &rootfs, "--memory", "128"];
        let rest = ["--daemon", "--wait-ready", "--", "/usr/bin/ticker"];
        let output = self.output(&user, &[&machine[..], &rest].concat());
        assert!(output.status.success(), "user {uid}: {}", errors(&output));
        user.status = self.status(&user);
        user
    }

    fn status(&self, user: &User) -> StatusRecord {
        let output = self.output(user, &["status", "--name", NAME]);
        assert!(output.status.success(), "user {}: {}", user.uid, errors(&output));
        serde_json::from_slice(&output.stdout).expect("a status")
    }
}

impl User {
    fn processes(&self) -> Vec<u32> {
        let state = files::state(Path::new(&self.status.dir)).ok().expect("a state");
        let all = [state.vmm, state.backend, state.monitor];
        let pids: Vec<u32> = all.into_iter().flatten().map(|process| process.pid).collect();
        assert_eq!(pids.len(), 3, "a VMM, a back-end and a monitor");
        pids
    }

    /// Returns the files of the VM, below its run directory.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut dirs = vec![PathBuf::from(&self.status.dir)];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).expect("root reads all").flatten() {
                let kind = entry.file_type().expect("a kind");
                if kind.is_dir() { dirs.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        files
    }

    /// Does something in a thread that is this user: credentials are those of a thread for the kernel (credentials(7)).
    fn attempt<T: Send>(&self, attempt: impl FnOnce() -> T + Send) -> T {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                set_thread_groups(&[]).expect("no groups");
                set_thread_res_gid(gid, gid, gid).expect("a group");
                set_thread_res_uid(uid, uid, uid).expect("a user");
                attempt()
            });
            thread.join().expect("no panic")
        })
    }
}

/// A test that fails leaves no VM.
impl Drop for User {
    fn drop(&mut self) {
        let Some(state) = files::state(Path::new(&self.status.dir)).ok() else { return };
        for process in [state.monitor, state.vmm, state.backend].into_iter().flatten() {
            if let Some(handle) = process.open() {
                let _ = pidfd_send_signal(handle, Signal::KILL);
            }
        }
    }
}

/// Lets an ordinary user try to reach the VM of another user.
fn tries(files: &Files, user: &User, other: &User) {
    let what = format!("user {} at the VM of user {}", user.uid, other.uid);
    let (processes, paths) = (other.processes(), other.files());
    let sockets: Vec<&PathBuf> = paths
        .iter()
        .filter(|path| std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()))
        .collect();
    assert!(sockets.len() >= 3, "the control socket, QEMU's monitor, the back-end: {sockets:?}");
    user.attempt(|| {
        let denied = |e: &std::io::Error| e.kind() == ErrorKind::PermissionDenied;
        assert!(std::fs::read_dir(&other.status.dir).is_err_and(|e| denied(&e)), "{what}: its directory");
        for path in &paths {
            assert!(File::open(path).is_err_and(|e| denied(&e)), "{what}: {}", path.display());
        }
        for socket in sockets {
            assert!(UnixStream::connect(socket).is_err_and(|e| denied(&e)), "{what}: {}", socket.display());
        }
        for pid in processes {
            let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
            assert_eq!(test_kill_process(raw), Err(rustix::io::Errno::PERM), "{what}: a signal to {pid}");
            for file in ["environ", "mem", "maps", "fd"] {
                let path = format!("/proc/{pid}/{file}");
                let opened = if file == "fd" {
                    std::fs::read_dir(&path).map(drop)
                } else {
                    File::open(&path).map(drop)
                };
                assert!(opened.is_err_and(|e| denied(&e)), "{what}: {path}");
            }
        }
    });
    // The launcher of the user, put on the run directory of the other one.
    let run_dir =
        Path::new(&other.status.dir).parent().expect("its run directory").to_string_lossy().into_owned();
    let calls: [&[&str]; 6] = [
        &["status", "--name", NAME],
        &["list", "--format", "name"],
        &["logs", NAME],
        &["exec", NAME, "--", "/usr/bin/ticker", "--exit", "0"],
        &["signal", "--name", NAME, "--signal", "KILL"],
        &["destroy", "--name", NAME, "--force"],
    ];
    for call in calls {
        let args = [&["--run-dir", &run_dir], call].concat();
        let output = files.output(user, &args);
        let error = errors(&output);
        assert_eq!(output.status.code(), Some(77), "{what}: {call:?}: {error}");
        assert!(error.contains("belongs to another user"), "{what}: {call:?}: {error}");
        assert_eq!(text(&output.stdout), "", "{what}: {call:?}");
    }
}

#[test]
fn no_ordinary_user_reaches_a_vm_of_another() {
    assert!(
        rustix::process::geteuid().is_root(),
        "only root can start programs of several users: run the tests as root"
    );
    let files = Files::new();
    let users: Vec<User> = [0].into_iter().chain(ORDINARY).map(|uid| files.user(uid)).collect();
    for user in &users {
        let listed = files.output(user, &["list", "--format", "name"]);
        assert_eq!(text(&listed.stdout).trim(), NAME, "user {}: its own VM, and no other", user.uid);
    }
    for user in users.iter().filter(|user| user.uid != 0) {
        for other in users.iter().filter(|other| other.uid != user.uid) {
            tries(&files, user, other);
        }
    }
    // No socket of a VM is in the abstract namespace, which has no owners (unix(7)).
    let sockets = std::fs::read_to_string("/proc/net/unix").expect("the sockets");
    let dirs: Vec<&str> = users.iter().map(|user| user.status.dir.as_str()).collect();
    assert!(!sockets.lines().any(|line| line.contains('@') && dirs.iter().any(|dir| line.contains(dir))));
    for user in &users {
        let now = files.status(user);
        assert_eq!(now.vmm_pid, user.status.vmm_pid, "user {}: it runs on", user.uid);
        let output = files.output(user, &["destroy", "--name", NAME, "--force"]);
        assert!(output.status.success(), "user {}: {}", user.uid, errors(&output));
    }
}
