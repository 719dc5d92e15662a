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

/// The server of shares.
pub const VIRTIOFSD: Program = Program {
    name: "virtiofsd",
    variable: "PEPITA_VIRTIOFSD",
    advice: "install it: apt-get install virtiofsd (Debian 12: it is in qemu-system-common)",
};

/// The program that configures network devices.
pub const IP: Program = Program {
    name: "ip",
    variable: "PEPITA_IP",
    advice: "network = \"tap\" needs it: apt-get install iproute2",
};

/// The program that writes the kernel's rules for packets.
pub const NFT: Program = Program {
    name: "nft",
    variable: "PEPITA_NFT",
    advice: "network = \"tap\" needs it to keep guests to themselves: apt-get install nftables",
};

/// The directories that may be outside of PATH, and in which distributions keep such programs.
const LIBRARY_DIRS: [&str; 4] = ["/usr/libexec", "/usr/lib/qemu", "/usr/sbin", "/sbin"];

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
        let dirs = dirs.chain(LIBRARY_DIRS.map(PathBuf::from));
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
        read.is_ok() && loader(&head).is_none()
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

/// Returns the loader that an ELF file names in its segment PT_INTERP, as a path: the kernel starts the program only with
/// it (elf(5)). The file may be a part of a program, or hostile.
pub fn loader(program: &[u8]) -> Option<String> {
    const PT_INTERP: u64 = 3;
    let number = |at: u64, bytes: u64| -> Option<u64> {
        let (from, to) = (usize::try_from(at).ok()?, usize::try_from(at.checked_add(bytes)?).ok()?);
        Some(program.get(from..to)?.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    if !program.starts_with(b"\x7fELF") {
        return None;
    }
    // The places of the fields differ between files of 32 and of 64 bits.
    let (offset, size, count, place, length, word) = match program.get(4)? {
        1 => (0x1c, 0x2a, 0x2c, 4, 16, 4),
        _ => (0x20, 0x36, 0x38, 8, 32, 8),
    };
    let (offset, size, count) = (number(offset, word)?, number(size, 2)?, number(count, 2)?);
    let header = (0..count).filter_map(|index| offset.checked_add(index * size));
    let found =
        header.take_while(|at| number(*at, 4).is_some()).find(|at| number(*at, 4) == Some(PT_INTERP))?;
    let from = usize::try_from(number(found + place, word)?).ok()?;
    let length = usize::try_from(number(found + length, word)?).ok()?;
    let text = program.get(from..).unwrap_or_default();
    let text = &text[..text.len().min(length)];
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_program_of_this_host_names_its_loader_and_a_script_none() {
        let test = std::fs::read(std::env::current_exe().expect("this test")).expect("read");
        assert_eq!(loader(&test).as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert!(loader(&test[..4096]).is_some(), "the first bytes suffice");
        assert_eq!(loader(b"#!/bin/sh\n"), None);
    }

    proptest! {
        #[test]
        fn no_program_breaks_it(
            class in 1_u8..3,
            bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(3), Just(255), any::<u8>()], 0..200),
        ) {
            loader(&[b"\x7fELF", &[class][..], &bytes].concat());
        }
    }
}
