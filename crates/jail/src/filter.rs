//! The filters of system calls.
//!
//! All are lists: [`Seccomp::Common`] and [`Seccomp::Share`] of what is refused, [`Seccomp::Backend`] of what is let through. What is refused
//! fails with an error instead of ending the process: a library that tries a newer call first goes on with the older one.

use crate::plan::Seccomp;
use libc::c_long;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter, sock_filter,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// The calls that no program in a jail needs.
#[rustfmt::skip]
const REFUSED: &[c_long] = &[
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_acct,
    // Files by number instead of by name, past every directory.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // Namespaces. (For clone(2) see below.)
    libc::SYS_unshare,
    libc::SYS_setns,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Large parts of the kernel in which holes were found, and which are for other programs.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_vhangup,
    libc::SYS_personality,
    // The machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
];

/// Those of them that only this kind of machine has.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

/// The calls of vhost-device-vsock, of Rust's standard library and of the C library below it. Those in which an argument
/// matters are not among them.
#[rustfmt::skip]
const BACKEND: &[c_long] = &[
    // Its work: sockets, events, memory that it is handed.
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_recvfrom, libc::SYS_sendto,
    libc::SYS_recvmsg, libc::SYS_sendmsg, libc::SYS_accept, libc::SYS_accept4, libc::SYS_bind, libc::SYS_listen,
    libc::SYS_connect, libc::SYS_shutdown, libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_getsockname,
    libc::SYS_getpeername, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_eventfd2,
    libc::SYS_ppoll, libc::SYS_close, libc::SYS_dup, libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_pipe2,
    libc::SYS_unlinkat, libc::SYS_mmap, libc::SYS_mremap, libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_madvise,
    libc::SYS_brk, libc::SYS_fallocate,
    // Its start: the helper's last words, the execution, the loader.
    libc::SYS_execve, libc::SYS_openat, libc::SYS_pread64, libc::SYS_lseek, libc::SYS_fstat, libc::SYS_newfstatat,
    libc::SYS_statx, libc::SYS_readlinkat, libc::SYS_faccessat, libc::SYS_getcwd, libc::SYS_uname, libc::SYS_prlimit64,
    libc::SYS_set_tid_address, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid,
    libc::SYS_getpid, libc::SYS_getrandom, libc::SYS_sysinfo,
    // Threads, signals, time, the end.
    libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_gettid, libc::SYS_tgkill,
    libc::SYS_sched_getaffinity, libc::SYS_sched_yield, libc::SYS_sigaltstack, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_restart_syscall, libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_exit, libc::SYS_exit_group,
];

/// Those of them that only this kind of machine has.
#[cfg(target_arch = "x86_64")]
const BACKEND_HERE: &[c_long] = &[
    libc::SYS_arch_prctl,
    libc::SYS_access,
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_dup2,
    libc::SYS_gettimeofday,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const BACKEND_HERE: &[c_long] = &[];

/// The calls that a server of files does not need besides: it has its connection when it starts.
const NO_SERVER: &[c_long] = &[libc::SYS_socket, libc::SYS_socketpair, libc::SYS_connect];

/// Those of them that only this kind of machine has.
#[cfg(target_arch = "x86_64")]
const NO_SERVER_HERE: &[c_long] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const NO_SERVER_HERE: &[c_long] = &[];

/// The kinds of namespaces that clone(2) can make.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Applies the filter of a plan to this process. `is_root` says whether it was root before it entered a user namespace. What
/// follows is the execution of the program.
pub(crate) fn apply(seccomp: Seccomp, is_root: bool) -> Result<(), String> {
    let programs = match seccomp {
        Seccomp::None => return Ok(()),
        Seccomp::Common => vec![common(), Ok(gate())],
        Seccomp::Backend => vec![backend()],
        Seccomp::Share if is_root => vec![share(), Ok(gate())],
        Seccomp::Share => vec![share(), Ok(gate()), no_groups()],
    };
    // All are made before the first is in force.
    let programs: Vec<BpfProgram> =
        programs.into_iter().collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    for program in &programs {
        apply_filter(program).map_err(|e| match e {
            Error::Seccomp(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                "this kernel has no filters of system calls (CONFIG_SECCOMP_FILTER)".to_owned()
            }
            e => e.to_string(),
        })?;
    }
    Ok(())
}

/// Returns the filter that refuses the calls of the list, namespaces by clone(2), and sockets but those of Unix and of the
/// internet: AF_VSOCK, for one, belongs to no network namespace, and leads to every other VM.
fn common() -> Result<BpfProgram, Error> {
    let mut rules: Rules = REFUSED.iter().chain(REFUSED_HERE).map(|call| (*call, Vec::new())).collect();
    let when = |conditions| SeccompRule::new(conditions);
    let word = |at, op, value| SeccompCondition::new(at, SeccompCmpArgLen::Dword, op, value);
    let number = |value: i32| u64::from(value.unsigned_abs());
    let mut clone = Vec::new();
    for flag in NAMESPACES {
        clone.push(when(vec![word(0, SeccompCmpOp::MaskedEq(number(flag)), number(flag))?])?);
    }
    rules.insert(libc::SYS_clone, clone);
    let (ip, ip6) = (number(libc::AF_INET), number(libc::AF_INET6));
    let between = vec![word(0, SeccompCmpOp::Gt, ip)?, word(0, SeccompCmpOp::Lt, ip6)?];
    let above = vec![word(0, SeccompCmpOp::Gt, ip6)?];
    rules.insert(libc::SYS_socket, vec![when(between.clone())?, when(above.clone())?]);
    rules.insert(libc::SYS_socketpair, vec![when(between)?, when(above)?]);
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.unsigned_abs()))
}

