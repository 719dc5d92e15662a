//! The facts of a host against which a file is checked. The program supplies them: they depend on the environment and on
//! the launcher.

use std::path::Path;

/// What a program knows of its host and of its launcher, beside the file.
#[derive(Clone, Copy, Default)]
pub struct HostFacts<'h> {
    /// The run directory of a file that names none.
    pub run_dir: Option<&'h Path>,
    /// Returns how much memory a kernel and a root file system need to boot, in MiB, if that is known.
    pub needed_mb: Option<NeededMb<'h>>,
}

/// A function of a kernel and a root file system that returns the memory that they need to boot, in MiB, if it is known.
pub type NeededMb<'h> = &'h dyn Fn(&Path, &Path) -> Option<u64>;
