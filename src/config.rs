//! The configuration file: read, understood, checked. What comes out is trusted by every other room.
//!
//! All mistakes are told at once, each with its place, what was written and what would be right. Keys merge one by one:
//! built-in < `[defaults.*]` and `[platform.pepita]` < group < VM; arrays replace. Relative paths begin at the file's
//! folder. `config/reference.toml` has every key.

mod advice;
mod after;
mod check;
mod leaf;
mod mistake;
mod place;
mod raw;
mod table;
mod words;

pub use crate::spec::DEFAULT_NAME;
pub use mistake::{Advice, ConfigErrors, Level, Mistake};
pub use place::Place;

use crate::spec::{MachineSpec, TreeSpec};
use place::Source;
use std::io;
use std::path::{Path, PathBuf};
use table::{Log, Table, Written};
use toml::de::DeTable;

/// A configuration without mistakes.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// What is to be.
    pub spec: TreeSpec,
    /// What `[platform.pepita]` says by itself; images that it does not name are empty.
    pub machine: MachineSpec,
    /// What to know about it, in file order.
    pub advice: Vec<Advice>,
}

/// Understands a configuration. `origin` is its file: for messages, and the folder at which relative paths begin.
/// Touches no disk: whether images exist is for [`load`] to see.
///
/// # Errors
/// All mistakes; of a text that is not TOML the first.
pub fn parse(text: &str, origin: &Path) -> Result<Checked, ConfigErrors> {
    understand(text, origin, origin.parent().unwrap_or(Path::new("")), |_| Ok(()))
}

/// Reads a configuration. Besides what [`parse`] sees, the kernel and root file system of each VM must exist.
///
/// # Errors
/// When the file cannot be read, and all mistakes in it.
pub fn load(path: &Path) -> Result<Checked, ConfigErrors> {
    let unreadable = |source| ConfigErrors::Unreadable { file: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(unreadable)?;
    // The same file is to mean the same paths, from wherever the program was started.
    let folder = folder(path).map_err(unreadable)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => understand(text, path, &folder, exists),
        Err(error) => {
            let (text, at) = (String::from_utf8_lossy(&bytes), error.valid_up_to());
            let log = Log::new(Source::new(path, &text));
            log.missing(at..at + 1, "", "these bytes are not UTF-8", "save the file as UTF-8");
            Err(ConfigErrors::Wrong { file: path.to_owned(), mistakes: log.take() })
        }
    }
}

fn folder(path: &Path) -> io::Result<PathBuf> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.canonicalize(),
        Some(_) | None => Path::new(".").canonicalize(),
    }
}

fn exists(image: &Path) -> Result<(), String> {
    match std::fs::metadata(image) {
        Ok(found) if found.is_dir() => Err(format!("{} is a directory", image.display())),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("{} does not exist", image.display()))
        }
        Err(error) => Err(format!("{}: {error}", image.display())),
    }
}

fn understand(
    text: &str,
    file: &Path,
    folder: &Path,
    image_fits: impl Fn(&Path) -> Result<(), String>,
) -> Result<Checked, ConfigErrors> {
    let log = Log::new(Source::new(file, text));
    let root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(error) => {
            log.wrong(error.span().unwrap_or_default(), "", error.message(), None);
            return Err(ConfigErrors::Wrong { file: file.to_owned(), mistakes: log.take() });
        }
    };
    let raw = Table::root(&root, &log).read(raw::tree);
    let meant = check::tree(&raw, folder, &log);
    for Written { value: image, at, path } in meant.images {
        if let Err(problem) = image_fits(&image) {
            let help = "a relative path begins at this file's folder".to_owned();
            log.wrong(at, &path, problem, Some(help));
        }
    }
    let mistakes = log.take();
    if !mistakes.is_empty() {
        return Err(ConfigErrors::Wrong { file: file.to_owned(), mistakes });
    }
    let groups = raw.groups.iter().zip(&meant.layers).zip(&meant.spec.groups);
    let mut advice: Vec<_> =
        groups.flat_map(|((raw, layers), spec)| advice::group(raw, layers, spec, &log.source)).collect();
    advice.sort_by_key(|advice| advice.place.span.start);
    advice.dedup();
    Ok(Checked { spec: meant.spec, machine: meant.machine, advice })
}
