//! Builds the root of an initramfs, and writes it as a newc cpio archive
//! (Documentation/driver-api/early-userspace/buffer-format.rst). The same input gives the same bytes.

use super::root::{CIRCLE, IS_DIRECTORY, NO_DIRECTORY, Root, blocked, dangling};
use crate::error::Result;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// The number of links that a path may lead through, as in the kernel.
const LINKS_MAX: usize = 40;

/// The root of an initramfs that is being put together. Paths have no leading slash.
#[derive(Debug, Default)]
pub struct Archive {
    /// Every entry, a directory before what is in it.
    entries: BTreeMap<Vec<u8>, Entry>,
}

/// A file of any kind in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The kind of the file, with what only this kind has.
    pub kind: Kind,
    /// The permissions, with the bits set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// The user id of the owner.
    pub uid: u32,
    /// The id of the owning group.
    pub gid: u32,
}

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory, without its contents.
    Directory,
    /// A file. The names of one file (hard links) share its contents.
    File(Rc<[u8]>),
    /// A symbolic link, with its target.
    Link(Vec<u8>),
    /// A character device, with its numbers.
    CharDevice(u32, u32),
    /// A block device, with its numbers.
    BlockDevice(u32, u32),
    /// A named pipe.
    Pipe,
}

impl Kind {
    /// Returns the bits of the kind in a mode, and the numbers of a device.
    fn bits(&self) -> (u32, (u32, u32)) {
        match self {
            Self::Directory => (0o040_000, (0, 0)),
            Self::File(_) => (0o100_000, (0, 0)),
            Self::Link(_) => (0o120_000, (0, 0)),
            Self::CharDevice(major, minor) => (0o020_000, (*major, *minor)),
            Self::BlockDevice(major, minor) => (0o060_000, (*major, *minor)),
            Self::Pipe => (0o010_000, (0, 0)),
        }
    }
}

impl Entry {
    /// Returns an entry that root owns.
    fn of_root(kind: Kind, mode: u32) -> Self {
        Self { kind, mode, uid: 0, gid: 0 }
    }
}

impl Archive {
    /// Returns an empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry of a tree. The directories above it must have been added before.
    pub fn add(&mut self, path: Vec<u8>, entry: Entry) {
        self.entries.insert(path, entry);
    }

    /// Removes an entry that is no directory. Returns whether there was one.
    pub fn remove(&mut self, path: &str) -> bool {
        let removable = |entry: &Entry| entry.kind != Kind::Directory;
        self.entries.get(path.as_bytes()).is_some_and(removable)
            && self.entries.remove(path.as_bytes()).is_some()
    }

    /// Adds a character device, in place of any file of that name.
    ///
    /// # Errors
    /// The errors of a file.
    pub fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> Result<()> {
        self.put(path, Entry::of_root(Kind::CharDevice(major, minor), mode)).map(drop)
    }

    /// Returns the archive.
    pub fn finish(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        // The number of names of each file, by the address of its contents, and its inode once it is written.
        let mut files: BTreeMap<*const u8, Numbers> = BTreeMap::new();
        for entry in self.entries.values() {
            if let Kind::File(contents) = &entry.kind {
                files.entry(contents.as_ptr()).or_insert(Numbers { inode: 0, links: 0 }).links += 1;
            }
        }
        for (path, entry) in &self.entries {
            let new = Numbers { inode: writer.next_inode(), links: 1 };
            match &entry.kind {
                Kind::File(contents) => {
                    let numbers = files.entry(contents.as_ptr()).or_insert(new);
                    // The kernel makes hard links of entries with one inode. Only the first of them has the contents.
                    let is_first = numbers.inode == 0;
                    if is_first {
                        numbers.inode = new.inode;
                    }
                    writer.entry(path, entry, *numbers, if is_first { contents } else { &[] });
                }
                Kind::Link(target) => writer.entry(path, entry, new, target),
                Kind::Directory | Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Pipe => {
                    writer.entry(path, entry, new, &[]);
                }
            }
        }
        writer.end();
        writer.bytes
    }