/// Returns the filter that lets through what the back-end needs: threads but no processes, Unix sockets but no others.
/// Everything else is answered as by a kernel that does not know it.
fn backend() -> Result<BpfProgram, Error> {
    let mut rules: Rules = BACKEND.iter().chain(BACKEND_HERE).map(|call| (*call, Vec::new())).collect();
    let is = |at, value: u64| {
        SeccompCondition::new(at, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let number = |value: i32| u64::from(value.unsigned_abs());
    let thread = SeccompCmpOp::MaskedEq(number(libc::CLONE_THREAD));
    let thread = SeccompCondition::new(0, SeccompCmpArgLen::Dword, thread, number(libc::CLONE_THREAD))?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![thread])?]);
    let unix = || is(0, number(libc::AF_UNIX));
    rules.insert(libc::SYS_socket, vec![unix()?]);
    rules.insert(libc::SYS_socketpair, vec![unix()?]);
    rules.insert(libc::SYS_ioctl, vec![is(1, libc::FIONBIO)?, is(1, libc::FIOCLEX)?, is(1, libc::TCGETS)?]);
    rules.insert(libc::SYS_prctl, vec![is(0, number(libc::PR_SET_NAME))?, is(0, number(libc::PR_SET_VMA))?]);
    compile(rules, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()), SeccompAction::Allow)
}

/// Returns the filter for a server of files: as the common one, but without processes and sockets. Its threads leave the
/// directory and the file mode mask that they share (`CLONE_FS`), because files are made with the mask of a guest's program.
fn share() -> Result<BpfProgram, Error> {
    let calls = REFUSED.iter().chain(REFUSED_HERE).chain(NO_SERVER).chain(NO_SERVER_HERE);
    let calls = calls.filter(|call| **call != libc::SYS_chroot);
    let mut rules: Rules = calls.map(|call| (*call, Vec::new())).collect();
    let number = |value: i32| u64::from(value.unsigned_abs());
    let when = |op, value: i32| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, op, number(value))
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let mut clone = vec![when(SeccompCmpOp::MaskedEq(number(libc::CLONE_THREAD)), 0)?];
    for flag in NAMESPACES {
        clone.push(when(SeccompCmpOp::MaskedEq(number(flag)), flag)?);
    }
    rules.insert(libc::SYS_clone, clone);
    rules.insert(libc::SYS_unshare, vec![when(SeccompCmpOp::Ne, libc::CLONE_FS)?]);
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.unsigned_abs()))
}

/// Returns the filter that answers setgroups(2) with a success that it has not. A server of files gives its groups up when it
/// starts, and ends when it may not; nobody may in a user namespace of an ordinary user.
fn no_groups() -> Result<BpfProgram, Error> {
    let rules = [(libc::SYS_setgroups, Vec::new())].into();
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(0))
}

fn compile(rules: Rules, usual: SeccompAction, listed: SeccompAction) -> Result<BpfProgram, Error> {
    let arch = std::env::consts::ARCH.try_into().map_err(Error::Backend)?;
    SeccompFilter::new(rules, usual, listed, arch).and_then(TryInto::try_into).map_err(Error::Backend)
}

/// Returns the filter for what a list of calls cannot say: clone3(2) has its flags in memory, which no filter sees, and the
/// calls of the x32 interface have other numbers. Both are answered as by a kernel that does not know them.
fn gate() -> BpfProgram {
    /// Where the number of the call is in the data of a filter.
    const NUMBER: u32 = 0;
    const X32: u32 = 0x4000_0000;
    let step =
        |code: u32, jt, jf, k| sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k };
    let clone3 = u32::try_from(libc::SYS_clone3).unwrap_or_default();
    let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    vec![
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 2, 0, clone3),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, 0, X32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, refused),
    ]
}
