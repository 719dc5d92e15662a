//! The entries of a tar archive: written as POSIX.1-2001 has them (pax), read also as GNU tar writes them. Every number and
//! length of a header is a claim.

use crate::error::CopyError;
use std::io::{self, Read, Write};

/// The length of a block: headers and contents begin at multiples of it.
pub(crate) const BLOCK: usize = 512;

/// The longest path and link of an entry (PATH_MAX of Linux).
const PATH_CAP: usize = 4096;

/// The bytes of the extended headers of one entry. Any number of them may follow each other.
const EXTENDED_CAP: u64 = 1 << 20;

/// The largest number in a field of 8 bytes and of 12 bytes, in octal digits.
const SMALL_MAX: u64 = 0o7_777_777;
const LARGE_MAX: u64 = 0o77_777_777_777;

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    /// A device, a FIFO, or what this reader does not know.
    Other,
}

/// An entry; the content of a file follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The time of the last change, in seconds since the Unix epoch.
    pub(crate) mtime: i64,
    /// The length of the content.
    pub(crate) size: u64,
    /// The target of a link.
    pub(crate) link: Vec<u8>,
}

/// Returns the bytes that fill the last block of a content.
pub(crate) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

impl Entry {
    /// Writes the header.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut extended = Vec::new();
        let mut fits = |key: &str, value: &[u8], fits: bool| {
            if !fits {
                record(&mut extended, key, value);
            }
            fits
        };
        fits("path", &self.path, self.path.len() <= 100);
        fits("linkpath", &self.link, self.link.len() <= 100);
        let mut number = |key: &str, value: u64, max: u64| {
            if fits(key, value.to_string().as_bytes(), value <= max) { value } else { 0 }
        };
        let (size, uid) = (number("size", self.size, LARGE_MAX), number("uid", self.uid.into(), SMALL_MAX));
        let gid = number("gid", self.gid.into(), SMALL_MAX);
        let mtime = match u64::try_from(self.mtime).ok().filter(|mtime| *mtime <= LARGE_MAX) {
            Some(mtime) => mtime,
            None => {
                fits("mtime", self.mtime.to_string().as_bytes(), false);
                0
            }
        };
        if !extended.is_empty() {
            let length = extended.len() as u64;
            to.write_all(&header(b"pax", b'x', 0o644, [0, 0, length, 0], &[]))?;
            extended.resize(extended.len() + usize::try_from(padding(length)).unwrap_or(0), 0);
            to.write_all(&extended)?;
        }
        let kind = match self.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::Directory => b'5',
            Kind::Other => return Err(io::ErrorKind::Unsupported.into()),
        };
        to.write_all(&header(&self.path, kind, self.mode, [uid, gid, size, mtime], &self.link))
    }
}

/// Appends a record of an extended header: its own length, a key and a value.
fn record(to: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    to.extend_from_slice(format!("{length} {key}=").as_bytes());
    to.extend_from_slice(value);
    to.push(b'\n');
}

/// Returns a header block. What is too long is cut short, and stands in an extended header.
fn header(path: &[u8], kind: u8, mode: u32, numbers: [u64; 4], link: &[u8]) -> [u8; BLOCK] {
    let [uid, gid, size, mtime] = numbers;
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &path[..path.len().min(100)]);
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, format!("{uid:07o}\0").as_bytes());
    put(116, format!("{gid:07o}\0").as_bytes());
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{mtime:011o}\0").as_bytes());
    // The sum counts its own field as blanks.
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &link[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// What extended headers say of the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<i64>,
    is_sparse: bool,
}

/// Reads the next header; `None` at the end of the archive. The content of an entry has to be read before.
pub(crate) fn read(from: &mut impl Read) -> Result<Option<Entry>, CopyError> {
    let mut extended = Extended::default();
    let mut room = EXTENDED_CAP;
    loop {
        let mut block = [0; BLOCK];
        exactly(from, &mut block)?;
        if block == [0; BLOCK] {
            return Ok(None);
        }
        let field = |at: usize, length: usize| &block[at..at + length];
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| match at {
                148..156 => u64::from(b' '),
                _ => u64::from(*byte),
            })
            .sum();
        if number(field(148, 8)) != Some(sum) {
            return Err(CopyError::Archive("a header has a wrong sum"));
        }
        let size = number(field(124, 12)).ok_or(CopyError::Archive("a length is no number"))?;
        match block[156] {
            b'x' => extended.read(&content(from, size, &mut room)?)?,
            b'g' => drop(content(from, size, &mut room)?),
            b'L' => extended.path = Some(until_zero(&content(from, size, &mut room)?).to_vec()),
            b'K' => extended.link = Some(until_zero(&content(from, size, &mut room)?).to_vec()),
            kind => {
                let path = extended.path.take().unwrap_or_else(|| {
                    let (name, prefix) = (until_zero(field(0, 100)), until_zero(field(345, 155)));
                    match field(257, 6) == b"ustar\0" && !prefix.is_empty() {
                        true => [prefix, b"/", name].concat(),
                        false => name.to_vec(),
                    }
                });
                let link = extended.link.take().unwrap_or_else(|| until_zero(field(157, 100)).to_vec());
                if path.len() > PATH_CAP || link.len() > PATH_CAP {
                    return Err(CopyError::Archive("a path is too long"));
                }
                let kind = match kind {
                    _ if extended.is_sparse => return Err(CopyError::Archive("it has files with holes")),
                    b'S' => return Err(CopyError::Archive("it has files with holes")),
                    b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
                    b'0' | b'7' | 0 => Kind::File,
                    b'1' => Kind::HardLink,
                    b'2' => Kind::Symlink,
                    b'5' => Kind::Directory,
                    _ => Kind::Other,
                };
                let id = |field: &[u8]| number(field).and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
                let size = extended.size.unwrap_or(size);
                return Ok(Some(Entry {
                    kind,
                    mode: id(field(100, 8)) & 0o7777,
                    uid: extended.uid.unwrap_or_else(|| id(field(108, 8))),
                    gid: extended.gid.unwrap_or_else(|| id(field(116, 8))),
                    mtime: extended.mtime.unwrap_or_else(|| {
                        number(field(136, 12)).and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0)
                    }),
                    // Some writers give links the length of their targets, and no content.
                    size: if matches!(kind, Kind::Symlink | Kind::HardLink | Kind::Directory) {
                        0
                    } else {
                        size
                    },
                    path,
                    link,
                }));
            }
        }
    }
}

