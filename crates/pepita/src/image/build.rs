//! Builds root file systems for guests: the agent, a daemon, and the kernel modules that the agent has to load.

use super::libraries;
use super::root::Root;
use super::scan;
use super::stage::{Stage, first_lines};
use crate::error::{Result, call_error, io, system};
use crate::host::programs;
use crate::image::cpio::Archive;
use crate::image::{kernel, length, modules};
use crate::rundir::RunDir;
use crate::rundir::files::{Beside, replace_cached};
use pepita_wire::record::CallErrorKind;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file that the agent reads.
const IMAGE_JSON: &str = "etc/pepita/image.json";

/// The directory of kernel modules in an image.
const MODULES: &str = "lib/pepita/modules";

/// The files of the modules of each driver.
pub type Drivers = BTreeMap<String, Vec<PathBuf>>;

/// The contents of an image.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// The agent's program, statically linked.
    pub agent: PathBuf,
    /// The daemon's program, if the daemon is a single file.
    pub daemon: Option<PathBuf>,
    /// A directory whose contents are copied into the root.
    pub tree: Option<PathBuf>,
    /// The command to run; empty = the daemon without arguments.
    pub command: Vec<String>,
    /// The daemon's environment.
    pub env: BTreeMap<String, String>,
    /// The files of kernel modules, in load order.
    pub modules: Vec<PathBuf>,
    /// The files of the modules of drivers that a guest loads when it needs them, in load order.
    pub drivers: Drivers,
    /// The size of a disk image in MiB; 0 = as needed.
    pub size_mb: u64,
}

/// Writes an image. The ending of the name of `output` decides its kind. The image is written beside `output` and takes
/// its place when it is complete, with mode 0600: it may have secrets of the daemon's environment. Returns what an
/// operator should know: files that were left out or replaced, one sentence each.
///
/// # Errors
/// When a file is missing or cannot be written, or the ending of the name is of no known kind. A former image stays.
pub fn build(contents: &Contents, output: &Path) -> Result<Vec<String>> {
    let kind = output.extension().and_then(|e| e.to_str());
    match kind {
        Some("cpio") => {
            let mut notes = Vec::new();
            let archive = initramfs(contents, output, &mut notes)?;
            let (beside, mut file) = Beside::create(output)?;
            file.write_all(&archive).map_err(|e| io(output, e))?;
            beside.commit(&file)?;
            Ok(notes)
        }
        Some("ext4") => disk(contents, output),
        _ => Err(call_error(
            CallErrorKind::Usage,
            format!("{}: the name has to end in .cpio (initramfs) or .ext4 (disk)", output.display()),
        )),
    }
}

/// What an initrd does with the first disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initrd {
    /// The agent in the disk takes over.
    HandsOver,
    /// The disk is the root of a container image: it is shared, and has no agent.
    Shares,
}

/// Returns the initrd that mounts a disk, with the agent and the modules of the kernel's package, if it has one. The initrd is
/// kept in the cache, and is the same for every disk. `more` names modules that it loads beside those of every initrd.
///
/// # Errors
/// The errors of [`build`].
pub fn initrd(
    dir: &RunDir,
    agent: &Path,
    package: Option<&Path>,
    what: Initrd,
    more: &[&str],
) -> Result<PathBuf> {
    let (wanted, kind) = match what {
        Initrd::HandsOver => (&modules::FOR_DISK[..], "initrd"),
        Initrd::Shares => (&modules::FOR_SHARED_ROOT[..], "shared.initrd"),
    };
    let found = package.map(|package| modules::find(package, &[wanted, more].concat())).transpose()?;
    let modules = found.unwrap_or_default();
    let cached = kernel::cache(dir, agent, &format!("{}.{kind}", names_of(&modules)))?;
    // A power cut may have left a part of it.
    if !std::fs::File::open(&cached).is_ok_and(|file| length::has_trailer(&file)) {
        let mut archive = Archive::new();
        add_agent(&mut archive, agent)?;
        let paths = add_modules(&mut archive, &modules)?;
        let device = Some("/dev/vda");
        let (root, shared_root) = match what {
            Initrd::HandsOver => (device, None),
            Initrd::Shares => (None, device),
        };
        let json = Description { modules: paths, root, shared_root, ..Description::default() };
        archive.file(IMAGE_JSON, 0o644, &image_json(&json))?;
        replace_cached(&cached, &archive.finish())?;
    }
    Ok(cached)
}

