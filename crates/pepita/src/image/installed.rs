//! The guest kernels that `pepita kernel install` has put into the data directory, each with its modules in a directory
//! of its own. `pepita run` without `--kernel` boots the kernel that was installed last.

use super::scratch::Scratch;
use super::{kernel, modules};
use crate::error::{Result, call_error, io, system};
use pepita_wire::data;
use pepita_wire::record::CallErrorKind;
use rustix::fs::{CWD, RenameFlags, renameat, renameat_with};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Debian package that depends on the present kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// The file of a kernel in its directory.
const KERNEL: &str = "vmlinuz";

/// The directory of a kernel's modules in its directory, where a launch looks for them.
const MODULES: &str = "modules";

/// The link to the kernel that was installed last.
const DEFAULT: &str = "default";

/// The largest kernel that is installed, in bytes.
const KERNEL_CAP: u64 = 256 << 20;

/// The modules that are kept, with those that they depend on. A module that is missing is built into the kernel.
const KEPT: [&str; 14] = [
    "virtio_mmio",
    "virtio_rng",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "vsock_loopback",
    "virtio_blk",
    "virtio_net",
    "virtio_balloon",
    "pvpanic_mmio",
    "overlay",
    "erofs",
    "squashfs",
    "fuse",
    "virtiofs",
];

/// A kernel of the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The release, as uname(1) prints it.
    pub release: String,
    /// The kernel's file.
    pub kernel: PathBuf,
    /// Whether a launch without `--kernel` boots this kernel.
    pub is_default: bool,
}

/// The kernels in a data directory.
#[derive(Debug, Clone)]
pub struct Kernels {
    dir: PathBuf,
}

impl Kernels {
    /// Returns the kernels of this user.
    ///
    /// # Errors
    /// When the user has no data directory.
    pub fn of_user() -> Result<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let data = data::directory(uid, |name| std::env::var_os(name)).ok_or_else(|| {
            let why = format!("there is no data directory: set ${} or $HOME", data::ENVIRONMENT);
            call_error(CallErrorKind::Usage, why)
        })?;
        let data = std::path::absolute(&data).map_err(|e| io(&data, e))?;
        Ok(Self { dir: data.join(data::KERNELS) })
    }

    /// Returns the kernels, sorted by release.
    pub fn list(&self) -> Vec<Installed> {
        let linked = std::fs::read_link(self.dir.join(DEFAULT)).ok();
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let releases = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<Installed> = releases
            .filter(|release| !release.starts_with('.') && release != DEFAULT)
            .map(|release| Installed {
                kernel: self.dir.join(&release).join(KERNEL),
                is_default: linked.as_deref() == Some(Path::new(&release)),
                release,
            })
            .filter(|installed| installed.kernel.is_file())
            .collect();
        all.sort_by(|a, b| a.release.cmp(&b.release));
        // The kernel that the link names may have been removed.
        if !all.iter().any(|installed| installed.is_default)
            && let Some(last) = all.last_mut()
        {
            last.is_default = true;
        }
        all
    }

    /// Returns the kernel that a launch without `--kernel` boots.
    pub fn default(&self) -> Option<PathBuf> {
        self.list().into_iter().find(|installed| installed.is_default).map(|installed| installed.kernel)
    }

    /// Installs the kernel of a package or of a directory, or Debian's present kernel for virtual machines. An installed
    /// kernel of the same release is replaced. `progress` is told what is being done.
    ///
    /// # Errors
    /// When the package cannot be had, or it has no kernel or no modules. What was installed before stays.
    pub fn install(&self, from: Option<&Path>, progress: impl Fn(&str)) -> Result<Installed> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.dir)
            .map_err(|e| io(&self.dir, e))?;
        let scratch = Scratch::new(&self.dir, "install")?;
        let package = match from {
            Some(path) => std::path::absolute(path).map_err(|e| io(path, e))?,
            None => {
                progress(&format!("downloading the kernel of {PACKAGE} (apt-get download)"));
                download(scratch.path())?
            }
        };
        if !package.exists() {
            return Err(kernel::missing("--from", &package, &std::io::ErrorKind::NotFound.into()));
        }
        progress(&format!("reading {}", package.display()));
        let unpacked = modules::unpack(&package, &scratch.path().join("unpacked"))?;
        let file = find_kernel(&unpacked)?;
        let bytes = read_kernel(&file)?;
        let release = kernel::release(&bytes).filter(|release| is_release(release)).ok_or_else(|| {
            call_error(
                CallErrorKind::BadImage,
                format!("{}: no kernel that names its release", file.display()),
            )
        })?;
        let whole = scratch.path().join("whole");
        let modules_dir = whole.join(MODULES);
        std::fs::create_dir_all(&modules_dir).map_err(|e| io(&modules_dir, e))?;
        for module in modules::find(&unpacked, &KEPT)? {
            let name = module.file_name().unwrap_or_default();
            std::fs::copy(&module, modules_dir.join(name)).map_err(|e| io(&module, e))?;
        }
        std::fs::write(whole.join(KERNEL), &bytes).map_err(|e| io(&whole, e))?;
        let target = self.dir.join(&release);
        // A launch finds either the former kernel or the new one, with its own modules.
        let placed = match renameat_with(CWD, &whole, CWD, &target, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => renameat_with(CWD, &whole, CWD, &target, RenameFlags::EXCHANGE),
            placed => placed,
        };
        placed.map_err(|e| io(&target, e))?;
        self.make_default(&release, &scratch)?;
        Ok(Installed { kernel: target.join(KERNEL), is_default: true, release })
    }

    fn make_default(&self, release: &str, scratch: &Scratch) -> Result<()> {
        let link = scratch.path().join(DEFAULT);
        std::os::unix::fs::symlink(release, &link).map_err(|e| io(&link, e))?;
        let target = self.dir.join(DEFAULT);
        renameat(CWD, &link, CWD, &target).map_err(|e| io(&target, e))
    }

    /// Removes a kernel. VMs that have booted it go on.
    ///
    /// # Errors
    /// When no kernel of this release is installed, or it cannot be removed.
    pub fn remove(&self, release: &str) -> Result<()> {
        let all = self.list();
        if !all.iter().any(|installed| installed.release == release) {
            let known = all.iter().map(|installed| installed.release.as_str()).collect::<Vec<_>>().join(", ");
            let known =
                if known.is_empty() { "none is installed".to_owned() } else { format!("installed: {known}") };
            return Err(call_error(CallErrorKind::Usage, format!("no kernel {release:?}; {known}")));
        }
        let scratch = Scratch::new(&self.dir, "remove")?;
        let dir = self.dir.join(release);
        renameat(CWD, &dir, CWD, scratch.path().join("gone")).map_err(|e| io(&dir, e))
    }
}

