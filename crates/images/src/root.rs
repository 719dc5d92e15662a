//! Writes the root file system of an image. The form of the root is behind [`RootWriter`], so that another form (erofs)
//! is another implementation.

use crate::error::{Result, bad};
use crate::layer::Spool;
use crate::tree::{Kind, Meta, Tree};
use std::collections::BTreeMap;
use std::io::Read;

/// A root file system that is being written. Paths begin with a slash; a directory is made before what is in it.
pub trait RootWriter {
    /// Makes a directory. The root `/` is there, and gets these properties.
    ///
    /// # Errors
    /// When it cannot be written, or the form cannot hold it.
    fn directory(&mut self, path: &str, meta: &Meta) -> Result<()>;
    /// Makes a file with these contents.
    ///
    /// # Errors
    /// Those of [`RootWriter::directory`].
    fn file(&mut self, path: &str, meta: &Meta, contents: &mut dyn Read) -> Result<()>;
    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Those of [`RootWriter::directory`].
    fn symlink(&mut self, path: &str, meta: &Meta, target: &str) -> Result<()>;
    /// Makes a device or a named pipe.
    ///
    /// # Errors
    /// Those of [`RootWriter::directory`].
    fn special(&mut self, path: &str, meta: &Meta, kind: &Kind) -> Result<()>;
    /// Makes another name for a file that is there.
    ///
    /// # Errors
    /// Those of [`RootWriter::directory`].
    fn link(&mut self, path: &str, target: &str) -> Result<()>;
    /// Completes the root, and synchronises it to the disk.
    ///
    /// # Errors
    /// When that fails.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Writes a tree, whose files' contents lie in the spool.
///
/// # Errors
/// When the root cannot be written.
pub fn write(tree: &Tree, spool: &Spool, mut root: Box<dyn RootWriter + '_>) -> Result<()> {
    let mut first: BTreeMap<usize, String> = BTreeMap::new();
    for (path, number) in tree.walk() {
        if let Some(target) = first.get(&number) {
            root.link(&path, target)?;
            continue;
        }
        let node = tree.node(number);
        match &node.kind {
            Kind::Directory => root.directory(&path, &node.meta)?,
            Kind::File { at, length } => {
                let mut contents = spool.read(*at, *length);
                root.file(&path, &node.meta, &mut contents)?;
                if contents.limit() > 0 {
                    return Err(bad(format!("{path}: its contents are cut short")));
                }
            }
            Kind::Symlink(target) => root.symlink(&path, &node.meta, target)?,
            Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Pipe => {
                root.special(&path, &node.meta, &node.kind)?;
            }
        }
        if node.kind != Kind::Directory {
            first.insert(number, path);
        }
    }
    root.finish()
}
