//! The program that is put in the place of a VMM which a guest has taken over. It tries one attempt after the other, and
//! prints for each what came of it: `ok`, or the number of the error.

use rustix::mount::MountPropagationFlags;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the host has set up for the intruder to go for.
pub(crate) struct Aims(pub(crate) BTreeMap<String, String>);

impl Aims {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(&self.0[name])
    }

    fn number(&self, name: &str) -> i32 {
        self.0[name].parse().expect("a number")
    }
}

type Attempt = fn(&Aims) -> io::Result<()>;

/// The attempts, by the words with which the documents name them, with the layers that stop each. The first is the one
/// whose error is seen.
pub(crate) const ATTEMPTS: &[(&str, &str, Attempt)] = &[
    ("read /etc/shadow", "root, uid, Landlock", |_| read("/etc/shadow")),
    ("list the run directory of another VM", "root, uid, Landlock", |aims| {
        fs::read_dir(aims.path("other")).map(drop)
    }),
    ("read the token of another VM", "root, uid, Landlock", |aims| read(aims.path("other").join("token"))),
    ("read another VM's token through a link", "root, uid, Landlock", |aims| {
        let link = aims.path("work").join("link");
        symlink(aims.path("other").join("token"), &link)?;
        read(link)
    }),
    ("read the token of its own VM", "root, uid, Landlock", |aims| read(aims.path("own").join("token"))),
    ("change the recorded state of its own VM", "root, uid, Landlock", |aims| {
        write(aims.path("own").join("state.json"))
    }),
    ("read the supervisor's state directory", "root, uid, Landlock", |aims| {
        read(aims.path("state").join("journal"))
    }),
    ("read an image that it does not run", "root, uid, Landlock", |aims| {
        read(aims.path("images").join("other.ext4"))
    }),
    ("change the image that it runs", "root (read-only), uid, Landlock", |aims| write(aims.path("image"))),
    ("make the image that it runs writable", "root (read-only), uid", |aims| {
        fs::set_permissions(aims.path("image"), fs::Permissions::from_mode(0o666))
    }),
    ("write outside of its directory", "root, uid, Landlock", |aims| {
        write(aims.path("images").join("planted"))
    }),
    ("open /etc/passwd to write", "root, uid, Landlock", |_| {
        File::options().write(true).open("/etc/passwd").map(drop)
    }),
    ("read the kernel's log", "root, uid, Landlock", |_| File::open("/dev/kmsg").map(drop)),
    ("open /dev/mem", "root, uid, Landlock", |_| File::open("/dev/mem").map(drop)),
    ("change the mode of a device of the host", "root (read-only), uid, capabilities", |_| {
        let device = Path::new("/dev/null");
        // The mode that it has.
        fs::set_permissions(device, device.metadata()?.permissions())
    }),
    ("set a kernel parameter", "root, uid, Landlock", |_| {
        File::options().write(true).open("/proc/sys/kernel/core_pattern").map(drop)
    }),
    ("read the environment of its monitor", "root, pids, uid", |aims| {
        read(format!("/proc/{}/environ", aims.0["victim"]))
    }),
    ("connect to the control socket of its own VM", "root, uid", |aims| {
        connect(aims.path("own").join("ctl.sock"))
    }),
    ("connect to the QEMU monitor of another VM", "root, uid", |aims| {
        connect(aims.path("other").join("qmp.sock"))
    }),
    ("connect to an abstract socket of the host", "network, Landlock", |aims| {
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&aims.0["abstract"])?;
        UnixStream::connect_addr(&address).map(drop)
    }),
    ("connect to a TCP port of the host", "Landlock, network", |aims| {
        let address: SocketAddr = aims.0["tcp"].parse().expect("an address");
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(drop)
    }),
    ("send a datagram to a UDP port of the host", "network", |aims| {
        UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"x", &aims.0["udp"])).map(drop)
    }),
    ("open a raw socket", "seccomp, capabilities", |_| call(libc::SYS_socket, [17, 3, 0, 0])),
    ("open a vsock socket", "seccomp", |_| call(libc::SYS_socket, [40, 1, 0, 0])),
    ("open a netlink socket", "seccomp", |_| call(libc::SYS_socket, [16, 3, 0, 0])),
    ("signal a process of the host", "pids, uid, Landlock", |aims| {
        call(libc::SYS_kill, [aims.number("victim").into(), 0, 0, 0])
    }),
    ("trace a process of the host", "seccomp, pids, uid, user namespace, Landlock", |aims| {
        // PTRACE_SEIZE leaves the process running.
        call(libc::SYS_ptrace, [0x4206, aims.number("victim").into(), 0, 0])
    }),
    ("read the shared memory of the host", "ipc, uid", |aims| {
        call(libc::SYS_shmget, [aims.number("shm").into(), 16, 0, 0])
    }),
    ("use a descriptor that it was not given", "descriptors", |aims| {
        let fd = aims.number("fd");
        // SAFETY: the descriptor belongs to nobody else in this process, if it is open at all.
        let mut file = unsafe { File::from_raw_fd(fd) };
        let mut secret = String::new();
        file.read_to_string(&mut secret).map(drop).inspect_err(|_| std::mem::forget(file))
    }),
    ("mount a file system", "seccomp, capabilities, Landlock", |aims| {
        let (kind, target) = (c"tmpfs", CString::new(aims.path("mount").as_os_str().as_encoded_bytes())?);
        call(libc::SYS_mount, [kind.as_ptr() as i64, target.as_ptr() as i64, kind.as_ptr() as i64, 0])
    }),
    ("change its root directory", "seccomp, capabilities", |_| change_root_and_back()),
    ("leave its root through another one", "seccomp, capabilities, root, uid, Landlock", |_| {
        change_root_and_back()?;
        read("/etc/shadow")
    }),
    ("open a file by its number", "seccomp, capabilities", |_| {
        // A handle that no file system knows: what matters is whether the call is let through.
        let handle = [8_u32, 1, 0, 0];
        through(call(libc::SYS_open_by_handle_at, [libc::AT_FDCWD.into(), handle.as_ptr() as i64, 0, 0]))
    }),
    ("make a device", "Landlock, capabilities, root (nodev)", |aims| {
        let path = CString::new(aims.path("work").join("null").as_os_str().as_encoded_bytes())?;
        call(
            libc::SYS_mknodat,
            [libc::AT_FDCWD.into(), path.as_ptr() as i64, i64::from(libc::S_IFCHR | 0o666), 0x103],
        )
    }),
    ("become root", "user namespace, capabilities", |_| {
        call(libc::SYS_setresuid, [0, 0, 0, 0]).and_then(|()| {
            // Root was root before.
            read("/etc/shadow")
        })
    }),
    ("take a capability", "capabilities", |_| {
        let header = [0x2008_0522_u32, 0];
        const SYS_ADMIN: u32 = 1 << 21;
        let sets = [SYS_ADMIN, SYS_ADMIN, 0, 0, 0, 0];
        call(libc::SYS_capset, [header.as_ptr() as i64, sets.as_ptr() as i64, 0, 0])
    }),
    ("raise a limit", "limits, capabilities", |_| {
        let limits = [1_u64 << 30, 1 << 30];
        call(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE.into(), limits.as_ptr() as i64, 0])
    }),
    ("make a user namespace", "seccomp, user namespace", |_| {
        call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0])
    }),
    ("make a user namespace by clone", "seccomp, user namespace", |_| spawn(libc::CLONE_NEWUSER)),
    ("make a user namespace by clone3", "seccomp, user namespace", |_| {
        let args = [
            u64::from(libc::CLONE_NEWUSER.unsigned_abs()),
            0,
            0,
            0,
            libc::SIGCHLD.unsigned_abs().into(),
            0,
            0,
            0,
        ];
        // SAFETY: as fork(2).
        match unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: the new process does nothing but end.
            0 => unsafe { libc::_exit(0) },
            _ => Ok(()),
        }
    }),
    ("enter another namespace", "seccomp, capabilities", |_| through(call(libc::SYS_setns, [-1, 0, 0, 0]))),
    ("use the kernel's key ring", "seccomp", |_| call(libc::SYS_keyctl, [0, -4, 0, 0])),
    ("load a BPF program", "seccomp, capabilities", |_| {
        // BPF_MAP_CREATE of an array.
        let map = [2_u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        call(libc::SYS_bpf, [0, map.as_ptr() as i64, 72, 0])
    }),
    ("watch the machine's counters", "seccomp", |_| {
        let mut attributes = [0_u32; 32];
        (attributes[0], attributes[1]) = (1, 128);
        call(libc::SYS_perf_event_open, [attributes.as_ptr() as i64, 0, -1, -1])
    }),
    ("use io_uring", "seccomp", |_| {
        let params = [0_u32; 30];
        call(libc::SYS_io_uring_setup, [1, params.as_ptr() as i64, 0, 0])
    }),
    ("handle page faults", "seccomp", |_| call(libc::SYS_userfaultfd, [0, 0, 0, 0])),
    ("use the calls of another interface (x32)", "seccomp", |_| {
        through(call(0x4000_0000 | libc::SYS_mount, [0, 0, 0, 0]))
    }),
    ("set the host's name", "seccomp, host name, capabilities", |_| {
        call(libc::SYS_sethostname, [c"taken".as_ptr() as i64, 5, 0, 0])
    }),
    ("execute a program that it has written", "root (noexec), Landlock", |aims| {
        let program = aims.path("work").join("program");
        fs::copy("/bin/true", &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        std::process::Command::new(program).status().map(drop)
    }),
    ("fill the disk", "limits", |aims| {
        let mut file = File::create(aims.path("work").join("large"))?;
        (0..32).try_for_each(|_| file.write_all(&[1; 1 << 20]))
    }),
    ("start processes without end", "limits", |_| {
        let mut children = Vec::new();
        let ended = loop {
            if children.len() == 200 {
                break Ok(());
            }
            // SAFETY: the new process waits for its end and touches nothing.
            match unsafe { libc::fork() } {
                -1 => break Err(io::Error::last_os_error()),
                0 => loop {
                    // SAFETY: it waits.
                    unsafe { libc::pause() };
                },
                pid => children.push(pid),
            }
        };
        for pid in children {
            // SAFETY: a child of this process, which was not reaped.
            unsafe { (libc::kill(pid, libc::SIGKILL), libc::waitpid(pid, std::ptr::null_mut(), 0)) };
        }
        ended
    }),
];

/// What a server of files may do: to serve them it becomes a directory's root, and writes as much to it as there is room.
pub(crate) const OF_A_SHARE: [&str; 2] = ["change its root directory", "fill the disk"];

/// Tries all, and writes what came of each in a line that begins with `prefix`. Without a jail, what root does to mounts and
/// to the host's name concerns this process alone: they are its own.
pub(crate) fn run(aims: &str, is_free: bool, prefix: &str, out: &mut dyn Write) {
    let aims = Aims(serde_json::from_str(aims).expect("the aims"));
    if is_free && rustix::process::geteuid().is_root() {
        keep_the_host_as_it_is();
    }
    // The filters for back-ends and servers of files allow no processes.
    let is_alone = in_child(|| Ok(())).is_err();
    for (name, _, attempt) in ATTEMPTS {
        // Each has a process of its own, so that none changes what the next one finds.
        let result = match if is_alone { attempt(&aims) } else { in_child(|| attempt(&aims)) } {
            Ok(()) => "ok".to_owned(),
            Err(e) => e.raw_os_error().map_or(e.to_string(), |number| error_name(number).to_owned()),
        };
        // In one piece: others write to the same pipe.
        let line = format!("{prefix}{name}\t{result}\n");
        out.write_all(line.as_bytes()).expect("written");
    }
}

fn error_name(number: i32) -> &'static str {
    match number {
        libc::EACCES => "EACCES",
        libc::EAGAIN => "EAGAIN",
        libc::EBADF => "EBADF",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EFBIG => "EFBIG",
        libc::EINVAL => "EINVAL",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ENOENT => "ENOENT",
        libc::ENOSYS => "ENOSYS",
        libc::EPERM => "EPERM",
        libc::EROFS => "EROFS",
        libc::ESRCH => "ESRCH",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        _ => "another error",
    }
}

