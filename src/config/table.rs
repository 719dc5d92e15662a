//! Reads one TOML table key by key, and notes every mistake on the way. Knows no key by name.
//!
//! Serde stops at the first mistake, and so does its `deny_unknown_fields`; a person wants all of them at once.

use super::leaf::Wrong;
use super::mistake::Mistake;
use super::place::Source;
use super::words::nearest_key;
use std::cell::RefCell;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value, where it stands and what its key is called in full.
#[derive(Debug, Clone)]
pub(super) struct Written<T> {
    pub(super) value: T,
    pub(super) at: Range<usize>,
    pub(super) path: String,
}

/// What is known of a key. A wrong one is told once and then stands for nothing: neither for itself nor for a default.
#[derive(Debug, Clone, Default)]
pub(super) enum Field<T> {
    #[default]
    Absent,
    Wrong,
    Good(Written<T>),
}

impl<T> Field<T> {
    /// What is written here, else what is written below.
    pub(super) fn over(self, below: &Self) -> Self
    where
        T: Clone,
    {
        match self {
            Self::Absent => below.clone(),
            Self::Wrong | Self::Good(_) => self,
        }
    }

    pub(super) fn good(&self) -> Option<&Written<T>> {
        match self {
            Self::Good(written) => Some(written),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(super) fn or(&self, default: T) -> T
    where
        T: Clone,
    {
        self.good().map_or(default, |written| written.value.clone())
    }

    pub(super) fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong)
    }
}

/// All mistakes so far.
#[derive(Debug)]
pub(super) struct Log<'t> {
    pub(super) source: Source<'t>,
    mistakes: RefCell<Vec<Mistake>>,
}

impl<'t> Log<'t> {
    pub(super) fn new(source: Source<'t>) -> Self {
        Self { source, mistakes: RefCell::default() }
    }

    /// Something is written that is wrong.
    pub(super) fn wrong(
        &self,
        at: Range<usize>,
        path: &str,
        problem: impl Into<String>,
        help: Option<String>,
    ) {
        let found = Some(self.source.slice(at.clone()).to_owned());
        self.note(at, path, found, problem.into(), help);
    }

    /// Something is missing; `at` is where it should be.
    pub(super) fn missing(&self, at: Range<usize>, path: &str, problem: impl Into<String>, help: &str) {
        self.note(at, path, None, problem.into(), Some(help.to_owned()));
    }

    fn note(
        &self,
        at: Range<usize>,
        path: &str,
        found: Option<String>,
        problem: String,
        help: Option<String>,
    ) {
        let place = self.source.place(at);
        self.mistakes.borrow_mut().push(Mistake { place, path: path.to_owned(), found, problem, help });
    }

    /// Hands them out, in file order. What several VMs inherit was noted for each of them and is told once.
    pub(super) fn take(&self) -> Vec<Mistake> {
        let mut mistakes = self.mistakes.take();
        mistakes.sort_by(|a, b| (a.place.span.start, &a.problem).cmp(&(b.place.span.start, &b.problem)));
        mistakes.dedup();
        mistakes
    }
}

/// A table that is being read.
pub(super) struct Table<'t> {
    entries: &'t DeTable<'t>,
    log: &'t Log<'t>,
    /// Its header, or its braces.
    at: Range<usize>,
    /// Whose it is: empty, `group "web"` or `group "web" vm "api"`.
    owner: String,
    /// The way from the owner to it.
    dotted: String,
    known: Vec<&'static str>,
}

impl<'t> Table<'t> {
    pub(super) fn root(root: &'t Spanned<DeTable<'t>>, log: &'t Log<'t>) -> Self {
        let (owner, dotted) = (String::new(), String::new());
        Self { entries: root.get_ref(), log, at: root.span(), owner, dotted, known: Vec::new() }
    }

    pub(super) fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// The full path of a key of this table.
    pub(super) fn path(&self, key: &str) -> String {
        let colon = if self.owner.is_empty() { "" } else { ": " };
        let dot = if self.dotted.is_empty() { "" } else { "." };
        format!("{}{colon}{}{dot}{}", self.owner, self.dotted, quoted(key))
    }

    /// What is written as a text under a key, right or wrong.
    pub(super) fn peek(&self, key: &str) -> Option<&'t str> {
        self.entries.get(key)?.get_ref().as_str()
    }

    fn take(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.entries.get(key)
    }

    /// Reads a value.
    pub(super) fn leaf<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&Spanned<DeValue<'_>>) -> Result<T, Vec<Wrong>>,
    ) -> Field<T> {
        let Some(value) = self.take(key) else { return Field::Absent };
        let path = self.path(key);
        match read(value) {
            Ok(good) => Field::Good(Written { value: good, at: value.span(), path }),
            Err(wrongs) => {
                for wrong in wrongs {
                    self.log.wrong(wrong.at, &format!("{path}{}", wrong.within), wrong.problem, wrong.help);
                }
                Field::Wrong
            }
        }
    }

    /// Reads a table within this one; an absent one as an empty one.
    pub(super) fn within<T: Default>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Table<'t>) -> T,
    ) -> T {
        let Some(value) = self.take(key) else { return T::default() };
        let Some(entries) = value.get_ref().as_table() else {
            let problem = format!("expected a table, found {}", described(value));
            self.log.wrong(value.span(), &self.path(key), problem, None);
            return T::default();
        };
        let dot = if self.dotted.is_empty() { "" } else { "." };
        let dotted = format!("{}{dot}{key}", self.dotted);
        let (at, owner) = (value.span(), self.owner.clone());
        Table { entries, log: self.log, at, owner, dotted, known: Vec::new() }.read(read)
    }

    /// Reads an array of tables, each with an owner of its own: `group "web"`, or `group #2` while it has no name.
    pub(super) fn each<T>(&mut self, key: &'static str, read: impl Fn(&mut Table<'t>) -> T) -> Vec<T> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let path = self.path(key);
        let Some(items) = value.get_ref().as_array() else {
            let header = if self.owner.is_empty() { key.to_owned() } else { format!("group.{key}") };
            let problem = format!("expected a list of tables, found {}", described(value));
            self.log.wrong(value.span(), &path, problem, Some(format!("write [[{header}]]")));
            return Vec::new();
        };
        let mut all = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(entries) = item.get_ref().as_table() else {
                let problem = format!("expected a table, found {}", described(item));
                self.log.wrong(item.span(), &format!("{path}[{index}]"), problem, None);
                continue;
            };
            let name = entries.get("name").and_then(|name| name.get_ref().as_str());
            let name = name.map_or_else(|| format!("#{}", index + 1), |name| format!("{name:?}"));
            let space = if self.owner.is_empty() { "" } else { " " };
            let owner = format!("{}{space}{key} {name}", self.owner);
            let (at, dotted) = (item.span(), String::new());
            all.push(Table { entries, log: self.log, at, owner, dotted, known: Vec::new() }.read(&read));
        }
        all
    }

    /// Reads this table; whatever nobody asked for is unknown.
    pub(super) fn read<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let meant = read(&mut self);
        for key in self.entries.keys().filter(|key| !self.known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let help = match nearest_key(name, &self.known) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            let problem = format!("unknown key {}", quoted(name));
            self.log.wrong(key.span(), &self.path(name), problem, Some(help));
        }
        meant
    }
}

/// A key as TOML would have it: bare, or in quotes.
fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { key.to_owned() } else { format!("{key:?}") }
}

/// A value in a sentence: its type, and itself when that is short.
pub(super) fn described(value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::String(text) if text.chars().count() <= 40 => format!("the text {:?}", text.as_ref()),
        DeValue::String(_) => "a text".to_owned(),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
