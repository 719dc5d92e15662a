//! Enters namespaces, and maps the users that exist in a user namespace.

use crate::raw::{end, fork, unshare};
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, waitpid};
use rustix::thread::UnshareFlags;
use std::os::fd::{AsFd, OwnedFd};

/// The user that exists in a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    /// The present user under the present number.
    Same,
    /// The present user, who is root there.
    Root,
}

/// The most bytes of a map of user ids: 340 lines.
const MAP_CAP: usize = 16 << 10;

/// Opens `/proc` of the host, by which a user namespace is set up; it stays usable in another root.
pub(crate) fn open_proc() -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, "/proc", flags, Mode::empty()).map_err(|e| format!("/proc: {e}"))
}

/// Enters a new namespace of one kind.
pub(crate) fn enter(flag: UnshareFlags) -> Result<(), String> {
    unshare(flag).map_err(|e| match e {
        Errno::PERM => {
            "the system lets nobody but root make one, and this user has no user namespace".to_owned()
        }
        Errno::INVAL => "this kernel has none".to_owned(),
        Errno::NOSPC => "the limit of the system is reached (sysctl user.max_*_namespaces)".to_owned(),
        e => e.to_string(),
    })
}

/// Enters a new user namespace, in which no user exists but the present one.
pub(crate) fn enter_user(proc: &OwnedFd, uid: u32, gid: u32, own: Own) -> Result<(), String> {
    enter_new_user()?;
    let inside = |number| if own == Own::Root { 0 } else { number };
    let lines = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{} {uid} 1", inside(uid))),
        ("gid_map", format!("{} {gid} 1", inside(gid))),
    ];
    for (name, line) in lines {
        put(proc, &format!("self/{name}"), &line).map_err(|e| {
            format!(
                "{name}: {e} (Ubuntu: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or a profile)"
            )
        })?;
    }
    Ok(())
}

/// Enters a new user namespace, in which all users of the present one exist under their present numbers. A process outside
/// of the new namespace has to say so, and is made for that.
pub(crate) fn enter_user_of_all(proc: &OwnedFd) -> Result<(), String> {
    let failed = |step: &str, e: Errno| format!("{step}: {e}");
    let own = readlinkat(proc, "self", Vec::new()).map_err(|e| failed("/proc/self", e))?;
    let own = own.to_string_lossy().into_owned();
    let names = ["uid_map", "gid_map"];
    let maps: Vec<(&str, String)> = names
        .into_iter()
        .map(|name| Ok((name, same_numbers(&get(proc, &format!("self/{name}"))?))))
        .collect::<rustix::io::Result<_>>()
        .map_err(|e| failed("the users of this system", e))?;
    let (begin, may_begin) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed("pipe", e))?;
    let Some(other) = fork().map_err(|e| failed("fork", e))? else {
        drop(may_begin);
        let put_all = || maps.iter().try_for_each(|(name, map)| put(proc, &format!("{own}/{name}"), map));
        let code = match read(&begin, &mut [0; 1]) {
            Ok(1) => put_all().err().map_or(0, Errno::raw_os_error),
            Ok(_) | Err(_) => 0,
        };
        end(code);
    };
    let entered = enter_new_user();
    if entered.is_ok() {
        let _ = write(&may_begin, b"x");
    }
    drop(may_begin);
    let ended = loop {
        match waitpid(Some(other), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            ended => break ended.ok().flatten().and_then(|(_, status)| status.exit_status()),
        }
    };
    entered?;
    match ended {
        Some(0) => Ok(()),
        Some(code) => Err(failed("the map of its users", Errno::from_raw_os_error(code))),
        None => Err("the map of its users: the process that was to write it is gone".into()),
    }
}

/// Returns the map of a new user namespace in which each user of the present one has the number that it has now.
fn same_numbers(map: &str) -> String {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace();
        let (inside, count) = (numbers.next()?, numbers.nth(1)?);
        Some(format!("{inside} {inside} {count}\n"))
    };
    map.lines().filter_map(line).collect()
}

fn enter_new_user() -> Result<(), String> {
    unshare(UnshareFlags::NEWUSER).map_err(|e| match e {
        Errno::PERM => {
            "the system forbids user namespaces; allow them: sysctl -w kernel.unprivileged_userns_clone=1 \
                        (or, in a container, its seccomp profile)"
                .to_owned()
        }
        Errno::NOSPC => {
            "the system allows no (more) user namespaces; raise the sysctl user.max_user_namespaces"
                .to_owned()
        }
        Errno::INVAL => "this kernel has no user namespaces (CONFIG_USER_NS)".to_owned(),
        e => e.to_string(),
    })
}

/// Lets no further user namespace be made from this one: a new one would come with capabilities, and with all of the
/// kernel that they open to attacks.
pub(crate) fn forbid_more(proc: &OwnedFd) -> Result<(), String> {
    let name = "sys/user/max_user_namespaces";
    put(proc, name, "0").map_err(|e| format!("{name}: {e}"))
}

fn get(proc: &OwnedFd, path: &str) -> rustix::io::Result<String> {
    let file = openat(proc.as_fd(), path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = vec![0; MAP_CAP];
    let length = read(&file, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

fn put(proc: &OwnedFd, path: &str, line: &str) -> rustix::io::Result<()> {
    let file = openat(proc.as_fd(), path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write(&file, line.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_of_a_namespace_keep_their_numbers_in_the_one_below_it() {
        let whole = "         0          0 4294967295\n";
        assert_eq!(same_numbers(whole), "0 0 4294967295\n");
        let container = "         0     100000      65536\n     70000       1000          1\n";
        assert_eq!(same_numbers(container), "0 0 65536\n70000 70000 1\n");
    }
}
