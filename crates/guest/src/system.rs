//! The system calls of a guest's PID 1: mounts, kernel modules, the console device, the real root, the end of the VM.

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::ffi::CStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

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
const MOUNTS: [Mount; 9] = [
    row("proc", "/proc", "proc", c""),
    row("sys", "/sys", "sysfs", c""),
    row("dev", "/dev", "devtmpfs", c"mode=0755"),
    row("devpts", "/dev/pts", "devpts", c"mode=0620,ptmxmode=0666"),
    row("shm", "/dev/shm", "tmpfs", c"mode=1777"),
    row("mqueue", "/dev/mqueue", "mqueue", c""),
    row("run", "/run", "tmpfs", c"mode=0755"),
    row("tmp", "/tmp", "tmpfs", c"mode=1777"),
    row("cgroup2", "/sys/fs/cgroup", "cgroup2", c""),
];

/// The device of the guest's console: the first port of virtio-console.
pub(crate) const CONSOLE: &str = "/dev/hvc0";

/// Closes the agent's memory, which holds the token, to the programs of the guest, also to those of root that have not every
/// capability.
pub(crate) fn keep_memory_private() {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

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
            // `eprintln!` panics when the console takes nothing, and a panic of the first process ends the guest.
            let _ = writeln!(std::io::stderr(), "daemonctl: cannot mount {target}: {e}");
        }
    }
}

/// Writes `/run/pepita/guest`, by which programs recognise that they run in a pepita guest.
pub(crate) fn write_mark(cid: u32, incarnation: u64) {
    let _ = std::fs::create_dir_all("/run/pepita");
    let _ = std::fs::write("/run/pepita/guest", format!("cid={cid}\nincarnation={incarnation}\n"));
}

/// Loads kernel modules in the given order. A module that is loaded already or built in is no error, and a kernel without
/// support for modules has everything built in.
///
/// # Errors
/// When a module cannot be loaded. The message names the module and the reason.
pub(crate) fn load_modules(paths: &[String]) -> Result<(), String> {
    for path in paths {
        match load_module(path).map_err(|e| format!("module {path}: {e}"))? {
            Support::Modules => {}
            Support::BuiltIn => break,
        }
    }
    Ok(())
}

/// What a kernel does with modules.
#[derive(Debug, PartialEq, Eq)]
enum Support {
    /// The kernel loads modules.
    Modules,
    /// The kernel has everything built in and refuses every module.
    BuiltIn,
}

/// Loads a kernel module without its signature, whose check takes an emulated guest 6 ms for each module and says nothing:
/// the modules come with the image, as this program does. A kernel that insists on signatures gets the whole file.
fn load_module(path: &str) -> std::io::Result<Support> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let loaded = match rustix::system::init_module(unsigned(&bytes), c"") {
        Err(Errno::NOKEY | Errno::KEYREJECTED | Errno::PERM) => rustix::system::finit_module(&file, c"", 0),
        other => other,
    };
    Ok(support(loaded)?)
}

/// Returns what the answer to a module says of the kernel.
fn support(loaded: Result<(), Errno>) -> Result<Support, Errno> {
    match loaded {
        Ok(()) | Err(Errno::EXIST) => Ok(Support::Modules),
        Err(Errno::NOSYS) => Ok(Support::BuiltIn),
        Err(e) => Err(e),
    }
}

/// The end of a file with a signature (`MODULE_SIG_STRING` of the kernel).
const SIGNED: &[u8] = b"~Module signature appended~\n";

/// The length of what is before [`SIGNED`]: `struct module_signature`, whose last four bytes are the length of the signature
/// before it, the most significant byte first.
const SIGNATURE_INFO: usize = 12;

/// Returns a kernel module without the signature at its end, if it has one.
fn unsigned(module: &[u8]) -> &[u8] {
    let bare = || {
        let (rest, info) = module.strip_suffix(SIGNED)?.split_last_chunk::<SIGNATURE_INFO>()?;
        let length = u32::from_be_bytes(*info.last_chunk()?);
        rest.get(..rest.len().checked_sub(usize::try_from(length).ok()?)?)
    };
    bare().unwrap_or(module)
}

