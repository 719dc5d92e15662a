//! The system calls of a guest's PID 1: mounts, kernel modules, the console device, the real root, the end of the VM.

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::ffi::CStr;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// A file system that is mounted unless something is mounted at its target already.
struct Mount {
    source: &'static str,
    target: &'static str,
    kind: &'static str,
    options: &'static CStr,
}

const fn row(
    source: &'static str,
    target: &'static str,
    kind: &'static str,
    options: &'static CStr,
) -> Mount {
    Mount { source, target, kind, options }
}

/// The file systems in the order of mounting. The later mount points are inside the first three file systems.
const MOUNTS: [Mount; 7] = [
    row("proc", "/proc", "proc", c""),
    row("sys", "/sys", "sysfs", c""),
    row("dev", "/dev", "devtmpfs", c"mode=0755"),
    row("devpts", "/dev/pts", "devpts", c"mode=0620,ptmxmode=0666"),
    row("run", "/run", "tmpfs", c"mode=0755"),
    row("tmp", "/tmp", "tmpfs", c"mode=1777"),
    row("cgroup2", "/sys/fs/cgroup", "cgroup2", c""),
];

/// The device of the guest's console: the first port of virtio-console.
pub(crate) const CONSOLE: &str = "/dev/hvc0";

/// Mounts the missing file systems. A failure is only printed on the console, because a guest without cgroup2 still
/// works.
pub(crate) fn mount_all() {
    let mounted = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for Mount { source, target, kind, options } in MOUNTS {
        if mounted.lines().any(|line| line.split(' ').nth(1) == Some(target)) {
            continue;
        }
        let _ = std::fs::create_dir_all(target);
        if let Err(e) = mount(source, target, kind, MountFlags::NOSUID, Some(options)) {
            eprintln!("daemonctl: cannot mount {target}: {e}");
        }
    }
}

/// Writes `/run/pepita/guest`, by which programs recognise that they run in a pepita guest.
pub(crate) fn write_mark(cid: u32, incarnation: u64) {
    let _ = std::fs::create_dir_all("/run/pepita");
    let _ = std::fs::write("/run/pepita/guest", format!("cid={cid}\nincarnation={incarnation}\n"));
}

/// Loads kernel modules in the given order. A module that is loaded already or built in is no error.
///
/// # Errors
/// When a module cannot be loaded. The message names the module and the reason.
pub(crate) fn load_modules(paths: &[String]) -> Result<(), String> {
    for path in paths {
        let module = File::open(path).map_err(|e| format!("module {path}: {e}"))?;
        match rustix::system::finit_module(&module, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(format!("module {path}: {e}")),
        }
    }
    Ok(())
}

/// Waits until a device exists. A device appears shortly after its driver was loaded.
///
/// # Errors
/// When inotify(7) fails.
pub(crate) fn await_device(path: &str) -> std::io::Result<()> {
    let path = Path::new(path);
    let watch = inotify::init(CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, path.parent().unwrap_or(path), WatchFlags::CREATE)?;
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    while !path.exists() {
        let event = events.next()?;
        debug_assert!(event.events().intersects(ReadFlags::CREATE | ReadFlags::QUEUE_OVERFLOW));
    }
    Ok(())
}

/// Opens the console and makes it raw, so that the host reads exactly the bytes that the daemon writes.
///
/// # Errors
/// When the device cannot be opened or set up.
pub(crate) fn open_console() -> std::io::Result<File> {
    await_device(CONSOLE)?;
    // Without O_CREAT, which would create a plain file at the path of the device.
    let file = File::options().read(true).write(true).open(CONSOLE)?;
    if let Ok(mut modes) = tcgetattr(&file) {
        modes.make_raw();
        tcsetattr(&file, OptionalActions::Now, &modes)?;
    }
    Ok(file)
}

/// Switches to the real root file system on `device` and executes the agent there. Returns only after a failure.
///
/// # Errors
/// When a step fails. The message names the step and the reason.
pub(crate) fn switch_root(device: &str) -> Result<std::convert::Infallible, String> {
    let step = |what: &str, e: &dyn std::fmt::Display| format!("root {device}: {what}: {e}");
    await_device(device).map_err(|e| step("waiting for it", &e))?;
    let root = "/newroot";
    let _ = std::fs::create_dir_all(root);
    mount(device, root, "ext4", MountFlags::NOATIME, None).map_err(|e| step("mount", &e))?;
    for dir in ["/dev", "/proc", "/sys", "/run", "/tmp"] {
        let target = format!("{root}{dir}");
        let _ = std::fs::create_dir_all(&target);
        mount_move(dir, &target).map_err(|e| step(&format!("moving {dir}"), &e))?;
    }
    rustix::process::chdir(root).map_err(|e| step("chdir", &e))?;
    mount_move(".", "/").map_err(|e| step("moving it to /", &e))?;
    rustix::process::chroot(".").map_err(|e| step("chroot", &e))?;
    rustix::process::chdir("/").map_err(|e| step("chdir", &e))?;
    let error = Command::new("/sbin/daemonctl").exec();
    Err(step("executing /sbin/daemonctl in it", &error))
}

/// Ends the VM by a reboot. The kernel runs with `reboot=t` and QEMU with `-no-reboot`, so a reboot is the fastest end.
///
/// # Panics
/// When the kernel refuses to reboot. PID 1 must not return, and a panic ends the guest as well.
pub(crate) fn power_off() -> ! {
    rustix::fs::sync();
    let error = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    panic!("the kernel refused to reboot: {error:?}")
}
