//! Finds the credentials for a registry where `docker login` has left them: in `config.json`, or with a credential
//! helper that the file names.

use crate::error::{Result, error, io, shown};
use pepita_wire::record::CallErrorKind;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The largest configuration, and answer of a helper, in bytes.
const CAP: u64 = 1 << 20;

/// The registry of images without a registry in their name, and the names that docker has for it.
const HUB: [&str; 4] = ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];
/// The name of that registry for credential helpers.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// A user and the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password, or a token.
    pub secret: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Config {
    auths: BTreeMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Returns the credentials for a registry, if there are any.
///
/// # Errors
/// When docker's configuration is there and cannot be read.
pub fn of(registry: &str) -> Result<Option<Credentials>> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")));
    let Some(path) = dir.map(|dir| dir.join("config.json")) else { return Ok(None) };
    let mut text = String::new();
    match std::fs::File::open(&path).and_then(|file| file.take(CAP).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(&path, e)),
    }
    let config: Config = serde_json::from_str(&text)
        .map_err(|e| error(CallErrorKind::Usage, format!("{}: {}", path.display(), shown(&e.to_string()))))?;
    let key = if HUB.contains(&registry) { HUB_KEY } else { registry };
    let helper =
        config.cred_helpers.iter().find(|(name, _)| is_same(name, registry)).map(|(_, helper)| helper);
    let of_file = stored(&config, registry);
    match helper.or(config.creds_store.as_ref()) {
        Some(helper) => Ok(ask(helper, key, &path)?.or(of_file)),
        None => Ok(of_file),
    }
}

/// Returns whether a key of the configuration means a registry. Keys may be URLs.
fn is_same(key: &str, registry: &str) -> bool {
    let host = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = host.split('/').next().unwrap_or_default();
    host == registry || HUB.contains(&host) && HUB.contains(&registry)
}

pub(crate) fn stored(config: &Config, registry: &str) -> Option<Credentials> {
    let (_, auth) = config.auths.iter().find(|(key, _)| is_same(key, registry))?;
    let decoded = auth.auth.as_deref().and_then(base64).and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded
        .and_then(|text| text.split_once(':').map(|(user, secret)| (user.to_owned(), secret.to_owned())));
    let (user, secret) = decoded.or_else(|| Some((auth.username.clone()?, auth.password.clone()?)))?;
    Some(Credentials { user, secret: secret.trim_end_matches('\0').to_owned() })
}

/// Asks a credential helper (docker-credential-helpers: the registry on standard input, JSON on standard output).
fn ask(helper: &str, key: &str, config: &Path) -> Result<Option<Credentials>> {
    let program = format!("docker-credential-{helper}");
    let failed = |why: String| {
        error(CallErrorKind::Permission, format!("{}: {program}: {}", config.display(), shown(&why)))
    };
    if !helper.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        return Err(failed("no name of a credential helper".into()));
    }
    let child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(key.as_bytes());
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(CAP).read_to_end(&mut answer).map_err(|e| failed(e.to_string()))?;
    }
    // A helper that has no credentials for a registry fails.
    if !child.wait().map_err(|e| failed(e.to_string()))?.success() {
        return Ok(None);
    }
    let answer: Answer =
        serde_json::from_slice(&answer).map_err(|_| failed("its answer cannot be read".into()))?;
    Ok(Some(Credentials { user: answer.username, secret: answer.secret }))
}

/// Decodes base64 (RFC 4648).
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_login_leaves_is_found_by_the_registry() {
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YTpiOmM="},"localhost:5000":{"auth":"dTpw"},
            "plain.example":{"username":"u","password":"x"},"empty.example":{}},"unknown":1}"#;
        let config: Config = serde_json::from_str(text).expect("a configuration");
        let of = |registry| stored(&config, registry).map(|found| format!("{}/{}", found.user, found.secret));
        assert_eq!(of("index.docker.io").as_deref(), Some("a/b:c"));
        assert_eq!(of("localhost:5000").as_deref(), Some("u/p"));
        assert_eq!(of("plain.example").as_deref(), Some("u/x"));
        assert_eq!((of("localhost"), of("empty.example"), of("evil.example")), (None, None, None));
    }

    #[test]
    fn base64_is_decoded() {
        for (text, bytes) in
            [("", &b""[..]), ("Zg==", b"f"), ("Zm8=", b"fo"), ("Zm9v", b"foo"), ("Zm9vYg", b"foob")]
        {
            assert_eq!(base64(text).as_deref(), Some(bytes));
        }
        assert_eq!(base64("a b"), None);
    }
}
