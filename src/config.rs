//! Reads the configuration file, interprets it and checks it. All other modules trust the result.
//!
//! All mistakes are reported at once, each with its place, the text that was written and the text that would be right.
//! Keys are listed in `spec::keys`, and `config/reference.toml` has every key. Keys merge one by one:
//! built-in < `[defaults.*]` and `[platform.pepita]` < group < VM; arrays replace. Relative paths begin at the file's
//! folder.

mod check;
mod dependencies;
mod diagnostic;
mod file;
mod host;
mod keywords;
mod lint;
mod reader;
mod schema;
mod source;
mod value;

pub use crate::spec::DEFAULT_NAME;
pub use diagnostic::{ConfigErrors, Diagnostic, Level};
pub use host::{HostFacts, NeededMb};
pub use schema::schema;
pub use source::Place;

use crate::spec::{MachineSpec, TreeSpec};
use diagnostic::Log;
use reader::Table;
use rustix::fs::OFlags;
use source::Source;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::DeTable;

/// The maximum size of a configuration file, in bytes.
const CAP: u64 = 4 << 20;

/// A configuration without mistakes.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The specification of the tree.
    pub spec: TreeSpec,
    /// The `[platform.pepita]` section by itself; images that the section does not name are empty.
    pub machine: MachineSpec,
    /// Notes about the file, in file order.
    pub advice: Vec<Diagnostic>,
}

/// Interprets the text of a configuration. `origin` is its file: for messages, and for the folder at which relative
/// paths begin. Does not touch the disk: whether images exist is checked by [`load`].
///
/// # Errors
/// Returns all mistakes; for a text that is not TOML, the first mistake.
pub fn parse(text: &str, origin: &Path) -> Result<Checked, ConfigErrors> {
    understand(text, origin, origin.parent().unwrap_or(Path::new("")), HostFacts::default(), |_| Ok(()))
}

/// Reads a configuration file. Besides what [`parse`] checks, the kernel and root file system of each VM must exist.
///
/// # Errors
/// Returns the reason why the file cannot be read, or all mistakes in the file.
pub fn load(path: &Path) -> Result<Checked, ConfigErrors> {
    load_on(path, HostFacts::default())
}

/// Reads a configuration file as [`load`] does, and checks it also against the facts of a host: whether the sockets of
/// each VM can exist, and whether its memory is enough to boot.
///
/// # Errors
/// Returns the errors of [`load`].
pub fn load_on(path: &Path, host: HostFacts<'_>) -> Result<Checked, ConfigErrors> {
    let (text, folder) = read(path)?;
    understand(&text, path, &folder, host, exists)
}

/// Returns the control socket that a configuration file names; `None` when the file names none. Mistakes in other keys do
/// not matter: the supervisor may run with a former version of the file.
///
/// # Errors
/// Returns the reason why the file cannot be read, or the place at which it is not TOML.
pub fn control_socket(path: &Path) -> Result<Option<PathBuf>, ConfigErrors> {
    let (text, folder) = read(path)?;
    let root = tables(&text, path, &Log::new(Source::new(path, &text)))?;
    let supervisor = root.get_ref().get("supervisor");
    let written = supervisor.and_then(|table| table.get_ref().get("control_socket")?.get_ref().as_str());
    Ok(written.map(|written| value::placed(&folder, Path::new(written))))
}

/// Reads the text of a configuration file. Returns also the file's folder: the same file is to mean the same paths, in
/// whichever directory the program was started.
fn read(path: &Path) -> Result<(String, PathBuf), ConfigErrors> {
    let unreadable = |source| ConfigErrors::Unreadable { file: path.to_owned(), source };
    let bytes = bytes(path).map_err(unreadable)?;
    let folder = folder(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let (text, at) = (String::from_utf8_lossy(error.as_bytes()), error.utf8_error().valid_up_to());
        let log = Log::new(Source::new(path, &text));
        let help = Some("save the file as UTF-8".to_owned());
        log.wrong(at..at + 1, "", "these bytes are not UTF-8", help);
        ConfigErrors::Wrong { file: path.to_owned(), mistakes: log.take() }
    })?;
    Ok((text, folder))
}

/// Reads a regular file of at most [`CAP`] bytes. Anything else could block the supervisor, or have no end.
fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let regular = |found: Metadata| match found.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file")),
    };
    // A device is not even opened, because that can have effects.
    regular(std::fs::metadata(path)?)?;
    // Another file may have its name by now, such as a FIFO, whose opening waits for a writer.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    regular(file.metadata()?)?;
    let mut bytes = Vec::new();
    match file.take(CAP + 1).read_to_end(&mut bytes)? {
        // A truncated text is refused: the rest of it could change its meaning.
        read if read as u64 > CAP => Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 4 MiB")),
        _ => Ok(bytes),
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
        // Whoever opens a pipe waits until somebody writes to it, and nothing tells whether a device answers.
        Ok(found) if !found.is_file() => Err(format!("{} is not a regular file", image.display())),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("{} does not exist", image.display()))
        }
        Err(error) => Err(format!("{}: {error}", image.display())),
    }
}

/// Reads the tables and values of a text; for a text that is not TOML, returns the first mistake.
fn tables<'t>(text: &'t str, file: &Path, log: &Log<'_>) -> Result<Spanned<DeTable<'t>>, ConfigErrors> {
    DeTable::parse(text).map_err(|error| {
        log.wrong(error.span().unwrap_or_default(), "", error.message(), None);
        ConfigErrors::Wrong { file: file.to_owned(), mistakes: log.take() }
    })
}

fn understand(
    text: &str,
    file: &Path,
    folder: &Path,
    host: HostFacts<'_>,
    image_fits: impl Fn(&Path) -> Result<(), String>,
) -> Result<Checked, ConfigErrors> {
    let log = Log::new(Source::new(file, text));
    let wrong = |mistakes| ConfigErrors::Wrong { file: file.to_owned(), mistakes };
    let root = tables(text, file, &log)?;
    let table = Table { entries: root.get_ref(), at: root.span(), owner: String::new(), log: &log, folder };
    let raw = file::read(&table);
    let meaning = check::tree(&raw, folder, host.run_dir, &log);
    for image in meaning.images {
        if let Err(problem) = image_fits(Path::new(image.value.as_str().unwrap_or_default())) {
            let help = "a relative path begins at this file's folder".to_owned();
            log.wrong(image.at(), &image.path, problem, Some(help));
        }
    }
    let mut mistakes = log.take();
    if let (Some(needed_mb), true) = (host.needed_mb, mistakes.is_empty()) {
        check::memory(&raw, &meaning.spec, needed_mb, &log);
        mistakes = log.take();
    }
    if !mistakes.is_empty() {
        return Err(wrong(mistakes));
    }
    for (raw, spec) in raw.groups.iter().zip(&meaning.spec.groups) {
        lint::group(raw, spec, &log);
    }
    Ok(Checked { spec: meaning.spec, machine: meaning.machine, advice: log.take() })
}
