//! Programs that `pepita` needs beside itself, and where it looks for them.

use crate::failure::{Outcome, failure};
use pepita_wire::record::CallErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A program, and what to do when it is missing.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its file name.
    pub name: &'static str,
    /// The environment variable that names it.
    pub variable: &'static str,
    /// What to do when it is nowhere.
    pub advice: &'static str,
}

/// The VMM.
pub const QEMU: Program = Program {
    name: "qemu-system-x86_64",
    variable: "PEPITA_QEMU",
    advice: "install it: apt-get install --no-install-recommends qemu-system-x86",
};

/// vsock where the host's kernel has none.
pub const BACKEND: Program = Program {
    name: "vhost-device-vsock",
    variable: "PEPITA_VHOST_DEVICE_VSOCK",
    advice: "install it: cargo install vhost-device-vsock --version 0.3.0 --locked",
};

/// The guest agent.
pub const AGENT: Program = Program {
    name: "daemonctl",
    variable: "PEPITA_AGENT",
    advice: "build it: cargo build -p pepita-guest (statically linked for images)",
};

impl Program {
    /// Where it is: named by its variable, beside this program, or in PATH.
    pub fn find(&self) -> Option<PathBuf> {
        if let Some(named) = std::env::var_os(self.variable).filter(|v| !v.is_empty()) {
            return Some(PathBuf::from(named)).filter(|path| is_program(path));
        }
        let beside = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
        let path = std::env::var_os("PATH").unwrap_or_default();
        // The repository's own tools lie in `.tools/bin` beside `target/<profile>`.
        let tools =
            beside.as_deref().and_then(|dir| dir.ancestors().nth(2)).map(|top| top.join(".tools/bin"));
        let dirs = beside.into_iter().chain(tools).chain(std::env::split_paths(&path));
        dirs.map(|dir| dir.join(self.name)).find(|path| is_program(path))
    }

    /// Where it is, or what to do.
    ///
    /// # Errors
    /// When it is nowhere.
    pub fn require(&self) -> Outcome<PathBuf> {
        self.find().ok_or_else(|| {
            let Self { name, variable, advice } = self;
            failure(
                CallErrorKind::VmmMissing,
                format!("{name} is neither in ${variable}, nor beside pepita, nor in PATH; {advice}"),
            )
        })
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
