//! What `pepita cp` receives.

use super::scratch::Scratch;
use super::tar::with_sums;
use pepita_copy::{Owner, Sender, Unpacking, unpack};
use std::fs;
use std::path::Path;

/// The bytes that the files may have.
const BYTES: u64 = 1 << 20;

/// Reads the headers of an archive.
pub(super) fn entries(archive: &[u8]) {
    pepita_copy::fuzzing::entries(&with_sums(archive));
}

/// Unpacks the archive of a guest. Nothing is made outside of the target, and no link leads out of it.
pub(super) fn unpack_archive(archive: &[u8]) {
    let archive = with_sums(archive);
    Scratch::with("copy", |dir| {
        let (above, target) = (dir.join("above"), dir.join("above/target"));
        fs::create_dir_all(&target).expect("made");
        fs::write(above.join("secret"), "secret").expect("written");
        let sender = Sender::Hostile { max_bytes: BYTES };
        let unpacking = Unpacking { place: &target, into_directory: true, owner: Owner::Own, sender };
        if let Err(e) = unpack(&unpacking, &mut &archive[..]) {
            assert!(e.to_string().chars().count() < 16 << 10);
        }
        assert_eq!(fs::read_dir(&above).expect("there").count(), 2, "something was made beside the target");
        assert_eq!(fs::read(above.join("secret")).expect("there"), b"secret");
        let mut left = vec![target.clone()];
        while let Some(path) = left.pop() {
            let meta = path.symlink_metadata().expect("there");
            if meta.is_dir() {
                fs::set_permissions(&path, readable()).expect("ours");
                left.extend(
                    fs::read_dir(&path).expect("readable").map(|entry| entry.expect("an entry").path()),
                );
            } else if meta.is_symlink() {
                stays_within(&path, &target);
            }
        }
        fs::remove_dir_all(&above).expect("removed");
    });
}

fn readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o700)
}

fn stays_within(link: &Path, target: &Path) {
    if let Ok(real) = link.canonicalize() {
        assert!(
            real.starts_with(target.canonicalize().expect("there")),
            "{} leads to {}",
            link.display(),
            real.display()
        );
    }
}
