//! The last words of the last ends of each VM: exit records, each with the end of the console's log. They are kept in
//! `.ends/<name>` of the directory of run directories. Those of a VM that a supervisor has launched outlive its run
//! directory: a restart replaces that, and a destroy removes it. Those of any other VM are removed with its files.
//!
//! What is kept is bounded for each end, each VM and all VMs together (semantics 10.8).

use crate::rundir::console_log::{Index, Mark};
use crate::rundir::files::{self, Sync};
use crate::rundir::{RunDir, console_log, layout};
use pepita_wire::{ExitRecord, VmId};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, DirEntry};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The number of ends that are kept of a VM.
pub const ENDS: usize = 5;

/// The number of bytes of the console's log that are kept of an end.
pub const TEXT_CAP: u64 = 8 * 1024;

/// The number of times that are kept of an end, those of its last output.
const MARKS: usize = 256;

/// The number of VMs whose ends are kept. Beyond it, the VMs that have not ended for longest are forgotten.
const VMS: usize = 2048;

/// The end of an incarnation, and what its guest said last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// The exit record.
    pub exit: ExitRecord,
    /// The end of the console's log, at most [`TEXT_CAP`] bytes.
    pub text: String,
    /// Times of parts of the text, each with the offset in the text from which on it holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<(u64, u64)>,
}

impl End {
    /// Returns the end of the log in a run directory, with this exit record.
    fn of(dir: &Path, exit: &ExitRecord) -> Self {
        let bytes = console_log::tail(dir, TEXT_CAP);
        let index = console_log::read_index(dir);
        let end = console_log::base(dir, &index).saturating_add(console_log::length(dir));
        let begin = end.saturating_sub(bytes.len() as u64);
        let before = index.marks.partition_point(|mark| mark.offset <= begin).saturating_sub(1);
        let before = before.max(index.marks.len().saturating_sub(MARKS));
        let times = index.marks[before..].iter().filter_map(|mark| {
            let offset = usize::try_from(mark.offset.saturating_sub(begin)).ok()?;
            // In the text bytes that are no characters are replaced by longer ones.
            Some((String::from_utf8_lossy(bytes.get(..offset)?).len() as u64, mark.at_ms))
        });
        Self {
            exit: exit.clone(),
            times: times.collect(),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// Returns the times of the text.
    pub fn index(&self) -> Index {
        let marks = self.times.iter().map(|(offset, at_ms)| Mark { at_ms: *at_ms, offset: *offset });
        Index { base: None, marks: marks.collect() }
    }
}

/// Keeps the end of the VM with this run directory, unless it is kept already. A failure, such as a full disk, is ignored, because the VM has ended and its exit record is stored elsewhere.
pub fn keep(dir: &Path, exit: &ExitRecord) {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return };
    let all = parent.join(layout::ENDS);
    let own = all.join(name);
    let is_new = !own.exists();
    if DirBuilder::new().recursive(true).mode(0o700).create(&own).is_err() {
        return;
    }
    // The numbers have a fixed length, so that the names are in the order of time.
    let file = format!("{:015}-{:010}.json", exit.ended_at_ms, exit.incarnation);
    if own.join(&file).exists() {
        return;
    }
    let _ = files::write(&own.join(file), &End::of(dir, exit), Sync::No);
    for older in newest_first(&own).into_iter().skip(ENDS) {
        let _ = std::fs::remove_file(older);
    }
    if is_new {
        forget_oldest(&all);
    }
}

/// Removes what is kept of the ends of the VM with this run directory. Returns whether anything was kept.
pub fn forget(dir: &Path) -> bool {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return false };
    std::fs::remove_dir_all(parent.join(layout::ENDS).join(name)).is_ok()
}

/// Returns the kept ends of a VM, the newest first. An end that cannot be read is left out.
pub fn list(run_dir: &RunDir, name: &VmId) -> Vec<End> {
    let files = newest_first(&run_dir.path().join(layout::ENDS).join(name.as_str()));
    files.into_iter().filter_map(|file| files::read(&file).ok()).collect()
}

fn newest_first(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort_unstable_by(|a, b| b.cmp(a));
    files
}

