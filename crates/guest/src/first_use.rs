//! Prepares a disk that is used for the first time.

use pepita_copy::{CopyError, Owner, Sender, Unpacking, pack, unpack};
use std::fs::{File, Permissions, create_dir, read_dir, remove_dir, set_permissions};
use std::io::{self, BufWriter};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// The directory that mke2fs makes in a new file system.
const LOST_AND_FOUND: &str = "lost+found";

/// The directory in [`LOST_AND_FOUND`] that says that the files of the image are being copied. The name is none that
/// e2fsck gives.
const COPYING: &str = "image-files";

/// The size of one write to the copy.
const WRITE: usize = 64 * 1024;

/// Gives the disk that is mounted at `target`, if it is new, the owner, the mode and the files that its place has in the
/// image, as docker does with a new volume: a daemon that is not root can write to it, and finds what its image has there.
/// `place` is the image's directory, opened before the disk was mounted over it.
///
/// A guest may end in the middle of this. The next one then begins again, because the disk still says that it is new.
///
/// The directory lost+found is taken away, because programs such as initdb want an empty directory; e2fsck makes it again
/// when it needs it.
///
/// Returns what was left out, in words: sockets, FIFOs, devices, and what cannot be read.
///
/// # Errors
/// When the disk cannot be read or written.
pub(crate) fn settle(target: &str, place: &File) -> io::Result<Option<String>> {
    let lost_and_found = Path::new(target).join(LOST_AND_FOUND);
    let copying = lost_and_found.join(COPYING);
    if !copying.exists() && !has_only_lost_and_found(target, &lost_and_found)? {
        return Ok(None);
    }
    // What e2fsck has found is somebody's.
    if read_dir(&lost_and_found)?.any(|entry| entry.is_ok_and(|entry| entry.file_name() != COPYING)) {
        return Ok(None);
    }
    match create_dir(&copying) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let left_out = copy(place, Path::new(target))?;
    let of_image = place.metadata()?;
    chown(target, Some(of_image.uid()), Some(of_image.gid()))?;
    set_permissions(target, Permissions::from_mode(of_image.mode() & 0o7777))?;
    rustix::fs::syncfs(File::open(target)?)?;
    remove_dir(copying)?;
    remove_dir(lost_and_found)?;
    Ok(left_out)
}

/// Returns whether a disk is as mke2fs makes it. An empty one without lost+found was settled before: its owner may have
/// changed it since.
fn has_only_lost_and_found(target: &str, lost_and_found: &Path) -> io::Result<bool> {
    let is_other =
        |entry: io::Result<std::fs::DirEntry>| !entry.is_ok_and(|e| e.file_name() == LOST_AND_FOUND);
    Ok(lost_and_found.exists() && !read_dir(target)?.any(is_other))
}

/// Copies what is in a directory, with owners and modes. What is there already is replaced. Returns what was left out.
fn copy(from: &File, to: &Path) -> io::Result<Option<String>> {
    let source = PathBuf::from(format!("/proc/self/fd/{}/.", from.as_raw_fd()));
    let (mut reader, writer) = io::pipe()?;
    let packer = std::thread::Builder::new().spawn(move || {
        let mut writer = BufWriter::with_capacity(WRITE, writer);
        pack(&source, true, &mut writer)
    })?;
    let unpacking =
        Unpacking { place: to, into_directory: true, owner: Owner::Kept, sender: Sender::Trusted };
    let unpacked = unpack(&unpacking, &mut reader);
    drop(reader);
    let packed = packer.join().map_err(|_| io::Error::other("the copy broke off"))?;
    let failed = |e: CopyError| io::Error::other(e.to_string());
    // An error of the unpacking makes the packing fail as well, and is the reason.
    let (unpacked, packed) = (unpacked.map_err(failed)?, packed.map_err(failed)?);
    let left_out = [packed, unpacked].into_iter().filter(|report| !report.is_whole());
    let words = left_out.map(|report| report.to_string()).collect::<Vec<_>>().join("; ");
    Ok((!words.is_empty()).then_some(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, read_to_string, write};

    struct Yard {
        dir: tempfile::TempDir,
    }

    impl Yard {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            create_dir_all(dir.path().join("image/conf.d")).expect("made");
            write(dir.path().join("image/conf.d/a"), "of the image").expect("written");
            set_permissions(dir.path().join("image"), Permissions::from_mode(0o2750)).expect("a mode");
            create_dir_all(dir.path().join("disk/lost+found")).expect("made");
            Self { dir }
        }

        fn disk(&self, name: &str) -> PathBuf {
            self.dir.path().join("disk").join(name)
        }

        fn settle(&self) {
            let place = File::open(self.dir.path().join("image")).expect("opened");
            settle(self.disk("").to_str().expect("a name"), &place).expect("settled");
        }

        fn names(&self) -> Vec<String> {
            let names = read_dir(self.disk("")).expect("readable").flatten();
            names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
    }

    #[test]
    fn a_new_disk_gets_the_files_and_the_mode_of_its_place() {
        let yard = Yard::new();
        yard.settle();
        assert_eq!(yard.names(), ["conf.d"]);
        assert_eq!(read_to_string(yard.disk("conf.d/a")).expect("readable"), "of the image");
        assert_eq!(yard.disk("").metadata().expect("there").permissions().mode() & 0o7777, 0o2750);
    }

    #[test]
    fn a_disk_that_was_settled_is_left_alone_also_when_it_is_empty() {
        let yard = Yard::new();
        yard.settle();
        std::fs::remove_dir_all(yard.disk("conf.d")).expect("removed");
        yard.settle();
        assert_eq!(yard.names(), [""; 0]);
    }

    #[test]
    fn a_copy_that_was_broken_off_is_done_again() {
        let yard = Yard::new();
        create_dir(yard.disk("lost+found/image-files")).expect("made");
        create_dir(yard.disk("conf.d")).expect("made");
        write(yard.disk("conf.d/a"), "of the").expect("written");
        yard.settle();
        assert_eq!(yard.names(), ["conf.d"]);
        assert_eq!(read_to_string(yard.disk("conf.d/a")).expect("readable"), "of the image");
    }

    #[test]
    fn a_disk_with_files_of_its_own_is_left_alone() {
        for other in ["mine", "lost+found/#12"] {
            let yard = Yard::new();
            write(yard.disk(other), "").expect("written");
            yard.settle();
            assert!(yard.disk("lost+found").exists() && !yard.disk("conf.d").exists(), "{other}");
        }
    }
}
