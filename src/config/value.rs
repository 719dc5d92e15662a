//! Reads single values: words, numbers, durations, lists. Knows the kinds of keys, and no key.
//!
//! A good value comes back as JSON, in the form in which the rows of `spec::keys` set it.

use super::keywords::{SIGNALS, nearest};
use crate::spec::keys::{Kind, Words};
use crate::spec::{Cid, GroupName, Signal, VmName};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Display;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

/// A value as it is written.
pub(super) type Node<'t> = Spanned<DeValue<'t>>;

/// What is wrong with a value, or with a part of it.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) at: Range<usize>,
    /// The way from the value to the part: `[1]`, `.PATH`; empty for the value itself.
    pub(super) within: String,
    pub(super) problem: String,
    pub(super) help: Option<String>,
}

/// A value, or all that is wrong with it.
type Read = Result<Value, Vec<Wrong>>;

/// The longest duration that is read. Moments are sums of such durations, and must exist.
const LONGEST: Duration = Duration::from_secs(100 * 31_557_600);

/// Reads a value of a kind. Relative paths begin at `folder`.
pub(super) fn read(kind: Kind, node: &Node<'_>, folder: &Path) -> Read {
    match kind {
        Kind::Flag => match node.get_ref().as_bool() {
            Some(flag) => Ok(json!(flag)),
            None => expected(node, "true or false", None),
        },
        Kind::Whole(min, max) => whole(node, min, max).map(Value::from),
        Kind::Real(min, max) => real(node, min, max),
        Kind::Duration => duration(node).map(length),
        Kind::Period => match duration(node)? {
            Duration::ZERO => wrong(node, "must be longer than zero", Some("such as \"1s\"".to_owned())),
            duration => Ok(length(duration)),
        },
        Kind::Word(words) => word(node, words),
        Kind::Name(VmName::CAP) => name::<VmName>(node),
        Kind::Name(_) => name::<GroupName>(node),
        Kind::Names => list(node, "a list of names", "such as [\"storage\"]", text),
        Kind::Path => path(node, |path| placed(folder, path)),
        // A bare name is looked for later; anything else is a path.
        Kind::Program => path(node, |path| match path.components().count() {
            0 | 1 => path.to_owned(),
            _ => placed(folder, path),
        }),
        Kind::Command => command(node),
        Kind::ExitCodes => {
            list(node, "a list of exit codes", "such as [0, 3]", |item| whole(item, 0, 255).map(Value::from))
        }
        Kind::Environment => environment(node),
        Kind::Cid => {
            let help = || Some("leave it out to be given one that is free".to_owned());
            let cid = Cid::new(whole(node, 0, u32::MAX)?);
            cid.map(|cid| json!(cid.get())).or_else(|invalid| wrong(node, invalid.to_string(), help()))
        }
        Kind::Signal => signal(node),
    }
}

fn wrong<T>(node: &Node<'_>, problem: impl Into<String>, help: Option<String>) -> Result<T, Vec<Wrong>> {
    Err(vec![Wrong { at: node.span(), within: String::new(), problem: problem.into(), help }])
}

fn expected<T>(node: &Node<'_>, what: &str, help: Option<String>) -> Result<T, Vec<Wrong>> {
    wrong(node, format!("expected {what}, found {}", described(node)), help)
}

/// Returns a value in a sentence: its type, and the value itself when that is short.
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

fn whole(node: &Node<'_>, min: u32, max: u32) -> Result<u32, Vec<Wrong>> {
    let fits = |number: &u32| (min..=max).contains(number);
    let what = match max {
        u32::MAX => format!("a whole number of at least {min}"),
        max => format!("a whole number from {min} to {max}"),
    };
    let Some(number) = node.get_ref().as_integer() else {
        // `"512"`, `"512M"`: memory is in MiB already.
        let digits = node.get_ref().as_str().map(|text| text.trim_end_matches(['M', 'B', 'i']));
        let help = digits.filter(|digits| digits.parse().is_ok_and(|number| fits(&number)));
        return expected(node, &what, help.map(|digits| format!("write {digits}, without quotes")));
    };
    match u32::from_str_radix(number.as_str(), number.radix()).ok().filter(fits) {
        Some(number) => Ok(number),
        None => wrong(node, format!("{number} is out of range"), Some(format!("use {what}"))),
    }
}

fn real(node: &Node<'_>, min: f64, max: f64) -> Read {
    let what = format!("a number from {min:?} to {max:?}");
    let text = match node.get_ref() {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::Float(number) => number.as_str(),
        _ => return expected(node, &what, None),
    };
    match text.parse().ok().filter(|number: &f64| (min..=max).contains(number)) {
        Some(number) => Ok(json!(number)),
        None => wrong(node, format!("{text} is out of range"), Some(format!("use {what}"))),
    }
}

fn word(node: &Node<'_>, words: &Words) -> Read {
    let quoted: Vec<String> = words.list.iter().map(|word| format!("{word:?}")).collect();
    let choice = format!("one of {}", quoted.join(", "));
    let Some(text) = node.get_ref().as_str() else { return expected(node, &choice, None) };
    let meant = words.aliases.iter().find(|(alias, _)| *alias == text).map_or(text, |(_, word)| word);
    if words.list.contains(&meant) {
        return Ok(json!(meant));
    }
    let all = words.list.iter().copied().chain(words.aliases.iter().map(|(alias, _)| *alias));
    let help = match nearest(text, all) {
        Some(near) => format!("did you mean {near:?}? {choice}"),
        None => format!("use {choice}"),
    };
    wrong(node, format!("unknown {} {text:?}", words.what), Some(help))
}

