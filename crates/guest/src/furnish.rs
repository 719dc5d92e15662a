//! Furnishes a guest: at its boot with what every program expects, at the start of the daemon with what the daemon's world
//! asks for.

use crate::interface;
use crate::process::step_failed;
use crate::users::Ids;
use pepita_wire::Exit;
use pepita_wire::world::{Secret, World, sysctl_path};
use rustix::mount::{MountFlags, mount, mount_remount};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt, fchown, symlink};
use std::path::Path;

/// Links that programs expect in `/dev`, and that devtmpfs does not have.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

const HOSTS: &str = "/etc/hosts";
const RESOLVER: &str = "/etc/resolv.conf";

/// The text of `/etc/hosts` in a guest that has no name yet.
const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// The text of `/etc/resolv.conf` in a guest without a network. Without the file, libraries ask a name server at 127.0.0.1, as with this one.
const NO_SERVER: &str = "# no name server: this guest has no network\n";

/// The directory of the secrets.
const SECRETS: &str = "/run/secrets";

/// Brings up the loopback interface, links the standard streams, and writes the files of names that the image does not
/// have. A failure is only printed on the console, because most programs work all the same.
pub(crate) fn at_boot() {
    if let Err(e) = interface::bring_up_loopback() {
        let _ = writeln!(io::stderr(), "daemonctl: no loopback interface: {e}");
    }
    for (link, target) in LINKS {
        let _ = symlink(target, link);
    }
    for (path, text) in [(HOSTS, LOCAL), (RESOLVER, NO_SERVER)] {
        if is_open(Path::new(path)) {
            let _ = std::fs::write(path, text);
        }
    }
}

/// Writes the name servers of a network, unless the image has its own.
pub(crate) fn name_servers(servers: &[Ipv4Addr]) {
    // Only the agent's own text is changed.
    if std::fs::read_to_string(RESOLVER).is_ok_and(|text| text == NO_SERVER) {
        let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        let _ = std::fs::write(RESOLVER, lines);
    }
}

/// Returns whether an image leaves a file open: the file is absent or empty.
fn is_open(path: &Path) -> bool {
    // A link that leads nowhere stands for the file of a program that does not run here.
    if path.is_symlink() && !path.exists() {
        return std::fs::remove_file(path).is_ok();
    }
    std::fs::metadata(path).map_or(true, |found| found.is_file() && found.len() == 0)
}

/// Gives the daemon's world what belongs to the guest as a whole, except the secrets ([`put_secrets`]). `name` is the guest's
/// name when the world has none, and `names` are lines for `/etc/hosts`.
///
/// # Errors
/// [`Exit::NotExecutable`] with the step that failed.
pub(crate) fn for_daemon(
    world: &World,
    name: Option<&str>,
    names: &str,
    directory: &str,
) -> Result<(), Exit> {
    if let Some(name) = world.hostname.as_deref().or(name) {
        let named = rustix::system::sethostname(name.as_bytes());
        named.map_err(|e| step_failed(&format!("hostname {name}"), &e.into()))?;
        // Only the agent's own text is changed.
        if std::fs::read_to_string(HOSTS).is_ok_and(|text| text == LOCAL) {
            let _ = std::fs::write(HOSTS, format!("{LOCAL}127.0.0.1\t{name}\n"));
        }
    }
    add_names(Path::new(HOSTS), names).map_err(|e| step_failed(HOSTS, &e))?;
    for (setting, value) in &world.sysctls {
        let written = write_existing(&format!("/proc/sys/{}", sysctl_path(setting)), value);
        written.map_err(|e| step_failed(&format!("sysctl {setting} = {value:?}"), &e))?;
    }
    if !world.secrets.is_empty() {
        // Before the root is read-only.
        std::fs::create_dir_all(SECRETS).map_err(|e| step_failed(SECRETS, &e))?;
    }
    if !directory.is_empty() {
        let made = std::fs::create_dir_all(directory);
        made.map_err(|e| step_failed(&format!("workdir {directory}"), &e))?;
    }
    if world.read_only {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        let done = mount_remount("/", flags, c"");
        done.map_err(|e| step_failed("read_only", &e.into()))?;
    }
    Ok(())
}

/// Adds lines to a file of names, also to one of the image: what a daemon may dial has to resolve.
fn add_names(path: &Path, names: &str) -> io::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let found = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path.parent().unwrap_or(path))?;
            String::new()
        }
        found => found?,
    };
    let end = if found.is_empty() || found.ends_with('\n') { "" } else { "\n" };
    // The first line with a name counts.
    std::fs::write(path, format!("{names}{found}{end}"))
}

fn write_existing(path: &str, text: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(text.as_bytes())
}

/// Writes the secrets, if there are any, into a file system of their own, in memory. Only their owner can read them.
///
/// # Errors
/// [`Exit::NotExecutable`] with this step.
pub(crate) fn put_secrets(secrets: &BTreeMap<String, Secret>, owner: Option<&Ids>) -> Result<(), Exit> {
    if secrets.is_empty() {
        return Ok(());
    }
    mount_secrets(secrets, owner).map_err(|e| step_failed(SECRETS, &e))
}

fn mount_secrets(secrets: &BTreeMap<String, Secret>, owner: Option<&Ids>) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("secrets", SECRETS, "tmpfs", flags, Some(c"mode=0755"))?;
    for (name, Secret(contents)) in secrets {
        let mut file =
            File::options().write(true).create_new(true).mode(0o400).open(Path::new(SECRETS).join(name))?;
        if let Some(Ids { uid, gid, .. }) = owner {
            fchown(&file, Some(*uid), Some(*gid))?;
        }
        file.write_all(contents)?;
    }
    mount_remount(SECRETS, flags | MountFlags::RDONLY, c"mode=0755").map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_added_to_those_of_the_image() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("etc/hosts");
        add_names(&path, "").expect("nothing to do");
        assert!(!path.exists());
        add_names(&path, "127.64.0.1\tdb\n").expect("made");
        std::fs::write(&path, "127.0.0.1 localhost").expect("written");
        add_names(&path, "127.64.0.1\tdb\n").expect("added");
        let text = std::fs::read_to_string(&path).expect("there");
        assert_eq!(text, "127.64.0.1\tdb\n127.0.0.1 localhost\n");
    }

    #[test]
    fn an_image_leaves_a_file_open_that_is_absent_empty_or_a_link_to_nowhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hosts");
        assert!(is_open(&path));
        std::fs::write(&path, "").expect("written");
        assert!(is_open(&path));
        std::fs::write(&path, "127.0.0.1 localhost\n").expect("written");
        assert!(!is_open(&path));
        let link = dir.path().join("resolv.conf");
        symlink("../run/nowhere", &link).expect("a link");
        assert!(is_open(&link) && !link.is_symlink());
        symlink(&path, &link).expect("a link");
        assert!(!is_open(&link) && link.is_symlink());
    }
}
