//! How single values are written: words, numbers, durations, lists. Knows no key by name.

use super::table::described;
use super::words::{SIGNALS, Words, nearest};
use crate::spec::{Cid, Signal};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeArray, DeValue, ValueDeserializer};

type Value<'v> = Spanned<DeValue<'v>>;

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
pub(super) type Read<T> = Result<T, Vec<Wrong>>;

/// The longest duration that is read. Moments are sums of such, and must exist.
const LONGEST: Duration = Duration::from_secs(100 * 31_557_600);

/// A duration as `humantime` reads it.
#[derive(Deserialize)]
#[serde(transparent)]
struct RawDuration(#[serde(with = "humantime_serde")] Duration);

fn wrong<T>(value: &Value<'_>, problem: impl Into<String>, help: Option<String>) -> Read<T> {
    Err(vec![Wrong { at: value.span(), within: String::new(), problem: problem.into(), help }])
}

fn expected<T>(value: &Value<'_>, what: &str, help: Option<String>) -> Read<T> {
    wrong(value, format!("expected {what}, found {}", described(value)), help)
}

/// `true` or `false`.
pub(super) fn flag(value: &Value<'_>) -> Read<bool> {
    match value.get_ref().as_bool() {
        Some(flag) => Ok(flag),
        None => expected(value, "true or false", None),
    }
}

/// A whole number of a range.
pub(super) fn whole(range: RangeInclusive<u32>) -> impl Fn(&Value<'_>) -> Read<u32> {
    move |value| {
        let what = match range.end() {
            &u32::MAX => format!("a whole number of at least {}", range.start()),
            end => format!("a whole number from {} to {end}", range.start()),
        };
        let Some(number) = value.get_ref().as_integer() else {
            // `"512"`, `"512M"`: memory is in MiB already.
            let digits = value.get_ref().as_str().map(|text| text.trim_end_matches(['M', 'B', 'i']));
            let help = digits.filter(|digits| digits.parse::<u32>().is_ok_and(|n| range.contains(&n)));
            return expected(value, &what, help.map(|digits| format!("write {digits}, without quotes")));
        };
        match u32::from_str_radix(number.as_str(), number.radix()).ok().filter(|n| range.contains(n)) {
            Some(number) => Ok(number),
            None => wrong(value, format!("{number} is out of range"), Some(format!("use {what}"))),
        }
    }
}

/// A number of a range, with or without a point.
pub(super) fn real(range: RangeInclusive<f64>) -> impl Fn(&Value<'_>) -> Read<f64> {
    move |value| {
        let text = match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str()),
            DeValue::Float(number) => Some(number.as_str()),
            DeValue::Integer(_)
            | DeValue::String(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => None,
        };
        let what = format!("a number from {:?} to {:?}", range.start(), range.end());
        let Some(text) = text else { return expected(value, &what, None) };
        match text.parse().ok().filter(|number| range.contains(number)) {
            Some(number) => Ok(number),
            None => wrong(value, format!("{text} is out of range"), Some(format!("use {what}"))),
        }
    }
}

/// A guest's CID.
pub(super) fn cid(value: &Value<'_>) -> Read<Cid> {
    let number = whole(0..=u32::MAX)(value)?;
    let help = || Some("leave it out to be given one that is free".to_owned());
    Cid::new(number).or_else(|invalid| wrong(value, invalid.to_string(), help()))
}

/// One of a few words.
pub(super) fn word<T: Copy>(words: &'static Words<T>) -> impl Fn(&Value<'_>) -> Read<T> {
    move |value| {
        let quoted: Vec<String> = words.list.iter().map(|(word, _)| format!("{word:?}")).collect();
        let choice = format!("one of {}", quoted.join(", "));
        let Some(text) = value.get_ref().as_str() else { return expected(value, &choice, None) };
        let mut all = words.list.iter().chain(words.aliases);
        if let Some((_, meant)) = all.find(|(word, _)| *word == text) {
            return Ok(*meant);
        }
        let near = nearest(text, words.list.iter().chain(words.aliases).map(|(word, _)| *word));
        let help = match near {
            Some(near) => format!("did you mean {near:?}? {choice}"),
            None => format!("use {choice}"),
        };
        wrong(value, format!("unknown {} {text:?}", words.what), Some(help))
    }
}

/// A signal by its name or number.
pub(super) fn signal(value: &Value<'_>) -> Read<Signal> {
    let text = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => {
            return expected(value, "a signal such as \"TERM\"", None);
        }
    };
    text.parse().or_else(|_| {
        let bare = text.to_ascii_uppercase();
        let near = nearest(bare.strip_prefix("SIG").unwrap_or(&bare), SIGNALS);
        let help = match near {
            Some(near) => format!("did you mean {near:?}?"),
            None => "use a name such as \"TERM\" or a number from 1 to 64".to_owned(),
        };
        wrong(value, format!("unknown signal {text:?}"), Some(help))
    })
}

