//! The arguments of `pepita cp`. Only definitions.

use clap::Args;
use pepita_wire::VmId;
use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

const EXAMPLES: &str = "Examples:
  A file out of a guest, and a directory into it
    pepita cp api:/etc/hosts .
    pepita cp ./site api:/srv/www
  The contents of a directory, as an archive
    pepita cp api:/var/lib/x/. - | tar -t
Directories are copied with all that is in them. A place that is a directory gets the copy inside; otherwise it is the copy's new \
name. A source that ends with /. is the contents of a directory. Modes, times, links and hard links are kept. What comes out of a \
guest belongs to the user of this program, has no set-user-ID, and no link of it leads out of the copy; what goes into a guest \
belongs to root there. --archive keeps the owners' numbers. Sockets, FIFOs and devices are left out. The image needs no program \
for it.
Exit codes: 0 ok, 4 no such VM, 64 usage, 74 failed, or something was left out, 75 try again, 77 permission.";

/// The arguments of `pepita cp`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Cp {
    /// What is copied: VM:PATH in a guest, a PATH of the host, or `-` for a tar archive from standard input
    #[arg(value_name = "SOURCE")]
    pub source: Place,
    /// Where it goes: VM:PATH in a guest, a PATH of the host, or `-` for a tar archive to standard output
    #[arg(value_name = "TARGET")]
    pub target: Place,
    /// Keep the owners' numbers (on the host this takes root)
    #[arg(long, short)]
    pub archive: bool,
    /// Follow a source that is a symbolic link
    #[arg(long, short = 'L')]
    pub follow_link: bool,
    /// Give up a copy out of a guest that is larger than this
    #[arg(long, value_name = "SIZE", value_parser = pepita_wire::storage::size_mb, default_value = "64GiB")]
    pub max_size: u64,
}

/// A place of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A path in the guest of a VM.
    Guest {
        /// The VM.
        vm: VmId,
        /// The path; a relative one begins at the root.
        path: String,
    },
    /// A path of the host.
    Host(PathBuf),
    /// Standard input or output, with an archive.
    Stream,
}

impl FromStr for Place {
    type Err = Infallible;

    /// Reads a place. As for docker, what begins with `/` or `.` is a path of the host, whatever colons it has.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        let host = || Self::Host(text.into());
        if text.starts_with(['/', '.']) {
            return Ok(host());
        }
        let guest = |(vm, path): (&str, &str)| {
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            Some(Self::Guest { vm: VmId::new(vm).ok()?, path })
        };
        Ok(text.split_once(':').and_then(guest).unwrap_or_else(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_makes_a_place_in_a_guest_unless_a_path_of_the_host_begins() {
        let place = |text: &str| text.parse::<Place>().expect("a place");
        let guest =
            |path: &str| Place::Guest { vm: VmId::new("api").expect("a name"), path: path.to_owned() };
        assert_eq!(place("api:/etc/hosts"), guest("/etc/hosts"));
        assert_eq!(place("api:etc/a:b"), guest("/etc/a:b"));
        assert_eq!(place("api:"), guest("/"));
        for text in ["./api:/x", "/api:/x", "api", "a b:/x", ":/x"] {
            assert_eq!(place(text), Place::Host(text.into()), "{text}");
        }
        assert_eq!(place("-"), Place::Stream);
    }
}
