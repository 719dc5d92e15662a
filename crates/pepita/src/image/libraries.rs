//! Checks that a program of an image can be started there: its interpreter or loader, and the libraries that the loader
//! would load, are in the image. The search is that of ld.so(8), or of musl's loader; where they differ in a detail, the
//! program has the benefit of the doubt.

use super::elf::{self, Dynamic};
use super::root::Root;
use crate::error::{CallError, Result, call_error};
use crate::host::programs;
use pepita_wire::record::CallErrorKind;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

/// The directories that a loader searches without being told.
const USUAL: [&str; 6] = ["/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib", "/lib32"];

/// The directories of the libraries of one machine among several (Debian's multiarch).
const MULTIARCH: [&str; 4] = ["x86_64-linux-gnu", "i386-linux-gnu", "aarch64-linux-gnu", "x86_64-linux-musl"];

/// The libraries that are a part of musl's loader.
const OF_MUSL: [&str; 7] = ["libc.", "libpthread.", "librt.", "libm.", "libdl.", "libutil.", "libxnet."];

/// The maximum number of files that are looked at for one program, of interpreters of interpreters, and of files with
/// directories.
const LIBRARIES_CAP: usize = 2000;
const INTERPRETERS_CAP: usize = 4;
const INCLUDES_CAP: usize = 100;

/// The program that is checked.
pub(crate) struct Program<'a> {
    /// The words for people by which it is named.
    pub(crate) what: &'a str,
    /// Its path in the image.
    pub(crate) path: &'a str,
    /// The value of `LD_LIBRARY_PATH`, empty = unset.
    pub(crate) library_path: &'a str,
}

/// Refuses a program that a guest could not start.
///
/// # Errors
/// When its interpreter, its loader or a library is not in the image.
pub(crate) fn require(root: &impl Root, program: &Program<'_>, bytes: &[u8]) -> Result<()> {
    let (mut path, mut bytes): (String, Rc<[u8]>) = (program.path.to_owned(), bytes.into());
    for _ in 0..INTERPRETERS_CAP {
        let Some(interpreter) = interpreter(&bytes) else { break };
        bytes = root.contents(&interpreter).ok_or_else(|| {
            let why = format!("it is a script, and its interpreter {interpreter} is not in the image");
            refused(program, &why, "bring the interpreter in a tree (--dir)")
        })?;
        path = interpreter;
    }
    let Some(loader) = programs::loader(&bytes) else { return Ok(()) };
    if root.contents(&loader).is_none() {
        let why = format!("it is dynamically linked, and its loader {loader} is not in the image");
        let advice = "link it statically (cargo build --target x86_64-unknown-linux-musl), or bring the loader and the \
                      program's libraries in a tree (--dir)";
        return Err(refused(program, &why, advice));
    }
    match elf::read(&bytes) {
        Some(dynamic) if is_known(&loader) => {
            Search::new(root, &loader, program.library_path, &dynamic).all(program, path, dynamic)
        }
        Some(_) | None => Ok(()),
    }
}

fn refused(program: &Program<'_>, why: &str, advice: &str) -> CallError {
    let why = format!("{}: {why}, so a guest could not start it; {advice}", program.what);
    call_error(CallErrorKind::BadImage, why)
}

/// Returns the interpreter that the first line of a script names.
fn interpreter(bytes: &[u8]) -> Option<String> {
    let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(&line[..line.len().min(4096)]).into_owned();
    let path = line.split_ascii_whitespace().next()?;
    path.starts_with('/').then(|| path.to_owned())
}

/// Returns whether the search of a loader is known.
fn is_known(loader: &str) -> bool {
    let name = name_of(loader);
    name.starts_with("ld-linux") || name.starts_with("ld-musl")
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns the directory of a file; empty = the root itself.
fn directory_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// A program or library whose libraries are searched for.
struct Object {
    path: String,
    /// The values of `$ORIGIN`: the directory of the path, and the one to which its links lead. A loader has one of them.
    origins: Vec<String>,
    dynamic: Dynamic,
    /// The directories that its loaders have for their libraries as well (DT_RPATH).
    inherited: Vec<String>,
}

/// The search for the libraries of one program.
struct Search<'a, R> {
    root: &'a R,
    is_musl: bool,
    machine: (u8, u64),
    /// The directories of `LD_LIBRARY_PATH`.
    first: Vec<String>,
    /// The directories of the system.
    system: Vec<String>,
    /// The paths in the cache of the loader.
    cached: Vec<String>,
    /// The names that are loaded.
    loaded: BTreeSet<String>,
}

