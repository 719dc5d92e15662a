//! Writes files and directories as an archive.

use crate::entry::{BLOCK, Entry, Kind, padding};
use crate::error::{CopyError, Report};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RawMode, Stat, fstat, fstatfs, openat, readlinkat, statat,
};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The depth of directories. Each level has a descriptor or two.
const DEPTH: usize = 200;

/// The number of files with several names that are remembered. Those beyond are copied for each name.
const LINKS: usize = 50_000;

/// The largest file whose length is unknown before it is read (/proc).
const UNMEASURED_CAP: u64 = 1 << 20;

/// The size of one read.
const READ: usize = 64 * 1024;

/// The file systems that hold no files of their own: they are copied only by their own name (statfs(2)).
const OF_KERNEL: [u64; 9] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
];

/// Writes a file, or a directory with all that is in it, as an archive. The first part of every name is that of the source,
/// or `.` when the source ends with `/.` (as for docker). A source that is a link is copied as a link, unless it is to be
/// followed; a link below it always is. What cannot be read, sockets, FIFOs and devices are left out.
///
/// # Errors
/// When the source itself cannot be read, or the archive cannot be written.
pub fn pack(source: &Path, follow_link: bool, to: &mut impl Write) -> Result<Report, CopyError> {
    let failed = |error: io::Error| CopyError::Path { path: source.to_owned(), error };
    let written = source.as_os_str().as_bytes();
    // Behind a link with a slash is what it leads to, as for every program.
    let follow_link = follow_link || written.ends_with(b"/") || written.ends_with(b"/.");
    let name = if written == b"." || written.ends_with(b"/.") {
        b".".to_vec()
    } else {
        let named = |path: &Path| path.file_name().map(|name| name.as_bytes().to_vec());
        let name = named(source).or_else(|| named(&source.canonicalize().ok()?));
        name.unwrap_or_else(|| b".".to_vec())
    };
    let flags = if follow_link { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    let stat = statat(CWD, source, flags).map_err(|e| failed(e.into()))?;
    let mut packing = Packing { to, report: Report::default(), links: HashMap::new() };
    packing.add(CWD, source.as_os_str(), &name, &stat, follow_link, 0)?.map_err(failed)?;
    packing.to.write_all(&[0; 2 * BLOCK]).and_then(|()| packing.to.flush()).map_err(CopyError::Stream)?;
    Ok(packing.report)
}

struct Packing<'a, W> {
    to: &'a mut W,
    report: Report,
    /// The first name of each file that has several, by device and number.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Packing<'_, W> {
    /// Adds what has this name in a directory. Returns the error of one that cannot be read; nothing of it was written
    /// then.
    fn add(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        stat: &Stat,
        follow_link: bool,
        depth: usize,
    ) -> Result<io::Result<()>, CopyError> {
        let no_follow = if follow_link { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | no_follow;
        match FileType::from_raw_mode(stat.st_mode as RawMode) {
            FileType::Directory => {
                let opened = match openat(dir, name, flags | OFlags::DIRECTORY, Mode::empty()) {
                    Ok(opened) => opened,
                    Err(e) => return Ok(Err(e.into())),
                };
                if depth > 0 && is_of_kernel(&opened) {
                    // The directory is there, for what is mounted at it.
                    self.header(&entry(path, Kind::Directory, stat))?;
                    return Ok(Ok(()));
                }
                if depth >= DEPTH {
                    return Ok(Err(io::Error::other("too many directories below each other")));
                }
                let entries = match Dir::read_from(&opened) {
                    Ok(entries) => entries,
                    Err(e) => return Ok(Err(e.into())),
                };
                self.header(&entry(path, Kind::Directory, stat))?;
                for below in entries {
                    let below = match below {
                        Ok(below) => below,
                        Err(e) => {
                            self.report.leave_out(path, io::Error::from(e));
                            break;
                        }
                    };
                    let name = below.file_name().to_bytes();
                    if name == b"." || name == b".." {
                        continue;
                    }
                    let path = [path, b"/", name].concat();
                    let name = OsStr::from_bytes(name);
                    let added = match statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => self.add(opened.as_fd(), name, &path, &stat, false, depth + 1)?,
                        Err(e) => Err(e.into()),
                    };
                    if let Err(e) = added {
                        self.report.leave_out(&path, e);
                    }
                }
                Ok(Ok(()))
            }
            FileType::RegularFile => {
                let opened = openat(dir, name, flags, Mode::empty()).and_then(|fd| Ok((fstat(&fd)?, fd)));
                match opened {
                    Ok((stat, fd))
                        if FileType::from_raw_mode(stat.st_mode as RawMode) == FileType::RegularFile =>
                    {
                        self.file(path, &stat, File::from(fd))
                    }
                    Ok(_) => Ok(Err(io::Error::other("it is another file now"))),
                    Err(e) => Ok(Err(e.into())),
                }
            }
            FileType::Symlink => match readlinkat(dir, name, Vec::new()) {
                Ok(target) => {
                    self.header(&Entry { link: target.into_bytes(), ..entry(path, Kind::Symlink, stat) })?;
                    Ok(Ok(()))
                }
                Err(e) => Ok(Err(e.into())),
            },
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Ok(Err(io::Error::other("no file, no directory and no link"))),
        }
    }

    fn file(&mut self, path: &[u8], stat: &Stat, mut file: File) -> Result<io::Result<()>, CopyError> {
        let number = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&number) {
                let link = first.clone();
                self.header(&Entry { link, ..entry(path, Kind::HardLink, stat) })?;
                return Ok(Ok(()));
            }
            if self.links.len() < LINKS {
                self.links.insert(number, path.to_vec());
            }
        }
        let mut size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut first = Vec::new();
        if size == 0 {
            if let Err(e) = Read::by_ref(&mut file).take(UNMEASURED_CAP).read_to_end(&mut first) {
                return Ok(Err(e));
            }
            size = first.len() as u64;
        }
        self.header(&Entry { size, ..entry(path, Kind::File, stat) })?;
        let mut rest = size;
        if !first.is_empty() {
            self.write(&first)?;
            rest = 0;
        }
        let mut buffer = vec![0; READ];
        let mut failure = None;
        while rest > 0 {
            let limit = READ.min(usize::try_from(rest).unwrap_or(READ));
            let read = match failure {
                None => file.read(&mut buffer[..limit]),
                Some(_) => Ok(0),
            };
            let n = match read {
                Ok(0) => {
                    // What the header has promised is filled with zeros, as tar does.
                    failure.get_or_insert_with(|| "it has become shorter meanwhile".to_owned());
                    buffer[..limit].fill(0);
                    limit
                }
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    failure = Some(e.to_string());
                    continue;
                }
            };
            self.write(&buffer[..n])?;
            rest -= n as u64;
        }
        self.write(&vec![0; usize::try_from(padding(size)).unwrap_or(0)])?;
        if let Some(failure) = failure {
            self.report.leave_out(path, format_args!("a part of it: {failure}"));
        }
        Ok(Ok(()))
    }

    fn header(&mut self, entry: &Entry) -> Result<(), CopyError> {
        entry.write(self.to).map_err(CopyError::Stream)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CopyError> {
        self.to.write_all(bytes).map_err(CopyError::Stream)
    }
}

fn is_of_kernel(dir: impl AsFd) -> bool {
    // The type has another width on other machines.
    fstatfs(dir).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| OF_KERNEL.contains(&kind)))
}

fn entry(path: &[u8], kind: Kind, stat: &Stat) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime,
        size: 0,
        link: Vec::new(),
    }
}
