//! The result of reading stored state: absent, unreadable, or the value.
//!
//! A file that cannot be read is different from an absent file: the VM that the file describes may still run. Readers
//! therefore distinguish the two cases, and no program destroys a VM because of an unreadable file (semantics 9).

use serde::de::DeserializeOwned;
use std::io;
use std::path::Path;

/// The result of reading a file of stored state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored<T> {
    /// The file does not exist.
    Absent,
    /// The file exists and cannot be read. The sentence names the file and the reason.
    Unreadable(String),
    /// The value that the file holds.
    Read(T),
}

impl<T> Stored<T> {
    /// Returns the value, if it was read. Only for callers that treat absent and unreadable files alike.
    pub fn ok(self) -> Option<T> {
        match self {
            Self::Read(value) => Some(value),
            Self::Absent | Self::Unreadable(_) => None,
        }
    }

    /// Applies `f` to the value, if it was read.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Stored<U> {
        match self {
            Self::Read(value) => Stored::Read(f(value)),
            Self::Absent => Stored::Absent,
            Self::Unreadable(why) => Stored::Unreadable(why),
        }
    }
}

impl<T: DeserializeOwned> Stored<T> {
    /// Parses the contents of a file, given the result of reading it. The sentence of [`Stored::Unreadable`] names
    /// `path`.
    pub fn of_json(path: &Path, read: io::Result<Vec<u8>>) -> Self {
        match read {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::Absent,
            Err(e) => Self::Unreadable(format!("{}: {e}", path.display())),
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(value) => Self::Read(value),
                Err(e) => Self::Unreadable(format!("{}: {e}", path.display())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_file_is_not_an_absent_one() {
        let path = Path::new("vms/a.json");
        let read = |bytes: io::Result<Vec<u8>>| Stored::<u32>::of_json(path, bytes);
        assert_eq!(read(Err(io::ErrorKind::NotFound.into())), Stored::Absent);
        assert_eq!(read(Ok(b"7".to_vec())), Stored::Read(7));
        for bytes in [Ok(b"{\"a".to_vec()), Ok(Vec::new()), Err(io::ErrorKind::PermissionDenied.into())] {
            let Stored::Unreadable(why) = read(bytes) else { panic!("unreadable") };
            assert!(why.starts_with("vms/a.json: "), "{why}");
        }
    }
}
