//! Reads a layer: a tar archive, perhaps compressed. Its entries go into the tree, the contents of its files into a
//! spool file. Every length is bounded, because a few bytes can claim, or unpack to, any number of bytes.

use crate::digest::{Digest, Hashing};
use crate::error::{Result, bad, io, shown};
use crate::tree::{Kind, Meta, Refusal, Tree};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tar::EntryType;

/// The bytes that a layer may unpack to, whatever its size.
const ALWAYS_CAP: u64 = 1 << 30;

/// The times its size that a larger layer may unpack to. Real layers unpack to 2 to 10 times their size.
const RATIO_CAP: u64 = 100;

/// The bytes that an image may unpack to unless the user allows more.
pub const IMAGE_CAP: u64 = 32 << 30;

/// The bytes that the headers of one entry may have: a long name, extended attributes.
pub(crate) const HEADERS_CAP: u64 = 1 << 20;

/// The most bytes of extended attributes of one file, as ext4 can hold them.
const XATTRS_CAP: usize = 3000;

/// The contents of the files of an image, one after the other.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: BufWriter<File>,
    length: u64,
    cap: u64,
}

impl Spool {
    /// Makes an empty spool in a new file. `cap` is the most bytes that all files of the image may have.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path, cap: u64) -> Result<Self> {
        let file =
            File::options().read(true).write(true).create_new(true).open(path).map_err(|e| io(path, e))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::with_capacity(1 << 16, file), length: 0, cap })
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// When that fails.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| io(&self.path, e))
    }

    /// Returns the number of bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns a reader of a part.
    pub fn read(&self, at: u64, length: u64) -> io::Take<At<'_>> {
        At { file: self.file.get_ref(), at }.take(length)
    }
}

/// A reader of a file from an offset on.
#[derive(Debug)]
pub struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// The way in which a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain archive.
    None,
    /// Gzip, perhaps of several members.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Recognises the compression from the first bytes. Media types are not always right about it.
pub fn compression(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// The bytes that may still be read, counted down by [`Bounded`].
#[derive(Debug, Clone)]
struct Allowance {
    /// Of the whole layer.
    layer: Rc<Cell<u64>>,
    /// Of the headers of the present entry; `u64::MAX` while its contents are read.
    headers: Rc<Cell<u64>>,
    /// Of the contents of all files: a file with holes has more bytes than the archive has of it.
    contents: Rc<Cell<u64>>,
}

impl Allowance {
    /// Returns the allowance of a layer of this size.
    fn of(size: u64) -> Self {
        let cap = ALWAYS_CAP.max(size.saturating_mul(RATIO_CAP));
        let bytes = |number| Rc::new(Cell::new(number));
        Self { layer: bytes(cap), headers: bytes(u64::MAX), contents: bytes(cap) }
    }
}

/// What is said of a layer that is a bomb.
const SWOLLEN: &str = "it unpacks to far more than its own size, more than a layer may";

struct Bounded<R> {
    inner: R,
    left: Allowance,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.left.layer.get().min(self.left.headers.get());
        let most = usize::try_from(room).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.inner.read(&mut buffer[..most])?;
        if most == 0 && !buffer.is_empty() {
            let what = match self.left.layer.get() {
                0 => SWOLLEN,
                _ => "an entry has headers of more than 1 MiB",
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let count = n as u64;
        self.left.layer.set(self.left.layer.get() - count);
        if self.left.headers.get() != u64::MAX {
            self.left.headers.set(self.left.headers.get() - count);
        }
        Ok(n)
    }
}

/// Reads a layer from a file into the tree and the spool. Returns the digest of the uncompressed archive, by which the
/// image's configuration names the layer (its diff ID).
///
/// # Errors
/// When the layer is damaged or refused, or the spool cannot be written.
pub fn apply(tree: &mut Tree, spool: &mut Spool, layer: &Path, shown_as: &str) -> Result<Digest> {
    let mut file = File::open(layer).map_err(|e| io(layer, e))?;
    let size = file.metadata().map_err(|e| io(layer, e))?.len();
    let mut head = Vec::new();
    (&mut file).take(4).read_to_end(&mut head).map_err(|e| io(layer, e))?;
    file.seek(SeekFrom::Start(0)).map_err(|e| io(layer, e))?;
    let file = BufReader::with_capacity(1 << 16, file);
    let reader: Box<dyn Read> = match compression(&head) {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(|e| io(layer, e))?;
            // The largest window of `zstd --ultra`; a larger one is a claim on memory.
            decoder.window_log_max(27).map_err(|e| io(layer, e))?;
            Box::new(decoder)
        }
    };
    let left = Allowance::of(size);
    let mut reader = Hashing::new(Bounded { inner: reader, left: left.clone() });
    tree.next_layer();
    let applied = entries(tree, spool, &mut reader, &left);
    applied.map_err(|why| match why {
        Failed::Bad(why) => bad(format!("layer {shown_as}: {why}")),
        Failed::Write(e) => io(&spool.path, e),
    })?;
    left.headers.set(u64::MAX);
    let (digest, _) = reader.finish().map_err(|e| bad(format!("layer {shown_as}: {e}")))?;
    Ok(digest)
}

enum Failed {
    /// The layer is damaged or refused.
    Bad(String),
    /// The spool cannot be written.
    Write(io::Error),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Bad(refusal.to_string())
    }
}

