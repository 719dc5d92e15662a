//! The environment of the daemon, and of the commands that a host runs beside it.
//!
//! Nothing of the agent's own environment is handed on but the variables of [`PASSED`]: the agent of a plain process has
//! the environment of the program that started the VM.

use pepita_wire::environment::{DEFAULT_PATH, PASSED, VM_DIR, VSOCK_CID};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// The variables of a process.
pub(crate) type Environment = BTreeMap<OsString, OsString>;

/// Returns the environment of a guest's programs: of `own`, the agent's environment, what is handed on, then what the
/// image sets, then what the start sets. A search path is always there.
pub(crate) fn of_guest(
    own: impl IntoIterator<Item = (OsString, OsString)>,
    image: &BTreeMap<String, String>,
    start: &BTreeMap<String, String>,
    cid: u32,
) -> Environment {
    let handed_on = |name: &OsStr| PASSED.iter().chain([&VM_DIR]).any(|passed| name == *passed);
    let own = own.into_iter().filter(|(name, _)| handed_on(name));
    let set = image.iter().chain(start).map(|(name, value)| (name.into(), value.into()));
    let default = [("PATH".into(), DEFAULT_PATH.into())];
    let cid = [(VSOCK_CID.into(), cid.to_string().into())];
    default.into_iter().chain(own).chain(set).chain(cid).collect()
}

/// Returns the places where a program may be: the program itself when it is a path, else one in each folder of PATH.
pub(crate) fn places(program: &str, environment: &Environment) -> Vec<PathBuf> {
    match environment.get(OsStr::new("PATH")) {
        Some(path) if !program.contains('/') => {
            std::env::split_paths(path).map(|dir| dir.join(program)).collect()
        }
        Some(_) | None => vec![PathBuf::from(program)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn of(own: &[(&str, &str)], image: &[(&str, &str)], start: &[(&str, &str)]) -> Vec<String> {
        let own = own.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let all = of_guest(own, &variables(image), &variables(start), 7);
        all.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect()
    }

    #[test]
    fn of_the_supervisors_environment_only_what_is_named_reaches_a_daemon() {
        let own = [
            ("PATH", "/own"),
            ("HOME", "/root"),
            ("SECRET", "x"),
            ("LISTEN_FDS", "1"),
            ("NOTIFY_SOCKET", "/systemd"),
            ("WATCHDOG_USEC", "9"),
            ("RUST_LOG", "debug"),
            ("PEPITA_VM_DIR", "/run/pepita/a"),
        ];
        let expected = ["HOME=/root", "PATH=/own", "PEPITA_VM_DIR=/run/pepita/a", "PEPITA_VSOCK_CID=7"];
        assert_eq!(of(&own, &[], &[]), expected);
    }

    #[test]
    fn what_is_configured_wins_also_for_the_search_path() {
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(of(&[], &[], &[]), [&path, "PEPITA_VSOCK_CID=7"]);
        let all = of(&[("PATH", "/own")], &[("PATH", "/image"), ("A", "1")], &[("PATH", "/start")]);
        assert_eq!(all, ["A=1", "PATH=/start", "PEPITA_VSOCK_CID=7"]);
    }

    #[test]
    fn a_bare_name_is_looked_for_in_the_search_path_of_the_daemon() {
        let environment = Environment::from([("PATH".into(), "/a:/b".into())]);
        assert_eq!(places("x", &environment), [PathBuf::from("/a/x"), PathBuf::from("/b/x")]);
        assert_eq!(places("./x", &environment), [PathBuf::from("./x")]);
    }
}
