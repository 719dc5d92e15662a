//! The user ids of this host that are in use.

use crate::host::patience::patiently;
use std::collections::BTreeSet;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

/// The files that give ranges of ids to users (subuid(5), subgid(5)).
const GIVEN: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// Returns the user ids of all processes of this host.
pub fn of_processes() -> BTreeSet<u32> {
    let entries = patiently(|| std::fs::read_dir("/proc")).into_iter().flatten().flatten();
    let processes = entries.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
    processes.filter_map(|entry| entry.metadata().ok().map(|meta| meta.uid())).collect()
}

/// Returns the ranges of ids that the host gives to its users for their own user namespaces.
pub fn given() -> Vec<Range<u32>> {
    let texts = GIVEN.map(|path| std::fs::read_to_string(path).unwrap_or_default());
    texts.iter().flat_map(|text| text.lines().filter_map(range_in)).collect()
}

/// Returns the range in a line: `name:first:count`.
fn range_in(line: &str) -> Option<Range<u32>> {
    let mut fields = line.trim().split(':').skip(1);
    let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(first..first.saturating_add(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_users_are_read_and_other_lines_say_nothing() {
        assert_eq!(range_in("edgar:100000:65536"), Some(100_000..165_536));
        assert_eq!(range_in("x:4294967295:9"), Some(u32::MAX..u32::MAX));
        for line in ["", "# a comment", "x:1", "x:a:b"] {
            assert_eq!(range_in(line), None, "{line}");
        }
    }

    #[test]
    fn the_user_of_this_process_is_one_of_a_process() {
        assert!(of_processes().contains(&rustix::process::geteuid().as_raw()));
    }
}
