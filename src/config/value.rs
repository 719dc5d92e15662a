//! Reads single values: words, numbers, durations, lists. Knows the kinds of keys, but no key by name.
//!
//! A good value is returned as JSON, in the form that the rows of `spec::keys` accept. A wrong value is noted.

mod places;

use super::diagnostic::Log;
use super::keywords::{SIGNALS, nearest};
use crate::spec::keys::{Column, Kind, Words};
use crate::spec::{Cid, GroupName, Signal, Uids, VmName};
use humantime::{format_duration, parse_duration};
use pepita_wire::storage::{mount_fault, name_fault, size_mb};
use pepita_wire::world::{
    Ulimit, check_hostname, check_secret, check_sysctl, check_ulimit, check_user, check_workdir,
};
use serde_json::{Map, Value, json};
use std::fmt::Display;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;
use toml::de::DeValue;

/// A value as it is written.
pub(super) type Node<'t> = Spanned<DeValue<'t>>;

/// The longest duration that is read. Moments are sums of such durations, and must exist.
const LONGEST: Duration = Duration::from_secs(100 * 31_557_600);

/// A value to be read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'r> {
    pub(super) node: &'r Node<'r>,
    /// The full name of the key, followed by the way from its value to a part of it: `[1]`, `.PATH`.
    pub(super) path: &'r str,
    pub(super) log: &'r Log<'r>,
    /// The folder at which relative paths begin.
    pub(super) folder: &'r Path,
}