/// Waits until a device exists. A device appears shortly after its driver was loaded.
///
/// # Errors
/// When inotify(7) fails.
pub(crate) fn await_device(path: &str) -> std::io::Result<()> {
    let path = Path::new(path);
    let wanted = |name: &str| path.file_name().is_some_and(|file| file == name);
    await_entry(path.parent().unwrap_or(path), wanted).map(drop)
}

/// Waits until a directory has an entry with a wanted name, and returns its path.
///
/// # Errors
/// When inotify(7) fails.
fn await_entry(dir: &Path, wanted: impl Fn(&str) -> bool) -> std::io::Result<PathBuf> {
    let watch = inotify::init(CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, dir, WatchFlags::CREATE)?;
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    loop {
        let entries = std::fs::read_dir(dir)?.flatten();
        let mut names = entries.filter(|entry| entry.file_name().to_str().is_some_and(&wanted));
        if let Some(entry) = names.next() {
            return Ok(entry.path());
        }
        let event = events.next()?;
        debug_assert!(event.events().intersects(ReadFlags::CREATE | ReadFlags::QUEUE_OVERFLOW));
    }
}

/// The file by which the agent of an initrd passes the boot token on to the agent of the real root.
const PASSED_TOKEN: &str = "/run/pepita/boot.token";

/// The time limit for the host to connect to the token's port after the port has appeared.
const TOKEN_DEADLINE: Duration = Duration::from_secs(10);

