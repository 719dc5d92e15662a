//! Makes a plan true for this process, layer by layer, in an order in which each step still has the rights that it needs,
//! and none has more:
//!
//! 1. Descriptors are closed before anything is opened.
//! 2. An ordinary user enters its user namespace first, because only there it may do the rest. Root enters its own after it
//!    has become another user: then its root, its network and its other namespaces belong to the host's root, and no
//!    capability of the new namespace means anything to them.
//! 3. The other namespaces, the process ids last: they are for children only, so the process splits there.
//! 4. The root, which needs the right to mount.
//! 5. The limits, of which only root may raise some; then the user, and root's user namespace.
//! 6. The capabilities, all at once, and the promise never to have new ones.
//! 7. Landlock, which forbids mounts and needs that promise; then the filter of system calls, which would forbid most of
//!    the above.

use crate::answer::{Failure, Said, What};
use crate::layer::{Layer, Report, Standing};
use crate::ledger::Ledger;
use crate::namespaces::Own;
use crate::plan::{Limits, Network, Plan, Seccomp};
use crate::root::{self, Stop};
use crate::{filter, identity, namespaces, raw, rules};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, chdir, getegid, geteuid, getrlimit, setrlimit, setsid, umask};
use rustix::system::sethostname;
use rustix::thread::{UnshareFlags, set_no_new_privs};

/// Closes every descriptor but the first three, those of the plan, and `voice`.
///
/// # Errors
/// When one that stays is a directory: by it, the program would be outside of its root.
pub(crate) fn close_others(plan: &Plan, voice: i32) -> Result<(), Failure> {
    let mut kept: Vec<u32> =
        plan.keep.iter().chain([&voice]).filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.extend([0, 1, 2]);
    kept.sort_unstable();
    kept.dedup();
    for fd in &kept {
        if std::fs::metadata(format!("/proc/self/fd/{fd}")).is_ok_and(|file| file.is_dir()) {
            let why = format!("descriptor {fd} is a directory, which leads out of the jail");
            return Err(Failure::new(What::Plan, why));
        }
    }
    let lasts = kept.iter().skip(1).map(|next| next - 1).chain([u32::MAX]);
    for (fd, last) in kept.iter().zip(lasts) {
        if last > *fd {
            raw::close_range(fd + 1, last).map_err(|e| {
                let why = format!("close_range: {e} (Linux 5.9 or later is needed)");
                Failure::new(What::Layer(Layer::Descriptors), why)
            })?;
        }
    }
    Ok(())
}

