//! Adds the world of a VM's daemon to an order to start it, with the contents of its secrets, which are in no file of the
//! run directory.

use crate::vm_config::VmRequest;
use pepita_wire::agent::Start;
use pepita_wire::world::{SECRETS_CAP, Secret};
use pepita_wire::{ErrorKind, WireError};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What a supervisor puts in front of the names of its VMs. A guest knows itself by the rest.
const PREFIX: &str = "duende-vm-";

/// Returns the name by which the guest of a VM knows itself.
pub(super) fn name_in_guest(vm: &str) -> &str {
    vm.strip_prefix(PREFIX).unwrap_or(vm)
}

/// Returns an order to start the daemon, with the world that the VM was launched with.
///
/// # Errors
/// [`ErrorKind::NotFound`] with the secret that cannot be read.
pub(super) fn start(request: &VmRequest, start: Start) -> Result<Start, WireError> {
    let secrets = secrets(&request.secrets).map_err(|why| WireError::new(ErrorKind::NotFound, why))?;
    Ok(in_world(request, name_in_guest(&request.name), secrets, start))
}

/// Returns the order by which the guest of a spare prepares itself for the start of the daemon of the VM `of`, which is the name
/// by which that VM's guest knows itself. It has the names of the secrets: their contents are read when the VM starts.
pub(super) fn preparation(request: &VmRequest, of: &str, start: Start) -> Start {
    let secrets = request.secrets.keys().map(|name| (name.clone(), Secret::default())).collect();
    in_world(request, of, secrets, start)
}

fn in_world(request: &VmRequest, name: &str, secrets: BTreeMap<String, Secret>, start: Start) -> Start {
    let world = pepita_wire::world::World { secrets, ..request.world.clone() };
    let reach = request.reach.iter().map(|reached| reached.at.clone()).collect();
    Start { name: Some(name.to_owned()), world: world.into(), reach, network: request.card(), ..start }
}

/// Reads the files of secrets.
///
/// # Errors
/// A sentence with the secret that cannot be read, or with which there are too many bytes.
pub(crate) fn secrets(files: &BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, Secret>, String> {
    let mut left = SECRETS_CAP;
    let mut secrets = BTreeMap::new();
    for (name, path) in files {
        let failed = |why: String| format!("secret {name}: {}: {why}", path.display());
        let contents = read(path, left).map_err(|e| failed(e.to_string()))?;
        left = left.checked_sub(contents.len()).ok_or_else(|| {
            failed(format!("the secrets of a VM have {SECRETS_CAP} bytes at most, together"))
        })?;
        secrets.insert(name.clone(), Secret(contents));
    }
    Ok(secrets)
}

/// Reads a file up to one byte more than is wanted.
fn read(path: &Path, cap: usize) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    File::open(path)?.take(cap as u64 + 1).read_to_end(&mut contents)?;
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm_config::tests::{request, tap};

    #[test]
    fn a_start_has_the_world_of_its_vm_and_the_contents_of_its_secrets() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        std::fs::write(&path, b"\0k\xff").expect("written");
        let secrets: BTreeMap<_, _> = [("key".to_owned(), path.clone())].into();
        let request = VmRequest { name: "duende-vm-cache".into(), secrets, ..request() };
        let asked = Start { command: vec!["/d".into()], ..Start::default() };
        let ordered = start(&request, asked).expect("readable");
        assert_eq!((ordered.name.as_deref(), ordered.command.len()), (Some("cache"), 1));
        assert_eq!(ordered.world.user.as_deref(), Some("7:8"));
        assert_eq!(ordered.reach.iter().map(ToString::to_string).collect::<Vec<_>>(), ["db:5432"]);
        assert_eq!(ordered.network, request.network.card());
        let tapped = VmRequest { tap: Some(tap()), ..request.clone() };
        let ordered = start(&tapped, Start::default()).expect("readable");
        assert_eq!(ordered.network, Some(tap().card));
        assert_eq!(ordered.world.secrets["key"], Secret(b"\0k\xff".to_vec()));

        // A guest that is prepared for this start does not know the secrets yet.
        let asked = Start { command: vec!["/d".into()], ..Start::default() };
        let spare = VmRequest { name: "duende-vm-cache-spare-1".into(), ..request.clone() };
        let prepared = preparation(&spare, "cache", asked.clone());
        let ordered = start(&request, asked).expect("readable");
        assert!(prepared.is_for(&ordered) && prepared != ordered);

        std::fs::write(&path, vec![0; SECRETS_CAP + 1]).expect("written");
        let refused = start(&request, Start::default()).expect_err("too long");
        assert!(refused.message.contains("secret key") && refused.message.contains("65536"), "{refused}");
        std::fs::remove_file(&path).expect("removed");
        let refused = start(&request, Start::default()).expect_err("absent");
        assert!(refused.message.contains(&*path.to_string_lossy()), "{refused}");
    }
}
