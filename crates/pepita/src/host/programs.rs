//! The programs that the launcher needs beside itself, and where it looks for them.

use crate::error::{Result, call_error};
use pepita_wire::record::CallErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A program that the launcher needs, and the advice for a host without it.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The file name of the program.
    pub name: &'static str,
    /// The environment variable that names the path of the program.
    pub variable: &'static str,
    /// The advice that is printed when the program is not found.
    pub advice: &'static str,
}

/// The VMM: QEMU.
pub const QEMU: Program = Program {
    name: "qemu-system-x86_64",
    variable: "PEPITA_QEMU",
    advice: "install it: apt-get install --no-install-recommends qemu-system-x86",
};

/// The vsock back-end, for hosts whose kernel has no vsock for guests.
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

/// The program for container images.
pub const IMAGES: Program = Program {
    name: "pepita-image",
    variable: "PEPITA_IMAGE",
    advice: "build it: cargo build -p pepita-images",
};

impl Program {
    /// Finds the program: named by its variable, beside this program, or in PATH.
    pub fn find(&self) -> Option<PathBuf> {
        self.candidates().into_iter().find(|path| is_program(path))
    }

    fn candidates(&self) -> Vec<PathBuf> {
        if let Some(named) = std::env::var_os(self.variable).filter(|v| !v.is_empty()) {
            // A relative path is relative to the current directory of this process. The monitor has another one, so the
            // path is made absolute here.
            return vec![std::path::absolute(&named).unwrap_or_else(|_| PathBuf::from(named))];
        }
        let beside = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
        let path = std::env::var_os("PATH").unwrap_or_default();
        // A build in the repository finds its tools in `.tools/bin` and `.guest`, beside `target/<profile>`.
        let top = beside.as_deref().and_then(|dir| dir.ancestors().nth(2)).map(Path::to_owned);
        let tools = top.into_iter().flat_map(|top| [top.join(".tools/bin"), top.join(".guest")]);
        let dirs = beside.clone().into_iter().chain(tools).chain(std::env::split_paths(&path));
        dirs.map(|dir| dir.join(self.name)).collect()
    }

    /// Finds the program.
    ///
    /// # Errors
    /// When the program is not found. The message contains the advice.
    pub fn require(&self) -> Result<PathBuf> {
        self.find().ok_or_else(|| {
            let Self { name, variable, advice } = self;
            call_error(
                CallErrorKind::VmmMissing,
                format!("{name} is neither in ${variable}, nor beside pepita, nor in PATH; {advice}"),
            )
        })
    }
}

/// Finds the guest agent for an image. The agent has to be linked statically: a guest has no loader.
///
/// # Errors
/// When there is no such agent.
pub fn static_agent() -> Result<PathBuf> {
    let is_static = |path: &PathBuf| {
        use std::io::Read;
        let mut head = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut head));
        read.is_ok() && !needs_a_loader(&head)
    };
    let mut found = AGENT.candidates().into_iter().filter(|path| is_program(path)).peekable();
    let first = found.peek().cloned();
    match (found.find(is_static), first) {
        (Some(path), _) => Ok(path),
        (None, None) => AGENT.require(),
        (None, Some(path)) => Err(call_error(
            CallErrorKind::BadImage,
            format!(
                "{}: not statically linked, a guest could not run it; build it with \
                 RUSTFLAGS=\"-C target-feature=+crt-static\" cargo build --target x86_64-unknown-linux-gnu \
                 -p pepita-guest, and name it with ${}",
                path.display(),
                AGENT.variable
            ),
        )),
    }
}

/// Returns whether a program needs a loader. An ELF file with a PT_INTERP segment names its loader as text near its
/// beginning.
pub fn needs_a_loader(program: &[u8]) -> bool {
    let head = &program[..program.len().min(4096)];
    head.starts_with(b"\x7fELF") && head.windows(5).any(|w| w == b"/lib6" || w == b"/lib/")
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
