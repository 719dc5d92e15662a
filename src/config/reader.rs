//! Reads TOML tables by a list of keys, and notes every mistake on the way. Knows no key by name.
//!
//! Serde stops at the first mistake, and so does its `deny_unknown_fields`; a person wants all of them at once.

use super::diagnostic::Log;
use super::keywords::nearest_key;
use super::value::{Node, described, read};
use crate::spec::keys::Kind;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use toml::de::DeTable;

/// A value, where it stands and what its key is called in full.
#[derive(Debug, Clone)]
pub(super) struct Written<'t> {
    pub(super) value: Value,
    pub(super) node: &'t Node<'t>,
    pub(super) path: String,
}

/// A key that is written. A wrong value is told once and then stands for nothing: neither for itself nor for a default.
#[derive(Debug, Clone)]
pub(super) enum Field<'t> {
    Wrong,
    Good(Written<'t>),
}

/// The keys that are written in a table and in the tables below it, by their dotted names.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer<'t>(BTreeMap<String, Field<'t>>);

/// A table, and whose it is: nobody's, or `group "web"`, or `group "web" vm "api"`.
#[derive(Debug)]
pub(super) struct Table<'t> {
    pub(super) entries: &'t DeTable<'t>,
    /// Its header, or its braces.
    pub(super) at: Range<usize>,
    pub(super) owner: String,
}

/// The dotted names that a table may have. A name without a kind is a list of tables, which is read by itself.
pub(super) type Keys = Vec<(String, Option<Kind>)>;

pub(super) struct Reader<'t> {
    pub(super) log: &'t Log<'t>,
    /// Where relative paths begin.
    pub(super) folder: &'t Path,
}

impl<'t> Written<'t> {
    pub(super) fn at(&self) -> Range<usize> {
        self.node.span()
    }
}

impl<'t> Layer<'t> {
    pub(super) fn get(&self, name: &str) -> Option<&Field<'t>> {
        self.0.get(name)
    }

    pub(super) fn good(&self, name: &str) -> Option<&Written<'t>> {
        match self.get(name)? {
            Field::Good(written) => Some(written),
            Field::Wrong => None,
        }
    }

    pub(super) fn is_wrong(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Field::Wrong))
    }

    /// Returns the one of two keys that stands further down: that is where the reader last changed something.
    pub(super) fn later(&self, one: &str, other: &str) -> Option<&Written<'t>> {
        [one, other].iter().filter_map(|name| self.good(name)).max_by_key(|written| written.at().start)
    }

    /// Returns the part of the layer below a table, with names that begin there.
    pub(super) fn below(&self, table: &str) -> impl Iterator<Item = (String, Field<'t>)> {
        let strip = move |name: &str| Some(name.strip_prefix(table)?.strip_prefix('.')?.to_owned());
        self.0.iter().filter_map(move |(name, field)| Some((strip(name)?, field.clone())))
    }

    /// Takes a key from a lower layer, unless it is written in this one.
    pub(super) fn inherit(&mut self, name: &str, lower: &Self) {
        if let (false, Some(field)) = (self.0.contains_key(name), lower.get(name)) {
            self.0.insert(name.to_owned(), field.clone());
        }
    }
}

impl<'t> FromIterator<(String, Field<'t>)> for Layer<'t> {
    fn from_iter<I: IntoIterator<Item = (String, Field<'t>)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

impl<'t> Table<'t> {
    /// Returns what is written as a text under a key, right or wrong.
    pub(super) fn peek(&self, key: &str) -> Option<&'t str> {
        self.entries.get(key)?.get_ref().as_str()
    }

    /// Returns the full path of a key of this table.
    pub(super) fn path(&self, dotted: &str) -> String {
        let colon = if self.owner.is_empty() { "" } else { ": " };
        format!("{}{colon}{dotted}", self.owner)
    }
}

impl<'t> Reader<'t> {
    /// Reads a table and the tables in it. A key that is not in `keys` is unknown.
    pub(super) fn read(&self, table: &Table<'t>, keys: &Keys) -> Layer<'t> {
        let mut layer = Layer::default();
        self.walk(table, table.entries, "", keys, &mut layer);
        layer
    }

    fn walk(
        &self,
        table: &Table<'t>,
        entries: &'t DeTable<'t>,
        prefix: &str,
        keys: &Keys,
        layer: &mut Layer<'t>,
    ) {
        let below = |prefix: &str| keys.iter().filter_map(|(name, _)| name.strip_prefix(prefix)).collect();
        let here: Vec<&str> = below(prefix);
        for (key, node) in entries {
            let name = format!("{prefix}{}", quoted(key.get_ref()));
            let path = table.path(&name);
            let inner = format!("{name}.");
            if let Some((_, kind)) = keys.iter().find(|(known, _)| *known == name) {
                let Some(kind) = kind else { continue };
                layer.0.insert(name, self.value(*kind, node, path));
            } else if here.is_empty() || !keys.iter().any(|(known, _)| known.starts_with(&inner)) {
                let mut tops: Vec<&str> = here.iter().filter_map(|name| name.split('.').next()).collect();
                tops.dedup();
                let help = match nearest_key(key.get_ref(), &tops, here.iter().copied()) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("known here: {}", tops.join(", ")),
                };
                let problem = format!("unknown key {}", quoted(key.get_ref()));
                self.log.wrong(key.span(), &path, problem, Some(help));
            } else if let Some(entries) = node.get_ref().as_table() {
                self.walk(table, entries, &inner, keys, layer);
            } else {
                let problem = format!("expected a table, found {}", described(node));
                self.log.wrong(node.span(), &path, problem, None);
            }
        }
    }

    fn value(&self, kind: Kind, node: &'t Node<'t>, path: String) -> Field<'t> {
        match read(kind, node, self.folder) {
            Ok(value) => Field::Good(Written { value, node, path }),
            Err(wrongs) => {
                for wrong in wrongs {
                    self.log.wrong(wrong.at, &format!("{path}{}", wrong.within), wrong.problem, wrong.help);
                }
                Field::Wrong
            }
        }
    }

    /// Returns the tables of a list, each with an owner of its own: `group "web"`, or `group #2` while it has no name.
    pub(super) fn each(&self, table: &Table<'t>, key: &str) -> Vec<Table<'t>> {
        let Some(node) = table.entries.get(key) else { return Vec::new() };
        let path = table.path(key);
        let Some(items) = node.get_ref().as_array() else {
            let header = if table.owner.is_empty() { key.to_owned() } else { format!("group.{key}") };
            let problem = format!("expected a list of tables, found {}", described(node));
            self.log.wrong(node.span(), &path, problem, Some(format!("write [[{header}]]")));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(entries) = item.get_ref().as_table() else {
                let problem = format!("expected a table, found {}", described(item));
                self.log.wrong(item.span(), &format!("{path}[{index}]"), problem, None);
                continue;
            };
            let mut owned = Table { entries, at: item.span(), owner: String::new() };
            let name =
                owned.peek("name").map_or_else(|| format!("#{}", index + 1), |name| format!("{name:?}"));
            let space = if table.owner.is_empty() { "" } else { " " };
            owned.owner = format!("{}{space}{key} {name}", table.owner);
            tables.push(owned);
        }
        tables
    }
}

/// Returns a key as TOML would have it: bare, or in quotes.
fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { key.to_owned() } else { format!("{key:?}") }
}