/// Takes the boot token out of its port, or out of the file in which the agent of the initrd has left it. Nobody can
/// read it a second time.
///
/// # Errors
/// When the port cannot be read. The message names the step and the reason.
pub(crate) fn take_token(length: usize) -> Result<String, String> {
    if let Ok(token) = std::fs::read_to_string(PASSED_TOKEN) {
        let removed = std::fs::remove_file(PASSED_TOKEN);
        return removed.map(|()| token).map_err(|e| format!("{PASSED_TOKEN}: {e}"));
    }
    let failed = |e: std::io::Error| format!("the port of the boot token: {e}");
    let path = await_entry(Path::new("/dev"), |name| name.starts_with("vport") && name.ends_with("p1"));
    let mut port = path.and_then(File::open).map_err(failed)?;
    let (mut token, mut filled, since) = (vec![0; length], 0, Instant::now());
    while filled < length {
        match port.read(&mut token[filled..]) {
            // The port appears before the host's end of it is announced, and no event tells of that.
            Ok(0) if since.elapsed() < TOKEN_DEADLINE => std::thread::sleep(Duration::from_millis(1)),
            Ok(0) => return Err(failed(ErrorKind::TimedOut.into())),
            Ok(n) => filled += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
    String::from_utf8(token).map_err(|_| failed(ErrorKind::InvalidData.into()))
}

/// Passes the boot token on to the agent of the real root, which is the present root by now. An agent that knows only
/// the kernel's command line gets a command line with the token in it.
fn pass_token(token: &str) -> std::io::Result<()> {
    let program = std::fs::read("/sbin/daemonctl")?;
    let mark = pepita_wire::protocol::TOKEN_PORT_MARK.as_bytes();
    let secret = |path: &str| File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    std::fs::create_dir_all("/run/pepita")?;
    if program.windows(mark.len()).any(|bytes| bytes == mark) {
        return secret(PASSED_TOKEN)?.write_all(token.as_bytes());
    }
    let cmdline = std::fs::read_to_string("/proc/cmdline")?;
    let path = "/run/pepita/cmdline";
    secret(path)?.write_all(format!("{} pepita.token={token}\n", cmdline.trim_end()).as_bytes())?;
    mount_bind(path, "/proc/cmdline").map_err(Into::into)
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
pub(crate) fn switch_root(device: &str, token: Option<&str>) -> Result<std::convert::Infallible, String> {
    let step = |what: &str, e: &dyn std::fmt::Display| format!("root {device}: {what}: {e}");
    await_device(device).map_err(|e| step("waiting for it", &e))?;
    let root = "/newroot";
    let _ = std::fs::create_dir_all(root);
    mount(device, root, "ext4", MountFlags::NOATIME, None).map_err(|e| step("mount", &e))?;
    make_root(root, &step)?;
    if let Some(token) = token {
        pass_token(token).map_err(|e| step("passing the boot token on", &e))?;
    }
    let error = Command::new("/sbin/daemonctl").exec();
    Err(step("executing /sbin/daemonctl in it", &error))
}

/// Makes a mounted file system the root, with all that is mounted in the present one.
fn make_root(root: &str, step: &dyn Fn(&str, &dyn std::fmt::Display) -> String) -> Result<(), String> {
    for dir in ["/dev", "/proc", "/sys", "/run", "/tmp"] {
        let target = format!("{root}{dir}");
        let _ = std::fs::create_dir_all(&target);
        mount_move(dir, &target).map_err(|e| step(&format!("moving {dir}"), &e))?;
    }
    rustix::process::chdir(root).map_err(|e| step("chdir", &e))?;
    mount_move(".", "/").map_err(|e| step("moving it to /", &e))?;
    rustix::process::chroot(".").map_err(|e| step("chroot", &e))?;
    rustix::process::chdir("/").map_err(|e| step("chdir", &e))
}

/// Makes the root of a file system that other VMs share, on `device`: it is never written to, and what the guest writes
/// goes to a layer in memory that ends with the VM.
///
/// # Errors
/// When a step fails. The message names the step and the reason.
pub(crate) fn enter_shared_root(device: &str) -> Result<(), String> {
    let step = |what: &str, e: &dyn std::fmt::Display| format!("shared root {device}: {what}: {e}");
    await_device(device).map_err(|e| step("waiting for it", &e))?;
    // The modules are loaded, and the initrd is in memory.
    let _ = std::fs::remove_dir_all("/lib");
    for dir in ["/shared", "/layer", "/newroot"] {
        std::fs::create_dir(dir).map_err(|e| step(dir, &e))?;
    }
    let flags = MountFlags::RDONLY | MountFlags::NOATIME;
    mount(device, "/shared", "ext4", flags, None).map_err(|e| step("mount", &e))?;
    mount("layer", "/layer", "tmpfs", MountFlags::empty(), Some(c"mode=0755"))
        .map_err(|e| step("the layer", &e))?;
    for dir in ["/layer/upper", "/layer/work"] {
        std::fs::create_dir(dir).map_err(|e| step(dir, &e))?;
    }
    // The root directory of an overlay has the owner and mode of the upper directory.
    let top = std::fs::metadata("/shared").map_err(|e| step("its root", &e))?;
    std::fs::set_permissions("/layer/upper", top.permissions()).map_err(|e| step("its root", &e))?;
    std::os::unix::fs::chown("/layer/upper", Some(top.uid()), Some(top.gid()))
        .map_err(|e| step("its root", &e))?;
    let layers = c"lowerdir=/shared,upperdir=/layer/upper,workdir=/layer/work";
    mount("overlay", "/newroot", "overlay", MountFlags::NOATIME, Some(layers))
        .map_err(|e| step("overlay", &e))?;
    make_root("/newroot", &step)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_taken_without_its_signature() {
        let signed = |body: &[u8], signature: &[u8], length: u32| {
            let info = [[0; 8].as_slice(), &length.to_be_bytes()].concat();
            [body, signature, &info, SIGNED].concat()
        };
        assert_eq!(unsigned(&signed(b"module", b"signature", 9)), b"module");
        assert_eq!(unsigned(b"module"), b"module");
        assert_eq!(unsigned(&signed(b"", b"", 0)), b"");
        for broken in [signed(b"module", b"signature", 16), signed(b"m", b"s", u32::MAX), SIGNED.to_vec()] {
            assert_eq!(unsigned(&broken), broken, "a length beyond the file");
        }
    }

    #[test]
    fn a_kernel_without_modules_has_everything_built_in() {
        assert_eq!(support(Ok(())), Ok(Support::Modules));
        assert_eq!(support(Err(Errno::EXIST)), Ok(Support::Modules));
        assert_eq!(support(Err(Errno::NOSYS)), Ok(Support::BuiltIn));
        assert_eq!(support(Err(Errno::NOEXEC)), Err(Errno::NOEXEC));
    }
}
