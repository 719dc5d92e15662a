//! Writes roots as ext4, without a mount and without privileges.
//!
//! The writing is done by `arcbox-ext4`, which knows no devices and no named pipes. It takes any type of file for a link,
//! though, and an empty link leaves the numbers of a device empty: they are put into the finished file system.

use crate::error::{Result, bad, io};
use crate::root::RootWriter;
use crate::tree::{Kind, Meta};
use arcbox_ext4::constants::{file_mode, make_mode};
use arcbox_ext4::error::FormatError;
use arcbox_ext4::{FileTimestamps, FormatOptions, Formatter};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BLOCK: u64 = 4096;

/// The types of files that the writer's crate does not name (inode(7)).
const CHAR_DEVICE: u16 = 0x2000;
const BLOCK_DEVICE: u16 = 0x6000;
const PIPE: u16 = 0x1000;

/// The number of the first inode that is not `/lost+found`'s.
const FIRST_INODE: u64 = 12;

/// An ext4 file system that is being written.
pub struct Ext4 {
    path: PathBuf,
    formatter: Formatter,
    /// The number of the next inode. The formatter counts them up.
    next: u64,
    /// The inodes of devices, with the numbers that they need.
    devices: Vec<(u64, u32, u32)>,
}

impl Ext4 {
    /// Begins a file system in a new file. `bytes` is the length of all files, `files` their number.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path, bytes: u64, files: usize) -> Result<Self> {
        // Each file has an inode, an entry in a directory, and ends within a block. The file is sparse.
        let size = bytes + files as u64 * (BLOCK + 512) + bytes / 16 + (16 << 20);
        let formatter = Formatter::with_options(path, FormatOptions::new(size.next_multiple_of(BLOCK)));
        let formatter = formatter.map_err(|e| failed(path, "/", e))?;
        Ok(Self { path: path.to_owned(), formatter, next: FIRST_INODE, devices: Vec::new() })
    }

    fn add(
        &mut self,
        path: &str,
        mode: u16,
        meta: &Meta,
        link: Option<&str>,
        data: Option<&mut dyn Read>,
    ) -> Result<()> {
        let xattrs: HashMap<String, Vec<u8>> =
            meta.xattrs.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let xattrs = Some(&xattrs).filter(|xattrs| !xattrs.is_empty());
        let is_new = !self.formatter.exists(path);
        let (uid, gid) = (Some(meta.uid), Some(meta.gid));
        let times = Some(times(meta));
        let made = self.formatter.create(path, mode, link, times, data, uid, gid, xattrs);
        made.map_err(|e| failed(&self.path, path, e))?;
        if is_new {
            self.next += 1;
        }
        Ok(())
    }
}

impl RootWriter for Ext4 {
    fn directory(&mut self, path: &str, meta: &Meta) -> Result<()> {
        if path == "/" {
            let set = |formatter: &mut Formatter| {
                formatter.set_permissions(path, meta.mode)?;
                formatter.set_owner(path, meta.uid, meta.gid)
            };
            return set(&mut self.formatter).map_err(|e| failed(&self.path, path, e));
        }
        self.add(path, make_mode(file_mode::S_IFDIR, meta.mode), meta, None, None)
    }

    fn file(&mut self, path: &str, meta: &Meta, contents: &mut dyn Read) -> Result<()> {
        self.add(path, make_mode(file_mode::S_IFREG, meta.mode), meta, None, Some(contents))
    }

    fn symlink(&mut self, path: &str, meta: &Meta, target: &str) -> Result<()> {
        self.add(path, make_mode(file_mode::S_IFLNK, 0o777), meta, Some(target), None)
    }

    fn special(&mut self, path: &str, meta: &Meta, kind: &Kind) -> Result<()> {
        let mode = match kind {
            Kind::CharDevice(major, minor) => {
                self.devices.push((self.next, *major, *minor));
                CHAR_DEVICE
            }
            Kind::BlockDevice(major, minor) => {
                self.devices.push((self.next, *major, *minor));
                BLOCK_DEVICE
            }
            Kind::Pipe => PIPE,
            Kind::Directory | Kind::File { .. } | Kind::Symlink(_) => {
                return Err(bad(format!("{path}: neither a device nor a pipe")));
            }
        };
        self.add(path, mode | meta.mode, meta, Some(""), None)?;
        // A link may be used by everybody, a device not.
        self.formatter.set_permissions(path, meta.mode).map_err(|e| failed(&self.path, path, e))
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.formatter.link(path, target).map_err(|e| failed(&self.path, path, e))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { path, formatter, devices, .. } = *self;
        formatter.close().map_err(|e| failed(&path, "/", e))?;
        complete(&path, &devices).map_err(|e| io(&path, e))
    }
}

