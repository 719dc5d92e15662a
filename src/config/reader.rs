//! Reads TOML tables by a list of keys, and notes every mistake. Knows no key by name.
//!
//! Serde stops at the first mistake, and so does its `deny_unknown_fields`; a user wants to see all mistakes at once.

use super::diagnostic::Log;
use super::keywords::{nearest_key, of_compose};
use super::value::{Node, Reading, described};
use crate::spec::keys::Kind;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use toml::de::DeTable;

/// A value, its place and the full name of its key.
#[derive(Debug, Clone)]
pub(super) struct Written<'t> {
    pub(super) value: Value,
    pub(super) node: &'t Node<'t>,
    pub(super) path: String,
}

impl Written<'_> {
    pub(super) fn at(&self) -> Range<usize> {
        self.node.span()
    }
}

/// The keys that are written in a table and in the tables below it, by their dotted names. `None` is a wrong value: it
/// was reported once, and is neither used itself nor replaced by a default.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer<'t>(BTreeMap<String, Option<Written<'t>>>);

impl<'t> Layer<'t> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn good(&self, name: &str) -> Option<&Written<'t>> {
        self.0.get(name)?.as_ref()
    }

    pub(super) fn is_wrong(&self, name: &str) -> bool {
        self.has(name) && self.good(name).is_none()
    }

    /// Returns the key of the two that stands further down: the user probably changed that key last.
    pub(super) fn later(&self, one: &str, other: &str) -> Option<&Written<'t>> {
        [one, other].iter().filter_map(|name| self.good(name)).max_by_key(|written| written.at().start)
    }

    /// Adds the part of `root` below a table, with names that begin there.
    pub(super) fn with_table(mut self, root: &Self, table: &str) -> Self {
        let inner = |name: &str| Some(name.strip_prefix(table)?.strip_prefix('.')?.to_owned());
        self.0.extend(root.0.iter().filter_map(|(name, written)| Some((inner(name)?, written.clone()))));
        self
    }

    /// Takes a key from a lower layer, unless this layer has it.
    pub(super) fn inherit(&mut self, name: &str, lower: &Self) {
        if let (false, Some(written)) = (self.has(name), lower.0.get(name)) {
            self.0.insert(name.to_owned(), written.clone());
        }
    }
}

/// The dotted names that a table may have. A name without a kind is a list of tables, which is read separately.
pub(super) type Keys = Vec<(String, Option<Kind>)>;

/// A table to be read.
#[derive(Debug, Clone)]
pub(super) struct Table<'t> {
    pub(super) entries: &'t DeTable<'t>,
    /// The place of its header, or of its braces.
    pub(super) at: Range<usize>,
    /// The group or VM that the table belongs to, as `group "web"` or `group "web" vm "api"`; empty for the whole file.
    pub(super) owner: String,
    pub(super) log: &'t Log<'t>,
    /// The folder at which relative paths begin.
    pub(super) folder: &'t Path,
}

impl<'t> Table<'t> {
    /// Returns the text that is written under a key, right or wrong.
    pub(super) fn peek(&self, key: &str) -> Option<&'t str> {
        self.entries.get(key)?.get_ref().as_str()
    }

    /// Reads the table and the tables in it. A key that is not in `keys` is unknown.
    pub(super) fn read(&self, keys: &Keys) -> Layer<'t> {
        let mut layer = Layer::default();
        self.walk(self.entries, "", keys, &mut layer);
        layer
    }

    fn walk(&self, entries: &'t DeTable<'t>, prefix: &str, keys: &Keys, layer: &mut Layer<'t>) {
        for (key, node) in entries {
            let name = format!("{prefix}{}", quoted(key.get_ref()));
            let (path, inner) = (self.path(&name), format!("{name}."));
            if let Some((_, kind)) = keys.iter().find(|(known, _)| *known == name) {
                let Some(kind) = kind else { continue };
                let value = Reading { node, path: &path, log: self.log, folder: self.folder }.read(*kind);
                layer.0.insert(name, value.map(|value| Written { value, node, path }));
            } else if !keys.iter().any(|(known, _)| known.starts_with(&inner)) {
                let here: Vec<&str> =
                    keys.iter().filter_map(|(known, _)| known.strip_prefix(prefix)).collect();
                let mut tops: Vec<&str> = here.iter().filter_map(|name| name.split('.').next()).collect();
                tops.dedup();
                let help = match (of_compose(key.get_ref()), nearest_key(key.get_ref(), &tops, here)) {
                    (Some(here), _) => here.to_owned(),
                    (None, Some(near)) => format!("did you mean {near}?"),
                    (None, None) => format!("known here: {}", tops.join(", ")),
                };
                self.log.wrong(
                    key.span(),
                    &path,
                    format!("unknown key {}", quoted(key.get_ref())),
                    Some(help),
                );
            } else if let Some(entries) = node.get_ref().as_table() {
                self.walk(entries, &inner, keys, layer);
            } else {
                let below =
                    keys.iter().map(|(known, _)| known.as_str()).filter(|known| known.starts_with(&inner));
                let below: Vec<&str> = below.collect();
                self.log.wrong(
                    node.span(),
                    &path,
                    format!("expected a table, found {}", described(node)),
                    Some(format!("its keys: {}", below.join(", "))),
                );
            }
        }
    }

    /// Returns the tables of a list, each with an owner of its own: `group "web"`, or `group #2` while it has no name.
    pub(super) fn each(&self, key: &str) -> Vec<Self> {
        let Some(node) = self.entries.get(key) else { return Vec::new() };
        let path = self.path(key);
        let Some(items) = node.get_ref().as_array() else {
            let header = if self.owner.is_empty() { key.to_owned() } else { format!("group.{key}") };
            let problem = format!("expected a list of tables, found {}", described(node));
            self.log.wrong(node.span(), &path, problem, Some(format!("write [[{header}]]")));
            return Vec::new();
        };
        let table = |(index, item): (usize, &'t Node<'t>)| {
            let Some(entries) = item.get_ref().as_table() else {
                let problem = format!("expected a table, found {}", described(item));
                self.log.wrong(item.span(), &format!("{path}[{index}]"), problem, None);
                return None;
            };
            let name = entries.get("name").and_then(|name| name.get_ref().as_str());
            let name = name.map_or_else(|| format!("#{}", index + 1), |name| format!("{name:?}"));
            let space = if self.owner.is_empty() { "" } else { " " };
            let owner = format!("{}{space}{key} {name}", self.owner);
            Some(Self { entries, at: item.span(), owner, ..*self })
        };
        items.iter().enumerate().filter_map(table).collect()
    }

    fn path(&self, dotted: &str) -> String {
        let colon = if self.owner.is_empty() { "" } else { ": " };
        format!("{}{colon}{dotted}", self.owner)
    }
}

/// Returns a key as TOML would have it: bare, or in quotes.
fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { key.to_owned() } else { format!("{key:?}") }
}
