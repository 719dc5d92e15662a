//! The rule for the names of VMs. All programs use the same rule, so that no name can be read as an option or lead out
//! of a directory.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The longest name, in bytes (a DNS label's limit).
pub const NAME_CAP: usize = 63;

/// The name of a VM as the launcher knows it: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`, a DNS label (RFC 1123).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmId(String);

/// The reason why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("a VM's name is empty; use 1 to 63 of a-z, 0-9 and '-'")]
    Empty,
    /// The name is longer than [`NAME_CAP`]; holds its length in bytes.
    #[error("VM name of {0} bytes is too long; at most 63")]
    TooLong(usize),
    /// The name contains a character that is not allowed.
    #[error("VM name {name:?} has {bad:?}; only a-z, 0-9 and '-' inside")]
    Character {
        /// The refused name.
        name: String,
        /// The first character that is not allowed.
        bad: char,
    },
    /// The name begins or ends with a hyphen.
    #[error("VM name {0:?} begins or ends with '-'; begin and end with a-z or 0-9")]
    Hyphen(String),
}

impl VmId {
    /// Checks a name against the rule.
    ///
    /// # Errors
    /// Says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > NAME_CAP {
            return Err(NameError::TooLong(name.len()));
        }
        if let Some(bad) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            return Err(NameError::Character { name: name.to_owned(), bad });
        }
        if name.starts_with('-') || name.ends_with('-') {
            return Err(NameError::Hyphen(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VmId {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

impl TryFrom<String> for VmId {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        Self::new(&s)
    }
}

impl From<VmId> for String {
    fn from(id: VmId) -> Self {
        id.0
    }
}

impl AsRef<str> for VmId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_pass() {
        for name in ["a", "7", "duende-vm-api", "a-b", &"a".repeat(63)] {
            assert_eq!(VmId::new(name).map(|id| id.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn bad_names_say_why() {
        for (name, word) in [
            ("", "empty"),
            ("../x", "'.'"),
            ("-rf", "begins"),
            ("a-", "ends"),
            ("A", "'A'"),
            ("ü", "'ü'"),
            ("a b", "' '"),
            ("a/b", "'/'"),
            (&"a".repeat(200) as &str, "too long"),
        ] {
            let error = VmId::new(name).expect_err(name).to_string();
            assert!(error.contains(word), "{name:?}: {error}");
        }
    }
}
