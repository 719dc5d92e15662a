//! The world of a daemon: what a guest is to give it beside its command and its environment, and the rule for each of
//! these values.
//!
//! An absent value leaves the decision to the image, and then to the guest agent.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The world of a daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct World {
    /// The guest's name for itself; absent = the name of the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The user of the daemon: a name or a number of the image, and with a colon its group; absent = root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The working directory of the daemon; absent = `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Limits of the daemon (setrlimit(2)), by their names in [`ULIMITS`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Settings of the guest's kernel (sysctl(8)).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Whether the root file system is read-only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Whether the daemon has every capability, and may gain privileges.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// The contents of the files in `/run/secrets`, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Secret>,
}

impl World {
    /// Returns whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the values that are asked for, by the names of their keys.
    pub fn asked(&self) -> Vec<&'static str> {
        let Self { hostname, user, workdir, ulimits, sysctls, read_only, privileged, secrets } = self;
        let all = [
            ("hostname", hostname.is_some()),
            ("user", user.is_some()),
            ("workdir", workdir.is_some()),
            ("ulimits", !ulimits.is_empty()),
            ("sysctls", !sysctls.is_empty()),
            ("read_only", *read_only),
            ("privileged", *privileged),
            ("secrets", !secrets.is_empty()),
        ];
        all.into_iter().filter(|(_, is_asked)| *is_asked).map(|(name, _)| name).collect()
    }
}

/// The values that a plain process of the host can have, too (`--vmm process`).
pub const ON_HOST: [&str; 2] = ["workdir", "ulimits"];

/// The reason why a plain process has none of the other values.
pub const NOT_ON_HOST: &str = "a plain process (vmm = \"process\") has the world of the host and of the user who \
                               starts it; only a VM can give this to a daemon";

/// The names of limits, as `docker run --ulimit` has them.
pub const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// A limit: the value that holds, and the value up to which a process may raise its own. `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ulimit {
    /// The limit that holds.
    pub soft: Option<u64>,
    /// The limit of the soft limit.
    pub hard: Option<u64>,
}

/// The word for a limit that is none.
const UNLIMITED: &str = "unlimited";

impl FromStr for Ulimit {
    type Err = String;

    /// Reads `SOFT:HARD`, or one value for both. A value is a number or `unlimited`; `-1` is unlimited, too.
    fn from_str(text: &str) -> Result<Self, String> {
        let value = |word: &str| match word {
            UNLIMITED | "-1" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| {
                format!(
                    "{word:?} is no limit; use a number or {UNLIMITED:?}, or two of them as in \"1024:4096\""
                )
            }),
        };
        let (soft, hard) = text.split_once(':').unwrap_or((text, text));
        let (soft, hard) = (value(soft)?, value(hard)?);
        // No number is more than unlimited.
        if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
            return Err(format!("{text:?}: the first limit is above the second, which is its upper bound"));
        }
        Ok(Self { soft, hard })
    }
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |value: Option<u64>| value.map_or(UNLIMITED.to_owned(), |value| value.to_string());
        match self.soft == self.hard {
            true => f.write_str(&word(self.soft)),
            false => write!(f, "{}:{}", word(self.soft), word(self.hard)),
        }
    }
}

impl TryFrom<String> for Ulimit {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Ulimit> for String {
    fn from(limit: Ulimit) -> Self {
        limit.to_string()
    }
}

/// The contents of a secret file. `Debug` does not show them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// Hexadecimal digits: JSON has no bytes.
impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        const DIGITS: [char; 16] =
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        secret.0.iter().flat_map(digits).collect()
    }
}

impl TryFrom<String> for Secret {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        let pairs = text.as_bytes().chunks(2).map(|pair| {
            let digits = std::str::from_utf8(pair).ok().filter(|_| pair.len() == 2)?;
            u8::from_str_radix(digits, 16).ok()
        });
        pairs.collect::<Option<_>>().map(Self).ok_or("a secret is written in pairs of hexadecimal digits")
    }
}

/// The bytes that all secrets of a VM may have together: they are written twice as long, in one request.
pub const SECRETS_CAP: usize = 64 * 1024;

/// The longest name that a kernel accepts for itself (`__NEW_UTS_LEN`).
const HOSTNAME_CAP: usize = 64;

/// Checks the name of a guest: labels of letters, digits and hyphens, with points between them (RFC 1123).
///
/// # Errors
/// A sentence that names the mistake.
pub fn check_hostname(name: &str) -> Result<(), String> {
    let is_label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        !label.is_empty() && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    match name.len() <= HOSTNAME_CAP && name.split('.').all(is_label) {
        true => Ok(()),
        false => Err(format!(
            "{name:?} is no host name; use up to {HOSTNAME_CAP} letters, digits, '-' and '.', such as \"cache-1\""
        )),
    }
}

/// Checks a user: `NAME` or `UID`, and with a colon the group's name or number.
///
/// # Errors
/// A sentence that names the mistake.
pub fn check_user(user: &str) -> Result<(), String> {
    let is_good = |part: &str| {
        let is_allowed = |c: char| !c.is_control() && !c.is_whitespace() && c != '/';
        let is_number = part.bytes().all(|b| b.is_ascii_digit());
        !part.is_empty()
            && part.chars().all(is_allowed)
            && (!is_number || part.parse::<u32>().is_ok_and(|number| number < u32::MAX))
    };
    let parts: Vec<&str> = user.split(':').collect();
    match parts.len() <= 2 && parts.iter().all(|part| is_good(part)) {
        true => Ok(()),
        false => Err(format!(
            "{user:?} is no user; use a name or number of the image, such as \"redis\", \"101\" or \"101:102\""
        )),
    }
}

