//! Opens private parsers to the fuzz targets, with what must hold for any input.

use crate::answer::Words;
use crate::helper;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Reads a plan, as the helper does.
pub fn plan(bytes: &[u8]) {
    let Ok(plan) = helper::parse(OsStr::from_bytes(bytes)) else { return };
    let text = serde_json::to_string(&plan).expect("a plan becomes JSON");
    assert_eq!(helper::parse(text.as_ref()).as_ref(), Ok(&plan));
    let is_plain =
        |path: &Path| path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    assert!(is_plain(&plan.dir));
    for bind in &plan.binds {
        assert!(is_plain(&bind.source) && is_plain(&bind.target) && bind.target != Path::new("/"));
    }
    assert!(plan.user.is_none_or(|user| user.uid != 0 && user.gid != 0 && plan.capabilities.is_empty()));
}

/// Reads what the helper has said.
pub fn answer(bytes: &[u8]) {
    let words = Words::of(bytes);
    let is_said = bytes.iter().any(|byte| *byte != b'\n');
    let is_heard = words.became.is_some() || words.report.is_some() || words.failure.is_some();
    assert_eq!(is_said, is_heard);
}