fn signal(node: &Node<'_>) -> Read {
    let text = match node.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        _ => return expected(node, "a signal such as \"TERM\"", None),
    };
    if text.parse::<Signal>().is_ok() {
        return Ok(json!(text));
    }
    let bare = text.to_ascii_uppercase();
    let help = match nearest(bare.strip_prefix("SIG").unwrap_or(&bare), SIGNALS) {
        Some(near) => format!("did you mean {near:?}?"),
        None => "use a name such as \"TERM\" or a number from 1 to 64".to_owned(),
    };
    wrong(node, format!("unknown signal {text:?}"), Some(help))
}

/// A duration as `humantime` reads it.
#[derive(Deserialize)]
#[serde(transparent)]
struct RawDuration(#[serde(with = "humantime_serde")] Duration);

fn duration(node: &Node<'_>) -> Result<Duration, Vec<Wrong>> {
    let units =
        || Some("write a number and a unit, such as \"500ms\", \"30s\", \"5min\" or \"1h 30min\"".to_owned());
    let text = match node.get_ref() {
        DeValue::String(text) => text,
        DeValue::Integer(number) => {
            return expected(node, "a duration", Some(format!("did you mean \"{number}s\"?")));
        }
        _ => return expected(node, "a duration", units()),
    };
    let too_long = || wrong(node, format!("{text:?} is too long"), Some("at most \"100years\"".to_owned()));
    // humantime 2.4 panics on sums that just miss the largest `Duration`. No such sum fits into this.
    let digits = text.split(|c: char| !c.is_ascii_digit() && !c.is_whitespace()).map(str::len).max();
    if text.len() > 64 || digits.is_some_and(|digits| digits > 10) {
        return too_long();
    }
    match RawDuration::deserialize(ValueDeserializer::from(node.clone())) {
        Ok(RawDuration(duration)) if duration <= LONGEST => Ok(duration),
        Ok(RawDuration(_)) => too_long(),
        Err(_) => wrong(node, format!("{text:?} is not a duration"), units()),
    }
}

fn length(duration: Duration) -> Value {
    json!(humantime::format_duration(duration).to_string())
}

fn name<T: std::str::FromStr<Err: Display>>(node: &Node<'_>) -> Read {
    let Some(text) = node.get_ref().as_str() else { return expected(node, "a name", None) };
    let Err(error) = text.parse::<T>() else { return Ok(json!(text)) };
    let rule = error.to_string();
    // The rule's sentence says both: what is wrong, and what would be right.
    match rule.rsplit_once(": ") {
        Some((problem, help)) => wrong(node, problem, Some(help.to_owned())),
        None => wrong(node, rule, None),
    }
}

fn path(node: &Node<'_>, place: impl Fn(&Path) -> PathBuf) -> Read {
    let text = text(node)?;
    match text.as_str() {
        Some("") => wrong(node, "the path is empty", Some("leave the key out if there is none".to_owned())),
        written => Ok(json!(place(Path::new(written.unwrap_or_default())).to_string_lossy())),
    }
}

/// Reads a text that the operating system takes.
fn text(node: &Node<'_>) -> Read {
    match node.get_ref().as_str() {
        Some(text) if text.contains('\0') => wrong(node, "a NUL byte cannot be passed on", None),
        Some(text) => Ok(json!(text)),
        None => expected(node, "a text", None),
    }
}

/// Reads a program and its arguments; an empty list is no program.
fn command(node: &Node<'_>) -> Read {
    let example = "such as [\"/usr/bin/api\", \"--port\", \"80\"]";
    let words = list(node, "a list of texts", example, text)?;
    match words.get(0) {
        Some(Value::String(program)) if program.is_empty() => {
            wrong(node, "the program has no name", Some(example.to_owned()))
        }
        _ => Ok(words),
    }
}

fn list(node: &Node<'_>, what: &str, example: &str, read: impl Fn(&Node<'_>) -> Read) -> Read {
    let Some(items) = node.get_ref().as_array() else {
        return expected(node, what, Some(example.to_owned()));
    };
    let (mut good, mut wrongs) = (Vec::new(), Vec::new());
    for (index, item) in items.iter().enumerate() {
        match read(item) {
            Ok(value) => good.push(value),
            Err(more) => wrongs.extend(more.into_iter().map(|w| Wrong { within: format!("[{index}]"), ..w })),
        }
    }
    if wrongs.is_empty() { Ok(Value::Array(good)) } else { Err(wrongs) }
}

/// Reads environment variables. `pepita run --env-file` has a line for each, so neither names nor values may break one.
fn environment(node: &Node<'_>) -> Read {
    let Some(entries) = node.get_ref().as_table() else {
        return expected(node, "a table of texts", Some("such as { RUST_LOG = \"info\" }".to_owned()));
    };
    let (mut good, mut wrongs) = (serde_json::Map::new(), Vec::new());
    for (key, value) in entries {
        let name = key.get_ref();
        let mut note = |at, problem: String, help: &str| {
            wrongs.push(Wrong { at, within: format!(".{name}"), problem, help: Some(help.to_owned()) });
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(allowed) {
            let help = "use letters, digits, '_', '.' and '-', with no digit in front";
            note(key.span(), format!("variable {name:?} is not allowed"), help);
        }
        match value.get_ref().as_str() {
            Some(text) if text.contains(['\n', '\r', '\0']) => {
                note(value.span(), "a value has one line".to_owned(), "encode what has more, as with base64");
            }
            Some(text) => drop(good.insert(name.to_string(), json!(text))),
            None => note(
                value.span(),
                format!("expected a text, found {}", described(value)),
                "write it in quotes",
            ),
        }
    }
    if wrongs.is_empty() { Ok(Value::Object(good)) } else { Err(wrongs) }
}

/// Returns a path as the file means it: relative ones begin at the file's folder. Steps up at its start are taken in
/// words, so that the same file is the same configuration from whichever directory the program was started.
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