impl Reading<'_> {
    /// Returns the value if it is of this kind; otherwise notes every mistake in it.
    pub(super) fn read(&self, kind: Kind) -> Option<Value> {
        match kind {
            Kind::Flag => match self.node.get_ref().as_bool() {
                Some(flag) => Some(json!(flag)),
                None => self.expected("true or false", None),
            },
            Kind::Whole(min, max) => self.whole(min, max).map(Value::from),
            Kind::Real(min, max) => self.real(min, max),
            Kind::Duration => self.duration().map(|duration| json!(format_duration(duration).to_string())),
            Kind::Period => match self.duration()? {
                Duration::ZERO => self.wrong("must be longer than zero", "such as \"1s\""),
                duration => Some(json!(format_duration(duration).to_string())),
            },
            Kind::Word(words) => self.word(words),
            Kind::Name(VmName::CAP) => self.name::<VmName>(),
            Kind::Name(_) => self.name::<GroupName>(),
            Kind::Names => self.list("a list of names", "such as [\"storage\"]", |item| item.text()),
            Kind::Path => self.file(|path| placed(self.folder, path)),
            Kind::Image => self.image(),
            // A bare name is looked for later; any other text is a path.
            Kind::Program => self.file(|path| match path.components().count() {
                0 | 1 => path.to_owned(),
                _ => placed(self.folder, path),
            }),
            Kind::Command => self.command(),
            Kind::ExitCodes => self
                .list("a list of exit codes", "such as [0, 3]", |item| item.whole(0, 255).map(Value::from)),
            Kind::HttpPlace => self.http_place(),
            Kind::Ports => self.ports(),
            Kind::Reach => self.reach(),
            Kind::Environment => self.environment(),
            Kind::Cid => match Cid::new(self.whole(0, u32::MAX)?) {
                Ok(cid) => Some(json!(cid.get())),
                Err(invalid) => self.wrong(invalid.to_string(), "leave it out to be given one that is free"),
            },
            Kind::Signal => self.signal(),
            Kind::DiskName => self.ruled(name_fault, "such as \"data\""),
            Kind::Mount => self.ruled(mount_fault, "such as \"/data\""),
            Kind::Size => {
                let text = self.text()?;
                match size_mb(text.as_str().unwrap_or_default()) {
                    Ok(size) => Some(json!(size)),
                    Err(problem) => self.wrong(problem, "such as \"10GiB\""),
                }
            }
            Kind::Tables(columns) => self.tables(columns),
            Kind::Hostname => self.checked("a host name", check_hostname),
            Kind::User => self.checked("a user", check_user),
            Kind::GuestDirectory => self.checked("a directory of the guest", check_workdir),
            Kind::Ulimits => self.table("limits", "such as { nofile = 65536 }", |name, value| {
                check_ulimit(name)?;
                value.parse::<Ulimit>().map(|limit| limit.to_string())
            }),
            Kind::Sysctls => {
                self.table("settings", "such as { \"vm.overcommit_memory\" = 1 }", |name, value| {
                    check_sysctl(name, value).map(|()| value.to_owned())
                })
            }
            Kind::Uids => self.ruled(|text| text.parse::<Uids>().err(), "such as \"700000-765535\""),
            Kind::Secrets => self.secrets(),
        }
    }

    /// Reads a text that a rule accepts; a rule returns what is wrong.
    fn ruled(&self, fault: impl Fn(&str) -> Option<String>, example: &str) -> Option<Value> {
        let text = self.text()?;
        match fault(text.as_str().unwrap_or_default()) {
            None => Some(text),
            Some(problem) => self.wrong(problem, example),
        }
    }

    /// Reads a list of tables, with the names under which values are stored.
    fn tables(&self, columns: &[Column]) -> Option<Value> {
        let header = self.path.rsplit(' ').next().unwrap_or_default();
        let help = format!("write [[group.vm.{header}]]");
        self.list("a list of tables", &help, |item| item.keyed_table(columns))
    }

    fn keyed_table(&self, columns: &[Column]) -> Option<Value> {
        let Some(entries) = self.node.get_ref().as_table() else { return self.expected("a table", None) };
        let mut fields: Vec<Option<(String, Value)>> = Vec::new();
        for (key, node) in entries {
            let path = format!("{}.{}", self.path, key.get_ref());
            let Some(column) = columns.iter().find(|column| column.name == *key.get_ref()) else {
                let known = columns.iter().map(|column| column.name);
                let help = match nearest(key.get_ref(), known.clone()) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
                };
                self.log.wrong(key.span(), &path, format!("unknown key {}", key.get_ref()), Some(help));
                fields.push(None);
                continue;
            };
            let value = Reading { node, path: &path, ..*self }.read(column.kind);
            fields.push(value.map(|value| (column.field.to_owned(), value)));
        }
        for column in columns.iter().filter(|column| column.is_needed) {
            if !entries.contains_key(column.name) {
                let path = format!("{}.{}", self.path, column.name);
                let help = format!("write {} = … below this line: {}", column.name, column.doc);
                self.log.missing(self.node.span(), &path, &help);
                fields.push(None);
            }
        }
        fields.into_iter().collect::<Option<Map<_, _>>>().map(Value::Object)
    }

    fn wrong<T>(&self, problem: impl Into<String>, help: impl Into<String>) -> Option<T> {
        self.log.wrong(self.node.span(), self.path, problem, Some(help.into()));
        None
    }

    fn expected<T>(&self, what: &str, help: Option<&str>) -> Option<T> {
        let problem = format!("expected {what}, found {}", described(self.node));
        self.log.wrong(self.node.span(), self.path, problem, help.map(str::to_owned));
        None
    }

    fn whole(&self, min: u32, max: u32) -> Option<u32> {
        let fits = |number: &u32| (min..=max).contains(number);
        let what = match max {
            u32::MAX => format!("a whole number of at least {min}"),
            max => format!("a whole number from {min} to {max}"),
        };
        let Some(number) = self.node.get_ref().as_integer() else {
            // A text such as `"512"` or `"512M"`: memory is given as a number of MiB.
            let digits = self.node.get_ref().as_str().map(|text| text.trim_end_matches(['M', 'B', 'i']));
            let digits = digits.filter(|digits| digits.parse().is_ok_and(|number| fits(&number)));
            let help = digits.map(|digits| format!("write {digits}, without quotes"));
            return self.expected(&what, help.as_deref());
        };
        let read = u32::from_str_radix(number.as_str(), number.radix()).ok().filter(fits);
        read.or_else(|| self.wrong(format!("{number} is out of range"), format!("use {what}")))
    }

    fn real(&self, min: f64, max: f64) -> Option<Value> {
        let what = format!("a number from {min:?} to {max:?}");
        let text = match self.node.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => return self.expected(&what, None),
        };
        match text.parse().ok().filter(|number: &f64| (min..=max).contains(number)) {
            Some(number) => Some(json!(number)),
            None => self.wrong(format!("{text} is out of range"), format!("use {what}")),
        }
    }

    fn word(&self, words: &Words) -> Option<Value> {
        let quoted: Vec<String> = words.list.iter().map(|word| format!("{word:?}")).collect();
        let choice = format!("one of {}", quoted.join(", "));
        let Some(text) = self.node.get_ref().as_str() else { return self.expected(&choice, None) };
        let meant = words.aliases.iter().find(|(alias, _)| *alias == text).map_or(text, |(_, word)| word);
        if words.list.contains(&meant) {
            return Some(json!(meant));
        }
        let all = words.list.iter().copied().chain(words.aliases.iter().map(|(alias, _)| *alias));
        let help = match nearest(text, all) {
            Some(near) => format!("did you mean {near:?}? {choice}"),
            None => format!("use {choice}"),
        };
        self.wrong(format!("unknown {} {text:?}", words.what), help)
    }

    fn signal(&self) -> Option<Value> {
        let text = match self.node.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            _ => return self.expected("a signal such as \"TERM\"", None),
        };
        if text.parse::<Signal>().is_ok() {
            return Some(json!(text));
        }
        let bare = text.to_ascii_uppercase();
        let help = match nearest(bare.strip_prefix("SIG").unwrap_or(&bare), SIGNALS) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "use a name such as \"TERM\" or a number from 1 to 64".to_owned(),
        };
        self.wrong(format!("unknown signal {text:?}"), help)
    }

    fn duration(&self) -> Option<Duration> {
        let units = "write a number and a unit, such as \"500ms\", \"30s\", \"5min\" or \"1h 30min\"";
        let text = match self.node.get_ref() {
            DeValue::String(text) => text,
            DeValue::Integer(number) => {
                return self.expected("a duration", Some(&format!("did you mean \"{number}s\"?")));
            }
            _ => return self.expected("a duration", Some(units)),
        };
        // humantime 2.4 panics on sums that just miss the largest `Duration`. Such a sum is longer than the limit here
        // in any case.
        let digits = text.split(|c: char| !c.is_ascii_digit() && !c.is_whitespace()).map(str::len).max();
        let countable = text.len() <= 64 && digits.is_none_or(|digits| digits <= 10);
        match countable.then(|| parse_duration(text)) {
            Some(Ok(duration)) if duration <= LONGEST => Some(duration),
            Some(Err(_)) => self.wrong(format!("{text:?} is not a duration"), units),
            Some(Ok(_)) | None => self.wrong(format!("{text:?} is too long"), "at most \"100years\""),
        }
    }

    fn name<T: FromStr<Err: Display>>(&self) -> Option<Value> {
        let Some(text) = self.node.get_ref().as_str() else { return self.expected("a name", None) };
        let Err(error) = text.parse::<T>() else { return Some(json!(text)) };
        // The sentence of the rule says both the mistake and the remedy.
        let rule = error.to_string();
        let (problem, help) = rule.rsplit_once(": ").unwrap_or((&rule, "use another name"));
        self.wrong(problem, help)
    }

    fn file(&self, place: impl Fn(&Path) -> PathBuf) -> Option<Value> {
        let text = self.text()?;
        match text.as_str().unwrap_or_default() {
            "" => self.wrong("the path is empty", "leave the key out if there is none"),
            written => Some(json!(place(Path::new(written)).to_string_lossy())),
        }
    }

    /// Reads the name of a container image. Only the launcher knows all that a reference may be.
    fn image(&self) -> Option<Value> {
        let text = self.text()?;
        let text = text.as_str().unwrap_or_default();
        let example = "such as \"redis:7\", \"oci:DIR\" or \"docker-archive:FILE\"";
        if text.is_empty() || text.contains(char::is_whitespace) {
            return self.wrong(format!("{text:?} is no image"), example);
        }
        let scheme = ["oci:", "docker-archive:"].into_iter().find(|scheme| text.starts_with(scheme));
        let Some(scheme) = scheme else { return Some(json!(text)) };
        let rest = &text[scheme.len()..];
        let (path, tag) = rest.find(':').map_or((rest, ""), |colon| rest.split_at(colon));
        match path {
            "" => self.wrong("the path is empty", example),
            path => Some(json!(format!("{scheme}{}{tag}", placed(self.folder, Path::new(path)).display()))),
        }
    }

    /// Reads a text that the operating system accepts.
    fn text(&self) -> Option<Value> {
        match self.node.get_ref().as_str() {
            Some(text) if text.contains('\0') => self.wrong("a NUL byte cannot be passed on", "leave it out"),
            Some(text) => Some(json!(text)),
            None => self.expected("a text", None),
        }
    }

    /// Reads a program and its arguments; an empty list is no program.
    fn command(&self) -> Option<Value> {
        let example = "such as [\"/usr/bin/api\", \"--port\", \"80\"]";
        let words = self.list("a list of texts", example, |item| item.text())?;
        if words.get(0).and_then(Value::as_str) == Some("") {
            return self.wrong("the program has no name", example);
        }
        Some(words)
    }

    /// Reads a text that has to pass a check.
    fn checked(&self, what: &str, check: fn(&str) -> Result<(), String>) -> Option<Value> {
        let Some(text) = self.node.get_ref().as_str() else { return self.expected(what, None) };
        self.told(check(text).map(|()| json!(text)))
    }

    /// Notes the sentence of a rule, which says both the mistake and, behind a semicolon, the remedy.
    fn told(&self, outcome: Result<Value, String>) -> Option<Value> {
        match outcome {
            Ok(value) => Some(value),
            Err(rule) => {
                let (problem, help) = rule.rsplit_once("; ").unwrap_or((&rule, "use another one"));
                self.wrong(problem, help)
            }
        }
    }

    /// Reads a table of whole numbers and texts, of which each has to pass a check that returns its canonical text.
    fn table(
        &self,
        what: &str,
        example: &str,
        check: impl Fn(&str, &str) -> Result<String, String>,
    ) -> Option<Value> {
        let Some(entries) = self.node.get_ref().as_table() else {
            return self.expected(&format!("a table of {what}"), Some(example));
        };
        let entries = entries.iter().map(|(key, node)| {
            let name = key.get_ref();
            let value = Reading { node, path: &format!("{}.{name}", self.path), ..*self };
            let text = match node.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) if number.radix() == 10 => number.as_str().replace('_', ""),
                _ => return value.expected("a whole number or a text", Some(example)),
            };
            let checked = value.told(check(name, &text).map(Value::from))?;
            Some((name.to_string(), checked))
        });
        // All entries are read first, because each may be wrong.
        let entries: Vec<Option<(String, Value)>> = entries.collect();
        entries.into_iter().collect::<Option<Map<_, _>>>().map(Value::Object)
    }

    /// Reads a list of `"NAME=FILE"`, as a table of files by their names.
    fn secrets(&self) -> Option<Value> {
        let example = "such as [\"tls-key=/etc/pki/cache.key\"]";
        let Some(items) = self.node.get_ref().as_array() else {
            return self.expected("a list of \"NAME=FILE\"", Some(example));
        };
        let mut files = Map::new();
        let mut are_good = true;
        for (index, node) in items.iter().enumerate() {
            let item = Reading { node, path: &format!("{}[{index}]", self.path), ..*self };
            let Some((name, file)) = item.secret(example) else {
                are_good = false;
                continue;
            };
            if files.insert(name.clone(), json!(placed(self.folder, Path::new(&file)))).is_some() {
                are_good = false;
                item.wrong::<()>(format!("a second secret {name:?}"), "give each a name of its own");
            }
        }
        are_good.then_some(Value::Object(files))
    }

    fn secret(&self, example: &str) -> Option<(String, String)> {
        let text = self.text()?;
        let Some((name, file)) =
            text.as_str().unwrap_or_default().split_once('=').filter(|(_, file)| !file.is_empty())
        else {
            return self.expected("\"NAME=FILE\"", Some(example));
        };
        self.told(check_secret(name).map(|()| Value::Null))?;
        Some((name.to_owned(), file.to_owned()))
    }

    fn list(&self, what: &str, example: &str, read: impl Fn(&Reading<'_>) -> Option<Value>) -> Option<Value> {
        let Some(items) = self.node.get_ref().as_array() else { return self.expected(what, Some(example)) };
        let items = items
            .iter()
            .enumerate()
            .map(|(index, node)| read(&Reading { node, path: &format!("{}[{index}]", self.path), ..*self }));
        // All items are read first, because each may be wrong.
        let items: Vec<Option<Value>> = items.collect();
        items.into_iter().collect()
    }

    /// Reads environment variables. `pepita run --env-file` has a line for each variable, so that neither names nor
    /// values may contain a line break.
    fn environment(&self) -> Option<Value> {
        let Some(entries) = self.node.get_ref().as_table() else {
            return self.expected("a table of texts", Some("such as { RUST_LOG = \"info\" }"));
        };
        let mut variables: Vec<Option<(String, Value)>> = Vec::new();
        for (key, node) in entries {
            let name = key.get_ref();
            let value = Reading { node, path: &format!("{}.{name}", self.path), ..*self };
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
            if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(allowed)
            {
                let problem = format!("variable {name:?} is not allowed");
                let help = "use letters, digits, '_', '.' and '-', with no digit in front".to_owned();
                self.log.wrong(key.span(), value.path, problem, Some(help));
                variables.push(None);
            }
            variables.push(match node.get_ref().as_str() {
                Some(text) if text.contains(['\n', '\r', '\0']) => {
                    value.wrong("a value has one line", "encode what has more, as with base64")
                }
                Some(text) => Some((name.to_string(), json!(text))),
                None => value.expected("a text", Some("write it in quotes")),
            });
        }
        variables.into_iter().collect::<Option<Map<_, _>>>().map(Value::Object)
    }
}

