//! Holds the fuzz targets together: each has its program, seeds, and a row in `docs/fuzzing.md`. That they build and hold for
//! their seeds is shown by `make fuzz-smoke`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The length of a seed, and of all seeds of a target. libFuzzer finds the long inputs by itself.
const SEED_CAP: u64 = 16 << 10;
const SEEDS_CAP: u64 = 64 << 10;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    let path = root().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

fn names(folder: &str) -> BTreeSet<String> {
    let stem = |path: PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    listed(&root().join(folder)).into_iter().map(stem).collect()
}

/// Returns the names in the list of targets.
fn targets() -> BTreeSet<String> {
    let text = read("fuzz/src/targets.rs");
    let names = text.split("Target::new(").skip(1).filter_map(|rest| rest.split('"').nth(1));
    let names: Vec<String> = names.map(str::to_owned).collect();
    let set: BTreeSet<String> = names.iter().cloned().collect();
    assert!(set.len() == names.len() && set.len() >= 20, "{names:?}");
    set
}

#[test]
fn each_target_has_a_program_seeds_and_a_row() {
    let targets = targets();
    assert_eq!(names("fuzz/src/bin"), targets, "fuzz/src/bin");
    assert_eq!(names("fuzz/seeds"), targets, "fuzz/seeds");
    let text = read("docs/fuzzing.md");
    let rows = text.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('`').nth(1));
    assert_eq!(rows.map(str::to_owned).collect::<BTreeSet<_>>(), targets, "docs/fuzzing.md");
}

#[test]
fn each_program_is_the_target_of_its_name() {
    for program in listed(&root().join("fuzz/src/bin")) {
        let text = std::fs::read_to_string(&program).expect("a program");
        assert!(text.ends_with("#![no_main]\n\npepita_fuzz::program!();\n"), "{}", program.display());
    }
}

#[test]
fn seeds_are_few_and_small() {
    for target in targets() {
        let seeds = listed(&root().join("fuzz/seeds").join(&target));
        let lengths: Vec<u64> = seeds.iter().map(|seed| seed.metadata().expect("a seed").len()).collect();
        assert!(!lengths.is_empty(), "{target} has no seed");
        assert!(lengths.iter().all(|length| *length <= SEED_CAP), "{target}: a seed of more than 16 KiB");
        assert!(lengths.iter().sum::<u64>() <= SEEDS_CAP, "{target}: more than 64 KiB of seeds");
    }
}

/// A dependency that a crate gets or loses is one of the fuzz targets, too.
#[test]
fn the_lock_file_of_the_fuzz_targets_fits_the_manifests() {
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--format-version", "1", "--locked"]).current_dir(root().join("fuzz"));
    let output = cargo.output().expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "bring fuzz/Cargo.lock up to date (cd fuzz && cargo check): {said}");
}

/// The crates that both lock files have are the same, so that what is fuzzed is what runs.
#[test]
fn the_lock_file_of_the_fuzz_targets_has_the_versions_of_the_workspace() {
    let packages = |file: &str| -> BTreeSet<(String, String)> {
        let lock: toml::Table = read(file).parse().expect("a lock file");
        let packages = lock["package"].as_array().expect("packages").clone();
        let text = |package: &toml::Value, key: &str| package[key].as_str().expect("a text").to_owned();
        packages.iter().map(|package| (text(package, "name"), text(package, "version"))).collect()
    };
    let (ours, theirs) = (packages("Cargo.lock"), packages("fuzz/Cargo.lock"));
    let known: BTreeSet<&String> = ours.iter().map(|(name, _)| name).collect();
    let wrong: Vec<_> = theirs.iter().filter(|one| known.contains(&one.0) && !ours.contains(*one)).collect();
    assert!(wrong.is_empty(), "fuzz/Cargo.lock has other versions (cd fuzz && cargo update): {wrong:?}");
}
