//! The jail that a VM's processes are to have, and the users that they become.

use pepita_jail::{Level, User};
use pepita_wire::launch::Uids;
use serde::{Deserialize, Serialize};

/// The jail of a VM's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// How much of it there has to be.
    pub level: Level,
    /// The user ids of which the VM gets two. `None` for an ordinary user, who cannot become another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uids: Option<Uids>,
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
    fn the_two_users_of_a_vm_are_read_back_from_its_file() {
        let jail = Jail { level: Level::Full, uids: Some(Uids::USUAL) };
        let config =
            VmConfig { first_uid: Some(702), ..claimed(VmRequest { jail: Some(jail), ..request() }) };
        let text = serde_json::to_string(&config).expect("a configuration becomes JSON");
        assert_eq!(serde_json::from_str::<VmConfig>(&text).expect("readable"), config);
        assert_eq!(config.users().map(|users| (users.vmm.uid, users.backend.gid)), Some((702, 703)));
    }
}
