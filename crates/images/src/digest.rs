//! Digests of contents: SHA-256, as registries name blobs.

use crate::error::{Result, bad, shown};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::Read;

/// The digest of some bytes: `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Reads the text of a digest.
    ///
    /// # Errors
    /// When it is of another form. Only SHA-256 is known, the algorithm that every registry uses.
    pub fn parse(text: &str) -> Result<Self> {
        let is_hex =
            |hex: &str| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match text.strip_prefix("sha256:") {
            Some(hex) if is_hex(hex) => Ok(Self(hex.to_owned())),
            Some(_) | None => Err(bad(format!("{:?} is no SHA-256 digest", shown(text)))),
        }
    }

    /// Returns the digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = Hash::default();
        hash.update(bytes);
        hash.finish()
    }

    /// Returns the hexadecimal digits, which can be the name of a file.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        Self::parse(&text).map_err(|e| e.message)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// A digest that is being computed.
#[derive(Debug, Clone, Default)]
pub struct Hash(Sha256);

impl Hash {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all bytes.
    pub fn finish(self) -> Digest {
        let hex = self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Digest(hex)
    }
}

/// A reader that computes the digest of what is read, and counts it.
#[derive(Debug)]
pub struct Hashing<R> {
    inner: R,
    hash: Hash,
    read: u64,
}

impl<R: Read> Hashing<R> {
    /// Wraps a reader.
    pub fn new(inner: R) -> Self {
        Self { inner, hash: Hash::default(), read: 0 }
    }

    /// Reads what is left, and returns the digest and the number of bytes.
    ///
    /// # Errors
    /// When reading fails.
    pub fn finish(mut self) -> std::io::Result<(Digest, u64)> {
        std::io::copy(&mut self, &mut std::io::sink())?;
        Ok((self.hash.finish(), self.read))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.read += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_digits_of_sha256_are_a_digest_and_no_path_is() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(Digest::parse(empty).expect("a digest"), Digest::of(b""));
        let path = format!("sha256:../../{}", "a".repeat(58));
        for text in ["", "sha256:", "sha512:00", &path, &empty.to_uppercase(), &empty[..70]] {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
    }
}
