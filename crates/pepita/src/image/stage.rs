//! Stages the root of a disk in a directory, as mke2fs needs it. Every path is resolved within that directory
//! (openat2(2) with RESOLVE_IN_ROOT): a link of a tree never leads to a file of the host.

use super::root::{CIRCLE, IS_DIRECTORY, NO_DIRECTORY, Root, blocked, dangling};
use super::scratch::Scratch;
use crate::error::{Result, io, system};
use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, chmodat, fchmod, mkdirat, openat, openat2, readlinkat,
    statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

/// A root in a directory.
#[derive(Debug)]
pub(super) struct Stage {
    /// The directory above the root. Only its owner may enter it, whatever the mode of the tree is.
    _private: Scratch,
    path: PathBuf,
    root: OwnedFd,
}

impl Stage {
    /// Makes a root in a new directory of `parent`, with a copy of `tree`.
    ///
    /// # Errors
    /// When the directory cannot be made, or something of the tree cannot be copied.
    pub(super) fn new(parent: &Path, tree: Option<&Path>) -> Result<Self> {
        let private = Scratch::new(parent, "pepita-stage")?;
        let path = private.path().join("root");
        mkdirat(CWD, &path, Mode::RWXU).map_err(|e| io(parent, e))?;
        if let Some(tree) = tree {
            let copied = Command::new("cp").arg("-a").arg("--").arg(tree.join(".")).arg(&path).output();
            let copied = copied.map_err(|e| system("cp", e))?;
            if !copied.status.success() {
                return Err(system("--dir", first_lines(&copied.stderr)));
            }
        } else {
            rustix::fs::chmod(&path, Mode::from_raw_mode(0o755)).map_err(|e| io(parent, e))?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = openat(CWD, &path, flags, Mode::empty()).map_err(|e| io(&path, e))?;
        Ok(Self { _private: private, path, root })
    }

    /// Returns the directory of the root.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory, and makes what is missing of it.
    fn make(&self, path: &str, mode: u32) -> Result<OwnedFd> {
        let mut dir = self.open("")?.ok_or_else(|| blocked("", NO_DIRECTORY))?;
        let mut done = String::new();
        let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            if !done.is_empty() {
                done.push('/');
            }
            done.push_str(name);
            dir = match self.open(&done)? {
                Some(dir) => dir,
                None => {
                    let mode = if names.peek().is_none() { mode } else { 0o755 };
                    match writable(&dir, || mkdirat(&dir, name, Mode::RWXU)) {
                        Ok(()) => {}
                        // What is there and leads to nothing is a link.
                        Err(Errno::EXIST) => {
                            let target = readlinkat(&dir, name, Vec::new()).unwrap_or_default();
                            return Err(blocked(&done, &dangling(&target.to_string_lossy())));
                        }
                        Err(e) => return Err(io(&Path::new("--dir").join(&done), e)),
                    }
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let made =
                        openat(&dir, name, flags, Mode::empty()).map_err(|e| io(Path::new(&done), e))?;
                    // The mode of mkdir(2) is subject to the umask.
                    fchmod(&made, Mode::from_raw_mode(mode)).map_err(|e| io(Path::new(&done), e))?;
                    made
                }
            };
        }
        Ok(dir)
    }

    /// Opens a directory of the root, if it is there.
    fn open(&self, path: &str) -> Result<Option<OwnedFd>> {
        let name = if path.is_empty() { "." } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat2(&self.root, name, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP) => Err(blocked(path, CIRCLE)),
            Err(Errno::NOTDIR) => Err(blocked(path, NO_DIRECTORY)),
            Err(e) => Err(io(&Path::new("--dir").join(path), e)),
        }
    }
}

impl Root for Stage {
    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.make(path, mode).map(drop)
    }

    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<bool> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.make(parent, 0o755)?;
        let failed = |e: std::io::Error| io(&Path::new("--dir").join(path), e);
        let was_there = match writable(&dir, || unlinkat(&dir, name, AtFlags::empty())) {
            Ok(()) => true,
            Err(Errno::NOENT) => false,
            Err(Errno::ISDIR) => return Err(blocked(path, IS_DIRECTORY)),
            Err(e) => return Err(failed(e.into())),
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = writable(&dir, || openat(&dir, name, flags, Mode::RUSR | Mode::WUSR));
        let fd = fd.map_err(|e| failed(e.into()))?;
        let mut file = File::from(fd);
        file.write_all(contents).map_err(failed)?;
        fchmod(&file, Mode::from_raw_mode(mode)).map_err(|e| failed(e.into()))?;
        Ok(was_there)
    }

    fn contents(&self, path: &str) -> Option<Rc<[u8]>> {
        // Opening a pipe must not wait.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
        let (mut file, mut bytes) = (File::from(file), Vec::new());
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return None;
        }
        file.read_to_end(&mut bytes).ok()?;
        Some(bytes.into())
    }

    fn resolved(&self, path: &str) -> Option<String> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
        let place = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
        let within = place(&found)?.strip_prefix(place(&self.root)?).ok()?.to_owned();
        Some(format!("/{}", within.to_string_lossy()))
    }

    fn names(&self, path: &str) -> Vec<String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
        let Ok(entries) = dir.and_then(|dir| Dir::read_from(&dir)) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name != "." && name != "..").collect();
        names.sort_unstable();
        names
    }
}

impl Stage {
    /// Makes a symbolic link, unless there is anything of that name.
    pub(super) fn link_if_absent(&self, path: &str, target: &str) -> Result<()> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.make(parent, 0o755)?;
        match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(()),
            Err(_) => writable(&dir, || symlinkat(target, &dir, name))
                .map_err(|e| io(&Path::new("--dir").join(path), e)),
        }
    }
}

/// Does something in a directory. When the directory forbids that to its owner, as a read-only tree does, the owner may
/// write to it meanwhile.
fn writable<T>(dir: &OwnedFd, act: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match act() {
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(statat(dir, ".", AtFlags::empty())?.st_mode & 0o7777);
            chmodat(dir, ".", mode | Mode::RWXU, AtFlags::empty())?;
            let done = act();
            chmodat(dir, ".", mode, AtFlags::empty())?;
            done
        }
        done => done,
    }
}

/// Returns the first lines of what a program wrote, as one line.
pub(super) fn first_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let more = if lines.len() > 3 { format!(" | and {} more lines", lines.len() - 3) } else { String::new() };
    lines[..lines.len().min(3)].join(" | ") + &more
}