fn damaged(e: &io::Error) -> Failed {
    Failed::Bad(format!("it cannot be read: {}", shown(&e.to_string())))
}

fn entries(
    tree: &mut Tree,
    spool: &mut Spool,
    reader: &mut impl Read,
    left: &Allowance,
) -> Result<(), Failed> {
    let mut archive = tar::Archive::new(reader);
    let mut entries = archive.entries().map_err(|e| damaged(&e))?;
    loop {
        left.headers.set(HEADERS_CAP);
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry.map_err(|e| damaged(&e))?;
        let path = text("a name", &entry.path_bytes())?;
        let kind = entry.header().entry_type();
        let meta = meta(&mut entry)?;
        left.headers.set(u64::MAX);
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let at = spool.length;
                let claimed = entry.size();
                let rest = left.contents.get().checked_sub(claimed);
                left.contents.set(rest.ok_or_else(|| damaged(&io::Error::other(SWOLLEN)))?);
                let length = copy(&mut entry, claimed, spool, &path)?;
                tree.add(&path, Kind::File { at, length }, meta)?;
            }
            EntryType::Directory => tree.add(&path, Kind::Directory, meta)?,
            EntryType::Symlink => {
                let target = link_target(&entry, &path)?;
                tree.add(&path, Kind::Symlink(target), meta)?;
            }
            EntryType::Link => {
                let target = link_target(&entry, &path)?;
                tree.link(&path, &target)?;
            }
            EntryType::Char | EntryType::Block => {
                let (major, minor) = device(entry.header(), &path)?;
                let of = if kind == EntryType::Char { Kind::CharDevice } else { Kind::BlockDevice };
                tree.add(&path, of(major, minor), meta)?;
            }
            EntryType::Fifo => tree.add(&path, Kind::Pipe, meta)?,
            // Of the whole archive, such as a comment.
            EntryType::XGlobalHeader => {}
            other => return Err(Failed::Bad(format!("{:?} is of the unknown kind {other:?}", shown(&path)))),
        }
        // What is left of the entry is not a part of the next one's headers.
        io::copy(&mut entry, &mut io::sink()).map_err(|e| damaged(&e))?;
    }
}

/// Copies the contents of a file that has at most `claimed` bytes.
fn copy(contents: &mut impl Read, claimed: u64, spool: &mut Spool, path: &str) -> Result<u64, Failed> {
    if claimed > spool.cap.saturating_sub(spool.length) {
        let mib = spool.cap >> 20;
        let why = format!("{:?}: with it the image unpacks to more than {mib} MiB (--max-size)", shown(path));
        return Err(Failed::Bad(why));
    }
    let (mut contents, mut buffer, mut length) = (contents.take(claimed), vec![0; 1 << 16], 0);
    loop {
        let n = contents.read(&mut buffer).map_err(|e| damaged(&e))?;
        if n == 0 {
            return Ok(length);
        }
        length += n as u64;
        spool.length += n as u64;
        spool.file.write_all(&buffer[..n]).map_err(Failed::Write)?;
    }
}

fn text(what: &str, bytes: &[u8]) -> Result<String, Failed> {
    String::from_utf8(bytes.to_vec()).map_err(|e| {
        let lossy = String::from_utf8_lossy(e.as_bytes()).into_owned();
        Failed::Bad(format!("{what} that is not UTF-8: {:?}", shown(&lossy)))
    })
}

fn link_target(entry: &tar::Entry<'_, impl Read>, path: &str) -> Result<String, Failed> {
    let target = entry.link_name_bytes().filter(|target| !target.is_empty() && target.len() < 4096);
    let target = target.ok_or_else(|| Failed::Bad(format!("the link {:?} has no target", shown(path))))?;
    let target = text("the target of a link", &target)?;
    match target.contains('\0') {
        true => Err(Failed::Bad(format!("the target of the link {:?} has a zero byte", shown(path)))),
        false => Ok(target),
    }
}

