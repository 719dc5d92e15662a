//! Finds the modules that a guest's kernel needs in a kernel package, in load order. The files may come from any
//! program, so their contents are checked.

use crate::error::{Result, call_error, io, system};
use crate::image::kernel::{missing, must_be_file};
use pepita_wire::record::CallErrorKind;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules that every guest needs: the bus, entropy, the console, vsock, and the device that tells the host of a
/// panic.
pub const FOR_ALL: [&str; 5] =
    ["virtio_mmio", "virtio_rng", "virtio_console", "vmw_vsock_virtio_transport", "pvpanic_mmio"];

/// The driver of a network card.
pub const FOR_NETWORK: &str = "virtio_net";

/// The drivers that a guest loads when it needs them: those of disks, of shares, of a network card, and of the balloon, by which
/// it gives memory back while it sleeps.
pub const WHEN_NEEDED: [&str; 4] = ["virtio_blk", "virtiofs", FOR_NETWORK, FOR_SLEEP];

/// The driver of the balloon.
pub const FOR_SLEEP: &str = "virtio_balloon";

/// The module of shares.
pub const FOR_SHARE: &str = "virtiofs";

/// The modules that an initrd needs to mount a disk.
pub const FOR_DISK: [&str; 6] = [
    "virtio_mmio",
    "virtio_rng",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "virtio_blk",
    "pvpanic_mmio",
];

/// The modules that an initrd needs to mount a root that VMs share.
pub const FOR_SHARED_ROOT: [&str; 7] = [
    "virtio_mmio",
    "virtio_rng",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "virtio_blk",
    "overlay",
    "pvpanic_mmio",
];

/// What a kernel package is called in an error.
const PACKAGE: &str = "kernel package (a directory with modules, or a .deb)";

/// The maximum number of modules that are read from one package.
const MODULES_CAP: usize = 20_000;

/// Returns the files of the wanted modules and of the modules that they depend on, in load order. A module without a
/// file is built into the kernel.
///
/// # Errors
/// When the package has no modules, or compressed modules.
pub fn find(package: &Path, wanted: &[impl AsRef<str>]) -> Result<Vec<PathBuf>> {
    package.metadata().map_err(|e| missing(PACKAGE, package, &e))?;
    let mut files = BTreeMap::new();
    collect(package, &mut files, 0)?;
    if files.is_empty() {
        return Err(call_error(
            CallErrorKind::BadImage,
            format!(
                "{}: no kernel modules (*.ko) in it; name the unpacked package of the kernel",
                package.display()
            ),
        ));
    }
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    for name in wanted {
        visit(name.as_ref(), &files, &mut seen, &mut order)?;
    }
    Ok(order)
}

/// Unpacks a `.deb` into `into` and returns that directory. A package that is a directory is returned as it is.
///
/// # Errors
/// When there is no such package, or dpkg-deb is missing or fails.
pub fn unpack(package: &Path, into: &Path) -> Result<PathBuf> {
    let meta = package.metadata().map_err(|e| missing(PACKAGE, package, &e))?;
    if meta.is_dir() {
        return Ok(package.to_owned());
    }
    must_be_file(PACKAGE, package)?;
    let output = Command::new("dpkg-deb").arg("-x").args([package, into]).output();
    let output = output.map_err(|e| system("dpkg-deb", e))?;
    match output.status.success() {
        true => Ok(into.to_owned()),
        false => Err(call_error(
            CallErrorKind::BadImage,
            format!("{}: {}", package.display(), String::from_utf8_lossy(&output.stderr).trim()),
        )),
    }
}

fn collect(dir: &Path, files: &mut BTreeMap<String, PathBuf>, depth: u32) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(|e| io(dir, e))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < 16 {
            collect(&path, files, depth + 1)?;
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".ko.xz") || name.ends_with(".ko.zst") || name.ends_with(".ko.gz") {
            return Err(call_error(
                CallErrorKind::BadImage,
                format!("{}: compressed modules are not supported; unpack them first", path.display()),
            ));
        }
        if let Some(stem) = name.strip_suffix(".ko")
            && files.len() < MODULES_CAP
        {
            files.insert(stem.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn visit(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<PathBuf>,
) -> Result<()> {
    let Some(path) = files.get(name) else { return Ok(()) };
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let dependencies = depends(&std::fs::read(path).map_err(|e| io(path, e))?);
    for dependency in dependencies {
        visit(&dependency, files, seen, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// Returns the names in the field `depends=` of a module's modinfo section, which is a list of zero-terminated texts.
pub(crate) fn depends(module: &[u8]) -> Vec<String> {
    let found = module.split(|b| *b == 0).find_map(|text| text.strip_prefix(b"depends=".as_slice()));
    let list = String::from_utf8_lossy(found.unwrap_or_default()).into_owned();
    list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_module_depends_on_is_loaded_before_it_and_a_circle_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let module = |name: &str, depends: &str| {
            let text = format!("\0license=GPL\0depends={depends}\0");
            std::fs::write(dir.path().join(format!("{name}.ko")), text).expect("written");
        };
        module("virtio-mmio", "virtio,virtio-ring");
        module("virtio", "virtio_ring");
        module("virtio_ring", "virtio");
        let found = find(dir.path(), &["virtio_mmio", "built_in"]).expect("found");
        let names: Vec<_> = found.iter().filter_map(|p| p.file_stem()?.to_str()).collect();
        assert_eq!(names, ["virtio_ring", "virtio", "virtio-mmio"]);
    }

    proptest! {
        #[test]
        fn no_module_file_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            depends(&bytes);
        }
    }
}
