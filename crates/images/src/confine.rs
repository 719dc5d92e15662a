//! Confines this program while it reads the layers of a foreign image: from then on it reaches the files of its store and
//! nothing else of the host (landlock(7)).

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::path::Path;

/// The newest rules that are known here: a kernel that knows fewer of them enforces those.
const NEWEST: ABI = ABI::V7;

/// Leaves this thread, and those that it starts, the files below `store`, no other file, no TCP, no abstract socket and no
/// signal to other programs, for ever. Returns whether the kernel enforces that, at least in part; a kernel without Landlock
/// changes nothing.
pub(crate) fn confine(store: &Path) -> bool {
    apply(store).is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

fn apply(store: &Path) -> Result<RestrictionStatus, RulesetError> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    let rules = rules.create()?.set_compatibility(CompatLevel::BestEffort);
    // A store that cannot be opened is told by the next step that needs it.
    let Ok(store) = PathFd::new(store) else { return rules.restrict_self() };
    rules.add_rule(PathBeneath::new(store, AccessFs::from_all(NEWEST)))?.restrict_self()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_confined_thread_has_its_store_and_no_other_file() {
        let (store, other) = (tempfile::tempdir().expect("a store"), tempfile::tempdir().expect("another"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                let is_confined = confine(store.path());
                std::fs::write(store.path().join("blob"), "x").expect("the store is its own");
                if !is_confined {
                    println!("this kernel has no Landlock");
                    return;
                }
                let denied = |e: &std::io::Error| e.kind() == ErrorKind::PermissionDenied;
                assert!(std::fs::read("/etc/passwd").is_err_and(|e| denied(&e)));
                assert!(std::fs::read_dir(other.path()).is_err_and(|e| denied(&e)));
                assert!(std::fs::write(other.path().join("planted"), "x").is_err_and(|e| denied(&e)));
                // TCP is known to Linux 6.7 and later.
                let connected = TcpStream::connect(("127.0.0.1", port));
                assert!(connected.is_ok() || connected.is_err_and(|e| denied(&e)));
            });
            confined.join().expect("no panic");
        });
        assert!(std::fs::read("/etc/passwd").is_ok(), "the other threads are free");
    }
}
