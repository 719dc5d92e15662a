//! Holds the crates that this repository builds with to `deny.toml` and to `docs/dependencies.md`. Asks cargo only, without the
//! internet: the advisories, which need it, are cargo-deny's (`make deny`).

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// The packages of this repository, as the table calls them.
const PACKAGES: [(&str, &str); 10] = [
    ("pepita-supervisor", "library"),
    ("pepita-wire", "wire"),
    ("pepita-ports", "ports"),
    ("pepita-copy", "copy"),
    ("pepita-jail", "jail"),
    ("pepita-launcher", "launcher"),
    ("pepita-guest", "agent"),
    ("pepita-images", "images"),
    ("pepita-supervisors", "programs"),
    ("pepita-ticker", "ticker"),
];

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn policy() -> toml::Table {
    read("deny.toml").parse().expect("deny.toml is TOML")
}

fn texts(value: &toml::Value) -> Vec<&str> {
    value.as_array().expect("an array").iter().map(|text| text.as_str().expect("a text")).collect()
}

/// Returns what cargo says of all crates for the platform of this repository.
fn packages() -> Vec<Value> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ]);
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("the metadata is JSON");
    let used: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .filter_map(|n| n["id"].as_str())
        .collect();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .filter(|package| used.contains(package["id"].as_str().unwrap_or_default()))
        .cloned()
        .collect()
}

/// Returns whether a licence expression of SPDX is met by the allowed licences. A slash is what crates wrote before SPDX.
fn is_met(expression: &str, allowed: &[&str]) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = expression.split_whitespace().collect();
    let mut rest = words.as_slice();
    let met = any_of(&mut rest, allowed);
    met && rest.is_empty()
}

fn any_of(rest: &mut &[&str], allowed: &[&str]) -> bool {
    let mut met = all_of(rest, allowed);
    while let ["OR", more @ ..] = *rest {
        *rest = more;
        met |= all_of(rest, allowed);
    }
    met
}

fn all_of(rest: &mut &[&str], allowed: &[&str]) -> bool {
    let mut met = one(rest, allowed);
    while let ["AND", more @ ..] = *rest {
        *rest = more;
        met &= one(rest, allowed);
    }
    met
}

fn one(rest: &mut &[&str], allowed: &[&str]) -> bool {
    match *rest {
        ["(", more @ ..] => {
            *rest = more;
            let met = any_of(rest, allowed);
            *rest = rest.strip_prefix(&[")"]).unwrap_or_default();
            met
        }
        [licence, "WITH", exception, more @ ..] => {
            *rest = more;
            allowed.contains(&format!("{licence} WITH {exception}").as_str())
        }
        [licence, more @ ..] => {
            *rest = more;
            allowed.contains(licence)
        }
        [] => false,
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("GPL-2.0-only OR MIT", true),
        ("Apache-2.0/MIT", true),
        ("Apache-2.0 AND MIT", false),
        ("(Apache-2.0 OR MIT) AND ISC", true),
        ("MIT AND (Zlib OR Unicode-3.0)", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", true),
        ("Apache-2.0 WITH Other-exception", false),
        ("", false),
    ] {
        assert_eq!(is_met(expression, &allowed), expected, "{expression:?}");
    }
}

#[test]
fn every_crate_has_a_licence_and_a_source_that_the_policy_allows_and_none_is_banned() {
    let policy = policy();
    let allowed = texts(&policy["licenses"]["allow"]);
    let registries = texts(&policy["sources"]["allow-registry"]);
    let banned = policy["bans"]["deny"].as_array().expect("an array");
    let banned: Vec<&str> = banned.iter().map(|one| one["name"].as_str().expect("a name")).collect();
    let packages = packages();
    let mut wrong = Vec::new();
    for package in &packages {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        if !is_met(text("license"), &allowed) {
            wrong.push(format!("{}: its licence is {:?}", text("name"), text("license")));
        }
        if banned.contains(&text("name")) {
            wrong.push(format!("{} is banned", text("name")));
        }
        // What has no source is a folder of this repository.
        let is_known = match package["source"].as_str() {
            None => text("manifest_path").starts_with(env!("CARGO_MANIFEST_DIR")),
            Some(source) => source.strip_prefix("registry+").is_some_and(|url| registries.contains(&url)),
        };
        if !is_known {
            wrong.push(format!("{} comes from {:?}", text("name"), package["source"]));
        }
    }
    assert!(wrong.is_empty(), "against deny.toml:\n{}", wrong.join("\n"));
    assert!(packages.len() > 100, "only {} crates were found", packages.len());
    let unused: Vec<&&str> = allowed
        .iter()
        .filter(|licence| {
            !packages.iter().any(|p| p["license"].as_str().is_some_and(|l| l.contains(**licence)))
        })
        .collect();
    assert!(unused.is_empty(), "deny.toml allows licences that no crate has: {unused:?}");
}

/// Returns the direct dependencies with those who use them, in the order of [`PACKAGES`]; "tests" for those of tests alone.
fn direct() -> BTreeMap<String, String> {
    let packages = packages();
    let mut users: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for package in packages.iter().filter(|package| package["source"].is_null()) {
        let name = package["name"].as_str().expect("a name");
        let known = PACKAGES.iter().find(|(package, _)| *package == name);
        let (_, label) = known.unwrap_or_else(|| panic!("{name} is not among the packages of this test"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let users = users.entry(dependency["name"].as_str().expect("a name").to_owned()).or_default();
            if dependency["kind"].is_null() && !users.contains(label) {
                users.push(label);
            }
        }
    }
    users.retain(|name, _| !PACKAGES.iter().any(|(package, _)| package == name));
    let place = |label: &str| PACKAGES.iter().position(|(_, known)| *known == label);
    let of = |(name, mut users): (String, Vec<&str>)| {
        users.sort_by_key(|label| place(label));
        (name, if users.is_empty() { "tests".to_owned() } else { users.join(", ") })
    };
    users.into_iter().map(of).collect()
}

#[test]
fn each_direct_dependency_stands_in_the_table_with_its_users_and_a_reason() {
    let text = read("docs/dependencies.md");
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, users, since, repository, why] = cells[..] else { panic!("not five cells: {line}") };
        let is_filled = since.len() > 4 && repository.len() > 4 && why.len() > 8;
        assert!(is_filled, "an empty cell: {line}");
        rows.insert(name.trim_matches('`').to_owned(), users.to_owned());
    }
    let direct = direct();
    let wrong: Vec<String> = rows
        .keys()
        .chain(direct.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|name| rows.get(*name) != direct.get(*name))
        .map(|name| {
            format!("{name}: the table has {:?}, the manifests {:?}", rows.get(name), direct.get(name))
        })
        .collect();
    assert!(wrong.is_empty(), "docs/dependencies.md:\n{}", wrong.join("\n"));
}