/// Returns a text that is different for different sets of module files, for a name in the cache.
fn names_of(modules: &[PathBuf]) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::os::unix::fs::MetadataExt;
    let mut hasher = DefaultHasher::new();
    // A kernel that is installed again has other files of the same names.
    for module in modules {
        let meta =
            module.metadata().ok().map(|meta| (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()));
        (module, meta).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

fn initramfs(contents: &Contents, output: &Path, notes: &mut Vec<String>) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    if let Some(tree) = &contents.tree {
        *notes = scan::add_tree(&mut archive, tree, scan::file_id(output))?;
        if archive.remove("init") {
            notes.push(
                "the tree's own /init is left out: /init of an initramfs is the guest agent".to_owned(),
            );
        }
    }
    add_agent(&mut archive, &contents.agent)?;
    add_daemon(&mut archive, contents, notes)?;
    Ok(archive.finish())
}

/// Adds what the kernel and the agent need: the agent as `/init`, directories to mount on, and the first devices.
fn add_agent(archive: &mut Archive, agent: &Path) -> Result<()> {
    add_directories(archive)?;
    // The kernel opens this device as the standard streams of PID 1, before any file system is mounted.
    archive.device("dev/console", 0o600, 5, 1)?;
    // When there is no console yet, the Rust runtime of PID 1 opens this device for its standard streams, and aborts
    // when the device is missing.
    archive.device("dev/null", 0o666, 1, 3)?;
    let bytes = std::fs::read(agent).map_err(|e| kernel::missing("agent", agent, &e))?;
    if programs::loader(&bytes).is_some() {
        return Err(call_error(
            CallErrorKind::BadImage,
            format!(
                "{}: not statically linked, a guest could not run it; build it with \
                 RUSTFLAGS=\"-C target-feature=+crt-static\" cargo build --target x86_64-unknown-linux-gnu -p pepita-guest",
                agent.display()
            ),
        ));
    }
    archive.file("init", 0o755, &bytes).map(drop)
}

/// Adds the directories that the agent mounts on, where the tree has none.
fn add_directories(root: &mut impl Root) -> Result<()> {
    for dir in ["dev", "proc", "sys", "run", "etc"] {
        root.directory(dir, 0o755)?;
    }
    root.directory("tmp", 0o1777)
}

/// Adds the daemon, the modules and the description of the image. A file of the tree that is replaced is noted.
fn add_daemon(root: &mut impl Root, contents: &Contents, notes: &mut Vec<String>) -> Result<()> {
    let mut note = |path: &str, was_there: bool| {
        if was_there && contents.tree.is_some() {
            notes.push(format!("the tree's own /{path} is replaced"));
        }
    };
    let library_path = contents.env.get("LD_LIBRARY_PATH").map_or("", String::as_str);
    let require = |what: &str, path: &str, bytes: &[u8], root: &_| {
        libraries::require(root, &libraries::Program { what, path, library_path }, bytes)
    };
    let mut command = contents.command.clone();
    if let Some(daemon) = &contents.daemon {
        let bytes = std::fs::read(daemon).map_err(|e| kernel::missing("daemon", daemon, &e))?;
        let name = daemon.file_name().and_then(|n| n.to_str()).unwrap_or("daemon");
        let path = format!("usr/bin/{name}");
        note(&path, root.file(&path, 0o755, &bytes)?);
        require(&format!("daemon {}", daemon.display()), &format!("/{path}"), &bytes, &*root)?;
        if command.is_empty() {
            command = vec![format!("/{path}")];
        }
    }
    if let Some(program) = command.first().filter(|program| program.starts_with('/'))
        && let Some(bytes) = root.contents(program)
    {
        require(&format!("{program} of the image"), program, &bytes, &*root)?;
    }
    let modules = add_modules(root, &contents.modules)?;
    let mut drivers = BTreeMap::new();
    for (name, files) in &contents.drivers {
        // A module of another driver, or one that every guest loads, is in the image already.
        drivers.insert(name.clone(), add_modules(root, files)?);
    }
    let json = image_json(&Description {
        command: &command,
        env: contents.env.clone(),
        modules,
        drivers,
        root: None,
        shared_root: None,
    });
    note(IMAGE_JSON, root.file(IMAGE_JSON, 0o644, &json)?);
    Ok(())
}

