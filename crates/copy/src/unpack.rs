//! Makes files and directories of an archive, below one open directory. No name of the archive leads out of it: each part
//! of a name is opened in the directory before it, and a link is never followed.

use crate::entry::{self, Entry, Kind, padding};
use crate::error::{CopyError, Report};
use crate::place::{Base, named, stays_within};
use pepita_wire::text::shown;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawMode, Timespec, Timestamps, UTIME_OMIT, chownat, fchmod, fchown,
    futimens, linkat, mkdirat, openat, renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The number of entries of an archive.
const ENTRIES: u64 = 2_000_000;

/// The bytes of the names of new directories, which are remembered until their contents are complete.
const NAMES_CAP: usize = 64 << 20;

/// The size of one read.
const READ: usize = 64 * 1024;

/// The bytes behind the archive that are read, so that its writer can end (tar fills up its last record).
const REST_CAP: u64 = 1 << 20;

/// The bits of a mode that change what a program may do (set-user-ID and set-group-ID).
const SET_ID: u32 = 0o6000;

/// Who owns what is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The user of this process.
    Own,
    /// The owner in the archive, by number.
    Kept,
}

/// Who has sent the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Somebody who may do all that this process may.
    Trusted,
    /// A guest. Links that lead out of the target are left out, and files lose set-user-ID and set-group-ID.
    Hostile {
        /// The sum of the lengths of all files, in bytes.
        max_bytes: u64,
    },
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct Unpacking<'a> {
    /// The place: a directory, into which the archive goes; else the new name of its only file or directory (cp(1),
    /// docker cp).
    pub place: &'a Path,
    /// Whether the place has to be a directory.
    pub into_directory: bool,
    /// Who owns what is made.
    pub owner: Owner,
    /// Who has sent the archive.
    pub sender: Sender,
}

/// Unpacks an archive. A file that is there is replaced as a whole, and a directory that is there is filled up and otherwise
/// left as it is.
///
/// # Errors
/// When the place does not fit, the archive cannot be read, is too large or has names that lead out of the place, or
/// something cannot be written. What was made before stays.
pub fn unpack(unpacking: &Unpacking<'_>, from: &mut impl Read) -> Result<Report, CopyError> {
    let first = entry::read(from)?;
    let Some(first) = first else {
        // An archive without an entry fits a directory.
        return match unpacking.place.is_dir() {
            true => Ok(Report::default()),
            false => Err(CopyError::Archive("it is empty")),
        };
    };
    let base = Base::choose(unpacking.place, unpacking.into_directory, &first)?;
    let mut target = Target {
        base,
        place: unpacking.place,
        owner: unpacking.owner,
        sender: unpacking.sender,
        report: Report::default(),
        directories: Vec::new(),
        names: 0,
        bytes: 0,
        last: None,
        temporary: 0,
    };
    let (mut next, mut count) = (Some(first), 0);
    while let Some(entry) = next {
        count += 1;
        if count > ENTRIES {
            return Err(CopyError::TooMuch { what: "entries", limit: ENTRIES });
        }
        target.take(&entry, from)?;
        next = entry::read(from)?;
    }
    let _ = io::copy(&mut from.take(REST_CAP), &mut io::sink());
    target.finish()
}

/// A directory that was made, and what it gets when its contents are complete.
struct Made {
    parts: Vec<OsString>,
    mode: u32,
    ids: (u32, u32),
    mtime: i64,
}

struct Target<'a> {
    base: Base,
    place: &'a Path,
    owner: Owner,
    sender: Sender,
    report: Report,
    directories: Vec<Made>,
    names: usize,
    bytes: u64,
    /// The directory of the entry before, which is often that of the next one, too.
    last: Option<(Vec<OsString>, OwnedFd)>,
    temporary: u64,
}