    /// Returns the place of the directory `path` after all links, and makes what is missing.
    fn make(&mut self, path: &str, mode: u32) -> Result<Vec<u8>> {
        let mut place: Vec<u8> = Vec::new();
        let mut links = 0;
        let split = |path: &[u8]| path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut left: VecDeque<Step> =
            split(path.as_bytes()).into_iter().map(|name| Step { name, link: None }).collect();
        while let Some(Step { name, link }) = left.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    place.truncate(place.iter().rposition(|b| *b == b'/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let parent = place.len();
            if parent > 0 {
                place.push(b'/');
            }
            place.extend_from_slice(&name);
            match (self.entries.get(&place).map(|entry| &entry.kind), link) {
                (Some(Kind::Directory), _) => {}
                (Some(Kind::Link(target)), _) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(blocked(path, CIRCLE));
                    }
                    let link = Rc::new(Via { path: text(&place), target: text(target) });
                    place.truncate(if target.starts_with(b"/") { 0 } else { parent });
                    for name in split(target).into_iter().rev() {
                        left.push_front(Step { name, link: Some(Rc::clone(&link)) });
                    }
                }
                (Some(_), _) => {
                    return Err(blocked(&String::from_utf8_lossy(&place), NO_DIRECTORY));
                }
                (None, Some(link)) => return Err(blocked(&link.path, &dangling(&link.target))),
                (None, None) => {
                    let mode = if left.is_empty() { mode } else { 0o755 };
                    self.entries.insert(place.clone(), Entry::of_root(Kind::Directory, mode));
                }
            }
        }
        Ok(place)
    }

    /// Returns the place of what a path leads to after all links; `None` when it leads to nothing.
    fn lead(&self, path: &str) -> Option<Vec<u8>> {
        let names = |path: &[u8]| path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
        let mut left: VecDeque<Vec<u8>> = names(path.as_bytes()).into();
        let (mut place, mut links): (Vec<Vec<u8>>, usize) = (Vec::new(), 0);
        while let Some(name) = left.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    place.pop();
                    continue;
                }
                _ => place.push(name),
            }
            match &self.entries.get(&place.join(&b'/'))?.kind {
                Kind::Directory => {}
                Kind::File(_) | Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Pipe => {
                    return left.is_empty().then(|| place.join(&b'/'));
                }
                Kind::Link(target) => {
                    place.pop();
                    if target.starts_with(b"/") {
                        place.clear();
                    }
                    links += 1;
                    if links > LINKS_MAX {
                        return None;
                    }
                    names(target).into_iter().rev().for_each(|name| left.push_front(name));
                }
            }
        }
        Some(place.join(&b'/'))
    }

    /// Adds an entry, in place of any file of that name. Returns whether there was one.
    fn put(&mut self, path: &str, entry: Entry) -> Result<bool> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut place = self.make(parent, 0o755)?;
        if !place.is_empty() {
            place.push(b'/');
        }
        place.extend_from_slice(name.as_bytes());
        if self.entries.get(&place).is_some_and(|former| former.kind == Kind::Directory) {
            return Err(blocked(path, IS_DIRECTORY));
        }
        Ok(self.entries.insert(place, entry).is_some())
    }
}

impl Root for Archive {
    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.make(path, mode).map(drop)
    }

    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<bool> {
        self.put(path, Entry::of_root(Kind::File(contents.into()), mode))
    }

    fn contents(&self, path: &str) -> Option<Rc<[u8]>> {
        match &self.entries.get(&self.lead(path)?)?.kind {
            Kind::File(contents) => Some(Rc::clone(contents)),
            Kind::Directory | Kind::Link(_) | Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Pipe => {
                None
            }
        }
    }

    fn resolved(&self, path: &str) -> Option<String> {
        Some(format!("/{}", String::from_utf8_lossy(&self.lead(path)?)))
    }

    fn names(&self, path: &str) -> Vec<String> {
        let Some(mut place) = self.lead(path) else { return Vec::new() };
        if !place.is_empty() {
            place.push(b'/');
        }
        let below = self.entries.range(place.clone()..).map_while(|(path, _)| path.strip_prefix(&*place));
        let names = below.filter(|name| !name.is_empty() && !name.contains(&b'/'));
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }
}

/// A name of a path that is still to be resolved.
#[derive(Debug)]
struct Step {
    name: Vec<u8>,
    /// The link whose target the name belongs to: the target of a link is never made.
    link: Option<Rc<Via>>,
}

/// A symbolic link on the way.
#[derive(Debug)]
struct Via {
    path: String,
    target: String,
}

/// The number of a file and how many names it has.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    inode: u32,
    links: u32,
}

/// The bytes of an archive.
#[derive(Debug, Default)]
struct Writer {
    bytes: Vec<u8>,
    inode: u32,
}

