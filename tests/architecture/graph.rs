//! Reads the sources of a crate into a graph of its files: an edge leads from a file to each file whose definitions it
//! names.
//!
//! Whole files are read, except for parts that are compiled only for tests. Re-exports are followed: a file that uses
//! `policy::Cause` depends on the file that defines `Cause`, not on the file that re-exports it.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::{Attribute, Item, UseTree, Visibility};

/// A module of a crate; a module in braces counts as a module, too.
#[derive(Debug, Default)]
struct Module {
    /// The path from the root of the crate: `["group", "roster"]`.
    path: Vec<String>,
    file: usize,
    /// The names that `use` brings in, with the path as it is written.
    names: BTreeMap<String, Vec<String>>,
    /// The modules whose names are all brought in.
    globs: Vec<Vec<String>>,
    /// The names that are defined here.
    items: BTreeSet<String>,
    /// The paths that the code names.
    paths: BTreeSet<Vec<String>>,
}

/// A file of a crate.
#[derive(Debug, Default)]
pub(crate) struct File {
    /// The path relative to the `src` of the crate: `group/roster.rs`.
    pub(crate) name: String,
    /// The code as words, without comments, literals and tests: `tokio :: time :: sleep`.
    pub(crate) code: String,
    /// The number of lines of the file without comments and tests.
    pub(crate) lines: usize,
    /// The full paths into other crates that the file names: `std::time::Instant::now`.
    pub(crate) foreign: BTreeSet<String>,
    /// The other files of the crate that this file uses, each with one of the paths that lead to it.
    pub(crate) uses: BTreeMap<String, String>,
}

impl File {
    /// Returns the first part of the name: `group` of `group/roster.rs` and of `group.rs`.
    pub(crate) fn room(&self) -> &str {
        room(&self.name)
    }
}

/// Returns the room that a file belongs to.
pub(crate) fn room(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or_default();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Reads a crate from its `src` folder. `name` is the name of the library in its programs.
pub(crate) fn read(src: &Path, name: &str) -> Vec<File> {
    let mut reader = Reader { src: src.to_owned(), ..Reader::default() };
    reader.file(Vec::new(), &src.join(if src.join("lib.rs").exists() { "lib.rs" } else { "main.rs" }));
    if src.join("lib.rs").exists() {
        let bins =
            std::fs::read_dir(src.join("bin")).into_iter().flatten().flatten().map(|entry| entry.path());
        for program in [src.join("main.rs")].into_iter().chain(bins).filter(|path| path.is_file()) {
            let stem = program.file_stem().expect("a name").to_string_lossy().into_owned();
            reader.file(vec![format!("bin {stem}")], &program);
        }
    }
    reader.resolve(name)
}

#[derive(Debug, Default)]
struct Reader {
    src: PathBuf,
    files: Vec<File>,
    modules: Vec<Module>,
}

impl Reader {
    fn file(&mut self, path: Vec<String>, file: &Path) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let name = file.strip_prefix(&self.src).expect("below src").to_string_lossy().into_owned();
        let index = self.files.len();
        self.files.push(File { name, ..File::default() });
        // The modules of `a.rs` and `lib.rs` lie in other folders than the modules of `a/mod.rs`; no `mod.rs` exists
        // here.
        let stem = file.file_stem().expect("a name");
        let top = path.is_empty() || path[0].starts_with("bin ");
        let folder = if top { self.src.clone() } else { file.parent().expect("a folder").join(stem) };
        self.module(path, index, parsed.items, &folder);
        self.files[index].lines = count_lines(&text);
    }

    fn module(&mut self, path: Vec<String>, file: usize, items: Vec<Item>, folder: &Path) {
        let mut module = Module { path: path.clone(), file, ..Module::default() };
        let (mut words, mut used) = (Vec::new(), Vec::new());
        let mut below = Vec::new();
        for mut item in items {
            if for_tests(attributes(&item)) {
                continue;
            }
            match &mut item {
                Item::Use(item) => {
                    // A re-export of a definition in a lower room is no use of it: a file that uses the name is
                    // followed to the definition.
                    let reexport = !matches!(item.vis, Visibility::Inherited);
                    flatten(&item.tree, &mut Vec::new(), &mut module, reexport);
                    used.extend(tokens(item.tree.to_token_stream()));
                }
                Item::Mod(item) => {
                    below.push((item.ident.to_string(), item.content.take(), item.attrs.clone()))
                }
                item => {
                    if let Item::Impl(item) = item {
                        item.items.retain(|item| !for_tests(impl_attributes(item)));
                    }
                    module.items.extend(defined(item));
                    words.extend(tokens(item.to_token_stream()));
                }
            }
        }
        module.paths.extend(paths(&words));
        for word in used.iter().chain(&words) {
            self.files[file].code.push_str(word);
            self.files[file].code.push(' ');
        }
        self.modules.push(module);
        for (name, content, attrs) in below {
            let path: Vec<String> = path.iter().cloned().chain([name.clone()]).collect();
            match content {
                Some((_, items)) => self.module(path, file, items, &folder.join(&name)),
                None => {
                    let file = path_attribute(&attrs).unwrap_or_else(|| format!("{name}.rs"));
                    // A module that is declared twice, for two sets of features, is read once.
                    if !self.modules.iter().any(|module| module.path == path) {
                        self.file(path, &folder.join(file));
                    }
                }
            }
        }
    }

    fn resolve(mut self, name: &str) -> Vec<File> {
        let graph = Resolver { name, modules: &self.modules };
        for (index, module) in self.modules.iter().enumerate() {
            for path in &module.paths {
                let Some(target) = graph.target(index, path, 0) else {
                    self.files[module.file].foreign.insert(graph.in_full(index, path));
                    continue;
                };
                let (from, to) = (module.file, self.modules[target].file);
                if from != to {
                    let to = self.files[to].name.clone();
                    self.files[from].uses.entry(to).or_insert_with(|| path.join("::"));
                }
            }
        }
        self.files
    }
}

