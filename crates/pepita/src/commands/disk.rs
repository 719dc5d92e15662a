//! `pepita disk`.

use super::output::{print, print_done};
use crate::cli::{DiskArgs, DiskCall};
use crate::disk::{Catalogue, Growth};
use crate::error::{Result, call_error, system};
use crate::host::terminal::is_terminal;
use crate::ops::resolve::disk_dir;
use pepita_wire::record::{CallErrorKind, pretty};
use pepita_wire::storage::{DiskRecord, size_text};
use std::io::{BufRead, Read, Write};

/// The longest answer to a question, in bytes.
const ANSWER_CAP: u64 = 64;

pub(super) fn disk(asked: DiskArgs, json: bool) -> Result<()> {
    let disks = Catalogue::of(&disk_dir(asked.disk_dir.as_deref())?);
    match asked.call {
        DiskCall::List => {
            let list = disks.list()?;
            print(&if json { pretty(&list) } else { table(&list) })?;
        }
        DiskCall::Grow { name, size } => {
            let size_text = size_text(size);
            let growth = disks.grow(&name, size)?;
            if json {
                return print_done(&pretty(&disks.find(&name)?), "the disk grows");
            }
            let done = match growth {
                Growth::Done => format!("disk {name} has {size_text}"),
                Growth::AtNextStart => {
                    format!("disk {name} is in use, and grows to {size_text} at the next start of its VM")
                }
                Growth::NotNeeded => {
                    format!("disk {name} has at least {size_text} already; disks do not shrink")
                }
            };
            print(&done)?;
        }
        DiskCall::Remove { names, yes, force } => {
            // Nothing is removed when one of them cannot be, and a question is about all of them.
            let mut there = Vec::new();
            for name in names {
                match disks.find(&name) {
                    Ok(disk) => there.push(disk),
                    Err(e) if force && e.kind == CallErrorKind::NoSuchVm => {}
                    Err(e) => return Err(e),
                }
            }
            if !(yes || force || is_wanted(&there)?) {
                return Err(call_error(CallErrorKind::Usage, "nothing was removed"));
            }
            for DiskRecord { name, .. } in there {
                match disks.remove(&name) {
                    Ok(()) if json => {}
                    Ok(()) => print_done(&name, "the disk was removed")?,
                    Err(e) if force && e.kind == CallErrorKind::NoSuchVm => {}
                    Err(e) => return Err(e),
                }
            }
        }
    }
    Ok(())
}

/// Asks whether disks are to be removed. Without a terminal to ask at, they are.
fn is_wanted(disks: &[DiskRecord]) -> Result<bool> {
    let (stdin, stderr) = (std::io::stdin(), std::io::stderr());
    if disks.is_empty() || !is_terminal(&stdin) || !is_terminal(&stderr) {
        return Ok(true);
    }
    let of = |disk: &DiskRecord| {
        let user = disk.last_used_by.as_deref().map(|vm| format!(", last used by {vm}")).unwrap_or_default();
        format!("{} ({} taken{user})", disk.name, size_text(disk.used_mb))
    };
    let all: Vec<String> = disks.iter().map(of).collect();
    let asked = write!(&stderr, "Remove {}, with all that is on it? [y/N] ", all.join(", "));
    asked.and_then(|()| (&stderr).flush()).map_err(|e| system("the terminal", e))?;
    let mut answer = String::new();
    stdin.lock().take(ANSWER_CAP).read_line(&mut answer).map_err(|e| system("the terminal", e))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn table(disks: &[DiskRecord]) -> String {
    let user = |disk: &DiskRecord| match (&disk.used_by, &disk.last_used_by) {
        (Some(vm), _) => vm.clone(),
        (None, Some(vm)) => format!("- (last: {vm})"),
        (None, None) => "-".to_owned(),
    };
    let size = |disk: &DiskRecord| match disk.grows_to_mb {
        Some(mb) => format!("{} (grows to {})", size_text(disk.size_mb), size_text(mb)),
        None => size_text(disk.size_mb),
    };
    let row = |name: &str, size: &str, taken: &str, mount: &str, user: &str| {
        format!("{name:<24} {size:<12} {taken:<10} {mount:<24} {user}")
    };
    let head = row("NAME", "SIZE", "TAKEN", "MOUNT", "USED BY");
    let mount = |disk: &DiskRecord| disk.mount.clone().unwrap_or_else(|| "-".to_owned());
    let rows = disks
        .iter()
        .map(|disk| row(&disk.name, &size(disk), &size_text(disk.used_mb), &mount(disk), &user(disk)));
    std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
}
