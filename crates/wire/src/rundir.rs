//! The files of a VM's run directory, `<runtime>/pepita/<name>/`, that programs other than `pepita` may use.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The control socket of the monitor. [`crate::MonitorRequest`] lists the requests.
pub const CONTROL: &str = "ctl.sock";

/// The file with the token for a hello to the guest agent. Mode 0600.
pub const TOKEN: &str = "token";

/// The file with the exit record, once the VM has ended.
pub const EXIT: &str = "exit.json";

/// The Unix socket of the vsock back-end, on the hybrid transport.
pub const HYBRID: &str = "v.sock";

/// The socket of a plain process's console. Of all sockets of a run directory its name is the longest.
pub const CONSOLE: &str = "console.sock";

/// The directory of the sockets at which VMs reach ports of other VMs, in the directory of run directories. No VM can have
/// such a name.
pub const REACH: &str = ".reach";

/// The environment variable that names the directory in which run directories lie.
pub const ENVIRONMENT: &str = "PEPITA_RUN_DIR";

/// The environment variable that names the directory in which the logs of consoles are kept.
pub const LOG_ENVIRONMENT: &str = "PEPITA_LOG_DIR";

/// The longest path of a Unix socket, in bytes, without its final zero (unix(7)).
pub const SOCKET_PATH_CAP: usize = 107;

/// Returns by how many bytes the path of a VM's longest socket exceeds [`SOCKET_PATH_CAP`]; `None` = it does not.
/// `run_dir` is the absolute path of the directory in which run directories lie, `vm` the VM's name.
pub fn socket_path_excess(run_dir: &Path, vm: &str) -> Option<usize> {
    let longest = run_dir.join(vm).join(CONSOLE).as_os_str().len();
    longest.checked_sub(SOCKET_PATH_CAP).filter(|excess| *excess > 0)
}

/// A place for a program's run-time files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The path of the place.
    pub path: PathBuf,
    /// The directory that has to belong to the user before the place is used; `None` = every user may write to the
    /// directory above, so that only the place itself can be checked.
    pub base: Option<PathBuf>,
}

/// Returns the places where a user's run-time files may lie when the user names none, the best first. `name` is the name
/// of the files' owner, such as `pepita`; `variable` reads the environment.
///
/// For root there is one place only, because root's shell and root's services have different environments. For other
/// users, a place in their home directory comes before one in `/tmp`, where another user can take the name.
pub fn places(uid: u32, name: &str, variable: impl Fn(&str) -> Option<OsString>) -> Vec<Place> {
    if uid == 0 {
        return vec![Place { path: Path::new("/run").join(name), base: None }];
    }
    let directory = |variable: Option<OsString>| {
        // A path that is not absolute is to be ignored (XDG Base Directory Specification).
        variable.map(PathBuf::from).filter(|path| path.is_absolute())
    };
    let runtime = directory(variable("XDG_RUNTIME_DIR"));
    // A shell without that variable, such as one of cron or su, is to find what a login shell has started.
    let usual = Some(PathBuf::from(format!("/run/user/{uid}")));
    let below = |base: PathBuf| Place { path: base.join(name), base: Some(base) };
    let state = directory(variable("XDG_STATE_HOME")).map(below);
    let home = directory(variable("HOME"))
        .map(|base| Place { path: base.join(".local/state").join(name), base: Some(base) });
    let mut places: Vec<Place> = runtime.into_iter().chain(usual).map(below).collect();
    places.extend(state.or(home));
    places.push(in_tmp(uid, name));
    places.dedup();
    places
}

/// Returns the places where earlier versions put the files that [`places`] puts elsewhere.
pub fn former_places(uid: u32, name: &str, variable: impl Fn(&str) -> Option<OsString>) -> Vec<Place> {
    if uid != 0 {
        return vec![in_tmp(uid, name)];
    }
    let runtime = variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let bases = runtime.into_iter().chain([PathBuf::from("/run/user/0")]);
    let mut places: Vec<Place> =
        bases.map(|base| Place { path: base.join(name), base: Some(base) }).collect();
    places.dedup();
    places
}

fn in_tmp(uid: u32, name: &str) -> Place {
    Place { path: Path::new("/tmp").join(format!("{name}-{uid}")), base: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(places: Vec<Place>) -> Vec<String> {
        places.into_iter().map(|place| place.path.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn root_has_one_place_whatever_the_environment_says_and_the_former_one_is_known() {
        let variable = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| OsString::from("/run/user/7"));
        assert_eq!(paths(places(0, "pepita", variable)), ["/run/pepita"]);
        assert_eq!(paths(places(0, "pepita", |_| None)), ["/run/pepita"]);
        assert_eq!(paths(former_places(0, "pepita", variable)), ["/run/user/7/pepita", "/run/user/0/pepita"]);
    }

    #[test]
    fn a_user_s_place_is_in_tmp_only_when_there_is_no_other() {
        let variable = |name: &str| match name {
            "XDG_RUNTIME_DIR" => Some(OsString::from("relative")),
            "HOME" => Some(OsString::from("/home/a")),
            _ => None,
        };
        let expected = ["/run/user/7/pepita", "/home/a/.local/state/pepita", "/tmp/pepita-7"];
        assert_eq!(paths(places(7, "pepita", variable)), expected);
        assert_eq!(paths(places(7, "pepita", |_| None)), ["/run/user/7/pepita", "/tmp/pepita-7"]);
    }

    #[test]
    fn a_path_is_too_long_by_the_bytes_over_the_cap() {
        let dir = |length: usize| PathBuf::from(format!("/{}", "d".repeat(length - 1)));
        let room = SOCKET_PATH_CAP - "/a/console.sock".len();
        assert_eq!(socket_path_excess(&dir(room), "a"), None);
        assert_eq!(socket_path_excess(&dir(room + 3), "a"), Some(3));
    }
}