impl<'a, R: Root> Search<'a, R> {
    fn new(root: &'a R, loader: &str, library_path: &str, program: &Dynamic) -> Self {
        let mut system = configured(root, "/etc/ld.so.conf", &mut { INCLUDES_CAP });
        let musl = name_of(loader).strip_suffix(".so.1").unwrap_or_default();
        if let Some(text) = text(root, &format!("/etc/{musl}.path")) {
            system.extend(text.split([':', '\n']).filter(|dir| !dir.is_empty()).map(str::to_owned));
        }
        system.extend(USUAL.map(str::to_owned));
        system.extend(MULTIARCH.iter().flat_map(|name| [format!("/lib/{name}"), format!("/usr/lib/{name}")]));
        // A loader in a place of its own has its directory built in.
        system.push(directory_of(loader).to_owned());
        Self {
            root,
            is_musl: name_of(loader).starts_with("ld-musl"),
            machine: program.machine,
            first: library_path.split([':', ';']).filter(|dir| !dir.is_empty()).map(str::to_owned).collect(),
            system,
            cached: cached(root),
            loaded: [name_of(loader).to_owned()].into(),
        }
    }

    /// Looks for all libraries of a program, and for the libraries of these.
    fn all(&mut self, program: &Program<'_>, path: String, dynamic: Dynamic) -> Result<()> {
        let mut left: VecDeque<Object> = [self.object(path, dynamic, Vec::new())].into();
        while let Some(object) = left.pop_front() {
            for name in &object.dynamic.needed {
                if self.has(name) || self.loaded.len() > LIBRARIES_CAP {
                    continue;
                }
                self.loaded.insert(name.clone());
                let Some((path, dynamic)) = self.find(&object, name) else {
                    return Err(self.missing(program, &object, name));
                };
                self.loaded.extend(dynamic.soname.clone());
                left.push_back(self.object(path, dynamic, inheritance(&object)));
            }
        }
        Ok(())
    }

    fn object(&self, path: String, dynamic: Dynamic, inherited: Vec<String>) -> Object {
        let origin = directory_of(&path).to_owned();
        let resolved = self.root.resolved(&path).map(|path| directory_of(&path).to_owned());
        let origins = resolved.into_iter().filter(|resolved| *resolved != origin).chain([origin.clone()]);
        Object { origins: origins.collect(), path, dynamic, inherited }
    }

    /// Returns whether a library is loaded already.
    fn has(&self, name: &str) -> bool {
        self.loaded.contains(name) || (self.is_musl && OF_MUSL.iter().any(|prefix| name.starts_with(prefix)))
    }

    fn find(&self, object: &Object, name: &str) -> Option<(String, Dynamic)> {
        let candidates: Vec<String> = if name.contains('/') {
            expanded(name, &object.origins)
        } else {
            let own = directories(object.dynamic.runpath.as_deref(), &object.origins);
            let dirs = inheritance(object).into_iter().chain(self.first.iter().cloned()).chain(own);
            let cached = self.cached.iter().filter(|path| name_of(path) == name).cloned();
            let dirs = dirs.chain(self.system.iter().cloned()).map(|dir| format!("{dir}/{name}"));
            dirs.chain(cached).collect()
        };
        candidates.into_iter().find_map(|path| {
            let dynamic = elf::read(&self.root.contents(&path)?)?;
            (dynamic.machine == self.machine).then_some((path, dynamic))
        })
    }

    fn missing(&self, program: &Program<'_>, object: &Object, name: &str) -> CallError {
        let by = match object.path == program.path {
            true => String::new(),
            false => format!(" (for {})", object.path),
        };
        let own = inheritance(object)
            .into_iter()
            .chain(directories(object.dynamic.runpath.as_deref(), &object.origins));
        let own: Vec<String> = own.chain(self.first.iter().cloned()).collect();
        let own = if own.is_empty() { String::new() } else { format!("{}, ", own.join(", ")) };
        let why = format!("it needs the library {name}{by}, which is not in the image");
        let advice = format!(
            "bring it in a tree (--dir), in one of the directories that its loader searches ({own}those of /etc/ld.so.conf, \
             /lib, /usr/lib), or link the program statically (cargo build --target x86_64-unknown-linux-musl)"
        );
        refused(program, &why, &advice)
    }
}