/// Gives the file its length, puts the numbers of devices into their inodes, and synchronises the file.
fn complete(path: &Path, devices: &[(u64, u32, u32)]) -> std::io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    // The file system ends with a whole group of blocks, and no kernel mounts one that is longer than its disk.
    let mut blocks = [0; 4];
    file.read_exact_at(&mut blocks, 1024 + 4)?;
    file.set_len(u64::from(u32::from_le_bytes(blocks)) * BLOCK)?;
    if !devices.is_empty() {
        // The first group's descriptor is in the second block; the inode tables of all groups lie behind each other.
        let mut word = [0; 4];
        file.read_exact_at(&mut word, BLOCK + 8)?;
        let table = u64::from(u32::from_le_bytes(word)) * BLOCK;
        for (inode, major, minor) in devices {
            let at = table + (inode - 1) * 256 + 40;
            // The kernel's new_encode_dev(), in the second word of the block map (ext4_iget).
            let number = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
            file.write_all_at(&[0_u32.to_le_bytes(), number.to_le_bytes()].concat(), at)?;
        }
    }
    file.sync_all()
}

fn times(meta: &Meta) -> FileTimestamps {
    let seconds = u32::try_from(meta.mtime).unwrap_or(u32::MAX);
    FileTimestamps {
        access_lo: seconds,
        access_hi: 0,
        modification_lo: seconds,
        modification_hi: 0,
        creation_lo: seconds,
        creation_hi: 0,
        // The same image gives the same times.
        now_lo: seconds,
        now_hi: 0,
    }
}

fn failed(root: &Path, path: &str, e: FormatError) -> crate::error::CallError {
    match e {
        FormatError::Io(e) => io(root, e),
        other => bad(format!("{path}: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Spool, apply};
    use crate::root::write;
    use crate::tree::Tree;
    use std::process::Command;

    /// Returns a layer with every kind of file.
    fn layer() -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add =
            |path: &str, kind: tar::EntryType, contents: &[u8], change: &dyn Fn(&mut tar::Header)| {
                let mut header = tar::Header::new_ustar();
                header.set_entry_type(kind);
                header.set_mode(0o640);
                header.set_uid(70_000);
                header.set_gid(999);
                header.set_mtime(1_000_000_000);
                header.set_size(contents.len() as u64);
                change(&mut header);
                archive.append_data(&mut header, path, contents).expect("written");
            };
        let none = |_: &mut tar::Header| {};
        let device = |major, minor| {
            move |header: &mut tar::Header| {
                header.set_device_major(major).expect("ustar");
                header.set_device_minor(minor).expect("ustar");
            }
        };
        let target =
            |path: &'static str| move |header: &mut tar::Header| header.set_link_name(path).expect("short");
        add("dir/", tar::EntryType::Directory, b"", &none);
        add("dir/file", tar::EntryType::Regular, &[7; 10_000], &none);
        add("dir/empty", tar::EntryType::Regular, b"", &none);
        add("null", tar::EntryType::Char, b"", &device(1, 3));
        add("large", tar::EntryType::Block, b"", &device(259, 300));
        add("pipe", tar::EntryType::Fifo, b"", &none);
        add("hard", tar::EntryType::Link, b"", &target("dir/file"));
        add("soft", tar::EntryType::Symlink, b"", &target("/dir/file"));
        archive.into_inner().expect("written")
    }

    #[test]
    fn what_a_layer_has_is_in_the_file_system_and_the_check_finds_no_fault() {
        let dir = tempfile::tempdir().expect("a directory");
        let (tar, image) = (dir.path().join("layer"), dir.path().join("root.ext4"));
        std::fs::write(&tar, layer()).expect("written");
        let mut spool = Spool::create(&dir.path().join("spool"), 1 << 20).expect("made");
        let mut tree = Tree::default();
        apply(&mut tree, &mut spool, &tar, "1").expect("a good layer");
        spool.flush().expect("written");
        let root = Ext4::create(&image, spool.length(), tree.walk().len()).expect("made");
        write(&tree, &spool, Box::new(root)).expect("written");
        let run = |program: &str, args: &[&str]| {
            let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").expect("a PATH"));
            let output = Command::new(program).env("PATH", path).args(args).arg(&image).output();
            let output = output.expect("e2fsprogs is installed (make setup)");
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stdout));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        run("e2fsck", &["-f", "-n"]);
        for (path, expected) in [
            ("null", "Device major/minor number: 01:03"),
            ("large", "Device major/minor number: 259:300"),
            ("pipe", "Type: FIFO"),
            ("pipe", "Mode:  0640"),
            ("dir/file", "User: 70000   Group:   999"),
            ("dir/file", "Links: 2"),
            ("dir/empty", "Size: 0"),
            ("soft", "Fast link dest: \"/dir/file\""),
        ] {
            let said = run("debugfs", &["-R", &format!("stat {path}")]);
            assert!(said.contains(expected), "{path}: {said}");
        }
        assert_eq!(run("debugfs", &["-R", "cat hard"]).into_bytes(), [7; 10_000]);
    }
}