impl Writer {
    fn next_inode(&mut self) -> u32 {
        self.inode += 1;
        self.inode
    }

    fn entry(&mut self, path: &[u8], entry: &Entry, numbers: Numbers, contents: &[u8]) {
        let Entry { kind, mode, uid, gid } = entry;
        let size = u32::try_from(contents.len()).expect("a file of an initramfs is smaller than 4 GiB");
        let (kind, (major, minor)) = kind.bits();
        let head = [numbers.inode, kind | mode, *uid, *gid, numbers.links, 0, size, 0, 0, major, minor];
        self.write(head, path, contents);
    }

    /// Writes the last entry.
    fn end(&mut self) {
        let inode = self.next_inode();
        self.write([inode, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], b"TRAILER!!!", &[]);
    }

    /// Writes an entry with these fields, from the inode to the numbers of a device.
    fn write(&mut self, head: [u32; 11], path: &[u8], contents: &[u8]) {
        let length = u32::try_from(path.len() + 1).expect("a path is short");
        self.bytes.extend_from_slice(b"070701");
        for field in head.into_iter().chain([length, 0]) {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path);
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_input_is_the_same_bytes_and_parents_come_first_once() {
        let make = || {
            let mut archive = Archive::new();
            archive.file("usr/bin/a", 0o755, b"abc").expect("room");
            archive.file("usr/bin/b", 0o644, b"").expect("room");
            archive.finish()
        };
        assert_eq!(make(), make());
        let text = String::from_utf8_lossy(&make()).into_owned();
        assert_eq!(text.matches("070701").count(), 5);
        assert_eq!(make().len() % 4, 0);
    }

    /// Returns an archive with these links.
    fn linked(links: &[(&str, &str)]) -> Archive {
        let mut archive = Archive::new();
        for (path, target) in links {
            archive
                .add(path.as_bytes().to_vec(), Entry::of_root(Kind::Link(target.as_bytes().to_vec()), 0o777));
        }
        archive
    }

    fn has(archive: &Archive, path: &str) -> bool {
        archive.entries.contains_key(path.as_bytes())
    }

    #[test]
    fn a_link_leads_to_a_place_in_the_archive() {
        for target in ["usr/sbin", "/usr/sbin", "/../usr/./sbin", "via"] {
            let mut archive = linked(&[("sbin", target), ("via", "usr/sbin")]);
            archive.directory("usr/sbin", 0o755).expect("room");
            assert!(!archive.file("sbin/init", 0o755, b"x").expect("a way"));
            assert!(has(&archive, "usr/sbin/init") && !has(&archive, "sbin/init"), "{target}");
            assert!(archive.file("sbin/init", 0o755, b"y").expect("a way"), "it replaces the former");
        }
    }

    #[test]
    fn a_link_to_nowhere_a_circle_and_a_file_in_the_way_are_errors() {
        let mut archive = linked(&[("a", "/absent"), ("b", "b"), ("c", "d"), ("d", "/c"), ("f", "f")]);
        archive.add(b"file".to_vec(), Entry::of_root(Kind::Pipe, 0o644));
        archive.directory("dir", 0o755).expect("room");
        for path in ["a/x", "b/x", "c/x", "file/x", "dir"] {
            let error = archive.file(path, 0o644, b"").expect_err("no way");
            assert!(
                error.message.contains(&format!("/{}", path.trim_end_matches("/x"))),
                "{}",
                error.message
            );
        }
        // A link that is replaced itself is not followed.
        assert!(archive.file("f", 0o644, b"z").expect("a way"));
        assert!(matches!(&archive.entries[b"f".as_slice()].kind, Kind::File(bytes) if &**bytes == b"z"));
    }

    #[test]
    fn the_names_of_one_file_share_its_contents() {
        let contents: Rc<[u8]> = (*b"contents").into();
        let mut archive = Archive::new();
        for name in ["a", "b", "c"] {
            let kind = Kind::File(Rc::clone(&contents));
            archive.add(name.into(), Entry { kind, mode: 0o640, uid: 5, gid: 6 });
        }
        archive.file("b", 0o755, b"other").expect("room");
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        assert_eq!(text.matches("contents").count(), 1);
        // Two names are left, of one inode, with mode, owner and group.
        assert_eq!(text.matches("000081a0000000050000000600000002").count(), 2, "{text}");
    }
}