/// Checks a working directory.
///
/// # Errors
/// A sentence that names the mistake.
pub fn check_workdir(directory: &str) -> Result<(), String> {
    match directory.starts_with('/') && !directory.contains('\0') {
        true => Ok(()),
        false => Err(format!("{directory:?} is no directory of a guest; use a path that begins with '/'")),
    }
}

/// Checks the name of a limit.
///
/// # Errors
/// A sentence that names the mistake.
pub fn check_ulimit(name: &str) -> Result<(), String> {
    match ULIMITS.contains(&name) {
        true => Ok(()),
        false => Err(format!("{name:?} is no limit; use one of {}", ULIMITS.join(", "))),
    }
}

/// Checks a setting of the kernel: a name such as `vm.overcommit_memory`, and a value of one line.
///
/// # Errors
/// A sentence that names the mistake.
pub fn check_sysctl(name: &str, value: &str) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '@');
    let is_part = |part: &str| !part.is_empty() && part.chars().all(is_allowed);
    if !name.split(['.', '/']).all(is_part) || !name.contains(['.', '/']) {
        return Err(format!(
            "{name:?} is no setting of the kernel; use a name such as \"vm.overcommit_memory\""
        ));
    }
    match value.contains(['\n', '\r', '\0']) {
        true => Err(format!("{name}: a value has one line")),
        false => Ok(()),
    }
}

/// Returns the file of a setting of the kernel, below `/proc/sys`. As for sysctl(8), the first separator of a name decides
/// which of both is the separator: `net.ipv4.conf.eth0/1.forwarding` and `net/ipv4/conf/eth0.1/forwarding` are the same.
pub fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']).map(|at| &name[at..=at]) {
        Some(".") => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        Some(_) | None => name.to_owned(),
    }
}

/// Checks the name of a secret, which is the name of a file.
///
/// # Errors
/// A sentence that names the mistake.
pub fn check_secret(name: &str) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.chars().all(is_allowed) {
        true => Ok(()),
        false => Err(format!(
            "{name:?} is no name of a secret; use letters, digits, '_', '-' and '.', with no '.' in front"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_limit_is_one_value_or_two() {
        let limit = |text: &str| text.parse::<Ulimit>().map(|limit| (limit.soft, limit.hard));
        assert_eq!(limit("1024:4096"), Ok((Some(1024), Some(4096))));
        assert_eq!(limit("7"), Ok((Some(7), Some(7))));
        assert_eq!(limit("0:unlimited"), Ok((Some(0), None)));
        assert_eq!(limit("-1"), Ok((None, None)));
        for text in ["", "many", "1:2:3", "2:1", "unlimited:1", "-2", "1:"] {
            assert!(limit(text).is_err(), "{text}");
        }
        for text in ["7", "1:2", "unlimited", "1:unlimited"] {
            assert_eq!(text.parse::<Ulimit>().expect("good").to_string(), text);
        }
    }

    #[test]
    fn a_value_that_no_guest_can_have_is_refused() {
        for (check, good, bad) in [
            (
                check_hostname as fn(&str) -> Result<(), String>,
                &["cache", "Cache-1.example"][..],
                &["", "a_b", "-a", "a.", "a b", &"x".repeat(65)][..],
            ),
            (
                check_user,
                &["redis", "0", "101:102", "redis:ssl-cert", "a.b"],
                &["", ":", "a:", ":b", "a:b:c", "a b", "4294967295", "1:99999999999", "a/b"],
            ),
            (check_workdir, &["/", "/data/x y"], &["", "data", "/a\0"]),
            (check_ulimit, &["nofile"], &["", "files"]),
            (check_secret, &["tls-key", "a.b_c"], &["", ".", "..", "a/b", "a=b", "a b"]),
            (
                |name| check_sysctl(name, "1"),
                &["vm.overcommit_memory", "net/core/somaxconn", "net.ipv4.conf.eth0/1.forwarding"],
                &["", "vm", "vm..x", "../x", "vm.x y", "/vm/x", "vm.x."],
            ),
        ] {
            for text in good {
                assert_eq!(check(text), Ok(()), "{text}");
            }
            for text in bad {
                assert!(check(text).is_err(), "{text}");
            }
        }
        assert!(check_sysctl("vm.x", "1\n2").is_err());
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }

    #[test]
    fn what_was_not_asked_for_is_not_written() {
        let world = World::default();
        assert_eq!(serde_json::to_string(&world).expect("JSON"), "{}");
        assert_eq!(world.asked(), [] as [&str; 0]);
        let world = World { read_only: true, user: Some("redis".into()), ..world };
        assert_eq!(world.asked(), ["user", "read_only"]);
        assert!(serde_json::from_str::<World>(r#"{"ulimits":{"nofile":"2:1"}}"#).is_err());
    }

    proptest! {
        #[test]
        fn secrets_are_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = String::from(Secret(bytes.clone()));
            prop_assert_eq!(Secret::try_from(text), Ok(Secret(bytes)));
        }

        #[test]
        fn a_good_setting_of_the_kernel_stays_below_its_folder(name in ".{0,30}") {
            if check_sysctl(&name, "").is_ok() {
                let path = sysctl_path(&name);
                prop_assert!(!path.starts_with('/') && !path.split('/').any(|part| part == ".." || part.is_empty()), "{}", path);
            }
        }
    }
}
