//! The data directory: what outlives every VM, such as guest kernels and images.

use std::ffi::OsString;
use std::path::PathBuf;

/// The environment variable that names the data directory.
pub const ENVIRONMENT: &str = "PEPITA_DATA_DIR";

/// The directory of guest kernels in the data directory.
pub const KERNELS: &str = "kernels";

/// The directory of container images in the data directory.
pub const IMAGES: &str = "images";

/// The directory of disks in the data directory.
pub const DISKS: &str = "disks";

/// Returns the data directory of a user: `$PEPITA_DATA_DIR`, else for root `/var/lib/pepita`, for others the directory
/// `pepita` in `$XDG_DATA_HOME`, else in `~/.local/share` (XDG Base Directory Specification). `variable` reads the
/// environment. Returns `None` for a user without a home directory.
pub fn directory(uid: u32, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(named) = variable(ENVIRONMENT).filter(|named| !named.is_empty()) {
        return Some(PathBuf::from(named));
    }
    // Root's shell and root's services have different environments, and are to find the same data.
    if uid == 0 {
        return Some(PathBuf::from("/var/lib/pepita"));
    }
    // A path that is not absolute is to be ignored.
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(base.join("pepita"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_root_and_of_a_user_have_one_place_each() {
        let of = |uid, variables: &[(&str, &str)]| {
            let value =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            directory(uid, value).map(|path| path.to_string_lossy().into_owned())
        };
        let home = ("HOME", "/home/a");
        assert_eq!(of(0, &[("XDG_DATA_HOME", "/x"), home]).as_deref(), Some("/var/lib/pepita"));
        assert_eq!(of(0, &[(ENVIRONMENT, "/data")]).as_deref(), Some("/data"));
        assert_eq!(of(7, &[("XDG_DATA_HOME", "/x"), home]).as_deref(), Some("/x/pepita"));
        assert_eq!(of(7, &[("XDG_DATA_HOME", "x"), home]).as_deref(), Some("/home/a/.local/share/pepita"));
        assert_eq!(of(7, &[]), None);
    }
}