fn keep_the_host_as_it_is() {
    // SAFETY: this process has one thread.
    let own = unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUTS) };
    assert_eq!(own, 0, "mounts and a host name of its own");
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", private).expect("mounts of its own");
}

/// Makes a directory below the root the root, and goes up from the current directory, which stays outside of it.
fn change_root_and_back() -> io::Result<()> {
    call(libc::SYS_chroot, [c"/usr".as_ptr() as i64, 0, 0, 0])?;
    let up = c"../../../../../../../../../../../..";
    call(libc::SYS_chroot, [up.as_ptr() as i64, 0, 0, 0])
}

fn read(path: impl AsRef<Path>) -> io::Result<()> {
    File::open(path).and_then(|mut file| file.read(&mut [0; 16])).map(drop)
}

fn write(path: impl AsRef<Path>) -> io::Result<()> {
    File::options().create(true).append(true).open(path).map(drop)
}

fn connect(path: PathBuf) -> io::Result<()> {
    let mut address = libc::sockaddr_un { sun_family: 1, sun_path: [0; 108] };
    let path = path.into_os_string().into_encoded_bytes();
    assert!(path.len() < address.sun_path.len(), "a path that fits");
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = from.cast_signed();
    }
    // SAFETY: no pointer is among the arguments.
    let socket = match unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0) } {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: the descriptor is new.
        socket => unsafe { UnixStream::from_raw_fd(socket) },
    };
    let (at, length) = (&raw const address, i64::try_from(size_of_val(&address)).expect("small"));
    match call(libc::SYS_connect, [socket.as_raw_fd().into(), at as i64, length, 0]) {
        // It would have to wait until the other side takes the connection.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result,
    }
}

fn call(number: libc::c_long, args: [i64; 4]) -> io::Result<()> {
    // SAFETY: the pointers among the arguments are of values that live longer than the call.
    match unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], 0_i64) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Takes a call for successful that the kernel has let through to its own checks, whatever they have found.
fn through(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.raw_os_error().is_some_and(|e| ![libc::EPERM, libc::ENOSYS].contains(&e)) => Ok(()),
        other => other,
    }
}

/// Does something in a process of its own.
fn in_child(attempt: impl Fn() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = attempt().err().map_or(0, |e| e.raw_os_error().unwrap_or(255));
            // SAFETY: the process ends.
            unsafe { libc::_exit(code) }
        }
        pid => match wait(pid) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        },
    }
}

fn spawn(flags: i32) -> io::Result<()> {
    // SAFETY: as fork(2).
    match unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the new process does nothing but end.
        0 => unsafe { libc::_exit(0) },
        _ => Ok(()),
    }
}

fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the place of the status lives as long as the call.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    libc::WEXITSTATUS(status)
}