struct Resolver<'a> {
    name: &'a str,
    modules: &'a [Module],
}

impl Resolver<'_> {
    /// Returns the module that defines the item of a path, seen from a module; `None` if another crate defines it.
    fn target(&self, from: usize, path: &[String], depth: u32) -> Option<usize> {
        let mut here = self.modules[from].path.clone();
        let mut rest = path;
        let first = rest.first()?;
        if first == "crate" || first == self.name {
            let program = here.first().filter(|name| name.starts_with("bin ") && first == "crate").cloned();
            here = program.into_iter().collect();
            rest = &rest[1..];
        } else if first == "self" || first == "super" {
            while let Some(step) = rest.first().filter(|step| *step == "self" || *step == "super") {
                if step == "super" {
                    here.pop()?;
                }
                rest = &rest[1..];
            }
        } else if self.child(from, first).is_none() && !self.modules[from].names.contains_key(first) {
            return None;
        }
        let start = self.modules.iter().position(|module| module.path == here)?;
        self.follow(start, rest, depth)
    }

    /// Returns a path into another crate, with its first name as it was brought in.
    fn in_full(&self, from: usize, path: &[String]) -> String {
        let brought_in = path.first().and_then(|first| self.modules[from].names.get(first));
        let mut full = brought_in.cloned().unwrap_or_else(|| path[..1].to_vec());
        full.extend_from_slice(&path[1..]);
        full.join("::")
    }

    fn follow(&self, mut at: usize, path: &[String], depth: u32) -> Option<usize> {
        for (index, name) in path.iter().enumerate() {
            if let Some(child) = self.child(at, name) {
                at = child;
                continue;
            }
            let module = &self.modules[at];
            if module.items.contains(name) || depth > 8 {
                return Some(at);
            }
            if let Some(alias) = module.names.get(name) {
                // A name that is brought in from another crate counts as a use of that crate.
                let target = self.target(at, alias, depth + 1)?;
                return match self.modules[target].path.last() == alias.last() {
                    true => self.follow(target, &path[index + 1..], depth + 1),
                    false => Some(target),
                };
            }
            let mut globs = module.globs.iter().filter_map(|glob| self.target(at, glob, depth + 1));
            return globs.find(|glob| self.modules[*glob].items.contains(name)).or(Some(at));
        }
        Some(at)
    }

    fn child(&self, of: usize, name: &str) -> Option<usize> {
        let parent = &self.modules[of].path;
        self.modules.iter().position(|module| {
            module.path.len() == parent.len() + 1
                && module.path.starts_with(parent)
                && module.path.last().is_some_and(|last| last == name)
        })
    }
}