/// Becomes jailed. `say` tells the caller who goes on. What follows is the execution of the program.
///
/// # Errors
/// When a file of the plan cannot be shown, or a layer cannot be had that has to be there.
pub(crate) fn enter(plan: &Plan, say: &mut impl FnMut(&Said)) -> Result<Report, Failure> {
    let mut ledger = Ledger::new(plan.level);
    ledger.enter(Layer::Descriptors, Ok(()))?;
    let is_root = geteuid().is_root();
    let proc = namespaces::open_proc();
    let groups = identity::device_groups(plan);
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let may = if is_root {
        true
    } else {
        // Who has capabilities has them as root.
        let own = if plan.capabilities.is_empty() { Own::Same } else { Own::Root };
        let entered =
            proc.as_ref().map_err(Clone::clone).and_then(|proc| namespaces::enter_user(proc, uid, gid, own));
        let entered = entered.and_then(|()| namespaces::forbid_more(proc.as_ref().map_err(Clone::clone)?));
        ledger.enter(Layer::UserNamespace, entered)?
    };
    let without = || Err("an ordinary user needs a user namespace for it".to_owned());
    let enter = |flag| if may { namespaces::enter(flag) } else { without() };
    let mounts = enter(UnshareFlags::NEWNS);
    ledger.enter(Layer::Ipc, enter(UnshareFlags::NEWIPC))?;
    let host_name = enter(UnshareFlags::NEWUTS)
        .and_then(|()| sethostname(b"jail").map_err(|e| format!("sethostname: {e}")));
    ledger.enter(Layer::HostName, host_name)?;
    match plan.network {
        Network::None => {
            ledger.enter(Layer::Network, enter(UnshareFlags::NEWNET))?;
        }
        Network::Host => {
            ledger.leave_out(Layer::Network, "the guest has a network of the kind `user`, which QEMU makes")
        }
    }
    let has_pids = ledger.enter(Layer::Pids, enter(UnshareFlags::NEWPID))?;
    if has_pids {
        split(say)?;
    }
    let in_root = enter_root(plan, mounts, plan.proc && has_pids, &mut ledger)?;
    ledger.enter(Layer::Limits, limit(&plan.limits))?;
    // Whether the threads of the jail alone are counted.
    let mut is_alone = !is_root && may;
    match plan.user {
        Some(_) if !in_root => {
            let why = "it needs the layer root: another user cannot enter the directories of the VM's files";
            ledger.enter(Layer::Uid, Err(why.to_owned()))?;
        }
        Some(user) => is_alone |= ledger.enter(Layer::Uid, identity::become_user(user, &groups))?,
        None if is_root && !plan.capabilities.is_empty() => {
            ledger.leave_out(Layer::Uid, "it serves files as their owners, whom only root can be")
        }
        None if is_root => ledger.leave_out(Layer::Uid, "no user ids for VMs are configured"),
        None => ledger.leave_out(Layer::Uid, "an ordinary user cannot become another one"),
    }
    if is_root {
        let entered = proc.as_ref().map_err(Clone::clone).and_then(|proc| {
            let standing = if plan.capabilities.is_empty() {
                namespaces::enter_user(proc, geteuid().as_raw(), getegid().as_raw(), Own::Same)?;
                Standing::in_force()
            } else {
                namespaces::enter_user_of_all(proc)?;
                Standing::covering("all users are in it, because files have many owners")
            };
            namespaces::forbid_more(proc)?;
            Ok(standing)
        });
        is_alone |= ledger.enter_as(Layer::UserNamespace, entered)?;
    }
    // The threads of all processes of a user would be counted otherwise.
    if is_alone {
        limit_threads(&plan.limits).map_err(|why| Failure::new(What::Layer(Layer::Limits), why))?;
    }
    let kept: Vec<String> = plan.capabilities.iter().map(ToString::to_string).collect();
    let standing = match &kept[..] {
        [] => Standing::in_force(),
        kept => Standing::covering(format!("all but {}", kept.join(", "))),
    };
    ledger
        .enter_as(Layer::Capabilities, identity::drop_capabilities(&plan.capabilities).map(|()| standing))?;
    ledger.enter(Layer::NoNewPrivileges, set_no_new_privs(true).map_err(|e| e.to_string()))?;
    ledger.enter_as(Layer::Landlock, rules::restrict(plan, in_root))?;
    match plan.seccomp {
        Seccomp::None => ledger.leave_out(Layer::Seccomp, "the program brings its own"),
        Seccomp::Common | Seccomp::Backend | Seccomp::Share => {
            ledger.enter(Layer::Seccomp, filter::apply(plan.seccomp, is_root))?;
        }
    }
    Ok(ledger.close())
}

/// Splits the process: the new one is the first of its process ids, and a child of the program that has started the helper;
/// the helper ends.
fn split(say: &mut impl FnMut(&Said)) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(What::Layer(Layer::Pids), why);
    match raw::fork_sibling().map_err(|e| failed(format!("clone: {e}")))? {
        Some(pid) => {
            say(&Said::Became { pid: pid.as_raw_nonzero().get().unsigned_abs() });
            std::process::exit(0);
        }
        // A stopped member of a session would get SIGHUP when the leader of the session ends.
        None => setsid().map(drop).map_err(|e| failed(format!("setsid: {e}"))),
    }
}

/// Enters the root of the plan. Returns whether it is there.
fn enter_root(
    plan: &Plan,
    mounts: Result<(), String>,
    proc: bool,
    ledger: &mut Ledger,
) -> Result<bool, Failure> {
    let mask = umask(Mode::WGRP | Mode::WOTH);
    let built = match mounts {
        Ok(()) => root::build(plan, proc),
        Err(why) => Err(Stop::Layer(why)),
    };
    umask(mask);
    let entered = match built {
        Ok(()) => Ok(()),
        Err(Stop::Layer(why)) => Err(why),
        Err(Stop::File(failure)) => return Err(failure),
    };
    let in_root = ledger.enter(Layer::Root, entered)?;
    if !in_root {
        chdir(&plan.dir).map_err(|e| Failure::new(What::File, format!("{}: {e}", plan.dir.display())))?;
    }
    Ok(in_root)
}

fn limit(limits: &Limits) -> Result<(), String> {
    set(Resource::Core, Some(0))?;
    set(Resource::Nofile, limits.open_files)?;
    if limits.file_size.is_some() {
        raw::survive_file_size();
    }
    set(Resource::Fsize, limits.file_size)
}

fn limit_threads(limits: &Limits) -> Result<(), String> {
    set(Resource::Nproc, limits.threads)
}

/// Sets a limit, or the present one where that is lower and cannot be raised.
fn set(resource: Resource, limit: Option<u64>) -> Result<(), String> {
    let Some(limit) = limit else { return Ok(()) };
    let both = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    let lower = getrlimit(resource).maximum.map_or(limit, |present| present.min(limit));
    setrlimit(resource, both(limit))
        .or_else(|_| setrlimit(resource, both(lower)))
        .map_err(|e| format!("{resource:?}: {e}"))
}