impl Target<'_> {
    /// Makes what an entry says.
    fn take(&mut self, entry: &Entry, from: &mut impl Read) -> Result<(), CopyError> {
        let parts = self.base.place_of(&entry.path)?;
        let Some((name, above)) = parts.split_last() else {
            // The directory itself.
            return skip(entry, from);
        };
        self.bytes = self.bytes.saturating_add(entry.size);
        if let Sender::Hostile { max_bytes } = self.sender
            && self.bytes > max_bytes
        {
            return Err(CopyError::TooMuch { what: "bytes", limit: max_bytes });
        }
        let at = self.place_named(&parts);
        let failed = |error: io::Error| CopyError::Path { path: at.clone(), error };
        match entry.kind {
            Kind::Directory => self.directory(entry, &parts),
            Kind::File => {
                self.open_above(above)?;
                self.temporary += 1;
                let (dir, temporary) = (self.above(), temporary_name(self.temporary));
                let made = self.file(entry, dir, &temporary, from);
                let renamed =
                    made.and_then(|()| renameat(dir, &temporary, dir, name).map_err(|e| failed(e.into())));
                if renamed.is_err() {
                    let _ = unlinkat(dir, &temporary, AtFlags::empty());
                }
                renamed
            }
            Kind::Symlink => {
                let is_hostile = matches!(self.sender, Sender::Hostile { .. });
                if is_hostile && !stays_within(&entry.link, self.base.height_of(&parts)) {
                    let target = shown(&String::from_utf8_lossy(&entry.link));
                    self.report.leave_out(
                        &entry.path,
                        format_args!("a link that leads out of the target, to {target}"),
                    );
                    return Ok(());
                }
                self.open_above(above)?;
                self.temporary += 1;
                let (dir, temporary) = (self.above(), temporary_name(self.temporary));
                let link = OsStr::from_bytes(&entry.link);
                let made = symlinkat(link, dir, &temporary)
                    .and_then(|()| match self.owner {
                        Owner::Own => Ok(()),
                        Owner::Kept => {
                            let (uid, gid) = ids(entry.uid, entry.gid)?;
                            chownat(dir, &temporary, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                        }
                    })
                    .and_then(|()| utimensat(dir, &temporary, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW))
                    .and_then(|()| renameat(dir, &temporary, dir, name));
                made.map_err(|e| {
                    let _ = unlinkat(dir, &temporary, AtFlags::empty());
                    failed(e.into())
                })
            }
            Kind::HardLink => self.hard_link(entry, &parts),
            Kind::Other => {
                self.report.leave_out(&entry.path, "no file, no directory and no link");
                skip(entry, from)
            }
        }
    }

    fn place_named(&self, parts: &[OsString]) -> PathBuf {
        let below = match &self.base {
            Base::Into(_) => parts,
            Base::As { .. } => &parts[1.min(parts.len())..],
        };
        self.place
            .components()
            .map(|part| part.as_os_str())
            .chain(below.iter().map(OsString::as_os_str))
            .collect()
    }

    /// Opens the directory with these parts, and makes what is missing of it.
    fn open_above(&mut self, above: &[OsString]) -> Result<(), CopyError> {
        if self.last.as_ref().is_some_and(|(parts, _)| parts == above) {
            return Ok(());
        }
        let opened = self.open(above, true)?;
        self.last = Some((above.to_vec(), opened));
        Ok(())
    }

    /// Returns the directory that [`Self::open_above`] has opened last.
    fn above(&self) -> &OwnedFd {
        self.last.as_ref().map_or_else(|| self.base.dir(), |(_, dir)| dir)
    }

    fn open(&self, parts: &[OsString], make: bool) -> Result<OwnedFd, CopyError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let at = |parts: &[OsString]| self.place_named(parts);
        let mut dir =
            self.base.dir().try_clone().map_err(|error| CopyError::Path { path: at(&[]), error })?;
        for (n, part) in parts.iter().enumerate() {
            let opened = match openat(&dir, part, flags, Mode::empty()) {
                Err(Errno::NOENT) if make => mkdirat(&dir, part, Mode::from_raw_mode(0o755))
                    .and_then(|()| openat(&dir, part, flags, Mode::empty())),
                opened => opened,
            };
            dir = opened.map_err(|e| {
                let path = at(&parts[..=n]);
                match e {
                    Errno::NOTDIR | Errno::LOOP => named(
                        path.as_os_str().as_bytes(),
                        "a link or a file is there, where the archive has a directory",
                    ),
                    e => CopyError::Path { path, error: e.into() },
                }
            })?;
        }
        Ok(dir)
    }

    fn directory(&mut self, entry: &Entry, parts: &[OsString]) -> Result<(), CopyError> {
        let Some((name, above)) = parts.split_last() else { return Ok(()) };
        self.open_above(above)?;
        let dir = self.above();
        let failed = |e: Errno| CopyError::Path { path: self.place_named(parts), error: e.into() };
        // Until its contents are complete, it is for its owner alone, who can write to it.
        match mkdirat(dir, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                return match FileType::from_raw_mode(stat.st_mode as RawMode) {
                    FileType::Directory => Ok(()),
                    _ => Err(failed(Errno::NOTDIR)),
                };
            }
            Err(e) => return Err(failed(e)),
        }
        self.names += parts.iter().map(|part| part.len() + size_of::<OsString>()).sum::<usize>();
        if self.names > NAMES_CAP {
            return Err(CopyError::TooMuch {
                what: "bytes in the names of directories",
                limit: NAMES_CAP as u64,
            });
        }
        let Entry { mode, uid, gid, mtime, .. } = *entry;
        self.directories.push(Made { parts: parts.to_vec(), mode: self.mode(mode), ids: (uid, gid), mtime });
        Ok(())
    }

    fn mode(&self, mode: u32) -> u32 {
        match self.sender {
            Sender::Trusted => mode,
            Sender::Hostile { .. } => mode & !SET_ID,
        }
    }

    /// Makes a file with its content, for its owner alone until it is complete.
    fn file(
        &self,
        entry: &Entry,
        dir: &OwnedFd,
        temporary: &str,
        from: &mut impl Read,
    ) -> Result<(), CopyError> {
        let failed = |error: io::Error| CopyError::Path {
            path: self.place.join(OsStr::from_bytes(&entry.path)),
            error,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = openat(dir, temporary, flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .map_err(|e| failed(e.into()))?;
        let mut buffer = vec![0; READ.min(usize::try_from(entry.size).unwrap_or(READ))];
        let mut rest = entry.size;
        while rest > 0 {
            let limit = buffer.len().min(usize::try_from(rest).unwrap_or(READ));
            entry::exactly(from, &mut buffer[..limit])?;
            file.write_all(&buffer[..limit]).map_err(failed)?;
            rest -= limit as u64;
        }
        skip_padding(entry.size, from)?;
        let done = match self.owner {
            Owner::Own => Ok(()),
            Owner::Kept => {
                ids(entry.uid, entry.gid).and_then(|(uid, gid)| fchown(&file, Some(uid), Some(gid)))
            }
        };
        // A change of the owner takes set-user-ID away, so the mode comes after it.
        done.and_then(|()| fchmod(&file, Mode::from_raw_mode(self.mode(entry.mode))))
            .and_then(|()| futimens(&file, &times(entry.mtime)))
            .map_err(|e| failed(e.into()))
    }

    /// Gives a file that the archive has had before another name.
    fn hard_link(&mut self, entry: &Entry, parts: &[OsString]) -> Result<(), CopyError> {
        let Some((name, above)) = parts.split_last() else { return Ok(()) };
        let first = self.base.place_of(&entry.link)?;
        let Some((first_name, first_above)) = first.split_last() else {
            return Err(named(&entry.link, "a link to the target itself"));
        };
        let first_dir = self.open(first_above, false)?;
        self.open_above(above)?;
        self.temporary += 1;
        let (dir, temporary) = (self.above(), temporary_name(self.temporary));
        let stat = statat(&first_dir, first_name, AtFlags::SYMLINK_NOFOLLOW);
        let is_file = |stat: rustix::fs::Stat| {
            FileType::from_raw_mode(stat.st_mode as RawMode) == FileType::RegularFile
        };
        if !stat.is_ok_and(is_file) {
            return Err(named(&entry.path, "a link to what is no file of the archive"));
        }
        let made = linkat(&first_dir, first_name, dir, &temporary, AtFlags::empty())
            .and_then(|()| renameat(dir, &temporary, dir, name));
        // A rename to another name of the same file does nothing (rename(2)).
        let _ = unlinkat(dir, &temporary, AtFlags::empty());
        made.map_err(|e| CopyError::Path { path: self.place_named(parts), error: e.into() })
    }

    /// Gives the directories that were made their modes, owners and times, the innermost first.
    fn finish(mut self) -> Result<Report, CopyError> {
        while let Some(Made { parts, mode, ids: (uid, gid), mtime }) = self.directories.pop() {
            let Some((name, above)) = parts.split_last() else { continue };
            self.open_above(above)?;
            let dir = self.above();
            let done = match self.owner {
                Owner::Own => Ok(()),
                Owner::Kept => ids(uid, gid).and_then(|(uid, gid)| {
                    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                }),
            };
            // What is no directory any more was put there by somebody else. A mode that can be followed by a link is only
            // set through a descriptor of the directory itself.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let done = done.and_then(|()| openat(dir, name, flags, Mode::empty())).and_then(|opened| {
                futimens(&opened, &times(mtime))?;
                fchmod(&opened, Mode::from_raw_mode(mode))
            });
            done.map_err(|e| CopyError::Path { path: self.place_named(&parts), error: e.into() })?;
        }
        Ok(self.report)
    }
}