/// Returns whether a text can be the name of a kernel's directory.
fn is_release(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
    (1..=128).contains(&text.len()) && text.chars().all(is_plain) && !text.starts_with('.') && text != DEFAULT
}

/// Downloads the package of Debian's present kernel for virtual machines into a directory.
fn download(into: &Path) -> Result<PathBuf> {
    let by_hand = "name a kernel's package or directory with --from";
    let run = |command: &mut Command, what: &str| {
        let output = command.output().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                call_error(CallErrorKind::Usage, format!("this system has no {what}; {by_hand}"))
            }
            _ => system(what, e),
        })?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => {
                let said = super::stage::first_lines(&output.stderr);
                let why =
                    format!("{what}: {said}; `apt-get update` refreshes the package lists, or {by_hand}");
                Err(call_error(CallErrorKind::TryAgain, why))
            }
        }
    };
    let depends = run(Command::new("apt-cache").args(["depends", PACKAGE]), "apt-cache")?;
    let package = depends.lines().find_map(|line| {
        line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-"))
    });
    let package = package.ok_or_else(|| {
        let why = format!("apt knows no package {PACKAGE}; run `apt-get update`, or {by_hand}");
        call_error(CallErrorKind::TryAgain, why)
    })?;
    run(Command::new("apt-get").args(["download", "-qq", package]).current_dir(into), "apt-get download")?;
    let entries = std::fs::read_dir(into).map_err(|e| io(into, e))?.flatten();
    let mut files =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "deb"));
    files.next().ok_or_else(|| call_error(CallErrorKind::TryAgain, "apt-get download: it left no file"))
}