/// Describes a value in a sentence: its type, and the value itself when that is short.
pub(super) fn described(node: &Node<'_>) -> String {
    match node.get_ref() {
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

/// Returns a path as the file means it: relative paths begin at the file's folder. Leading `..` parts are resolved by
/// text alone, so that the same file is the same configuration in whichever directory the program was started.
pub(super) fn placed(folder: &Path, written: &Path) -> PathBuf {
    let mut place = folder.to_owned();
    let mut rest = written.components().peekable();
    rest.next_if_eq(&Component::CurDir);
    while rest.peek() == Some(&Component::ParentDir)
        && matches!(place.components().next_back(), Some(Component::Normal(_)))
    {
        place.pop();
        rest.next();
    }
    // An absolute path replaces the folder.
    place.extend(rest);
    if place.as_os_str().is_empty() { PathBuf::from(".") } else { place }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_the_files_folder() {
        for (folder, written, meant) in [
            ("/etc/pepita", "images/vmlinuz", "/etc/pepita/images/vmlinuz"),
            ("/etc/pepita", "./run", "/etc/pepita/run"),
            ("/etc/pepita", "../run/x", "/etc/run/x"),
            ("/etc/pepita", "/boot/vmlinuz", "/boot/vmlinuz"),
            ("/", "../x", "/../x"),
            ("", "../x", "../x"),
            ("..", "../x", "../../x"),
            ("", ".", "."),
        ] {
            let placed = placed(Path::new(folder), Path::new(written));
            assert_eq!(placed.as_os_str(), meant, "{folder} {written}");
        }
    }
}
