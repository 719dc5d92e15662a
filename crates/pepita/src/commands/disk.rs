//! `pepita disk`.

use super::output::{print, print_done};
use crate::cli::{DiskArgs, DiskCall};
use crate::disk::{Catalogue, Growth};
use crate::error::Result;
use crate::ops::resolve::disk_dir;
use pepita_wire::record::{CallErrorKind, pretty};
use pepita_wire::storage::{DiskRecord, size_text};

pub(super) fn disk(asked: DiskArgs, json: bool) -> Result<()> {
    let disks = Catalogue::of(&disk_dir(asked.disk_dir.as_deref())?);
    match asked.call {
        DiskCall::List => {
            let list = disks.list()?;
            print(&if json { pretty(&list) } else { table(&list) })?;
        }
        DiskCall::Grow { name, size } => {
            let size_text = size_text(size);
            let done = match disks.grow(&name, size)? {
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
        DiskCall::Remove { names, force } => {
            for name in names {
                match disks.remove(&name) {
                    Ok(()) => print_done(&name, "the disk was removed")?,
                    Err(e) if force && e.kind == CallErrorKind::NoSuchVm => {}
                    Err(e) => return Err(e),
                }
            }
        }
    }
    Ok(())
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
    let row =
        |name: &str, size: &str, taken: &str, user: &str| format!("{name:<24} {size:<12} {taken:<10} {user}");
    let head = row("NAME", "SIZE", "TAKEN", "USED BY");
    let rows = disks.iter().map(|disk| row(&disk.name, &size(disk), &size_text(disk.used_mb), &user(disk)));
    std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
}
