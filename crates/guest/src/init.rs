//! What only PID 1 of a guest does: mounts, modules, the console, the way to the real root, the end.

use crate::boot::Image;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// What is mounted where, unless it is already. The first three are what everything else needs.
const MOUNTS: [(&str, &str, &str, &str); 7] = [
    ("proc", "/proc", "proc", ""),
    ("sys", "/sys", "sysfs", ""),
    ("dev", "/dev", "devtmpfs", "mode=0755"),
    ("devpts", "/dev/pts", "devpts", "mode=0620,ptmxmode=0666"),
    ("run", "/run", "tmpfs", "mode=0755"),
    ("tmp", "/tmp", "tmpfs", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
];

/// The first device that the guest's console may be: virtio-console's first port.
pub const CONSOLE: &str = "/dev/hvc0";

/// Mounts what is missing. A failure is told on the console: a kernel without cgroup2 still boots.
pub fn mount_all() {
    let mounted = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for (source, target, kind, data) in MOUNTS {
        if mounted.lines().any(|line| line.split(' ').nth(1) == Some(target)) {
            continue;
        }
        let _ = std::fs::create_dir_all(target);
        let data = std::ffi::CString::new(data).expect("a literal without a zero");
        if let Err(e) = mount(source, target, kind, MountFlags::NOSUID, Some(data.as_c_str())) {
            eprintln!("daemonctl: cannot mount {target}: {e}");
        }
    }
}

/// Marks this as a pepita guest, for whoever wants to know where it runs.
pub fn leave_mark(cid: u32, incarnation: u64) {
    let _ = std::fs::create_dir_all("/run/pepita");
    let _ = std::fs::write("/run/pepita/guest", format!("cid={cid}\nincarnation={incarnation}\n"));
}

/// Loads the image's modules in their order; one that is loaded or built in already is fine.
///
/// # Errors
/// Which module, and why.
pub fn load_modules(image: &Image) -> Result<(), String> {
    for path in &image.modules {
        let module = File::open(path).map_err(|e| format!("module {path}: {e}"))?;
        match rustix::system::finit_module(&module, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(format!("module {path}: {e}")),
        }
    }
    Ok(())
}

/// Waits until a device is there: it appears a moment after its driver is loaded.
///
/// # Errors
/// When it cannot be waited for.
pub fn await_device(path: &str) -> std::io::Result<()> {
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

/// Opens the console, raw: what the daemon writes is what the host reads.
///
/// # Errors
/// When there is none.
pub fn open_console() -> std::io::Result<File> {
    await_device(CONSOLE)?;
    // Never with O_CREAT, or a plain file stands where the device will be.
    let file = File::options().read(true).write(true).open(CONSOLE)?;
    if let Ok(mut modes) = tcgetattr(&file) {
        modes.make_raw();
        tcsetattr(&file, OptionalActions::Now, &modes)?;
    }
    Ok(file)
}

/// Goes on in the real root. Does not return unless that fails.
///
/// # Errors
/// At which step, and why.
pub fn switch_root(device: &str) -> Result<std::convert::Infallible, String> {
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

/// Ends the VM. The kernel was told `reboot=t` and QEMU `-no-reboot`: a restart is the fastest way out.
pub fn power_off() -> ! {
    rustix::fs::sync();
    let error = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    panic!("the kernel refused to reboot: {error:?}")
}