fn temporary_name(number: u64) -> String {
    format!(".pepita-cp-{}-{number}", std::process::id())
}

fn times(mtime: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime, tv_nsec: 0 },
    }
}

/// Returns the ids of an owner. The highest number means "unchanged" to the kernel.
fn ids(uid: u32, gid: u32) -> rustix::io::Result<(Uid, Gid)> {
    match uid == u32::MAX || gid == u32::MAX {
        true => Err(Errno::INVAL),
        false => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
    }
}

fn skip_padding(size: u64, from: &mut impl Read) -> Result<(), CopyError> {
    let mut rest = [0; entry::BLOCK];
    entry::exactly(from, &mut rest[..usize::try_from(padding(size)).unwrap_or(0)])
}

fn skip(entry: &Entry, from: &mut impl Read) -> Result<(), CopyError> {
    let skipped = io::copy(&mut from.take(entry.size), &mut io::sink()).map_err(CopyError::Stream)?;
    match skipped == entry.size {
        true => skip_padding(entry.size, from),
        false => Err(CopyError::CutShort),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack;
    use proptest::prelude::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::process::Command;

    const GUEST: Sender = Sender::Hostile { max_bytes: 1 << 20 };

    fn into(place: &Path, sender: Sender, mut archive: &[u8]) -> Result<Report, CopyError> {
        unpack(&Unpacking { place, into_directory: false, owner: Owner::Own, sender }, &mut archive)
    }

    fn packed(source: &Path) -> Vec<u8> {
        let mut archive = Vec::new();
        let report = pack(source, false, &mut archive).expect("packed");
        assert!(report.is_whole(), "{report}");
        archive
    }

    /// Returns an archive of these entries. A file has its own name as its content.
    fn archive(entries: &[(&str, Kind, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (path, kind, link) in entries {
            let size = if *kind == Kind::File { path.len() as u64 } else { 0 };
            let entry = Entry {
                path: path.as_bytes().to_vec(),
                kind: *kind,
                mode: 0o4755,
                uid: 0,
                gid: 0,
                mtime: 1_000_000_000,
                size,
                link: link.as_bytes().to_vec(),
            };
            entry.write(&mut bytes).expect("written");
            if *kind == Kind::File {
                bytes.extend_from_slice(path.as_bytes());
                bytes.resize(bytes.len() + usize::try_from(padding(size)).expect("short"), 0);
            }
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    /// Returns what is in a directory: each name with kind, mode, time and content or target.
    fn listing(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut waiting = vec![dir.to_owned()];
        while let Some(path) = waiting.pop() {
            let meta = path.symlink_metadata().expect("there");
            let kind = meta.file_type();
            let content = if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).expect("a link").display())
            } else if kind.is_dir() {
                let below = fs::read_dir(&path).expect("readable");
                waiting.extend(below.map(|entry| entry.expect("an entry").path()));
                "/".to_owned()
            } else {
                format!("{} x{}", String::from_utf8_lossy(&fs::read(&path).expect("readable")), meta.nlink())
            };
            let name = path.strip_prefix(dir).expect("below").display().to_string();
            found.push(format!("{name} {:o} {} {content}", meta.mode(), meta.mtime()));
        }
        found.sort();
        found
    }

    fn tree(dir: &Path) -> PathBuf {
        let tree = dir.join("tree");
        let long = "l".repeat(120);
        fs::create_dir_all(tree.join("deep").join(&long)).expect("made");
        fs::create_dir(tree.join("empty")).expect("made");
        fs::write(tree.join("file"), "some words").expect("written");
        fs::write(tree.join("nothing"), "").expect("written");
        fs::write(tree.join("deep").join(&long).join("x"), vec![b'x'; 70_000]).expect("written");
        fs::hard_link(tree.join("file"), tree.join("deep/same")).expect("linked");
        symlink("../file", tree.join("deep/link")).expect("linked");
        fs::set_permissions(tree.join("file"), Permissions::from_mode(0o640)).expect("set");
        fs::set_permissions(tree.join("deep").join(&long), Permissions::from_mode(0o550)).expect("set");
        tree
    }

    #[test]
    fn a_tree_arrives_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = tree(dir.path());
        for sender in [Sender::Trusted, GUEST] {
            let copy = dir.path().join(format!("{sender:?}").split(' ').next().expect("a word"));
            assert!(into(&copy, sender, &packed(&tree)).expect("unpacked").is_whole());
            assert_eq!(listing(&copy), listing(&tree));
        }
    }

    #[test]
    fn the_place_decides_as_docker_cp_has_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("source/sub")).expect("made");
        fs::write(at("source/sub/f"), "new").expect("written");
        let (of_dir, of_file) = (packed(&at("source/sub")), packed(&at("source/sub/f")));
        let contents = packed(&at("source/sub/."));
        let copied = |place: &str, archive: &[u8]| into(&at(place), Sender::Trusted, archive).map(|_| ());
        // A file: to a new name, to a file, into a directory; not to a new directory.
        copied("file", &of_file).expect("copied");
        fs::write(at("old"), "old").expect("written");
        copied("old", &of_file).expect("copied");
        fs::create_dir(at("dir")).expect("made");
        copied("dir", &of_file).expect("copied");
        for file in ["file", "old", "dir/f"] {
            assert_eq!(fs::read(at(file)).expect("there"), b"new", "{file}");
        }
        assert!(matches!(copied("none/", &of_file), Err(CopyError::Place { .. })));
        assert!(matches!(copied("none/x", &of_file), Err(CopyError::Path { .. })));
        // A directory: to a new name, into a directory, its contents; not to a file.
        copied("new", &of_dir).expect("copied");
        copied("dir", &of_dir).expect("copied");
        fs::create_dir(at("other")).expect("made");
        copied("other", &contents).expect("copied");
        copied("fresh", &contents).expect("copied");
        for file in ["new/f", "dir/sub/f", "other/f", "fresh/f"] {
            assert_eq!(fs::read(at(file)).expect("there"), b"new", "{file}");
        }
        assert!(matches!(copied("file", &of_dir), Err(CopyError::Place { .. })));
        // No file takes the place of a directory, nor the other way round.
        fs::create_dir(at("dir2")).expect("made");
        fs::create_dir(at("dir2/f")).expect("made");
        assert!(matches!(copied("dir2", &of_file), Err(CopyError::Path { .. })));
        fs::write(at("dir2/sub"), "a file").expect("written");
        assert!(matches!(copied("dir2", &of_dir), Err(CopyError::Path { .. })));
        assert_eq!(fs::read_dir(at("dir2")).expect("there").count(), 2, "and nothing is left over");
        let only = Unpacking {
            place: &at("file"),
            into_directory: true,
            owner: Owner::Own,
            sender: Sender::Trusted,
        };
        assert!(matches!(unpack(&only, &mut &of_file[..]), Err(CopyError::Place { .. })));
    }

    #[test]
    fn no_name_of_a_guest_leads_out_of_the_target() {
        use Kind::{Directory as D, File as F, HardLink as H, Symlink as S};
        let dir = tempfile::tempdir().expect("a directory");
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("secret"), "secret").expect("written");
        let before = listing(&outside);
        let absolute = outside.join("x").display().to_string();
        let out = outside.display().to_string();
        let refused: &[&[(&str, Kind, &str)]] = &[
            &[("../outside/x", F, "")],
            &[("a/../../outside/x", F, "")],
            &[(&absolute, F, "")],
            &[("a", D, ""), ("a/..", D, "")],
            &[("x", H, "../outside/secret")],
            &[("x", H, &absolute)],
            &[("a", S, "b"), ("b", D, ""), ("a/x", F, "")],
            &[("a", D, ""), ("a", F, "")],
            &[("a", F, ""), ("a/x", F, "")],
        ];
        for (number, entries) in refused.iter().enumerate() {
            let target = dir.path().join(format!("t{number}"));
            fs::create_dir(&target).expect("made");
            let result = into(&target, GUEST, &archive(entries));
            assert!(result.is_err(), "{entries:?}: {result:?}");
            assert_eq!(listing(&outside), before, "{entries:?}");
        }
        // A link that is there already is not followed either.
        let target = dir.path().join("with-link");
        fs::create_dir(&target).expect("made");
        symlink(&outside, target.join("there")).expect("linked");
        assert!(into(&target, GUEST, &archive(&[("there/x", F, "")])).is_err());
        assert_eq!(listing(&outside), before);

        // Links that lead out are left out; the rest arrives, without set-user-ID.
        let target = dir.path().join("rest");
        let links = [
            ("r", D, ""),
            ("r/up", S, "../outside"),
            ("r/abs", S, &out),
            ("r/by-way", S, "d/../../../outside"),
            ("r/d", D, ""),
            ("r/d/good", S, "../f"),
            ("r/f", F, ""),
        ];
        let report = into(&target, GUEST, &archive(&links)).expect("unpacked");
        assert!(
            ["r/up", "r/abs", "r/by-way"].iter().all(|name| report.to_string().contains(name)),
            "{report}"
        );
        assert_eq!(fs::read(target.join("d/good")).expect("there"), b"r/f");
        assert_eq!(target.join("f").metadata().expect("there").mode() & 0o7777, 0o755);
        assert!(!target.join("up").is_symlink() && !target.join("abs").is_symlink());
        assert_eq!(listing(&outside), before);
    }

    #[test]
    fn what_is_too_much_or_cut_short_leaves_no_half_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let whole = archive(&[("a", Kind::File, ""), ("b", Kind::File, "")]);
        for length in [0, 100, 513, 600, 1024, 1537, 2000] {
            assert!(
                matches!(into(dir.path(), GUEST, &whole[..length]), Err(CopyError::CutShort)),
                "{length}"
            );
        }
        let tight = Sender::Hostile { max_bytes: 1 };
        assert!(matches!(into(dir.path(), tight, &whole), Err(CopyError::TooMuch { .. })));
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).expect("there").flatten().map(|it| it.file_name()).collect();
        names.sort();
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn archives_of_tar_are_read_and_ours_are_read_by_tar() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = tree(dir.path());
        for format in ["gnu", "pax", "ustar", "v7"] {
            let _ = fs::remove_dir_all(dir.path().join("copy"));
            let mut tar = Command::new("tar");
            tar.args(["-c", "--format", format, "-C"]).arg(&tree);
            // The older formats have no room for the long name.
            if matches!(format, "ustar" | "v7") {
                tar.arg("--exclude=llll*");
            }
            let made = tar.arg(".").output().expect("tar");
            assert!(made.status.success(), "{made:?}");
            let copy = dir.path().join("copy");
            into(&copy, Sender::Trusted, &made.stdout).expect("unpacked");
            assert_eq!(fs::read(copy.join("file")).expect("there"), b"some words", "{format}");
            assert_eq!(copy.join("deep/same").metadata().expect("there").nlink(), 2, "{format}");
        }
        let archive = dir.path().join("ours.tar");
        fs::write(&archive, packed(&tree)).expect("written");
        let listed = Command::new("tar").args(["-t", "-f"]).arg(&archive).output().expect("tar");
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.status.success() && text.lines().count() == listing(&tree).len(), "{text}");
    }

    fn part() -> impl Strategy<Value = String> {
        let word = prop_oneof![4 => "[abc]", 2 => Just("..".to_owned()), 1 => Just(".".to_owned())];
        (proptest::collection::vec(word, 1..5), proptest::bool::weighted(0.1))
            .prop_map(|(parts, absolute)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
    }

    proptest! {
        #[test]
        fn whatever_a_guest_sends_stays_within_the_target(
            entries in proptest::collection::vec((part(), 0..4_u8, part()), 1..12), is_new: bool,
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let dir = dir.path().canonicalize().expect("there");
            // Above the target is a directory with what a guest might want.
            let (above, target) = (dir.join("above"), dir.join("above/target"));
            fs::create_dir_all(above.join("a")).expect("made");
            fs::write(above.join("b"), "outside").expect("written");
            if !is_new {
                fs::create_dir(&target).expect("made");
            }
            let before: Vec<String> = listing(&above.join("a"));
            let named: Vec<(String, Kind, String)> = entries.into_iter().map(|(path, kind, link)| {
                let kind = [Kind::File, Kind::Directory, Kind::Symlink, Kind::HardLink][usize::from(kind)];
                (path, kind, link)
            }).collect();
            let entries: Vec<_> = named.iter().map(|(path, kind, link)| (path.as_str(), *kind, link.as_str())).collect();
            let _ = into(&target, GUEST, &archive(&entries));
            prop_assert_eq!(listing(&above.join("a")), before);
            prop_assert_eq!(fs::read(above.join("b")).expect("there"), b"outside");
            let names = fs::read_dir(&above).expect("there").flatten().filter(|it| it.file_name() != "target").count();
            prop_assert_eq!(names, 2);
            if target.is_dir() && !target.is_symlink() {
                let mut waiting = vec![target.clone()];
                while let Some(path) = waiting.pop() {
                    if path.is_symlink() {
                        if let Ok(real) = path.canonicalize() {
                            prop_assert!(real.starts_with(&target), "{:?} leads to {:?}", path, real);
                        }
                    } else if path.is_dir() {
                        waiting.extend(fs::read_dir(&path).expect("readable").flatten().map(|it| it.path()));
                    }
                }
            }
        }
    }
}
