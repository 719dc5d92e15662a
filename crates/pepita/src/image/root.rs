//! A root file system that is being put together: what an archive and a staged disk have in common.

use crate::error::{Result, call_error};
use pepita_wire::record::CallErrorKind;
use std::rc::Rc;

/// A root to which files can be added. Every path is a path of the guest: a symbolic link of a tree leads to another
/// place in the same root, as it does for the guest, and never to a place of the host.
pub(crate) trait Root {
    /// Makes a directory, and the directories above it, unless they are there.
    ///
    /// # Errors
    /// When something else is in the way, or a link leads to no directory of the root.
    fn directory(&mut self, path: &str, mode: u32) -> Result<()>;

    /// Writes a file, owned by root, with the directories above it. A file or link of that name is replaced, not
    /// followed. Returns whether there was one.
    ///
    /// # Errors
    /// When a directory is in the way, and for the reasons of [`Root::directory`].
    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<bool>;

    /// Returns the contents of the file to which a path leads; `None` when it leads to no file.
    fn contents(&self, path: &str) -> Option<Rc<[u8]>>;

    /// Returns the path, from the root on, of the file or directory to which a path leads after all links.
    fn resolved(&self, path: &str) -> Option<String>;

    /// Returns the names in the directory to which a path leads, in the order of their bytes; none without a directory.
    fn names(&self, path: &str) -> Vec<String>;
}

/// Returns the error of a path of a root that the image needs and cannot have.
pub(super) fn blocked(path: &str, why: &str) -> crate::error::CallError {
    call_error(CallErrorKind::BadImage, format!("--dir: /{path} of the image: {why}"))
}

/// Returns why a link in a tree is of no use.
pub(super) fn dangling(target: &str) -> String {
    format!(
        "it is a link to {target}, and the tree has no such directory; the image needs a directory here, or a link to \
         one in the tree"
    )
}

/// The reason why a path with a circle of links cannot be used.
pub(super) const CIRCLE: &str = "its links lead in a circle; the image needs a directory here";

/// The reason why a path below a file cannot be used.
pub(super) const NO_DIRECTORY: &str = "it is no directory, and the image needs one here";

/// The reason why a directory cannot be replaced.
pub(super) const IS_DIRECTORY: &str = "it is a directory, and the image needs a file of this name";
