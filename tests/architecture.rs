//! Holds the code to the arrows of ARCHITECTURE.md: who may use whom, and who may touch the world.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The rooms, lowest first. A room uses only rooms of rows above its own in this list.
const ROWS: [&[&str]; 9] = [
    &["spec", "reply", "actor"],
    &["config", "policy", "cid", "executor", "journal"],
    &["observe"],
    &["link", "monitor_client"],
    &["vm"],
    &["group"],
    &["tree"],
    &["control", "adapter"],
    &["platform"],
];

/// Rooms and files that decide: no actor, no runtime, no clock, no disk, no socket.
const PURE: &[&str] = &[
    "spec.rs",
    "spec/",
    "policy.rs",
    "policy/",
    "config/",
    "cid/pool.rs",
    "executor/argv.rs",
    "vm/phase.rs",
    "vm/health.rs",
    "group/machine.rs",
    "group/machine/",
    "tree/schedule.rs",
    "tree/check.rs",
    "tree/change.rs",
    "tree/survey.rs",
    "vm/phase/",
    "adapter/name.rs",
    "adapter/daemon.rs",
    "control/call.rs",
    "control/session.rs",
];

/// What only one room may hold.
const EDGES: [(&str, &[&str]); 5] = [
    ("process::Command", &["executor/process.rs"]),
    ("UnixStream::connect", &["link/dial.rs", "monitor_client.rs", "control/"]),
    ("VsockStream::connect", &["link/dial.rs"]),
    // The wall clock is only told, never asked: it may jump.
    ("SystemTime", &["observe/"]),
    ("std::env", &["executor/process.rs", "platform.rs"]),
];

struct Source {
    /// Relative to `src/`.
    path: String,
    /// Without tests and comments.
    code: String,
}

impl Source {
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn is_under(&self, places: &[&str]) -> bool {
        places
            .iter()
            .any(|place| self.path == *place || (place.ends_with('/') && self.path.starts_with(place)))
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("src can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&top, &mut found);
    found.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a source can be read");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        Source {
            path: path.strip_prefix(&top).expect("below src").to_string_lossy().into_owned(),
            code: code.collect::<Vec<_>>().join("\n"),
        }
    };
    let is_test = |path: &PathBuf| path.ends_with("tests.rs");
    found.into_iter().filter(|path| !is_test(path)).map(read).collect()
}

fn row(room: &str) -> Option<usize> {
    ROWS.iter().position(|rooms| rooms.contains(&room))
}

/// The rooms that a file names as `crate::room`.
fn used(code: &str) -> BTreeSet<&str> {
    let after = code.split("crate::").skip(1);
    after
        .map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap_or_default())
        .collect()
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.path != "lib.rs" && source.path != "book.rs") {
        let room = source.room();
        let own = row(room).unwrap_or_else(|| panic!("{}: the room {room:?} stands in no row", source.path));
        for target in used(&source.code) {
            let below = row(target).is_some_and(|target| target < own);
            if target != room && !below {
                wrong.push(format!("{}: {room} uses {target}, which is not below it", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_decides_touches_nothing() {
    let forbidden =
        ["tokio", "ractor", "std::fs", "std::net", "Instant::now", "SystemTime::now", "fastrand", "async "];
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.is_under(PURE)) {
        for word in forbidden.iter().filter(|word| source.code.contains(**word)) {
            wrong.push(format!("{}: {word}", source.path));
        }
    }
    assert!(wrong.is_empty(), "pure files that touch the world:\n{}", wrong.join("\n"));
}

#[test]
fn the_world_is_touched_in_few_places() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (word, places) in EDGES {
            if source.code.contains(word) && !source.is_under(places) {
                wrong.push(format!("{}: {word} belongs into {places:?}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_pure_place_exists() {
    let sources = sources();
    for place in PURE {
        assert!(sources.iter().any(|source| source.is_under(&[place])), "{place} is no file of src/");
    }
}

#[test]
fn no_file_is_a_warehouse() {
    let long = |source: &&Source| source.code.lines().count() > 450;
    let long: Vec<String> = sources().iter().filter(long).map(|source| source.path.clone()).collect();
    assert!(
        long.is_empty(),
        "over 450 lines, each a place to ask whether two decisions live in one room: {long:?}"
    );
}
