//! The messages about a command line that cannot be parsed.

use super::output::{print_error, written};
use crate::cli::here;
use crate::error::call_error;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use pepita_wire::record::CallErrorKind;
use std::io::Write;
use std::process::ExitCode;

/// Prints clap's message and returns the exit code. A request for help is no error.
pub(super) fn usage_error(error: &clap::Error) -> ExitCode {
    // No options were parsed, so `--json` is searched for among the arguments.
    let json = || std::env::args_os().any(|arg| arg == "--json");
    if !error.use_stderr() {
        return match written(error.print().and_then(|()| std::io::stdout().flush())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                print_error(&e, json());
                ExitCode::from(e.kind.exit_code())
            }
        };
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Standard error may take nothing, and there is no other place to say so.
        let _ = error.print();
    } else {
        let call = std::env::args().skip(1).find(|word| word == "run");
        let line = with_advice(error, call.as_deref());
        print_error(&call_error(CallErrorKind::Usage, line), json());
    }
    ExitCode::from(CallErrorKind::Usage.exit_code())
}

/// Returns the error in one line, with what is meant here by words that docker has.
fn with_advice(error: &clap::Error, call: Option<&str>) -> String {
    let unknown = match error.kind() {
        ErrorKind::InvalidSubcommand => (None, error.get(ContextKind::InvalidSubcommand)),
        ErrorKind::UnknownArgument => (call, error.get(ContextKind::InvalidArg)),
        _ => (None, None),
    };
    let advice = match unknown {
        (call, Some(ContextValue::String(word))) => here(call, word),
        (_, _) => None,
    };
    match advice {
        Some(advice) => {
            let text = error.to_string();
            let first = text.split("\n\n").next().unwrap_or_default();
            format!("{}; {advice}", one_line(first).trim_end_matches("; see --help"))
        }
        None => one_line(&error.to_string()),
    }
}

/// Joins the paragraphs of clap's text to one line, without the usage, which `--help` prints.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let words = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let all = text.split("\n\n").map(words);
    let said = all.take_while(|p| !p.starts_with("Usage:") && !p.starts_with("For more information"));
    said.chain(["see --help".to_owned()]).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn what_docker_has_is_told_by_its_name_here() {
        for (args, call, said) in [
            (&["ps"][..], None, "unrecognized subcommand 'ps'; `pepita list` lists the VMs"),
            (
                &["run", "-it", "redis:7"],
                Some("run"),
                "unexpected argument '-i' found; a daemon has no terminal",
            ),
            (
                &["run", "redis:7", "redis-server", "--port", "7"],
                Some("run"),
                "unexpected argument 'redis-server' found; the daemon's command stands after --: \
                 pepita run IMAGE -- redis-server",
            ),
        ] {
            let error = Cli::try_parse_from(std::iter::once(&"pepita").chain(args)).expect_err("of docker");
            let line = with_advice(&error, call);
            assert!(line.starts_with(said) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_mistake_is_told_in_one_line_with_what_was_meant() {
        for (args, said) in [
            (
                &["signal"][..],
                "the following required arguments were not provided: <--name <NAME>|NAME>; see --help",
            ),
            (
                &["run", "--nam", "a"],
                "unexpected argument '--nam' found; tip: a similar argument exists: '--name'",
            ),
            (
                &["run", "--cpus", "0"],
                "invalid value '0' for '--cpus <CPUS>': 0 is not in 1..=288; see --help",
            ),
        ] {
            let error = Cli::try_parse_from(std::iter::once(&"pepita").chain(args)).expect_err("mistyped");
            let line = one_line(&error.to_string());
            assert!(line.starts_with(said) && !line.contains('\n'), "{line}");
        }
    }
}
