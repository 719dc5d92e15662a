//! A guest that is reached through QEMU's own forwarding of ports (slirp, `hostfwd`), for comparison: the same kernel, the
//! same root file system and the same daemon in a microVM of the same size, with a network card.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The modules of the network card, and those that they need, in load order.
const MODULES: [&str; 6] = ["virtio_ring", "virtio", "virtio_mmio", "failover", "net_failover", "virtio_net"];

/// The ports at which the guest's daemon echoes, and at which it forwards to a port of the host.
pub(crate) const ECHO: u16 = 7000;
pub(crate) const FORWARD: u16 = 7001;

/// The files of which the guest is made.
pub(crate) struct Files<'a> {
    /// The unpacked kernel.
    pub(crate) kernel: &'a Path,
    /// The root file system with the daemon.
    pub(crate) root: PathBuf,
    /// The directory with the modules of the kernel.
    pub(crate) modules: PathBuf,
    /// The program that becomes the daemon, in C.
    pub(crate) init: PathBuf,
    /// Words for the kernel's command line.
    pub(crate) words: String,
    pub(crate) memory_mb: u32,
}

/// The published ports, and the port of the host to which the guest forwards.
pub(crate) struct Ports {
    pub(crate) echo: u16,
    pub(crate) forward: u16,
    pub(crate) host: u16,
}

/// A guest that runs. Dropping it ends it.
pub(crate) struct Guest(Child);

impl Guest {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots the guest. Returns what is missing when it cannot be made.
pub(crate) fn boot(dir: &Path, files: &Files<'_>, ports: &Ports) -> Result<Guest, String> {
    let image = dir.join("slirp.cpio");
    std::fs::write(&image, archive(dir, files, ports)?).map_err(|e| e.to_string())?;
    let append = format!(
        "quiet reboot=t panic=-1 mitigations=off cryptomgr.notests lsm= rdinit=/slirp/init {}",
        files.words
    );
    let forward = |host: u16, guest: u16| format!("hostfwd=tcp:127.0.0.1:{host}-:{guest}");
    let net = format!("user,id=n,{},{}", forward(ports.echo, ECHO), forward(ports.forward, FORWARD));
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "microvm,isa-serial=off", "-accel", "tcg,tb-size=128", "-smp", "1", "-m"]);
    qemu.arg(format!("{}M", files.memory_mb)).arg("-kernel").arg(files.kernel);
    qemu.arg("-initrd").arg(&image).args(["-append", &append, "-netdev", &net]);
    qemu.args(["-device", "virtio-net-device,netdev=n", "-display", "none", "-nodefaults", "-no-reboot"]);
    let child = qemu.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    child.map(Guest).map_err(|e| format!("qemu-system-x86_64: {e}"))
}

/// Returns the root file system with a second archive behind it, whose files the kernel unpacks beside those of the first.
fn archive(dir: &Path, files: &Files<'_>, ports: &Ports) -> Result<Vec<u8>, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    let init = dir.join("slirp-init");
    let cc = Command::new("cc").args(["-static", "-O1", "-o"]).arg(&init).arg(&files.init).output();
    let cc = cc.map_err(|e| format!("cc: {e}"))?;
    if !cc.status.success() {
        return Err(String::from_utf8_lossy(&cc.stderr).into_owned());
    }
    let mut archive = read(&files.root)?;
    archive.resize(archive.len().next_multiple_of(512), 0);
    add(&mut archive, "slirp", 0o040_755, &[]);
    add(&mut archive, "slirp/init", 0o100_755, &read(&init)?);
    add(&mut archive, "slirp/port", 0o100_644, ports.host.to_string().as_bytes());
    for (number, module) in MODULES.iter().enumerate() {
        let file = read(&files.modules.join(format!("{module}.ko")))?;
        add(&mut archive, &format!("slirp/{number:02}.ko"), 0o100_644, &file);
    }
    add(&mut archive, "TRAILER!!!", 0, &[]);
    Ok(archive)
}

/// Adds a file to a newc archive.
fn add(archive: &mut Vec<u8>, name: &str, mode: u32, bytes: &[u8]) {
    // Inode, mode, user, group, links, time, size, four numbers of devices, length of the name, check sum.
    let (inode, size, length) = (archive.len(), bytes.len(), name.len() + 1);
    let fields = [inode, mode as usize, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
    archive.extend_from_slice(b"070701");
    fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08x}").as_bytes()));
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(bytes);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