impl Extended {
    /// Reads the records of an extended header.
    fn read(&mut self, mut bytes: &[u8]) -> Result<(), CopyError> {
        let bad = || CopyError::Archive("an extended header has a record that is none");
        while !bytes.is_empty() {
            let blank = bytes.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let length: usize = text(&bytes[..blank]).ok_or_else(bad)?;
            let record =
                bytes.get(blank + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(bad)?;
            bytes = &bytes[length..];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(text(value).ok_or_else(bad)?),
                b"uid" => self.uid = text(value),
                b"gid" => self.gid = text(value),
                b"mtime" => self.mtime = text(value.split(|byte| *byte == b'.').next().unwrap_or_default()),
                key => self.is_sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
        Ok(())
    }
}

fn text<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Fills a buffer. A stream that ends before is cut short.
pub(crate) fn exactly(from: &mut impl Read, buffer: &mut [u8]) -> Result<(), CopyError> {
    from.read_exact(buffer).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => CopyError::CutShort,
        _ => CopyError::Stream(e),
    })
}

/// Reads the content of an extended header, and what fills its last block. They and the header itself take up room, so that a
/// row of headers comes to an end.
fn content(from: &mut impl Read, size: u64, room: &mut u64) -> Result<Vec<u8>, CopyError> {
    let taken = size.checked_add(padding(size)).and_then(|whole| whole.checked_add(BLOCK as u64));
    let left = taken.and_then(|taken| room.checked_sub(taken));
    *room = left.ok_or(CopyError::Archive("an entry has extended headers of more than 1 MiB"))?;
    let whole =
        usize::try_from(size + padding(size)).map_err(|_| CopyError::Archive("a length is too large"))?;
    let mut bytes = vec![0; whole];
    exactly(from, &mut bytes)?;
    bytes.truncate(usize::try_from(size).unwrap_or(0));
    Ok(bytes)
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads a number: octal digits, or with the highest bit set the bytes of the number itself.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((first, rest)) = field.split_first().filter(|(first, _)| **first & 0x80 != 0) {
        let bytes = [&[first & 0x7f], rest].concat();
        // A negative number has the next bit set, too, and is of no use here.
        return bytes.iter().try_fold(0_u64, |sum, byte| sum.checked_mul(256)?.checked_add((*byte).into()));
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches(|c| c == ' ' || c == '\0');
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::File), Just(Kind::Directory), Just(Kind::Symlink), Just(Kind::HardLink)]
    }

    /// A sender that never comes to an entry.
    struct Endless {
        block: Vec<u8>,
        read: usize,
    }

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            for byte in &mut *buffer {
                *byte = self.block[self.read % self.block.len()];
                self.read += 1;
            }
            assert!(self.read < 16 << 20, "the reader believes that this ends");
            Ok(buffer.len())
        }
    }

    #[test]
    fn a_row_of_extended_headers_without_an_end_is_refused() {
        for kind in *b"xgLK" {
            for content in [&b""[..], b"13 path=name\n"] {
                let mut block = header(b"", kind, 0, [0, 0, content.len() as u64, 0], b"").to_vec();
                block.extend_from_slice(content);
                block.resize(block.len().next_multiple_of(BLOCK), 0);
                let refused = read(&mut Endless { block, read: 0 });
                assert!(matches!(refused, Err(CopyError::Archive(_))), "{refused:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            path in proptest::collection::vec(1_u8.., 1..300), link in proptest::collection::vec(1_u8.., 0..300),
            kind in kinds(), mode in 0_u32..0o10000, uid: u32, gid: u32, mtime: i64, size: u64,
        ) {
            prop_assume!(!path.ends_with(b"/"));
            let size = if kind == Kind::File { size } else { 0 };
            let entry = Entry { path, kind, mode, uid, gid, mtime, size, link };
            let mut bytes = Vec::new();
            entry.write(&mut bytes).expect("written");
            prop_assert_eq!(bytes.len() % BLOCK, 0);
            prop_assert_eq!(read(&mut &bytes[..]).expect("an entry"), Some(entry));
        }

        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..1600), kind in any::<u8>(), is_header: bool) {
            if is_header && bytes.len() > BLOCK {
                bytes[156] = kind;
                bytes[124..136].copy_from_slice(b"00000000700\0");
                bytes[148..156].copy_from_slice(b"        ");
                let sum: u32 = bytes[..BLOCK].iter().map(|byte| u32::from(*byte)).sum();
                bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let mut from = &bytes[..];
            while let Ok(Some(_)) = read(&mut from) {}
        }
    }
}
