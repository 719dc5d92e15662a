//! Makes the name of a VM, which is restricted, from the name of a daemon, which is not. Different names stay
//! different.

use crate::spec::{InvalidName, VmName};

/// The length of the suffix of a name that was made: `-x` and 16 hexadecimal digits.
const MARK: usize = 18;

/// Returns the name of the VM of a daemon. A name that a VM can have is kept; of any other name only the characters
/// that are allowed in the name of a VM are kept, and a fingerprint is added.
///
/// # Errors
/// Returns an error when the name is empty.
pub fn vm_name(daemon: &str) -> Result<VmName, InvalidName> {
    if daemon.is_empty() {
        return VmName::new(daemon);
    }
    match VmName::new(daemon) {
        // A name that has the form of a name made here is converted, too; otherwise two daemons could get one VM.
        Ok(name) if !looks_made(daemon) => Ok(name),
        _ => VmName::new(&made(daemon)),
    }
}

fn looks_made(name: &str) -> bool {
    name.len() > MARK
        && name.is_char_boundary(name.len() - MARK)
        && name[name.len() - MARK..]
            .strip_prefix("-x")
            .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()))
}

fn made(daemon: &str) -> String {
    let kept = daemon.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let kept: String = kept.take(VmName::CAP - MARK).collect();
    let kept = kept.trim_matches('-');
    let kept = if kept.is_empty() { "daemon" } else { kept };
    format!("{kept}-x{:016x}", fingerprint(daemon))
}

/// FNV-1a, 64 bits: stable across versions, unlike the standard library's.
fn fingerprint(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(daemon: &str) -> String {
        vm_name(daemon).expect(daemon).as_str().to_owned()
    }

    #[test]
    fn a_name_that_can_be_kept_is_kept_and_others_stay_recognisable() {
        assert_eq!(name("my-daemon"), "my-daemon");
        assert!(name("my_daemon").starts_with("my-daemon-x"));
        assert!(name("My Daemon").starts_with("my-daemon-x"));
        assert!(name("ü").starts_with("daemon-x"));
        assert!(vm_name("").is_err());
    }

    #[test]
    fn names_that_others_would_make_one_stay_two() {
        let alike = ["a b", "a_b", "a-b", "A-B", "a--b", "-a-b", "a-b-"];
        let made: std::collections::BTreeSet<String> = alike.iter().map(|daemon| name(daemon)).collect();
        assert_eq!(made.len(), alike.len(), "{made:?}");
        let copied = name("a_b");
        assert_ne!(name(&copied), copied, "a made name is not free to be taken");
    }

    proptest! {
        #[test]
        fn every_name_gets_a_good_one_and_the_same_each_time(daemon in ".{1,200}") {
            prop_assert_eq!(name(&daemon), name(&daemon));
        }
    }
}