/// Removes what is kept of the VMs that have not ended for longest, when there are too many.
fn forget_oldest(all: &Path) {
    let entries = std::fs::read_dir(all).into_iter().flatten().flatten();
    let ended_at = |entry: &DirEntry| entry.metadata().map(|meta| (meta.mtime(), meta.mtime_nsec())).ok();
    let mut vms: Vec<((i64, i64), PathBuf)> =
        entries.filter_map(|entry| Some((ended_at(&entry)?, entry.path()))).collect();
    let over = vms.len().saturating_sub(VMS);
    vms.sort_unstable();
    for (_, vm) in vms.drain(..over) {
        let _ = std::fs::remove_dir_all(vm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pepita_wire::Exit;
    use std::time::{Duration, SystemTime};

    fn ended(at: u64) -> ExitRecord {
        let exit = Exit::Exited { code: i32::try_from(at).expect("small") };
        ExitRecord { name: "a".into(), incarnation: at, exit, ended_at_ms: at, ..ExitRecord::default() }
    }

    #[test]
    fn the_last_ends_are_kept_with_the_end_of_the_log_and_outlive_the_run_directory() {
        let top = tempfile::tempdir().expect("a directory");
        let run_dir = RunDir::choose(Some(top.path())).expect("ours");
        let name = VmId::new("a").expect("a name");
        let dir = run_dir.vm(&name);
        for at in 8..=15 {
            std::fs::create_dir_all(&dir).expect("made");
            std::fs::write(console_log::path(&dir, 1), "x".repeat(6000)).expect("written");
            std::fs::write(console_log::path(&dir, 0), format!("{} last words {at}", "y".repeat(4000)))
                .expect("written");
            std::fs::write(console_log::index_path(&dir), "7 0\n8 1900\n9 6000\n").expect("written");
            keep(&dir, &ended(at));
            keep(&dir, &ended(at));
            std::fs::remove_dir_all(&dir).expect("destroyed");
        }
        let kept = list(&run_dir, &name);
        let numbers: Vec<u64> = kept.iter().map(|end| end.exit.incarnation).collect();
        assert_eq!(numbers, [15, 14, 13, 12, 11]);
        assert!(kept.iter().all(|end| end.text.len() as u64 == TEXT_CAP), "{kept:?}");
        assert!(kept[0].text.ends_with("last words 15") && kept[0].text.starts_with('x'));
        // The log has 10,014 bytes.
        let index = kept[0].index();
        assert_eq!(
            index.marks.iter().map(|mark| (mark.at_ms, mark.offset)).collect::<Vec<_>>(),
            [(7, 0), (8, 78), (9, 4178)]
        );
        assert_eq!(list(&run_dir, &VmId::new("b").expect("a name")), []);
    }

    /// The bound of semantics 10.8.
    #[test]
    fn beyond_the_bound_the_vms_that_have_not_ended_for_longest_are_forgotten() {
        let top = tempfile::tempdir().expect("a directory");
        let run_dir = RunDir::choose(Some(top.path())).expect("ours");
        let all = top.path().join(layout::ENDS);
        let name = |number: usize| VmId::new(&format!("n{number}")).expect("a name");
        for number in 0..2048 {
            let own = all.join(name(number).as_str());
            std::fs::create_dir_all(&own).expect("made");
            let ended_at = SystemTime::UNIX_EPOCH + Duration::new(5, u32::try_from(number).expect("small"));
            std::fs::File::open(&own).and_then(|own| own.set_modified(ended_at)).expect("set");
        }
        // A VM that has ended before is the newest after its next end, and makes no other VM forgotten.
        keep(&run_dir.vm(&name(0)), &ended(1));
        assert_eq!(std::fs::read_dir(&all).expect("readable").count(), 2048);
        for number in [2048, 2049] {
            keep(&run_dir.vm(&name(number)), &ended(1));
        }
        assert_eq!(std::fs::read_dir(&all).expect("readable").count(), 2048);
        let is_kept = |number| all.join(name(number).as_str()).exists();
        assert_eq!([0, 1, 2, 3, 2047, 2048, 2049].map(is_kept), [true, false, false, true, true, true, true]);
    }

    #[test]
    fn an_end_that_cannot_be_read_hides_no_other() {
        let top = tempfile::tempdir().expect("a directory");
        let run_dir = RunDir::choose(Some(top.path())).expect("ours");
        let name = VmId::new("a").expect("a name");
        keep(&run_dir.vm(&name), &ended(1));
        let own = top.path().join(layout::ENDS).join("a");
        std::fs::write(own.join("000000000000002-0000000002.json"), "{\"ex").expect("written");
        assert_eq!(list(&run_dir, &name).len(), 1);
    }
}