fn add_modules(root: &mut impl Root, modules: &[PathBuf]) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for module in modules {
        let bytes = std::fs::read(module).map_err(|e| io(module, e))?;
        let name = module.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        root.file(&format!("{MODULES}/{name}"), 0o644, &bytes)?;
        paths.push(format!("/{MODULES}/{name}"));
    }
    Ok(paths)
}

/// What the agent reads of an image.
#[derive(Debug, Default, Serialize)]
struct Description<'a> {
    command: &'a [String],
    env: BTreeMap<String, String>,
    modules: Vec<String>,
    drivers: BTreeMap<String, Vec<String>>,
    root: Option<&'a str>,
    shared_root: Option<&'a str>,
}

fn image_json(description: &Description<'_>) -> Vec<u8> {
    pepita_wire::record::pretty(description).into_bytes()
}

/// Writes a disk image with mke2fs, from a staged directory. Needs no privileges.
fn disk(contents: &Contents, output: &Path) -> Result<Vec<String>> {
    let parent = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Some(tree) = &contents.tree {
        refuse_inside(parent, tree)?;
    }
    let mut notes = Vec::new();
    let mut stage = Stage::new(parent, contents.tree.as_deref())?;
    add_directories(&mut stage)?;
    let agent = std::fs::read(&contents.agent).map_err(|e| kernel::missing("agent", &contents.agent, &e))?;
    let what = format!("agent {}", contents.agent.display());
    let program = libraries::Program { what: &what, path: "/sbin/daemonctl", library_path: "" };
    libraries::require(&stage, &program, &agent)?;
    stage.file("sbin/daemonctl", 0o755, &agent)?;
    stage.link_if_absent("sbin/init", "daemonctl")?;
    add_daemon(&mut stage, contents, &mut notes)?;
    make_ext4(stage.path(), contents.size_mb, output)?;
    Ok(notes)
}

/// Refuses to stage a tree within itself: the copy would never end.
fn refuse_inside(parent: &Path, tree: &Path) -> Result<()> {
    let whole = |path: &Path| std::fs::canonicalize(path).map_err(|e| kernel::missing("directory", path, &e));
    if whole(parent)?.starts_with(whole(tree)?) {
        let why = format!("--output lies in --dir {}: name a place outside of it", tree.display());
        return Err(call_error(CallErrorKind::Usage, why));
    }
    Ok(())
}

