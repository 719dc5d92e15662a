//! The dependencies that each package may have, and the packages that must never enter the library.

use std::path::Path;

/// Each package with the packages of this repository that it may depend on.
const PACKAGES: &[(&str, &[&str])] = &[
    ("crates/wire", &[]),
    ("crates/ports", &["pepita-wire"]),
    ("crates/copy", &["pepita-wire"]),
    ("crates/jail", &[]),
    ("crates/guest", &["pepita-copy", "pepita-ports", "pepita-wire"]),
    ("crates/pepita", &["pepita-copy", "pepita-jail", "pepita-ports", "pepita-wire"]),
    ("crates/ticker", &[]),
    ("crates/images", &["pepita-wire"]),
    (".", &["pepita-ports", "pepita-wire"]),
    // The launcher is used only for the place of the run directories.
    ("supervisors", &["pepita-launcher", "pepita-supervisor", "pepita-wire"]),
];

/// The dependencies that the library may have. A host program compiles all of them: a new line here needs a reason.
const LIBRARY: &[&str] = &[
    "annotate-snippets",
    "fastrand",
    "futures-core",
    "humantime",
    "humantime-serde",
    // Listening sockets, which the library, the monitor and the agent open and carry alike; it needs rustix alone.
    "pepita-ports",
    "pepita-wire",
    "ractor",
    "rustix",
    "serde",
    "serde_json",
    "sha2",
    "strsim",
    "strum",
    "thiserror",
    "tokio",
    "tokio-vsock",
    "toml",
    "tracing",
];

fn dependencies(package: &str) -> Vec<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(package).join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).unwrap_or_else(|e| panic!("{}: {e}", manifest.display()));
    let table: toml::Table = text.parse().unwrap_or_else(|e| panic!("{}: {e}", manifest.display()));
    let dependencies = table.get("dependencies").and_then(toml::Value::as_table);
    dependencies.into_iter().flat_map(|table| table.keys().cloned()).collect()
}

#[test]
fn packages_depend_downwards() {
    for (package, allowed) in PACKAGES {
        let ours = dependencies(package).into_iter().filter(|name| name.starts_with("pepita-"));
        let wrong: Vec<String> = ours.filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(wrong.is_empty(), "{package} depends on {wrong:?}");
    }
}

#[test]
fn the_library_stays_light() {
    let wrong: Vec<String> =
        dependencies(".").into_iter().filter(|name| !LIBRARY.contains(&name.as_str())).collect();
    assert!(wrong.is_empty(), "new dependencies of the library: {wrong:?}");
}

#[test]
fn the_wire_and_the_guest_know_no_runtime() {
    for package in ["crates/wire", "crates/guest"] {
        let wrong =
            dependencies(package).into_iter().find(|name| name.starts_with("tokio") || name == "ractor");
        assert_eq!(wrong, None, "{package}");
    }
}