/// Returns whether an item is compiled only for tests.
fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let words = tokens(attribute.meta.to_token_stream()).join(" ");
        words == "test"
            || words.starts_with("cfg ") && words.contains(" test ") && !words.contains("not ( test")
    })
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    let path = attributes.iter().find(|attribute| attribute.path().is_ident("path"))?;
    let text = path.meta.to_token_stream().to_string();
    Some(text.split('"').nth(1)?.to_owned())
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn impl_attributes(item: &syn::ImplItem) -> &[Attribute] {
    match item {
        syn::ImplItem::Const(item) => &item.attrs,
        syn::ImplItem::Fn(item) => &item.attrs,
        syn::ImplItem::Type(item) => &item.attrs,
        _ => &[],
    }
}

fn defined(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

/// Splits a `use` into the names that it brings in and the paths that it names.
fn flatten(tree: &UseTree, before: &mut Vec<String>, module: &mut Module, reexport: bool) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, module, reexport);
            before.pop();
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, before, module, reexport);
            }
        }
        UseTree::Glob(_) => {
            module.globs.push(before.clone());
            if !reexport {
                module.paths.insert(before.clone());
            }
        }
        UseTree::Name(_) | UseTree::Rename(_) => {
            let (ident, name) = match tree {
                UseTree::Rename(rename) => (rename.ident.to_string(), rename.rename.to_string()),
                UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
                _ => return,
            };
            let mut path = before.clone();
            // `use a::{self}` brings in `a`.
            let name = if ident == "self" { before.last().cloned().unwrap_or_default() } else { name };
            if ident != "self" {
                path.push(ident);
            }
            if !reexport {
                module.paths.insert(path.clone());
            }
            module.names.insert(name, path);
        }
    }
}

/// Returns the words of code, in order; literals are dropped.
fn tokens(stream: TokenStream) -> Vec<String> {
    let mut words = Vec::new();
    for token in stream {
        match token {
            TokenTree::Ident(ident) => words.push(ident.to_string()),
            TokenTree::Punct(punct) => match (punct.as_char(), words.last_mut()) {
                (':', Some(last)) if last == ":" => last.push(':'),
                (char, _) => words.push(char.to_string()),
            },
            TokenTree::Literal(_) => words.push("_".into()),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                words.push(open.into());
                words.extend(tokens(group.stream()));
                words.push(close.into());
            }
        }
    }
    words
}

/// Returns all paths of more than one part in the words of code.
fn paths(words: &[String]) -> BTreeSet<Vec<String>> {
    let is_name = |word: &String| word.starts_with(|c: char| c.is_alphabetic() || c == '_') && word != "_";
    let mut paths = BTreeSet::new();
    let mut path: Vec<String> = Vec::new();
    let mut joined = false;
    for word in words {
        if is_name(word) {
            if !joined && path.len() > 1 {
                paths.insert(std::mem::take(&mut path));
            } else if !joined {
                path.clear();
            }
            path.push(word.clone());
            joined = false;
        } else if word == "::" && !path.is_empty() {
            joined = true;
        } else {
            if path.len() > 1 {
                paths.insert(std::mem::take(&mut path));
            }
            path.clear();
            joined = false;
        }
    }
    if path.len() > 1 {
        paths.insert(path);
    }
    paths
}

/// Returns the number of lines that are code, up to the first test module, which stands last.
fn count_lines(text: &str) -> usize {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).count()
}

/// Returns the circles of files that use each other, each circle once.
pub(crate) fn circles(files: &[File]) -> Vec<Vec<String>> {
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let uses: BTreeMap<&str, BTreeSet<&str>> = files
        .iter()
        .map(|file| (file.name.as_str(), file.uses.keys().map(String::as_str).collect()))
        .collect();
    groups(&names, &uses)
}

/// Returns the sets of nodes that reach each other.
fn groups(nodes: &[&str], uses: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Vec<String>> {
    let reach = |start: &str| {
        let mut seen = BTreeSet::new();
        let mut next = vec![start.to_owned()];
        while let Some(node) = next.pop() {
            for target in uses.get(node.as_str()).into_iter().flatten() {
                if seen.insert((*target).to_owned()) {
                    next.push((*target).to_owned());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<String>> = nodes.iter().map(|node| (*node, reach(node))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for node in nodes.iter().filter(|node| reached[**node].contains(**node)) {
        let circle = reached[node]
            .iter()
            .filter(|other| reached.get(other.as_str()).is_some_and(|r| r.contains(*node)));
        found.insert(circle.cloned().collect());
    }
    found.into_iter().collect()
}
