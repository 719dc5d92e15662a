//! Translates the value of a key to JSON and back: one form for the fingerprint, for storing and for comparing.

use super::{
    AutoShutdown, Cid, DiskSpec, GroupName, HttpPlace, IdleAction, Jail, Network, OnExit, OnGiveUp,
    OnIntensityExceeded, OnStartFailure, OnUnhealthy, Orphans, Port, Publish, Reached, Readiness, Restart,
    ShareSpec, Signal, StartOn, Strategy, Uids, Ulimit, VmName, Vmm,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// A value of a key. `from_json` reads the result of `to_json`; a missing value is `Null`.
pub(super) trait Datum: Sized {
    fn to_json(&self) -> Value;
    fn from_json(value: &Value) -> Option<Self>;
}

/// Types whose JSON is that of serde.
macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Datum for $type {
            fn to_json(&self) -> Value {
                json!(self)
            }
            fn from_json(value: &Value) -> Option<Self> {
                serde_json::from_value(value.clone()).ok()
            }
        }
    )*};
}

/// Types that are written as a text: words and names.
macro_rules! text {
    ($($type:ty),*) => {$(
        impl Datum for $type {
            fn to_json(&self) -> Value {
                Value::String(self.to_string())
            }
            fn from_json(value: &Value) -> Option<Self> {
                value.as_str()?.parse().ok()
            }
        }
    )*};
}

plain!(bool, u16, u32, usize, f64, String, Vec<String>, BTreeSet<i32>, BTreeMap<String, String>);
plain!(BTreeMap<String, Ulimit>, Vec<DiskSpec>, Vec<ShareSpec>);
text!(VmName, GroupName);
text!(Restart, OnGiveUp, Strategy, OnIntensityExceeded, AutoShutdown, Readiness, OnStartFailure, OnUnhealthy);
text!(IdleAction, Orphans, OnExit, StartOn, Vmm, Network, Jail, Uids);

impl Datum for Duration {
    fn to_json(&self) -> Value {
        Value::String(humantime::format_duration(*self).to_string())
    }
    fn from_json(value: &Value) -> Option<Self> {
        humantime::parse_duration(value.as_str()?).ok()
    }
}

/// JSON has only Unicode: a path with other bytes, which no configuration file can hold either, loses those bytes.
impl Datum for PathBuf {
    fn to_json(&self) -> Value {
        if self.as_os_str().is_empty() { Value::Null } else { json!(self.to_string_lossy()) }
    }
    fn from_json(value: &Value) -> Option<Self> {
        if value.is_null() { Some(Self::new()) } else { Some(value.as_str()?.into()) }
    }
}

impl Datum for BTreeMap<String, PathBuf> {
    fn to_json(&self) -> Value {
        self.iter().map(|(name, path)| (name.clone(), path.to_json())).collect()
    }
    fn from_json(value: &Value) -> Option<Self> {
        let entries = value.as_object()?.iter();
        entries.map(|(name, path)| Some((name.clone(), PathBuf::from_json(path)?))).collect()
    }
}

impl<T: Datum> Datum for Option<T> {
    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_json)
    }
    fn from_json(value: &Value) -> Option<Self> {
        if value.is_null() { Some(None) } else { T::from_json(value).map(Some) }
    }
}

/// The empty text is no place, as in the file.
impl Datum for Option<HttpPlace> {
    fn to_json(&self) -> Value {
        Value::String(self.as_ref().map(HttpPlace::to_string).unwrap_or_default())
    }
    fn from_json(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "" => Some(None),
            text => text.parse().ok().map(Some),
        }
    }
}

impl Datum for Cid {
    fn to_json(&self) -> Value {
        json!(self.get())
    }
    fn from_json(value: &Value) -> Option<Self> {
        Self::new(u32::from_json(value)?).ok()
    }
}

impl Datum for Port {
    fn to_json(&self) -> Value {
        json!(self.0)
    }
    fn from_json(value: &Value) -> Option<Self> {
        u32::from_json(value).map(Self)
    }
}

impl Datum for Vec<GroupName> {
    fn to_json(&self) -> Value {
        self.iter().map(Datum::to_json).collect()
    }
    /// Leaves out texts that are no names: no group can have them, and the check of dependencies reports them.
    fn from_json(value: &Value) -> Option<Self> {
        Some(value.as_array()?.iter().filter_map(GroupName::from_json).collect())
    }
}

impl Datum for Vec<Publish> {
    fn to_json(&self) -> Value {
        self.iter().map(|publish| Value::String(publish.to_string())).collect()
    }
    fn from_json(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(|text| text.as_str()?.parse().ok()).collect()
    }
}

impl Datum for Vec<Reached> {
    fn to_json(&self) -> Value {
        self.iter().map(|reached| Value::String(reached.to_string())).collect()
    }
    fn from_json(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(|text| text.as_str()?.parse().ok()).collect()
    }
}

/// `"TERM"`, or the number of a signal that has no name.
impl Datum for Signal {
    fn to_json(&self) -> Value {
        self.to_string().strip_prefix("SIG").map_or(json!(self.number()), |name| json!(name))
    }
    fn from_json(value: &Value) -> Option<Self> {
        match value.as_i64() {
            Some(number) => Self::new(i32::try_from(number).ok()?),
            None => value.as_str()?.parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_again(seconds in 0_u64..4_000_000_000, nanos in 0_u32..1_000_000_000, signal in 1_i32..=64) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(Duration::from_json(&duration.to_json()), Some(duration));
            let signal = Signal::new(signal).expect("a signal");
            prop_assert_eq!(Signal::from_json(&signal.to_json()), Some(signal));
        }
    }
}