/// A duration that may be zero.
pub(super) fn duration(value: &Value<'_>) -> Read<Duration> {
    let units = "write a number and a unit, such as \"500ms\", \"30s\", \"5min\" or \"1h 30min\"";
    let text = match value.get_ref() {
        DeValue::String(text) => text,
        DeValue::Integer(number) => {
            return expected(value, "a duration", Some(format!("did you mean \"{number}s\"?")));
        }
        DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => {
            return expected(value, "a duration", Some(units.to_owned()));
        }
    };
    let too_long = || wrong(value, format!("{text:?} is too long"), Some("at most \"100years\"".to_owned()));
    // humantime 2.4 panics on sums that just miss the largest `Duration`. No such sum fits into this.
    let digits = text.split(|c: char| !c.is_ascii_digit() && !c.is_whitespace()).map(str::len).max();
    if text.len() > 64 || digits.is_some_and(|digits| digits > 10) {
        return too_long();
    }
    match RawDuration::deserialize(ValueDeserializer::from(value.clone())) {
        Ok(RawDuration(duration)) if duration <= LONGEST => Ok(duration),
        Ok(RawDuration(_)) => too_long(),
        Err(_) => wrong(value, format!("{text:?} is not a duration"), Some(units.to_owned())),
    }
}

/// A duration that is not zero.
pub(super) fn period(value: &Value<'_>) -> Read<Duration> {
    let duration = duration(value)?;
    if duration.is_zero() {
        return wrong(value, "must be longer than zero", Some("such as \"1s\"".to_owned()));
    }
    Ok(duration)
}

/// A text that becomes something with a rule of its own: a name.
pub(super) fn name<T: FromStr<Err: std::fmt::Display>>(value: &Value<'_>) -> Read<T> {
    let Some(text) = value.get_ref().as_str() else { return expected(value, "a name", None) };
    text.parse().or_else(|error: T::Err| {
        let rule = error.to_string();
        // The rule's sentence says both: what is wrong, and what would be right.
        match rule.rsplit_once(": ") {
            Some((problem, help)) => wrong(value, problem, Some(help.to_owned())),
            None => wrong(value, rule, None),
        }
    })
}

/// A path.
pub(super) fn path(value: &Value<'_>) -> Read<PathBuf> {
    let text = argument(value)?;
    if text.is_empty() {
        return wrong(value, "the path is empty", Some("leave the key out if there is none".to_owned()));
    }
    Ok(PathBuf::from(text))
}

/// A text that the operating system takes.
fn argument(value: &Value<'_>) -> Read<String> {
    match value.get_ref().as_str() {
        Some(text) if text.contains('\0') => wrong(value, "a NUL byte cannot be passed on", None),
        Some(text) => Ok(text.to_owned()),
        None => expected(value, "a text", None),
    }
}

/// A program and its arguments; an empty list is none.
pub(super) fn command(value: &Value<'_>) -> Read<Vec<String>> {
    let example = || Some("such as [\"/usr/bin/api\", \"--port\", \"80\"]".to_owned());
    let Some(items) = value.get_ref().as_array() else {
        return expected(value, "a list of texts", example());
    };
    let words = list(items, argument)?;
    if words.first().is_some_and(String::is_empty) {
        return wrong(value, "the program has no name", example());
    }
    Ok(words)
}

/// Exit codes.
pub(super) fn codes(value: &Value<'_>) -> Read<BTreeSet<i32>> {
    let Some(items) = value.get_ref().as_array() else {
        return expected(value, "a list of exit codes", Some("such as [0, 3]".to_owned()));
    };
    let code = |value: &Value<'_>| Ok(i32::try_from(whole(0..=255)(value)?).unwrap_or_default());
    Ok(list(items, code)?.into_iter().collect())
}

/// Texts, and where each of them stands.
pub(super) fn places(value: &Value<'_>) -> Read<Vec<(String, Range<usize>)>> {
    let Some(items) = value.get_ref().as_array() else {
        return expected(value, "a list of names", Some("such as [\"storage\"]".to_owned()));
    };
    list(items, |item| Ok((argument(item)?, item.span())))
}

fn list<T>(items: &DeArray<'_>, read: impl Fn(&Value<'_>) -> Read<T>) -> Read<Vec<T>> {
    let (mut good, mut wrong) = (Vec::new(), Vec::new());
    for (index, item) in items.iter().enumerate() {
        match read(item) {
            Ok(value) => good.push(value),
            Err(more) => wrong.extend(more.into_iter().map(|w| Wrong { within: format!("[{index}]"), ..w })),
        }
    }
    if wrong.is_empty() { Ok(good) } else { Err(wrong) }
}

/// Environment variables. They reach the launcher a line each, so neither names nor values may break one.
pub(super) fn environment(value: &Value<'_>) -> Read<BTreeMap<String, String>> {
    let Some(entries) = value.get_ref().as_table() else {
        return expected(value, "a table of texts", Some("such as { RUST_LOG = \"info\" }".to_owned()));
    };
    let (mut good, mut wrongs) = (BTreeMap::new(), Vec::new());
    for (key, value) in entries {
        let name = key.get_ref();
        let mut note = |at, problem: String, help: &str| {
            wrongs.push(Wrong { at, within: format!(".{name}"), problem, help: Some(help.to_owned()) });
        };
        let lawful = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(lawful) {
            let help = "use letters, digits, '_', '.' and '-', with no digit in front";
            note(key.span(), format!("variable {name:?} is not allowed"), help);
        }
        match value.get_ref().as_str() {
            Some(text) if text.contains(['\n', '\r', '\0']) => {
                note(value.span(), "a value has one line".to_owned(), "encode what has more, as with base64");
            }
            Some(text) => drop(good.insert(name.to_string(), text.to_owned())),
            None => {
                let problem = format!("expected a text, found {}", described(value));
                note(value.span(), problem, "write it in quotes");
            }
        }
    }
    if wrongs.is_empty() { Ok(good) } else { Err(wrongs) }
}
