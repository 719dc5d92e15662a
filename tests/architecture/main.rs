//! Holds every crate to the arrows of ARCHITECTURE.md: the rooms that each room may use, the files that are pure, and
//! the places that may use clock, disk, sockets and processes.

mod graph;
mod packages;
mod rules;

use graph::File;
use rules::{CRATES, Crate};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

/// The rules and the files of each crate, read once.
fn crates() -> impl Iterator<Item = (&'static Crate, &'static [File])> {
    static FILES: LazyLock<Vec<Vec<File>>> = LazyLock::new(|| {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        CRATES.iter().map(|krate| graph::read(&top.join(krate.dir), krate.name)).collect()
    });
    CRATES.iter().zip(FILES.iter().map(Vec::as_slice))
}

/// Fails with a list of all violations, one in each line.
fn assert_none(wrong: &[String], what: &str) {
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for (krate, files) in crates() {
        for file in files {
            let own = krate.row(file.room());
            if own.is_none() {
                wrong.push(format!(
                    "{}/{}: the room {:?} stands in no row",
                    krate.dir,
                    file.name,
                    file.room()
                ));
            }
            for (target, path) in &file.uses {
                let below = krate.row(graph::room(target)) < own;
                if graph::room(target) != file.room() && !below {
                    wrong.push(format!(
                        "{}/{} uses {target} by {path}, which is not below",
                        krate.dir, file.name
                    ));
                }
            }
        }
    }
    assert_none(&wrong, "imports that point up or sideways");
}

#[test]
fn the_document_has_the_same_rows() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md"));
    let text = text.expect("ARCHITECTURE.md can be read");
    for krate in CRATES {
        let heading = format!("\n### `{}`", krate.dir.strip_suffix("/src").unwrap_or(krate.dir));
        let section = text.split(&heading).nth(1).unwrap_or_else(|| panic!("no section{heading}"));
        let section = section.split("\n#").next().unwrap_or_default();
        let rows = section.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
        let told: Vec<BTreeSet<&str>> = rows.map(|row| row.split('`').skip(1).step_by(2).collect()).collect();
        let real: Vec<BTreeSet<&str>> = krate.rows.iter().map(|row| row.iter().copied().collect()).collect();
        assert_eq!(told, real, "ARCHITECTURE.md, {heading}");
    }
}

#[test]
fn files_do_not_use_each_other_in_circles() {
    let mut wrong = Vec::new();
    for (krate, files) in crates() {
        for circle in graph::circles(files) {
            wrong.push(format!("{}: {}", krate.dir, circle.join(", ")));
            for file in files.iter().filter(|file| circle.contains(&file.name)) {
                for (target, path) in file.uses.iter().filter(|(target, _)| circle.contains(target)) {
                    wrong.push(format!("    {} uses {target} by {path}", file.name));
                }
            }
        }
    }
    assert_none(&wrong, "circles");
}

#[test]
fn what_decides_touches_nothing() {
    let mut wrong = Vec::new();
    for (krate, files) in crates() {
        for file in files.iter().filter(|file| is_under(&file.name, krate.pure)) {
            for path in file.foreign.iter().filter(|path| rules::touches_the_world(path)) {
                wrong.push(format!("{}/{}: {path}", krate.dir, file.name));
            }
            if file.code.split(' ').any(|word| word == "async") {
                wrong.push(format!("{}/{}: async", krate.dir, file.name));
            }
        }
    }
    assert_none(&wrong, "pure files that touch the world");
}

#[test]
fn the_world_is_touched_in_few_places() {
    let mut wrong = Vec::new();
    for (krate, files) in crates() {
        for file in files {
            for (edge, places) in krate.edges {
                if !is_under(&file.name, places) && file.foreign.iter().any(|path| rules::names(path, edge)) {
                    wrong.push(format!("{}/{}: {edge} belongs into {places:?}", krate.dir, file.name));
                }
            }
        }
    }
    assert_none(&wrong, "edges in other places");
}

/// These macros panic when their output takes nothing: a full disk behind standard error would end a supervisor.
#[test]
fn no_program_prints_with_a_macro_that_panics() {
    const MACROS: &[&str] = &["print", "println", "eprint", "eprintln", "dbg"];
    let ticker = graph::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/ticker/src"), "ticker");
    let all = crates().map(|(krate, files)| (krate.dir, files)).chain([("crates/ticker/src", &ticker[..])]);
    let mut wrong = Vec::new();
    for (dir, files) in all {
        for file in files {
            let words: Vec<&str> = file.code.split(' ').collect();
            for pair in words.windows(2).filter(|pair| pair[1] == "!" && MACROS.contains(&pair[0])) {
                wrong.push(format!("{dir}/{}: {}!", file.name, pair[0]));
            }
        }
    }
    assert_none(&wrong, "macros that panic when their output cannot be written");
}

#[test]
fn every_place_of_the_rules_exists() {
    let mut wrong = Vec::new();
    for (krate, files) in crates() {
        let rooms = krate.rows.iter().flat_map(|row| row.iter());
        for room in rooms.filter(|room| !files.iter().any(|file| file.room() == **room)) {
            wrong.push(format!("{}: no room {room}", krate.dir));
        }
        let places = krate.edges.iter().flat_map(|(_, places)| places.iter()).chain(krate.pure);
        for place in places.filter(|place| !files.iter().any(|file| is_under(&file.name, &[place]))) {
            wrong.push(format!("{}: no file {place}", krate.dir));
        }
    }
    assert_none(&wrong, "rules about what is not there");
}

#[test]
fn no_file_is_too_long() {
    let mut wrong = Vec::new();
    for (krate, files) in crates() {
        for file in files.iter().filter(|file| file.lines > 450) {
            wrong.push(format!("{}/{}: {} lines", krate.dir, file.name, file.lines));
        }
    }
    assert_none(&wrong, "over 450 lines, each a place to ask whether two decisions live in one room");
}

/// Returns whether a file is one of these places, or lies below a place that ends in `/`; `""` stands for the whole
/// crate.
fn is_under(file: &str, places: &[&str]) -> bool {
    places
        .iter()
        .any(|place| file == *place || place.ends_with('/') && file.starts_with(place) || place.is_empty())
}