/// Finds the kernel in an unpacked package: in `boot`, as packages have it, or at the top.
fn find_kernel(package: &Path) -> Result<PathBuf> {
    let is_kernel = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == KERNEL || name.starts_with("vmlinuz-") || name == "vmlinux" || name == "bzImage"
    };
    let found = |dir: PathBuf| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut kernels: Vec<PathBuf> = entries.filter(is_kernel).filter(|path| path.is_file()).collect();
        kernels.sort();
        kernels
    };
    let mut kernels = found(package.join("boot"));
    kernels.extend(found(package.to_owned()));
    match kernels.as_slice() {
        [] => Err(call_error(
            CallErrorKind::BadImage,
            format!("{}: no kernel in it (boot/vmlinuz-*, vmlinuz or vmlinux)", package.display()),
        )),
        [kernel] => Ok(kernel.clone()),
        several => {
            let names = several.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            let why = format!("{}: several kernels in it: {names}", package.display());
            Err(call_error(CallErrorKind::BadImage, why))
        }
    }
}

fn read_kernel(file: &Path) -> Result<Vec<u8>> {
    kernel::must_be_file("kernel", file)?;
    let length = file.metadata().map_err(|e| io(file, e))?.len();
    if length > KERNEL_CAP {
        return Err(call_error(
            CallErrorKind::BadImage,
            format!("{}: too large for a kernel", file.display()),
        ));
    }
    std::fs::read(file).map_err(|e| io(file, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bzimage(release: &str) -> Vec<u8> {
        let mut image = vec![0; 2048];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        // The version is at 0x200 + the number at 0x20e (Documentation/arch/x86/boot.rst).
        image[0x20e..0x210].copy_from_slice(&0x400_u16.to_le_bytes());
        let text = format!("{release} (builder@host) #1 SMP\0");
        image[0x600..0x600 + text.len()].copy_from_slice(text.as_bytes());
        image
    }

    fn package(dir: &Path, release: &str) -> PathBuf {
        let package = dir.join(release);
        std::fs::create_dir_all(package.join("boot")).expect("made");
        std::fs::create_dir_all(package.join("lib/modules")).expect("made");
        std::fs::write(package.join("boot/vmlinuz-x"), bzimage(release)).expect("written");
        std::fs::write(package.join("lib/modules/overlay.ko"), "\0depends=\0").expect("written");
        std::fs::write(package.join("lib/modules/dvb.ko"), "\0depends=\0").expect("written");
        package
    }

    #[test]
    fn the_kernel_that_was_installed_last_is_booted_and_a_removed_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let kernels = Kernels { dir: dir.path().join("data/kernels") };
        assert_eq!((kernels.list(), kernels.default()), (Vec::new(), None));
        for release in ["6.2.0-b", "6.1.0-a", "6.2.0-b", "6.1.0-a"] {
            let installed = kernels.install(Some(&package(dir.path(), release)), |_| ()).expect("installed");
            assert_eq!((installed.release.as_str(), kernels.default()), (release, Some(installed.kernel)));
        }
        let all = kernels.list();
        assert_eq!(all.iter().map(|one| one.release.as_str()).collect::<Vec<_>>(), ["6.1.0-a", "6.2.0-b"]);
        let modules = all[0].kernel.with_file_name(MODULES);
        assert!(modules.join("overlay.ko").is_file() && !modules.join("dvb.ko").exists());
        kernels.remove("6.1.0-a").expect("removed");
        assert_eq!(kernels.default(), Some(all[1].kernel.clone()));
        let e = kernels.remove("6.1.0-a").expect_err("gone");
        assert!(e.message.contains("installed: 6.2.0-b"), "{}", e.message);
        let left: Vec<_> = std::fs::read_dir(&kernels.dir).expect("there").flatten().collect();
        assert_eq!(left.len(), 2, "the kernel and the link: {left:?}");
    }

    #[test]
    fn a_package_that_has_no_kernel_or_one_with_a_dangerous_name_installs_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let kernels = Kernels { dir: dir.path().join("kernels") };
        let bad = dir.path().join("bad");
        std::fs::create_dir_all(&bad).expect("made");
        let refused = |what: &str| {
            let e = kernels.install(Some(&bad), |_| ()).expect_err(what);
            assert_eq!(e.kind, CallErrorKind::BadImage, "{what}: {}", e.message);
        };
        refused("empty");
        for release in ["../../etc", "", ".hidden", "default"] {
            std::fs::write(bad.join("vmlinuz"), bzimage(release)).expect("written");
            refused(release);
        }
        std::fs::write(bad.join("vmlinuz"), bzimage("6.1.0")).expect("written");
        refused("no modules");
        std::fs::write(bad.join("vmlinuz-2"), bzimage("6.1.0")).expect("written");
        refused("two kernels");
        assert_eq!(std::fs::read_dir(&kernels.dir).expect("there").count(), 0);
    }
}
