//! Names and numbers that are checked when they are made.

use pepita_wire::VmId;
use std::fmt;
use std::str::FromStr;

/// The prefix of every VM id of this project; clients of the adapter know it.
const PREFIX: &str = "duende-vm-";

/// The text between the name of a VM and the number of its spare.
const SPARE: &str = "-spare-";

/// A VM's name in the configuration. Its [`VmId`] is `duende-vm-<name>`, so that a name has at most 53 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VmName(VmId);

/// A group's name: the same characters as a VM's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(VmId);

/// A name that breaks the rule of names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "name {name:?} is not allowed: use 1 to {cap} of a-z, 0-9 and '-', with a letter or digit at both ends"
)]
pub struct InvalidName {
    /// The name as it was given.
    pub name: String,
    /// The most bytes that such a name may have.
    pub cap: usize,
}

impl VmName {
    /// The most bytes a name may have.
    pub const CAP: usize = pepita_wire::name::NAME_CAP - PREFIX.len();

    /// Returns the name, if it is allowed.
    ///
    /// # Errors
    /// Returns an error when the name breaks the rule that the error states.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName { name: name.to_owned(), cap: Self::CAP };
        VmId::new(name).map_err(|_| invalid())?;
        VmId::new(&format!("{PREFIX}{name}")).map(Self).map_err(|_| invalid())
    }

    /// Returns the name of a VM from its id; `None` for the id of a foreign VM.
    pub fn from_id(id: &str) -> Option<Self> {
        Self::new(id.strip_prefix(PREFIX)?).ok()
    }

    /// Returns the name as it is written in the configuration.
    pub fn as_str(&self) -> &str {
        &self.0.as_str()[PREFIX.len()..]
    }

    /// Returns the name of the warm spare of the VM in this slot; `None` when it would be too long.
    pub fn spare(&self, slot: u32) -> Option<Self> {
        Self::new(&format!("{self}{SPARE}{slot}")).ok()
    }

    /// Returns the launcher's name for the VM: `duende-vm-<name>`.
    pub fn id(&self) -> &VmId {
        &self.0
    }
}

impl GroupName {
    /// Returns the name, if it is allowed.
    ///
    /// # Errors
    /// Returns an error when the name breaks the rule that the error states.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let invalid = |_| InvalidName { name: name.to_owned(), cap: pepita_wire::name::NAME_CAP };
        VmId::new(name).map(Self).map_err(invalid)
    }

    /// Returns the name as it is written in the configuration.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for VmName {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

impl FromStr for GroupName {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

/// A guest's vsock address. 0, 1 and 2 (hypervisor, loopback, host) and `u32::MAX` (any) are reserved: vsock(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cid(u32);

/// A CID that no guest can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("CID {0} is reserved: a guest's is between 3 and 4294967294 (vsock(7))")]
pub struct InvalidCid(pub u32);

impl Cid {
    /// The lowest CID that a guest may have.
    pub const FIRST: Self = Self(3);

    /// Returns the CID, if a guest may have it.
    ///
    /// # Errors
    /// Returns an error when the CID is reserved.
    pub fn new(cid: u32) -> Result<Self, InvalidCid> {
        if (3..u32::MAX).contains(&cid) { Ok(Self(cid)) } else { Err(InvalidCid(cid)) }
    }

    /// Returns the CID as a number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A vsock port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Port(pub u32);

impl Port {
    /// The port of a guest agent for which no other port is configured.
    pub const DEFAULT: Self = Self(pepita_wire::DEFAULT_PORT);
}

/// The number of a start of a VM, which only grows, also across restarts of the supervisor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// Returns the next incarnation.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_its_id_lead_to_each_other() {
        let name = VmName::new("api").expect("good");
        assert_eq!((name.as_str(), name.id().as_str()), ("api", "duende-vm-api"));
        assert_eq!(VmName::from_id("duende-vm-api").as_ref(), Some(&name));
        assert_eq!(VmName::from_id("somebody-elses"), None);
        assert!(VmName::new(&"a".repeat(53)).is_ok());
        assert!(VmName::new(&"a".repeat(54)).is_err());
        assert!(VmName::new("-a").is_err());
        assert_eq!(name.spare(2).expect("short").as_str(), "api-spare-2");
        assert_eq!(VmName::new(&"a".repeat(50)).expect("good").spare(1), None);
    }

    #[test]
    fn reserved_cids_are_refused() {
        for reserved in [0, 1, 2, u32::MAX] {
            assert_eq!(Cid::new(reserved), Err(InvalidCid(reserved)));
        }
        assert!(Cid::new(3).is_ok() && Cid::new(u32::MAX - 1).is_ok());
    }
}
