//! Decides where the entries of an archive go: below one directory, whatever their names are.

use crate::entry::{Entry, Kind};
use crate::error::CopyError;
use pepita_wire::text::shown;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawMode, openat, statat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The depth of directories.
const DEPTH: usize = 256;

/// The directory below which all is made.
pub(crate) enum Base {
    /// A directory that is there.
    Into(OwnedFd),
    /// The directory of the only file or directory of the archive, its new name, and its name in the archive.
    As { parent: OwnedFd, name: OsString, root: Option<OsString> },
}

impl Base {
    pub(crate) fn choose(place: &Path, into_directory: bool, first: &Entry) -> Result<Self, CopyError> {
        let failed = |e: Errno| CopyError::Path { path: place.to_owned(), error: e.into() };
        let wrong = |why| Err(CopyError::Place { path: place.to_owned(), why });
        let is_named_directory = place.as_os_str().as_bytes().ends_with(b"/");
        let place = match statat(CWD, place, AtFlags::empty()) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode as RawMode) {
                FileType::Directory => return Ok(Self::Into(open_dir(place).map_err(failed)?)),
                _ if into_directory => return wrong("no directory"),
                FileType::RegularFile if first.kind == Kind::Directory => {
                    return wrong("a directory cannot be copied to a file");
                }
                // Behind a link is the file that is replaced.
                FileType::RegularFile => place.canonicalize().unwrap_or_else(|_| place.to_owned()),
                _ => return wrong("neither a file nor a directory"),
            },
            Err(Errno::NOENT) if into_directory => return wrong("no such directory"),
            Err(Errno::NOENT) if is_named_directory && first.kind != Kind::Directory => {
                return wrong("no such directory");
            }
            Err(Errno::NOENT) => place.to_owned(),
            Err(e) => return Err(failed(e)),
        };
        let Some(name) = place.file_name().map(OsStr::to_owned) else { return wrong("no such directory") };
        let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent =
            open_dir(parent).map_err(|e| CopyError::Path { path: parent.to_owned(), error: e.into() })?;
        Ok(Self::As { parent, name, root: parts(&first.path)?.into_iter().next() })
    }

    pub(crate) fn dir(&self) -> &OwnedFd {
        match self {
            Self::Into(dir) | Self::As { parent: dir, .. } => dir,
        }
    }

    /// Returns the parts of a name below this directory.
    pub(crate) fn place_of(&self, path: &[u8]) -> Result<Vec<OsString>, CopyError> {
        let mut parts = parts(path)?;
        if let Self::As { name, root, .. } = self {
            match root {
                None => parts.insert(0, name.clone()),
                Some(root) if parts.first() == Some(root) => parts[0].clone_from(name),
                Some(_) => {
                    return Err(named(path, "a second name beside the first, where there is room for one"));
                }
            }
        }
        Ok(parts)
    }

    /// Returns the number of directories up to which a link of these parts may lead.
    pub(crate) fn height_of(&self, parts: &[OsString]) -> usize {
        let floor = match self {
            Self::Into(_) => 1,
            Self::As { .. } => 2,
        };
        parts.len().saturating_sub(floor)
    }
}

fn open_dir(path: &Path) -> rustix::io::Result<OwnedFd> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

pub(crate) fn named(name: &[u8], why: &'static str) -> CopyError {
    CopyError::Name { name: shown(&String::from_utf8_lossy(name)), why }
}

/// Returns the parts of a name. One that leads out of a directory is refused.
fn parts(path: &[u8]) -> Result<Vec<OsString>, CopyError> {
    if path.starts_with(b"/") {
        return Err(named(path, "an absolute path"));
    }
    if path.contains(&0) {
        return Err(named(path, "a zero byte"));
    }
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return Err(named(path, "it leads out of the target"));
    }
    if parts.len() > DEPTH {
        return Err(named(path, "too many directories below each other"));
    }
    Ok(parts.into_iter().map(|part| OsString::from_vec(part.to_vec())).collect())
}

/// Returns whether a link leads at most `height` directories up, and never up after it has led down: such a part could
/// be a link itself, after which "up" is elsewhere.
pub(crate) fn stays_within(target: &[u8], height: usize) -> bool {
    if target.starts_with(b"/") {
        return false;
    }
    let parts = || target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let up = parts().take_while(|part| *part == b"..").count();
    up <= height && parts().skip(up).all(|part| part != b"..")
}
