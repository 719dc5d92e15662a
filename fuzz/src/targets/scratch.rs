//! A directory for the targets whose parsers read files, one for each process.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A directory that is made once. The script of the fuzz targets removes it with everything in `$TMPDIR`.
#[derive(Debug)]
pub(super) struct Scratch;

impl Scratch {
    /// Runs a function with the directory of a name.
    pub(super) fn with(name: &str, run: impl FnOnce(&Path)) {
        static DIR: OnceLock<PathBuf> = OnceLock::new();
        let dir = DIR.get_or_init(|| {
            let dir = std::env::temp_dir().join(format!("pepita-fuzz-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a directory in $TMPDIR");
            dir
        });
        run(dir);
    }
}
