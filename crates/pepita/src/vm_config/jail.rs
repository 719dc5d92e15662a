//! The jail that a VM's processes are to have, and the users that they become.

use pepita_jail::{Level, User};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The jail of a VM's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// How much of it there has to be.
    pub level: Level,
    /// The user ids of which the VM gets two. `None` for an ordinary user, who cannot become another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uids: Option<Uids>,
}

/// A range of user ids that belong to nobody. The group ids are the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uids {
    /// The first user id.
    pub first: u32,
    /// The last user id.
    pub last: u32,
}

impl Uids {
    /// The range for which nobody has said another one: above what `/etc/subuid` usually gives to users.
    pub const USUAL: Self = Self { first: 700_000, last: 765_535 };

    /// Returns the first user id of each VM that can have two.
    pub fn pairs(self) -> impl Iterator<Item = u32> {
        (self.first..self.last).step_by(2)
    }
}

impl std::str::FromStr for Uids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match numbers {
            // The highest number means no user (setuid(2)).
            Some((first, last)) if 0 < first && first < last && last < u32::MAX => Ok(Self { first, last }),
            Some(_) | None => {
                Err(format!("{text:?} is no range of two or more user ids, such as {}", Self::USUAL))
            }
        }
    }
}

impl TryFrom<String> for Uids {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Uids> for String {
    fn from(uids: Uids) -> Self {
        uids.to_string()
    }
}

impl fmt::Display for Uids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The users that the processes of a VM become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Users {
    /// The user of the VMM.
    pub vmm: User,
    /// The user of the vsock back-end.
    pub backend: User,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm_config::tests::{claimed, request};
    use crate::vm_config::{VmConfig, VmRequest};

    #[test]
    fn a_range_of_user_ids_has_two_for_each_vm_and_never_root() {
        let uids: Uids = "700-704".parse().expect("a range");
        assert_eq!(uids.pairs().collect::<Vec<_>>(), [700, 702]);
        for text in ["0-9", "9", "9-9", "9-8", "1-4294967295", "x-y", ""] {
            assert!(text.parse::<Uids>().is_err(), "{text}");
        }
        let jail = Jail { level: Level::Full, uids: Some(uids) };
        let config =
            VmConfig { first_uid: Some(702), ..claimed(VmRequest { jail: Some(jail), ..request() }) };
        let text = serde_json::to_string(&config).expect("a configuration becomes JSON");
        assert_eq!(serde_json::from_str::<VmConfig>(&text).expect("readable"), config);
        assert_eq!(config.users().map(|users| (users.vmm.uid, users.backend.gid)), Some((702, 703)));
    }
}