fn make_ext4(stage: &Path, size_mb: u64, output: &Path) -> Result<()> {
    let needed_mb = size_of(stage) / (1 << 20) * 5 / 4;
    let size_mb = if size_mb == 0 { 32 + needed_mb } else { size_mb };
    // The ids and times are fixed, so that the same input gives the same bytes.
    let id = "6d696372-6f76-4d00-8000-706570697461";
    same_times(stage)?;
    let (beside, file) = Beside::create(output)?;
    let made = Command::new("mke2fs")
        .env("E2FSPROGS_FAKE_TIME", "1")
        .env("PATH", path_with_sbin())
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-U", id])
        .args(["-E", &format!("hash_seed={id},root_owner=0:0,lazy_itable_init=0")])
        .arg("-d")
        .args([stage, beside.path()])
        .arg(format!("{size_mb}M"))
        .output()
        .map_err(|e| system("mke2fs (install e2fsprogs)", e))?;
    if !made.status.success() {
        let why =
            first_lines(&made.stderr).replace(&*beside.path().to_string_lossy(), &output.to_string_lossy());
        let advice = match 8 + needed_mb {
            needed_mb if size_mb < needed_mb => format!("; --size: the contents need about {needed_mb} MiB"),
            _ => String::new(),
        };
        return Err(system(&format!("{}: mke2fs", output.display()), why + &advice));
    }
    beside.commit(&file)
}

/// Returns PATH extended by the usual directories of mke2fs, which are not in an ordinary user's PATH.
fn path_with_sbin() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()) + 4096,
            Ok(meta) => meta.len() + 4096,
            Err(_) => 0,
        })
        .sum()
}

fn same_times(path: &Path) -> Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let meta = path.symlink_metadata().map_err(|e| io(path, e))?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).map_err(|e| io(path, e))?.flatten() {
            same_times(&entry.path())?;
        }
    }
    let one = Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = Timestamps { last_access: one, last_modification: one };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| io(path, e))
}

/// Returns the agent for an image: the named program, else a statically linked agent that is found on this host.
///
/// # Errors
/// When there is no such agent.
pub fn agent(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(path) => Ok(path.to_owned()),
        None => programs::static_agent(),
    }
}

/// Returns the absolute path of an image, and its kind.
///
/// # Errors
/// When the image is missing, truncated, or of a kind that cannot be booted.
pub fn recognise(path: &Path) -> Result<(PathBuf, Kind)> {
    let path = std::fs::canonicalize(path).map_err(|e| kernel::missing("rootfs", path, &e))?;
    kernel::must_be_file("rootfs", &path)?;
    let mut head = vec![0; 0x43a];
    let mut file = std::fs::File::open(&path).map_err(|e| kernel::missing("rootfs", &path, &e))?;
    let mut filled = 0;
    while let Ok(n @ 1..) = std::io::Read::read(&mut file, &mut head[filled..]) {
        filled += n;
    }
    let head = &head[..filled];
    let length = file.metadata().map_err(|e| io(&path, e))?.len();
    let bad = |why: &str| call_error(CallErrorKind::BadImage, format!("rootfs {}: {why}", path.display()));
    let whole = match kind_of(head) {
        None => return Err(bad("neither an initramfs (cpio) nor an ext4 image")),
        // Only the guest's kernel can tell whether a compressed archive is complete.
        Some(Kind::Initramfs) => !head.starts_with(b"07070") || length::has_trailer(&file),
        Some(Kind::Disk) => length::ext4_length(head).is_none_or(|claimed| claimed <= length),
    };
    match (kind_of(head), whole) {
        (Some(kind), true) => Ok((path, kind)),
        _ => Err(bad(&format!("it is cut short, at {length} bytes; make or copy it again"))),
    }
}

/// Recognises the kind of an image from its first bytes: the magic of newc, of ext4's superblock at offset 1024, or of
/// a compressor.
pub fn kind_of(head: &[u8]) -> Option<Kind> {
    let begins = |magics: &[&[u8]]| magics.iter().any(|magic| head.starts_with(magic));
    if begins(&[b"070701", b"070702"]) {
        Some(Kind::Initramfs)
    } else if head.get(0x438..0x43a) == Some(&[0x53, 0xef]) {
        Some(Kind::Disk)
    } else if begins(&[b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18", b"\xfd7zXZ"]) {
        Some(Kind::Initramfs)
    } else {
        None
    }
}

/// The kind of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A cpio archive, perhaps compressed.
    Initramfs,
    /// An ext4 file system.
    Disk,
}
