//! What a reader of stored state answers: absent, unreadable, or the value.
//!
//! A file that cannot be read is not a file that is absent: whatever it describes may still run. So a reader says which
//! of the two it met, and no program destroys a VM because of an unreadable file (semantics 9).

use serde::de::DeserializeOwned;
use std::io;
use std::path::Path;

/// The answer of a reader of stored state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored<T> {
    /// There is no such file.
    Absent,
    /// There is a file, and this is why it cannot be read; the sentence names the file.
    Unreadable(String),
    /// The value that the file holds.
    Read(T),
}

impl<T> Stored<T> {
    /// Returns the value, if there was one to read. Only for callers that treat absent and unreadable alike.
    pub fn ok(self) -> Option<T> {
        match self {
            Self::Read(value) => Some(value),
            Self::Absent | Self::Unreadable(_) => None,
        }
    }

    /// Applies `f` to the value, if there was one to read.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Stored<U> {
        match self {
            Self::Read(value) => Stored::Read(f(value)),
            Self::Absent => Stored::Absent,
            Self::Unreadable(why) => Stored::Unreadable(why),
        }
    }
}

impl<T: DeserializeOwned> Stored<T> {
    /// Makes a value of what reading a file came to. `path` is named in the sentence when that fails.
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