fn device(header: &tar::Header, path: &str) -> Result<(u32, u32), Failed> {
    let number =
        |read: io::Result<Option<u32>>, most: u32| read.ok().flatten().filter(|number| *number <= most);
    match (number(header.device_major(), 0xfff), number(header.device_minor(), 0xf_ffff)) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        (_, _) => Err(Failed::Bad(format!("the device {:?} has numbers that none has", shown(path)))),
    }
}

/// Reads the properties of an entry. Of the extended attributes those are kept that a container's file system gets:
/// `user.*` and `security.capability`.
fn meta(entry: &mut tar::Entry<'_, impl Read>) -> Result<Meta, Failed> {
    let header = entry.header();
    let id = |read: io::Result<u64>| read.ok().and_then(|id| u32::try_from(id).ok());
    let (mut uid, mut gid) = (id(header.uid()), id(header.gid()));
    let mode = header.mode().map_err(|e| damaged(&e))?;
    let mut mtime = header.mtime().unwrap_or(0);
    let mut xattrs = BTreeMap::new();
    if let Some(extensions) = entry.pax_extensions().map_err(|e| damaged(&e))? {
        for extension in extensions {
            let extension = extension.map_err(|e| damaged(&e))?;
            let Ok(key) = extension.key() else { continue };
            let number =
                || extension.value().ok().and_then(|value| value.split('.').next()?.parse::<u64>().ok());
            let small = || number().and_then(|id| u32::try_from(id).ok());
            match key {
                "uid" => uid = small(),
                "gid" => gid = small(),
                "mtime" => mtime = number().unwrap_or(0),
                _ => {
                    let name = key.strip_prefix("SCHILY.xattr.").filter(|name| {
                        name.starts_with("user.") && name.len() > 5 || *name == "security.capability"
                    });
                    if let Some(name) = name {
                        xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
                    }
                }
            }
        }
    }
    let path = || shown(&String::from_utf8_lossy(&entry.path_bytes()));
    let (Some(uid), Some(gid)) = (uid, gid) else {
        return Err(Failed::Bad(format!("{:?} has an owner that no file has", path())));
    };
    if xattrs.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() > XATTRS_CAP {
        return Err(Failed::Bad(format!("{:?} has more extended attributes than a file may have", path())));
    }
    let mode = u16::try_from(mode & 0o7777).unwrap_or_default();
    Ok(Meta { mode, uid, gid, mtime: mtime.min(u64::from(u32::MAX)), xattrs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_may_unpack_to_a_gibibyte_or_to_a_hundred_times_its_size() {
        let cap = |size| Allowance::of(size).layer.get();
        assert_eq!((cap(0), cap(1 << 20)), (1 << 30, 1 << 30));
        assert_eq!((cap(1 << 30), cap(u64::MAX)), (100 << 30, u64::MAX));
        let left = Allowance { layer: Rc::new(Cell::new(10)), ..Allowance::of(0) };
        let mut read = Vec::new();
        let e = Bounded { inner: io::repeat(0), left }.read_to_end(&mut read).expect_err("too much");
        assert_eq!((read.len(), e.kind()), (10, io::ErrorKind::InvalidData));
    }

    /// Returns a layer with one file that consists of a hole of this length.
    fn hole(length: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_path("hole").expect("short");
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        let gnu = header.as_gnu_mut().expect("a header of GNU");
        gnu.realsize.copy_from_slice(format!("{length:011o}\0").as_bytes());
        gnu.sparse[0].offset.copy_from_slice(&gnu.realsize);
        gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
        header.set_cksum();
        [header.as_bytes(), &[0; 1024][..]].concat()
    }

    #[test]
    fn a_hole_counts_as_the_bytes_that_it_stands_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let apply = |name: &str, length| {
            let layer = dir.path().join(name);
            std::fs::write(&layer, hole(length)).expect("written");
            let mut spool =
                Spool::create(&dir.path().join(format!("{name}.spool")), IMAGE_CAP).expect("made");
            let applied = super::apply(&mut Tree::default(), &mut spool, &layer, name);
            (applied.map(|_| ()).map_err(|e| e.message), spool.length())
        };
        assert_eq!(apply("small", 70_000), (Ok(()), 70_000));
        let (refused, length) = apply("large", 4 << 30);
        assert!(refused.expect_err("refused").contains(SWOLLEN));
        assert_eq!(length, 0, "nothing of it is written");
    }
}
