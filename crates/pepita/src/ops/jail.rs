//! The jail that a VM's processes are to have, and the files that a user of a jail has to be able to read.

use crate::error::{CallError, Result, call_error, io};
use crate::image::kernel;
use crate::rundir::RunDir;
use crate::rundir::files::Beside;
use crate::vm_config::{Jail, Root, Uids, VmmKind};
use pepita_jail::{Level, Plan, Report, User};
use pepita_wire::LaunchSpec;
use pepita_wire::launch::{JAIL_ENVIRONMENT, JAIL_UIDS_ENVIRONMENT};
use pepita_wire::record::CallErrorKind;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Returns the jail of a VM for which nobody has said another. Root can have every layer on a host of its own; an ordinary
/// user may meet a host that allows no user namespaces.
fn usual(is_root: bool) -> Level {
    if is_root { Level::Full } else { Level::BestEffort }
}

/// The mode bit with which everybody may read a file.
const READ_BY_OTHERS: u32 = 0o004;

/// Returns the jail that a launch asks for, else that of the environment, else the default. A plain process is in none.
///
/// # Errors
/// When the level or the user ids cannot be read, or a plain process is to have a jail.
pub(super) fn asked(spec: &LaunchSpec, vmm: VmmKind) -> Result<Option<Jail>> {
    let is_root = rustix::process::geteuid().is_root();
    let level = match (&spec.jail, variable(JAIL_ENVIRONMENT)) {
        (Some(word), _) => level("jail", word)?,
        (None, Some(word)) => level(JAIL_ENVIRONMENT, &word)?,
        (None, None) => usual(is_root),
    };
    match (vmm, level) {
        (_, Level::None) => Ok(None),
        (VmmKind::Process, Level::Full | Level::BestEffort) if spec.jail.is_some() => {
            Err(refused("jail", "a plain process has the rights of its user, and is never in a jail"))
        }
        (VmmKind::Process, Level::Full | Level::BestEffort) => Ok(None),
        (VmmKind::Qemu, level) => Ok(Some(Jail { level, uids: is_root.then(|| uids(spec)).transpose()? })),
    }
}

fn level(from: &str, word: &str) -> Result<Level> {
    word.parse().map_err(|_| refused(from, &format!("{word:?} is none of full, best-effort and none")))
}

