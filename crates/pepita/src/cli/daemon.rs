//! The options of a daemon: its command and its environment. Only definitions.

use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The daemon, and its environment.
#[derive(Debug, Default, Args)]
pub struct DaemonArgs {
    /// A variable of the daemon's environment; K alone has the value that it has here, and no process list shows it
    #[arg(long, short, value_name = "K[=V]", value_parser = variable)]
    pub env: Vec<(String, Option<String>)>,
    /// A file with one K=V per line; `-` is standard input. Keeps secrets off the command line
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// The daemon and its arguments [default: the command that the image names]
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Parses `K=V`, split at the first equals sign.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("K=V is wanted".into()),
    }
}

/// Parses `K=V`, or `K` for the variable of this process, as `docker run -e` has them.
fn variable(text: &str) -> Result<(String, Option<String>), String> {
    match text.split_once('=') {
        None if !text.is_empty() => Ok((text.to_owned(), None)),
        None | Some(_) => pair(text).map(|(key, value)| (key, Some(value))),
    }
}

/// Parses an environment file: one `K=V` per line. Empty lines and lines that begin with `#` are skipped.
///
/// # Errors
/// The number of the first line that is not of this form, and the reason.
pub fn env_file(text: &str) -> Result<BTreeMap<String, String>, (usize, String)> {
    let is_variable = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
    let lines = text.lines().enumerate().filter(|(_, line)| is_variable(line));
    lines.map(|(number, line)| pair(line).map_err(|why| (number + 1, why))).collect()
}
