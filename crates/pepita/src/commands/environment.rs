//! Texts that a command reads: environment files and launch specifications, from a file or from standard input.

use crate::cli::{DaemonArgs, env_file};
use crate::error::{Result, call_error, io};
use pepita_wire::LaunchSpec;
use pepita_wire::record::CallErrorKind;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The maximum size of such a text, in bytes.
const CAP: u64 = 4 << 20;

/// Returns the daemon's environment: the file's variables, then the options'.
pub(super) fn environment(daemon: &DaemonArgs) -> Result<BTreeMap<String, String>> {
    let of_file = daemon.env_file.as_deref().map(environment_file).transpose()?;
    let mut env = of_file.unwrap_or_default();
    for (key, value) in &daemon.env {
        let value = match value {
            Some(value) => value.clone(),
            None => std::env::var(key).map_err(|_| {
                let why = format!("--env {key}: there is no such variable here; write {key}=VALUE");
                call_error(CallErrorKind::Usage, why)
            })?,
        };
        env.insert(key.clone(), value);
    }
    Ok(env)
}

/// Reads an environment file. Its lines may be secrets, so the error of a bad line has only its number.
pub(super) fn environment_file(path: &Path) -> Result<BTreeMap<String, String>> {
    env_file(&read_text(path)?)
        .map_err(|(line, why)| call_error(CallErrorKind::Usage, format!("{}:{line}: {why}", path.display())))
}

/// Reads a launch specification. A field that this launcher does not know is refused, because the launcher would start
/// a VM without the property that the field asks for.
pub(super) fn launch_spec(path: &Path) -> Result<LaunchSpec> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|e| {
        let from = if path == Path::new("-") { "--spec -".to_owned() } else { path.display().to_string() };
        call_error(CallErrorKind::Usage, format!("{from}: {e}"))
    })
}

/// Reads a file; `-` is standard input.
fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().take(CAP + 1).read_to_string(&mut text),
        false => File::open(path).and_then(|file| file.take(CAP + 1).read_to_string(&mut text)),
    };
    match read.map_err(|e| io(path, e))? {
        // A truncated text is refused: the rest of it could change its meaning.
        read if read as u64 > CAP => {
            Err(call_error(CallErrorKind::Usage, format!("{}: longer than 4 MiB", path.display())))
        }
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_without_a_value_has_the_value_that_it_has_here() {
        let of = |key: &str, value: Option<&str>| {
            let env = vec![(key.to_owned(), value.map(str::to_owned))];
            environment(&DaemonArgs { env, ..DaemonArgs::default() })
        };
        let path = std::env::var("PATH").expect("set for tests");
        assert_eq!(of("PATH", None).expect("set"), [("PATH".to_owned(), path)].into());
        assert_eq!(of("PATH", Some("")).expect("given"), [("PATH".to_owned(), String::new())].into());
        let e = of("PEPITA_NO_SUCH_VARIABLE", None).expect_err("not set");
        assert!(e.message.starts_with("--env PEPITA_NO_SUCH_VARIABLE"), "{}", e.message);
    }
}
