//! Reads a tree of files into an archive. The tree may be hostile, or change meanwhile: no link is followed, and no
//! name leads out of it.

use super::cpio::{Archive, Entry, Kind};
use crate::error::{Result, call_error, io};
use crate::image::kernel;
use pepita_wire::record::CallErrorKind;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The most bytes that the files of an archive may have in all. An initramfs is in the memory of its guest.
const SIZE_CAP: u64 = u32::MAX as u64;

/// The longest path that the kernel unpacks, in bytes (PATH_MAX, less the zero byte).
const PATH_MAX: usize = 4095;

/// Adds everything in the directory `tree` to an archive, except the file that is `skip`. Returns what was left out,
/// one sentence each.
///
/// # Errors
/// When a directory or file cannot be read, or cannot be in an archive.
pub(super) fn add_tree(archive: &mut Archive, tree: &Path, skip: Option<FileId>) -> Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = openat(CWD, tree, flags, Mode::empty())
        .map_err(|e| kernel::missing("directory", tree, &std::io::Error::from(e)))?;
    let mut scan = Scan { tree, top, skip, size: 0, files: BTreeMap::new(), notes: Vec::new() };
    let mut left: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(dir) = left.pop() {
        scan.directory(archive, &dir, &mut left)?;
    }
    Ok(scan.notes)
}

/// The identity of a file: its device and its inode.
pub(super) type FileId = (u64, u64);

/// Returns the identity of the file at `path`, if there is one.
pub(super) fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    path.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

struct Scan<'a> {
    tree: &'a Path,
    top: OwnedFd,
    skip: Option<FileId>,
    /// The bytes of the files so far.
    size: u64,
    /// The contents of the files that have several names.
    files: BTreeMap<FileId, Rc<[u8]>>,
    notes: Vec<String>,
}

impl Scan<'_> {
    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let name: &[u8] = if path.is_empty() { b"." } else { path };
        // Each path is opened from the top, so that a deep tree needs few descriptors.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(&self.top, name, flags, Mode::empty(), resolve).map_err(|e| self.error(path, e))
    }

    fn error(&self, path: &[u8], error: Errno) -> crate::error::CallError {
        io(&self.shown(path), error)
    }

    fn shown(&self, path: &[u8]) -> PathBuf {
        self.tree.join(OsStr::from_bytes(path))
    }

    fn bad(&self, path: &[u8], why: &str) -> crate::error::CallError {
        call_error(CallErrorKind::BadImage, format!("{}: {why}", self.shown(path).display()))
    }

    /// Adds what is in one directory, and notes the directories in it.
    fn directory(&mut self, archive: &mut Archive, dir: &[u8], left: &mut Vec<Vec<u8>>) -> Result<()> {
        let fd = self.open(dir, OFlags::DIRECTORY)?;
        let entries = Dir::read_from(&fd).map_err(|e| self.error(dir, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| self.error(dir, e))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let path = if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() };
            if path.len() > PATH_MAX {
                return Err(self.bad(dir, "a path in it is too long for an initramfs; build an .ext4"));
            }
            let stat = match statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // The file was removed meanwhile.
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(self.error(&path, e)),
            };
            let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    left.push(path.clone());
                    Kind::Directory
                }
                FileType::RegularFile => match self.file(&path)? {
                    Some(contents) => Kind::File(contents),
                    None => continue,
                },
                FileType::Symlink => {
                    let target = readlinkat(&fd, name, Vec::new()).map_err(|e| self.error(&path, e))?;
                    Kind::Link(target.into_bytes())
                }
                FileType::CharacterDevice => Kind::CharDevice(major, minor),
                FileType::BlockDevice => Kind::BlockDevice(major, minor),
                FileType::Fifo => Kind::Pipe,
                FileType::Socket | FileType::Unknown => {
                    self.notes.push(format!("{} is left out: it is a socket", self.shown(&path).display()));
                    continue;
                }
            };
            archive
                .add(path, Entry { kind, mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid });
        }
        Ok(())
    }

    /// Returns the contents of a file; `None` for the file that is to be left out.
    fn file(&mut self, path: &[u8]) -> Result<Option<Rc<[u8]>>> {
        // Opening a pipe that has taken the file's place must not wait.
        let fd = self.open(path, OFlags::NONBLOCK)?;
        let stat = fstat(&fd).map_err(|e| self.error(path, e))?;
        let id: FileId = (stat.st_dev, stat.st_ino);
        if self.skip == Some(id) {
            self.notes.push(format!("{} is left out: it is the output", self.shown(path).display()));
            return Ok(None);
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.bad(path, "it was replaced while it was being read"));
        }
        if let Some(contents) = self.files.get(&id) {
            return Ok(Some(Rc::clone(contents)));
        }
        let mut contents = Vec::new();
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        // The file may grow meanwhile, and a sparse file may claim any size.
        if size <= SIZE_CAP - self.size {
            let room = SIZE_CAP - self.size + 1;
            File::from(fd).take(room).read_to_end(&mut contents).map_err(|e| io(&self.shown(path), e))?;
        }
        self.size += size.max(contents.len() as u64);
        if self.size > SIZE_CAP {
            return Err(
                self.bad(path, "with it the tree is too large for an initramfs (4 GiB); build an .ext4")
            );
        }
        let contents: Rc<[u8]> = contents.into();
        if stat.st_nlink > 1 {
            self.files.insert(id, Rc::clone(&contents));
        }
        Ok(Some(contents))
    }
}