fn uids(spec: &LaunchSpec) -> Result<Uids> {
    let read = |from: &str, text: &str| text.parse().map_err(|why: String| refused(from, &why));
    match (&spec.jail_uids, variable(JAIL_UIDS_ENVIRONMENT)) {
        (Some(text), _) => read("jail_uids", text),
        (None, Some(text)) => read(JAIL_UIDS_ENVIRONMENT, &text),
        (None, None) => Ok(Uids::USUAL),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn refused(field: &str, why: &str) -> CallError {
    call_error(CallErrorKind::Usage, format!("{field}: {why}"))
}

/// Says which layers of the jail of a VMM can be had on this host.
///
/// # Errors
/// Returns the reason why none could be tried.
pub(crate) fn probe() -> Result<Report, String> {
    let is_root = rustix::process::geteuid().is_root();
    let uids = is_root.then(|| uids(&LaunchSpec::default())).transpose().map_err(|e| e.message)?;
    let user = uids.map(|uids| User { uid: uids.first, gid: uids.first });
    try_out(Plan::new(Level::BestEffort, user, "/"))
}

/// Says which layers of the jail of a share's server can be had on this host.
///
/// # Errors
/// Returns the reason why none could be tried.
pub(crate) fn probe_share() -> Result<Report, String> {
    try_out(Plan::of_file_server(Level::BestEffort, false, "/"))
}

fn try_out(plan: Plan) -> std::result::Result<Report, String> {
    let helper = std::env::current_exe().map_err(|e| e.to_string())?;
    pepita_jail::probe(&helper, plan).map_err(|failure| failure.to_string())
}

/// Returns the file that QEMU reads in place of `file`, which it opens by its name. A file that other users cannot read is
/// copied into the cache, which only root may enter; the user of a jail sees no more of the cache than this file.
///
/// # Errors
/// When the copy cannot be made.
pub(super) fn shown(run_dir: &RunDir, jail: Option<Jail>, file: PathBuf) -> Result<PathBuf> {
    if jail.is_none_or(|jail| jail.uids.is_none()) {
        return Ok(file);
    }
    let mode = file.metadata().map_err(|e| io(&file, e))?.permissions().mode();
    let open = || Permissions::from_mode(0o644);
    if mode & READ_BY_OTHERS != 0 {
        return Ok(file);
    }
    if file.starts_with(run_dir.cache()) {
        std::fs::set_permissions(&file, open()).map_err(|e| io(&file, e))?;
        return Ok(file);
    }
    let copy = kernel::cache(run_dir, &file, "shown")?;
    if !copy.exists() {
        let (beside, mut to) = Beside::create(&copy)?;
        let copied = File::open(&file).and_then(|mut from| std::io::copy(&mut from, &mut to));
        copied.and_then(|_| to.set_permissions(open())).map_err(|e| io(&copy, e))?;
        beside.commit(&to)?;
    }
    Ok(copy)
}

/// Returns a root whose files QEMU can read. Disks are handed to it open.
///
/// # Errors
/// The errors of [`shown`].
pub(super) fn shown_root(run_dir: &RunDir, jail: Option<Jail>, root: Root) -> Result<Root> {
    let shown = |file| shown(run_dir, jail, file);
    Ok(match root {
        Root::Initramfs(archive) => Root::Initramfs(shown(archive)?),
        Root::Disk { image, initrd } => Root::Disk { image, initrd: initrd.map(shown).transpose()? },
        Root::Shared { image, initrd } => Root::Shared { image, initrd: shown(initrd)? },
        root @ Root::Host(_) => root,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_only_its_owner_may_read_is_copied_for_the_user_of_a_jail_and_no_other_file_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let run_dir = RunDir::choose(Some(&dir.path().join("run"))).expect("ours");
        run_dir.create().expect("made");
        let file = |name: &str, mode| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).expect("written");
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
            path
        };
        let (own, open) = (file("own", 0o600), file("open", 0o644));
        let jail = |uids| Some(Jail { level: Level::Full, uids });
        let shown = |uids, file: &PathBuf| shown(&run_dir, jail(uids), file.clone()).expect("shown");
        assert_eq!(shown(Some(Uids::USUAL), &open), open);
        assert_eq!(shown(None, &own), own);
        let copy = shown(Some(Uids::USUAL), &own);
        assert!(copy.starts_with(run_dir.cache()), "{}", copy.display());
        assert_eq!(std::fs::read(&copy).expect("readable"), b"own");
        assert_eq!(copy.metadata().expect("there").permissions().mode() & 0o777, 0o644);
        assert_eq!(shown(Some(Uids::USUAL), &copy), copy);
    }

    #[test]
    fn a_jail_that_cannot_be_read_is_refused_by_the_name_of_its_field() {
        let spec = |jail: Option<&str>, uids: Option<&str>| LaunchSpec {
            jail: jail.map(str::to_owned),
            jail_uids: uids.map(str::to_owned),
            ..LaunchSpec::default()
        };
        assert_eq!(asked(&spec(Some("none"), None), VmmKind::Qemu), Ok(None));
        let level = asked(&spec(Some("full"), None), VmmKind::Qemu).expect("read").map(|jail| jail.level);
        assert_eq!(level, Some(Level::Full));
        let process = asked(&spec(Some("full"), None), VmmKind::Process).expect_err("refused");
        assert!(process.message.starts_with("jail: a plain process"), "{}", process.message);
        let word = asked(&spec(Some("strong"), None), VmmKind::Qemu).expect_err("refused");
        assert!(word.message.starts_with("jail: \"strong\""), "{}", word.message);
        if rustix::process::geteuid().is_root() {
            let uids = asked(&spec(Some("full"), Some("0-9")), VmmKind::Qemu).expect_err("refused");
            assert!(uids.message.starts_with("jail_uids: \"0-9\""), "{}", uids.message);
        }
    }
}