/// Returns the directories that an object has for the libraries of its libraries, too: DT_RPATH, its own and that of its
/// loaders. An own DT_RUNPATH switches them off.
fn inheritance(object: &Object) -> Vec<String> {
    match object.dynamic.runpath {
        Some(_) => Vec::new(),
        None => {
            let own = directories(object.dynamic.rpath.as_deref(), &object.origins);
            own.into_iter().chain(object.inherited.iter().cloned()).collect()
        }
    }
}

/// Returns the directories of a DT_RPATH or DT_RUNPATH of an object with these origins.
fn directories(list: Option<&str>, origins: &[String]) -> Vec<String> {
    let dirs = list.unwrap_or_default().split(':').filter(|dir| !dir.is_empty());
    dirs.flat_map(|dir| expanded(dir, origins)).collect()
}

/// Replaces `$ORIGIN`, `$LIB` and `$PLATFORM`. Each value that a loader might have is tried.
fn expanded(text: &str, origins: &[String]) -> Vec<String> {
    let multiarch = MULTIARCH.iter().map(|name| format!("lib/{name}"));
    let libs: Vec<String> = ["lib".to_owned(), "lib64".to_owned()].into_iter().chain(multiarch).collect();
    let mut all = vec![text.to_owned()];
    for (variable, values) in [("ORIGIN", origins), ("LIB", &libs), ("PLATFORM", &["x86_64".to_owned()])] {
        for written in [format!("${variable}"), format!("${{{variable}}}")] {
            if text.contains(&written) {
                let replaced = |text: &String| {
                    values.iter().map(|value| text.replace(&written, value)).collect::<Vec<_>>()
                };
                all = all.iter().flat_map(replaced).collect();
            }
        }
    }
    all
}

fn text(root: &impl Root, path: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&root.contents(path)?).into_owned())
}

/// Returns the directories in a file of ldconfig(8), and in the files that it includes.
fn configured(root: &impl Root, path: &str, left: &mut usize) -> Vec<String> {
    let Some(text) = text(root, path).filter(|_| *left > 0) else { return Vec::new() };
    *left -= 1;
    let mut dirs = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.strip_prefix("include").filter(|rest| rest.starts_with([' ', '\t'])) {
            Some(patterns) => {
                for pattern in patterns.split_ascii_whitespace() {
                    for file in matching(root, pattern) {
                        dirs.extend(configured(root, &file, left));
                    }
                }
            }
            // A directory may be followed by `=TYPE`.
            None => dirs.extend(
                line.split([' ', '\t', ',', ':'])
                    .map(|dir| dir.split('=').next().unwrap_or_default().trim_end_matches('/').to_owned())
                    .filter(|dir| dir.starts_with('/')),
            ),
        }
    }
    dirs
}

/// Returns the files that a pattern names. Only the last part of it may have a star, and one at most.
fn matching(root: &impl Root, pattern: &str) -> Vec<String> {
    // As for ldconfig, a pattern that is not absolute begins in /etc.
    let pattern = if pattern.starts_with('/') { pattern.to_owned() } else { format!("/etc/{pattern}") };
    let (directory, name) = (directory_of(&pattern), name_of(&pattern));
    let Some((start, end)) = name.split_once('*') else { return vec![pattern] };
    let matches = |found: &String| {
        found.len() >= start.len() + end.len() && found.starts_with(start) && found.ends_with(end)
    };
    let names = root.names(directory).into_iter().filter(matches);
    names.map(|name| format!("{directory}/{name}")).collect()
}

/// Returns the paths in the cache of ldconfig(8): its texts that are paths. Those that are not in the image do no harm.
fn cached(root: &impl Root) -> Vec<String> {
    let Some(cache) = root.contents("/etc/ld.so.cache") else { return Vec::new() };
    let texts = cache.split(|byte| *byte == 0).filter(|text| text.starts_with(b"/") && text.len() < 4096);
    texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}
